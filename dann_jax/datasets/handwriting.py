"""Varied copies of the handwritten digits that scikit-learn bundles (UCI, Alpaydin 1998).

The 1,797 originals have 8x8 pixels with 17 grey levels. A copy is an original turned, scaled
and shifted a little, enlarged to 28x28 pixels and sharpened, about as MNIST looks. The originals
are first divided between train and test, so that no test image is a copy of something trained on.
"""

from typing import NamedTuple

import numpy as np

from dann_jax.datasets import draws

__all__ = ["Originals", "copies", "draw_labels", "originals"]

SIZE = 28
"""Side of a copy in pixels."""

_CLASSES = 10
_TEST_PARTS = 4  # one original in four is held out
_DIGIT_SIZE = 23  # pixels that the 8 of an original become, before scaling
_ANGLE = np.deg2rad(12.0)
_LOG_SCALE = np.log(1.15)  # scale in [1 / 1.15, 1.15]
_SHIFT = 1.5  # pixels of the copy
_UPSAMPLING = 4
STROKE = 96
"""Grey level of an enlarged original at which its strokes end; it is 128 in a copy."""

_CONTRAST = 4.0  # enlarging blurs strokes that were drawn sharp; this draws their edges again
_BORDER = 3  # black pixels around an original, so that a copy never reaches its edge
_CHUNK = 500  # copies made at once; bounds the memory


class Originals(NamedTuple):
    """Some of the bundled digits."""

    image: np.ndarray  # float64 [n, 8, 8], grey levels 0 .. 16
    label: np.ndarray  # int64 [n]
    position: np.ndarray  # int64 [n], in scikit-learn's data set


def originals(split: str) -> Originals:
    """Returns the originals of one split; the two splits are disjoint and stratified.

    Args:
        split: ``"train"`` (three in four of each label) or ``"test"`` (the rest).

    Returns:
        The originals, in the order of scikit-learn's data set.

    Raises:
        ValueError: another split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"expected split 'train' or 'test', got {split!r}")
    from sklearn import datasets

    bundled = datasets.load_digits()
    # A fixed order that does not depend on any data set's seed: every copy of an original,
    # whatever made it, stays on the same side.
    rank = draws.uniform(0, "held out", 0, len(bundled.target), count=1)[:, 0]
    test = np.zeros(len(bundled.target), bool)
    for label in range(_CLASSES):
        members = np.flatnonzero(bundled.target == label)
        test[members[np.argsort(rank[members])][: len(members) // _TEST_PARTS]] = True
    position = np.flatnonzero(test if split == "test" else ~test)
    return Originals(bundled.images[position], bundled.target[position], position)


def draw_labels(*, seed: int, split: str, start: int, stop: int) -> np.ndarray:
    """Returns the labels of copies ``start .. stop - 1``: a permutation of 0 to 9 in every ten.

    Args:
        seed: the data set's seed.
        split: ``"train"`` or ``"test"``.
        start: first copy.
        stop: one past the last copy.

    Returns:
        int32 ``[stop - start]``.
    """
    first, last = start // _CLASSES, -(-stop // _CLASSES)
    draw = draws.uniform(seed, f"{split} labels", first, last, count=_CLASSES)
    labels = np.argsort(draw, axis=1).reshape(-1).astype(np.int32)
    return labels[start - first * _CLASSES : stop - first * _CLASSES]


def copies(
    source: Originals, *, seed: int, split: str, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns copies ``start .. stop - 1``; copy i is a function of (source, seed, split, i).

    A pixel of the copy at offset d from the centre shows the original at offset
    R(-angle) (d - shift) / (scale * 23 / 8). Angle in +-12 degrees, log scale in +-log 1.15 and
    shift in +-1.5 pixels along each axis are uniform; so is the choice among the originals of the
    label.

    Args:
        source: the originals of the split.
        seed: the data set's seed.
        split: ``"train"`` or ``"test"``.
        start: first copy.
        stop: one past the last copy.

    Returns:
        uint8 ``[stop - start, 28, 28]``, white on black, and int32 ``[stop - start]``.
    """
    labels = draw_labels(seed=seed, split=split, start=start, stop=stop)
    draw = draws.uniform(seed, split, start, stop, count=5)
    members = np.argsort(source.label, kind="stable")
    count = np.bincount(source.label, minlength=_CLASSES)
    first = np.cumsum(count) - count
    chosen = members[first[labels] + draws.choice(draw[:, 0], count[labels])]
    enlarged = _enlarge(source.image)
    images = np.empty((len(labels), SIZE, SIZE), np.uint8)
    for a in range(0, len(labels), _CHUNK):
        part = slice(a, a + _CHUNK)
        images[part] = _transform(enlarged, chosen[part], draw[part, 1:])
    return images, labels


def _enlarge(image: np.ndarray) -> np.ndarray:
    """Returns originals with a black border, four times as large, in grey levels 0 .. 255.

    Bicubic: the cubic convolution of Keys (1981) with a = -1/2, first along rows, then columns.
    """
    side = image.shape[1] + 2 * _BORDER
    padded = np.pad(image * (255.0 / 16.0), ((0, 0), (_BORDER, _BORDER), (_BORDER, _BORDER)))
    # Centre of new pixel j, in old pixels; its distance to each old pixel gives the weight.
    centre = (np.arange(side * _UPSAMPLING) + 0.5) / _UPSAMPLING - 0.5
    t = np.abs(centre[:, None] - np.arange(side)[None, :])
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weight = np.where(t <= 1, near, np.where(t < 2, far, 0.0))
    return np.clip(np.einsum("rh,nhw,cw->nrc", weight, padded, weight, optimize=True), 0, 255)


def _transform(enlarged: np.ndarray, chosen: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """Returns turned, scaled and shifted copies, sampled bilinearly from enlarged originals."""
    angle, log_scale, down, right = (2 * draw.T - 1) * np.array(
        [[_ANGLE], [_LOG_SCALE], [_SHIFT], [_SHIFT]]
    )
    side = enlarged.shape[1]
    step = 8 * _UPSAMPLING / (_DIGIT_SIZE * np.exp(log_scale))  # enlarged pixels per pixel
    cosine, sine = np.cos(angle) * step, np.sin(angle) * step
    offset = np.arange(SIZE) - (SIZE - 1) / 2
    y = offset[None, :] - down[:, None]
    x = offset[None, :] - right[:, None]
    row = (cosine[:, None] * y)[:, :, None] + (sine[:, None] * x)[:, None, :]
    column = (cosine[:, None] * x)[:, None, :] - (sine[:, None] * y)[:, :, None]
    # The border is black, so that holding a point at the edge shows black.
    row = np.clip(row + (side - 1) / 2, 0, side - 1.001)
    column = np.clip(column + (side - 1) / 2, 0, side - 1.001)
    top, left = row.astype(np.int64), column.astype(np.int64)
    row -= top
    column -= left
    corner = (chosen[:, None, None] * side + top) * side + left
    flat = enlarged.reshape(-1)
    upper = flat[corner] * (1 - column) + flat[corner + 1] * column
    lower = flat[corner + side] * (1 - column) + flat[corner + side + 1] * column
    grey = upper * (1 - row) + lower * row
    return np.round(np.clip(128 + _CONTRAST * (grey - STROKE), 0, 255)).astype(np.uint8)
