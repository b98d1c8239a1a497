"""Ends runs at random moments, lets them go on, and compares what they end with."""

import dataclasses
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from experiments import peers, processes, record, runtime
from experiments.methods import METHODS

__all__ = ["Kills", "Trial", "trial"]

FORMAT = 1  # of the file that is written
CONFIG = "digits_digits_m"
METHOD = next(method for method in METHODS.values() if method.adversarial)
SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
NUMBERS = {  # entries of a result that an interruption must not change
    *("keys", "steps", "data", "curves", "source_accuracy", "target_accuracy", "mean", "std"),
    *("svm_accuracy", "svm_mean", "svm_std", "diverged", "digests", "resolved_config"),
}
_SETTINGS = ["--batch-size", "8", "--evaluate-every", "20", "--checkpoint-every", "20"]
_LONG = 600.0  # seconds, after which a run that nothing disturbs is given up
_OTHERS = 30.0  # seconds within which others that have joined end, where one is killed
_SAVES = 90.0  # seconds within which a run ends that saves what it has done, or compiles


class Trial(NamedTuple):
    """How a run is disturbed."""

    signal: signal.Signals
    processes: int  # that train as one; one of them gets the signal
    times: int  # that the run is ended, before it ends by itself
    fresh: bool  # whether the data have yet to be prepared

    @property
    def case(self) -> str:
        """What the trials that are counted together have in common."""
        return self.signal.name + ", one of two processes" * (self.processes > 1)


def trial(number: int) -> Trial:
    """Returns the trial of a number: signals take turns, and so do all else that may differ.

    >>> trial(0)
    Trial(signal=<Signals.SIGKILL: 9>, processes=1, times=1, fresh=True)
    """
    return Trial(
        signal=SIGNALS[number % 3],
        processes=2 if number % 5 == 4 else 1,
        times=2 if number % 4 == 3 else 1,
        fresh=number % 7 == 0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kills:
    """Ends runs at random moments, lets them go on, and compares what they end with."""

    count: int = 30
    """Number of runs that are ended, by SIGKILL, SIGTERM and SIGINT in turn."""

    output: pathlib.Path | None = None
    """JSON file of the counts."""

    seed: int = 0
    """The moments are functions of this and a number."""

    steps: int = 40
    """Length of a training, updates."""

    def run(self, console: Console) -> int:
        """Runs all trials and returns 0, or 1 where one failed."""
        if self.count < 1:
            raise ValueError(f"expected a --count of at least 1, got {self.count}")
        # A shell's job in the background ignores SIGINT, and so would the runs.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        started, failures = time.monotonic(), []
        outcomes: dict[str, Counter] = {}
        statuses: dict[str, Counter] = {}
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(pathlib.Path(folder), self.steps)
            for number in track(range(self.count), "kills", console=console):
                each = trial(number)
                ended, faults = runs.disturbed(each, random.Random(f"{self.seed} {number}"))
                outcomes.setdefault(each.case, Counter())["failed" if faults else "same"] += 1
                statuses.setdefault(each.case, Counter()).update(ended)
                failures += [{"number": number, "case": each.case, "fault": f} for f in faults]
        content = {
            "format": FORMAT,
            "program": "kills",
            "count": self.count,
            "failed": len({each["number"] for each in failures}),
            "seed": self.seed,
            "steps": self.steps,
            "seconds": round(time.monotonic() - started, 1),
            "processor": runtime.processor(),
            "versions": runtime.versions(),
            "cases": {
                name: {"trials": counts.total(), **counts, "statuses": dict(statuses[name])}
                for name, counts in outcomes.items()
            },
            "failures": failures,
        }
        if self.output is not None:
            record.write_json(self.output, content)
        for name, counts in content["cases"].items():
            console.print(name, counts, markup=False)
        for failure in failures:
            console.print("{number}, {case}: {fault}".format(**failure), markup=False)
        return 1 if failures else 0


class Runs:
    """Runs that nothing disturbs, of one process and of two, and others to compare with them.

    Args:
      folder: An empty folder.
      steps: The length of a training.
    """

    def __init__(self, folder: pathlib.Path, steps: int):
        self.folder, self.steps = folder, steps
        self.expected: dict[int, dict[str, Any]] = {}  # by number of processes
        self.seconds: dict[int, float] = {}

    def undisturbed(self, count: int) -> None:
        """Runs once to compile, and once to measure and to compare with."""
        if count in self.expected:
            return
        for _ in range(2):
            started = time.monotonic()
            work = self.folder / f"undisturbed {count}"
            shutil.rmtree(work, ignore_errors=True)
            self._whole(work, self.folder / "data", count)
            self.seconds[count] = time.monotonic() - started
        self.expected[count] = _content(work)

    def disturbed(self, trial: Trial, chance: random.Random) -> tuple[list[str], list[str]]:
        """Ends a run, lets it go on, and returns exit statuses and what is wrong at the end."""
        self.undisturbed(trial.processes)
        work, data = self.folder / "work", self.folder / "data"
        shutil.rmtree(work, ignore_errors=True)
        if trial.fresh:
            data = work / "data"
        ended: list[str] = []
        faults: list[str] = []
        for _ in range(trial.times):
            every = self._start(work, data, trial.processes)
            victim = chance.randrange(trial.processes)
            time.sleep(chance.uniform(0, 1.1 * self.seconds[trial.processes]))
            every[victim].send_signal(trial.signal)
            signalled = time.monotonic()
            most = _OTHERS if trial.signal == signal.SIGKILL else _SAVES
            ends = _ends(every, most + peers.JOIN * (trial.processes - 1))
            late = time.monotonic() > signalled + most
            if late and not any(peers.HOW["late"] in text for _, text in ends):
                faults.append(f"no end after {most:.0f} s")
            ended.append(" and ".join(sorted(str(status) for status, _ in ends)))
            allowed = {0, -trial.signal, 128 + trial.signal}
            for i, (status, text) in enumerate(ends):
                others = set() if i == victim else {processes.DIED}
                if status not in allowed | others:
                    faults.append(f"status {status}: {text[-300:]}")
        try:
            self._whole(work, data, trial.processes)
        except RuntimeError as error:
            return ended, [*faults, str(error)]
        content, expected = _content(work), self.expected[trial.processes]
        faults += [f"other {name}" for name in expected if content[name] != expected[name]]
        if trial.fresh:
            rest = _files(data) ^ _files(self.folder / "data")
            faults += [f"other prepared files: {sorted(rest)}"] if rest else []
        return ended, faults

    def _whole(self, work, data, count):
        every = self._start(work, data, count)
        ends = _ends(every, _LONG)
        if any(status != 0 for status, _ in ends):
            raise RuntimeError(f"a run that nothing disturbs has failed: {ends}"[:600])

    def _start(self, work, data, count):
        """Returns the processes of a run."""
        command = [sys.executable, "-m", "experiments.run", CONFIG, "--methods", METHOD.name]
        command += ["--steps", str(self.steps), *_SETTINGS, "--output", str(work / "runs")]
        command += ["--data-dir", str(data), "--compilation-cache", str(self.folder / "compiled")]
        if count > 1:
            where = f"localhost:{_free_port()}"
            command += ["--distributed", "--coordinator", where, "--processes", str(count)]
        return [
            subprocess.Popen(
                command + ["--process-id", str(i)] * (count > 1),
                env=os.environ | {"JAX_PLATFORMS": "cpu"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for i in range(count)
        ]


def _ends(every, seconds):
    """Returns the status of each process, None for no end within some time, and what it told."""
    last, ends = time.monotonic() + seconds, []
    for process in every:
        try:
            text, _ = process.communicate(timeout=max(0.1, last - time.monotonic()))
            ends.append((process.returncode, text))
        except subprocess.TimeoutExpired:
            process.kill()
            ends.append((None, process.communicate()[0]))
    return ends


def _content(work):
    """Returns the numbers of a run, and the names of its files."""
    folder = work / "runs" / CONFIG
    result = record.read(folder / f"{METHOD.name}.json")
    return {name: result.get(name) for name in sorted(NUMBERS)} | {"files": _files(folder)}


def _files(folder):
    """Returns the names of files and folders; inside of states, orbax's are random."""
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return {path.as_posix() for path in paths if "state" not in path.parent.parts}


def _free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
