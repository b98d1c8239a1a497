"""Draws images of pairs of domains: python -m experiments.look PAIR [PAIR ...] [options].

PAIR is the name of an experiment. A single pair is drawn as a contact sheet: each row shows one
class, source on the left and target on the right. Several pairs are drawn side by side as in the
paper, source above and target below. The key decides which images are shown.
"""

import dataclasses
import pathlib
import sys
from typing import Annotated

import numpy as np
import tyro

from dann_jax import datasets
from experiments import configs, domains
from experiments.figures import program, style

__all__ = ["Options", "draw", "draw_pairs", "main", "mixed", "sheet"]

PROGRAM = "python -m experiments.look"
GAPS = 16  # as many spaces between two images make the side of one
WHITE = 255
INCHES = 0.45  # side of an image in print
TITLE = 0.3  # of a picture, inches
SHEET = 12, 8  # rows and columns of a contact sheet
BLOCK = 2, 4  # and of a domain among several pairs
NAMES = {
    "mnist": "MNIST",
    "mnist_m": "MNIST-M",
    "svhn": "SVHN",
    "syn_numbers": "SYN NUMBERS",
    "syn_signs": "SYN SIGNS",
    "gtsrb": "GTSRB",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to look at."""

    pairs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PAIR ...")]
    """Names of experiments."""

    source: str | None = None
    """Another source than that of the experiment: the name of a data set, or a folder."""

    target: str | None = None
    """Another target than that of the experiment."""

    columns: int | None = None
    """Images in a row of each domain; by default 8, or 4 of each of several pairs."""

    rows: int | None = None
    """Classes, evenly spread over all, by default 12; of several pairs the rows of images, of
    any classes, by default 2."""

    key: int = 0
    """Decides which images."""

    output: pathlib.Path | None = None
    """Where to, PNG or SVG; by default PAIR.png, or pairs.png."""

    data_dir: pathlib.Path | None = None
    """Folder of prepared data; by default $DANN_JAX_DATA, or ~/.cache/dann_jax."""

    manual_dir: pathlib.Path | None = None
    """Folder of data files that are already on disk, as their publishers name them."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the program with these arguments, or those of the process; returns its exit status."""
    return program.run(_look, Options, arguments, program=PROGRAM, description=__doc__)


def _look(options):
    """Draws what the options ask for."""
    changes = {"source": options.source, "target": options.target}
    changes = {name: value for name, value in changes.items() if value}
    single = len(options.pairs) == 1
    path = options.output or pathlib.Path(f"{options.pairs[0] if single else 'pairs'}.png")
    rows, columns = SHEET if single else BLOCK
    rows = rows if options.rows is None else options.rows
    columns = columns if options.columns is None else options.columns
    _check(options, changes, rows, columns)
    style.check_format(path)
    # Never frozen: the figure shows images, not the output of a backbone.
    shown = [  # all names are checked before any data is loaded
        dataclasses.replace(configs.find_config(name)[0], frozen=False, **changes)
        for name in options.pairs
    ]
    places = {"rows": rows, "columns": columns, "key": options.key}
    words = [f"--{name} {value}" for name, value in (changes | places).items()]
    command = " ".join([PROGRAM, *options.pairs, *words])
    if single:
        draw(shown[0], _load(shown[0], options), path, command=command, **places)
        return path
    blocks = []
    for config in shown:
        pair = _load(config, options)  # one pair in memory at a time
        sides = _sides(config, pair)
        blocks.append([(_title(name, images), mixed(images, **places)) for name, images in sides])
    draw_pairs(blocks, path, command=command)
    return path


def _check(options, changes, rows, columns):
    if not options.pairs:
        raise ValueError(f"expected a PAIR: one of {', '.join(configs.config_names())}")
    if min(rows, columns) < 1:
        raise ValueError(f"--columns and --rows must be at least 1, got {columns} and {rows}")
    if options.key < 0:
        raise ValueError(f"--key must not be negative, got {options.key}")
    if changes and len(options.pairs) > 1:
        raise ValueError(f"--source and --target need a single pair, got {len(options.pairs)}")


def _load(config, options):
    return domains.load_pair(
        config,
        data_dir=options.data_dir,
        manual_dir=options.manual_dir,
        progress=sys.stderr.isatty(),
    )


def _sides(config, pair):
    return (config.source, pair.source_train), (config.target, pair.target_train)


def _title(name, images):
    name = pathlib.Path(name).name
    return NAMES.get(name, name) + ("" if images.label.max() >= 0 else " (no labels)")


def draw(
    config: configs.Config,
    pair: domains.Pair,
    path: pathlib.Path,
    *,
    rows: int,
    columns: int,
    key: int,
    command: str = PROGRAM,
) -> None:
    """Draws the training images of both domains as a contact sheet.

    Args:
      config: Names the domains.
      pair: Their images.
      path: Where to, PNG or SVG.
      rows: Most classes to show.
      columns: Images of each class and domain.
      key: Decides which images.
      command: How the figure was made.
    """
    names = pair.class_names
    shown = np.unique(np.linspace(0, len(names) - 1, min(rows, len(names))).round().astype(int))
    side = pair.source_train.image.shape[1]
    step = side + _gap(side)
    size = {"width": 2 * INCHES * columns + 2, "height": INCHES * len(shown) + 2 * TITLE}
    with style.figure(path, command, shape=(1, 2), **size) as (_, axes):
        for axis, (name, images) in zip(axes[0], _sides(config, pair), strict=True):
            _show(axis, sheet(images, shown, columns, key))
            axis.set_title(_title(name, images))
            axis.set_yticks([])
        places = [step * row + side / 2 for row in range(len(shown))]
        axes[0, 0].set_yticks(places, [names[c] for c in shown])  # rows are the same in both


def draw_pairs(blocks, path: pathlib.Path, *, command: str = PROGRAM) -> None:
    """Draws pairs side by side, source above and target below.

    Args:
      blocks: For each pair, the title and the pixels ``[height, width, 3]`` of both domains.
      path: Where to, PNG or SVG.
      command: How the figure was made.
    """
    height, width, _ = blocks[0][0][1].shape
    tall = style.PAGE / len(blocks) * height / width + TITLE
    size = {"shape": (2, len(blocks)), "width": style.PAGE, "height": 2 * tall}
    with style.figure(path, command, **size) as (_, axes):
        for column, sides in zip(axes.T, blocks, strict=True):
            for axis, (title, pixels) in zip(column, sides, strict=True):
                _show(axis, pixels)
                axis.set_title(title)
                axis.set_yticks([])
        for axis, domain in zip(axes[:, 0], ("source", "target"), strict=True):
            axis.set_ylabel(domain)


def _show(axis, pixels):
    axis.imshow(pixels, interpolation="nearest")
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def mixed(images: datasets.ImageSet, *, rows: int, columns: int, key: int) -> np.ndarray:
    """Returns images of any classes as ``sheet`` does those of chosen ones."""
    unlabelled = images._replace(label=np.full_like(images.label, -1))
    return sheet(unlabelled, np.arange(rows), columns, key)


def sheet(images: datasets.ImageSet, classes: np.ndarray, columns: int, key: int) -> np.ndarray:
    """Returns images side by side, a row for each class.

    Args:
      images: Those to choose from; if no label is known, rows have no meaning.
      classes: Labels of the rows.
      columns: Images a row; places stay white if a class has fewer.
      key: Decides which images.

    Returns:
      uint8 ``[height, width, 3]``.
    """
    order = np.random.default_rng(key).permutation(len(images.label))
    label = images.label[order]
    side = images.image.shape[1]
    gap = _gap(side)
    shape = len(classes) * (side + gap) - gap, columns * (side + gap) - gap, 3
    pixels = np.full(shape, WHITE, np.uint8)
    for row, c in enumerate(classes):
        if label.max() < 0:
            chosen = order[row * columns : (row + 1) * columns]
        else:
            chosen = order[label == c][:columns]
        for column, i in enumerate(chosen):
            top, left = row * (side + gap), column * (side + gap)
            pixels[top : top + side, left : left + side] = images.image[i]
    return pixels


def _gap(side):
    """Returns the pixels between two images."""
    return max(1, side // GAPS)


if __name__ == "__main__":
    sys.exit(main())
