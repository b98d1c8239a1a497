"""Grey textures that walls, plates and noise are made of."""

import functools

import numpy as np

from dann_jax.datasets import draws

__all__ = ["SIDE", "clouds", "grain", "walls"]

SIDE = 128
"""Side of a texture in pixels; it repeats without a seam."""

_SEED = 0  # one bank for all images, which differ by the piece that they show
_STEPS = 256  # values are whole multiples of 1 / 256: the order of a sum does not show
_GRAIN_SIDE = 256
_GREY_SHARE = 0.6  # of the noise's variance that the three channels have in common
_STUCCO = ((1, 1), (2, 2), (4, 4), (8, 8), (12, 12))  # blur of white noise down and across
_CLOUDS = slice(3, 5)  # the stuccos without fine structure
_GRAINED = ((1, 12), (10, 1), (2, 6))
_BRICK = (16, 32)  # height and width
_BOARD = 16  # height
_JOINT = 2  # width of mortar and of the shadow between boards


@functools.cache
def walls() -> np.ndarray:
    """Returns stucco, grained material, bricks, boards and foliage.

    Returns:
        float32 ``[texture, SIDE + 1, SIDE + 1]``, mean 0 and standard deviation 1. The last
        row and column repeat the first.
    """
    from scipy import ndimage

    blurs = _STUCCO + _GRAINED
    white = draws.uniform(_SEED, "walls", 0, len(blurs) + 3, count=SIDE * SIDE) - 0.5
    *whites, bricks, boards, leaves = white.reshape(-1, SIDE, SIDE)
    soft = functools.partial(ndimage.gaussian_filter, mode="wrap")
    textures = [_unit(soft(white, blur)) for white, blur in zip(whites, blurs, strict=True)]
    rows, columns = np.mgrid[:SIDE, :SIDE]
    height, width = _BRICK
    course = rows // height
    along = (columns + course % 2 * (width // 2)) % SIDE
    mortar = (rows % height < _JOINT) | (along % width < _JOINT)
    textures.append(2 * bricks[course, along // width] + 2 * mortar + bricks / 2)
    textures.append(rows % _BOARD / (_BOARD / 2) - (rows % _BOARD < _JOINT) + boards / 2)
    textures.append(np.maximum(_unit(soft(leaves, 2)), 0) + 0.3 * textures[3])
    bank = np.array([_unit(texture) for texture in textures], np.float32)
    return np.pad(bank, ((0, 0), (0, 1), (0, 1)), mode="wrap")


def clouds() -> np.ndarray:
    """Returns those of ``walls()`` that vary slowly: stains and reflections."""
    return walls()[_CLOUDS]


@functools.cache
def grain() -> np.ndarray:
    """Returns the noise of a sensor, white in space, partly the same in the three channels.

    Returns:
        float32 ``[3, 256, 256]``, mean 0 and standard deviation 1.
    """
    shape = (4, 3, _GRAIN_SIDE, _GRAIN_SIDE)  # the sum of three uniform numbers looks normal
    count = _GRAIN_SIDE * _GRAIN_SIDE
    grey, *own = draws.uniform(_SEED, "grain", 0, 12, count=count).reshape(shape).sum(1)
    share = np.sqrt(_GREY_SHARE), np.sqrt(1 - _GREY_SHARE)
    return np.array([_unit(share[0] * grey + share[1] * one) for one in own], np.float32)


def _unit(texture: np.ndarray) -> np.ndarray:
    unit = (texture - texture.mean()) / texture.std()
    return np.round(unit * _STEPS) / _STEPS
