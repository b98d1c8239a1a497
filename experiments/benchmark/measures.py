"""What is measured: each function returns the entries of one case."""

import dataclasses
import time
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dann_jax.kernels import compiler_options
from experiments.benchmark.options import Options
from experiments.benchmark.workload import Subject, Training, flop_of_step

__all__ = [
    "CALLS",
    "FAILURES",
    "NetworkMeasures",
    "Setup",
    "failure",
    "interleaved",
    "measure_product",
]

PRODUCT, PRODUCT_OF_OTHERS = {"cpu": 2048}, 8192  # rows and columns of the matrix product
FAILURES = (ValueError, RuntimeError, MemoryError)  # RuntimeError includes JaxRuntimeError
REPEATS = 20  # timed calls, at most
CALLS = 5  # timed calls that a number of steps a call must leave time for
PAUSE = 0.3  # seconds: idle threads of one library still spin when the other's call begins


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all cases have in common."""

    options: Options
    devices: list[jax.Device]
    twin: types.ModuleType | None  # experiments.benchmark.pytorch_twin, if it is compared

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


def interleaved(
    programs: Mapping[Any, Callable[[int], None]], steps: int, seconds: float
) -> dict[Any, dict[str, Any]]:
    """Returns the time of a step in each program: median, quartiles and number of calls.

    The programs take turns. The first call of each, which compiles, is outside the time limit.

    Args:
      programs: Functions that make a number of steps and wait for them.
      steps: How many a call.
      seconds: About how long all further calls may take; each program has one timed call at least.
    """
    for call in programs.values():
        call(steps)
    begin = time.perf_counter()
    for call in programs.values():
        call(steps)  # fills caches
    samples = {name: [] for name in programs}
    for _ in range(REPEATS):
        round_begin = time.perf_counter()
        for name, call in programs.items():
            if len(programs) > 1:
                time.sleep(PAUSE)
            start = time.perf_counter()
            call(steps)
            samples[name].append((time.perf_counter() - start) / steps)
        now = time.perf_counter()
        if now - begin + (now - round_begin) > seconds:
            break
    return {name: _summary(times) for name, times in samples.items()}


def _summary(times):
    lower, median, upper = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "quartiles": [lower, upper], "calls": len(times)}


def measure_product(setup: Setup) -> dict[str, Any]:
    """Returns the speed of a large matrix product of the type and precision of the networks."""
    size = PRODUCT.get(setup.platform, PRODUCT_OF_OTHERS)
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, [size, size], setup.options.dtype) for key in keys)
    product = jax.jit(jnp.matmul, compiler_options=compiler_options(setup.platform))

    def call(steps):
        for _ in range(steps):
            jax.block_until_ready(product(a, b))

    times = interleaved({"product": call}, 1, setup.options.seconds)["product"]
    return {"size": size, "seconds": times, "flop_per_second": 2 * size**3 / times["median"]}


class NetworkMeasures:
    """The measures of one network: time and memory of its steps, ``steps`` a call."""

    def __init__(self, setup: Setup, subject: Subject):
        """Takes what all cases have in common, and the network."""
        self.setup, self.subject = setup, subject
        self.batch = setup.options.batch
        self._one_key = None  # the program of one key on one device, compiled once

    def steps_per_call(self, steps: int) -> dict[str, Any]:
        """Returns the entries of one training."""
        return self._measured(self._training(), steps)[0]

    def update(self, steps: int, *, product_rate: float | None) -> dict[str, Any]:
        """Returns the entries of one training, its FLOP/s, and PyTorch's time.

        ``product_rate`` is the FLOP/s of the matrix product; None if it was not measured.
        """
        failed = []
        entries, times = self._measured(self._training(), steps, lambda: self._twins(failed))
        median = times.pop("ours")["median"]
        flop = flop_of_step(self.subject.model, self.subject.pixels, self.batch)
        entries |= {
            "flop_per_step": flop,
            "flop_per_second": flop / median,
            "share_of_product": None if product_rate is None else flop / median / product_rate,
        }
        if self.setup.twin is not None:
            entries["pytorch"] = failed + [
                mode._asdict() | {"step_seconds": theirs, "ratio": theirs["median"] / median}
                for mode, theirs in times.items()
            ]
        return entries

    def keys(self, steps: int, *, keys: int) -> dict[str, Any]:
        """Returns the entries of many keys as one program, and the time of one key."""
        entries, one = self._against_one(self._training(keys=keys), steps, self.batch * keys)
        return entries | {"times_one_key": entries["step_seconds"]["median"] / one}

    def devices(self, steps: int, *, batch: int, devices: int) -> dict[str, Any]:
        """Returns the entries of one training on several devices, and the time on one."""
        available = self.setup.devices
        if devices > len(available):
            raise ValueError(f"this process has {len(available)} devices")
        ours = Training(self.subject, batch, devices=available[:devices])
        entries, one = self._against_one(ours, steps, batch)
        return entries | {"times_one_device": entries["examples_per_second"] / (self.batch / one)}

    def _training(self, **options):
        """Returns a training on one device."""
        return Training(self.subject, self.batch, devices=self.setup.devices[:1], **options)

    def _measured(self, ours, steps, others=dict, examples=None):
        """Returns the entries of a training, and its times in turn with those of ``others()``.

        The others are made after the peak of memory of ours is known.
        """
        costs = ours.prepare(steps)
        times = interleaved({"ours": ours, **others()}, steps, self.setup.options.seconds)
        pace = (examples or self.batch) / times["ours"]["median"]
        return costs | {"step_seconds": times["ours"], "examples_per_second": pace}, times

    def _against_one(self, ours, steps, examples):
        """Returns the entries of a training, and seconds of a step of one key on one device."""

        def one():
            training = self._training(program=self._one_key)
            self._one_key = training.program
            return {"one": training}

        entries, times = self._measured(ours, steps, one, examples)
        return entries | {"one_step_seconds": times["one"]}, times["one"]["median"]

    def _twins(self, failed):
        """Returns a PyTorch training for each mode; ``failed`` gets the others' reasons."""
        twins = {}
        for mode in self.setup.modes:
            try:
                twin = self.setup.twin.Training(
                    self.subject.model,
                    jax.device_get(self.subject.arrays),
                    batch=self.batch,
                    mode=mode,
                    bfloat16=self.setup.options.dtype == "bfloat16",
                    platform=self.setup.platform,
                )
                twin(1)
                twins[mode] = twin
            except FAILURES as error:
                failed.append(mode._asdict() | failure(error))
        return twins
