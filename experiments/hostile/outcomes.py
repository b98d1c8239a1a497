"""What can come of a trial."""

from typing import NamedTuple

__all__ = ["FAILURES", "HARMLESS", "Outcome"]

HARMLESS = {
    "same": "read as before, or made anew",
    "refused": "a documented error of one line that names the file",
    "another": "read as another file: no checksum covers the change",
}
FAILURES = {
    "wrong": "read with other values although a checksum covers the change",
    "unclear": "a documented error that does not name the file, or has several lines",
    "undocumented": "an error of another type",
    "memory": "more memory than allowed",
    "executed": "something in the file was run",
    "hung": "no answer in time",
    "crashed": "the process ended",
}


class Outcome(NamedTuple):
    """What came of a trial."""

    kind: str  # of HARMLESS or FAILURES
    error: str = ""
