"""What a camera makes of a scene: exposure, blur, noise and the fringes of its mosaic.

Scenes are float32 ``[n, 3, size, size]``, colours from 0 to 1 or above; each function draws
from the chance of each image.
"""

import numpy as np

from dann_jax.datasets.chance import Chance
from dann_jax.datasets.syn_signs.planes import mix, single

__all__ = ["blur", "expose", "sense"]

_REACH = 4  # pixels to either side that a blur mixes
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (down, right)


def expose(scene: np.ndarray, chance: Chance) -> np.ndarray:
    """Returns the scene as bright, tinted and hazy as it reaches the sensor."""
    warmth, green = chance.normal(0.09), chance.normal(0.025)
    gain, haze = np.exp(chance.normal(0.6) - 0.65), 0.16 * chance.between(0, 1) ** 3
    cast = np.concatenate([single(tint) for tint in (1 + warmth, 1 + green, 1 - warmth)], axis=1)
    return cast * (single(gain) * scene + single(haze))


def blur(scene: np.ndarray, chance: Chance) -> np.ndarray:
    """Returns the scene out of focus, and some of it moved along one of four directions."""
    focus = 0.3 + 0.5 * chance.between(0, 1) ** 3
    motion, moved = chance.sometimes(0.2, 0.3, 1.6), chance.choice(len(_DIRECTIONS))
    scene = scene.copy()
    for k, (down, right) in enumerate(_DIRECTIONS):
        # Sigma in steps along the direction, which are longer on the diagonals.
        sigma = np.where(moved == k, motion, 0.0) / np.hypot(down, right)
        if 0 in (down, right):
            sigma = np.sqrt(sigma**2 + focus**2)
        some = np.flatnonzero(sigma)
        scene[some] = _smear(scene[some], sigma[some], down, right)
    return scene


def sense(scene: np.ndarray, grain: np.ndarray, chance: Chance) -> np.ndarray:
    """Returns what a sensor sees: noise, clipping and colours guessed between its pixels.

    Args:
        scene: what reaches the sensor; ``size`` is even.
        grain: noise of standard deviation 0.4, float32 ``[n, size, size]``.
        chance: selects how strong all that is.

    Returns:
        float32 ``[n, 3, size, size]`` in [0, 1].
    """
    size = scene.shape[-1]
    row, column = np.mgrid[:size, :size] % 2
    channel = row + column  # a Bayer mosaic: red 0, green 1 / green 1, blue 2
    shot = single(0.08 * chance.between(0, 1) ** 2)[:, 0]
    read = single(0.004 + 0.02 * chance.between(0, 1) ** 2)[:, 0]
    mosaic = np.choose(channel, np.moveaxis(scene, 1, 0))
    mosaic = mosaic + grain * (read + shot * np.sqrt(np.maximum(mosaic, 0)))
    mosaic = np.clip(mosaic, 0, 1)
    sensed = np.stack([_filled(mosaic * (channel == k), green=k == 1) for k in range(3)], axis=1)
    # A large picture, reduced before it is published, keeps less of that.
    return mix(np.clip(scene, 0, 1), sensed, single(chance.between(0.1, 0.6)))


def _smear(scene, sigma, down, right):
    """Returns the scene convolved with a Gaussian along one direction."""
    steps = np.arange(_REACH + 1)
    weight = np.exp(-0.5 * (steps / sigma[:, None]) ** 2)
    weight = weight / (2 * weight.sum(axis=1, keepdims=True) - 1)
    size = scene.shape[-1]
    padded = np.pad(scene, ((0, 0), (0, 0), (_REACH, _REACH), (_REACH, _REACH)), mode="edge")

    def moved(k):
        top, left = _REACH + k * down, _REACH + k * right
        return padded[..., top : top + size, left : left + size]

    total = single(weight[:, 0]) * scene
    for k in steps[1:]:
        total += single(weight[:, k]) * (moved(k) + moved(-k))
    return total


def _filled(plane, *, green):
    """Returns one colour of the mosaic ``[n, size, size]``, its gaps filled from beside."""
    padded = np.pad(plane, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    middle = slice(1, -1)
    if green:
        beside = padded[:, middle, :-2] + padded[:, middle, 2:]
        return plane + (beside + padded[:, :-2, middle] + padded[:, 2:, middle]) / 4
    rows = padded[:, middle] + (padded[:, :-2] + padded[:, 2:]) / 2
    return rows[..., middle] + (rows[..., :-2] + rows[..., 2:]) / 2
