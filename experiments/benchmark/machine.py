"""The machine that is measured: its processor and its memory."""

import contextlib
import os
import pathlib
import platform

import jax

__all__ = ["check_room", "cores", "peak_memory", "processor"]


def processor() -> str:
    """Returns the name of the CPU."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int | None:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def peak_memory(device: jax.Device) -> int:
    """Returns the most memory, bytes, that a device has held; 0 if it does not count."""
    return _statistics(device).get("peak_bytes_in_use", 0)


def check_room(needed: int, device: jax.Device) -> None:
    """Raises a MemoryError if a device has too little free memory.

    Without this check a process on a CPU would be killed without a message.

    Args:
      needed: Bytes.
      device: Where.
    """
    free = _free_memory(device)
    if free is not None and needed > free:
        raise MemoryError(f"needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free")


def _free_memory(device):
    statistics = _statistics(device)
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return None


def _statistics(device):
    return device.memory_stats() or {}
