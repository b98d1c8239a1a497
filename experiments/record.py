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
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from dann_jax import digests
from dann_jax.datasets.whole_files import whole
from experiments import choice, consistency
from experiments.methods import METHODS
from experiments.schema import FORMAT, Alignment, Evaluations, Fault, Head, Training, shown, typed

__all__ = [
    "FORMAT",
    "alone",
    "as_line",
    "as_text",
    "curves",
    "digest",
    "diverged",
    "has_picks",
    "joined_origin",
    "oracle",
    "parameters_digest",
    "read",
    "read_measured",
    "read_record",
    "read_result",
    "read_results",
    "summary",
    "training_digests",
    "training_entries",
    "write_checked",
    "write_json",
]

LINE = 100  # characters; a longer object has a line for each entry
_CHECKSUM = "checksum"  # SHA-256 of all other entries
MOST = 3  # faults of a file that an error quotes; the others are counted


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


def as_text(content: Any) -> str:
    """Returns the text of a JSON file; NaN becomes null."""
    return _text(_finite(content)) + "\n"


def as_line(content: Any) -> str:
    """Returns JSON on one line; NaN and infinities become null."""
    return json.dumps(_finite(content), allow_nan=False) + "\n"


def write_json(path: pathlib.Path, content: Any, *, replace: bool = True) -> None:
    """Writes a JSON file whole or not at all; folders are created, NaN becomes null."""
    text = as_text(content)
    with whole(path, replace=replace) as temporary:
        temporary.write_text(text)


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder, which is created, against other processes that would hold it.

    Where an error comes before anything is in it, it is removed again.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"another process is training into {folder}: wait for it, or choose another "
                "--output"
            ) from error
        try:
            yield
        except BaseException:
            if created and all(p.is_dir() or p.name == ".lock" for p in folder.rglob("*")):
                shutil.rmtree(folder)
                with contextlib.suppress(OSError):  # another process may use them by now
                    for path in created[1:]:
                        path.rmdir()
            raise


def read(path: pathlib.Path) -> dict | None:
    """Returns the content of a JSON file, None where there is none."""
    try:
        content = json.loads(
            path.read_text(encoding="utf-8"),
            parse_float=_finite_number,
            parse_constant=_finite_number,
            object_pairs_hook=_distinct_names,
        )
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        raise ValueError(f"{path}: expected a JSON file, got a folder") from error
    except RecursionError as error:
        raise ValueError(
            f"{path} is not valid JSON (expected some levels of lists and objects, got more than "
            "can be read): move it away"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): move it away") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected a JSON object with entries, got {shown(content)}: move it away"
        )
    return content


def _finite_number(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"expected finite numbers, got {text[:40]}")
    return number


def _distinct_names(pairs):
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"expected each name of an object once, got {twice[:40]!r} again")
    return content


def read_result(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns the content of a result file, None where there is none.

    Raises:
      ValueError: An entry is missing, of another kind, or does not fit the others.
    """
    result = read(path)
    if result is not None:
        advice = "restore the file, or make it again (experiments.run --overwrite)"
        _check(path, consistency.result_faults(result), advice)
    return result


def read_record(folder: pathlib.Path, key: int) -> dict[str, Any] | None:
    """Returns the record of a key's training in a method's folder, None where there is none.

    Raises:
      ValueError: An entry is missing, of another kind, or does not fit the others.
    """
    path = folder / f"key_{key}" / "record.json"
    advice = "restore the file, choose another --output, or --overwrite the training"
    record = _read_checked(path, advice)
    if record is not None:
        _check(path, consistency.record_faults(record, key), advice)
    return record


def read_measured(
    path: pathlib.Path, *, aligned: bool, key: int, parameters: str | None
) -> dict[str, Any] | None:
    """Returns what was measured on the features of a key's training, None where there is no file.

    ``parameters`` is the digest of the training's.

    Raises:
      ValueError: An entry is missing or of another kind, or the file is of another training.
    """
    advice = "delete the file, and the same command measures again"
    measured = _read_checked(path, advice)
    if measured is not None:
        _, faults = typed(Alignment if aligned else Head, measured)
        faults += [
            Fault(name, f"{shown(value)}, as of the training beside it", shown(measured[name]))
            for name, value in {"key": key, "parameters": parameters}.items()
            if not faults and measured[name] != value
        ]
        _check(path, faults, advice)
    return measured


def write_checked(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON file of a run's own folder with a checksum, which ``read_*`` compare."""
    content = _finite({name: value for name, value in content.items() if name != _CHECKSUM})
    write_json(path, content | {_CHECKSUM: digest(content)})


def _read_checked(path, advice):
    """Returns the content of a JSON file without its checksum, None where there is none."""
    content = read(path)
    if content is not None and content.pop(_CHECKSUM, None) != digest(content):
        raise ValueError(
            f"{path} is damaged (its entries do not have the checksum that they were written "
            f"with): {advice}"
        )
    return content


def _check(path, faults, advice):
    if faults:
        more = f"; and {len(faults) - MOST} more" if len(faults) > MOST else ""
        first = "; ".join(map(str, faults[:MOST]))
        raise ValueError(f"{path}: {first}{more}: {advice}")


def read_results(folder: pathlib.Path, suffix: str = "") -> dict[str, dict[str, Any]]:
    """Returns the results in the folder of an experiment by method, in the order of the table.

    ``suffix`` is what follows the method in the names of the files.
    """
    results = {name: read_result(folder / f"{name}{suffix}.json") for name in METHODS}
    return {name: result for name, result in results.items() if result is not None}


def training_entries(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the entries of a result file that come from the records of its keys."""
    groups = {(tuple(each["together"]), each["devices_per_key"]): None for each in records}
    accuracy = {
        name: [None if each["diverged"] else each[name] for each in records]
        for name in ("target_accuracy", "source_accuracy")
    }
    return {
        **summary("", "target_accuracy", accuracy["target_accuracy"]),
        "source_accuracy": accuracy["source_accuracy"],
        "diverged": [each["diverged"] for each in records],
        "digests": [each["digests"] for each in records],
        **joined_origin([each["origin"] for each in records]),
        "groups": [{"keys": list(keys), "devices_per_key": each} for keys, each in groups],
        "wall_seconds": round(sum(each["wall_seconds"] for each in records), 1),
        "warnings": [each["warnings"] for each in records],
        "curves": [curves(each) for each in records],
        **_selected(records),
        **_continued(records),
    }


def joined_origin(origins: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns what decided the numbers of trainings that differ in their processors alone.

    These are named one after the other, or not at all where one is not known.
    """
    names = [origin.get("processor") for origin in origins]
    joined = {name: value for name, value in origins[0].items() if name != "processor"}
    if None not in names:
        models = dict.fromkeys(each for name in names for each in name.split("; "))
        joined["processor"] = "; ".join(models)
    return joined


def _continued(records):
    """Returns what the keys began with, as an entry of a result file if there is anything."""
    every = [each["continued"] for each in records if each.get("continued")]
    return {"continued": every} if every else {}


def _selected(records):
    """Returns the steps that the rules choose, as an entry of a result file if there are any."""
    rules = records[0]["settings"].get("select")
    if not rules:
        return {}
    selected = {}
    for name in (*rules, choice.ORACLE):
        places = [
            None if each["diverged"] else choice.chosen(curves(each)["evaluations"], name)
            for each in records
        ]
        rows = [
            {} if place is None else each["evaluations"][place]
            for place, each in zip(places, records, strict=True)
        ]
        accuracy = [row.get("target_accuracy") for row in rows]
        accuracies = summary("", "target_accuracy", accuracy)
        selected[name] = {"step": [row.get("step") for row in rows], **accuracies}
    return {"selected": selected}


def curves(record: dict[str, Any]) -> dict[str, dict[str, list]]:
    """Returns the curves of a training as columns, as result files keep them."""
    return {
        "training": _columns(record["curves"], Training),
        "evaluations": _columns(record["evaluations"], Evaluations),
    }


def _columns(rows, model):
    """Returns rows as columns of numbers, rounded to the six digits that result files keep."""
    always = [name for name, field in model.model_fields.items() if field.is_required()]
    columns = {}
    for name in rows[0] if rows else always:
        values = [row[name] for row in rows]
        if rows and isinstance(values[0], dict):
            columns[name] = {n: [_rounded(each[n]) for each in values] for n in values[0]}
        else:
            columns[name] = [_rounded(value) for value in values]
    return columns


def _rounded(value):
    return float(f"{value:.6g}") if isinstance(value, float) else value


def parameters_digest(state: Any) -> str:
    """Returns the SHA-256 of the parameters and batch statistics of a training's state."""
    return digests.digest({"theta": state.theta, "batch_stats": state.batch_stats})


def training_digests(state: Any, done: dict[str, Any]) -> dict[str, str]:
    """Returns SHA-256 digests of a finished training: of its state, and of its record.

    Those of parameters are of the batch statistics too. Those of losses are of L_y and L_d at each
    entry of the curves, in all their digits, and those of accuracies of all evaluations.
    """
    return {
        "parameters": parameters_digest(state),
        "losses": _of_rows(done["curves"], "step", "label_loss", "domain_loss"),
        "accuracies": _of_rows(done["evaluations"], "step", "source_accuracy", "target_accuracy"),
    }


def _of_rows(rows, *names):
    known = [[None if math.isnan(row[name]) else row[name] for name in names] for row in rows]
    return digest(known)


def summary(prefix: str, name: str, accuracy: list[float | None]) -> dict[str, Any]:
    """Returns the accuracies of all keys, null where not known, with their mean and deviation."""
    accuracy = [math.nan if a is None else a for a in accuracy]
    mean, std = consistency.mean_and_std(accuracy)
    return {name: accuracy, f"{prefix}mean": mean, f"{prefix}std": std}


def diverged(result: dict[str, Any]) -> int:
    """Returns how many keys of a result diverged."""
    return sum(each is not None for each in result["diverged"])


def has_picks(result: dict[str, Any]) -> bool:
    """Returns whether a closed form had several numbers of components to choose from."""
    return len(result["by_components"]["components"]) > 1


def oracle(result: dict[str, Any]) -> dict[str, Any]:
    """Returns the result of a closed form with the oracle's mean and deviation as its own."""
    return result | {name: result[f"oracle_{name}"] for name in ("mean", "std")}
