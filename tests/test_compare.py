"""Results beside each other: what differs, and whether their accuracies do."""

import copy
import json
import math
import pathlib

import pytest
from scipy import stats

import experiments
from experiments import compare, record

FOLDER = pathlib.Path(experiments.__file__).parent / "results" / "digits_digits_m"


@pytest.fixture(scope="module")
def results():
    return {name: record.read_result(FOLDER / f"{name}.json") for name in ("source-only", "dann")}


def test_the_paired_test_is_that_of_the_common_keys(results):
    first, other = (copy.deepcopy(each) for each in results.values())
    gains, p = compare.paired(first, other)
    pair = [each["target_accuracy"] for each in (first, other)]
    assert gains.tolist() == [b - a for a, b in zip(*pair, strict=True)]
    assert p == pytest.approx(stats.ttest_rel(*pair[::-1]).pvalue)
    other["keys"] = [key + 2 for key in other["keys"]]
    other["target_accuracy"][0] = None  # key 2 diverged
    gains, _ = compare.paired(first, other)
    assert gains.tolist() == [pair[1][i] - pair[0][i + 2] for i in (1, 2)]
    for same in (first, other | {"keys": [90, 91, 92, 93, 94]}):
        gains, p = compare.paired(first, same)
        assert not gains.any()
        assert math.isnan(p)


def test_what_differs_is_said(results):
    first = results["dann"]
    assert compare.changed(first, first) == []
    other = copy.deepcopy(first)
    other["resolved_config"]["mu0"] = 0.5
    other["versions"]["jax"] = "9"
    other["device_count"] = 3
    (name, origin), *_ = other["data"].items()
    origin["sha256"] = "0" * 64
    lines = compare.changed(first, other)
    assert [line.split(":")[0] for line in lines] == ["mu0", "jax", "device_count", "data"]
    assert lines[0] == f"mu0: {first['resolved_config']['mu0']} there, 0.5 here"
    assert name in lines[-1]


def test_the_command_compares_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    paths = [str(FOLDER / f"{name}.json") for name in ("source-only", "dann", "sa")]
    picture = tmp_path / "c.png"
    assert compare.main([*paths, "--output", str(picture)]) == 0
    told = capsys.readouterr().out
    assert "method: source-only there, dann here" in told
    gains, _ = compare.paired(*(json.loads(pathlib.Path(path).read_text()) for path in paths[:2]))
    assert f"{gains.mean():+.4f}" in told
    assert picture.read_bytes().startswith(b"\x89PNG")
    other = FOLDER.parent / "mnist_mnist_m" / "dann.json"
    assert compare.main([paths[0], str(other)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│ B"))
    assert "+0." not in row  # other data
    for wrong in ([paths[0]], [paths[0], str(tmp_path / "none.json")]):
        assert compare.main(wrong) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    (line,) = _refused(capsys, [paths[2], paths[2], "--output", str(picture)])
    assert "none of the results has curves" in line
    (line,) = _refused(capsys, [*paths, "--output", "c.txt"])
    assert "c.txt" in line


def _refused(capsys, arguments):
    assert compare.main(arguments) == 2
    return capsys.readouterr().err.splitlines()


def test_only_what_is_known_is_drawn(results, tmp_path):
    names = [name for _, name, _ in compare._panels(results)]
    assert names == ["target_accuracy", "source_accuracy", "label_loss", "domain_loss"]
    unlabelled = copy.deepcopy(results["source-only"])
    for curve in unlabelled["curves"]:
        evaluations = curve["evaluations"]
        evaluations["target_accuracy"] = [None] * len(evaluations["step"])
    diverged = copy.deepcopy(unlabelled)
    for column in diverged["curves"][1]["training"].values():
        if isinstance(column, list):
            del column[3:]
    both = {"A": unlabelled, "B": diverged}
    assert [name for _, name, _ in compare._panels(both)] == ["source_accuracy", "label_loss"]
    compare._draw(both, tmp_path / "c.png")
