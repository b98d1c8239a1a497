"""Whether a device computes what the CPU of docs/gpu_equality.json has computed."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import (
    digests,
    lambda_p,
    make_optimizer,
    make_update_step,
    mu_p,
    networks,
    progress,
)
from dann_jax.batches import DomainArrays
from dann_jax.programs import make_train_steps, replicate
from dann_jax.training import init_state
from experiments import record
from experiments.benchmark.workload import preprocess

__all__ = ["NETWORKS", "Equality"]

NETWORKS = {"mnist": networks.mnist, "mnist_batch_norm": networks.mnist_batch_norm}
EARLIER = pathlib.Path(__file__).parents[2] / "docs" / "gpu_equality.json"
EXAMPLES, PIXELS, HORIZON = 256, 32, 1000
FIRST, LONG = 5, 100  # updates whose losses are compared, and after which two runs are


def _arrays() -> dict[str, DomainArrays]:
    """Returns the images of each network, drawn one after the other."""
    draw, every = np.random.default_rng(0), {}
    for name in NETWORKS:
        image = functools.partial(
            draw.integers, 256, size=(EXAMPLES, PIXELS, PIXELS, 3), dtype=np.uint8
        )
        source = image()
        every[name] = DomainArrays(
            source, draw.integers(10, size=EXAMPLES, dtype=np.int32), image()
        )
    return every


def _schedule(of, step):
    return of(progress(step, HORIZON))


class Equality:
    """Trainings of some updates on the first device."""

    def __init__(self):
        """Makes the images and reads the CPU's losses of before."""
        self.arrays = _arrays()
        self.earlier = (record.read(EARLIER) or {}).get("networks", {})

    def compare(self, name: str, precision: str) -> dict[str, Any]:
        """Returns the first losses of a network and how far they are from those of before."""
        with jax.default_matmul_precision(precision):
            _, losses = self._train(name, FIRST)
            ends = [self._train(name, LONG)[0] for _ in range(2)]
        entry = {"network": name, "precision": precision, "losses": losses}
        entry["same_bits"] = digests.digest(ends[0]) == digests.digest(ends[1])
        expected = self.earlier.get(name, {}).get("highest", {}).get("label_loss_cpu")
        if expected is not None:
            difference = np.abs(np.array(losses) - expected) / np.abs(expected)
            entry["max_relative_difference"] = float(difference.max())
        return entry

    def _train(self, name, steps):
        """Returns the parameters after so many updates, in NumPy, and the losses."""
        model, device = NETWORKS[name](), jax.local_devices()[0]
        with jax.default_device(jax.local_devices(backend="cpu")[0]):  # the same in all places
            image = jnp.zeros([2, PIXELS, PIXELS, 3])
            state = jax.device_get(init_state(model, _OPTIMIZER, jax.random.key(0), image))
        state, arrays = replicate(state, [device]), replicate(self.arrays[name], [device])
        state, metrics = _program(name)(state, arrays, jax.random.key(1), steps)
        losses = np.asarray(jax.device_get(metrics.label_loss), np.float64)
        return jax.device_get(state.theta), losses.tolist()


_OPTIMIZER = make_optimizer(functools.partial(_schedule, mu_p))


@functools.cache  # compiled once for each precision
def _program(name):
    """Returns the training program of a network on the first device."""
    lam = functools.partial(_schedule, lambda_p)
    update = functools.partial(make_update_step, NETWORKS[name](), _OPTIMIZER, lam)
    return make_train_steps(
        update,
        examples=(EXAMPLES, EXAMPLES),
        batch=(64, 64),
        preprocess=preprocess,
        devices=jax.local_devices()[:1],
    )
