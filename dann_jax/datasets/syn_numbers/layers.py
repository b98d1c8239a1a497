"""Layers of a block of images: float32 ``[n, SIDE, SIDE]``, in colour ``[n, 3, SIDE, SIDE]``."""

import numpy as np

__all__ = ["SIDE", "bilinear", "coverage", "layer", "paint", "planes"]

SIDE = 32
"""Height and width of an image in pixels."""


def layer(value) -> np.ndarray:
    """Returns one number for each image, ``[n]``, as a layer, float32 ``[n, 1, 1]``."""
    return np.asarray(value, np.float32)[:, None, None]


def planes(value) -> np.ndarray:
    """Returns numbers ``[n]`` or colours ``[n, 3]`` as float32 ``[n, 1 or 3, 1, 1]``."""
    return np.asarray(value, np.float32).reshape(len(value), -1, 1, 1)


def coverage(distance: np.ndarray) -> np.ndarray:
    """Returns how much of each pixel a shape covers, in [0, 1].

    Args:
        distance: how far inside the shape a pixel's centre lies, in pixels.
    """
    return np.clip(distance + np.float32(0.5), 0, 1)


def paint(canvas: np.ndarray, colour: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Returns the canvas with a colour over it.

    Args:
        canvas: ``[n, 3, SIDE, SIDE]``.
        colour: broadcasts against the canvas.
        cover: how much of each pixel is painted, ``[n, SIDE, SIDE]``.

    Returns:
        float32 ``[n, 3, SIDE, SIDE]``.
    """
    return canvas + (colour - canvas) * cover[:, None]


def bilinear(pictures: np.ndarray, which: np.ndarray, column, row) -> np.ndarray:
    """Returns values of pictures at points between their pixels.

    Args:
        pictures: float32 ``[picture, height, width]``.
        which: the picture that each image looks at, int ``[n]``.
        column: float32 layer of positions in [0, width - 1).
        row: float32 layer of positions in [0, height - 1).

    Returns:
        float32 of the shape of ``column``.
    """
    values, (height, width) = pictures.ravel(), pictures.shape[1:]
    c, r = column.astype(np.int32), row.astype(np.int32)
    right, down = column - c.astype(np.float32), row - r.astype(np.float32)
    i = (which * height * width).astype(np.int32)[:, None, None] + r * np.int32(width) + c
    upper = values.take(i)
    upper += (values.take(i + 1) - upper) * right
    lower = values.take(i + width)
    lower += (values.take(i + width + 1) - lower) * right
    return upper + (lower - upper) * down
