"""The colours of house numbers: RGB in about [0, 1], float64 ``[n, 3]``."""

from typing import NamedTuple

import numpy as np

from dann_jax.datasets.chance import Chance

__all__ = ["Colours", "colours", "tint"]

_LUMINANCE = np.array([0.3, 0.59, 0.11])
_BLUE, _BROWN = 0.62, 0.07  # places on the circle of hues: plates and sky, wood and brick
_DAYLIGHT = np.array([-0.01, 0.0, 0.02])  # pictures taken outdoors lean to blue


class Colours(NamedTuple):
    """The colours of each image."""

    wall: np.ndarray
    plate: np.ndarray
    ink: np.ndarray  # of the digits
    rim: np.ndarray  # of outlines and other things


def tint(chance: Chance) -> np.ndarray:
    """Returns colours of luminance 0: half of them blue, a third brown, others of any hue."""
    kind, near = chance.between(0, 1), chance.normal(0.04)
    anywhere = chance.between(0, 1)
    hue = np.where(kind < 0.5, _BLUE + near, np.where(kind < 0.85, _BROWN + near, anywhere))
    around = (hue[:, None] + np.array([0, 2 / 3, 1 / 3])) % 1
    rgb = np.clip(np.abs(6 * around - 3) - 1, 0, 1)
    return rgb - (rgb * _LUMINANCE).sum(1, keepdims=True)


def colours(chance: Chance) -> Colours:
    """Returns colours whose ink is lighter or darker than the plate, faintly or strongly."""
    ground = chance.between(0.08, 0.82)
    contrast = 0.20 + 0.50 * chance.between(0, 1) ** 1.3
    ink = ground + np.where(chance.happens(ground), -contrast, contrast)
    ink = np.where((ink < 0) | (ink > 1), 2 * ground - ink, ink)
    cast = _DAYLIGHT + tint(chance) * np.abs(chance.normal(0.03))[:, None]

    def colour(luminance, strength):
        luminance = np.clip(luminance, 0.02, 0.98)
        strength = strength * np.clip(1.3 - 1.4 * luminance, 0.1, 1)  # what is pale is less vivid
        return luminance[:, None] + tint(chance) * strength[:, None] + cast

    return Colours(
        wall=colour(ground + chance.normal(0.22), chance.between(0, 0.15)),
        plate=colour(ground, chance.between(0, np.where(chance.happens(0.3), 0.42, 0.1))),
        ink=colour(ink, chance.between(0, np.where(chance.happens(0.15), 0.5, 0.12))),
        rim=colour(chance.between(0.05, 0.95), chance.between(0, 0.15)),
    )
