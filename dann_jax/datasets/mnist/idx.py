"""The four published files of MNIST, in the IDX format."""

import hashlib
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dann_jax.datasets import source_files

__all__ = ["OFFICIAL", "IdxFile", "parse", "read", "read_split"]

_MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
_UNSIGNED_BYTE = 8  # type code of the only element type that MNIST uses


class IdxFile(NamedTuple):
    """One gzipped IDX file and what it holds."""

    name: str
    shape: tuple[int, ...]
    sha256: str  # of the unzipped content: the same content is gzipped differently by mirrors


OFFICIAL = {
    "train": (
        IdxFile(
            "train-images-idx3-ubyte.gz",
            (60000, 28, 28),
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        IdxFile(
            "train-labels-idx1-ubyte.gz",
            (60000,),
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
    ),
    "test": (
        IdxFile(
            "t10k-images-idx3-ubyte.gz",
            (10000, 28, 28),
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        IdxFile(
            "t10k-labels-idx1-ubyte.gz",
            (10000,),
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
}
"""For each split the file of the images and the file of the labels."""


def parse(content: bytes) -> np.ndarray:
    """Returns the array of an IDX file.

    The layout is two zero bytes, a type code, the number of dimensions, each dimension as a
    big-endian 32-bit number, then the elements in row-major order.

    >>> parse(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    array([7, 9], dtype=uint8)

    Args:
        content: the unzipped file.

    Returns:
        uint8, the shape in the header.

    Raises:
        ValueError: other type code, or a length that does not fit the header.
    """
    if len(content) < 4 or content[:3] != bytes([0, 0, _UNSIGNED_BYTE]):
        raise ValueError(f"a file that starts with the bytes {content[:4].hex()}")
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError(f"a header of {dimensions} dimensions cut off at {len(content)} bytes")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise ValueError(f"a header of shape {shape} over {len(content) - start:,} bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read(file: IdxFile, find: Callable[[source_files.PublishedFile], Path]) -> np.ndarray:
    """Returns the array of a published file, checked against its digest.

    Args:
        file: which file.
        find: returns its path.

    Returns:
        uint8 of ``file.shape``.

    Raises:
        ValueError: truncated, damaged, or not the official content.
    """
    source = source_files.PublishedFile(
        file.name, "mnist", tuple(mirror + file.name for mirror in _MIRRORS)
    )
    path = find(source)
    size = 4 + 4 * len(file.shape) + math.prod(file.shape)
    content = source_files.unzip(source, path, size=size)
    expected = f"an IDX file of unsigned bytes with shape {file.shape}"
    try:
        array = parse(content)
    except ValueError as error:
        raise source_files.mismatch(source, path, expected=expected, got=str(error)) from error
    if array.shape != file.shape:
        raise source_files.mismatch(source, path, expected=expected, got=f"shape {array.shape}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise source_files.mismatch(
            source,
            path,
            expected=f"unzipped content with SHA-256 {file.sha256}",
            got=f"content with SHA-256 {digest}",
        )
    return array


def read_split(
    files: tuple[IdxFile, IdxFile], find: Callable[[source_files.PublishedFile], Path]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of one split.

    Args:
        files: the file of the images and the file of the labels.
        find: returns the path of a published file.

    Returns:
        uint8 ``[n, 28, 28]`` and uint8 ``[n]``.
    """
    images, labels = files
    return read(images, find), read(labels, find)
