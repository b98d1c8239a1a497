"""The drawings of the signs, as pixels."""

import functools
import io
from importlib import resources

import numpy as np

__all__ = ["CLASSES", "atlas", "drawing", "names"]

CLASSES = 43

_SIZE = 64  # pixels of a drawing in the atlas
_FINER = 3  # times as many pixels a drawing has before it is reduced


@functools.cache
def names() -> tuple[str, ...]:
    """Returns the names of the drawings by class, ``00_speed_limit_20`` and so on."""
    files = (resources.files(__package__) / "drawings").iterdir()
    return tuple(sorted(file.name[:-4] for file in files if file.name.endswith(".svg")))


def drawing(name: str, size: int) -> np.ndarray:
    """Returns a drawing as pixels.

    Args:
        name: one of ``names()``.
        size: side in pixels.

    Returns:
        uint8 ``[size, size, 4]``: red, green, blue, opacity; transparent outside the sign.
    """
    import resvg_py
    from PIL import Image

    svg = (resources.files(__package__) / "drawings" / f"{name}.svg").read_text("utf-8")
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png)), formats=["PNG"]) as image:
        return np.asarray(image.convert("RGBA"))


@functools.cache
def atlas() -> np.ndarray:
    """Returns all drawings by class, and one with nothing on it.

    Returns:
        float32 ``[4, CLASSES + 1, size, size]`` in [0, 1]: red, green and blue times opacity,
        and opacity; a transparent pixel around each drawing.
    """
    # Whole numbers up to the last line: their sums are the same on every machine.
    fine = np.stack([drawing(name, _FINER * _SIZE) for name in names()]).astype(np.int64)
    opacity = fine[..., 3:]
    fine = np.concatenate([fine[..., :3] * opacity, 255 * opacity], axis=-1)
    coarse = fine.reshape(CLASSES, _SIZE, _FINER, _SIZE, _FINER, 4).sum(axis=(2, 4))
    planes = np.pad(np.moveaxis(coarse, -1, 0), ((0, 0), (0, 1), (1, 1), (1, 1)))
    return (planes / (255 * _FINER) ** 2).astype(np.float32)
