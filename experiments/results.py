"""Result files: what they hold, and how they are written and read."""

import contextlib
import fcntl
import json
import math
import os
import pathlib
import platform
import resource
import statistics
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "scipy"),
    *("scikit-learn", "Pillow", "resvg_py", "tensorflow-datasets", "grain"),
)

__all__ = [
    "alone",
    "device_kind",
    "gap_covered",
    "mean_and_std",
    "peak_memory",
    "read",
    "versions",
    "whole",
    "write_json",
]


def write_json(path: pathlib.Path, content: Any, *, replace: bool = True) -> None:
    """Writes a JSON file whole or not at all.

    Args:
      path: Where to; folders are created.
      content: What to write; NaN becomes null.
      replace: Whether a file that is there may be replaced.

    Raises:
      FileExistsError: There is a file, and it may not be replaced.
    """
    text = json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n"
    with whole(path, replace=replace) as temporary:
        temporary.write_text(text)


@contextlib.contextmanager
def whole(path: pathlib.Path, *, replace: bool = True) -> Iterator[pathlib.Path]:
    """Gives the path of a temporary file that takes the place of ``path`` when it is complete.

    Args:
      path: Where the file is to be in the end; folders are created.
      replace: Whether a file that is there may be replaced.

    Raises:
      FileExistsError: There is a file, and it may not be replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        os.fsync(handle)
        os.chmod(temporary, 0o644)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder, which is created, against other processes that would hold it.

    Raises:
      ValueError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"another process is training into {folder}: wait for it, or choose another "
                "--output"
            ) from error
        yield


def _without_nan(content):
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def read(path: pathlib.Path) -> dict | None:
    """Returns the content of a result file, None where there is none.

    Raises:
      ValueError: It is no JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): move it away") from error


def mean_and_std(values: list[float]) -> tuple[float, float | None]:
    """Returns the mean and the sample standard deviation; None for the latter of one value.

    Both are NaN where a value is.
    """
    if any(map(math.isnan, values)):
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def gap_covered(method: float, source_only: float, train_on_target: float) -> float | None:
    """Returns (method - source-only) / (train-on-target - source-only), None if there is no gap.

    Args:
      method: Target accuracy, in [0, 1].
      source_only: Target accuracy of the lower bound.
      train_on_target: Target accuracy of the upper bound.
    """
    gap = train_on_target - source_only
    return (method - source_only) / gap if gap > 0 else None


def versions() -> dict[str, str]:
    """Returns the versions of what the numbers depend on."""
    from dann_jax import __version__

    found = {"dann_jax": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def device_kind(devices: list[jax.Device]) -> str:
    """Returns what the devices are, such as ``cpu`` or ``NVIDIA H200``."""
    return devices[0].device_kind


def peak_memory(devices: list[jax.Device]) -> dict[str, int]:
    """Returns the most memory, bytes, that this process has held since it started.

    Args:
      devices: Where they count their memory, ``peak_memory_bytes`` is that of the fullest.

    Returns:
      That, or ``peak_resident_bytes``: of the whole process, Python and data included.
    """
    found = [device.memory_stats() for device in devices]
    if all(found):
        return {"peak_memory_bytes": max(stats["peak_bytes_in_use"] for stats in found)}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
