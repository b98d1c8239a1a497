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

BOUNDS = ("source-only", "train-on-target")  # of the gap that a method may cover
DASH = "—"  # in a table, where there is no number

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "scipy"),
    *("scikit-learn", "Pillow", "resvg_py", "tensorflow-datasets", "grain"),
)

_OF_ALL = (
    *("config", "method", "target", "keys", "target_accuracy", "mean", "std", "selection"),
    *("data", "versions", "device", "device_count", "resolved_config", "command"),
)
_OF_TRAININGS = ("source_accuracy", "steps", "wall_seconds", "curves")
_OF_ALIGNMENT = (
    *("components", "oracle_accuracy", "oracle_mean", "oracle_std", "oracle_components"),
)
_SUMMARIES = (  # of a list with an accuracy for each key
    ("target_accuracy", "mean", "std"),
    ("svm_accuracy", "svm_mean", "svm_std"),
    ("oracle_accuracy", "oracle_mean", "oracle_std"),
)
_DIGITS = 1e-5  # relative: more than what six digits leave out

__all__ = [
    "BOUNDS",
    "DASH",
    "alone",
    "columns",
    "device_kind",
    "faults",
    "gap_covered",
    "gap_of",
    "mean_and_std",
    "oracle",
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
      ValueError: It is no JSON, or no object with names.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): move it away") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected a JSON object, got {type(content).__name__}: move it away"
        )
    return content


def faults(result: dict[str, Any]) -> list[str]:
    """Returns what keeps a result from being whole and consistent; an empty list where nothing.

    Args:
      result: Content of CONFIG/METHOD.json.
    """
    required = _OF_ALL + (_OF_ALIGNMENT if result.get("method") == "sa" else _OF_TRAININGS)
    missing = [name for name in required if name not in result]
    if missing:
        return [f"no {', '.join(missing)}"]
    try:
        return _inconsistencies(result)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return [f"entries are not of the kind that a result has ({type(error).__name__}: {error})"]


def _inconsistencies(result):
    """Returns what does not fit together in a result that has all entries."""
    count = len(result["keys"])
    lists = {name for name, *_ in _SUMMARIES}
    lists |= {"source_accuracy", "curves", "components", "oracle_components"}
    found = [
        f"{name} has {len(result[name])} entries for {count} keys"
        for name in sorted(lists & result.keys())
        if len(result[name]) != count
    ]
    if found or not count:
        return found or ["no key"]
    if len(set(result["keys"])) < count:
        found.append(f"keys are not distinct: {result['keys']}")
    found += [
        f"{name} is not an object with entries"
        for name in ("data", "versions", "resolved_config")
        if not isinstance(result[name], dict) or not result[name]
    ]
    if found:
        return found
    if not all(isinstance(entry, dict) for entry in result["data"].values()):
        found.append("data has entries that are not objects")
    if "dann_jax" not in result["versions"]:
        found.append("versions do not tell that of dann_jax")
    settings = [result["resolved_config"].get(name) for name in ("method", "target")]
    if settings != [result["method"], result["target"]]:
        found.append(f"resolved_config is of {' and '.join(map(str, settings))}")
    for name, *summary in _SUMMARIES:
        if name in result:
            values, told = result[name], [result.get(each) for each in summary]
            if any(value is None or not 0 <= value <= 1 for value in values):
                found.append(f"{name} is not between 0 and 1: {values}")
            elif not all(map(_close, mean_and_std(values), told)):
                found.append(f"{' and '.join(summary)} are not those of {name}: {told}")
    for key, accuracy, curves in zip(
        result["keys"], result["target_accuracy"], result.get("curves", ()), strict=False
    ):
        training, evaluations = curves["training"], curves["evaluations"]
        for table in (training, evaluations):
            if len({len(column) for column in table.values()}) != 1:
                found.append(f"the curves of key {key} have columns of several lengths")
            elif table["step"][-1:] != [result["steps"]]:
                found.append(f"the curves of key {key} do not end at step {result['steps']:,}")
        if not _close(accuracy, evaluations["target_accuracy"][-1], _DIGITS):
            found.append(f"target_accuracy of key {key} is not that of its last evaluation")
    return found


def _close(a, b, tolerance=1e-9):
    return a == b if a is None or b is None else math.isclose(a, b, rel_tol=tolerance)


def columns(entries: list[dict]) -> dict[str, list]:
    """Returns rows as columns of numbers, rounded to the six digits that result files keep."""
    return {
        name: [e[name] if e[name] is None else float(f"{e[name]:.6g}") for e in entries]
        for name in entries[0]
    }


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


def gap_of(method: str, means: dict[str, float | None]) -> float | None:
    """Returns the share of the gap that a method covers, None for a bound or without a figure.

    Args:
      method: Its name.
      means: Mean target accuracies of methods, those of ``BOUNDS`` among them.
    """
    needed = [means.get(each) for each in (method, *BOUNDS)]
    return None if method in BOUNDS or None in needed else gap_covered(*needed)


def oracle(result: dict[str, Any]) -> dict[str, Any]:
    """Returns a result of subspace alignment with the oracle's mean and deviation as its own."""
    return result | {name: result[f"oracle_{name}"] for name in ("mean", "std")}


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
