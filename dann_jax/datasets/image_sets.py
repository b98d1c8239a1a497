"""Labelled images in memory: their digest, labelled subsets, and a cache of them on disk."""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dann_jax.datasets import draws
from dann_jax.datasets.whole_files import whole

__all__ = ["ImageSet", "Subset", "cached", "digest", "digest_header", "subset"]


class ImageSet(NamedTuple):
    """Labelled images of one split of one domain."""

    image: np.ndarray  # uint8 [n, height, width, channel]
    label: np.ndarray  # int32 [n]; -1 where it is not known


class Subset(NamedTuple):
    """A named part of a split: as many images of each class, drawn with a key."""

    split: str
    per_class: int
    key: int
    at_most: bool = False


def subset(label: np.ndarray, per_class: int, key: int, *, at_most: bool = False) -> np.ndarray:
    """Returns the positions of ``per_class`` images of each class, drawn without replacement.

    The semi-supervised protocol labels 10 images a class of the target; the five splits of
    Office-31 train on 20 or 8 a class of the source (keys 0 to 4).

    Args:
        label: int ``[n]``; images of unknown label, -1, are never drawn.
        per_class: how many images of each class.
        key: which draw.
        at_most: whether a class with fewer images gives all that it has.

    Returns:
        int64 ``[n]``, ``classes * per_class`` or with ``at_most`` fewer, in ascending order: the
        rest is ``np.delete`` of it.

    Raises:
        ValueError: ``per_class`` is not positive, a class has fewer images, or no label is known.
    """
    label = np.asarray(label)
    if not (label >= 0).any():
        raise ValueError("expected labelled images to draw from each class, got none with a label")
    classes, counts = np.unique(label[label >= 0], return_counts=True)
    if per_class < 1 or (not at_most and per_class > counts.min(initial=len(label))):
        raise ValueError(
            f"expected per_class from 1 to {counts.min(initial=len(label))}, the size of the "
            f"smallest class, got {per_class}"
        )
    draw = draws.uniform(key, "subset", 0, len(label), count=1)[:, 0]
    chosen = [
        members[np.argsort(draw[members], kind="stable")[:per_class]]
        for members in (np.flatnonzero(label == c) for c in classes)
    ]
    return np.sort(np.concatenate(chosen))


def digest(image_set: ImageSet) -> str:
    """Returns the SHA-256 of a set of images: of shapes, types and bytes, images then labels.

    Args:
        image_set: any images and labels.

    Returns:
        64 hexadecimal digits.
    """
    sha256 = hashlib.sha256()
    for array in image_set:
        array = np.asarray(array)
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        sha256.update(digest_header(little.dtype, little.shape))
        sha256.update(little.data)
    return sha256.hexdigest()


def digest_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Returns type and shape of an array as bytes, which ``digest`` puts before the numbers."""
    return f"{dtype.newbyteorder('<').str}{tuple(shape)}".encode()


def cached(
    folder: Path, split: str, shape: tuple[int, ...], read: Callable[[], ImageSet]
) -> ImageSet:
    """Returns a split from ``.npy`` files, which the first call writes.

    Incomplete files are written again.

    Args:
        folder: where the files lie; its parent exists.
        split: part of their names.
        shape: that of the images.
        read: makes the images and labels, uint8 and int32.
    """
    image_set = _read(folder, split, shape)
    if image_set is None:
        image_set = read()
        # A folder that may only be read (shared data, a container) costs the next start some
        # seconds; it is no reason to fail.
        with contextlib.suppress(OSError):
            _write(folder, split, image_set)
    return image_set


def _paths(folder: Path, split: str) -> tuple[Path, Path]:
    return folder / f"{split}-image.npy", folder / f"{split}-label.npy"


def _read(folder: Path, split: str, shape: tuple[int, ...]) -> ImageSet | None:
    """Returns the cached arrays, or None if they are absent or not what they should be."""
    try:
        image_set = ImageSet(*(np.load(path, allow_pickle=False) for path in _paths(folder, split)))
    except (OSError, ValueError, EOFError):
        return None
    expected = [(shape, np.uint8), (shape[:1], np.int32)]
    return image_set if [(array.shape, array.dtype) for array in image_set] == expected else None


def _write(folder: Path, split: str, image_set: ImageSet) -> None:
    for path, array in zip(_paths(folder, split), image_set, strict=True):
        with whole(path) as temporary:
            np.save(temporary, array, allow_pickle=False)
