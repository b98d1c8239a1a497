"""A signal costs nothing: a training saves, ends, and goes on with the same bits."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from test_distributed import free_port
from test_streamed import Records
from test_together import CONFIG, PAIR, prepared, small_config

from dann_jax import checkpoints, evaluation
from dann_jax.datasets.streamed import Streamed
from experiments import interruption, pacing, record, run, studies, train
from experiments.interruption import Interruption
from experiments.methods import METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation")

SECONDS = 120  # after which a process is given up
EQUAL = "curves", "evaluations", "warnings", "target_accuracy", "source_accuracy", "digests"


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_raises_where_no_training_looks_for_it(number, status):
    before = signal.getsignal(number)
    with pytest.raises(Interruption) as stop, interruption.handled():
        signal.raise_signal(number)
    assert stop.value.status == status
    assert signal.getsignal(number) is before
    assert not interruption.received()


def test_a_training_is_not_torn_apart_and_what_follows_it_does_not_start():
    steps = []

    def training():
        with interruption.held():
            steps.append("begun")
            signal.raise_signal(signal.SIGTERM)
            with contextlib.suppress(Interruption), interruption.raised():
                steps.append("evaluation")
            steps.append("saved")

    with interruption.handled():
        for _ in range(2):
            with pytest.raises(Interruption):
                training()
        interruption._NOW.first = 0
    assert steps == ["begun", "saved"]


def test_a_signal_whose_exception_is_swallowed_ends_the_run_later():
    def swallowing():
        with interruption.handled():
            with contextlib.suppress(BaseException):  # as a callback of JAX may
                signal.raise_signal(signal.SIGINT)
            assert interruption.received() == signal.SIGINT

    with pytest.raises(Interruption):
        swallowing()


def test_a_signal_while_a_program_imports_ends_it_without_a_trace():
    words = [sys.executable, "-m", "experiments.curves", "--help"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        status = pathlib.Path(f"/proc/{program.pid}/status")
        bit = 1 << (signal.SIGINT - 1)
        caught = [0]  # Python's own handler comes, and then it goes
        while len(caught) < 3:
            (line,) = [each for each in status.read_text().splitlines() if "SigCgt" in each]
            now = int(line.split()[1], 16) & bit
            caught += [now] * (now != caught[-1])
        program.send_signal(signal.SIGINT)
        assert program.communicate(timeout=20) == (b"", b"")
    assert program.returncode == -signal.SIGINT


def test_other_threads_are_left_without_handlers():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with interruption.handled():
            interruption.install()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_second_signal_ends_the_process_and_one_that_is_sent_twice_does_not(monkeypatch):
    reader, writer = os.pipe()
    os.write(writer, bytes([signal.SIGCHLD, signal.SIGINT, signal.SIGINT, signal.SIGTERM]))
    os.close(writer)
    clock, ended = iter([5.0, 5.1, 6.0]), []
    monkeypatch.setattr(interruption.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(interruption.os, "_exit", ended.append)
    interruption._end_at_the_second(reader)
    os.close(reader)
    assert ended == [143]


# --- trainings -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ready(quick_compilation):
    return prepared(1)


@pytest.fixture
def slow(monkeypatch):
    """Calls of one step each, as where a step takes many seconds."""
    monkeypatch.setattr(pacing, "SECONDS", 0.0)


def signalled(study, at, number=signal.SIGTERM):
    """The study with a signal in one of the calls of its program."""
    calls = itertools.count(1)

    def program(group):
        steps = study.program(group)

        def call(*arguments):
            if next(calls) == at:
                signal.raise_signal(number)
            return steps(*arguments)

        return call

    return dataclasses.replace(study, program=program)


def interrupted(study, at, *arguments, **options):
    """Trains until the signal, and returns what is said then."""
    with pytest.raises(Interruption) as stop, interruption.handled():
        train.train(signalled(study, at), *arguments, **options)
    return str(stop.value)


def assert_same(records, expected):
    for each, other in zip(records, expected, strict=True):
        assert {name: each[name] for name in EQUAL} == {name: other[name] for name in EQUAL}


@pytest.mark.parametrize("keys", [[3], [0, 1, 2]])
def test_a_training_that_is_interrupted_at_every_step_has_the_same_bits(
    keys, ready, slow, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "LOG_EVERY", 4)
    config = dataclasses.replace(CONFIG, evaluate_every=3)  # entries of steps 3, 4 and 6
    ready = dataclasses.replace(ready, config=config)
    options = {"together": None}
    whole = train.train(ready, keys, tmp_path / "whole", **options)
    assert [entry["step"] for entry in whole[0]["curves"]] == [3, 4, 6]
    folder = tmp_path / "cut"
    for step in range(1, 7):
        told = interrupted(ready, 1, keys, folder, **options)
        assert f"is saved at step {step} of 6, and the same command goes on from there" in told
        assert checkpoints.Checkpoints(folder / f"key_{keys[0]}/checkpoint").latest_step() == step
    steps = []
    resumed = train.train(ready, keys, folder, **options, report=lambda r: steps.append(r.step))
    assert set(steps) == {6}, "only the last evaluation was missing"
    assert_same(resumed, whole)
    assert not (folder / f"key_{keys[0]}" / "checkpoint").exists()


def test_steps_that_are_fast_are_not_cut(ready, tmp_path):
    counts = []

    def program(group):
        steps = ready.program(group)
        return lambda *a: counts.append(a[-1]) or steps(*a)

    train.train(dataclasses.replace(ready, program=program), [0], tmp_path)
    assert counts == [1, 1, 2, 2]  # up to each evaluation; one is compiled and one timed


def test_a_signal_in_an_evaluation_keeps_all_steps(ready, tmp_path, monkeypatch):
    whole = train.train(ready, [3], tmp_path / "whole")
    predict, calls = evaluation.predict, itertools.count(1)

    def interrupting(*arguments, **options):
        if next(calls) == 4:  # of the target at step 4
            signal.raise_signal(signal.SIGINT)
        return predict(*arguments, **options)

    with monkeypatch.context() as patch, interruption.handled():
        patch.setattr(evaluation, "predict", interrupting)
        with pytest.raises(Interruption, match="is saved at step 4 of 6"):
            train.train(ready, [3], tmp_path / "cut")
        interruption._NOW.first = 0
    assert_same(train.train(ready, [3], tmp_path / "cut"), whole)


def test_a_checkpoint_is_due_after_some_time(ready, slow, tmp_path, monkeypatch):
    saved = []
    save = checkpoints.Checkpoints.save

    def spied(self, step, tree):
        save(self, step, tree)
        saved.append(step)
        if step == 5:
            raise OSError("cut off")

    whole = train.train(ready, [3], tmp_path / "whole", checkpoint_minutes=np.inf)
    monkeypatch.setattr(checkpoints.Checkpoints, "save", spied)
    with pytest.raises(OSError, match="cut off"):
        train.train(ready, [3], tmp_path / "cut", checkpoint_minutes=1e-9)
    assert saved == [1, 2, 3, 4, 5]
    assert_same(train.train(ready, [3], tmp_path / "cut"), whole)


def test_a_record_without_the_steps_of_its_checkpoint_begins_anew(ready, slow, tmp_path):
    whole = train.train(ready, [3], tmp_path / "whole")
    interrupted(ready, 3, [3], tmp_path / "cut")
    path = tmp_path / "cut/key_3/record.json"
    content = record.read(path)
    assert [row["step"] for row in content["unfinished"]] == [3]
    record.write_checked(path, content | {"unfinished": []})
    steps = []
    resumed = train.train(ready, [3], tmp_path / "cut", report=lambda r: steps.append(r.step))
    assert min(steps) == 2
    assert_same(resumed, whole)


def test_a_streamed_training_that_is_interrupted_has_the_same_bits(slow, tmp_path):
    def streamed(images):
        rows = [{"image": i, "label": n} for i, n in zip(images.image, images.label, strict=True)]
        return Streamed(Records(rows), 8, "letters")

    pair = PAIR._replace(
        source_train=streamed(PAIR.source_train), target_train=streamed(PAIR.target_train)
    )
    with small_config():
        study = studies.prepare(CONFIG, METHODS["dann"], pair, jax.local_devices()[:1])
    whole = train.train(study, [3], tmp_path / "whole")
    assert "is saved at step 3" in interrupted(study, 3, [3], tmp_path / "cut")
    assert_same(train.train(study, [3], tmp_path / "cut"), whole)


# --- the command line ----------------------------------------------------------------------------


def call(*options):
    with small_config(dataclasses.replace(CONFIG, baseline_steps=2)):
        return run.main(["small", "--methods", "dann", "--no-svm", *options])


def test_the_command_line_says_what_is_saved_and_goes_on(tmp_path, monkeypatch, capfd):
    prepare = studies.prepare
    monkeypatch.setattr(studies, "prepare", lambda *a: signalled(prepare(*a), 3, signal.SIGINT))
    where = ["--output", str(tmp_path)]
    assert call(*where) == 130
    told = capfd.readouterr().err
    assert "stopping: a second signal ends the process at once" in told
    assert "interrupted: dann, key 0, is saved at step 4 of 6, and the same command goes" in told
    monkeypatch.setattr(studies, "prepare", prepare)
    assert call(*where) == 0
    assert "key 0 step 2:" not in capfd.readouterr().out
    result = record.read(tmp_path / "small/dann.json")
    assert [e for e in result["curves"][0]["training"]["step"]] == [2, 4, 6]


def started(*options):
    environment = os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
        "PYTHONUNBUFFERED": "1",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }
    command = [sys.executable, "-W", "error", __file__, "--steps", "1000000", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"ended without {text!r}: {process.communicate()[1]}")


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_that_the_next_one_does_not_remove(tmp_path):
    where = ["--output", str(tmp_path), "--checkpoint-minutes", "1e-9"]
    process = started(*where)
    wait_for(process, "key 0 step 20:")
    process.kill()
    process.communicate()
    folder = tmp_path / "small"
    step = checkpoints.Checkpoints(folder / "dann/key_0/checkpoint").latest_step()
    assert step >= 18
    left = folder / "dann/key_0" / ".record-abcd1234.json", folder / ".dann-abcd1234.json"
    for path in left:
        path.write_text("{")
    process = started(*where)
    wait_for(process, f"key 0 step {step + 2 + step % 2}:")
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 143, told
    assert "dann, key 0, is saved at step" in told
    assert not any(path.exists() for path in left)


@pytest.mark.slow
def test_of_several_processes_all_end_at_one_step(tmp_path):
    where = ["--distributed", "--coordinator", f"localhost:{free_port()}", "--processes", "2"]
    output = ["--output", str(tmp_path)]
    both = [started(*where, "--process-id", str(i), *output) for i in range(2)]
    try:
        wait_for(both[0], "key 0 step 20:")
        both[1].send_signal(signal.SIGTERM)
        told = [process.communicate(timeout=SECONDS)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [143, 143], told
    saved = [line for text in told for line in text.splitlines() if "is saved at step" in line]
    assert len(saved) == 2
    assert len(set(saved)) == 1


if __name__ == "__main__":
    sys.exit(call(*sys.argv[1:]))
