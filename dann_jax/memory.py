"""Memory of the machine: what is free, and what is freed and stays for the next step."""

import contextlib
import ctypes
import math
import pathlib
import sys

__all__ = ["free_bytes", "keep_freed_memory"]

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_LARGEST = 2**31 - 1


def free_bytes() -> float:
    """Returns how much memory of the host is free; infinite where the system does not say."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return math.inf


def keep_freed_memory() -> bool:
    """Lets glibc keep memory that is freed, for the next step to use; returns whether it does.

    Otherwise large blocks go back to the system at the end of each step and come anew, zeroed page
    by page, at the next: on a CPU a tenth to a third of the time of a step. Other systems than
    Linux with glibc stay as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = {
        _M_MMAP_MAX: 0,  # no block has a mapping of its own
        _M_TRIM_THRESHOLD: _LARGEST,
        _M_ARENA_MAX: 1,  # blocks of any size come from one heap, whichever thread asks
    }
    return mallopt is not None and all(mallopt(*setting) == 1 for setting in settings.items())
