"""The class and the probabilities of each image file, as CSV."""

import csv
import pathlib
from collections.abc import Iterable, Sequence
from typing import TextIO

import numpy as np

__all__ = ["TEXT", "files", "probabilities", "write"]

# Names of files may stand as the system has them.
TEXT = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax of logits ``[n, classes]``, float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def write(
    file: TextIO, classes: Sequence[str], rows: Iterable[tuple[Sequence[str], np.ndarray]]
) -> None:
    """Writes a line for each image: file, class, its probability, and those of all classes.

    Args:
      file: Opened with ``TEXT``.
      classes: Names, in the order of the logits.
      rows: Names of files and logits ``[n, classes]``, batch by batch.
    """
    writer = csv.writer(file, lineterminator="\n")
    for number, (names, logits) in enumerate(rows):
        if not number:  # an error of the first images leaves nothing
            writer.writerow(["file", "class", "probability", *(f"p({name})" for name in classes)])
        for name, row in zip(names, probabilities(logits), strict=True):
            best = row.argmax()
            writer.writerow([name, classes[best], *(f"{p:.6f}" for p in (row[best], *row))])


def files(path: pathlib.Path) -> list[str]:
    """Returns the names of the images of a file that ``write`` has written."""
    with path.open(**TEXT) as file:
        return [row["file"] for row in csv.DictReader(file)]
