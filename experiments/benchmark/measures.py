"""What is measured: each function returns the entries of one case."""

import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp

from dann_jax.kernels import compiler_options
from experiments.benchmark import timing
from experiments.benchmark.operations import flop_of_step
from experiments.benchmark.workload import Subject, Training

__all__ = ["FAILURES", "NetworkMeasures", "Setup", "failure", "measure_product"]

PRODUCT, PRODUCT_OF_OTHERS = {"cpu": 2048}, 8192  # rows and columns of the matrix product
FAILURES = (ValueError, RuntimeError, MemoryError)  # RuntimeError includes JaxRuntimeError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What all cases have in common."""

    devices: list[jax.Device]
    dtype: str
    batch: int  # examples a step on one device
    seconds: float  # for the calls of a case
    twin: types.ModuleType | None = None  # experiments.benchmark.pytorch_twin, if it is compared

    @property
    def platform(self) -> str:
        """The platform of the devices: ``'cpu'``, ``'gpu'`` or ``'tpu'``."""
        return self.devices[0].platform

    @property
    def modes(self) -> list[Any]:
        """The ways to run PyTorch that ours is compared with."""
        return [] if self.twin is None else self.twin.modes(self.platform)


def failure(error: Exception) -> dict[str, str]:
    """Returns why a case was not measured."""
    return {"reason": (str(error).splitlines() or [type(error).__name__])[0]}


def measure_product(setup: Setup) -> dict[str, Any]:
    """Returns the speed of a large matrix product of the type and precision of the networks."""
    size = PRODUCT.get(setup.platform, PRODUCT_OF_OTHERS)
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, [size, size], setup.dtype) for key in keys)
    product = jax.jit(jnp.matmul, compiler_options=compiler_options(setup.platform))

    def call(steps):
        for _ in range(steps):
            jax.block_until_ready(product(a, b))

    times = timing.interleaved({"product": call}, 1, setup.seconds)["product"]
    return {"size": size, "seconds": times, "flop_per_second": 2 * size**3 / times["median"]}


class NetworkMeasures:
    """The measures of one network."""

    def __init__(self, setup: Setup, subject: Subject):
        """Takes what all cases have in common, and the network."""
        self.setup, self.subject = setup, subject
        self._one_key = None  # the program of one key on one device, compiled once

    def steps_per_call(self, steps: int) -> dict[str, Any]:
        """Returns the time and memory of one training."""
        ours = self._training()
        costs = ours.prepare(steps)
        return costs | _pace(self._times({"ours": ours}, steps), self.setup.batch)

    def update(self, steps: int, *, product_rate: float | None) -> dict[str, Any]:
        """Returns the time and memory of one training, its FLOP/s, and PyTorch's time.

        Args:
          steps: How many a call.
          product_rate: FLOP/s of the matrix product; None if it was not measured.
        """
        ours = self._training()
        costs = ours.prepare(steps)
        twins, failed = self._twins()
        times = self._times({"ours": ours, **twins}, steps)
        median = times["ours"]["median"]
        flop = flop_of_step(self.subject.model, self.subject.pixels, self.setup.batch)
        entries = costs | _pace(times, self.setup.batch)
        entries |= {
            "flop_per_step": flop,
            "flop_per_second": flop / median,
            "share_of_product": None if product_rate is None else flop / median / product_rate,
        }
        if self.setup.twin is not None:
            entries["pytorch"] = failed + [
                {
                    **mode._asdict(),
                    "step_seconds": times[mode],
                    "ratio": times[mode]["median"] / median,
                }
                for mode in twins
            ]
        return entries

    def keys(self, steps: int, *, keys: int) -> dict[str, Any]:
        """Returns the time and memory of many keys as one program, and that of one key."""
        ours = Training(self.subject, self.setup.batch, devices=self.setup.devices[:1], keys=keys)
        costs, times = self._against_one(ours, steps)
        entries = costs | _pace(times, self.setup.batch * keys)
        return entries | {"times_one_key": times["ours"]["median"] / times["one"]["median"]}

    def devices(self, steps: int, *, batch: int, devices: int) -> dict[str, Any]:
        """Returns the time and memory of one training on several devices, and that on one."""
        available = self.setup.devices
        if devices > len(available):
            raise ValueError(f"this process has {len(available)} devices")
        ours = Training(self.subject, batch, devices=available[:devices])
        costs, times = self._against_one(ours, steps)
        entries = costs | _pace(times, batch)
        of_one = self.setup.batch / times["one"]["median"]
        return entries | {"times_one_device": entries["examples_per_second"] / of_one}

    def _training(self, program=None):
        """Returns the training of one key on one device."""
        first = self.setup.devices[:1]
        return Training(self.subject, self.setup.batch, devices=first, program=program)

    def _times(self, programs, steps):
        return timing.interleaved(programs, steps, self.setup.seconds)

    def _against_one(self, ours, steps):
        """Returns the costs of a training, and its times in turn with one key on one device."""
        costs = ours.prepare(steps)
        one = self._training(self._one_key)
        self._one_key = one.program
        times = self._times({"ours": ours, "one": one}, steps)
        return costs | {"one_step_seconds": times["one"]}, times

    def _twins(self):
        """Returns a PyTorch training for each mode, and the modes that fail with their reasons."""
        twins, failed = {}, []
        for mode in self.setup.modes:
            try:
                twin = self.setup.twin.Training(
                    self.subject.model,
                    jax.device_get(self.subject.arrays),
                    batch=self.setup.batch,
                    mode=mode,
                    bfloat16=self.setup.dtype == "bfloat16",
                    platform=self.setup.platform,
                )
                twin(1)
                twins[mode] = twin
            except FAILURES as error:
                failed.append(mode._asdict() | failure(error))
        return twins, failed


def _pace(times, examples):
    return {
        "step_seconds": times["ours"],
        "examples_per_second": examples / times["ours"]["median"],
    }
