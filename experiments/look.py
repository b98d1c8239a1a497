"""Draws a contact sheet of a pair of domains: python -m experiments.look PAIR [options].

PAIR is the name of an experiment. Each row of the picture shows one class, source on the left
and target on the right; which images is a function of the key.
"""

import dataclasses
import pathlib
import sys
from typing import Annotated

import numpy as np
import tyro

from dann_jax import datasets
from experiments import config as configs
from experiments import domains, results

__all__ = ["Options", "draw", "main", "sheet"]

PROGRAM = "python -m experiments.look"
GAP = 2  # pixels between two images
WHITE = 255
INCHES = 0.45  # side of an image in print


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to look at."""

    source: str | None = None
    """Another source than that of the experiment: the name of a data set, or a folder."""

    target: str | None = None
    """Another target than that of the experiment."""

    columns: int = 8
    """Images of each class and domain."""

    rows: int = 12
    """Classes, evenly spread over all."""

    key: int = 0
    """Which images."""

    output: pathlib.Path | None = None
    """Where to; by default PAIR.png."""

    data_dir: pathlib.Path | None = None
    """Folder of prepared data; by default $DANN_JAX_DATA, or ~/.cache/dann_jax."""

    manual_dir: pathlib.Path | None = None
    """Folder of data files that are already on disk, as their publishers name them."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the program.

    Args:
      arguments: Of the command line; None for those of the process.

    Returns:
      The exit status: 0, or 2 where the arguments or the data are not right.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if name is None and not {"-h", "--help"} & set(arguments):
        names = ", ".join(configs.config_names())
        print(f"usage: {PROGRAM} PAIR [options]\nPAIR is one of {names}", file=sys.stderr)
        return 2
    try:
        options = tyro.cli(
            Annotated[Options, tyro.conf.arg(name="")],
            args=arguments,
            default=Options(),
            prog=f"{PROGRAM} {name or 'PAIR'}",
            description=__doc__,
        )
        config, _ = configs.find_config(name)
        changes = {"source": options.source, "target": options.target}
        config = dataclasses.replace(config, **{k: v for k, v in changes.items() if v})
        if min(options.columns, options.rows) < 1:
            raise ValueError(
                f"--columns and --rows must be at least 1, got {options.columns} and {options.rows}"
            )
        pair = domains.load_pair(
            config,
            data_dir=options.data_dir,
            manual_dir=options.manual_dir,
            progress=sys.stderr.isatty(),
        )
        path = options.output or pathlib.Path(f"{name}.png")
        draw(config, pair, path, rows=options.rows, columns=options.columns, key=options.key)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {path}")
    return 0


def draw(config, pair, path, *, rows: int, columns: int, key: int) -> None:
    """Draws the training images of both domains as a PNG.

    Args:
      config: Names the domains.
      pair: Their images.
      path: Where to.
      rows: Most classes to show.
      columns: Images of each class and domain.
      key: Which images.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = pair.class_names
    shown = np.unique(np.linspace(0, len(names) - 1, min(rows, len(names))).round().astype(int))
    sides = [
        (config.source, pair.source_train),
        (config.target, pair.target_train),
    ]
    sheets = [sheet(images, shown, columns, key) for _, images in sides]
    side = pair.source_train.image.shape[1] + GAP
    size = 2 * INCHES * columns + 2, INCHES * len(shown) + 1
    figure, axes = plt.subplots(1, 2, figsize=size, layout="constrained", dpi=130)
    for axis, (name, images), pixels in zip(axes, sides, sheets, strict=True):
        labelled = images.label.max() >= 0
        axis.imshow(pixels, interpolation="nearest")
        title = pathlib.Path(name).name + ("" if labelled else " (no labels)")
        axis.set_title(title, fontsize=11)
        axis.set_xticks([])
        axis.set_yticks(
            [side * row + (side - GAP) / 2 for row in range(len(shown))],
            [names[c] for c in shown] if labelled else [""] * len(shown),
            fontsize=8,
        )
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    with results.whole(path) as temporary:
        figure.savefig(temporary)
    plt.close(figure)


def sheet(images: datasets.ImageSet, classes: np.ndarray, columns: int, key: int) -> np.ndarray:
    """Returns images side by side, a row for each class.

    Args:
      images: Those to choose from; where no label is known, rows mean nothing.
      classes: Labels of the rows.
      columns: Images a row; places stay white where a class has fewer.
      key: Which images.

    Returns:
      uint8 ``[height, width, 3]``.
    """
    order = np.random.default_rng(key).permutation(len(images.label))
    label = images.label[order]
    side = images.image.shape[1]
    shape = len(classes) * (side + GAP) - GAP, columns * (side + GAP) - GAP, 3
    pixels = np.full(shape, WHITE, np.uint8)
    for row, c in enumerate(classes):
        if label.max() < 0:
            chosen = order[row * columns : (row + 1) * columns]
        else:
            chosen = order[label == c][:columns]
        for column, i in enumerate(chosen):
            top, left = row * (side + GAP), column * (side + GAP)
            pixels[top : top + side, left : left + side] = images.image[i]
    return pixels


if __name__ == "__main__":
    sys.exit(main())
