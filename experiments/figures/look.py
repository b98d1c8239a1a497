"""Draws images of pairs of domains: python -m experiments.look PAIR [PAIR ...] [options].

PAIR is the name of an experiment. A single pair is drawn as a contact sheet: each row shows one
class, source on the left and target on the right. Several pairs are drawn side by side as in the
paper, source above and target below. The key decides which images are shown.
"""

import dataclasses
import functools
import pathlib
from typing import Annotated

import numpy as np
import tyro

from dann_jax import datasets
from experiments import configs, paper
from experiments.figures import style

__all__ = ["Options", "draw", "main", "sheet"]

GAPS = 16  # as many spaces between two images make the side of one
WHITE = 255
INCHES = 0.45  # side of an image in print
TITLE = 0.3  # of a picture, inches
SHEET = 12, 8  # rows and columns of a contact sheet
MOST = 100  # of either
BLOCK = 2, 4  # and of a domain among several pairs
# Data sets whose titles are the paper's names.
PRINTED = ("mnist", "mnist_m", "svhn", "syn_numbers", "syn_signs", "gtsrb")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(style.DataOptions):
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

    def check(self) -> None:
        """Raises a ValueError if a value makes no sense."""
        if not self.pairs:
            raise ValueError(f"expected a PAIR: one of {', '.join(configs.config_names())}")
        if not 1 <= min(self.rows, self.columns) <= max(self.rows, self.columns) <= MOST:
            raise ValueError(
                f"--columns and --rows must be at least 1 and at most {MOST}, got {self.columns} "
                f"and {self.rows}"
            )
        style.check_key(self.key, "--key")
        for name in self.pairs:
            configs.find_config(name)  # raises where there is none
        if (self.source or self.target) and len(self.pairs) > 1:
            raise ValueError(f"--source and --target need a single pair, got {len(self.pairs)}")


def draw(options: Options) -> pathlib.Path:
    """Draws training images of both domains of each pair, and returns the path of the picture."""
    single = len(options.pairs) == 1
    shape = dict(zip(("rows", "columns"), SHEET if single else BLOCK, strict=True))
    default = {name: value for name, value in shape.items() if getattr(options, name) is None}
    options = dataclasses.replace(options, **default)
    options.check()
    path = options.output or pathlib.Path(f"{options.pairs[0] if single else 'pairs'}.png")
    style.check_format(path)
    changes = {name: getattr(options, name) for name in ("source", "target")}
    changes = {name: value for name, value in changes.items() if value}
    # Never frozen: the figure shows images, not the output of a backbone.
    shown = [  # all names are checked before any data is loaded
        dataclasses.replace(configs.find_config(name)[0], frozen=False, **changes)
        for name in options.pairs
    ]
    places = {name: getattr(options, name) for name in ("rows", "columns", "key")}
    words = [f"--{name} {value}" for name, value in (changes | places).items()]
    command = " ".join(["python -m experiments.look", *options.pairs, *words])
    if single:
        _draw_sheet(shown[0], path, command, options)
    else:
        _draw_pairs(shown, path, command, options)
    return path


main = functools.partial(style.run, Options, draw, __doc__)


def _draw_sheet(config, path, command, options):
    """Draws a contact sheet with the names of the classes."""
    pair = options.load_pair(config)
    names = pair.class_names
    rows = min(options.rows, len(names))
    classes = np.unique(np.linspace(0, len(names) - 1, rows).round().astype(int))
    side = pair.source_train.image.shape[1]
    width, height = 2 * INCHES * options.columns + 2, INCHES * len(classes) + 2 * TITLE
    with style.figure(path, command, shape=(1, 2), width=width, height=height) as (_, axes):
        for axis, (title, images) in zip(axes[0], _domains(config, pair), strict=True):
            _show(axis, title, sheet(images, classes, options.columns, options.key))
        places = [(side + _gap(side)) * row + side / 2 for row in range(len(classes))]
        style.name_rows(axes[0, 0], places, {int(c): names[c] for c in classes})  # as in both


def _draw_pairs(shown, path, command, options):
    """Draws pairs side by side, source above and target below, images of any classes."""
    blocks = []
    for config in shown:
        pair = options.load_pair(config)  # one pair in memory at a time
        for title, images in _domains(config, pair):
            mixed = images._replace(label=np.full_like(images.label, -1))
            pixels = sheet(mixed, np.arange(options.rows), options.columns, options.key)
            blocks.append((title, pixels))
    height, width, _ = blocks[0][1].shape
    tall = style.PAGE / len(shown) * height / width + TITLE
    size = {"shape": (2, len(shown)), "width": style.PAGE, "height": 2 * tall}
    with style.figure(path, command, **size) as (_, axes):
        for axis, block in zip(axes.T.flat, blocks, strict=True):
            _show(axis, *block)
        for axis, domain in zip(axes[:, 0], style.DOMAINS, strict=True):
            axis.set_ylabel(domain)


def _domains(config, pair):
    """Yields the title and the training images of each domain."""
    for name, images in (config.source, pair.source_train), (config.target, pair.target_train):
        name = pathlib.Path(name).name
        title = paper.DATA_SETS[name] if name in PRINTED else name
        yield title + ("" if images.label.max() >= 0 else " (no labels)"), images


def _show(axis, title, pixels):
    axis.imshow(pixels, interpolation="nearest")
    axis.set_title(title, parse_math=False)  # a folder's name may have a $
    axis.set(xticks=[], yticks=[])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def sheet(images: datasets.ImageSet, classes: np.ndarray, columns: int, key: int) -> np.ndarray:
    """Returns images side by side, a row for each class: uint8 ``[height, width, 3]``.

    The key decides which images. If no label is known, rows have no meaning; if a class has fewer
    images than columns, places stay white.
    """
    order = np.random.default_rng(key).permutation(len(images.label))
    label = images.label[order]
    if label.max() < 0:
        label, classes = np.arange(len(order)) // columns, np.arange(len(classes))
    side = images.image.shape[1]
    step = side + _gap(side)
    places = np.full((len(classes), columns, step, step, 3), WHITE, np.uint8)
    for row, c in zip(places, classes, strict=True):
        chosen = order[label == c][:columns]
        row[: len(chosen), :side, :side] = images.image[chosen]
    pixels = places.swapaxes(1, 2).reshape(len(classes) * step, columns * step, 3)
    return pixels[: side - step, : side - step]  # no gap after the last


def _gap(side):
    """Returns the pixels between two images."""
    return max(1, side // GAPS)
