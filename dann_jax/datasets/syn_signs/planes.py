"""Arithmetic on blocks of images, float32 ``[n, channel, height, width]``.

Only operations that are the same on every machine to the last bit: sums, products and roots of
elements. Places are given as x from -1 at the left edge to 1 at the right one, y from -1 at the
top to 1 at the bottom.
"""

import numpy as np

from dann_jax.datasets.chance import Chance

__all__ = ["box", "colour", "grey", "mix", "resize", "sample", "screen", "single", "step"]


def screen(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels' x ``[size]`` and y ``[size, 1]``."""
    centre = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    return centre, centre[:, None]


def single(numbers: np.ndarray) -> np.ndarray:
    """Returns one number for each image ``[n]`` as ``[n, 1, 1, 1]``."""
    return numbers.astype(np.float32)[:, None, None, None]


def step(distance: np.ndarray, softness: float) -> np.ndarray:
    """Returns 0 well below zero and 1 well above it, linear over a width of ``softness``."""
    return np.clip(distance / softness + 0.5, 0, 1)


def box(size: int, left, right, top, bottom) -> np.ndarray:
    """Returns how much of each pixel an upright rectangle covers.

    Args:
        size: of the images, in pixels.
        left: x for each image, ``[n]``.
        right: likewise.
        top: y for each image, ``[n]``.
        bottom: likewise.

    Returns:
        float32 ``[n, 1, size, size]``.
    """
    x, y = screen(size)
    pixel = 2 / size
    across = step(x - single(left), pixel) * step(single(right) - x, pixel)
    return across * step(y - single(top), pixel) * step(single(bottom) - y, pixel)


def mix(scene: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Returns the scene where ``share`` is 0 and the other where it is 1."""
    return scene + share * (other - scene)


def grey(scene: np.ndarray) -> np.ndarray:
    """Returns the mean of red, green and blue, ``[n, 1, height, width]``."""
    return (scene[:, :1] + scene[:, 1:2] + scene[:, 2:3]) / 3


def colour(chance: Chance, dark: float, light: float) -> np.ndarray:
    """Returns a plain colour for each image, ``[n, 3, 1, 1]``: a grey tinted orange or blue."""
    level, blue = chance.between(dark, light), chance.normal(0.1)
    return np.concatenate([single(level * tint) for tint in (1 - blue, 1 + 0 * blue, 1 + blue)], 1)


def resize(scene: np.ndarray, size: int) -> np.ndarray:
    """Returns the images at another size, by linear interpolation."""
    for axis in (2, 3):
        length = scene.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.minimum(at.astype(np.int64), length - 2)
        share = np.expand_dims((at - low).astype(np.float32), tuple(range(1, 4 - axis)))
        scene = mix(scene.take(low, axis), scene.take(low + 1, axis), share)
    return scene


def sample(pictures: np.ndarray, which: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns what pictures show at the given places, by linear interpolation.

    Args:
        pictures: float32 ``[channel, picture, size, size]``.
        which: picture at each place, int64, broadcasts against ``x``.
        x: float32 ``[n, 1, height, width]``; beyond -1 and 1 the edge goes on.
        y: likewise.

    Returns:
        float32 ``[n, channel, height, width]``.
    """
    size = pictures.shape[-1]
    x, y = (np.clip((place + 1) * (size / 2) - 0.5, 0, size - 1) for place in (x, y))
    left, top = (np.minimum(place.astype(np.int64), size - 2) for place in (x, y))
    x, y = x - left.astype(np.float32), y - top.astype(np.float32)
    corner = (which * size + top) * size + left

    def interpolated(picture):  # one channel of all pictures
        upper = mix(picture.take(corner), picture.take(corner + 1), x)
        lower = mix(picture.take(corner + size), picture.take(corner + size + 1), x)
        return mix(upper, lower, y)

    return np.concatenate([interpolated(channel) for channel in pictures], axis=1)
