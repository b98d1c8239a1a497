"""The images of SYN NUMBERS: image i is a function of (seed, stream, i) alone.

Each image looks at a number of one to three digits on a wall or on a plate. Places are given
in three ways: in pixels; as (x, y), to the right of and below the image's centre in units of
the digits' height; as (u, v), likewise in the plane of the number, which is seen at an angle.
"""

from typing import NamedTuple

import numpy as np

from dann_jax.datasets import draws
from dann_jax.datasets.chance import Chance
from dann_jax.datasets.syn_numbers import camera, fonts, palette, textures
from dann_jax.datasets.syn_numbers.layers import SIDE, bilinear, coverage, layer, paint, planes

__all__ = ["images", "labels", "shapes"]

_CLASSES = 10
_BLOCK = 64  # images drawn at once, so that their layers stay within a core's cache
_DRAWS = 174  # uniform numbers that an image needs
_LONGEST = 3  # digits in a number
_LENGTHS = np.array([0.08, 0.58])  # 8 % of the numbers have one digit, 50 % two, the rest three


def labels(start: int, stop: int) -> np.ndarray:
    """Returns the central digits of images ``start .. stop - 1``: i modulo 10.

    >>> labels(8, 12)
    array([8, 9, 0, 1])
    """
    return np.arange(start, stop) % _CLASSES


def images(seed: int, stream: str, start: int, stop: int) -> np.ndarray:
    """Returns images ``start .. stop - 1`` of a stream.

    Args:
        seed: the data set's seed.
        stream: ``"train"`` or ``"test"``.
        start: first image.
        stop: one past the last image.

    Returns:
        uint8 ``[stop - start, SIDE, SIDE, 3]``.

    Raises:
        FileNotFoundError: a font is not installed.
        ValueError: a font is another one than expected, or the range is none.
    """
    return _drawn(_photograph, seed, stream, start, stop)


def shapes(seed: int, stream: str, start: int, stop: int) -> np.ndarray:
    """Returns how much of each pixel of ``images`` is digit, and nothing else about them.

    Args:
        seed: as for ``images``.
        stream: likewise.
        start: likewise.
        stop: likewise.

    Returns:
        float32 ``[stop - start, SIDE, SIDE]`` in [0, 1]; light, blur and boldness left out.

    Raises:
        FileNotFoundError: as for ``images``.
        ValueError: likewise.
    """
    return _drawn(lambda *block: coverage(_scene(*block).depth), seed, stream, start, stop)


def _drawn(draw, seed, stream, start, stop):
    table = draws.uniform(seed, stream, start, stop, count=_DRAWS)
    digits = labels(start, stop)
    blocks = [slice(first, first + _BLOCK) for first in range(0, stop - start, _BLOCK)]
    return np.concatenate([draw(digits[some], Chance(table[some])) for some in blocks])


class _Scene(NamedTuple):
    """Where the number is, in layers ``[n, SIDE, SIDE]`` and numbers ``[n]``."""

    height: np.ndarray  # of the digits in pixels
    x: np.ndarray
    y: np.ndarray
    u: np.ndarray
    v: np.ndarray
    depth: np.ndarray  # how far inside a digit, in pixels; negative outside
    left: np.ndarray  # u at the number's ends
    right: np.ndarray


def _photograph(digits, chance):
    """Returns images uint8 ``[n, SIDE, SIDE, 3]`` whose central digits are the given ones."""
    scene = _scene(digits, chance)
    colour = palette.Colours(*map(planes, palette.colours(chance)))
    canvas = _wall(scene, colour, chance)
    canvas = _plate(canvas, scene, colour, chance)
    canvas = _lettering(canvas, scene, colour, chance)
    stain = planes(palette.tint(chance) * chance.normal(0.04)[:, None])
    canvas = canvas + stain * _texture(textures.clouds(), scene, chance)[:, None]
    canvas = camera.light(canvas, scene.x, scene.y, chance)
    canvas = camera.noise(canvas, 0.04, chance)  # before the blur: of a small part, enlarged
    canvas = camera.blur(canvas, chance)
    canvas = camera.noise(canvas, 0.008, chance)
    canvas = np.clip(np.round(canvas * 255), 0, 255).transpose(0, 2, 3, 1)
    return canvas.astype(np.uint8, order="C")


def _scene(digits, chance):
    height = SIDE * chance.between(0.64, 1.0)
    x, y = _view(height, chance)
    u, v = _tilt(x, y, chance)
    depth, left, right = _number(digits, u, v, chance)
    return _Scene(height, x, y, u, v, depth * layer(height), left, right)


def _view(height, chance):
    """Returns (x, y) of every pixel; the number is not quite in the middle."""
    pixel = np.arange(SIDE, dtype=np.float32) - np.float32((SIDE - 1) / 2)
    x = (pixel[None, None, :] - layer(chance.normal(1.3))) / layer(height)
    y = (pixel[None, :, None] - layer(chance.normal(1.0))) / layer(height)
    return x, y


def _tilt(x, y, chance):
    """Returns (u, v) of every pixel: turned, narrowed, sheared and in perspective."""
    angle = chance.normal(0.09) * np.where(chance.happens(0.1), 3, 1)
    cos, sin = np.cos(angle), np.sin(angle)
    narrowing = chance.between(0.38, 0.9)
    farness = 1 + x * layer(chance.normal(0.08)) + y * layer(chance.normal(0.05))
    v = (y * layer(cos) - x * layer(sin)) / farness
    u = (x * layer(cos / narrowing) + y * layer(sin / narrowing)) / farness
    return u + v * layer(chance.normal(0.10)), v


def _number(digits, u, v, chance):
    """Returns how deep in a digit each pixel lies, and u at the number's left and right end."""
    glyphs = fonts.glyphs()
    face = chance.choice(len(glyphs.width))
    gap = chance.between(0.03, 0.32)
    length = 1 + (chance.between(0, 1)[:, None] >= _LENGTHS).sum(1)
    before = chance.choice(length)
    depth = _glyph(face, digits, u, v)
    ends = []
    for side, count in ((-1, before), (1, length - 1 - before)):
        end = glyphs.width[face, digits] / 2
        for place in range(_LONGEST - 1):
            neighbour = chance.choice(_CLASSES)
            width = glyphs.width[face, neighbour]
            some = np.flatnonzero(count > place)
            middle = layer(side * (end + gap + width / 2))
            its = _glyph(face[some], neighbour[some], u[some] - middle[some], v[some])
            depth[some] = np.maximum(depth[some], its)
            end = np.where(count > place, end + gap + width, end)
        ends.append(side * end)
    return depth, *ends


def _glyph(face, digit, u, v):
    """Returns the distance inside a digit centred at u = v = 0."""
    distance = fonts.glyphs().distance
    middle, last = np.float32((fonts.CELL - 1) / 2), np.float32(fonts.CELL - 1.01)
    column, row = (
        np.clip(place * np.float32(fonts.DIGIT_HEIGHT) + middle, 0, last) for place in (u, v)
    )
    which = face * _CLASSES + digit
    return bilinear(distance.reshape(-1, fonts.CELL, fonts.CELL), which, column, row)


def _texture(bank, scene, chance):
    """Returns a piece of one of the textures, more or less level and at a random scale."""
    angle = chance.normal(0.3)
    scale = SIDE * chance.between(0.5, 2.0) * np.where(chance.happens(0.5), 1.0, 0.5)
    cos, sin = layer(np.cos(angle) * scale), layer(np.sin(angle) * scale)
    column = scene.x * cos + scene.y * sin + layer(chance.between(0, textures.SIDE))
    row = scene.y * cos - scene.x * sin + layer(chance.between(0, textures.SIDE))
    column, row = (_wrapped(place, textures.SIDE) for place in (column, row))
    return bilinear(bank, chance.choice(len(bank)), column, row)


def _wrapped(place, side):
    """Returns places modulo a side; rounding could make ``side`` itself of one just below 0."""
    side = np.float32(side)
    return np.minimum(place - np.floor(place / side) * side, np.nextafter(side, np.float32(0)))


def _material(colour, roughness, scene, chance):
    """Returns a surface of one colour, textured."""
    relief = _texture(textures.walls(), scene, chance)
    return colour + planes(chance.normal(roughness)) * relief[:, None]


def _wall(scene, colour, chance):
    """Returns a wall, some with a frame that cuts off one side and some with a knob."""
    canvas = _material(colour.wall, 0.05, scene, chance)
    angle = chance.choice(4) * (np.pi / 2) + chance.normal(0.15)
    beyond = scene.x * layer(np.cos(angle)) + scene.y * layer(np.sin(angle))
    beyond = (beyond - layer(chance.between(0.2, 0.6))) * layer(scene.height)
    canvas = paint(canvas, colour.rim, coverage(beyond) * layer(chance.happens(0.3)))
    across, down = (place - layer(chance.normal(0.35)) for place in (scene.x, scene.y))
    inside = layer(chance.between(0.04, 0.25)) - np.sqrt(across * across + down * down)
    knob = coverage(inside * layer(scene.height)) * layer(chance.happens(0.1))
    return paint(canvas, colour.ink, knob)


def _plate(canvas, scene, colour, chance):
    """Returns the canvas with the number's ground: in half of the images a plate with edges."""
    middle, half = (scene.left + scene.right) / 2, (scene.right - scene.left) / 2
    across = layer(half + chance.between(0.05, 0.4)) - np.abs(scene.u - layer(middle))
    upright = layer(chance.between(0.55, 0.8)) - np.abs(scene.v)
    inside = np.minimum(across, upright) * layer(scene.height)
    is_plate = chance.happens(0.5)
    cover = np.maximum(coverage(inside), layer(~is_plate))
    canvas = paint(canvas, _material(colour.plate, 0.02, scene, chance), cover)
    line = coverage(inside) * coverage(layer(chance.between(0.5, 2.5)) - inside)
    return paint(canvas, colour.ink, line * layer(is_plate & chance.happens(0.4)))


def _lettering(canvas, scene, colour, chance):
    """Returns the canvas with the digits, some with a shadow, an outline or a relief."""
    depth = scene.depth + layer(chance.normal(0.4))  # bolder or lighter
    cover = coverage(depth)
    shifted = _shifted(cover, chance)
    canvas = canvas * (1 - shifted * layer(chance.sometimes(0.3, -0.25, 0.6)))[:, None]
    outline = layer(chance.sometimes(0.12, 0.8, 2.2))
    canvas = paint(canvas, colour.rim, coverage(depth + outline) * (outline > 0))
    canvas = paint(canvas, _material(colour.ink, 0.03, scene, chance), cover)
    relief = (cover - shifted) * layer(chance.sometimes(0.15, -0.2, 0.2))
    return canvas + relief[:, None]


def _shifted(cover, chance):
    """Returns a layer moved by up to two pixels along each axis."""
    reach = 2
    padded = np.pad(cover, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    views = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), (1, 2))
    top, left = (chance.choice(2 * reach + 1) for _ in range(2))
    return views[np.arange(len(cover)), top, left]
