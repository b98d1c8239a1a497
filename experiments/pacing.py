"""How many steps a call may have, so that a training looks around every few seconds."""

import time

__all__ = ["Pace"]

SECONDS = 5.0  # a call
LENGTHS = 1, 2, 5, 10, 25  # of a part of a call: few, as each is a program of its own under scan


class Pace:
    """The time that steps take, and the most steps that a call should have.

    Args:
      whole: Steps of a call that nothing makes shorter.
      loops: Whether calls of any length are one program. Then the first two have a step each: one
        compiles, one is timed. Else they are whole, as another length has to be compiled.
    """

    def __init__(self, whole: int, loops: bool):
        self.whole, self.loops = whole, loops
        self.most = 1 if loops else whole
        self.seconds = 0.0  # a step; 0 while it is not known
        self._calls, self._since = 0, time.perf_counter()

    @property
    def cuts(self) -> bool:
        """Whether calls are shorter than whole ones: steps are slow, or not timed yet."""
        return self.most < self.whole

    def start(self) -> None:
        """Starts the time of the next call, after something else took some."""
        self._since = time.perf_counter()

    def end(self, steps: int) -> None:
        """Ends the time of a call."""
        now = time.perf_counter()
        if self._calls:  # the first is compiled
            self.seconds = (now - self._since) / steps
        self._calls, self._since = self._calls + 1, now

    def adjust(self, seconds: float) -> None:
        """Makes calls as long as steps of so many seconds allow; 0 changes nothing."""
        if seconds:
            fitting = [n for n in (*LENGTHS, self.whole) if n * seconds <= SECONDS]
            fits = max(fitting, default=1)
            self.most = fits if self.loops else min(fits, self.most)
