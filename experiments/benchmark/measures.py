"""What is measured: each function returns the entries of one case."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dann_jax.kernels import compiler_options
from experiments.benchmark.options import Options
from experiments.benchmark.workload import Subject, Training, flop_of_step

__all__ = ["CALLS", "FAILURES", "NetworkMeasures", "failure", "interleaved", "measure_product"]

PRODUCT, PRODUCT_OF_OTHERS = {"cpu": 2048}, 8192  # rows and columns of the matrix product
FAILURES = (ValueError, RuntimeError, MemoryError)  # RuntimeError includes JaxRuntimeError
REPEATS = 20  # timed calls, at most
CALLS = 5  # timed calls that a number of steps a call must leave time for
PAUSE = 0.3  # seconds: idle threads of one library still spin when the other's call begins


def failure(error: Exception) -> dict[str, str]:
    """Returns why a case was not measured."""
    return {"reason": (str(error).splitlines() or [type(error).__name__])[0]}


def interleaved(
    programs: Mapping[Any, Callable[[int], None]], steps: int, seconds: float
) -> dict[Any, dict[str, Any]]:
    """Returns the time of a step in each program: median, quartiles and number of calls.

    The programs take turns; each makes a number of steps and waits for them. All calls take about
    ``seconds`` except the first of each, which compiles. Each has one timed call at least.
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
    summaries = {}
    for name, times in samples.items():
        lower, median, upper = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
        summaries[name] = {"median": median, "quartiles": [lower, upper], "calls": len(times)}
    return summaries


def measure_product(options: Options) -> dict[str, Any]:
    """Returns the speed of a large matrix product of the type and precision of the networks."""
    size = PRODUCT.get(jax.default_backend(), PRODUCT_OF_OTHERS)
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, [size, size], options.dtype) for key in keys)
    product = jax.jit(jnp.matmul, compiler_options=compiler_options(jax.default_backend()))

    def call(steps):
        for _ in range(steps):
            jax.block_until_ready(product(a, b))

    times = interleaved({"product": call}, 1, options.seconds)["product"]
    return {"size": size, "seconds": times, "flop_per_second": 2 * size**3 / times["median"]}


class NetworkMeasures:
    """The measures of one network: time and memory of its steps, ``steps`` a call."""

    def __init__(self, options: Options, twin: Any, subject: Subject):
        """Takes the options, the module ``pytorch_twin`` or None, and the network."""
        self.options, self.twin, self.subject = options, twin, subject
        self.modes = twin.modes(jax.default_backend()) if twin else []  # ways to run PyTorch
        self._one_program = None  # of one key on one device, compiled once

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
        flop = flop_of_step(self.subject.model, self.subject.pixels, self.options.batch)
        entries |= {
            "flop_per_step": flop,
            "flop_per_second": flop / median,
            "share_of_product": None if product_rate is None else flop / median / product_rate,
        }
        if self.twin is not None:
            entries["pytorch"] = failed + [
                mode._asdict() | {"step_seconds": theirs, "ratio": theirs["median"] / median}
                for mode, theirs in times.items()
            ]
        return entries

    def against_one(self, steps: int, **settings: int) -> dict[str, Any]:
        """Returns the entries of many ``keys`` as one program, or of a ``batch`` on ``devices``.

        Besides, the time of one key on one device, and the ratio to it.
        """
        entries, times = self._measured(self._training(**settings), steps, self._one)
        one = times["one"]["median"]
        entries["one_step_seconds"] = times["one"]
        if "keys" in settings:
            return entries | {"times_one_key": times["ours"]["median"] / one}
        pace = self.options.batch / one
        return entries | {"times_one_device": entries["examples_per_second"] / pace}

    def _training(self, *, batch=None, devices=1, **options):
        available = jax.local_devices()
        if devices > len(available):
            raise ValueError(f"this process has {len(available)} devices")
        batch = batch or self.options.batch
        return Training(self.subject, batch, devices=available[:devices], **options)

    def _measured(self, ours, steps, others=dict):
        """Returns the entries of a training, and its times in turn with those of ``others()``.

        The others are made after the peak of memory of ours is known.
        """
        costs = ours.prepare(steps)
        times = interleaved({"ours": ours, **others()}, steps, self.options.seconds)
        pace = ours.examples / times["ours"]["median"]
        return costs | {"step_seconds": times["ours"], "examples_per_second": pace}, times

    def _one(self):
        """Returns the training of one key on one device."""
        one = self._training(program=self._one_program)
        self._one_program = one.program
        return {"one": one}

    def _twins(self, failed):
        """Returns a PyTorch training for each mode; ``failed`` gets the others' reasons."""
        twins = {}
        arrays = jax.device_get(self.subject.arrays)
        settings = {
            "batch": self.options.batch,
            "bfloat16": self.options.dtype == "bfloat16",
            "platform": jax.default_backend(),
        }
        for mode in self.modes:
            try:
                twin = self.twin.Training(self.subject.model, arrays, mode=mode, **settings)
                twin(1)
                twins[mode] = twin
            except FAILURES as error:
                failed.append(mode._asdict() | failure(error))
        return twins
