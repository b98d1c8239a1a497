"""The benchmark: its cases and its file, its tables, and the PyTorch training beside ours."""

import dataclasses
import functools
import json
import math
import os
import pathlib
import subprocess
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import batches, networks, schedules, training
from dann_jax.backbones import AlexNet
from experiments import benchmark, configs, report, runtime
from experiments import record as result_files
from experiments.benchmark import (
    arrays,
    contents,
    course,
    equality,
    everything,
    isolated,
    rounds,
    side_by_side,
    tables,
    time_to_accuracy,
    workload,
)
from experiments.benchmark import cases as benchmark_cases
from experiments.benchmark.__main__ import main
from experiments.benchmark.options import Options
from experiments.settings import NETWORKS

pytestmark = pytest.mark.usefixtures("quick_compilation")

QUICK = ["--networks", "mnist", "--batch", "4"]


class Inline:
    """What a Worker is, in this process: small networks of a test stay small."""

    def __init__(self, kind, *arguments, cpus=None):
        self.process, self.reason = types.SimpleNamespace(kill=lambda: None), None
        try:
            self.made = kind(*arguments)
        except Exception as error:
            self.reason = isolated.failure(error)

    def send(self, name, *arguments):
        self.call = name, arguments

    def receive(self, timeout=None):
        if self.reason is not None:
            raise RuntimeError(self.reason)
        if timeout is not None and timeout <= 0:
            raise TimeoutError
        name, arguments = self.call
        try:
            return getattr(self.made, name)(*arguments)
        except Exception as error:
            raise RuntimeError(isolated.failure(error)) from error

    def ask(self, name, *arguments, timeout=None):
        self.send(name, *arguments)
        return self.receive(timeout)

    def stop(self):
        pass


@pytest.fixture
def small(monkeypatch):
    """A small network, small images, few of them and few calls, no pauses, all in this process."""

    def network(*, classes, dtype):
        return networks.DannModel(
            feature_extractor=networks.ConvolutionalFeatures((networks.Convolution(2, 3, pool=2),)),
            label_predictor=networks.FullyConnected((), classes),
            domain_classifier=networks.FullyConnected((3,), 1),
        )

    monkeypatch.setitem(workload.NETWORKS, "mnist", network)
    monkeypatch.setattr(workload, "SIZES", {"mnist": (8,)})
    monkeypatch.setattr(workload, "EXAMPLES", 8)
    monkeypatch.setattr(isolated, "SIZES", {"cpu": 16})
    monkeypatch.setattr(isolated, "MOST_CALLS", 2)
    monkeypatch.setattr(benchmark_cases, "PAUSES", {})
    for module in (benchmark_cases, everything, time_to_accuracy):
        monkeypatch.setattr(module, "Worker", Inline)


def cases(path, **labels):
    return [
        case
        for case in result_files.read(path)["cases"]
        if all(case[name] == value for name, value in labels.items())
    ]


# --- the operations of a step


@pytest.mark.parametrize(
    ("network", "pixels", "of_f", "of_y", "of_d"),
    [  # multiply-adds of an example: values of each convolution's output x weights of each value
        (
            *("mnist", 28, (24 * 24 * 32 * 75, 8 * 8 * 48 * 800)),
            *(768 * 100 + 100 * 100 + 100 * 10, 768 * 100 + 100),
        ),
        (
            *("svhn", 32, (32 * 32 * 64 * 75, 16 * 16 * 64 * 1600, 8 * 8 * 128 * 1600)),
            *(8192 * 3072 + 3072 * 2048 + 2048 * 10, 8192 * 1024 + 1024 * 1024 + 1024),
        ),
        (
            *("gtsrb", 40, (36 * 36 * 96 * 75, 16 * 16 * 144 * 864, 4 * 4 * 256 * 3600)),
            *(1024 * 512 + 512 * 43, 1024 * 1024 + 1024 * 1024 + 1024),
        ),
    ],
)
def test_flop_of_a_step_are_those_counted_by_hand(network, pixels, of_f, of_y, of_d):
    model = NETWORKS[network](**({"classes": 43} if network == "gtsrb" else {}))
    # Forward, for weights and for inputs, images excepted; G_y sees one half. Two each.
    expected = 2 * (10 * (3 * sum(of_f) - of_f[0] + 3 * of_d) + 5 * 3 * of_y)
    assert workload.flop_of_step(model, pixels, 10) == expected


# --- the program


@pytest.mark.slow  # half a minute; the tests below measure some of the cases
def test_all_cases_are_measured_and_written(small, devices, tmp_path, capsys):
    path = tmp_path / "cpu.json"
    more = ["--steps-per-call", "1", "2", "--keys", "1", "2", "--devices", "4", "5"]
    assert main([*QUICK, *more, "--rounds", "3", "--output", str(path)]) == 0
    record = contents.checked(result_files.read(path))
    assert record["finished"]
    assert record["simulated_devices"]
    assert record["processor"]
    assert "3 rounds" in capsys.readouterr().out
    assert record["command"].endswith(
        "--networks mnist --keys 1 2 --steps-per-call 1 2 --devices 4 5 --batch 4 --rounds 3"
    )
    (one, two) = cases(path, engine="ours", keys=1, devices=1)  # one program, and no other
    assert [one["steps_per_call"], two["steps_per_call"]] == [1, 2]
    (keys,) = cases(path, keys=2)
    strong, weak, *more = cases(path, devices=4) + cases(path, devices=5)
    assert [strong["batch"], weak["batch"], *(case["batch"] for case in more)] == [4, 16, 4, 20]
    times = two["step_seconds"]
    assert len(times["rounds"]) == 3
    assert sorted(times["rounds"])[1] == times["median"] > 0
    assert times["spread"] == contents.spread(times["rounds"])
    assert two["examples_per_second"] == pytest.approx(4 / times["median"])
    assert keys["examples_per_second"] == pytest.approx(8 / keys["step_seconds"]["median"])
    assert two["flop_per_second"] == pytest.approx(two["flop_per_step"] / times["median"])
    assert keys["flop_per_step"] == 2 * two["flop_per_step"]
    assert one["compile_seconds"] == two["compile_seconds"] > 0  # a loop in Python: one program
    assert two["peak_memory_bytes"] > 0
    assert cases(path, engine="product")[0]["flop_per_second"] > 0
    # What cannot be measured has a reason, and what follows is measured nevertheless.
    assert "2 source examples cannot be split over 4" in strong["reason"]
    assert weak["step_seconds"]["median"] > 0
    assert [case["reason"] for case in more] == ["this process has 4 devices"] * 2


def test_it_is_a_program():
    command = [sys.executable, "-m", "experiments.benchmark", "--help"]
    root = pathlib.Path(benchmark.__file__).parents[2]
    printed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert "python -m experiments.benchmark" in printed
    assert "--against-pytorch" in printed


ALONE = ["--steps-per-call", "1", "--keys", "1", "--devices", "--rounds", "2"]


def test_what_does_not_fit_is_left_out(small, tmp_path, monkeypatch):
    path = tmp_path / "cpu.json"
    monkeypatch.setattr(workload, "_memory", lambda d: {"bytes_limit": 100, "bytes_in_use": 0})
    assert main([*QUICK, *ALONE, "--output", str(path)]) == 0
    assert "GB are free" in cases(path, engine="ours")[0]["reason"]


def test_a_case_whose_call_takes_too_long_is_left_out(small, tmp_path, monkeypatch):
    path = tmp_path / "cpu.json"
    monkeypatch.setattr(isolated.Program, "__init__", lambda self, work: None)
    monkeypatch.setattr(isolated.Program, "prepare", lambda self, steps: {"call_seconds": 4.0})
    run = [*QUICK, "--steps-per-call", "1", "10", "--keys", "--devices", "--seconds", "30"]
    assert main([*run, "--output", str(path)]) == 0
    for case in cases(path):
        assert "5 rounds of a call of about 4" in case["reason"]
        assert "more than --seconds 30" in case["reason"]


def test_a_run_that_is_cut_off_leaves_what_it_has(small, tmp_path, monkeypatch):
    def cut(self, steps, seconds):
        if isinstance(self.call, workload.Training):
            raise KeyboardInterrupt
        return {"times": [0.1], "idle_cpu_seconds": 0.0}

    path = tmp_path / "cpu.json"
    monkeypatch.setattr(isolated.Program, "turn", cut)
    assert main([*QUICK, *ALONE, "--output", str(path)]) == 130
    record = result_files.read(path)
    assert not record["finished"]
    assert [case["engine"] for case in record["cases"]] == ["product"]


def test_a_file_is_not_overwritten_unasked(tmp_path, capsys):
    path = tmp_path / "cpu.json"
    path.write_text("kept")
    assert main([*QUICK, "--output", str(path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert path.read_text() == "kept"


@pytest.mark.parametrize(
    "wrong",
    [
        *(["--batch", "5"], ["--keys", "0"], ["--seconds", "0"], ["--steps-per-call"]),
        *(["--rounds", "0"], ["--minutes", "-1"], ["--cpus", "9999"], ["--data-dir", "."]),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_measured(wrong, tmp_path, capsys):
    path = tmp_path / "cpu.json"
    assert main([*wrong, "--output", str(path)]) == 2
    assert wrong[0] in capsys.readouterr().err
    assert not path.exists()


def test_pytorch_is_needed_only_where_it_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "versions_of", lambda *names: {})
    assert main([*QUICK, "--against-pytorch", "--output", str(tmp_path / "a.json")]) == 2
    assert "install it, or leave it out" in capsys.readouterr().err


def test_everything_is_in_an_order_and_each_work_once():
    options = Options(everything=True, minutes=9.0)
    every = benchmark_cases.groups(options, "gpu", ())
    works = [work for group in every for work in group.works]
    assert len(set(works)) == len(works)
    trained = [group for group in every if group.works[0].engine == "ours"]
    kinds = {(work.dtype, work.precision) for group in every for work in group.works}
    exact, fast = ("float32", "highest"), ("float32", "tensorfloat32")
    assert kinds == {exact, fast, ("bfloat16", "default")}
    assert len(trained) == len(kinds) * len(options.networks)
    assert [group.works[0].network for group in trained[:4]] == ["mnist"] * 3 + ["mnist_batch_norm"]
    assert {work.keys for work in trained[0].works} == {1, 4, 16}
    engines = {(work.engine, work.channels_last) for work in trained[0].works}
    both = {(engine, last) for engine in ("eager", "compiled", "cuda_graphs") for last in (0, 1)}
    assert engines == both | {("ours", None), ("loop", False)}


# --- processes and turns


def test_a_worker_is_a_process_of_its_own_on_the_cores_it_is_given():
    core = min(os.sched_getaffinity(0))
    made = isolated.Worker(pathlib.Path, "/proc/self/status", cpus=[core])
    try:
        with pytest.raises(TimeoutError):
            made.ask("read_text", timeout=0.0)
        status = dict(line.split(":\t", 1) for line in made.receive(60.0).splitlines())
        assert status["Cpus_allowed_list"] == str(core)
        assert int(status["Pid"]) != os.getpid()
        with pytest.raises(RuntimeError, match="no attribute 'nothing'"):
            made.ask("nothing", timeout=60.0)
        made.process.kill()
        with pytest.raises(RuntimeError, match="its process ended with status -9"):
            made.ask("read_text", timeout=60.0)
    finally:
        made.stop()
    assert not made.process.is_alive()


class Player:
    """A worker that says when its turn is."""

    def __init__(self, name, calls, times):
        self.name, self.calls, self.times = name, calls, iter(times)

    def ask(self, method, steps, seconds, timeout):
        self.calls.append(self.name)
        each = next(self.times)
        if isinstance(each, Exception):
            raise each
        return {"times": [each, each * 1.01, each * 9], "idle_cpu_seconds": 0.5}


def in_turn(**players):
    turns = {name: rounds.Turns(each, 2, 1.0) for name, each in players.items()}
    return rounds.in_turn(turns, 3, pause=0.0, left=lambda: 60.0)


def test_programs_take_turns_and_rounds_have_a_spread():
    calls = []
    timed = in_turn(a=Player("a", calls, [2, 4, 3]), b=Player("b", calls, [1, 1, 1]))
    assert calls == ["a", "b"] * 3
    times = timed["a"].step_seconds  # of each round the median of its calls, of two steps
    assert times.rounds == pytest.approx([1.01, 2.02, 1.515])
    assert times.median == pytest.approx(1.515)
    assert times.spread == pytest.approx(1.01 / 1.515)
    assert times.calls == 9
    assert timed["b"].step_seconds.spread == 0
    assert timed["b"].idle_cpu_seconds == 1.5


def test_a_program_that_fails_does_not_end_the_others():
    calls = []
    broken = Player("a", calls, [2, RuntimeError("out of memory"), 3])
    timed = in_turn(a=broken, again=broken, b=Player("b", calls, [1, 1, 1]))
    assert timed["a"].reason == timed["again"].reason == "out of memory"
    assert timed["a"].step_seconds is None
    assert timed["b"].step_seconds.median == pytest.approx(0.505)
    late = in_turn(a=Player("a", [], [1, TimeoutError(), 1]))
    assert late["a"].reason == "there was no time for all rounds"


@pytest.mark.slow
def test_memory_of_more_keys_is_more(small):
    subject = workload.Subject("mnist", 8, "float32")
    costs = [
        workload.Training(subject, 4, devices=jax.local_devices()[:1], keys=keys).prepare(1)
        for keys in (1, 3)
    ]
    states = jax.tree.leaves(workload.Training(subject, 4, devices=jax.local_devices()[:1]).state)
    state = sum(a.size * a.dtype.itemsize for a in states)
    few, many = (cost["peak_memory_bytes"] for cost in costs)
    assert many - few >= 2 * state  # donated: each state is there once


# --- everything in some minutes


def test_what_there_is_no_time_for_is_listed(small, tmp_path):
    path = tmp_path / "cpu.json"
    run = [*QUICK, *ALONE, "--everything", "--minutes", "0.02", "--output", str(path)]
    assert main(run) == 0
    record = contents.checked(result_files.read(path))
    assert record["finished"]
    assert record["cases"] == record["equality"] == []
    left = [each["what"] for each in record["left_out"]]
    assert "equality of mnist, default products" in left
    assert "matrix product, float32, default" in left
    assert "mnist 8 px, bfloat16, ours, steps per call 1, batch 4" in left
    assert "training of mnist_mnist_m" in left


def test_everything_measures_compares_and_trains(small, tmp_path, monkeypatch):
    class Compared:
        def compare(self, name, precision):
            return {"network": name, "precision": precision, "losses": [1.0], "same_bits": True}

    class Trained:
        def __init__(self, task):
            self.keys = task.keys
            assert task.carried == tmp_path
            assert task.settings().steps == 30_000

        def about(self):
            return {"steps": 30_000, "examples": {"source_train": 7}}

        def advance(self, stop):
            if stop > 4_000:
                raise ValueError("the disk is full")
            rows = [{"step": s, "source_accuracy": 0.9, "target_accuracy": 0.5} for s in (stop,)]
            return [row | {"key": key} for row in rows for key in self.keys]

    monkeypatch.setitem(sys.modules, "experiments.benchmark.pytorch_twin", None)  # without torch
    monkeypatch.delattr(benchmark, "pytorch_twin", raising=False)
    monkeypatch.setattr(everything, "Equality", Compared)
    monkeypatch.setattr(everything.arrays, "check", lambda folder: None)
    monkeypatch.setattr(everything, "Course", Trained)
    path = tmp_path / "cpu.json"
    run = [*QUICK, *ALONE, "--everything", "--data-dir", str(tmp_path), "--output", str(path)]
    assert main(run) == 0
    record = contents.checked(result_files.read(path))
    assert [each["network"] for each in record["equality"]] == ["mnist", "mnist_batch_norm"]
    assert {case["dtype"] for case in record["cases"]} == {"float32", "bfloat16"}
    assert {case["engine"] for case in record["cases"]} > {"ours", "eager", "compiled", "loop"}
    found = record["training"]
    assert [row["step"] for row in found["evaluations"]] == [2_000] * 5 + [4_000] * 5
    assert not found["finished"]
    assert found["reason"] == "the disk is full"
    assert record["left_out"] == [
        {"what": "the rest of the training of mnist_mnist_m", "why": "the disk is full"}
    ]


def test_this_cpu_computes_what_the_committed_one_did(monkeypatch):
    monkeypatch.setattr(equality, "LONG", 2)
    entry = contents.Equality(**equality.Equality().compare("mnist", "default"))
    assert entry.same_bits
    assert entry.max_relative_difference < 1e-5


def test_a_training_goes_on_from_carried_arrays(data_dir, tmp_path, capsys):
    folder = tmp_path / "carried"
    words = ["digits_digits_m", str(folder), "--data-dir", str(data_dir)]
    assert arrays.main([*words, "--most", "30"]) == 0
    pair = arrays.read_pair(folder)
    assert len(pair.source_train.image) == 30
    assert len(pair.target_test.image) == 20
    assert pair.provenance["digits/train"]["part"] == "the first of 40"
    task = course.Task(
        config="digits_digits_m",
        changes={"steps": 4, "evaluate_every": 2, "batch_size": 4, "network": "mnist"},
        keys=(0,),
        folder=tmp_path / "checkpoints",
        carried=folder,
    )
    ours = course.Course(task)
    assert ours.about() == {
        "steps": 4,
        "examples": dict(zip(arrays.PARTS, (30, 20, 30, 20), strict=True)),
    }
    first = ours.advance(2)
    assert [row["step"] for row in first] == [2]
    assert course.Course(task).advance(4)[0] == first[0]  # another process, after a checkpoint
    (folder / "target_test.npz").unlink()
    output = ["--output", str(tmp_path / "b.json")]
    assert main(["--everything", "--data-dir", str(folder), *output]) == 2
    assert "expected target_test.npz" in capsys.readouterr().err


# --- until an accuracy


class Runner:
    """A training whose accuracy is known beforehand."""

    steps = 40
    cut = None

    def __init__(self, task):
        assert task.changes == {"evaluate_every": 10}
        self.task = task

    def about(self):
        return {"steps": self.steps}

    def advance(self, stop):
        if stop == self.cut:
            raise KeyboardInterrupt
        return [
            {"step": s, "source_accuracy": 0.9, "target_accuracy": s / 50, "key": 0}
            for s in range(10, stop + 1, 10)
        ]


class Broken(Runner):
    def advance(self, stop):
        raise ValueError("no room")


@pytest.fixture
def race(small, tmp_path, monkeypatch):
    """Runs a race to .55 of these sides and returns the exit status and the file's content."""
    monkeypatch.setattr(runtime, "versions_of", lambda *names: {"torch": "2"})
    path = tmp_path / "race.json"

    def run(ours, loop, *more):
        sides = zip(("ours", "loop"), (ours, loop), strict=True)
        runners = {engine: (kind, engine) for engine, kind in sides}
        monkeypatch.setattr(time_to_accuracy, "RUNNERS", runners)
        words = ["--accuracy", "0.55", "--evaluate-every", "10", "--output", str(path), *more]
        return time_to_accuracy.main(words), result_files.read(path)

    return run


def test_a_race_ends_where_the_accuracy_is_reached(race, tmp_path):
    status, content = race(Runner, Broken)
    assert status == 0
    ours, loop = contents.Race(**contents.checked(content)).runners
    assert [row.step for row in ours.evaluations] == [10, 20, 30]
    assert ours.seconds == ours.evaluations[-1].seconds
    assert ours.finished
    assert loop.reason == "no room"
    assert loop.seconds is None
    head, *rows = tables.tables({"race.json": content})["time-to-accuracy"]
    assert [dict(zip(head, row, strict=True))["updates"] for row in rows] == ["30", "—"]
    assert race(Runner, Broken)[0] == 2  # it is not overwritten


def test_a_race_that_is_cut_off_goes_on(race):
    class Cut(Runner):
        cut = 30

    status, content = race(Cut, Runner)
    assert status == 130
    assert len(content["runners"][0]["evaluations"]) == 2
    assert race(Cut, Runner, "--key", "1")[0] == 2  # another race
    status, content = race(Runner, Runner)
    assert status == 0
    ours, loop = content["runners"]
    assert (ours["restarts"], loop["restarts"]) == (1, 0)
    assert [row["step"] for row in ours["evaluations"]] == [10, 20, 30]
    times = [row["seconds"] for row in ours["evaluations"]]
    assert times == sorted(times)


def test_the_loop_has_our_schedules():
    config, _ = configs.find_config("mnist_mnist_m_batch_norm")
    for step in (0, 1234, 20_000):
        p = schedules.progress(step, config.steps)
        mu = schedules.mu_p(p, config.mu0, config.alpha, config.beta)
        lam = config.lambda_max * schedules.lambda_p(p, config.gamma)
        np.testing.assert_allclose(course.schedules(config, step), (lam, mu), rtol=1e-5)
    course.check_loop(config)
    with pytest.raises(ValueError, match="other values of optimizer, normalize_images"):
        course.check_loop(configs.find_config("mnist_mnist_m_compact")[0])


# --- the tables


def case_of(engine="ours", rounds=(0.0575, 0.0581, 0.0599), **labels):
    """A case of a file, of five rounds."""
    times = contents.times(list(rounds), 20).model_dump()
    about = {
        "engine": engine, "channels_last": None if engine == "ours" else False, "network": "mnist",
        "pixels": 28, "dtype": "float32", "precision": "default", "batch": 128, "keys": 1,
        "devices": 1, "steps_per_call": 10, "step_seconds": times, "examples_per_second": 2203.1,
        "flop_per_step": 100, "flop_per_second": 5.04e10, "lowering_seconds": 0.5,
        "compile_seconds": 1.3, "peak_memory_bytes": 91_000_000, "idle_cpu_seconds": 0.1,
    }  # fmt: skip
    about |= labels
    if "reason" in labels:
        del about["step_seconds"]
    return about


def record_of(*cases, **entries):
    """A file with these cases."""
    product = case_of("product", network=None, pixels=None, flop_per_second=1.2e11)
    product["channels_last"] = None
    return {
        "benchmark_format": 2, "device": "cpu", "platform": "cpu", "device_count": 1,
        "processor": "A CPU (model 17)", "cores": 2, "versions": {"jax": "1"}, "command": "c",
        "load_average": 0.1, "finished": True, "wall_seconds": 5.0, "simulated_devices": False,
        "compiler_options": None, "XLA_FLAGS": "", "examples": 2048, "rounds": 3, "seconds": 10.0,
        "cases": [product, *cases],
    } | entries  # fmt: skip


def rows_of(records, title, **options):
    head, *rows = tables.tables(records, **options)[title]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_machines_stand_side_by_side():
    gpu = record_of(case_of(precision="tensorfloat32"), platform="gpu", device="A GPU")
    failed = record_of(case_of(network="gtsrb", pixels=40, reason="needs 9 GB more"))
    slower = [1.6 * t for t in (0.0575, 0.0581, 0.0599)]
    cpu = record_of(
        case_of(),
        case_of("eager", rounds=slower),
        case_of("cuda_graphs", channels_last=True, reason="no room"),
    )
    for each in (gpu, failed, cpu):
        contents.checked(each)
    rows = rows_of({"a.json": cpu, "g.json": gpu, "z.json": failed}, "benchmark")
    assert [(row["network"], row["arithmetic"], row["device"]) for row in rows] == [
        ("gtsrb, 40 px", "float32", "A CPU (model 17), 2 cores"),
        ("mnist, 28 px", "TF32", "A GPU"),
        ("mnist, 28 px", "float32", "A CPU (model 17), 2 cores"),
    ]
    assert rows[0]["ms a step"] == "needs 9 GB more"
    assert {name: rows[2][name] for name in list(rows[2])[4:]} == {
        "ms a step": "58.1 (±2.1%)",
        "examples/s": "2,203",
        "compile s": "1.8",
        "GFLOP/s (share of product)": "50 (42%)",
        "peak MB": "91",
        "PyTorch / ours": "eager 1.60, CUDA graphs channels last —",
        "measured in": "3 rounds",
        "file": "[json](experiments/results/benchmark/a.json)",
    }


def test_files_of_any_format_are_shown_beside_each_other(tmp_path, capsys):
    new = tmp_path / "new.json"
    new.write_text(json.dumps(record_of(case_of())))
    assert side_by_side.main([str(new), str(report.BENCHMARKS / "cpu.json")]) == 0
    printed = capsys.readouterr().out
    assert "58.1" in printed  # ms, of the one
    assert "25.6" in printed  # and of the other
    assert "device" in printed
    assert side_by_side.main([str(tmp_path / "none.json")]) == 2
    assert "none.json: expected the file of a benchmark, got none" in capsys.readouterr().err
    new.write_text("{}")
    assert side_by_side.main([str(new)]) == 2
    assert "expected the file of a benchmark, got another" in capsys.readouterr().err


def test_a_case_whose_rounds_differ_is_marked():
    loose = record_of(case_of(rounds=(0.05, 0.055, 0.06)), case_of("eager"))
    (row,) = rows_of({"a": loose}, "benchmark")
    assert row["ms a step"] == "rounds differ by 18%"
    assert row["examples/s"] == row["GFLOP/s (share of product)"] == "—"
    assert row["PyTorch / ours"] == "eager —"
    # Of rounds that differ because the machine does, the ratio is known.
    both = [case_of(e, rounds=(0.05, 0.055, 0.06)) for e in ("ours", "eager")]
    assert rows_of({"a": record_of(*both)}, "benchmark")[0]["PyTorch / ours"] == "eager 1.00"


def test_calls_keys_and_devices_have_tables():
    record = record_of(
        case_of(steps_per_call=1),
        case_of(),
        case_of(keys=4, rounds=(0.115, 0.1162, 0.1198)),
        case_of(devices=4, batch=512),
        case_of(devices=4, reason="cannot be split"),
        simulated_devices=True,
    )
    assert [row["steps a call"] for row in rows_of({"a": record}, "steps-per-call")] == ["1", "10"]
    (keys,) = rows_of({"a": record}, "keys")
    assert (keys["keys"], keys["times one key"]) == ("4", "2.00")
    weak, strong = rows_of({"a": record}, "devices")
    assert (weak["scaling"], weak["devices"]) == ("weak", "4 simulated")
    assert weak["times one device's examples/s"] == "4.00"
    assert (strong["scaling"], strong["ms a step"]) == ("strong", "cannot be split")
    for title in ("benchmark", "keys", "steps-per-call"):
        assert rows_of({"a": record}, title, simulated=False) == []
    assert len(rows_of({"a": record}, "devices", simulated=False)) == 2


def test_the_same_work_has_one_entry():
    with pytest.raises(ValueError, match="the same work has several entries"):
        contents.checked(record_of(case_of(), case_of()))


def test_files_of_before_are_still_read():
    old = result_files.read(report.BENCHMARKS / "cpu.json")
    rows = rows_of({"cpu.json": old}, "benchmark")
    (row,) = (row for row in rows if row["network"] == "mnist, 28 px")
    assert row["ms a step"] == "25.6 (quartiles 24.3–25.7)"
    assert row["PyTorch / ours"] == "eager 1.30, eager channels last 1.04"
    assert row["measured in"] == "one process"


def test_report_checks_every_document(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "BENCHMARKS", tmp_path)
    simulated = record_of(case_of(examples_per_second=999.0), simulated_devices=True)
    (tmp_path / "cpu_simulated.json").write_text(json.dumps(simulated))
    (tmp_path / "cpu.json").write_text(json.dumps(record_of(case_of())))
    readme, speed = tmp_path / "README.md", tmp_path / "speed.md"
    readme.write_text("<!-- benchmark: begin -->\nold\n<!-- benchmark: end -->\nrest\n")
    speed.write_text("<!-- keys: begin -->\n<!-- keys: end -->\n")
    paths = [str(readme), str(speed)]
    assert report.main(["--check", *paths]) == 1
    assert "old" in readme.read_text()
    assert report.main(paths) == 0
    assert "58.1" in readme.read_text()
    assert readme.read_text().endswith("rest\n")
    assert "| 999 |" not in readme.read_text()
    assert report.main(["--check", *paths]) == 0
    speed.write_text("<!-- keys: begin -->\n")
    capsys.readouterr()
    assert report.main(["--check", *paths]) == 2
    assert "<!-- keys: end -->" in capsys.readouterr().err
    (tmp_path / "cpu.json").write_text(json.dumps(record_of(case_of(), rounds=0)))
    assert report.main(["--check", str(readme)]) == 2
    assert "cpu.json is no benchmark" in capsys.readouterr().err


# --- PyTorch


@pytest.fixture
def pytorch():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from experiments.benchmark import pytorch_twin

    return pytorch_twin


def layers(theta):
    """The kernels, or scales, and biases of a part, in the order of its layers."""
    if "kernel" in theta or "scale" in theta:
        return [theta]

    def place(name):  # conv1, norm1, conv2 ...; bottleneck, norm
        number = "".join(filter(str.isdigit, name))
        return int(number) if number else math.inf, name

    return [layer for name in sorted(theta, key=place) for layer in layers(theta[name])]


def as_pytorch(theta):
    """Weights and biases of each part, ours in PyTorch's layout."""
    found, channels, flat = {}, None, False
    for part in "fyd":
        found[part] = []
        for i, layer in enumerate(layers(theta[part])):
            if "scale" in layer:
                found[part] += [np.asarray(layer["scale"]), np.asarray(layer["bias"])]
                continue
            kernel = np.asarray(layer["kernel"])
            if kernel.ndim == 4:
                kernel, channels = kernel.transpose(3, 2, 0, 1), kernel.shape[3]
            elif (part == "f" and not flat) or (part != "f" and i == 0 and not flat):
                side = math.isqrt(len(kernel) // channels)  # features are flattened otherwise
                kernel = kernel.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
                kernel = kernel.reshape(len(kernel), -1)
                flat = part == "f"
            else:
                kernel = kernel.T
            found[part] += [kernel, np.asarray(layer["bias"])]
    return found


def take(parts, theta):
    """Gives the modules of PyTorch our parameters."""
    for part, values in as_pytorch(theta).items():
        for parameter, value in zip(parts[part].parameters(), values, strict=True):
            parameter.data.copy_(parameter.new_tensor(value.copy()))


def without_dropout(name):
    if name == "office_alexnet":
        model = networks.office(AlexNet(dropout_rate=0.0))
        domain_classifier = model.domain_classifier.clone(dropout_rate=0.0)
        return dataclasses.replace(model, domain_classifier=domain_classifier)
    if name in ("svhn", "compact"):
        bounded = name == "svhn"
        options = {"kernel_init": nn.initializers.he_normal()} if bounded else {}
        model = getattr(networks, name)(**options)
        layers = model.feature_extractor.layers
        return dataclasses.replace(
            model,
            feature_extractor=model.feature_extractor.clone(
                layers=tuple(layer._replace(dropout_rate=0.0) for layer in layers),
                input_dropout_rate=0.0,
            ),
            label_predictor=model.label_predictor.clone(dropout_rate=0.0),
            max_norm=1.4 if bounded else None,  # a bound that some units exceed
        )
    return getattr(networks, name)()


DEEP = "office_alexnet", "compact"


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("name", "pixels", "classes"),
    [
        *(("mnist", 28, 10), ("svhn", 32, 10), ("gtsrb", 40, 43), ("office_alexnet", 227, 31)),
        *(("mnist_batch_norm", 32, 10), ("compact", 32, 10)),
    ],
)
def test_pytorch_makes_the_same_update(pytorch, name, pixels, classes, channels_last):
    torch = pytorch.torch
    model, normed = without_dropout(name), name in ("mnist_batch_norm", "compact")
    n = 12 if normed else 3  # few examples have small deviations to divide by
    draw = np.random.default_rng(0)
    image = functools.partial(draw.integers, 256, size=(n, pixels, pixels, 3), dtype=np.uint8)
    labels = draw.integers(classes, size=n, dtype=np.int32)
    arrays = batches.DomainArrays(image(), labels, image())
    # These are deep: at 0.01 a ReLU that rounding turns over shows in the fourth decimal.
    lam, mu = float(schedules.lambda_p(0.5)), 0.001 if name in DEEP else 0.01

    least = 2e-4 if name == "compact" else 1e-3  # by which some parameter of each part changes
    optimizer = training.make_optimizer(mu)
    state = training.init_state(
        model, optimizer, jax.random.key(0), jnp.zeros([2, pixels, pixels, 3])
    )
    mode = pytorch.Mode("eager", channels_last)
    theirs = pytorch.Training(model, arrays, batch=2 * n, mode=mode)
    take(theirs.parts, state.theta)

    indices = draw.permutation(n), draw.permutation(n)
    batch = workload.preprocess(batches.gather(arrays, *indices))
    x = np.concatenate([batch.source_image, batch.target_image])
    if not normed:
        f, y, d = (
            functools.partial(part.apply, {"params": state.theta[name]})
            for name, part in zip(
                "fyd",
                (model.feature_extractor, model.label_predictor, model.domain_classifier),
                strict=True,
            )
        )
        with torch.no_grad():
            features = theirs.parts["f"](torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
            for name, of_ours in (("y", y), ("d", d)):
                logits = theirs.parts[name](features).numpy()
                np.testing.assert_allclose(logits, of_ours(f(x)), atol=1e-4)

    update = training.make_update_step(model, optimizer, lam)
    after, metrics = jax.jit(update)(state, batch, jax.random.key(0))
    loss = theirs.update(*map(torch.from_numpy, indices), lam, mu).item()
    np.testing.assert_allclose(loss, metrics.label_loss + metrics.domain_loss, rtol=1e-4)
    for part, values in as_pytorch(after.theta).items():
        for parameter, value in zip(theirs.parts[part].parameters(), values, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), value, atol=least / 10)
        before = as_pytorch(state.theta)[part]
        assert max(abs(a - b).max() for a, b in zip(values, before, strict=True)) > least


def test_pytorch_has_our_schedules(pytorch):
    for step in (0, 1234, 10_000, 20_000):
        p = schedules.progress(step, workload.HORIZON)
        expected = schedules.lambda_p(p), schedules.mu_p(p)
        np.testing.assert_allclose(pytorch.schedules(step), expected, rtol=1e-5)


def test_a_network_without_translation_has_a_reason(pytorch):
    with pytest.raises(ValueError, match="no translation"):
        pytorch.translated(networks.compact(bottleneck=False), 32)


def test_the_loop_as_people_write_it_makes_the_same_updates(pytorch):
    torch = pytorch.torch
    from experiments.benchmark import pytorch_loop

    model, n, steps = networks.mnist_batch_norm(), 8, 3
    draw = np.random.default_rng(0)
    image = functools.partial(draw.integers, 256, size=(n, 32, 32, 3), dtype=np.uint8)
    arrays = batches.DomainArrays(image(), draw.integers(10, size=n, dtype=np.int32), image())
    mode = pytorch.Mode("eager", False)
    theirs = pytorch.Training(model, arrays, batch=2 * n, mode=mode)
    loop = pytorch_loop.of_random_images(model, arrays, batch=2 * n, bfloat16=False, platform="cpu")
    for name, part in loop.parts.items():
        part.load_state_dict(theirs.parts[name].state_dict())
    source, target = [
        list(torch.utils.data.default_collate(list(s)))
        for s in (
            pytorch_loop.Images(arrays.source_image, arrays.source_label, [127.5] * 3, 255.0),
            pytorch_loop.Images(arrays.target_image, None, [127.5] * 3, 255.0),
        )
    ]
    loop.batches = [iter([each] * steps) for each in (source, target)]
    loop(steps)
    for step in range(steps):
        theirs.update(torch.arange(n), torch.arange(n), *pytorch.schedules(step))
    for name, part in loop.parts.items():
        expected = theirs.parts[name].state_dict()
        for entry, value in part.state_dict().items():
            np.testing.assert_allclose(value, expected[entry], atol=2e-5, err_msg=entry)


@pytest.mark.filterwarnings("ignore:.*fork")  # readers of images beside JAX
def test_accuracy_of_the_loop_uses_the_averages_of_the_domain(pytorch):
    from experiments.benchmark import pytorch_loop

    parts = pytorch.translated(networks.mnist_batch_norm(), 32)
    norm = next(m for m in parts["f"].modules() if isinstance(m, pytorch.DomainNorm))
    norm.target_mean.fill_(float("nan"))
    draw = np.random.default_rng(0)
    image = draw.integers(256, size=(6, 32, 32, 1), dtype=np.uint8)
    with pytorch.torch.no_grad():
        images = pytorch_loop.Images(image, np.zeros(6, np.int32), [1.0], 255.0)
        x = pytorch.torch.stack([images[i][0] for i in range(6)])
        pytorch.set_domain(parts, 0)
        classes = parts["y"].eval()(parts["f"].eval()(x)).argmax(1).numpy()
    images.label = classes
    assert pytorch_loop.accuracy(parts, images, 0) == 1.0
    images.label = 1 + 0 * classes  # of what is not a number, the first is the largest
    assert pytorch_loop.accuracy(parts, images, 1) == 0.0
    assert parts["f"].training


@pytest.mark.filterwarnings("ignore")  # of PyTorch's own code, and of a fork beside JAX
@pytest.mark.slow  # a compilation by a C++ compiler, and two processes that read images
def test_pytorch_is_measured_in_turn(pytorch, small, tmp_path):
    path = tmp_path / "cpu.json"
    run = [*QUICK, *ALONE, "--seconds", "60", "--output", str(path), "--against-pytorch"]
    assert main(run) == 0
    of_pytorch = [case for case in cases(path, network="mnist") if case["engine"] != "ours"]
    assert [(case["engine"], case["channels_last"]) for case in of_pytorch] == [
        *(("eager", False), ("eager", True), ("compiled", False), ("compiled", True)),
        ("loop", False),
    ]
    for case in of_pytorch:
        assert case["step_seconds"]["median"] > 0, case
