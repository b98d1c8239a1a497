"""Linear SVM heads, subspace alignment and whole tables with experiments.run."""

import json
import shutil

import jax
import numpy as np
import pytest

from dann_jax.alignment import linear_svm
from experiments import configs, execute, plan, record, run
from experiments.options import Options

pytestmark = pytest.mark.usefixtures("quick_compilation")

NAME = "digits_digits_m"
FEW = ["--steps", "4", "--baseline-steps", "2", "--batch-size", "8", "--evaluate-every", "2"]


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A folder with finished trainings of source-only, as a version without SVMs has made them."""
    output = tmp_path_factory.mktemp("finished")
    options = "--methods", "source-only", "--keys", "2", "--no-svm"
    where = "--data-dir", str(data_dir), "--output", str(output)
    assert run.main([NAME, *FEW, "--devices", "1", *options, *where]) == 0
    return output


@pytest.fixture
def call(finished, data_dir, tmp_path):
    """Runs the program in a copy of that folder, which is ``tmp_path``."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    where = "--data-dir", str(data_dir), "--output", str(tmp_path)
    return lambda name, *options: run.main([name, *FEW, "--devices", "1", *where, *options])


def written(folder):
    """When each file of a training was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/key_*/*.json")}


def test_heads_are_made_once_for_trainings_that_have_none(call, tmp_path, capsys):
    folder = tmp_path / NAME
    path, before = folder / "source-only.json", written(folder)
    assert "svm" not in record.read(path)
    options = NAME, "--methods", "source-only", "--keys", "2"
    assert call(*options) == 0
    result = record.read_result(path)
    assert len(result["svm_accuracy"]) == 2
    assert min(result["svm_accuracy"]) >= 0
    assert result["svm_mean"] == pytest.approx(np.mean(result["svm_accuracy"]))
    assert result["svm_std"] == pytest.approx(np.std(result["svm_accuracy"], ddof=1))
    about = result["svm"]
    assert (about["layer"], about["features"], about["examples"]) == ("y/fc2", 100, 40)
    assert len(about["C"]) == 2
    assert set(about["C"]) <= set(linear_svm.GRID)
    assert str(tmp_path) not in json.dumps(result)

    after = written(folder)
    assert before.items() < after.items(), "the trainings are as they were"
    capsys.readouterr()
    assert call(*options) == 0
    assert "is there already" in capsys.readouterr().out
    assert written(folder) == after

    for each in folder.glob("*/key_*/svm.json"):
        each.unlink()
    entries = {name: result.pop(name) for name in ("svm_accuracy", "svm_mean", "svm_std", "svm")}
    record.write_json(path, result)
    assert call(*options, "--streaming") == 0
    assert {name: record.read(path)[name] for name in entries} == entries


def test_alignment_writes_a_choice_without_target_labels_and_the_oracles(call, tmp_path, capsys):
    folder = tmp_path / NAME
    assert call(NAME, "--methods", "sa", "--keys", "2") == 0
    assert "sa, oracle" in capsys.readouterr().out
    result = record.read_result(folder / "sa.json")
    assert (result["method"], result["keys"], result["steps"]) == ("sa", [0, 1], 2)
    assert result["mean"] == pytest.approx(np.mean(result["target_accuracy"]))
    assert all(np.less_equal(result["target_accuracy"], result["oracle_accuracy"]))
    assert "no target labels" in result["selection"]
    assert "oracle" in result["oracle_selection"]
    components = result["by_components"]["components"]
    assert components == list(range(2, 40))  # of 40 examples
    for i, accuracy in enumerate(result["by_components"]["target_accuracy"]):
        assert accuracy[components.index(result["components"][i])] == result["target_accuracy"][i]
    assert result["command"].startswith(f"python -m experiments.run {NAME} --methods sa --keys 2")
    assert str(tmp_path) not in json.dumps(result)


def todo(output, **options):
    config = configs.find_config(NAME)[0]
    jobs = plan.make_plan(NAME, Options(config=config, output=output, **options)).jobs
    return [job.method.name for job in jobs if job.trains]


def test_alignment_comes_with_the_features_that_it_needs(call, tmp_path, capsys):
    assert todo(tmp_path / "empty", methods=("sa",)) == ["source-only", "sa"]
    order = ["source-only", "sa", "dann", "train-on-target"]
    assert todo(tmp_path / "empty") == order
    folder = tmp_path / NAME
    (folder / "sa.json").touch()  # of features that are to be replaced
    again = todo(tmp_path, methods=("source-only",), overwrite=True)
    assert again == ["source-only", "sa"]
    (folder / "sa.json").unlink()
    (folder / "source-only/key_1/state").rename(tmp_path / "state")
    assert call(NAME, "--methods", "sa", "--keys", "2") == 2
    assert "sa needs the states of source-only" in capsys.readouterr().err


def test_curves_are_drawn_where_a_result_is_newer(call, tmp_path):
    picture = tmp_path / NAME / "curves.png"
    options = NAME, "--methods", "source-only", "--keys", "2"
    picture.unlink()  # as where the last SVM was cut off
    assert call(*options) == 0
    before = picture.stat().st_mtime_ns
    assert call(*options) == 0
    assert picture.stat().st_mtime_ns == before
    picture.unlink()
    assert call(*options) == 0
    assert picture.exists()


# --- tables --------------------------------------------------------------------------------------


def test_every_row_is_an_experiment_and_the_papers_tables_are_there():
    for name in configs.table_names():
        assert configs.find_rows(name)
        assert set(configs.find_rows(name)) <= set(configs.config_names())
        assert name not in configs.config_names()
    rows = "mnist_mnist_m", "syn_numbers_svhn", "svhn_mnist", "syn_signs_gtsrb"
    assert configs.find_rows("table1") == rows
    assert len(configs.find_rows("office31")) == len(configs.find_rows("office31_others")) == 3
    assert configs.find_rows(NAME) == configs.find_rows(None) == ()


def test_a_variant_of_a_table_has_the_variants_that_there_are(monkeypatch):
    there = "mnist_mnist_m", "mnist_mnist_m_batch_norm", "svhn_mnist_batch_norm"
    monkeypatch.setattr(configs, "config_names", lambda: there)
    assert configs.find_rows("table1_batch_norm") == there[1:]
    assert "office31_frozen" not in configs.table_names()


@pytest.fixture
def small(monkeypatch):
    """The name of a table with one row whose data is not there, and one that can be run."""
    monkeypatch.setattr(configs, "_ROWS", {"small": ("mnist_mnist_m", NAME)})
    monkeypatch.setattr(configs, "_VARIANTS", {})
    return "small"


def test_a_row_without_data_is_told_first_and_the_others_are_run(small, call, tmp_path, capsys):
    options = small, "--methods", "source-only", "--keys", "2"
    assert call(*options) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: mnist_mnist_m: ")
    assert "error: mnist_mnist_m is not complete" in told.err
    assert "small: accuracy" in told.out
    assert "linear SVM" in told.out
    assert "svm_mean" in record.read(tmp_path / NAME / "source-only.json")
    before = written(tmp_path / NAME)
    assert call(*options) == 2
    assert "is there already" in capsys.readouterr().out
    assert written(tmp_path / NAME) == before


def test_a_row_that_does_not_fit_into_memory_does_not_stop_the_others(
    monkeypatch, tmp_path, capsys
):
    def full(plan, *_):
        name = plan.jobs[0].name
        if name == NAME:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        print(f"{name} is run")

    rows = NAME, "mnist_mnist_m"
    monkeypatch.setattr(configs, "_ROWS", {"small": rows})
    monkeypatch.setattr(configs, "_VARIANTS", {})
    monkeypatch.setattr(execute, "check_data", lambda *_: None)
    monkeypatch.setattr(execute, "execute", full)
    assert run.main(["small", "--output", str(tmp_path), "--compilation-cache", "none"]) == 2
    told = capsys.readouterr()
    assert "mnist_mnist_m is run" in told.out
    assert f"error: {NAME} is not complete: RESOURCE_EXHAUSTED" in told.err


def test_what_makes_a_row_itself_cannot_be_given_to_all(small, tmp_path, capsys):
    assert run.main([small, "--source", "svhn", "--output", str(tmp_path)]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "--source cannot be the same for all rows" in told
    assert f"by themselves (mnist_mnist_m, {NAME})" in told
    assert list(tmp_path.iterdir()) == []


def test_list_and_help_know_the_tables(capsys):
    assert run.main(["--list"]) == 0
    assert "table1" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        run.main(["table1", "--help"])
    assert stop.value.code == 0
    assert "The rows of table1 are mnist_mnist_m" in " ".join(capsys.readouterr().out.split())
