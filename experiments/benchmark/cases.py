"""The cases of a benchmark, one after the other; the file has each as soon as it is measured."""

import functools
import os
import pathlib
import time
from typing import Any

import jax
from rich.console import Console

from dann_jax.kernels import compiler_options
from experiments import record as result_files
from experiments import runtime
from experiments.benchmark import tables, workload
from experiments.benchmark.measures import (
    CALLS,
    FAILURES,
    NetworkMeasures,
    failure,
    measure_product,
)
from experiments.benchmark.options import Options

__all__ = ["Benchmark"]

# Values of jax_default_matmul_precision that float32 networks are measured with.
PRECISIONS = {"cpu": ("default",), "gpu": ("highest", "tensorfloat32")}
PRECISIONS_OF_OTHERS = ("highest", "default")  # a TPU's default is bfloat16
COMPILATION = 10.0  # seconds a case, about; for the estimate of the total time alone


class Benchmark:
    """One run of the program; ``record`` is what its file says."""

    def __init__(self, options: Options, twin: Any, path: pathlib.Path, console: Console):
        """Takes the options, the module ``pytorch_twin`` or None, and where to write and print."""
        self.options, self.twin, self.path, self.console = options, twin, path, console
        self.begin = time.perf_counter()
        backend, devices = jax.default_backend(), jax.local_devices()
        precisions = PRECISIONS.get(backend, PRECISIONS_OF_OTHERS)
        self.precisions = precisions if self.options.dtype == "float32" else ("default",)
        self.record = {
            "device": runtime.device_kind(devices),
            "platform": backend,
            "device_count": len(devices),
            "simulated_devices": backend == "cpu" and len(devices) > 1,
            "processor": runtime.processor(),
            "cores": runtime.cores(),
            "versions": runtime.versions(),
            "command": self.options.command(),
            "compilation_cache": "off",
            "compiler_options": compiler_options(backend),
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
            "dtype": self.options.dtype,
            "examples": workload.EXAMPLES,
            "finished": False,
            "cases": [],
        }
        if twin is not None:
            self.record["versions"]["torch"] = twin.torch.__version__
            self.record["pytorch_threads"] = twin.torch.get_num_threads()

    def run(self) -> None:
        """Measures all cases."""
        self._print_estimate()
        for precision in self.precisions:
            if self.twin is not None:
                self.twin.set_precision(tf32=precision == "tensorfloat32")
            with jax.default_matmul_precision(precision):
                labels = {"measures": "product", "precision": precision}
                product = self._case(labels, functools.partial(measure_product, self.options))
                for network in self.options.networks:
                    for pixels in workload.SIZES[network]:
                        labels = {"network": network, "pixels": pixels, "precision": precision}
                        self._network(labels, product.get("flop_per_second"))
        self.record["finished"] = True
        self._write()

    def _print_estimate(self):
        """Prints about how long all cases take at most."""
        options = self.options
        sizes = sum(len(workload.SIZES[network]) for network in options.networks)
        of_each = len(options.steps_per_call) + 1 + len(options.keys)
        of_each += 2 * len(self._device_counts())
        count = len(self.precisions) * (1 + sizes * of_each)
        minutes = count * (options.seconds + COMPILATION) / 60
        self.console.print(
            f"{count} cases, each with up to {options.seconds:g} s of calls and about "
            f"{COMPILATION:g} s of compilation: up to about {minutes:.0f} minutes",
            soft_wrap=True,
        )

    def _network(self, labels, product_rate):
        """Measures all cases of a network; ``product_rate`` is the FLOP/s of a product, or None."""
        options, batch = self.options, self.options.batch
        subject = workload.Subject(labels["network"], labels["pixels"], options.dtype)
        measures = NetworkMeasures(self.options, self.twin, subject)

        def case(name, measure, steps, expected, **settings):
            entries = {"measures": name, **labels, "batch": batch, **settings}
            measure = functools.partial(measure, steps, **settings)
            return self._case(entries | {"steps_per_call": steps}, measure, expected * steps)

        step = 0.0  # expected seconds of a step; not known before the first case
        for steps in sorted(options.steps_per_call):
            entries = case("steps_per_call", measures.steps_per_call, steps, step)
            step = entries.get("step_seconds", {}).get("median", step)
        update = functools.partial(measures.update, product_rate=product_rate)
        case("update", update, self._steps(step * (1 + len(measures.modes))), step)
        for keys in options.keys:
            case(
                "keys", measures.against_one, self._steps((keys + 1) * step), keys * step, keys=keys
            )
        for devices in self._device_counts():
            for scaling, times in (("strong", 1), ("weak", devices)):
                settings = {"batch": times * batch, "devices": devices}
                steps = self._steps((times + 1) * step)
                case(scaling, measures.against_one, steps, times * step, **settings)

    def _steps(self, expected):
        """Returns the most steps a call, of those asked for, that leave time for enough calls.

        A step of all programs in turn is expected to take ``expected`` seconds.
        """
        options = self.options
        fits = [n for n in options.steps_per_call if CALLS * n * expected <= options.seconds]
        return max(fits, default=min(options.steps_per_call))

    def _case(self, labels, measure, expected=0.0):
        """Returns what ``measure()`` does, or the reason why it was not measured; writes it too.

        A call is expected to take ``expected`` seconds.
        """
        try:
            if expected > self.options.seconds:
                raise ValueError(
                    f"a call would take about {expected:.2g} s, more than --seconds "
                    f"{self.options.seconds:g}"
                )
            entries = measure()
        except FAILURES as error:
            entries = failure(error)
        self.record["cases"].append(labels | entries)
        self._write()
        words = ", ".join(f"{name} {value}" for name, value in labels.items())
        if "reason" in entries:
            words += f": not measured: {entries['reason']}"
        elif "step_seconds" in entries:
            words += f": {tables.step_time(entries)} ms a step"
        else:
            words += f": {entries['flop_per_second'] / 1e9:,.0f} GFLOP/s"
        self.console.print(words, markup=False, soft_wrap=True)
        return entries

    def _write(self):
        self.record["wall_seconds"] = round(time.perf_counter() - self.begin, 1)
        result_files.write_json(self.path, self.record)

    def _device_counts(self):
        if self.options.devices is not None:
            return self.options.devices
        count = jax.local_device_count()
        return sorted({2**i for i in range(1, count.bit_length())} | {count} - {1})
