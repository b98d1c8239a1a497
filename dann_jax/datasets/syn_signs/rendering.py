"""The images of SYN SIGNS: image i is a function of (seed, stream, i) alone.

Each image looks at a post with a sign: first the signs in their place, then what is behind and
before them, then their light, then the camera. Arrays are those of ``planes``. A camera far
from a sign sees it small: each round of the 43 classes is taken at one resolution and enlarged
or reduced to 40x40.
"""

import functools
import itertools

import numpy as np

from dann_jax.datasets import draws, photographs
from dann_jax.datasets.chance import Chance
from dann_jax.datasets.syn_signs import camera
from dann_jax.datasets.syn_signs.atlas import CLASSES, atlas
from dann_jax.datasets.syn_signs.planes import (
    box,
    colour,
    grey,
    mix,
    resize,
    sample,
    screen,
    single,
    step,
)

__all__ = ["SIZE", "images", "labels"]

SIZE = 40  # pixels, what the network for GTSRB takes

_RESOLUTIONS = (28, 36, 44, 52)  # pixels of an image as it was taken, in turn; all even
_MARGIN = 5  # pixels around a sign in GTSRB's boxes, or
_MARGIN_SHARE = 0.1  # this part of the box where that is more
_PITCH = 2.15  # distance of the signs on a post, in half widths of a sign
_NOTHING = CLASSES  # where a post carries no further sign
_TILE = 128  # pixels of a piece of a photograph
_DRAWS = 110  # uniform numbers that an image needs, besides those of its grain


def labels(start: int, stop: int) -> np.ndarray:
    """Returns the classes of images ``start .. stop - 1``: i modulo 43.

    >>> labels(41, 45)
    array([41, 42,  0,  1])
    """
    return np.arange(start, stop) % CLASSES


def images(seed: int, stream: str, start: int, stop: int) -> np.ndarray:
    """Returns images ``start .. stop - 1`` of a stream.

    Args:
        seed: the data set's seed.
        stream: ``"train"`` or ``"test"``, whose backgrounds come from different pieces of the
            photographs.
        start: first image.
        stop: one past the last image.

    Returns:
        uint8 ``[stop - start, SIZE, SIZE, 3]``.

    Raises:
        ValueError: there is no such stream, or the range is none.
    """
    rounds = range(start - start % CLASSES + CLASSES, stop, CLASSES)
    edges = itertools.pairwise((start, *rounds, stop))
    return np.concatenate([_round(seed, stream, first, last) for first, last in edges])


def _round(seed, stream, start, stop):
    """Returns images ``start .. stop - 1``, which lie in one round of the classes."""
    size = _RESOLUTIONS[start // CLASSES % len(_RESOLUTIONS)]
    chance = Chance(draws.uniform(seed, stream, start, stop, count=_DRAWS))
    grain = draws.uniform(seed, f"{stream} grain", start, stop, count=3 * size * size)
    grain = grain.reshape(-1, 3, size, size).astype(np.float32)
    sign, opacity = _signs(labels(start, stop), size, chance)
    texture = _texture(stream, size, chance)
    scene = _background(texture, grain[:, :1, ::2, ::2], chance)
    scene = _pole(scene, chance)
    scene = scene * (1 - opacity) + _weather(sign, opacity, chance) * _light(texture, chance)
    scene = _leaves(scene, texture, chance)
    scene = _sticker(scene, chance)
    scene = camera.expose(scene, chance)
    scene = camera.blur(scene, chance)
    scene = camera.sense(scene, grain[:, 1] - grain[:, 2], chance)
    return np.round(resize(scene, SIZE) * 255).astype(np.uint8).transpose(0, 2, 3, 1)


def _signs(label, size, chance):
    """Returns what the posts carry: colours times opacity ``[n, 3, ...]``, opacity."""
    scale = (1 - 2 * max(_MARGIN / size, _MARGIN_SHARE)) * chance.between(0.95, 1.12)
    roll = np.deg2rad(chance.normal(4))
    yaw, pitch = np.deg2rad(chance.normal(14)), np.deg2rad(chance.normal(8))
    x, y = screen(2 * size)  # four samples for each pixel
    x, y = x - single(chance.normal(0.035)), y - single(chance.normal(0.035))
    # From the screen to the plane of the sign: turned, foreshortened, nearer on one side.
    nearness = 1 + single(0.25 * np.sin(yaw)) * x + single(0.25 * np.sin(pitch)) * y
    cos, sin = np.cos(roll) / scale, np.sin(roll) / scale
    u = (single(cos / np.cos(yaw)) * x + single(sin / np.cos(yaw)) * y) / nearness
    v = (single(cos / np.cos(pitch)) * y - single(sin / np.cos(pitch)) * x) / nearness
    # There is room for a sign every _PITCH along a post: the labelled one in the middle, on
    # some posts another one above or below, further ones out of sight.
    post = np.full((len(label), 5), _NOTHING)
    post[:, 2] = label
    for k in (1, 3):
        post[:, k] = np.minimum(chance.choice(6 * CLASSES), _NOTHING)
    k = np.clip(np.rint(v / _PITCH), -2, 2)
    room = (k + 2).astype(np.int64) + 5 * np.arange(len(label))[:, None, None, None]
    fine = sample(atlas(), post.ravel()[room], u, v - k * _PITCH)
    rows = fine[..., ::2, :] + fine[..., 1::2, :]
    coarse = (rows[..., ::2] + rows[..., 1::2]) / 4
    return coarse[:, :3], coarse[:, 3:]


@functools.cache
def _tiles(stream):
    """Returns pieces of photographs ``[4, count, _TILE, _TILE]``.

    The fourth channel is the rank of the grey level within the piece, from 0 to 1: a texture
    of the same contrast everywhere.
    """
    pieces = photographs.bundled()
    if stream not in pieces:
        raise ValueError(f"expected a stream of {', '.join(pieces)}, got {stream!r}")
    tiles = np.stack(
        [
            piece[top : top + _TILE, left : left + _TILE]
            for piece in pieces[stream]
            for top in range(0, piece.shape[0] - _TILE + 1, _TILE)
            for left in range(0, piece.shape[1] - _TILE + 1, _TILE)
        ]
    )
    level = tiles.sum(axis=-1).reshape(len(tiles), -1)
    rank = level.argsort(axis=1, kind="stable").argsort(axis=1) / level.shape[1]
    red_green_blue = np.moveaxis(tiles, -1, 0) / 255
    return np.stack([*red_green_blue, rank.reshape(tiles.shape[:3])]).astype(np.float32)


def _texture(stream, size, chance):
    """Returns a part of a piece of a photograph, mirrored or not, ``[n, 4, size, size]``."""
    tiles = _tiles(stream)
    which = chance.choice(tiles.shape[1])[:, None, None, None]
    part = single(chance.between(0.4, 0.95))
    mirrored = single(np.where(chance.happens(0.5), -1, 1))
    x, y = screen(size)
    u = part * mirrored * x + (1 - part) * single(chance.between(-1, 1))
    v = part * y + (1 - part) * single(chance.between(-1, 1))
    return sample(tiles, which, u, v)


def _background(texture, grain, chance):
    """Returns what lies behind the post."""
    size = texture.shape[-1]
    x, y = screen(size)
    # Woods, grass, walls: texture with the colours of a photograph or the opposite ones.
    photograph, rank = texture[:, :3], texture[:, 3:]
    scene = colour(chance, 0.1, 0.8) + single(chance.between(0.3, 1.6)) * (rank - 0.5)
    scene = scene + single(chance.between(-0.8, 0.8)) * (photograph - grey(photograph))
    leaves = resize(grain, size) - 0.5
    scene = scene * (1 + single(chance.sometimes(0.7, 0.3, 2.8)) * rank * leaves)
    # The sky above a line of roofs or trees, brighter than all below.
    horizon = single(np.where(chance.happens(0.3), chance.between(-0.8, 1.6), -9))
    lean = single(chance.between(-0.5, 0.5)) * x
    jagged = single(chance.between(0, 1.5)) * (rank - 0.5)
    scene = mix(scene, colour(chance, 0.6, 1.5), step(horizon + lean + jagged - y, 0.08))
    # Walls, cars, other things with straight edges.
    for _ in range(2):
        there = single(chance.happens(0.4))
        left, top = chance.between(-1.3, 1), chance.between(-1.3, 1)
        right, bottom = left + chance.between(0.1, 1), top + chance.between(0.2, 2)
        scene = mix(scene, colour(chance, 0.1, 1), there * box(size, left, right, top, bottom))
    # Its light is not that of the sign: a dark sign before the sky, a lit one before a wood.
    return np.maximum(scene, 0.02) * single(np.exp(chance.normal(0.7) - 0.3))


def _pole(scene, chance):
    """Returns the scene with the pole of the post, where it shows."""
    there = single(chance.happens(0.6))
    middle, width = chance.normal(0.05), chance.between(0.06, 0.16)
    left, right = middle - width / 2, middle + width / 2
    pole = there * box(scene.shape[-1], left, right, np.zeros_like(left), np.full_like(left, 2))
    return mix(scene, colour(chance, 0.1, 0.8), pole)


def _weather(sign, opacity, chance):
    """Returns the signs with paint that is more or less faded and colourful."""
    fading = single(0.5 * chance.between(0, 1) ** 2)
    sign = mix(sign, single(chance.between(0.4, 0.9)) * opacity, fading)
    return np.maximum(mix(grey(sign), sign, single(chance.between(0.5, 1.2))), 0)


def _slope(size, chance):
    """Returns a plane through 0 in the middle, tilted to any side."""
    x, y = screen(size)
    return single(chance.between(-1, 1)) * x + single(chance.between(-1, 1)) * y


def _light(texture, chance):
    """Returns the light on the plate ``[n, 1, ...]``: uneven, and on some with a shadow."""
    size, rank = texture.shape[-1], texture[:, 3:]
    edge = _slope(size, chance) + single(chance.between(0, 3)) * (rank - 0.5)
    shadow = single(chance.sometimes(0.25, 0.25, 0.7)) * step(edge, 0.15)
    return (1 + 0.3 * _slope(size, chance)) * (1 - shadow)


def _leaves(scene, texture, chance):
    """Returns the scene with leaves before one side of some signs."""
    photograph, rank = texture[:, :3], texture[:, 3:]
    there = single(chance.happens(0.08))
    edge = _slope(scene.shape[-1], chance) - single(chance.between(0.45, 0.9)) + 1.4 * (rank - 0.5)
    return mix(scene, photograph * single(chance.between(0.1, 0.7)), there * step(edge, 0.1))


def _sticker(scene, chance):
    """Returns the scene with a small plain patch on some signs."""
    there = single(chance.happens(0.08))
    left, top = chance.between(-0.6, 0.5), chance.between(-0.6, 0.5)
    right, bottom = left + chance.between(0.06, 0.3), top + chance.between(0.06, 0.3)
    sticker = there * box(scene.shape[-1], left, right, top, bottom)
    return mix(scene, colour(chance, 0.05, 0.9), sticker)
