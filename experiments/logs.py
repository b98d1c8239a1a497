"""What trainings log: a row for each step that has an entry in the curves, to files and services.

metrics.jsonl always; TensorBoard, and Weights & Biases, where --log names them. Whatever was
killed, a log holds each (key, step) once: who opens it hands over all rows so far.
"""

import contextlib
import importlib.util
import math
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from dann_jax.datasets.whole_files import whole
from experiments import record
from experiments.options import LOGS

__all__ = ["FILE", "Log", "check", "opened", "row", "rows"]

FILE = "metrics.jsonl"
PROJECT = "dann_jax"  # of Weights & Biases, unless $WANDB_PROJECT names another

Row = dict[str, Any]  # key and step, then numbers by name; NaN or None for one that is none


class Log(Protocol):
    """Where the rows of a group of keys go; made from a method's folder, the keys and settings."""

    def write(self, row: Row) -> None:
        """Takes the next row of one of the keys."""

    def close(self) -> None:
        """Ends the log, whose last row was written or whose training is interrupted."""


def check(names: Iterable[str]) -> None:
    """Raises a ValueError where the package of a log is not installed."""
    for name in names:
        package = LOGS[name]
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"--log {name} needs the package {package}, which is not installed: "
                f"pip install {package}"
            )


@contextlib.contextmanager
def opened(
    folder: pathlib.Path,
    keys: Sequence[int],
    so_far: Iterable[Row],
    *,
    names: Sequence[str] = (),
    settings: dict[str, Any],
) -> Iterator[Callable[[Row], None]]:
    """Gives what writes a row to metrics.jsonl and to the logs of these names.

    Args:
      folder: Of the method; created.
      keys: Whose rows they are.
      so_far: The rows that the keys have already.
      names: Of ``options.LOGS``.
      settings: What a log may show beside the rows.
    """
    with contextlib.ExitStack() as stack:
        every: list[Log] = []
        for kind in (_Lines, *map(_KINDS.get, names)):
            every.append(kind(folder, keys, settings))
            stack.callback(every[-1].close)

        def write(row):
            for log in every:
                log.write(row)

        for each in so_far:
            write(each)
        yield write


def row(key: int, entry: dict[str, Any], evaluation: dict[str, Any]) -> Row:
    """Returns the row of an entry of a key's curves, and of the evaluation at its step if any."""
    flat: Row = {"key": key}
    for name, value in (entry | evaluation).items():
        nested = isinstance(value, dict)
        flat |= {f"{name}.{n}": v for n, v in value.items()} if nested else {name: value}
    return flat


def rows(records: dict[int, dict[str, Any]]) -> list[Row]:
    """Returns the rows of records by their keys, in the order in which they were trained."""
    every = []
    for key, each in records.items():
        evaluations = {entry["step"]: entry for entry in each["evaluations"]}
        every += [row(key, entry, evaluations.get(entry["step"], {})) for entry in each["curves"]]
    return sorted(every, key=lambda row: row["step"])  # of a group; stable


def _numbers(row):
    """Returns the finite numbers of a row by name."""
    named = {name: value for name, value in row.items() if name not in ("key", "step")}
    return {n: v for n, v in named.items() if v is not None and math.isfinite(v)}


class _Lines:
    """A line of JSON for each row, after those of other keys."""

    def __init__(self, folder, keys, settings):
        del settings
        path = folder / FILE
        lines = path.read_text("utf-8", "replace").splitlines(True) if path.exists() else []
        of_keys = [(re.fullmatch(_LINE, line), line) for line in lines]
        with whole(path) as temporary:
            others = [line for match, line in of_keys if match and int(match[1]) not in keys]
            temporary.write_text("".join(others), encoding="utf-8")
        self.file = path.open("a", encoding="utf-8")

    def write(self, row):
        self.file.write(record.as_line(row))
        self.file.flush()

    def close(self):
        self.file.close()


_LINE = re.compile(r'\{"key": (\d+), .*\}\n')  # one that is whole


class _TensorBoard:
    """Event files in ``key_KEY/tensorboard``, begun anew."""

    def __init__(self, folder, keys, settings):
        from tensorboardX import SummaryWriter

        del settings
        self.writers = {}
        for key in keys:
            place = folder / f"key_{key}" / "tensorboard"
            shutil.rmtree(place, ignore_errors=True)
            self.writers[key] = SummaryWriter(str(place), flush_secs=10)

    def write(self, row):
        for name, value in _numbers(row).items():
            self.writers[row["key"]].add_scalar(name.replace(".", "/"), value, row["step"])

    def close(self):
        for writer in self.writers.values():
            writer.close()


class _Wandb:
    """A run for each key, in a group for the method; ``key_KEY/wandb.id`` keeps its id."""

    def __init__(self, folder, keys, settings):
        self.runs = {}
        group = "/".join(folder.absolute().parts[-2:])
        for key in keys:
            place = folder / f"key_{key}"
            place.mkdir(parents=True, exist_ok=True)
            path = place / "wandb.id"
            known = path.read_text().strip() if path.exists() else uuid.uuid4().hex[:12]
            about = {"id": known, "name": f"{group}/key_{key}", "group": group, "dir": str(place)}
            self.runs[key] = _begun(config=settings | {"key": key}, **about)
            path.write_text(f"{known}\n")

    def write(self, row):
        run = self.runs[row["key"]]
        if row["step"] >= run.step:  # the service has those before
            run.log(_numbers(row), step=row["step"])

    def close(self):
        for run in self.runs.values():
            run.finish()


def _begun(**about):
    """Returns a run of Weights & Biases, or that of this id which goes on."""
    import wandb

    try:
        return wandb.init(
            project=None if os.environ.get("WANDB_PROJECT") else PROJECT,
            resume="allow",
            reinit="create_new",  # keys that are trained as one program log at once
            settings=wandb.Settings(console="off", quiet=True),
            **about,
        )
    except wandb.Error as error:
        raise ValueError(
            f"--log wandb: {' '.join(str(error).split())}: set WANDB_API_KEY, or WANDB_MODE=offline"
        ) from error


_KINDS: dict[str, Any] = {"tensorboard": _TensorBoard, "wandb": _Wandb}
