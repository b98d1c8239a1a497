"""A training whose numbers are not finite stops, has no accuracy, and does not pass for another."""

import dataclasses
import errno
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_together import CONFIG, PAIR, prepared, small_config

from dann_jax import checkpoints, evaluation
from experiments import configs, execute, heads, record, run, studies, train, trained
from experiments.figures import curves
from experiments.methods import METHODS
from experiments.options import Options
from experiments.plan import make_plan

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def ready(quick_compilation):
    return prepared(1)


def spoiled(study, step, part="theta", key=None):
    """The study with a part of its state that is not finite after some step."""

    def program(group):
        steps = study.program(group)

        def call(*arguments):
            states, metrics = steps(*arguments)
            at = int(np.ravel(states.step)[0])
            if at >= step:
                entry = ... if key is None else group.keys.index(key)

                def lost(x):
                    return x if jnp.issubdtype(x.dtype, jnp.integer) else x.at[entry].set(jnp.inf)

                states = states.replace(**{part: jax.tree.map(lost, getattr(states, part))})
            return states, metrics

        return call

    return dataclasses.replace(study, program=program)


def state_of(folder, key, name="state"):
    return (folder / f"key_{key}" / name).exists()


def test_a_key_that_diverges_stops_and_the_others_keep_their_bits(ready, tmp_path):
    keys, options = [0, 1, 2], {"together": None, "checkpoint_every": 2}
    whole = train.train(ready, keys, tmp_path / "whole", **options)
    folder = tmp_path / "lost"
    records = train.train(spoiled(ready, 4, key=1), keys, folder, **options)
    first, lost, last = records
    # The update of step 4 is lost, and found before the checkpoint of this step is written.
    assert lost["diverged"] == {"step": 4, "term": "logits", "checkpoint": 2}
    assert lost["target_accuracy"] is lost["source_accuracy"] is lost["digests"] is None
    assert first["digests"]["parameters"] != last["digests"]["parameters"]
    assert first["digests"]["losses"] != last["digests"]["losses"]
    assert [entry["step"] for entry in lost["curves"]] == [2, 4]
    assert [entry["step"] for entry in lost["evaluations"]] == [2]
    for each, expected in ((first, whole[0]), (last, whole[2])):
        for name in ("curves", "evaluations", "target_accuracy", "digests", "diverged"):
            assert each[name] == expected[name]
    assert [state_of(folder, key) for key in keys] == [True, False, True]
    kept = checkpoints.Checkpoints(folder / "key_1" / "last_checkpoint")
    state = kept.restore(jax.eval_shape(lambda: ready.start(train.Group((1,), 1))[0]))
    assert state.step == 2
    assert not state_of(folder, 0, "checkpoint")
    assert not state_of(folder, 0, "last_checkpoint")
    with pytest.raises(ValueError, match="holds a training that diverged, and no state"):
        trained.restored(ready, 1, folder)
    assert train.train(ready, keys, folder, **options) == [
        record.read_record(folder, key) for key in keys
    ], "nothing is trained again"


def test_checkpoints_of_a_group_hold_finite_numbers_only(ready, tmp_path, monkeypatch):
    keys, options = [0, 1, 2], {"together": None, "checkpoint_every": 2}
    whole = train.train(ready, keys, tmp_path / "whole", **options)
    save, trees = checkpoints.Checkpoints.save, []

    def cut(self, step, tree):
        save(self, step, tree)
        trees.append(tree)
        if step == 4 and self.folder.name == "checkpoint":
            raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", cut)
        with pytest.raises(OSError, match="cut off"):
            train.train(spoiled(ready, 3, key=1), keys, tmp_path / "lost", **options)
    for tree in trees:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
    records = train.train(ready, keys, tmp_path / "lost", **options)
    assert [bool(each["diverged"]) for each in records] == [False, True, False]
    for i in (0, 2):
        for name in ("curves", "evaluations", "digests"):
            assert records[i][name] == whole[i][name]


@pytest.mark.parametrize(
    ("part", "step", "found"),
    [
        ("theta", 1, (2, "label_loss")),  # by the metrics of the next step
        ("theta", 6, (6, "logits")),
        ("batch_stats", 6, None),  # of a network that has none
        ("opt_state", 6, (6, "momentum")),  # by the last state
    ],
)
def test_what_is_not_finite_is_found_and_named(part, step, found, ready, tmp_path):
    (each,) = train.train(spoiled(ready, step, part), [0], tmp_path, checkpoint_every=2)
    if found is None:
        assert each["diverged"] is None
        return
    saved = max((s for s in (2, 4) if s < step), default=None)
    assert each["diverged"] == dict(zip(("step", "term"), found, strict=True)) | {
        "checkpoint": saved
    }
    assert each["target_accuracy"] is None
    assert not state_of(tmp_path, 0)
    assert state_of(tmp_path, 0, "checkpoint") == (saved is not None)


def test_parameters_are_checked_before_a_checkpoint_is_written(ready, tmp_path, monkeypatch):
    logits = evaluation.predict
    monkeypatch.setattr(evaluation, "predict", lambda *a, **k: np.nan_to_num(logits(*a, **k)))
    (each,) = train.train(spoiled(ready, 4), [0], tmp_path, checkpoint_every=2)
    assert each["diverged"] == {"step": 4, "term": "parameters", "checkpoint": 2}
    assert checkpoints.Checkpoints(tmp_path / "key_0/checkpoint").latest_step() == 2


# --- the command line ----------------------------------------------------------------------------


def call(*options):
    with small_config() as patch:
        patch.setattr(heads, "MOST", 20)
        return run.main(["small", *options])


def refused(*_):
    pytest.fail("an SVM or a closed form of features of a training that diverged")


def test_the_command_line_says_so_gives_no_accuracy_and_ends_with_3(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(heads, "svm", refused)
    monkeypatch.setattr(heads, "align", refused)
    where = ["--output", str(tmp_path), "--mu0", "1e20", "--methods", "sa", "dann"]
    assert call(*where) == 3
    told = capsys.readouterr()
    sentence = (
        "error: dann, key 0, diverged at step 2: label_loss is not finite (there was no checkpoint "
        "before): lower --mu0, or raise --input-scale, and train again with --overwrite"
    )
    assert sentence in told.err
    assert "error: source-only, key 0, diverged at step 2" in told.err
    assert told.out.count("diverged") == 3, "the rows of the table"
    for method in ("source-only", "sa", "dann"):
        result = record.read(tmp_path / f"small/{method}.json")
        assert result["target_accuracy"] == result["source_accuracy"] == [None]
        assert result["mean"] is result["std"] is None
        assert result["diverged"] == [{"step": 2, "term": "label_loss", "checkpoint": None}]
        assert not state_of(tmp_path / "small" / method, 0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert call(*where) == 3
    again = capsys.readouterr()
    assert "dann.json is there already, and diverged" in again.out
    assert sentence in again.err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before


@pytest.mark.parametrize(
    ("step", "term", "remedy"),
    [
        (1, "label_loss", "raise --input-scale, as nothing was updated before, and train"),
        (2, "label_loss", "lower --mu0, or raise --input-scale, and train"),
        (1, "lambda", "lower --gamma, and train"),
        (3, "domain_loss", "lower --mu0 or --domain-weight, and train"),
        (3, "mmd", "lower --mu0 or --alignment-weight, and train"),
        (3, "vat_source", "lower --mu0 or --vat-weight, and train"),
        (3, "momentum", "lower --mu0, or raise --input-scale, and train"),
    ],
)
def test_the_remedy_is_that_of_what_is_not_finite(step, term, remedy):
    where = {"step": step, "term": term, "checkpoint": None}
    (sentence,) = execute._diverged("dann", [0], [where])
    assert f"before): {remedy} again with --overwrite" in sentence


def test_a_command_that_is_refused_leaves_nothing(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise ValueError("no such data: name others")

    for module, name in ((execute.domains, "load_pair"), (studies, "prepare")):
        output = tmp_path / name
        with small_config() as patch:
            patch.setattr(module, name, refuse)
            assert run.main(["small", "--output", str(output), "--methods", "dann"]) == 2
        assert "no such data" in capsys.readouterr().err
        assert not output.exists()


def test_heads_of_the_other_keys_are_measured(tmp_path):
    with small_config() as patch:
        lower = studies.prepare(CONFIG, METHODS["source-only"], PAIR, jax.local_devices()[:1])
        patch.setattr(studies, "prepare", lambda *_: spoiled(lower, 3, key=1))
        patch.setattr(heads, "svm", lambda study, pair, key, folder: HEAD)
        patch.setattr(heads, "align", lambda study, pair, method, key, folder: FORM)
        where = ["--output", str(tmp_path), "--keys", "2", "--together", "2", "--methods", "sa"]
        where += ["--devices", "1"]
        assert run.main(["small", *where]) == 3
        assert make_plan(
            "small", Options(config=CONFIG, keys=2, output=tmp_path, methods=("sa",))
        ) == (
            [],
            [tmp_path / "small" / "sa.json"],
        )
    result = record.read(tmp_path / "small/source-only.json")
    assert result["svm_accuracy"] == [0.5, None]
    assert result["svm"]["C"] == [1.0, None]
    assert result["mean"] is result["svm_mean"] is None
    assert [bool(each) for each in result["digests"]] == [True, False]
    aligned = record.read(tmp_path / "small/sa.json")
    assert aligned["target_accuracy"] == aligned["oracle_accuracy"] == [0.5, None]
    assert aligned["by_components"] == {"components": [2], "target_accuracy": [[0.5], None]}
    assert aligned["svm"]["stable_components"] == [2, None]
    assert [bool(each) for each in aligned["diverged"]] == [False, True]


ABOUT = {"layer": "f", "features": 8, "examples": 20, "versions": {}, "seconds": 0.1}
HEAD = ABOUT | {
    "source_accuracy": 0.5, "target_accuracy": 0.5, "C": 1.0, "validation_accuracy": 0.5,
    "converged": True,
}  # fmt: skip
FORM = HEAD | {
    "components": 2, "oracle_components": 2, "oracle_accuracy": 0.5,
    "by_components": {"components": [2], "target_accuracy": [0.5]},
    "fitted": {"stable_components": 2},
}  # fmt: skip


def test_a_state_of_another_key_is_refused(ready, tmp_path):
    train.train(ready, [0, 1], tmp_path)
    one, other = (tmp_path / f"key_{key}" / "state" for key in (0, 1))
    trained.restored(ready, 0, tmp_path)
    one.rename(tmp_path / "moved")
    other.rename(one)
    (tmp_path / "moved").rename(other)
    for key in (0, 1):
        with pytest.raises(ValueError, match=f"key_{key}/state is of another training than .*--ov"):
            trained.restored(ready, key, tmp_path)


def test_nothing_is_learned_from_features_that_are_not_finite(ready, tmp_path, monkeypatch):
    train.train(ready, [0], tmp_path)
    monkeypatch.setattr(evaluation, "features", lambda *_, **__: np.full([24, 8], np.nan))
    with pytest.raises(ValueError, match="features of the source are not finite"):
        heads.svm(ready, PAIR, 0, tmp_path)


def test_other_rows_of_a_table_go_on(tmp_path, monkeypatch, capsys):
    done = []

    def one(plan, options, *_):
        done.append(plan.jobs[0].name)
        return ["dann, key 0, diverged"] * (len(done) == 1)

    monkeypatch.setattr(configs, "_ROWS", {"rows": ("digits_digits_m", "mnist_mnist_m")})
    monkeypatch.setattr(configs, "_VARIANTS", {})
    monkeypatch.setattr(execute, "check_data", lambda *_: None)
    monkeypatch.setattr(execute, "execute", one)
    assert run.main(["rows", "--output", str(tmp_path), "--compilation-cache", "none"]) == 3
    assert done == ["digits_digits_m", "mnist_mnist_m"]
    assert "error: digits_digits_m: dann, key 0, diverged" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--mu0", "--alpha", "--beta"])
def test_a_schedule_that_is_not_finite_is_refused(option, tmp_path, capsys):
    where = ["--output", str(tmp_path), "--methods", "dann"]
    with pytest.raises(SystemExit) as exit:
        call(*where, option, "1e300")
    assert exit.value.code == 2
    told = capsys.readouterr().err
    assert f"{option[2:]} must be a number that float32 can hold" in told
    assert not list(tmp_path.rglob("*.json"))


def test_curves_that_end_early_are_drawn(tmp_path):
    whole = {"step": [2, 4], "label_loss": [1.0, 0.5], "domain_loss": [1.0, 1.0]}
    whole |= {"domain_accuracy": [0.5, 0.5], "mu": [0.1, 0.1], "lam": [0.0, 1.0]}
    accuracy = {"step": [4], "source_accuracy": [0.5], "target_accuracy": [0.5]}
    early = {name: values[:1] for name, values in whole.items()}
    every = [
        {"training": early, "evaluations": {}},
        {"training": whole, "evaluations": accuracy},
        {"training": {}, "evaluations": {name: [] for name in accuracy}},
    ]
    loss = {"normalization": "mean", "weight": 1.0}
    for kept in (every, every[:1], every[2:]):
        result = {"config": "small", "steps": 4, "resolved_config": {"mu0": 0.1}, "curves": kept}
        curves.draw({"dann": result | {"domain_loss": loss}}, tmp_path / "curves.png")


# --- what is finite ------------------------------------------------------------------------------


def test_the_same_command_gives_the_same_digests(tmp_path):
    found = []
    for name in "ab":
        assert call("--output", str(tmp_path / name), "--methods", "dann", "--no-svm") == 0
        (digests,) = json.loads((tmp_path / name / "small/dann.json").read_text())["digests"]
        found.append(digests)
    assert found[0] == found[1]
    assert set(found[0]) == {"parameters", "losses", "accuracies"}
    assert len(set(found[0].values())) == 3


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(tmp_path, monkeypatch, capsys):
    write = record.write_json

    def full(path, content, **options):
        if path.name == "dann.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content, **options)

    where = ["--output", str(tmp_path), "--methods", "dann", "--no-svm"]
    with monkeypatch.context() as patch:
        patch.setattr(record, "write_json", full)
        assert call(*where) == 2
    told = capsys.readouterr().err
    assert "No space left on device: free some space, and the same command goes on" in told
    assert len(told.splitlines()) == 1
    assert call(*where) == 0
    assert "dann key 0 step" not in capsys.readouterr().out, "the training was finished"
