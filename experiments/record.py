"""Result files: the only module that knows JSON. How they are written, read, checked and extended.

A training keeps ``key_KEY/record.json`` beside its checkpoints; a method of an experiment has one
result file, ``CONFIG/METHOD.json``, with all its keys.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import pathlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from dann_jax.datasets.whole_files import whole
from experiments.methods import METHODS

__all__ = [
    "FORMAT",
    "alone",
    "curves",
    "digest",
    "diverged",
    "faults",
    "has_picks",
    "mean_and_std",
    "oracle",
    "read",
    "read_results",
    "summary",
    "training_entries",
    "write_json",
]

FORMAT = 2  # of result files and records; a change of what they hold raises it
LINE = 100  # characters; a longer object has a line for each entry

_OF_ALL = (
    "format config method target keys target_accuracy mean std selection data versions device "
    "device_count process_count plain_xla threads resolved_config command"
)
_OF_TRAININGS = "source_accuracy steps wall_seconds curves groups"
_OF_ALIGNMENTS = "components by_components oracle_accuracy oracle_mean oracle_std oracle_components"
_SUMMARIES = {  # prefix of the mean and the deviation -> accuracy of each key
    "": "target_accuracy",
    "svm_": "svm_accuracy",
    "oracle_": "oracle_accuracy",
}
_PER_KEY = {"source_accuracy", "curves", "components", "oracle_components", *_SUMMARIES.values()}
_DIGITS = 1e-5  # relative: more than what six digits leave out


def _text(value, indent=""):
    """Returns JSON in which a list of plain values, or whatever is short, stands on one line."""
    line = json.dumps(value, allow_nan=False)
    if len(indent) + len(line) <= LINE or not isinstance(value, dict | list):
        return line
    inner = indent + " "
    if isinstance(value, dict):
        entries = [f"{json.dumps(name)}: {_text(each, inner)}" for name, each in value.items()]
    elif any(isinstance(each, dict | list) for each in value):
        entries = [_text(each, inner) for each in value]
    else:
        return line
    joined = f",\n{inner}".join(entries)
    return f"{line[0]}\n{inner}{joined}\n{indent}{line[-1]}"


def _finite(content):
    """Returns the content with None in place of NaN and infinities."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def digest(content: Any) -> str:
    """Returns a SHA-256 that names a file after the content that decides its numbers."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def write_json(path: pathlib.Path, content: Any, *, replace: bool = True) -> None:
    """Writes a JSON file whole or not at all; folders are created, NaN becomes null."""
    text = _text(_finite(content)) + "\n"
    with whole(path, replace=replace) as temporary:
        temporary.write_text(text)


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder, which is created, against other processes that would hold it."""
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


def read(path: pathlib.Path) -> dict | None:
    """Returns the content of a JSON file, None where there is none."""
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


def read_results(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the results in the folder of an experiment by method, in the order of the table."""
    results = {name: read(folder / f"{name}.json") for name in METHODS}
    return {name: result for name, result in results.items() if result is not None}


def training_entries(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the entries of a result file that come from the records of its keys."""
    groups = {(tuple(each["together"]), each["devices_per_key"]): None for each in records}
    return {
        **summary("", "target_accuracy", [each["target_accuracy"] for each in records]),
        "source_accuracy": [each["source_accuracy"] for each in records],
        **records[0]["origin"],  # the same for all of them
        "groups": [{"keys": list(keys), "devices_per_key": each} for keys, each in groups],
        "wall_seconds": round(sum(each["wall_seconds"] for each in records), 1),
        "warnings": [each["warnings"] for each in records],
        "diverged": [each.get("diverged") for each in records],
        "digests": [each.get("digests") for each in records],
        "curves": [curves(each) for each in records],
    }


def curves(record: dict[str, Any]) -> dict[str, dict[str, list]]:
    """Returns the curves of a training as columns, as result files keep them."""
    return {"training": _columns(record["curves"]), "evaluations": _columns(record["evaluations"])}


def _columns(entries: list[dict]) -> dict[str, list]:
    """Returns rows as columns of numbers, rounded to the six digits that result files keep."""
    return {
        name: [e[name] if e[name] is None else float(f"{e[name]:.6g}") for e in entries]
        for name in (entries[0] if entries else ())
    }


def summary(prefix: str, name: str, accuracy: list[float | None]) -> dict[str, Any]:
    """Returns the accuracies of all keys, null where not known, with their mean and deviation."""
    accuracy = [math.nan if a is None else a for a in accuracy]
    mean, std = mean_and_std(accuracy)
    return {name: accuracy, f"{prefix}mean": mean, f"{prefix}std": std}


def mean_and_std(values: list[float]) -> tuple[float, float | None]:
    """Returns mean and sample standard deviation (None of one value); NaN where a value is."""
    if any(map(math.isnan, values)):
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def diverged(result: dict[str, Any]) -> list[bool]:
    """Returns whether each key's training ended in a loss that is not finite."""
    if "curves" not in result:
        return [False] * len(result["keys"])
    return [curves["training"]["label_loss"][-1] is None for curves in result["curves"]]


def has_picks(result: dict[str, Any]) -> bool:
    """Returns whether a closed form had several numbers of components to choose from."""
    return len(result["by_components"]["components"]) > 1


def oracle(result: dict[str, Any]) -> dict[str, Any]:
    """Returns the result of a closed form with the oracle's mean and deviation as its own."""
    return result | {name: result[f"oracle_{name}"] for name in ("mean", "std")}


def faults(result: dict[str, Any]) -> list[str]:
    """Returns what keeps a result from being whole and consistent; an empty list where nothing."""
    method = METHODS.get(result.get("method"))
    others = _OF_ALIGNMENTS if method and method.aligns else _OF_TRAININGS
    missing = [name for name in f"{_OF_ALL} {others}".split() if name not in result]
    if missing:
        return [f"no {', '.join(missing)}"]
    if result["format"] != FORMAT:
        return [f"the format is {result['format']}, this version reads {FORMAT}: make it again"]
    try:
        return _wrong_shapes(result) or _wrong_entries(result) + _wrong_curves(result)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return [f"entries are not of the kind that a result has ({type(error).__name__}: {error})"]


def _wrong_shapes(result):
    keys = result["keys"]
    wrong = [
        f"{name} has {len(result[name])} entries for {len(keys)} keys"
        for name in sorted(_PER_KEY & result.keys())
        if len(result[name]) != len(keys)
    ]
    if wrong or not keys:
        return wrong or ["no key"]
    if len(set(keys)) < len(keys):
        wrong.append(f"keys are not distinct: {keys}")
    return wrong + [
        f"{name} is not an object with entries"
        for name in ("data", "versions", "resolved_config")
        if not isinstance(result[name], dict) or not result[name]
    ]


def _wrong_entries(result):
    wrong = []
    if not all(isinstance(entry, dict) for entry in result["data"].values()):
        wrong.append("data has entries that are not objects")
    if "dann_jax" not in result["versions"]:
        wrong.append("versions lack that of dann_jax")
    settings = [result["resolved_config"].get(name) for name in ("method", "target")]
    if settings != [result["method"], result["target"]]:
        wrong.append(f"resolved_config is of {' and '.join(map(str, settings))}")
    for prefix, name in _SUMMARIES.items():
        if name not in result:
            continue
        values, entries = result[name], [f"{prefix}mean", f"{prefix}std"]
        stored = [result.get(entry) for entry in entries]
        expected = (None, None) if None in values else mean_and_std(values)
        if not all(
            lacks if value is None else 0 <= value <= 1
            for value, lacks in zip(values, _lack_accuracy(result), strict=True)
        ):
            wrong.append(f"{name} is not between 0 and 1: {values}")
        elif not all(map(_close, expected, stored)):
            wrong.append(f"{' and '.join(entries)} are not those of {name}: {stored}")
    return wrong


def _lack_accuracy(result):
    """Returns which keys have no accuracy for a reason: they diverged, or there are no labels."""
    if "curves" not in result:
        return [False] * len(result["keys"])
    unlabelled = (set(c["evaluations"]["target_accuracy"]) == {None} for c in result["curves"])
    return [any(reasons) for reasons in zip(unlabelled, diverged(result), strict=True)]


def _wrong_curves(result):
    wrong = []
    for key, accuracy, curves in zip(
        result["keys"], result["target_accuracy"], result.get("curves", ()), strict=False
    ):
        training, evaluations = curves["training"], curves["evaluations"]
        for table in (training, evaluations):
            if len({len(column) for column in table.values()}) != 1:
                wrong.append(f"the curves of key {key} have columns of several lengths")
            elif table["step"][-1:] != [result["steps"]]:
                wrong.append(f"the curves of key {key} do not end at step {result['steps']:,}")
        if not _close(accuracy, evaluations["target_accuracy"][-1], _DIGITS):
            wrong.append(f"target_accuracy of key {key} is not that of its last evaluation")
    return wrong


def _close(a, b, tolerance=1e-9):
    return a == b if a is None or b is None else math.isclose(a, b, rel_tol=tolerance)
