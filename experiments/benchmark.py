"""Measures the speed of training on this machine: python -m experiments.benchmark [options].

Trains on random images and writes one JSON file: time and memory of a step, of several steps a
call, of many keys at once and on several devices. What cannot be measured is recorded with its
reason. With --against-pytorch the same networks train in PyTorch in turn with ours.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from dann_jax import kernels
from experiments import benchmark_tables, record, runtime, workload

__all__ = ["Options", "main"]

PROGRAM = "python -m experiments.benchmark"
WARM_UP = 2  # calls before the timed ones: one compiles, one fills caches
REPEATS = 20  # timed calls, at most
ENOUGH = 5  # timed calls that a number of steps a call must leave time for
PAUSE = 0.3  # seconds: threads of one library still turn idly when the other's call begins
PRODUCT, PRODUCT_OF_OTHERS = {"cpu": 2048}, 8192  # rows and columns of the matrix product
WIDTH = 150  # columns that the printed tables need
# What jax_default_matmul_precision is set to, one pass each, where networks are float32.
PRECISIONS = {"cpu": ("default",), "gpu": ("highest", "tensorfloat32")}
OF_OTHERS = ("highest", "default")  # a TPU's default is bfloat16
_TORCH = {"cpu": "cpu", "gpu": "cuda"}  # what PyTorch calls a platform
FAILURES = (ValueError, RuntimeError, MemoryError)  # jax.errors.JaxRuntimeError is of the second


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    networks: tuple[
        Literal["mnist", "mnist_batch_norm", "svhn", "gtsrb", "office_alexnet"],
        ...,
    ] = ("mnist", "svhn", "gtsrb")
    """Networks to train; mnist at 28 and at 32 pixels."""

    keys: tuple[int, ...] = (1, 4, 16)
    """Numbers of keys to train as one program."""

    steps_per_call: tuple[int, ...] = (1, 10, 100)
    """Numbers of updates that one call makes."""

    devices: tuple[int, ...] | None = None
    """Numbers of local devices, for strong and weak scaling; by default 2, 4, 8 ... and all."""

    against_pytorch: bool = False
    """Train in PyTorch too, in turn with ours."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32."""

    batch: int = 128
    """Examples a step: half source, half target."""

    seconds: float = 30.0
    """About how long the timed calls of one case may take; a case whose single call is expected
    to take longer is left out."""

    output: pathlib.Path | None = None
    """File of the result; by default runs/benchmark/DEVICE.json."""

    overwrite: bool = False
    """Replace the file where there is one."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the program.

    Args:
      arguments: Of the command line; None for those of the process.

    Returns:
      The exit status: 0, or 2 where the arguments are not right.
    """
    console = Console(highlight=False)
    cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)  # or compiling would take no time
    try:
        options = tyro.cli(Options, args=arguments, prog=PROGRAM, description=__doc__)
        _run(options, console)
    except KeyboardInterrupt:
        print("interrupted: the file has what was measured until then", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    return 0


def _run(options, console):
    _check(options)
    kind = runtime.device_kind(jax.local_devices())
    name = "_".join("".join(c if c.isalnum() else " " for c in kind.lower()).split())
    path = options.output or pathlib.Path("runs") / "benchmark" / f"{name}.json"
    if path.exists() and not options.overwrite:
        raise ValueError(f"{path} is there already: choose another --output, or --overwrite it")
    benchmark = _Benchmark(options, path, console)
    benchmark.run()
    console.width = max(WIDTH, console.width)
    for title, (head, *rows) in benchmark_tables.tables({path.name: benchmark.record}).items():
        shown = [i for i, name in enumerate(head) if name not in ("device", "file")]
        table = Table(*(head[i] for i in shown), title=title)
        for row in rows:
            table.add_row(*(row[i] for i in shown))
        if rows:
            console.print(table)
    console.print(f"written: {path}", soft_wrap=True, markup=False)


def _check(options):
    counts = (*options.keys, *options.steps_per_call, *(options.devices or ()))
    if not options.networks or not options.steps_per_call or min(counts, default=1) < 1:
        raise ValueError(
            "--networks and --steps-per-call name at least one, and --keys, --steps-per-call and "
            "--devices are at least 1"
        )
    if options.batch < 2 or options.batch % 2:
        raise ValueError(f"--batch must be even (half source, half target), got {options.batch}")
    if not options.seconds > 0:
        raise ValueError(f"--seconds must be positive, got {options.seconds}")


def _interleaved(programs: dict[Any, Callable], steps: int, seconds: float) -> dict[Any, dict]:
    """Returns the time of a step in each program, whose calls take turns."""
    for call in programs.values():
        for _ in range(WARM_UP):
            call(steps)
    samples = {name: [] for name in programs}
    begin = time.perf_counter()
    for count in range(1, REPEATS + 1):
        for name, call in programs.items():
            if len(programs) > 1:
                time.sleep(PAUSE)
            start = time.perf_counter()
            call(steps)
            samples[name].append((time.perf_counter() - start) / steps)
        if (time.perf_counter() - begin) * (count + 1) / count > seconds:
            break
    return {name: _summary(values) for name, values in samples.items()}


def _summary(values):
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "quartiles": [lower, upper], "calls": len(values)}


class _Benchmark:
    """One run: its cases, each in the file as soon as it is done."""

    def __init__(self, options, path, console):
        self.options, self.path, self.console = options, path, console
        self.available = jax.local_devices()
        self.platform = self.available[0].platform
        self.begin = time.perf_counter()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.record = {
            "device": runtime.device_kind(self.available),
            "platform": self.platform,
            "device_count": len(self.available),
            "simulated_devices": self.platform == "cpu" and len(self.available) > 1,
            "processor": _processor(),
            "cores": cores,
            "versions": runtime.versions(),
            "command": _command(options),
            "compilation_cache": "off",
            "compiler_options": kernels.compiler_options(self.platform),
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
            "dtype": options.dtype,
            "examples": workload.EXAMPLES,
            "finished": False,
            "cases": [],
        }
        self.pytorch = None
        if options.against_pytorch:
            self.pytorch = _pytorch(self.platform, threads=cores)
            self.record["versions"]["torch"] = self.pytorch.torch.__version__
            self.record["pytorch_threads"] = cores

    def run(self):
        """Measures all cases."""
        precisions = PRECISIONS.get(self.platform, OF_OTHERS)
        for precision in precisions if self.options.dtype == "float32" else ("default",):
            if self.pytorch is not None:
                self.pytorch.set_precision(tf32=precision == "tensorfloat32")
            with jax.default_matmul_precision(precision):
                product = self._case({"measures": "product", "precision": precision}, self._product)
                for network in self.options.networks:
                    for pixels in workload.SIZES[network]:
                        named = {"network": network, "pixels": pixels, "precision": precision}
                        self._network(named, product.get("flop_per_second"))
        self.record["finished"] = True
        self._write()

    def _network(self, named, rate):
        """Measures all cases of a network.

        Args:
          named: The network, the size of its images and the precision.
          rate: FLOP/s of the matrix product, None where that failed.
        """
        options, batch = self.options, self.options.batch
        subject = workload.Subject.of(named["network"], named["pixels"], options.dtype)
        step = 0.0  # seconds, as soon as it is known

        def case(measures, measure, steps, *, batch=batch, expected=None, **more):
            labels = {"measures": measures, **named, "batch": batch, **more}
            return self._case(
                labels | {"steps_per_call": steps},
                functools.partial(measure, subject, steps=steps, batch=batch, **more),
                expected=(step if expected is None else expected) * steps,
            )

        def fitting(expected):
            """Returns the most steps a call of those asked for that leave time for enough calls."""
            fit = [n for n in options.steps_per_call if ENOUGH * n * expected <= options.seconds]
            return max(fit, default=min(options.steps_per_call))

        for steps in sorted(options.steps_per_call):
            found = case("steps_per_call", self._alone, steps)
            step = found.get("step_seconds", {}).get("median", step)
        update = functools.partial(self._update, rate=rate)
        case("update", update, fitting(step * (1 + len(self._modes()))))
        for keys in options.keys:
            expected = keys * step
            case("keys", self._keys, fitting(expected + step), expected=expected, keys=keys)
        for devices in self._device_counts():
            for scaling, times in (("strong", 1), ("weak", devices)):
                expected = times * step
                case(
                    scaling,
                    self._devices,
                    fitting(expected + step),
                    batch=times * batch,
                    expected=expected,
                    devices=devices,
                )

    def _case(self, labels, measure, expected=0.0):
        """Returns what was measured of a case, or the reason why nothing was; the file has it.

        Args:
          labels: What the case is.
          measure: Measures it.
          expected: Seconds that a call is expected to take.
        """
        try:
            if expected > self.options.seconds:
                raise ValueError(
                    f"a call would take about {expected:.2g} s, more than --seconds "
                    f"{self.options.seconds:g}"
                )
            found = measure()
        except FAILURES as error:
            found = {"reason": _first_line(error)}
        self.record["cases"].append(labels | found)
        self._write()
        told = ", ".join(f"{name} {value}" for name, value in labels.items())
        self.console.print(f"{told}: {_told(found)}", markup=False, soft_wrap=True)
        return found

    def _write(self):
        self.record["wall_seconds"] = round(time.perf_counter() - self.begin, 1)
        record.write_json(self.path, self.record)

    def _product(self):
        """Measures a large matrix product of the type and precision of the networks."""
        size = PRODUCT.get(self.platform, PRODUCT_OF_OTHERS)
        keys = jax.random.split(jax.random.key(0))
        a, b = (jax.random.normal(key, [size, size], self.options.dtype) for key in keys)
        product = jax.jit(jnp.matmul, compiler_options=kernels.compiler_options(self.platform))

        def call(steps):
            for _ in range(steps):
                jax.block_until_ready(product(a, b))

        times = _interleaved({"product": call}, 1, self.options.seconds)["product"]
        rate = 2 * size**3 / times["median"]
        return {"size": size, "seconds": times, "flop_per_second": rate}

    def _alone(self, subject, *, steps, batch):
        ours = workload.Training(subject, batch, devices=self.available[:1])
        found = ours.prepare(steps)
        return found | _pace(_interleaved({"ours": ours}, steps, self.options.seconds), batch)

    def _update(self, subject, *, steps, batch, rate):
        ours = workload.Training(subject, batch, devices=self.available[:1])
        found = ours.prepare(steps)
        theirs, failed = self._theirs(subject, batch)
        times = _interleaved({"ours": ours, **theirs}, steps, self.options.seconds)
        found |= _pace(times, batch)
        flop = workload.flop_of_step(subject.model, subject.pixels, batch)
        speed = flop / times["ours"]["median"]
        found |= {
            "flop_per_step": flop,
            "flop_per_second": speed,
            "share_of_product": None if rate is None else speed / rate,
        }
        if self.pytorch is not None:
            found["pytorch"] = failed + [
                {
                    **mode._asdict(),
                    "step_seconds": times[mode],
                    "ratio": times[mode]["median"] / times["ours"]["median"],
                }
                for mode in theirs
            ]
        return found

    def _keys(self, subject, *, steps, batch, keys):
        ours = workload.Training(subject, batch, devices=self.available[:1], keys=keys)
        found, times = self._against_one(ours, subject, steps)
        found |= _pace(times, batch * keys)
        return found | {"times_one_key": times["ours"]["median"] / times["one"]["median"]}

    def _devices(self, subject, *, steps, batch, devices):
        if devices > len(self.available):
            raise ValueError(f"this process has {len(self.available)} devices")
        ours = workload.Training(subject, batch, devices=self.available[:devices])
        found, times = self._against_one(ours, subject, steps)
        found |= _pace(times, batch)
        of_one = self.options.batch / times["one"]["median"]
        return found | {"times_one_device": found["examples_per_second"] / of_one}

    def _against_one(self, ours, subject, steps):
        """Measures a training in turn with that of one key on one device."""
        found = ours.prepare(steps)
        one = workload.Training(subject, self.options.batch, devices=self.available[:1])
        times = _interleaved({"ours": ours, "one": one}, steps, self.options.seconds)
        return found | {"one_step_seconds": times["one"]}, times

    def _theirs(self, subject, batch):
        """Returns a PyTorch program for each mode, and the modes that fail with their reasons."""
        programs, failed = {}, []
        for mode in self._modes():
            try:
                program = self.pytorch.Training(
                    subject.model,
                    jax.device_get(subject.arrays),
                    batch=batch,
                    mode=mode,
                    bfloat16=self.options.dtype == "bfloat16",
                    device=_TORCH[self.platform],
                )
                program(1)
                programs[mode] = program
            except FAILURES as error:
                failed.append({**mode._asdict(), "reason": _first_line(error)})
        return programs, failed

    def _modes(self):
        return () if self.pytorch is None else self.pytorch.modes(_TORCH[self.platform])

    def _device_counts(self):
        if self.options.devices is not None:
            return self.options.devices
        powers = {2**i for i in range(1, len(self.available).bit_length())}
        return sorted(powers | {len(self.available)} - {1})


def _pace(times, examples):
    return {
        "step_seconds": times["ours"],
        "examples_per_second": examples / times["ours"]["median"],
    }


def _told(found):
    if "reason" in found:
        return f"not measured: {found['reason']}"
    if "step_seconds" in found:
        return f"{benchmark_tables.step_time(found)} ms a step"
    return f"{found['flop_per_second'] / 1e9:,.0f} GFLOP/s"


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]


def _pytorch(platform, threads):
    """Returns the module of PyTorch trainings, if they can run where JAX does."""
    if platform not in _TORCH:
        raise ValueError("--against-pytorch needs a CPU or a GPU: leave it out on this machine")
    try:
        from experiments import pytorch_training
    except ImportError as error:
        raise ValueError(
            f"--against-pytorch needs the package torch ({error}): install it, or leave it out"
        ) from error
    if platform == "gpu" and not pytorch_training.torch.cuda.is_available():
        raise ValueError("--against-pytorch: JAX has a GPU, torch has none: install torch for CUDA")
    pytorch_training.torch.set_num_threads(threads)
    return pytorch_training


def _processor():
    """Returns the name of the CPU."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _command(options):
    """Returns the command line that measures the same again."""
    words = [PROGRAM]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value == field.default or field.name in ("output", "overwrite"):
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if value is not True:
            words += map(str, value if isinstance(value, tuple) else [value])
    return " ".join(words)


if __name__ == "__main__":
    runtime.keep_freed_memory()  # as experiments.run does; for PyTorch as well
    sys.exit(main())
