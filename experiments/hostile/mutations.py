"""Changes small valid files of every format at random, and reads them."""

import dataclasses
import pathlib
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from rich.console import Console
from rich.progress import Progress

from experiments import record, runtime
from experiments.hostile.outcomes import FAILURES
from experiments.hostile.readers import READERS
from experiments.hostile.tables import in_terminal
from experiments.hostile.workers import Job, run_jobs

__all__ = ["Mutations", "shares"]

FORMAT = 1  # of the file that is written
_OF_A_JOB = 5_000  # trials that a process does, so that a bar moves and few imports are made
_SHOWN = 20  # failures that are printed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mutations:
    """Changes small valid files of every format at random, and reads them."""

    count: int = 100_000
    """Number of changed files, shared among the readers: fewer for those that take long."""

    output: pathlib.Path | None = None
    """JSON file of the counts."""

    only: tuple[Literal[tuple(READERS)], ...] = tuple(READERS)
    """Which readers, by default all."""

    seed: int = 0
    """Each change is a function of this, the reader and a number."""

    first: int = 0
    """Number of the first change of each reader: that of a failure, with --count 1 and --only,
    repeats it."""

    workers: int = dataclasses.field(default_factory=runtime.threads)
    """Number of processes."""

    timeout: float = 20.0
    """Seconds that reading one file may take."""

    memory: int = 1 << 30
    """Bytes that it may allocate."""

    def run(self, console: Console) -> int:
        """Runs all trials and returns 0, or 1 where one failed."""
        if min(self.count, self.workers, self.memory) < 1 or not self.timeout > 0:
            raise ValueError(
                "expected numbers of at least 1 for --count, --workers and --memory, and a "
                f"--timeout above 0, got {self.count}, {self.workers}, {self.memory} and "
                f"{self.timeout}"
            )
        started, numbers = time.monotonic(), shares(self.count, self.only)
        outcomes = {name: Counter() for name in numbers}
        failures = []
        with Progress(console=console) as progress:
            bar = progress.add_task("mutations", total=self.count)

            def report(name, number, outcome):
                outcomes[name][outcome.kind] += 1
                if outcome.kind in FAILURES:
                    about = {"reader": name, "number": number, "outcome": outcome.kind}
                    failures.append(about | {"error": outcome.error})
                progress.advance(bar)

            options = {"workers": self.workers, "timeout": self.timeout, "memory": self.memory}
            run_jobs(_jobs(numbers, self.seed, self.first), report, **options)
        if self.output is not None:
            content = self._content(outcomes, failures, time.monotonic() - started)
            record.write_json(self.output, content)
        console.print(in_terminal(outcomes))
        for each in failures[:_SHOWN]:
            console.print("{reader}, {number}: {outcome} {error}".format(**each), markup=False)
        return 1 if failures else 0

    def _content(self, outcomes, failures, seconds) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "program": "mutations",
            "count": self.count,
            "failed": len(failures),
            "seed": self.seed,
            "first": self.first,
            "timeout": self.timeout,
            "memory": self.memory,
            "seconds": round(seconds, 1),
            "workers": self.workers,
            "processor": runtime.processor(),
            "versions": runtime.versions(),
            "cases": {
                name: {"checksum": READERS[name].checked, "trials": counts.total(), **counts}
                for name, counts in outcomes.items()
            },
            "failures": failures,
        }


def shares(count: int, names: tuple[str, ...]) -> dict[str, int]:
    """Returns how many of ``count`` trials each reader gets, by its share."""
    total = sum(READERS[name].share for name in names)
    numbers = {name: int(count * READERS[name].share / total) for name in names}
    numbers[names[0]] += count - sum(numbers.values())
    return numbers


def _jobs(numbers: dict[str, int], seed: int, first: int) -> Iterator[Job]:
    for name, number in numbers.items():
        trials = range(first, first + number)
        for start in range(0, number, _OF_A_JOB):
            yield Job(name, READERS[name], seed, trials[start : start + _OF_A_JOB])
