"""What light, lens and sensor do to a picture: float32 ``[n, 3, SIDE, SIDE]`` to the same."""

import numpy as np

from dann_jax.datasets.chance import Chance
from dann_jax.datasets.syn_numbers import layers, textures

__all__ = ["blur", "light", "noise"]

_RADIUS = 6  # of the blur in pixels


def light(canvas: np.ndarray, x: np.ndarray, y: np.ndarray, chance: Chance) -> np.ndarray:
    """Returns the canvas under uneven light, some images partly in a shadow.

    Args:
        canvas: the picture.
        x: position to the right of the centre, in units of the digits' height.
        y: position below the centre, likewise.
        chance: where the light comes from.
    """
    slope = x * layers.layer(chance.normal(0.08)) + y * layers.layer(chance.normal(0.08))
    angle = chance.between(0, 2 * np.pi)
    beyond = x * layers.layer(np.cos(angle)) + y * layers.layer(np.sin(angle))
    beyond = (beyond - layers.layer(chance.normal(0.3))) * layers.layer(chance.between(2, 12))
    shade = layers.coverage(beyond) * layers.layer(chance.sometimes(0.2, 0.1, 0.5))
    return canvas * ((1 + slope) * (1 - shade))[:, None]


def blur(canvas: np.ndarray, chance: Chance) -> np.ndarray:
    """Returns the canvas out of focus, moved along one axis, or sharpened too much."""
    sigma = 0.65 + 1.4 * chance.between(0, 1) ** 2
    motion, upright = chance.sometimes(0.2, 0.5, 2.0), chance.happens(0.4)
    halo = chance.sometimes(0.4, 0.0, 0.5)
    for axis, moved in ((2, upright), (3, ~upright)):
        weights = _kernel(np.sqrt(sigma**2 + (moved * motion) ** 2), halo)
        canvas = _convolve(canvas, weights, axis)
    return canvas


def noise(canvas: np.ndarray, strongest: float, chance: Chance) -> np.ndarray:
    """Returns the canvas with noise of a standard deviation up to ``strongest``."""
    side = (layers.SIDE, layers.SIDE)
    pieces = np.lib.stride_tricks.sliding_window_view(textures.grain(), side, (1, 2))
    top, left = (chance.choice(count) for count in pieces.shape[1:3])
    strength = strongest * chance.between(0, 1) ** 2
    return canvas + pieces[:, top, left].swapaxes(0, 1) * layers.planes(strength)


def _kernel(sigma: np.ndarray, halo: np.ndarray) -> np.ndarray:
    """Returns a Gaussian, less ``halo`` times a broader one, as weights ``[n, tap]``."""
    tap = np.arange(-_RADIUS, _RADIUS + 1)
    narrow, broad = (np.exp(-0.5 * (tap / (s * sigma)[:, None]) ** 2) for s in (1.0, 1.6))
    narrow /= narrow.sum(1, keepdims=True)
    broad /= broad.sum(1, keepdims=True)
    return narrow + halo[:, None] * (narrow - broad)


def _convolve(canvas: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    margins = [(0, 0)] * canvas.ndim
    margins[axis] = (_RADIUS, _RADIUS)
    padded = np.pad(canvas, margins, mode="edge")
    total = np.zeros_like(canvas)
    for tap in range(2 * _RADIUS + 1):
        piece = [slice(None)] * canvas.ndim
        piece[axis] = slice(tap, tap + layers.SIDE)
        total += padded[tuple(piece)] * layers.planes(weights[:, tap])
    return total
