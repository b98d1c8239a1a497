"""What trainings log: each row once, whatever was interrupted."""

import dataclasses
import json
import sys
import types

import jax
import pytest
from test_interruption import interrupted
from test_together import CONFIG, PAIR, prepared, small_config

from experiments import logs, pacing, run, studies, train
from experiments.methods import METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def ready(quick_compilation):
    return prepared(1)


@pytest.fixture
def slow(monkeypatch):
    """Calls of one step each, and entries of the curves at steps 2, 4 and 6, 3 and 6 evaluated."""
    monkeypatch.setattr(pacing, "SECONDS", 0.0)
    monkeypatch.setattr(train, "LOG_EVERY", 2)


def entries(folder):
    def refuse(text):
        raise ValueError(f"not JSON: {text}")

    lines = (folder / logs.FILE).read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("keys", [[3, 4], [0, 1, 2]])
def test_a_log_that_was_cut_off_anywhere_is_that_of_a_whole_training(keys, ready, tmp_path):
    study = dataclasses.replace(ready, config=dataclasses.replace(CONFIG, evaluate_every=3))
    options = {"together": 1 if len(keys) == 2 else None}
    records = train.train(study, keys, tmp_path / "whole", **options)
    whole = entries(tmp_path / "whole")
    places = [(row["key"], row["step"]) for row in whole]
    assert sorted(places) == [(key, step) for key in keys for step in (2, 3, 4, 6)]
    assert whole[-1]["target_accuracy"] == records[-1]["target_accuracy"]
    assert [("target_accuracy" in row) for row in whole if row["key"] == keys[0]] == [
        False, True, False, True,
    ]  # fmt: skip
    folder = tmp_path / "cut"
    for calls in [1, 2, 1, 1] if len(keys) == 3 else [3, 4]:  # at 1, 3, 4 and 5; or 3, then key 4
        interrupted(study, calls, keys, folder, **options)
        with (folder / logs.FILE).open("a") as file:  # a kill may come later than a checkpoint
            file.write(f'{{"key": {keys[0]}, "step": 99}}\n{{"key": {keys[0]}, "st')
    train.train(study, keys, folder, **options)
    assert (folder / logs.FILE).read_bytes() == (tmp_path / "whole" / logs.FILE).read_bytes()


def test_what_is_not_finite_or_absent_is_null(tmp_path):
    with small_config():
        study = studies.prepare(CONFIG, METHODS["source-only"], PAIR, jax.local_devices()[:1])
    train.train(study, [0], tmp_path)
    assert all(row["domain_loss"] is None for row in entries(tmp_path))
    row = logs.row(7, {"step": 2, "lam": float("inf"), "penalties": {"mmd": 0.5}}, {})
    assert logs.record.as_line(row) == (
        '{"key": 7, "step": 2, "lam": null, "penalties.mmd": 0.5}\n'
    )


def test_event_files_hold_each_step_once(ready, tmp_path, slow):
    tensorboard = pytest.importorskip("tensorboardX")
    told = interrupted(ready, 4, [3], tmp_path, log=["tensorboard"])
    assert "is saved at step 4" in told
    train.train(ready, [3], tmp_path, log=["tensorboard"])
    (path,) = (tmp_path / "key_3" / "tensorboard").iterdir()
    steps, data = [], path.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        event = tensorboard.proto.event_pb2.Event.FromString(data[12 : 12 + length])
        steps += [event.step for each in event.summary.value if each.tag == "label_loss"]
        data = data[16 + length :]
    assert steps == [2, 4, 6]


@pytest.fixture
def fake(monkeypatch):
    """A package wandb whose service keeps the rows of each run."""
    service = {}

    class Run:
        def __init__(self, id):
            self.id, self.rows = id, service.setdefault(id, [])
            self.finished = 0

        @property
        def step(self):
            return self.rows[-1][0] + 1 if self.rows else 0

        def log(self, values, step):
            assert not self.finished
            assert step >= self.step
            self.rows.append((step, values))

        def finish(self):
            self.finished += 1

    def init(*, id, resume, reinit, config, **about):
        assert (resume, reinit, config["method"]) == ("allow", "create_new", "dann")
        if "error" in service:
            raise fake.Error("No API key configured.\n Use `wandb login`")
        return Run(id)

    fake = types.ModuleType("wandb")
    fake.Error, fake.Settings, fake.init = type("Error", (Exception,), {}), dict, init
    fake.__spec__ = types.SimpleNamespace(name="wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return service


@pytest.mark.usefixtures("slow")
def test_a_run_of_weights_and_biases_goes_on(ready, tmp_path, fake):
    interrupted(ready, 4, [0, 1, 2], tmp_path, log=["wandb"], together=None)
    train.train(ready, [0, 1, 2], tmp_path, log=["wandb"], together=None)
    assert len(fake) == 3
    for rows in fake.values():
        assert [step for step, _ in rows] == [2, 4, 6]
        assert "target_accuracy" in rows[-1][1]
    fake["error"] = True
    with pytest.raises(ValueError, match="No API key configured. Use .* set WANDB_API_KEY, or"):
        train.train(ready, [9], tmp_path, log=["wandb"])


def test_a_package_that_is_missing_is_told_before_a_training(tmp_path, monkeypatch, capsys):
    def no_training(*_, **__):
        raise AssertionError("a training was started")

    monkeypatch.setattr(train, "train", no_training)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with small_config():
        where = ["--output", str(tmp_path), "--methods", "dann"]
        assert run.main(["small", *where, "--log", "tensorboard"]) == 2
    told = capsys.readouterr().err
    assert "--log tensorboard needs the package tensorboardX" in told
    assert "pip install tensorboardX" in told
    assert not list(tmp_path.iterdir())
