"""MATLAB 5 files of numbers, every length checked.

SciPy's reader is not made for damaged files: one wrong byte in a type code ends the process.
"""

import math
import zlib
from collections.abc import Iterator

import numpy as np

__all__ = ["parse"]

_HEADER = 128  # bytes of text, version and byte order
_TAG = 8  # bytes of type and length before each element, which is padded to a multiple of it
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = "i1 u1 i2 u2 i4 u4"
_STORED = dict(zip(range(1, 7), _NUMBERS.split(), strict=True)) | {7: "f4", 9: "f8"}
_STORED |= {12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4"} | dict(zip(range(8, 16), f"{_NUMBERS} i8 u8".split(), strict=True))


def parse(content: bytes, most: int) -> dict[str, np.ndarray]:
    """Returns the arrays of a MATLAB file of version 5 by name, in the layout of MATLAB.

    Args:
        content: the file.
        most: how many bytes a compressed array may have when it is decompressed.

    Raises:
        ValueError: damaged, truncated, too large, or not arrays of real numbers alone.
        zlib.error: a compressed array is damaged.

    Source: MAT-File Format, version 5 (MathWorks).
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[_HEADER - 2 : _HEADER])
    if order is None:
        raise ValueError(f"a header that ends with {content[_HEADER - 2 : _HEADER]!r}")
    arrays = {}
    for kind, data in _elements(memoryview(content)[_HEADER:], order):
        if kind == _COMPRESSED:
            ((kind, data),) = _elements(_decompressed(data, most), order)
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind}, which is no array")
        name, array = _matrix(data, order)
        arrays[name] = array
    return arrays


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yields type and content of each element."""
    while len(data):
        if len(data) < _TAG:
            raise ValueError(f"{len(data)} bytes where an element should begin")
        kind, size = np.frombuffer(data[:_TAG], f"{order}u4").tolist()
        start, end = _TAG, _TAG + size
        if kind >> 16:  # up to four bytes lie in the tag itself
            kind, size = kind & 0xFFFF, kind >> 16
            start, end = 4, 4 + size
        # What is compressed is not padded, nor what lies in the tag.
        after = end if kind == _COMPRESSED else -(-end // _TAG) * _TAG
        if after > len(data) or (start == 4 and size > 4):
            raise ValueError(f"an element of {size:,} bytes where {len(data) - start:,} are left")
        yield kind, data[start:end]
        data = data[after:]


def _decompressed(data: memoryview, most: int) -> memoryview:
    stream = zlib.decompressobj()
    content = stream.decompress(data, most)
    if not stream.eof or stream.unused_data:  # at its end the checksum is compared
        raise ValueError(f"a compressed array that does not end within {most:,} bytes")
    return memoryview(content)


def _matrix(data: memoryview, order: str) -> tuple[str, np.ndarray]:
    """Returns name and numbers of an array."""
    flags, shape, name, numbers = _elements(data, order)
    kind = np.frombuffer(flags[1], f"{order}u4")[0] & 0xFF
    if kind not in _CLASSES or numbers[0] not in _STORED:
        raise ValueError(f"an array of class {kind} stored as {numbers[0]}")
    dimensions = np.frombuffer(shape[1], f"{order}i4").tolist()
    array = np.frombuffer(numbers[1], order + _STORED[numbers[0]])
    if min(dimensions, default=0) < 0 or math.prod(dimensions) != len(array):
        raise ValueError(f"{len(array):,} numbers for an array of shape {dimensions}")
    array = array.astype(_CLASSES[kind], copy=False).reshape(dimensions, order="F")
    return bytes(name[1]).decode("ascii"), array
