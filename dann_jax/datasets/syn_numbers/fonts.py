"""The digits of the fonts that SYN NUMBERS is drawn with, as distance fields."""

import dataclasses
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["CELL", "DIGIT_HEIGHT", "FACES", "PINS", "Face", "Glyphs", "find", "glyphs"]

CELL = 64
"""Side of a glyph's cell in pixels."""

DIGIT_HEIGHT = 40
"""Height in pixels of the digit 0 within its cell; the rest is margin."""

_OVERSAMPLING = 2  # distances are measured on a finer raster than the cell's
_DISTANCE_STEPS = 1024  # distances are rounded to 1 / 1024 of a digit's height


@dataclasses.dataclass(frozen=True)
class Face:
    """A font file inside a Python package.

    Attributes:
        pin: the distribution and its version, as pip takes it.
        path: the file within the installed packages.
    """

    pin: str
    path: str


@dataclasses.dataclass(frozen=True)
class Glyphs:
    """The ten digits of every face.

    Attributes:
        distance: float32 ``[face, digit, CELL, CELL]``, how far inside the digit's outline a
            point lies, negative outside, in units of the digits' height. The digit's box is
            centred from left to right; up and down all digits of a face share one base line.
        width: float32 ``[face, digit]``, in the same units.
    """

    distance: np.ndarray
    width: np.ndarray


_MANIFEST = """\
rendercv-fonts==0.5.1 rendercv_fonts/EB Garamond
    EBGaramond-Regular.ttf
    EBGaramond-Bold.ttf
rendercv-fonts==0.5.1 rendercv_fonts/Gentium Book Plus
    GentiumBookPlus-Regular.ttf
    GentiumBookPlus-Bold.ttf
rendercv-fonts==0.5.1 rendercv_fonts/Lato
    Lato-Regular.ttf
    Lato-Bold.ttf
rendercv-fonts==0.5.1 rendercv_fonts/Open Sans
    OpenSans-Regular.ttf
    OpenSans-Bold.ttf
rendercv-fonts==0.5.1 rendercv_fonts/Open Sauce Sans
    OpenSauceSans-Regular.ttf
    OpenSauceSans-Bold.ttf
rendercv-fonts==0.5.1 rendercv_fonts/Poppins
    Poppins-Regular.ttf
    Poppins-Bold.ttf
rendercv-fonts==0.5.1 rendercv_fonts/Roboto
    Roboto-Regular.ttf
    Roboto-Bold.ttf
    Roboto-BoldItalic.ttf
rendercv-fonts==0.5.1 rendercv_fonts/XCharter
    XCharter-Regular.otf
    XCharter-Bold.otf
font-source-sans-pro==0.0.1 font_source_sans_pro/files
    SourceSansPro-Light.ttf
    SourceSansPro-Regular.ttf
    SourceSansPro-Semibold.ttf
    SourceSansPro-Black.ttf
font-source-serif-pro==0.0.1 font_source_serif_pro/files
    SourceSerifPro-Regular.ttf
    SourceSerifPro-Semibold.ttf
    SourceSerifPro-Black.ttf
    SourceSerifPro-BoldIt.ttf
font-hanken-grotesk==0.0.2 font_hanken_grotesk/files
    HankenGrotesk-Light.otf
    HankenGrotesk-Medium.otf
    HankenGrotesk-Bold.otf
font-manrope==0.0.2 font_manrope/files
    Manrope-Light.ttf
    Manrope-SemiBold.ttf
    Manrope-ExtraBold.ttf
font-caladea==0.0.2 font_caladea/files
    Caladea-Regular.ttf
    Caladea-Bold.ttf
    Caladea-BoldItalic.ttf
font-rhd==0.1.3 font_rhd/files
    RedHatDisplay-Medium.ttf
    RedHatDisplay-Black.ttf
font-fredoka-one==0.0.4 font_fredoka_one/files
    FredokaOne-Regular.ttf
font-fjallaone==0.1.7 font_fjallaone/files
    FjallaOne-Regular.ttf
"""
"""Lines with a package's pin and a folder of it, each followed by names of files."""


def _faces(manifest: str) -> Iterator[Face]:
    pin = folder = ""
    for line in manifest.splitlines():
        if line.startswith(" "):
            yield Face(pin, f"{folder}/{line.strip()}")
        else:
            pin, _, folder = line.partition(" ")


FACES = tuple(_faces(_MANIFEST))
"""The faces: 16 families, most in several weights, some slanted.

All are under the SIL Open Font License 1.1, but Roboto and Caladea under the Apache License
2.0 and XCharter under Bitstream Charter's, which lets anybody use, change and pass it on.
"""

PINS = tuple(dict.fromkeys(face.pin for face in FACES))
"""The distributions of the faces, in the versions that the published results were drawn with."""


def find(face: Face) -> Path:
    """Returns the path of a font file.

    Raises:
        FileNotFoundError: the package is not installed or lacks the file.
    """
    cure = f"pip install {face.pin}"
    package, _, inside = face.path.partition("/")
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0], inside) if folders else None
    if path is None or not path.is_file():
        raise FileNotFoundError(f"expected the font {face.path}, found none: {cure}")
    return path


@functools.cache
def glyphs() -> Glyphs:
    """Returns the digits of all FACES, drawn once per process.

    Raises:
        FileNotFoundError: see ``find``.
        ValueError: a file is no font.
    """
    drawn = [[_draw(face, digit) for digit in "0123456789"] for face in FACES]
    return Glyphs(
        distance=np.array([[distance for distance, _ in face] for face in drawn], np.float32),
        width=np.array([[width for _, width in face] for face in drawn], np.float32),
    )


def _draw(face: Face, digit: str) -> tuple[np.ndarray, float]:
    """Returns the distance field ``[CELL, CELL]`` and the width of one digit."""
    from PIL import Image, ImageDraw, ImageFont
    from scipy import ndimage

    side, height = CELL * _OVERSAMPLING, DIGIT_HEIGHT * _OVERSAMPLING
    path, basic = find(face), ImageFont.Layout.BASIC  # the other engine is not on every machine
    try:
        font = ImageFont.truetype(path, height, layout_engine=basic)
    except OSError as error:
        raise ValueError(
            f"{path}: expected a font, got a file that cannot be read as one ({error}): "
            f"pip install --force-reinstall {face.pin}"
        ) from error
    _, top, _, bottom = font.getbbox("0")
    font = ImageFont.truetype(path, height * height / (bottom - top), layout_engine=basic)
    _, top, _, bottom = font.getbbox("0")
    image = Image.new("L", (side, side))
    place = (side / 4, (side - top - bottom) / 2)
    ImageDraw.Draw(image).text(place, digit, font=font, fill=255)
    inside = np.asarray(image) >= 128
    left, right = np.flatnonzero(inside.any(0))[[0, -1]] + (0, 1)
    inside = np.roll(inside, (side - left - right) // 2, axis=1)
    distance = np.where(
        inside,
        ndimage.distance_transform_edt(inside) - 0.5,
        0.5 - ndimage.distance_transform_edt(~inside),
    )
    distance = distance.reshape(CELL, _OVERSAMPLING, CELL, _OVERSAMPLING).mean((1, 3)) / height
    return np.round(distance * _DISTANCE_STEPS) / _DISTANCE_STEPS, (right - left) / height
