"""Two processes, of one device each, train as one process of two devices: jax.distributed."""

import contextlib
import functools
import os
import pathlib
import socket
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import (
    DannModel,
    DomainArrays,
    init_state,
    lambda_p,
    make_optimizer,
    make_stream_steps,
    make_train_steps,
    make_update_step,
    progress,
    replicate,
    streaming,
)
from dann_jax.networks import FullyConnected

pytestmark = pytest.mark.usefixtures("quick_compilation")

PROCESSES = 2
STEPS = 20
SECONDS = 120  # after which the processes are given up
SIZES = {"examples": (20, 12), "batch": (8, 4)}


class Features(nn.Module):
    """Dense features, with noise that differs between the devices."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = jnp.tanh(nn.Dense(6)(x.reshape(len(x), -1)))
        return nn.Dropout(0.3, deterministic=not train)(x)


MODEL = DannModel(
    feature_extractor=Features(),
    label_predictor=FullyConnected((), 3),
    domain_classifier=FullyConnected((5,), 1),
)


def make_arrays():
    random = np.random.default_rng(0)
    return DomainArrays(
        random.integers(0, 256, [20, 4, 4, 1], np.uint8),
        random.integers(0, 3, 20, np.int32),
        random.integers(0, 256, [12, 4, 4, 1], np.uint8),
    )


def preprocess(batch):
    return batch._replace(
        source_image=batch.source_image / 255.0, target_image=batch.target_image / 255.0
    )


def trained(devices):
    """Metrics and parameters of a training in memory and of one from a stream."""
    key, optimizer = jax.random.key(5), make_optimizer(0.1)
    make_update = functools.partial(
        make_update_step, MODEL, optimizer, lambda step: lambda_p(progress(step, STEPS))
    )
    arrays = make_arrays()
    init = jax.jit(functools.partial(init_state, MODEL, optimizer))
    first = jax.device_get(init(key, jnp.zeros([2, 4, 4, 1])))
    found = {}

    def run(name, train, data):
        state, metrics = replicate(first, devices), []
        for _ in range(2):  # what a call returns is what the next one takes
            state, seen = train(state, data, key, STEPS // 2)
            metrics.append(seen)
        metrics = jax.tree.map(lambda *m: np.concatenate(m), *metrics)
        for path, x in jax.tree_util.tree_leaves_with_path((metrics, state.theta)):
            found[name + jax.tree_util.keystr(path)] = np.asarray(x)

    options = {"preprocess": preprocess, "devices": devices}
    train = make_train_steps(make_update, fused=True, **SIZES, **options)
    run("memory", train, replicate(arrays, devices))
    source = [{"image": i, "label": n} for i, n in zip(*arrays[:2], strict=True)]
    target = [{"image": i, "label": -1} for i in arrays.target_image]
    stream = streaming.batch_stream(source, target, key, batch=SIZES["batch"], workers=1)
    with contextlib.closing(stream):
        run("stream", make_stream_steps(make_update, **options), stream)
    return found


def work(port, index, path):
    """What each process does."""
    jax.distributed.initialize(
        f"localhost:{port}", PROCESSES, index, initialization_timeout=SECONDS
    )
    assert len(jax.local_devices()) == 1
    assert len(jax.devices()) == PROCESSES
    np.savez(path, **trained(jax.devices()))


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory):
    """What each of the processes found."""
    folder = tmp_path_factory.mktemp("processes")
    port = free_port()
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }
    paths = [folder / f"{i}.npz" for i in range(PROCESSES)]
    logs = [folder / f"{i}.txt" for i in range(PROCESSES)]
    with contextlib.ExitStack() as stack:
        started = []
        for i, path in enumerate(paths):
            command = [sys.executable, "-W", "error", __file__, str(port), str(i), str(path)]
            output = stack.enter_context(logs[i].open("w"))
            started.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
            stack.callback(started[-1].wait)
            stack.callback(started[-1].kill)
        try:
            codes = [process.wait(SECONDS) for process in started]
        except subprocess.TimeoutExpired:
            codes = [process.poll() for process in started]
    if codes != [0] * PROCESSES:
        outputs = "\n".join(f"--- process {i}\n{log.read_text()}" for i, log in enumerate(logs))
        pytest.fail(f"processes ended with {codes} (None: after {SECONDS} s)\n{outputs}")
    return [dict(np.load(path)) for path in paths]


def test_processes_train_as_one_with_as_many_devices(of_processes, devices):
    expected = trained(devices[:PROCESSES])
    assert expected["memory[0].label_loss"].shape == (STEPS,)
    for found in of_processes:
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6, err_msg=name)


def test_all_processes_hold_the_same(of_processes):
    first, *others = of_processes
    for other in others:
        for name, values in first.items():
            np.testing.assert_array_equal(other[name], values, err_msg=name)


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
