"""Predicts the classes of new images: python -m experiments.predict RUN IMAGES... [options].

RUN is the folder of a finished training, such as runs/own_photos/dann/key_0. IMAGES are files, or
folders, whose sub-folders are searched too. They are read as a folder of photographs is for a
training, at the size that the network was trained at.
"""

import dataclasses
import functools
import pathlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import tyro
from rich.progress import track

from dann_jax import evaluation, model_files
from dann_jax.datasets.streamed import padded
from dann_jax.datasets.whole_files import whole
from experiments import arguments as command_line
from experiments import predictions

__all__ = ["Options", "main", "predict"]

PROGRAM = "python -m experiments.predict"
BATCH = 64  # images that are read and predicted at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to predict."""

    run: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a finished training, METHOD/key_KEY, or one above it that holds no other."""

    images: Annotated[
        tuple[pathlib.Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES [IMAGES ...]")
    ]
    """Files, and folders of them."""

    output: pathlib.Path | None = None
    """CSV file of the predictions: file, class, its probability, and those of all classes; by
    default the terminal. With --features an npz file, by default features.npz."""

    features: str | None = None
    """Writes the activations of a layer instead, such as f, f/conv1 or y/fc2, with the names of the
    files."""

    overwrite: bool = False
    """Replaces a file that is there."""


def predict(options: Options) -> pathlib.Path | None:
    """Writes predictions or features, and returns the path of the file; None for the terminal."""
    path = options.output or (pathlib.Path("features.npz") if options.features else None)
    if path is not None:
        command_line.check_file(path, "--output", overwrite=options.overwrite)
    entries, loaded = model_files.describe(options.run), model_files.load(options.run)
    if not options.images:
        raise ValueError("expected images after the run, files or folders, got none: name some")
    files = _files(options.images)
    names = [str(file) for file in files]
    if options.features is not None:
        outputs = _outputs(evaluation.features, loaded, entries, files, layer=options.features)
        arrays = np.concatenate(list(outputs))
        with whole(path) as temporary, temporary.open("wb") as file:
            np.savez(file, files=np.array(names), features=arrays)
        return path
    logits = _outputs(evaluation.predict, loaded, entries, files)
    rows = zip(_batches(names), logits, strict=True)
    if path is None:
        predictions.write(sys.stdout, loaded.classes, rows)
        return None
    with whole(path) as temporary, temporary.open("w", **predictions.TEXT) as file:
        predictions.write(file, loaded.classes, rows)
    return path


def _files(paths):
    """Returns the image files of the command line, those of folders in the order of their names."""
    from dann_jax.datasets.image_folder.image_folder_dataset_builder import within

    files, others = [], []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: expected an image or a folder of images, got none")
        found = within(path, others) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{path}: expected a folder with images, got none in it")
        files += found
    if others:
        warnings.warn(
            f"left out {len(others)} file{'s' * (len(others) > 1)} not of an image by name, the "
            f"first of which is {others[0]}",
            stacklevel=2,
        )
    return files


def _outputs(
    function: Any,
    loaded: model_files.LoadedModel,
    entries: dict[str, Any],
    files: Sequence[pathlib.Path],
    **options: Any,
) -> Iterator[np.ndarray]:
    """Yields what a function of ``evaluation`` gives for image files, batch by batch."""
    function = functools.partial(function, loaded.model, loaded.state, batch_size=BATCH)
    batches = _batches(files)
    for batch in track(batches, "images", disable=len(batches) < 2 or not sys.stderr.isatty()):
        images = np.stack([_read(path, **entries["image"]) for path in batch])
        missing = BATCH - len(batch) if len(files) > BATCH else 0  # one shape, one compilation
        images = np.pad(images, [(0, missing), *[(0, 0)] * 3])
        output = function(images, preprocess=loaded.preprocess, **options)[: len(batch)]
        if not np.isfinite(output).all():
            raise ValueError(
                f"expected finite outputs, got others among those of {batch[0]} and what follows: "
                "train again at a lower --mu0"
            )
        yield output


def _read(path, *, size, resize, **_):
    """Returns one image as those of the training were: resized, or padded where it is smaller."""
    from dann_jax.datasets.image_folder.image_folder_dataset_builder import read_image

    image = read_image(path, (size, size), enlarge=resize)
    return padded(image[None], size, str(path))[0]


def _batches(values):
    return [values[start : start + BATCH] for start in range(0, len(values), BATCH)]


def main(arguments: list[str] | None = None) -> int:
    """Runs the program and returns its exit status: 0, or 2 where nothing was predicted."""
    options = command_line.parse(Options, arguments, program=PROGRAM, description=__doc__)

    def program():
        path = predict(options)
        if path is not None:
            print(f"written: {path}")

    return command_line.ended(program)


if __name__ == "__main__":
    command_line.end(main())
