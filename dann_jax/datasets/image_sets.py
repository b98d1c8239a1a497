"""Labelled images in memory: their digest, labelled subsets, and a cache of them on disk."""

import contextlib
import hashlib
import operator
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dann_jax.datasets import draws
from dann_jax.datasets.whole_files import whole

__all__ = [
    "Digest",
    "ImageSet",
    "Subset",
    "cached",
    "digest",
    "held_out",
    "load_array",
    "save_array",
    "subset",
]


_TYPES = np.dtype(np.uint8), np.dtype(np.int32)


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
        ValueError: ``per_class`` is not positive, a class has fewer images, no label is known, or
            these are no labels.
        TypeError: ``per_class`` or ``key`` is no whole number.
    """
    per_class, key = operator.index(per_class), operator.index(key)
    if not 0 <= key < 2**64:
        raise ValueError(f"expected a key from 0 to 2^64 - 1, got {key}")
    label = np.asarray(label)
    lowest = label.min(initial=0) if label.dtype.kind in "iu" else None
    if label.ndim != 1 or lowest is None or lowest < -1:
        raise ValueError(
            "expected labels as whole numbers [n], 0, 1, ... or -1 where not known, got "
            f"{label.dtype} {list(label.shape)}{f' from {lowest}' if lowest else ''}"
        )
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


def held_out(label: np.ndarray, share: float) -> np.ndarray:
    """Returns the positions of a share of each class, to measure an accuracy on.

    They are a function of the labels and the share alone. Each class keeps an image or more, and
    one with two or more gives one or more.

    Args:
        label: int ``[n]``, all of them known.
        share: in [0, 1); 0 holds nothing out.

    Returns:
        int64, in ascending order: the rest is ``np.delete`` of it.
    """
    draw = draws.uniform(0, "held out", 0, len(label), count=1)[:, 0]
    positions = [np.zeros(0, np.int64)]
    for members in (np.flatnonzero(label == c) for c in np.unique(label)):
        count = min(max(1, round(share * len(members))), len(members) - 1) if share else 0
        positions.append(members[np.argsort(draw[members], kind="stable")[:count]])
    return np.sort(np.concatenate(positions))


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
        sha256.update(_header(little.dtype, little.shape))
        sha256.update(little.data)
    return sha256.hexdigest()


class Digest:
    """The ``digest`` of images that come one at a time.

    Args:
        shape: ``[n, height, width, channel]``, that of all images.
    """

    def __init__(self, shape: tuple[int, ...]):
        self._sha256 = hashlib.sha256(_header(np.dtype(np.uint8), shape))
        self._labels: list[int] = []

    def add(self, image: np.ndarray, label: int) -> None:
        """Takes the next image, uint8, and its label."""
        self._sha256.update(np.ascontiguousarray(image).data)
        self._labels.append(label)

    def hexdigest(self) -> str:
        """Returns the digest, once all images are there."""
        labels = np.array(self._labels, "<i4")
        sha256 = self._sha256.copy()
        sha256.update(_header(labels.dtype, labels.shape))
        sha256.update(labels.data)
        return sha256.hexdigest()


def _header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Returns type and shape of an array as bytes, which come before the numbers."""
    return f"{dtype.newbyteorder('<').str}{tuple(shape)}".encode()


def cached(
    folder: Path, split: str, expected: str | None, read: Callable[[], ImageSet]
) -> ImageSet:
    """Returns a split from ``.npy`` files if they hold what they should; else they are written.

    Args:
        folder: where the files lie; its parent exists.
        split: part of their names.
        expected: the ``digest`` of the split; None where it is not known, so that the files are
            compared with what ``read`` returns.
        read: makes the images and labels, uint8 and int32, as they should be.

    Warns:
        UserWarning: The files held something else.
    """
    paths = [folder / f"{split}-{name}.npy" for name in ImageSet._fields]
    are_there = all(path.exists() for path in paths)  # now: another process may write them soon
    image, label = (load_array(path) for path in paths)
    stored = None
    if image is not None and label is not None and (image.dtype, label.dtype) == _TYPES:
        image_set = ImageSet(image, label)
        stored = digest(image_set)
        if stored == expected:
            return image_set
    image_set = read()
    if expected is None and stored == digest(image_set):
        return image_set
    if are_there:
        warnings.warn(
            f"{paths[0]} or {paths[1].name} is damaged, or of other data: both are made anew",
            stacklevel=2,
        )
    # A folder that may only be read (shared data, a container) or a full disk costs the next start
    # some seconds; it is no reason to fail.
    with contextlib.suppress(OSError):
        for path, array in zip(paths, image_set, strict=True):
            save_array(path, array)
    return image_set


def load_array(path: Path) -> np.ndarray | None:
    """Returns the array in a ``.npy`` file, or None if it is absent or not such a file."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns of some damaged headers
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception:  # NumPy raises whatever a damaged byte leads it to
        return None


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes a ``.npy`` file, whole or not at all."""
    with whole(path) as temporary:
        np.save(temporary, array, allow_pickle=False)
