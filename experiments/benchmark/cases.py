"""The cases of a benchmark, network by network; the file has each network as soon as it is done."""

import dataclasses
import functools
import math
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from rich.console import Console

from dann_jax.kernels import compiler_options
from experiments import record as result_files
from experiments import runtime
from experiments.benchmark import contents, rounds, tables, workload
from experiments.benchmark.isolated import OURS, PRODUCT, Program, Work, Worker, failure
from experiments.benchmark.options import Options

__all__ = ["Benchmark", "Group", "groups", "load_average", "programs"]

# Values of jax_default_matmul_precision that float32 networks are measured with.
PRECISIONS = {"cpu": ("default",), "gpu": ("tensorfloat32", "highest")}
PRECISIONS_OF_OTHERS = ("highest", "default")  # a TPU's default is bfloat16
PAUSES = {"cpu": rounds.PAUSE}  # none elsewhere, where calls do not run on the host's cores
CORES_TO_PREPARE = {"cpu": 4}  # for each process that is prepared at the same time
CORES_TO_PREPARE_OF_OTHERS = 2  # of the host, beside a GPU or TPU
# Seconds to start a process and compile, about, on two cores; for the estimate of all, and for
# what still fits.
PREPARE = {PRODUCT: 6.0, "eager": 8.0, "loop": 10.0, "compiled": 60.0, "cuda_graphs": 12.0}
PREPARE_OURS = {"svhn": 25.0, "svhn_batch_norm": 25.0, "gtsrb": 20.0, "office_alexnet": 60.0}
PREPARE_OTHERS = 14.0
COMPILATION = "prepare_seconds", "lowering_seconds", "compile_seconds"
END = 2.0  # seconds, about, for the processes of a network to end


class Group(NamedTuple):
    """What is measured in turn: programs of one network, or a matrix product."""

    name: str
    works: tuple[Work, ...]  # the most important first


def groups(options: Options, platform: str, device_counts: Sequence[int]) -> list[Group]:
    """Returns all that is measured, the most important first."""
    precisions = PRECISIONS.get(platform, PRECISIONS_OF_OTHERS)
    kinds = [("float32", precision) for precision in precisions]
    if options.everything:
        kinds.append(("bfloat16", "default"))
    elif options.dtype != "float32":
        kinds = [(options.dtype, "default")]
    shapes = [(name, pixels) for name in options.networks for pixels in workload.SIZES[name]]
    if options.everything:  # of one network in one size all kinds, then the others
        shapes = [(name, max(workload.SIZES[name])) for name in options.networks]
        order = [(shapes[0], k) for k in kinds] + [(s, kinds[0]) for s in shapes[1:]]
        order += [(s, k) for s in shapes[1:] for k in kinds[1:]]
    else:
        order = [(s, k) for k in kinds for s in shapes]
    every: list[Group] = []
    for (network, pixels), (dtype, precision) in order:
        base = Work(engine=OURS, dtype=dtype, precision=precision, platform=platform)
        product = Group(
            f"product, {_arithmetic(base)}", (dataclasses.replace(base, engine=PRODUCT),)
        )
        every += [product] * (product not in every)
        base = dataclasses.replace(base, network=network, pixels=pixels, batch=options.batch)
        works = tuple(dict.fromkeys(programs(options, base, device_counts)))
        every.append(Group(f"{network}, {pixels} px, {_arithmetic(base)}", works))
    return every


def programs(options: Options, base: Work, device_counts: Sequence[int]) -> list[Work]:
    """Returns the programs that one network is measured with, the most important first."""
    of = functools.partial(dataclasses.replace, base)
    every, platform = [base], base.platform
    if options.against_pytorch or options.everything:
        on_gpu = ("cuda_graphs",) * (platform == "gpu")
        every += [
            of(engine=engine, channels_last=last)
            for engine in ("eager", *on_gpu, "compiled")
            for last in (False, True)
        ]
        every += [of(engine="loop", channels_last=False)] * (base.dtype == "float32")
    every += [of(keys=keys) for keys in options.keys]
    for devices in device_counts:
        every += [of(devices=devices), of(devices=devices, batch=devices * base.batch)]
    return every


def _arithmetic(work):
    return work.dtype if work.dtype != "float32" else f"{work.dtype}, {work.precision} products"


def load_average() -> float | None:
    """Returns how many processes have wanted a core in the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


class Benchmark:
    """One run of the program; ``record`` is what its file says."""

    def __init__(self, options: Options, path: pathlib.Path, console: Console):
        """Takes the options, and where to write and print."""
        self.options, self.path, self.console = options, path, console
        self.begin = time.monotonic()
        self.until = self.begin + 60 * options.minutes if options.minutes else math.inf
        self.platform, devices = jax.default_backend(), jax.local_devices()
        self.cpus = options.cpus
        self.cores = len(options.cpus) if options.cpus else runtime.cores()
        self.seconds = options.time_of_case(self.platform)
        self.pause = PAUSES.get(self.platform, 0.0)
        versions = runtime.versions() | runtime.versions_of("torch")
        compiler = compiler_options(self.platform)
        self.record: dict[str, Any] = {
            "benchmark_format": contents.FORMAT,
            "device": runtime.device_kind(devices),
            "platform": self.platform,
            "device_count": len(devices),
            "simulated_devices": self.platform == "cpu" and len(devices) > 1,
            "processor": runtime.model_of_processor(),
            "cores": self.cores,
            "versions": versions,
            "command": options.command(),
            "load_average": load_average(),
            "compiler_options": compiler and {k: str(v) for k, v in compiler.items()},
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
            "examples": workload.EXAMPLES,
            "rounds": options.rounds,
            "seconds": self.seconds,
            "finished": False,
            "cases": [],
            "left_out": [],
        }

    def groups(self) -> list[Group]:
        """Returns what is to be measured."""
        return groups(self.options, self.platform, self._device_counts())

    def run(self, until: float | None = None) -> None:
        """Measures all cases, until a time of ``time.monotonic`` at the latest."""
        until = self.until if until is None else until
        for group in self.groups():
            self._group(group, until)
            self.write()

    def estimate(self) -> float:
        """Returns about how many seconds all cases take at most."""
        total = 0.0
        for group in self.groups():
            for work in group.works:
                one = work.engine == OURS and work.keys == work.devices == 1
                calls = len(self.options.steps_per_call) if one else 1
                total += self._expected(work) + calls * self._of_rounds()
            total += END
        return min(total, self.until - self.begin)

    def write(self, **entries: Any) -> None:
        """Writes what there is by now."""
        self.record |= entries
        self.record["wall_seconds"] = round(time.monotonic() - self.begin, 1)
        result_files.write_json(self.path, contents.checked(self.record))

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.print(text, markup=False, soft_wrap=True)

    def leave_out(self, what: str, why: str) -> None:
        """Lists what there is no time for."""
        self.record["left_out"].append({"what": what, "why": why})
        self.say(f"{what}: left out: {why}")

    def _expected(self, work):
        """Returns about how many seconds a process takes until it can be timed."""
        if work.engine == OURS:
            seconds = PREPARE_OURS.get(work.network, PREPARE_OTHERS)
        else:
            seconds = PREPARE[work.engine]
        return seconds / self._at_once()

    def _at_once(self):
        each = CORES_TO_PREPARE.get(self.platform, CORES_TO_PREPARE_OF_OTHERS)
        return max(1, self.cores // each)

    def _of_rounds(self):
        """Returns the seconds that the turns of one case take."""
        return self.seconds + self.options.rounds * self.pause

    def _group(self, group, until):
        """Measures the programs of a group in turn."""
        ready = _Ready(self, group, until)
        try:
            ready.prepare()
            turn = self.seconds / self.options.rounds
            turns = {
                label: rounds.Turns(worker, label[1], turn)
                for label, (worker, _) in ready.programs.items()
            }
            timed = rounds.in_turn(
                turns,
                self.options.rounds,
                pause=self.pause,
                left=lambda: until - time.monotonic() if until < math.inf else 1e6,
            )
            cases = ready.failed + [
                _case(*label, ready.programs[label][1], timed[label]) for label in timed
            ]
        finally:
            for worker in ready.workers:
                worker.stop()
        order = {work: i for i, work in enumerate(group.works)}
        cases.sort(key=lambda each: (order[each[0]], each[1]["steps_per_call"]))
        for _, case in cases:
            self.record["cases"].append(case)
            self.say(f"{tables.words(case)}: {tables.outcome(case)}")

    def _device_counts(self):
        if self.options.devices is not None:
            return self.options.devices
        count = jax.local_device_count()
        return sorted({2**i for i in range(1, count.bit_length())} | {count} - {1})


class _Ready:
    """The processes of a group that can be timed."""

    def __init__(self, benchmark: Benchmark, group: Group, until: float):
        self.benchmark, self.group, self.until = benchmark, group, until
        self.workers: list[Worker] = []
        self.programs: dict[tuple[Work, int], tuple[Worker, dict]] = {}  # (work, steps) -> costs
        self.failed: list[tuple[Work, dict]] = []
        self.step = 0.0  # seconds of a step of one key of ours, once they are known

    def prepare(self):
        """Starts the processes and has them compile.

        On a CPU the first is alone, as its time tells which calls of the others are too long.
        """
        alone = self.benchmark.platform == "cpu"
        first, others = self.group.works[:alone], self.group.works[alone:]
        size = self.benchmark._at_once()
        batches = [first, *(others[i : i + size] for i in range(0, len(others), size))]
        for batch in batches:
            started = [work for work in batch if self._fits(work)]
            workers = [Worker(Program, work, cpus=self.benchmark.cpus) for work in started]
            self.workers += workers
            plans = [self._steps(work) for work in started]
            for worker, steps in zip(workers, plans, strict=True):
                worker.send("prepare", steps[0])
            for work, worker, steps in zip(started, workers, plans, strict=True):
                self._finish(work, worker, steps)

    def _fits(self, work):
        """Returns whether there is time for a program; else lists it."""
        benchmark, cases = self.benchmark, len(self.programs) + 1
        needed = benchmark._expected(work) + cases * benchmark._of_rounds() + END
        left = self.until - time.monotonic()
        if needed > left:
            what = tables.words(_entries(work, self._steps(work)[0]))
            why = f"it needs about {needed:.0f} s, and {max(left, 0):.0f} s are left"
            benchmark.leave_out(what, why)
        return needed <= left

    def _steps(self, work):
        """Returns the steps of a call to measure with, the first the one to begin with."""
        options, seconds = self.benchmark.options, self.benchmark.seconds
        asked = sorted(options.steps_per_call)
        if work.engine == PRODUCT:
            return [1]
        if options.everything and work.platform != "cpu":
            return asked[-1:]
        if not self.step:
            return asked if work == self.group.works[0] else asked[-1:]
        expected = self.step * work.keys * work.batch / options.batch
        fits = [n for n in asked if 2 * options.rounds * n * expected <= seconds]
        return [max(fits, default=asked[0])]

    def _finish(self, work, worker, steps):
        """Waits for a program, and has it compile for more steps a call where that is asked for."""
        benchmark, of_first = self.benchmark, {}
        for i, count in enumerate(steps):
            if i and 2 * benchmark.options.rounds * count * self.step > benchmark.seconds:
                self._fail(work, count, self._too_long(count * self.step))
                continue
            if i:
                worker.send("prepare", count)
            held = len(self.programs) * benchmark._of_rounds() + END
            left = None
            if self.until < math.inf:
                left = max(self.until - time.monotonic() - held, 0.0)
            try:
                costs = worker.receive(left)
            except TimeoutError:
                benchmark.leave_out(tables.words(_entries(work, count)), "it was not ready in time")
                worker.process.kill()
                break
            except RuntimeError as error:
                self._fail(work, count, failure(error))
                break
            call = costs.pop("call_seconds")
            if i and benchmark.platform == "cpu":  # there a call of any number is one program
                costs |= {name: of_first[name] for name in COMPILATION if name in of_first}
            of_first = costs
            if work == self.group.works[0] and work.engine == OURS:
                self.step = call / count
            if 2 * benchmark.options.rounds * call > benchmark.seconds:
                self._fail(work, count, self._too_long(call))
                continue
            self.programs[work, count] = worker, costs

    def _too_long(self, call):
        count, seconds = self.benchmark.options.rounds, self.benchmark.seconds
        return (
            f"{count} rounds of a call of about {call:.2g} s, and one before each, take more than "
            f"--seconds {seconds:g}"
        )

    def _fail(self, work, steps, reason):
        self.failed.append((work, _entries(work, steps) | {"reason": reason}))


def _entries(work, steps):
    """Returns what a case is of."""
    entries = dataclasses.asdict(work) | {"steps_per_call": steps}
    del entries["platform"]
    return entries


def _case(work, steps, costs, timed):
    """Returns the entries of a case that was timed."""
    entries = _entries(work, steps) | {"idle_cpu_seconds": timed.idle_cpu_seconds} | costs
    if timed.reason is not None:
        return work, entries | {"reason": timed.reason}
    median = timed.step_seconds.median
    entries["step_seconds"] = timed.step_seconds.model_dump()
    if work.engine != PRODUCT:
        entries["examples_per_second"] = work.keys * work.batch / median
        model = workload.make_model(work.network, work.dtype)
        entries["flop_per_step"] = work.keys * workload.flop_of_step(model, work.pixels, work.batch)
    entries["flop_per_second"] = entries["flop_per_step"] / median
    return work, entries
