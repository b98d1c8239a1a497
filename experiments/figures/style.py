"""How all figures look, in colour and in grey print, and how they are written."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiments import paper, results

__all__ = [
    "COLUMN",
    "DOMAINS",
    "FORMATS",
    "LINE_HEIGHT",
    "LINES",
    "PAGE",
    "Line",
    "Points",
    "check_format",
    "figure",
    "method_names",
]

PAGE = 6.75  # width of the paper's text, inches
COLUMN = 3.25  # and of one of its columns
LINE_HEIGHT = 0.2  # of a legend, inches
DOTS = 200  # of a PNG, per inch

RULES = {
    "font.size": 8,  # points, and nothing is smaller
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.h_pad": 0.06,  # inches
    "figure.constrained_layout.w_pad": 0.06,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # so that dashes can be told from each other
    "lines.linewidth": 1.4,
    "savefig.dpi": DOTS,
    "svg.hashsalt": "dann_jax",  # the same file each time
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}

# Where a file of each format keeps how it was made, and what else would change with the time.
FORMATS = {".png": {"Software": None}, ".svg": {"Creator": None, "Date": None}}


class Line(NamedTuple):
    """The curves of a method; no two have the same dashes and marks, for print in grey."""

    colour: str
    dashes: Any
    marker: str


class Points(NamedTuple):
    """The points of a domain; the colours differ in brightness too."""

    colour: str
    marker: str


LINES = {  # of methods, in the order of legends
    "few-labels": Line("#888888", ":", "v"),
    "source-only": Line("#0077bb", (0, (5, 1.5)), "s"),
    "source-and-few-labels": Line("#ee7733", (0, (5, 1.5, 1, 1.5)), "D"),
    "dann": Line("#cc3311", "-", "o"),
    "dann-and-few-labels": Line("#111111", "-", "P"),
    "train-on-target": Line("#228833", (0, (1, 1)), "^"),
}

DOMAINS = {"source": Points("#0b4fa0", "o"), "target": Points("#e8503a", "x")}


def method_names(methods: list[str]) -> dict[str, str]:
    """Returns what a legend calls methods: as the paper does, where few labels are among them."""
    names = {"dann": "DANN"}
    if any("few-labels" in method for method in methods):
        names |= paper.SEMI_SUPERVISED
    return {method: names.get(method, method) for method in methods}


def check_format(path: pathlib.Path) -> None:
    """Raises a ValueError where a figure cannot be written there, before work is done for it."""
    if path.suffix not in FORMATS:
        raise ValueError(
            f"{path}: expected a name that ends in {' or '.join(FORMATS)}, got {path.suffix!r}"
        )


@contextlib.contextmanager
def figure(
    path: pathlib.Path, command: str, rows: int, columns: int, *, width: float, height: float
) -> Iterator[tuple[Any, Any]]:
    """Gives a figure and its axes ``[rows, columns]`` to draw on, and then writes it.

    Args:
      path: Where to, PNG or SVG by its suffix; folders are created.
      command: How it was made; it is written into the file.
      rows: Of axes.
      columns: Of axes.
      width: Inches.
      height: Inches.

    Raises:
      ValueError: The suffix is another one.
    """
    import matplotlib
    from matplotlib.figure import Figure

    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)  # if it cannot be, that is told at once
    with matplotlib.rc_context(RULES):
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn, drawn.subplots(rows, columns, squeeze=False)
        with results.whole(path) as temporary:
            drawn.savefig(temporary, metadata={"Description": command, **FORMATS[path.suffix]})
