"""Trainings that begin with a finished one."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from test_interruption import interrupted
from test_together import CONFIG, PAIR, small_config

from dann_jax import datasets
from dann_jax.programs import Group
from experiments import continuing, keeping, pacing, record, run, studies, train, verify
from experiments.methods import METHODS
from experiments.plan import resolved

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Schedules that are constant by the end of the first training.
SHORT = dataclasses.replace(CONFIG, alpha=0.0, lambda_horizon=2, steps=4, average_decay=0.5)
LONG = dataclasses.replace(SHORT, steps=8)


def study_of(config, pair=PAIR, method="dann"):
    with small_config(pair=pair):
        return studies.prepare(config, METHODS[method], pair, jax.local_devices()[:1])


@pytest.fixture(scope="module")
def short(quick_compilation):
    return study_of(SHORT)


@pytest.fixture(scope="module")
def long(quick_compilation):
    return study_of(LONG)


def going_on(study, folder):
    return dataclasses.replace(
        study, config=dataclasses.replace(study.config, continue_from=folder)
    )


def test_more_updates_are_those_of_one_training(short, long, tmp_path, monkeypatch):
    monkeypatch.setattr(pacing, "SECONDS", 0.0)
    (whole,) = train.train(long, [3], tmp_path / "whole")
    (first,) = train.train(short, [3], tmp_path / "first")
    more = going_on(long, tmp_path / "first")
    # Interrupted before the first evaluation, and later.
    for calls, step in ((1, 5), (2, 7)):
        told = interrupted(more, calls, [3], tmp_path / "more")
        assert f"is saved at step {step} of 8" in told
    (one,) = train.train(more, [3], tmp_path / "more")
    assert one["digests"]["parameters"] == whole["digests"]["parameters"]
    for name in ("curves", "evaluations"):
        assert one[name] == [entry for entry in whole[name] if entry["step"] > 4]
    assert one["continued"]["step"] == 4
    assert one["continued"]["sha256"] == first["digests"]["parameters"]


def test_keys_of_one_program_go_on_each_from_its_own(short, long, tmp_path):
    keys = (0, 1, 2)
    records = train.train(short, keys, tmp_path)
    more, group = going_on(long, tmp_path), Group(keys, 1)
    states, _ = more.start(group)
    joined, entries = continuing.begun(more, group, states, resolved(more.config, more.method))
    for i, each in enumerate(records):
        assert entries[i]["continued"]["sha256"] == each["digests"]["parameters"]
        state = jax.tree.map(lambda x, i=i: x[i], joined)
        assert record.parameters_digest(state) == each["digests"]["parameters"]
        assert int(state.step) == 4


def call(config, *options):
    """Runs the small experiment; the method has no SVM."""
    with small_config(config):
        return run.main(["small", "--methods", "dann", "--no-svm", *options])


@pytest.fixture(scope="module")
def runs(tmp_path_factory, quick_compilation):
    """A finished run, and one that goes on from it, of other schedules."""
    folder = tmp_path_factory.mktemp("runs")
    where = ["--output", str(folder / "first")]
    assert call(CONFIG, *where) == 0
    where = ["--output", str(folder / "more"), "--continue-from", str(folder / "first/small")]
    assert call(CONFIG, *where, "--steps", "10") == 0
    return folder


def test_the_result_says_what_it_began_with(runs, capsys):
    with small_config():
        result = record.read_result(runs / "more/small/dann.json")
        before = record.read_result(runs / "first/small/dann.json")
    (continued,) = result["continued"]
    assert continued == {
        "run": f"{runs}/first/small/dann/key_0",
        "step": 6,
        "sha256": before["digests"][0]["parameters"],
        "new": [],
    }
    assert result["curves"][0]["evaluations"]["step"] == [8, 10]
    assert f"--continue-from {runs}/first/small" in result["command"]
    assert "continued" not in before
    # The same command again has nothing to do; without what it began with it is another result.
    where = ["--output", str(runs / "more"), "--steps", "10"]
    capsys.readouterr()
    assert call(CONFIG, *where, "--continue-from", str(runs / "first/small")) == 0
    assert "is there already" in capsys.readouterr().out
    assert call(CONFIG, *where) == 2
    assert "continue_from: " in capsys.readouterr().err


def test_a_forged_start_is_refused(runs, tmp_path):
    path = tmp_path / "dann.json"
    result = record.read(runs / "more/small/dann.json")
    for change, hint in (
        ({"continued": []}, "continued: expected an entry for each"),
        ({"continued": [result["continued"][0] | {"step": 10}]}, r"continued\[0\].step: expected"),
        (
            {"continued": [result["continued"][0] | {"step": 4}]},
            "expected 6, as evaluate_every says",
        ),
    ):
        record.write_json(path, result | change)
        with small_config(), pytest.raises(ValueError, match=hint):
            record.read_result(path)


def test_it_is_verified_with_what_it_began_with(runs, tmp_path, capsys):
    path = str(runs / "more/small/dann.json")
    with small_config():
        assert verify.main([path, "--steps", "2"]) == 0
        assert "dann, key 0: 8 of 10 steps" in capsys.readouterr().out
        elsewhere = tmp_path / "copy"
        shutil.copytree(runs / "first/small", elsewhere)
        shutil.rmtree(runs / "more/small/dann")  # it needs no folder of its own
        assert verify.main([path, "--continue-from", str(elsewhere)]) == 0
        told = capsys.readouterr().out
        assert "agrees bit for bit" in told
        other = elsewhere / "dann/key_0/record.json"
        content = record.read(other)
        digests = content["digests"] | {"parameters": "0" * 64}
        record.write_checked(other, content | {"digests": digests})
        assert verify.main([path, "--continue-from", str(elsewhere)]) == 2
        told = capsys.readouterr().err
        assert "began with another training than" in told
        assert "got 000000000000 at step 6): name its folder with --continue-from" in told
        assert verify.main([path, "--continue-from", str(tmp_path / "none")]) == 2
        assert "expected a finished training for key 0 of dann in" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_before_a_training(runs, tmp_path, capsys, monkeypatch):
    def no_training(*_, **__):
        raise AssertionError("a training was started")

    monkeypatch.setattr(train, "train", no_training)
    copy = tmp_path / "copy/key_0"
    shutil.copytree(runs / "first/small/dann/key_0", copy)
    content = record.read(copy / "record.json")

    def refused(hint, *options, config=CONFIG):
        where = ["--output", str(tmp_path / "out"), "--continue-from"]
        assert call(config, *where, *options) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert hint in line
        assert not (tmp_path / "out").exists()

    first = str(runs / "first/small")
    refused("it has made 6 updates, and dann is to make 6 in all: raise --steps", first)
    refused("for key 1 of dann in", first, "--steps", "8", "--keys", "2")
    refused("for key 0 of dann in", str(tmp_path))
    refused("expected the network svhn, got mnist: choose that", first, "--network", "svhn")
    where = ["--output", str(runs / "first"), "--overwrite", "--steps", "8"]
    assert call(CONFIG, *where, "--continue-from", first) == 2
    assert "--overwrite would replace" in capsys.readouterr().err
    record.write_checked(copy / "record.json", content | {"finished": False})
    refused("got one that is not", str(copy))
    lost = {"step": 3, "term": "label_loss", "checkpoint": None}
    ended = {"source_accuracy": None, "target_accuracy": None, "digests": None}
    record.write_checked(copy / "record.json", content | {"diverged": lost} | ended)
    refused("got one that diverged at step 3: name another", str(copy), "--steps", "8")
    record.write_checked(copy / "record.json", content)
    shutil.copytree(copy, tmp_path / "best")
    hint = "expected the folder key_KEY that its record.json is of, got best"
    refused(hint, str(tmp_path / "best"), "--steps", "8")
    files = [path for path in (copy / "state").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))
    refused("expected the state of its record.json, got none (", str(copy), "--steps", "8")
    shutil.rmtree(copy / "state")
    refused("expected the state of the optimizer in", str(copy), "--steps", "8")
    monkeypatch.setattr(
        continuing,
        "find",
        lambda config, method, key, settings: continuing.Start(copy, 2 * key, ""),
    )
    hint = "to begin at one step, got key 0 at step 0, key 1 at step 2: train those"
    refused(hint, first, "--steps", "8", "--keys", "2")


def test_a_start_says_why_it_is_not_more_updates(runs):
    config = dataclasses.replace(CONFIG, continue_from=runs / "first/small", steps=8, batch_size=4)
    start = continuing.find(config, METHODS["dann"], 0, resolved(config, METHODS["dann"]))
    assert (start.step, start.why) == (0, "batch_size: 8 there, 4 asked for")


# --- parameters alone -----------------------------------------------------------------------------

REAL = dataclasses.replace(CONFIG, image_size=28, network="mnist", average_decay=0.5)


def padded(pair, names):
    """A pair of images of 28 pixels, with these classes."""
    sets = [
        datasets.ImageSet(np.zeros([8, 28, 28, 3], np.uint8), np.zeros(8, np.int32))
        for _ in range(4)
    ]
    return PAIR._replace(**dict(zip(PAIR._fields[:4], sets, strict=True)), class_names=names)


@pytest.fixture(scope="module")
def kept(tmp_path_factory, quick_compilation):
    """A folder with nothing but the model of a training, of another key than 0."""
    folder = tmp_path_factory.mktemp("kept")
    study = studies.prepare(
        REAL, METHODS["dann"], padded(PAIR, ("x", "y", "z")), jax.local_devices()[:1]
    )
    state, _ = study.start(Group((7,), 1))
    keeping.keep(study, state, folder)
    return folder, state


def start_of(folder, names, method="dann"):
    config = dataclasses.replace(REAL, continue_from=folder, mu0=0.5)
    study = studies.prepare(config, METHODS[method], padded(PAIR, names), jax.local_devices()[:1])
    settings = resolved(config, study.method)
    (line,) = continuing.lines(study, [0], settings)
    states, _ = study.start(Group((0,), 1))
    own = jax.tree.map(np.array, states)
    state, ((entry),) = continuing.begun(study, Group((0,), 1), states, settings)
    return line, own, state, entry["continued"]


def assert_equal(one, other, *, same=True):
    equal = [np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)]
    assert all(equal) if same else not any(equal[1::2])  # kernels; biases are zeros


@pytest.mark.parametrize(
    ("names", "new"), [(("x", "y", "z"), []), (("p", "q", "r", "s"), ["y/logits"])]
)
def test_parameters_are_a_start_for_other_classes(names, new, kept):
    folder, before = kept
    line, own, state, continued = start_of(folder, names)
    assert line == (
        f"dann key 0 starts from the parameters of {folder} alone (it has no record.json)"
    ) + ("; y/logits begins anew: the 3 classes there are not the 4 here" if new else "")
    assert (continued["step"], continued["new"]) == (0, new)
    assert int(state.step) == 0
    for part in "fd":
        assert_equal(state.theta[part], before.theta[part])
    head = state.theta["y"].pop("logits")
    assert_equal(head, (own if new else before).theta["y"].pop("logits"))
    assert_equal(state.theta["y"], {n: v for n, v in before.theta["y"].items() if n != "logits"})
    average = state.opt_state.average["f"]
    assert_equal(average, state.theta["f"])
    with pytest.raises(AssertionError):
        assert_equal(state.theta["f"], own.theta["f"])


def test_a_domain_classifier_that_takes_something_else_begins_anew(kept):
    line, own, state, continued = start_of(kept[0], ("x", "y", "z"), method="cdan")
    assert line.endswith("; d begins anew: G_d takes something else")
    assert continued["new"] == ["d"]
    assert_equal(state.theta["d"], own.theta["d"])
    assert_equal(state.theta["f"], kept[1].theta["f"])


def test_parameters_of_other_shapes_are_refused(kept):
    config = dataclasses.replace(REAL, continue_from=kept[0], image_size=36, resize=True)
    sets = [
        datasets.ImageSet(np.zeros([8, 36, 36, 3], np.uint8), np.zeros(8, np.int32))
        for _ in range(4)
    ]
    pair = PAIR._replace(**dict(zip(PAIR._fields[:4], sets, strict=True)))
    study = studies.prepare(config, METHODS["dann"], pair, jax.local_devices()[:1])
    with pytest.raises(ValueError, match="expected parameters of the same shapes but for the cl"):
        continuing.lines(study, [0], resolved(config, study.method))
