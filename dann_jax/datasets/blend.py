"""The blend of a digit over a photograph, which makes MNIST-M of MNIST (paper, section 4).

The paper gives I_out = |I1 - I2| for each pixel and channel, with I1 a random patch of a colour
photograph and I2 the digit. What it leaves open was settled by comparing with the published
images: the digit keeps its 28x28 pixels, is padded by 2 to 32x32 and is binarised.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from dann_jax.datasets import draws

__all__ = ["binarise", "blend", "mnist_m_images", "pad", "patch"]

_MARGIN = 2  # 28 + 2 * 2 = 32 pixels


def binarise(digit: np.ndarray, *, threshold: int = 0) -> np.ndarray:
    """Returns 255 where the digit exceeds the threshold, 0 elsewhere.

    >>> binarise(np.array([0, 1, 200], np.uint8))
    array([  0, 255, 255], dtype=uint8)

    Args:
        digit: uint8, any shape.
        threshold: grey level in [0, 255].

    Returns:
        uint8 of the same shape.
    """
    return np.where(digit > threshold, np.uint8(255), np.uint8(0))


def blend(patch: np.ndarray, digit: np.ndarray) -> np.ndarray:
    """Returns |patch - digit| for each pixel and channel.

    >>> blend(np.array([[[10, 20, 250]]], np.uint8), np.array([[255]], np.uint8))
    array([[[245, 235,   5]]], dtype=uint8)

    Args:
        patch: uint8 ``[..., height, width, channel]``, a piece of a photograph (I1).
        digit: uint8 ``[..., height, width]``, used for every channel (I2).

    Returns:
        uint8 of the patch's shape.
    """
    digit = digit[..., np.newaxis]
    # The larger minus the smaller stays within uint8; a plain difference would wrap around.
    return np.maximum(patch, digit) - np.minimum(patch, digit)


def pad(digit: np.ndarray, *, margin: int) -> np.ndarray:
    """Returns the digit with a black border.

    >>> pad(np.array([[7]], np.uint8), margin=1)
    array([[0, 0, 0],
           [0, 7, 0],
           [0, 0, 0]], dtype=uint8)

    Args:
        digit: uint8 ``[height, width]``.
        margin: width of the border in pixels.

    Returns:
        uint8 ``[height + 2 * margin, width + 2 * margin]``.
    """
    height, width = digit.shape
    padded = np.zeros((height + 2 * margin, width + 2 * margin), digit.dtype)
    padded[margin : margin + height, margin : margin + width] = digit
    return padded


def patch(photographs: Sequence[np.ndarray], draw: np.ndarray, size: int) -> np.ndarray:
    """Returns one square patch; every position within a photograph is equally likely.

    Args:
        photographs: uint8 ``[height, width, 3]`` each, none smaller than ``size``.
        draw: three numbers in [0, 1): which photograph, which row, which column.
        size: side of the patch in pixels.

    Returns:
        uint8 ``[size, size, 3]``, a view of the photograph.
    """
    photograph = photographs[int(draw[0] * len(photographs))]
    height, width = photograph.shape[:2]
    top = int(draw[1] * (height - size + 1))
    left = int(draw[2] * (width - size + 1))
    return photograph[top : top + size, left : left + size]


def mnist_m_images(
    digits: np.ndarray,
    photographs: Sequence[np.ndarray],
    *,
    seed: int,
    split: str,
    start: int = 0,
) -> Iterator[np.ndarray]:
    """Yields images of a split of MNIST-M, each a function of its digit and position alone.

    Args:
        digits: uint8 ``[n, 28, 28]``, MNIST images of that split, from image ``start`` on.
        photographs: uint8 ``[height, width, 3]`` each, those of the split.
        seed: the data set's seed.
        split: ``"train"`` or ``"test"``.
        start: position of the first digit in the split.

    Yields:
        uint8 ``[32, 32, 3]``.
    """
    draw = draws.uniform(seed, split, start, start + len(digits), count=3)
    for digit, d in zip(digits, draw, strict=True):
        padded = pad(binarise(digit), margin=_MARGIN)
        yield blend(patch(photographs, d, padded.shape[0]), padded)
