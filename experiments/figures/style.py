"""How all figures look, in colour and in grey print, and how they are written."""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from experiments import paper, record
from experiments.methods import METHODS

__all__ = [
    "COLUMN",
    "DOMAINS",
    "FORMATS",
    "LINE_HEIGHT",
    "PAGE",
    "Points",
    "check_format",
    "figure",
    "legend_names",
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
    "legend.handlelength": 3.2,  # so that dashes can be told apart
    "lines.linewidth": 1.4,
    "savefig.dpi": DOTS,
    "svg.hashsalt": "dann_jax",  # the same file each time
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}

# Metadata that would change with the time or with the version of matplotlib, by format.
FORMATS = {".png": {"Software": None}, ".svg": {"Creator": None, "Date": None}}


class Points(NamedTuple):
    """The points of a domain; the colours differ in brightness too."""

    colour: str
    marker: str


DOMAINS = {"source": Points("#0b4fa0", "o"), "target": Points("#e8503a", "x")}


def legend_names(methods: Iterable[str]) -> dict[str, str]:
    """Returns what a legend calls methods: as the paper does if one of them has few labels."""
    names = {name: METHODS[name].label.strip("*") for name in methods}
    if any(METHODS[name].few_labels for name in names):
        return {name: paper.SEMI_SUPERVISED.get(name, label) for name, label in names.items()}
    return names


def check_format(path: pathlib.Path) -> None:
    """Raises a ValueError if a figure cannot have this name; call it before the work is done."""
    if path.suffix not in FORMATS:
        raise ValueError(
            f"{path}: expected a name that ends in {' or '.join(FORMATS)}, got {path.suffix!r}"
        )


@contextlib.contextmanager
def figure(
    path: pathlib.Path, command: str, *, shape: tuple[int, int], width: float, height: float
) -> Iterator[tuple[Any, Any]]:
    """Gives a figure and its axes ``[rows, columns]`` to draw on, and then writes the figure.

    Args:
      path: Where to, PNG or SVG by its suffix; folders are created.
      command: How the figure was made; the file says it.
      shape: Rows and columns of axes.
      width: Inches.
      height: Inches.

    Raises:
      ValueError: The suffix is another one.
    """
    import matplotlib
    from matplotlib.figure import Figure

    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)  # an error comes before the work
    with matplotlib.rc_context(RULES):
        canvas = Figure(figsize=(width, height), layout="constrained")
        yield canvas, canvas.subplots(*shape, squeeze=False)
        with record.whole(path) as temporary:
            canvas.savefig(temporary, metadata={"Description": command, **FORMATS[path.suffix]})
