"""Result files: what they hold, and how they are written and read."""

import json
import math
import os
import pathlib
import statistics
import tempfile
from importlib import metadata
from typing import Any

import jax

__all__ = ["device_kind", "gap_covered", "mean_and_std", "read", "versions", "write_json"]


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file whole or not at all.

    Args:
      path: Where to; folders are created.
      content: What to write; NaN becomes null.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(_without_nan(content), file, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


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
    """Returns the mean and the sample standard deviation; None for the latter of one value."""
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

    names = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {"dann_jax": __version__, **{name: metadata.version(name) for name in names}}


def device_kind(devices: list[jax.Device]) -> str:
    """Returns what the devices are, such as ``cpu`` or ``NVIDIA H200``."""
    return devices[0].device_kind
