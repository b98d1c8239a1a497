"""Rules score trainings without target labels; sweeps and the study of rules are made of that."""

import dataclasses
import json
import re
import shlex
import shutil

import jax
import numpy as np
import pytest
from scipy import stats
from test_together import CONFIG, PAIR, small_config

from dann_jax import evaluation
from dann_jax import selection as rules
from experiments import (
    consistency,
    domains,
    record,
    run,
    scores,
    selection,
    studies,
    train,
    trained,
)
from experiments.choice import ORACLE
from experiments.methods import METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation")

SELECT = ("information_maximization", "domain_confusion")
SCORED = dataclasses.replace(CONFIG, select=SELECT)
SWEEP = ("--sweep", "mu0=0.003,0.3", "gamma=5")


@pytest.fixture(autouse=True)
def small(quick_compilation):
    """Makes the small pair the experiment of every name."""
    with small_config() as patch:
        patch.setattr(domains, "prepare_pair", lambda *_, **__: None)
        yield


def study_of(pair=PAIR, config=SCORED):
    with small_config():  # in fixtures too
        return studies.prepare(config, METHODS["dann"], pair, jax.local_devices()[:1])


@pytest.fixture(scope="module")
def study(quick_compilation):
    return study_of()


@pytest.fixture(scope="module")
def done(study, tmp_path_factory):
    """The folder of a training that was not cut off."""
    folder = tmp_path_factory.mktemp("done")
    train.train(study, [0], folder)
    return folder


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The result file of 24 keys, trained as one program."""
    where = tmp_path_factory.mktemp("many")
    options = [
        "--methods",
        "dann",
        "--keys",
        "24",
        "--together",
        "24",
        "--no-svm",
        "--devices",
        "1",
    ]
    with small_config():
        words = ["digits_digits_m", *options, "--output", str(where), "--select", *SELECT]
        assert run.main(words) == 0
    return where / "digits_digits_m" / "dann.json"


def call(where, *options):
    words = ["digits_digits_m", "--methods", "dann", "--no-svm", "--devices", "1"]
    return run.main([*words, "--output", str(where), *options])


def test_scores_survive_an_interruption_bit_for_bit(study, done, tmp_path):
    train.train(study, [0], tmp_path, stop=4, checkpoint_every=2)
    (again,) = train.train(study, [0], tmp_path)
    expected = record.read_record(done, 0)
    assert [each["step"] for each in expected["evaluations"]] == [2, 4, 6]
    assert again["evaluations"] == expected["evaluations"]
    assert again["digests"] == expected["digests"]


def test_a_score_is_that_of_the_rule_and_takes_no_target_labels(study, done):
    state = trained.restored(study, 0, done)
    x = {}
    for name, images in (("source", PAIR.source_test), ("target", PAIR.target_train)):
        x[name], _ = study.outputs(features, state, name, images)
    scored = scores.measured(study, state)["scores"]
    draw = np.random.default_rng(0)  # the source first
    drawn = {name: values[draw.permutation(24)] for name, values in x.items()}
    expected = rules.domain_confusion(drawn["source"], drawn["target"], key=jax.random.key(0))
    assert scored["domain_confusion"] == expected
    assert scored == record.read_record(done, 0)["evaluations"][-1]["scores"]
    unknown = PAIR.target_train._replace(label=np.full(24, -1, np.int32))
    blind = study_of(PAIR._replace(target_train=unknown))
    assert scores.measured(blind, state)["scores"] == scored
    assert scores.measured(study_of(config=CONFIG), state) == {}


def features(model, state, images, **options):
    layer = evaluation.last_hidden_layer(model)
    return evaluation.features(model, state, images, layer=layer, **options)


def test_a_rule_that_cannot_score_the_data_is_refused_before_training(tmp_path, capsys):
    two = PAIR.target_train._replace(
        image=PAIR.target_train.image[:2], label=PAIR.target_train.label[:2]
    )
    words = ["digits_digits_m", "--methods", "dann", "--output", str(tmp_path)]
    with small_config(pair=PAIR._replace(target_train=two)):
        assert run.main([*words, "--select", "importance_weighted_validation"]) == 2
    assert "--select importance_weighted_validation: expected at least 3" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_a_result_tells_the_step_that_a_rule_chooses_beside_the_last(result):
    content = record.read_result(result)
    assert list(content["selected"]) == [*SELECT, ORACLE]
    for i, curves in enumerate(content["curves"]):
        columns = curves["evaluations"]
        choices = {**columns["scores"], ORACLE: columns["target_accuracy"]}
        for name, values in choices.items():
            place, chosen = int(np.argmax(values)), content["selected"][name]
            assert chosen["step"][i] == columns["step"][place]
            assert chosen["target_accuracy"][i] == pytest.approx(
                columns["target_accuracy"][place], abs=1e-6
            )
    best, last = content["selected"][ORACLE]["mean"], content["mean"]
    assert best > last  # some training was better before its end


CHANGES = {
    "another step": (lambda r: r["selected"][ORACLE]["step"].__setitem__(0, 5), "oracle.step"),
    "another accuracy": (
        lambda r: r["selected"][SELECT[0]]["target_accuracy"].__setitem__(0, 0.987),
        r"information_maximization.target_accuracy\[0\]",
    ),
    "another mean": (lambda r: r["selected"][ORACLE].update(mean=0.123), "oracle.mean"),
    "fewer keys": (lambda r: r["selected"][ORACLE]["step"].pop(), "oracle.step: .* 24 keys"),
    "no rule": (lambda r: r["selected"].pop(SELECT[1]), "selected: expected .*domain_confusion"),
    "no scores": (
        lambda r: r["curves"][3]["evaluations"]["scores"].pop(SELECT[1]),
        r"curves\[3\].evaluations.scores: expected .*domain_confusion, as select says",
    ),
    "a score too few": (
        lambda r: r["curves"][0]["evaluations"]["scores"][SELECT[0]].pop(),
        "evaluations.scores.information_maximization: expected 3 entries",
    ),
    "a score that is none": (
        lambda r: r["curves"][0]["evaluations"]["scores"][SELECT[0]].__setitem__(1, 5.0),
        "scores.information_maximization: expected a number from 0 to 1.099, got 5.0",
    ),
    "a distance below 0": (
        lambda r: r["curves"][0]["evaluations"]["scores"][SELECT[1]].__setitem__(0, 0.5),
        "scores.domain_confusion: expected a number from -2 to 0, got 0.5",
    ),
    "a rule that is none": (
        lambda r: r["curves"][0]["evaluations"]["scores"].update(best=[1.0, 1.0, 1.0]),
        "evaluations.scores.best",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_whose_choices_contradict_its_scores_is_refused(name, result):
    change, match = CHANGES[name]
    content = json.loads(result.read_text())
    assert consistency.result_faults(content) == []
    change(content)
    faults = "; ".join(map(str, consistency.result_faults(content)))
    assert re.search(match, faults), faults


def test_a_sweep_trains_all_combinations_and_ranks_them_without_target_labels(tmp_path, capsys):
    assert call(tmp_path, *SWEEP) == 0
    told = capsys.readouterr().out
    folder = tmp_path / "digits_digits_m"
    content = json.loads((folder / "sweep.json").read_text())
    rows = content["combinations"]
    assert {row["name"] for row in rows} == {"mu0=0.003,gamma=5", "mu0=0.3,gamma=5"}
    for row in rows:
        result = record.read_result(folder / row["file"])
        assert result["resolved_config"]["mu0"] == row["settings"]["mu0"]
        assert result["resolved_config"]["gamma"] == 5
        scored = result["curves"][0]["evaluations"]["scores"]["information_maximization"]
        assert row["score"] == scored[-1]
        assert row[ORACLE] == result["mean"]
    assert rows[0]["score"] > rows[1]["score"]
    assert content["chosen"] == rows[0]["name"]
    assert "oracle" in told
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("dann.json")}
    assert call(tmp_path, *SWEEP) == 0
    assert capsys.readouterr().out.count("is there already") == 2
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("dann.json")} == written
    ranks = (folder / "sweep.json").read_bytes()
    for other in (("--select", "entropy"), ("--batch-size", "4"), ("--first-key", "5")):
        assert call(tmp_path, *SWEEP, *other) == 2
        told = capsys.readouterr()
        assert told.err.count("holds another result") == 2
        assert "the combinations are not ranked, as not all have a result" in told.err
        assert "oracle" not in told.out
        assert (folder / "sweep.json").read_bytes() == ranks


def test_listed_commands_train_what_the_sweep_then_finds(tmp_path, capsys):
    options = (*SWEEP, "--select", "domain_confusion", "information_maximization", "--keys", "2")
    assert call(tmp_path, *options, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert not list(tmp_path.iterdir())
    for line in lines:
        words = shlex.split(line)
        assert words[:4] == ["python", "-m", "experiments.run", "digits_digits_m"]
        assert {"--mu0", "--gamma", "--no-svm"} <= set(words)
        assert "--sweep" not in words
        assert run.main(words[3:]) == 0
    capsys.readouterr()
    assert call(tmp_path, *options) == 0
    assert capsys.readouterr().out.count("is there already") == 2
    content = json.loads((tmp_path / "digits_digits_m" / "sweep.json").read_text())
    assert content["rule"] == "domain_confusion"
    assert len(content["combinations"][0]["scores"]) == 2


def test_a_random_sweep_is_a_part_of_the_grid_that_the_first_key_draws(tmp_path, capsys):
    def drawn(*options):
        words = ("--sweep", "mu0=0.1,0.2,0.3,0.4", "gamma=1,2,3", "--sweep-random", "3", "--list")
        assert call(tmp_path, *words, *options) == 0
        lines = map(shlex.split, capsys.readouterr().out.splitlines())
        return [tuple(w[w.index(flag) + 1] for flag in ("--mu0", "--gamma")) for w in lines]

    first = drawn()
    assert len(set(first)) == 3
    assert drawn() == first
    assert drawn("--first-key", "1") != first


def test_the_study_tells_correlation_and_loss_of_each_rule(result, tmp_path, capsys):
    folder = tmp_path / "digits_digits_m"
    folder.mkdir()
    shutil.copy(result, folder)
    output = tmp_path / "digits_digits_m.json"
    assert selection.main([str(folder), "--output", str(output)]) == 0
    assert "information_maximization" in capsys.readouterr().out
    assert output.with_suffix(".png").stat().st_size > 0
    told, content = json.loads(output.read_text()), json.loads(result.read_text())
    reached = np.array(content["target_accuracy"])
    assert len(told["trainings"]) == 24
    for rule in SELECT:
        values = [c["evaluations"]["scores"][rule][-1] for c in content["curves"]]
        row = told["rules"][rule]
        expected = stats.spearmanr(values, reached)[0]
        assert row["rank_correlation"] == pytest.approx(expected)
        assert row["loss"] == pytest.approx(reached.max() - reached[np.argmax(values)])
        steps = [content["selected"][name]["mean"] for name in (ORACLE, rule)]
        assert row["step_loss"] == pytest.approx(steps[0] - steps[1])
    assert "| `domain_confusion` |" in selection.tables(tmp_path)["selection"]
    told["rules"][SELECT[0]]["loss"] += 0.1
    output.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="is not that of the files in digits_digits_m/: make it"):
        selection.tables(tmp_path)


def test_a_study_takes_each_training_once_and_one_pair(result, tmp_path, monkeypatch, capsys):
    output = str(tmp_path / "out.json")
    copy = shutil.copy(result, tmp_path)
    for twice in ([result, result.parent], [result, copy]):
        assert selection.main([*map(str, twice), "--output", output]) == 2
        assert "expected each training once, got key 0 of" in capsys.readouterr().err
    content = record.read_result(result)
    other = content | {"resolved_config": content["resolved_config"] | {"target": "c"}}
    both = [(result, content), (result.with_name("other.json"), other)]
    monkeypatch.setattr(selection, "_results", lambda run: both)
    with pytest.raises(ValueError, match=r"one config and pair, .* \(a to b/test\), .* \(a to c/"):
        selection.study([result.parent])


def test_too_few_trainings_are_no_study(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    for where, match in (
        (tmp_path / "none", "expected at least 24 trainings, got 0"),
        (tmp_path / "x.json", "expected a result made with --select, got no file"),
    ):
        assert selection.main([str(where), "--output", str(tmp_path / "out.json")]) == 2
        assert match in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
