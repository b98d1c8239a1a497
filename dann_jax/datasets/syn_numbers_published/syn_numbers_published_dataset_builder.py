"""TFDS builder of the published SYN NUMBERS from its two MATLAB files."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from dann_jax.datasets import image_builder, source_files

__all__ = ["OFFICIAL", "Builder", "MatFile", "read"]

# Git LFS's media address: a raw one gives the pointer to a file, not the file.
_FOLDER = (
    "https://media.githubusercontent.com/media/domainadaptation/datasets/"
    "91ff02225a73db330883843bc41ee3aca59a19d9/synth/"
)
_POINTER = b"version https://git-lfs"


class MatFile(NamedTuple):
    """One MATLAB file and what it holds."""

    name: str
    examples: int
    size: int  # bytes
    sha256: str


OFFICIAL = {
    "train": MatFile(
        "synth_train_32x32.mat",
        479_400,
        895_578_032,
        "e0e0924ecd0c0b5a55ed6485aaa7d39937af982397717b89a3d91777aca9433c",
    ),
    "test": MatFile(
        "synth_test_32x32.mat",
        9_553,
        17_851_156,
        "6285fe9a1c6f27b379a47263907a37899b59ce86948fd343a5b904435cde5bcc",
    ),
}
"""The file of each split."""


class Builder(image_builder.ImageBuilder):
    """SYN NUMBERS, 32x32x3, in the order of the published files; the central digit is the label.

    ``syn_numbers`` is this project's own drawing of such images, which needs no download.

    Attributes:
        CLASS_COUNTS: for each split, how many examples it has. How many of each digit is not
            published; a file with the right SHA-256 has the right numbers.
        FILES: the file of each split.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The two published files, in their order."}

    IMAGE_SHAPE = (32, 32, 3)
    CLASS_COUNTS = {split: (file.examples,) for split, file in OFFICIAL.items()}
    FILES: Mapping[str, MatFile] = OFFICIAL

    DESCRIPTION = (
        "Synthetic counterpart of SVHN: one to three digits of Windows fonts in varied places, "
        "orientations and colours, blurred, 32x32 pixels, of which the central one is the label: "
        "479,400 images to train on and 9,553 to test on."
    )
    CITATION = image_builder.PAPER
    HOMEPAGE = "https://github.com/domainadaptation/datasets"
    LICENSE = "Creative Commons Attribution 4.0 (CC BY 4.0)."

    def _image_sets(self, find):
        sets = {split: read(file, find) for split, file in self.FILES.items()}
        self.CLASS_COUNTS = {
            split: np.bincount(labels, minlength=10).tolist() for split, (_, labels) in sets.items()
        }
        return sets


def read(
    file: MatFile, find: Callable[[source_files.PublishedFile], Path]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of a published file, checked against its digest.

    The file holds X, uint8 ``[row, column, channel, n]``, and y, n labels, where 10 is the digit 0.
    Size and digest are compared first, so that no other content reaches SciPy's reader. The images
    are a view of X as that reader makes it: one copy in memory, 1.5 GB of the training images.

    Args:
        file: which file.
        find: returns its path.

    Returns:
        uint8 ``[n, 32, 32, 3]`` and uint8 ``[n]``, in which 0 is the digit 0.

    Raises:
        ValueError: truncated, damaged, or not the published content.
    """
    import scipy.io

    source = source_files.PublishedFile(file.name, "syn_numbers_published", (_FOLDER + file.name,))
    path = find(source)
    with path.open("rb") as stream:
        size = path.stat().st_size
        if size != file.size:
            pointer = stream.read(len(_POINTER)) == _POINTER
            raise source_files.mismatch(
                source,
                path,
                expected=f"{file.size:,} bytes",
                got="a pointer of Git LFS to the file" if pointer else f"{size:,}",
            )
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != file.sha256:
        raise source_files.mismatch(
            source, path, expected=f"SHA-256 {file.sha256}", got=f"SHA-256 {digest}"
        )
    content = scipy.io.loadmat(path, variable_names=("X", "y"))
    images, labels = content["X"].transpose(3, 0, 1, 2), content["y"].reshape(-1)
    layout = images.shape == (file.examples, 32, 32, 3) and images.dtype == np.uint8
    known = len(labels) == file.examples and np.isin(labels, range(11)).all()
    # Either 10 or 0 may stand for the digit 0: both in one file would be two classes.
    if not layout or not known or np.isin([0, 10], labels).all():
        raise source_files.mismatch(
            source,
            path,
            expected=f"X, uint8 [32, 32, 3, {file.examples}], and as many labels 1 to 10 in y",
            got=f"{content['X'].dtype} {list(content['X'].shape)} and {len(labels)} labels from "
            f"{labels.min(initial=10)} to {labels.max(initial=0)}",
        )
    return images, labels.astype(np.uint8) % 10
