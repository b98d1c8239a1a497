"""The benchmark: its cases and its file, its tables, and the PyTorch training beside ours."""

import dataclasses
import functools
import json
import math
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import batches, networks, schedules, training
from dann_jax.backbones import AlexNet
from experiments import benchmark, report
from experiments import record as result_files
from experiments.benchmark import measures, tables, workload
from experiments.benchmark.__main__ import main
from experiments.settings import NETWORKS

pytestmark = pytest.mark.usefixtures("quick_compilation")

QUICK = ["--networks", "mnist", "--batch", "4"]


@pytest.fixture
def small(monkeypatch):
    """A small network, small images, few of them and few calls, and no pauses."""

    def network(*, classes, dtype):
        return networks.DannModel(
            feature_extractor=networks.ConvolutionalFeatures((networks.Convolution(2, 3, pool=2),)),
            label_predictor=networks.FullyConnected((), classes),
            domain_classifier=networks.FullyConnected((3,), 1),
        )

    monkeypatch.setitem(workload.NETWORKS, "mnist", network)
    monkeypatch.setattr(workload, "SIZES", {"mnist": (8,)})
    monkeypatch.setattr(workload, "EXAMPLES", 8)
    monkeypatch.setattr(measures, "PRODUCT", {"cpu": 16})
    monkeypatch.setattr(measures, "PAUSE", 0.0)
    monkeypatch.setattr(measures, "REPEATS", 2)


def cases(path):
    found = {}
    for case in result_files.read(path)["cases"]:
        found.setdefault(case["measures"], []).append(case)
    return found


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
    more = ["--steps-per-call", "2", "--keys", "2", "--devices", "4", "5"]
    assert main([*QUICK, *more, "--output", str(path)]) == 0
    record = result_files.read(path)
    assert record["finished"]
    assert record["simulated_devices"]
    assert capsys.readouterr().out.startswith("8 cases, each with up to 30 s of calls")
    assert len(record["cases"]) == 8
    assert record["compilation_cache"] == "off"
    assert record["command"].endswith(
        "--networks mnist --keys 2 --steps-per-call 2 --devices 4 5 --batch 4"
    )
    found = cases(path)
    assert [case["steps_per_call"] for case in found["steps_per_call"]] == [2]
    assert [case["times_one_key"] > 0 for case in found["keys"]] == [True]
    for scaling, sizes in (("strong", [4, 4]), ("weak", [16, 20])):
        assert [case["batch"] for case in found[scaling]] == sizes
    (update,) = found["update"]
    times = update["step_seconds"]
    assert 0 < times["quartiles"][0] <= times["median"] <= times["quartiles"][1]
    assert update["examples_per_second"] == pytest.approx(4 / times["median"])
    assert update["flop_per_second"] == pytest.approx(update["flop_per_step"] / times["median"])
    (product,) = found["product"]
    share = update["flop_per_second"] / product["flop_per_second"]
    assert update["share_of_product"] == pytest.approx(share)
    assert update["compile_seconds"] > 0
    assert update["peak_memory_bytes"] > 0
    # What cannot be measured has a reason, and what follows is measured nevertheless.
    assert "2 source examples cannot be split over 4" in found["strong"][0]["reason"]
    assert found["weak"][0]["times_one_device"] > 0
    assert found["weak"][1]["reason"] == "this process has 4 devices"


def test_it_is_a_program():
    command = [sys.executable, "-m", "experiments.benchmark", "--help"]
    root = pathlib.Path(benchmark.__file__).parents[2]
    printed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert "python -m experiments.benchmark" in printed
    assert "--against-pytorch" in printed


def test_what_does_not_fit_is_left_out(small, tmp_path, monkeypatch):
    path = tmp_path / "cpu.json"
    run = [*QUICK, "--steps-per-call", "1", "--keys", "--devices", "--output", str(path)]
    monkeypatch.setattr(workload, "_memory", lambda d: {"bytes_limit": 100, "bytes_in_use": 0})
    assert main(run) == 0
    assert "GB are free" in cases(path)["update"][0]["reason"]


def test_a_case_whose_call_takes_too_long_is_left_out(small, tmp_path, monkeypatch):
    path = tmp_path / "cpu.json"

    def alone(self, steps):
        return {"step_seconds": {"median": 4.0, "quartiles": [4.0, 4.0], "calls": 1}}

    monkeypatch.setattr(measures.NetworkMeasures, "steps_per_call", alone)
    run = [*QUICK, "--steps-per-call", "1", "10", "--keys", "--devices", "--output", str(path)]
    assert main(run) == 0
    first, second = cases(path)["steps_per_call"]
    assert first["step_seconds"]["median"] == 4.0
    assert "about 40 s, more than --seconds 30" in second["reason"]


def test_a_run_that_is_cut_off_leaves_what_it_has(small, tmp_path, monkeypatch):
    def cut(self, steps):
        raise KeyboardInterrupt

    path = tmp_path / "cpu.json"
    monkeypatch.setattr(measures.NetworkMeasures, "steps_per_call", cut)
    assert main([*QUICK, "--output", str(path)]) == 130
    record = result_files.read(path)
    assert not record["finished"]
    assert [case["measures"] for case in record["cases"]] == ["product"]


def test_a_file_is_not_overwritten_unasked(tmp_path, capsys):
    path = tmp_path / "cpu.json"
    path.write_text("kept")
    assert main([*QUICK, "--output", str(path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert path.read_text() == "kept"


@pytest.mark.parametrize(
    "wrong", [["--batch", "5"], ["--keys", "0"], ["--seconds", "0"], ["--steps-per-call"]]
)
def test_wrong_arguments_are_refused_before_anything_is_measured(wrong, tmp_path, capsys):
    path = tmp_path / "cpu.json"
    assert main([*wrong, "--output", str(path)]) == 2
    assert wrong[0] in capsys.readouterr().err
    assert not path.exists()


def test_pytorch_is_needed_only_where_it_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "experiments.benchmark.pytorch_twin", None)  # without torch
    monkeypatch.delattr(benchmark, "pytorch_twin", raising=False)
    assert main([*QUICK, "--against-pytorch", "--output", str(tmp_path / "a.json")]) == 2
    assert "install it, or leave it out" in capsys.readouterr().err


def test_calls_take_turns(monkeypatch):
    monkeypatch.setattr(measures, "PAUSE", 0.0)
    calls = []
    programs = {name: lambda steps, name=name: calls.append(name) for name in "ab"}
    times = measures.interleaved(programs, 1, seconds=60.0)
    timed = calls[4:]  # after a compilation and a warm-up of each
    assert timed == ["a", "b"] * measures.REPEATS
    assert times["a"]["calls"] == times["b"]["calls"] == measures.REPEATS


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


# --- the tables


def record_of(**case):
    """A result file with one case of a kind."""
    times = {"median": 0.0581, "quartiles": [0.0575, 0.0599], "calls": 20}
    pytorch = [
        {"engine": "eager", "channels_last": False, "step_seconds": times, "ratio": 1.618},
        {"engine": "eager", "channels_last": True, "reason": "no room"},
    ]
    update = {
        "measures": "update", "network": "mnist", "pixels": 28, "precision": "default",
        "batch": 128, "step_seconds": times, "examples_per_second": 2203.1,
        "lowering_seconds": 0.5, "compile_seconds": 1.3, "flop_per_second": 5.04e10,
        "share_of_product": 0.42, "peak_memory_bytes": 91e6, "pytorch": pytorch,
    }  # fmt: skip
    return {
        "device": "cpu", "platform": "cpu", "processor": "A CPU", "cores": 2, "dtype": "float32",
        "simulated_devices": True, "cases": [update | case],
    }  # fmt: skip


def test_machines_stand_side_by_side():
    gpu = record_of(precision="tensorfloat32", pytorch=[]) | {"platform": "gpu", "device": "A GPU"}
    failed = record_of(network="gtsrb", pixels=40, reason="needs 9 GB more")
    found = tables.tables({"a.json": record_of(), "g.json": gpu, "z.json": failed})
    head, *rows = found["benchmark"]
    assert [row[:3] for row in rows] == [
        ["gtsrb, 40 px", "float32", "A CPU, 2 cores"],
        ["mnist, 28 px", "TF32", "A GPU"],
        ["mnist, 28 px", "float32", "A CPU, 2 cores"],
    ]
    assert rows[0][4] == "needs 9 GB more"
    assert dict(zip(head[4:], rows[2][4:], strict=True)) == {
        "ms a step (quartiles)": "58.1 (57.5–59.9)",
        "examples/s": "2,203",
        "compile s": "1.8",
        "GFLOP/s (share of product)": "50 (42%)",
        "peak MB": "91",
        "PyTorch / ours": "eager 1.62, eager channels last —",
        "file": "[json](experiments/results/benchmark/a.json)",
    }


def test_calls_keys_and_devices_have_tables():
    kinds = {
        "steps-per-call": record_of(measures="steps_per_call", steps_per_call=10),
        "keys": record_of(measures="keys", keys=4, times_one_key=2.5),
        "devices": record_of(measures="weak", devices=4, times_one_device=1.9),
    }
    for name, record in kinds.items():
        found = tables.tables({"a.json": record})
        assert [title for title, lines in found.items() if len(lines) > 1] == [name]
    assert tables.tables({"a": kinds["devices"]})["devices"][1][4:6] == [
        "weak",
        "4 simulated",
    ]


def test_report_checks_every_document(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "BENCHMARKS", tmp_path)
    simulated = record_of(examples_per_second=999.0)
    (tmp_path / "cpu_simulated.json").write_text(json.dumps(simulated))
    (tmp_path / "cpu.json").write_text(json.dumps(record_of() | {"simulated_devices": False}))
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


# --- PyTorch


@pytest.fixture
def pytorch():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from experiments.benchmark import pytorch_twin

    return pytorch_twin


def layers(theta):
    """The kernels and biases of a part, in the order of its layers."""
    if "kernel" in theta:
        return [theta]
    return [layer for name in sorted(theta) for layer in layers(theta[name])]


def as_pytorch(theta):
    """Weights and biases of each part, ours in PyTorch's layout."""
    found, channels, flat = {}, None, False
    for part in "fyd":
        found[part] = []
        for i, layer in enumerate(layers(theta[part])):
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


def without_dropout(name):
    if name == "office_alexnet":
        model = networks.office(AlexNet(dropout_rate=0.0))
        domain_classifier = model.domain_classifier.clone(dropout_rate=0.0)
        return dataclasses.replace(model, domain_classifier=domain_classifier)
    if name == "svhn":
        model = networks.svhn(kernel_init=nn.initializers.he_normal())
        layers = model.feature_extractor.layers
        return dataclasses.replace(
            model,
            feature_extractor=model.feature_extractor.clone(
                layers=tuple(layer._replace(dropout_rate=0.0) for layer in layers),
                input_dropout_rate=0.0,
            ),
            label_predictor=model.label_predictor.clone(dropout_rate=0.0),
            max_norm=1.4,  # a bound that some units exceed
        )
    return getattr(networks, name)()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("name", "pixels", "classes"),
    [("mnist", 28, 10), ("svhn", 32, 10), ("gtsrb", 40, 43), ("office_alexnet", 227, 31)],
)
def test_pytorch_makes_the_same_update(pytorch, name, pixels, classes, channels_last):
    torch = pytorch.torch
    model, n = without_dropout(name), 3
    draw = np.random.default_rng(0)
    image = functools.partial(draw.integers, 256, size=(n, pixels, pixels, 3), dtype=np.uint8)
    labels = draw.integers(classes, size=n, dtype=np.int32)
    arrays = batches.DomainArrays(image(), labels, image())
    # AlexNet is deep: at 0.01 a ReLU that rounding turns over shows in the fourth decimal.
    lam, mu = float(schedules.lambda_p(0.5)), 0.001 if name == "office_alexnet" else 0.01

    optimizer = training.make_optimizer(mu)
    state = training.init_state(
        model, optimizer, jax.random.key(0), jnp.zeros([2, pixels, pixels, 3])
    )
    mode = pytorch.Mode("eager", channels_last)
    theirs = pytorch.Training(model, arrays, batch=2 * n, mode=mode)
    for part, values in as_pytorch(state.theta).items():
        for parameter, value in zip(theirs.parts[part].parameters(), values, strict=True):
            parameter.data.copy_(torch.from_numpy(value.copy()))

    indices = np.array([2, 0, 1]), np.array([1, 2, 0])
    batch = workload.preprocess(batches.gather(arrays, *indices))
    x = np.concatenate([batch.source_image, batch.target_image])
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
            np.testing.assert_allclose(parameter.detach().numpy(), value, atol=1e-4)
        before = as_pytorch(state.theta)[part]
        assert max(abs(a - b).max() for a, b in zip(values, before, strict=True)) > 1e-3


def test_pytorch_has_our_schedules(pytorch):
    for step in (0, 1234, 10_000, 20_000):
        p = schedules.progress(step, workload.HORIZON)
        expected = schedules.lambda_p(p), schedules.mu_p(p)
        np.testing.assert_allclose(pytorch._schedules(step), expected, rtol=1e-5)


def test_a_network_without_translation_has_a_reason(pytorch):
    with pytest.raises(ValueError, match="no translation"):
        pytorch.translated(networks.mnist_batch_norm(), 32)


def test_pytorch_is_measured_in_turn(pytorch, small, tmp_path):
    path = tmp_path / "cpu.json"
    run = [*QUICK, "--steps-per-call", "1", "--keys", "--devices", "--output", str(path)]
    assert main([*run, "--against-pytorch"]) == 0
    (update,) = cases(path)["update"]
    assert [mode["channels_last"] for mode in update["pytorch"]] == [False, True]
    for mode in update["pytorch"]:
        ratio = mode["step_seconds"]["median"] / update["step_seconds"]["median"]
        assert mode["ratio"] == pytest.approx(ratio)
