"""The time of a step in one program, or in several whose calls take turns."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["CALLS", "interleaved"]

REPEATS = 20  # timed calls, at most
CALLS = 5  # timed calls that a number of steps a call must leave time for
PAUSE = 0.3  # seconds: idle threads of one library still spin when the other's call begins


def interleaved(
    programs: Mapping[Any, Callable[[int], None]], steps: int, seconds: float
) -> dict[Any, dict[str, Any]]:
    """Returns the time of a step in each program: median, quartiles and number of calls.

    The first call of each program, which compiles, is outside the time limit.

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
