"""What all figures have in common: their programs, and a look that grey print keeps."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from dann_jax.datasets.whole_files import whole
from experiments import arguments as command_line
from experiments import domains, paper
from experiments.methods import METHODS
from experiments.settings import Config

__all__ = [
    *("COLUMN", "DOMAINS", "LINE_HEIGHT", "PAGE"),
    *("DataOptions", "check_format", "check_key", "figure", "frame"),
    *("legend_names", "name_rows", "run"),
]

LAST_KEY = 2**32 - 100  # the moons of the target have one of 100 more
PAGE = 6.75  # width of the paper's text, inches
COLUMN = 3.25  # and of one of its columns
LINE_HEIGHT = 0.2  # of a legend, inches

SIZES = "font.size axes.labelsize axes.titlesize legend.fontsize xtick.labelsize ytick.labelsize"
RULES = {
    **dict.fromkeys(SIZES.split(), 8),  # points, and nothing is smaller
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.h_pad": 0.06,  # inches
    "figure.constrained_layout.w_pad": 0.06,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # so that dashes can be told apart
    "lines.linewidth": 1.4,
    "savefig.dpi": 200,
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where the images are."""

    data_dir: pathlib.Path | None = None
    """Folder of prepared data; by default $DANN_JAX_DATA, or ~/.cache/dann_jax."""

    manual_dir: pathlib.Path | None = None
    """Folder of data files that are already on disk, as their publishers name them."""

    def load_pair(self, config: Config) -> domains.Pair:
        """Returns the images of both domains."""
        folders = {"data_dir": self.data_dir, "manual_dir": self.manual_dir}
        return domains.load_pair(config, **folders, progress=sys.stderr.isatty())


def run(
    options: type,
    draw: Callable[[Any], pathlib.Path],
    description: str,
    arguments: list[str] | None = None,
) -> int:
    """Runs a program that draws, and returns its exit status: 0, or 2 if nothing was drawn.

    ``draw`` takes the options, a dataclass, and returns the path of the picture; a ValueError or an
    OSError of it is printed without its trace. Without arguments, those of the process are taken.
    """
    program = f"python -m experiments.{draw.__module__.rpartition('.')[2]}"
    given = command_line.parse(options, arguments, program=program, description=description)
    return command_line.ended(lambda: print(f"written: {draw(given)}"))


def legend_names(methods: Iterable[str]) -> dict[str, str]:
    """Returns what a legend calls methods: as the paper does if one of them has few labels."""
    names = {name: METHODS[name].label.strip("*") for name in methods}
    if any(METHODS[name].few_labels for name in names):
        return {name: paper.SEMI_SUPERVISED.get(name, label) for name, label in names.items()}
    return names


def name_rows(axis: Any, places: Sequence[float], names: dict[int, str]) -> None:
    """Writes names of classes, by their numbers, on the vertical axis as they are, $ too.

    They are the numbers where the font of figures lacks a character, which would be a box.
    """
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    if all(font.get_char_index(ord(character)) for name in names.values() for character in name):
        axis.set_yticks(places, list(names.values()), parse_math=False)
    else:
        axis.set_yticks(places, list(map(str, names)))
        axis.set_ylabel("class, in the order of the names")


def check_key(key: int, option: str) -> None:
    """Raises a ValueError unless a number can be that of a random generator."""
    if not 0 <= key < LAST_KEY:
        raise ValueError(f"{option} must be 0 to {LAST_KEY - 1}, got {key}")


def check_format(path: pathlib.Path) -> None:
    """Raises a ValueError if a figure cannot have this name; call it before the work is done."""
    command_line.check_folder(path.parent, "--output")
    if path.suffix not in FORMATS:
        raise ValueError(
            f"{path}: expected a name that ends in {' or '.join(FORMATS)}, got {path.suffix!r}"
        )


@contextlib.contextmanager
def figure(
    path: pathlib.Path, command: str, *, shape: tuple[int, int], width: float, height: float
) -> Iterator[tuple[Any, Any]]:
    """Gives a figure and its axes ``[rows, columns]`` to draw on, and then writes the figure.

    The file says the command. The width and the height are in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)  # an error comes before the work
    with matplotlib.rc_context(RULES):
        canvas = Figure(figsize=(width, height), layout="constrained")
        yield canvas, canvas.subplots(*shape, squeeze=False)
        with whole(path) as temporary:
            canvas.savefig(temporary, metadata={"Description": command, **FORMATS[path.suffix]})


def frame(axis: Any, reach: float) -> None:
    """Frames a square from ``-reach`` to ``reach``, without ticks."""
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect=1)
    axis.spines[:].set(visible=True, color="0.6")
