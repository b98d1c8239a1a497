"""Programs that take turns: each has one turn a round, and waits in its own process meanwhile."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from experiments.benchmark import contents
from experiments.benchmark.isolated import Worker, failure

__all__ = ["PAUSE", "Timed", "in_turn"]

PAUSE = 0.4  # seconds before a turn on a CPU: threads of the last one spin for 0.2 s
FAILURES = (RuntimeError, TimeoutError)


class Timed(NamedTuple):
    """What a program's turns gave."""

    step_seconds: contents.Times | None
    idle_cpu_seconds: float
    reason: str | None  # why there is no time


class Turns(NamedTuple):
    """The turns of a program."""

    worker: Worker
    steps: int  # a call
    seconds: float  # about how long a turn may take


def in_turn(
    programs: Mapping[Hashable, Turns],
    rounds: int,
    *,
    pause: float,
    left: Callable[[], float],
) -> dict[Any, Timed]:
    """Returns the time of a step in each program: A, B, C, then A, B, C again, and so on.

    Args:
      programs: By name; those of one process stand beside each other.
      rounds: How many.
      pause: Seconds before the turn of another process.
      left: Returns the seconds that are left: who is not done by then is ended.
    """
    times: dict[Any, list[float]] = {name: [] for name in programs}
    calls, idle, reasons = dict.fromkeys(programs, 0), dict.fromkeys(programs, 0.0), {}
    last = None
    for _ in range(rounds):
        for name, (worker, steps, seconds) in programs.items():
            if name in reasons:
                continue
            if worker is not last:
                time.sleep(pause)
            last = worker
            try:
                turn = worker.ask("turn", steps, seconds, timeout=max(left(), 0.0))
            except FAILURES as error:
                late = isinstance(error, TimeoutError)
                reasons[name] = "there was no time for all rounds" if late else failure(error)
                for other, (of_other, *_) in programs.items():  # its process is busy, or gone
                    if of_other is worker:
                        reasons.setdefault(other, reasons[name])
                continue
            times[name].append(statistics.median(turn["times"]) / steps)
            calls[name] += len(turn["times"])
            idle[name] += turn["idle_cpu_seconds"]
    return {
        name: Timed(
            None if name in reasons else contents.times(times[name], calls[name]),
            idle[name],
            reasons.get(name),
        )
        for name in programs
    }
