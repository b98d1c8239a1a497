"""The digits of the fonts that SYN NUMBERS is drawn with, as distance fields."""

import dataclasses
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["CELL", "DIGIT_HEIGHT", "FACES", "Face", "Glyphs", "find", "glyphs"]

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
        sha256: digest of the file.
    """

    pin: str
    path: str
    sha256: str


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
    ba0e6b4fbea9f133d38928d7d7728c07a9dc7c2af20a757a2c5658e1afaf651d EBGaramond-Regular.ttf
    392e8b40f7af6ff352adf3c128501bacb286c58bd5e3e0e5adccda5d78583f75 EBGaramond-Bold.ttf
rendercv-fonts==0.5.1 rendercv_fonts/Gentium Book Plus
    8373acabbb4feeb0fd6f51360dce34c9ebaf0c3f1d17ad71e0c0dfe7c14408d6 GentiumBookPlus-Regular.ttf
    9e5ca8355fa6003cfc127d3a46189d3782843bfd46105bb0da66975bf638db5b GentiumBookPlus-Bold.ttf
rendercv-fonts==0.5.1 rendercv_fonts/Lato
    e82542aed8293f49fc83c4aaea566b1f6b4fc7a9ab5da11e6fb9bc0973b5324b Lato-Regular.ttf
    d7f0b7f2570f2f28b504da1181b4d71b1420b10be2c4fd690927f1c8ee3b19c3 Lato-Bold.ttf
rendercv-fonts==0.5.1 rendercv_fonts/Open Sans
    6530480277da62efde047eb26e78a7e532d1cfaeec91603e68d63876b9669f0d OpenSans-Regular.ttf
    bc73c45e5810a0971ebeaef4eb6c35dec84607dbe02da6757f9f43d958b6da5f OpenSans-Bold.ttf
rendercv-fonts==0.5.1 rendercv_fonts/Open Sauce Sans
    dc689bef527eb415e9b30f91b7445bb6f26b79e9867c0070bce8be14a3984f74 OpenSauceSans-Regular.ttf
    60c48a0bd52f67fb338eca82537439eaa0c300870159310cab9f3b618424f5f1 OpenSauceSans-Bold.ttf
rendercv-fonts==0.5.1 rendercv_fonts/Poppins
    707fdc5c8bab57a90061c6a8ed7b70d5ffb82fc810e994e79f90bace890c255a Poppins-Regular.ttf
    7219547ee25334cbac0fe4b3acf0bf631e48ebb622c71af038edaaa652c60875 Poppins-Bold.ttf
rendercv-fonts==0.5.1 rendercv_fonts/Roboto
    92a62766331140ca5bc8bba52028422d276061ad5717c1ac508a118b619c6aec Roboto-Regular.ttf
    8e8cb127554bdd9c8685788dce557e2725a9b62e183d9151fb506b3007ca6a07 Roboto-Bold.ttf
    4b453a2dea3efe2b751251e33698fb3c9861b7d6669c90eef632ec8fd133d9ed Roboto-BoldItalic.ttf
rendercv-fonts==0.5.1 rendercv_fonts/XCharter
    e5d22b0f417a0a3e22ee2d7ef10d2e8bba1397066ac3de44e3e3b34e6e56c601 XCharter-Regular.otf
    baf595556bbd65749a83b41034c900a8d7f8f5b2a1aa24314319501fdcacce9b XCharter-Bold.otf
font-source-sans-pro==0.0.1 font_source_sans_pro/files
    8d9cd89e3cdbcc08f95fea442b3ce366958ba30104d678e9604126e5fd2565d8 SourceSansPro-Light.ttf
    b77f3a700edd0fc0dec73258f882d5c3926c77f5caf6800a201d2166568d2309 SourceSansPro-Regular.ttf
    b440fd42fd5a54e1b252731deca9cc86604bee6ffa99281f5874c3476eb17eae SourceSansPro-Semibold.ttf
    1e59595ebe0445db9bcea5de0d0fa2e08766809d1c97789d938b71a77ecf3cf5 SourceSansPro-Black.ttf
font-source-serif-pro==0.0.1 font_source_serif_pro/files
    b4e0771f06d8f6573a535312762b0b2f4fb9a03372239e39b0e7cf203da8ea9a SourceSerifPro-Regular.ttf
    83cc8531f284efb749bbb54f9fb4a0e0450cba918a41df76fabb3a42f2f95899 SourceSerifPro-Semibold.ttf
    3eb2883217d013b370c4a69e467616dcb2075f40d8d5231285e0a83817481ad9 SourceSerifPro-Black.ttf
    ea5d428577132b83195c5349b429125d5c5041406663ae2d30c258467c3092b5 SourceSerifPro-BoldIt.ttf
font-hanken-grotesk==0.0.2 font_hanken_grotesk/files
    c719ee8957b9da8fcf4dc3d571b134cd135ee632e5360253a0de43fabf9f980d HankenGrotesk-Light.otf
    42e2489d8759d07fb633acc30671030edf7fcf22baaf89291e6d3d9a8a4f94e3 HankenGrotesk-Medium.otf
    5079474afed8e7099e802369a4d5dce8a83da3e5cb35a0a65054cafe3a9cbb80 HankenGrotesk-Bold.otf
font-manrope==0.0.2 font_manrope/files
    d18115bf398470317b7d1daa4c1c8f23032dcc4b9264a812eb0a7600a24d1adc Manrope-Light.ttf
    9544fef8e59d1a36a19ecba1b8563f9b3395a7ffd3cea7c12267155937dcee36 Manrope-SemiBold.ttf
    24454f098114668e002b020d640fa905d34d1f130356996fb6cb253bdd2377b4 Manrope-ExtraBold.ttf
font-caladea==0.0.2 font_caladea/files
    d2f6cad33f191e65b68bd74e6d4f7708080a41b32db635866109df3090265d91 Caladea-Regular.ttf
    74eda4fc5ffba0d8dc4aa76d41499f5ab76168d9ed6141c6417064c6244db9b6 Caladea-Bold.ttf
    f47a35ad6cd0efa9914d93f9d03c93e30c55da43674bccfabac73b3c0d522c01 Caladea-BoldItalic.ttf
font-rhd==0.1.3 font_rhd/files
    2bc25bcfdf53121cf56fb54ac21417c363be8a8ba4f2ee55573d1da677ebb704 RedHatDisplay-Medium.ttf
    15d4ace0fec1655494444d972b55b9830191c272244e74f1665adafe9e1de249 RedHatDisplay-Black.ttf
font-fredoka-one==0.0.4 font_fredoka_one/files
    a2fbb1416510efe20330272bc182d667efe1507db5faecde893084fb15953973 FredokaOne-Regular.ttf
font-fjallaone==0.1.7 font_fjallaone/files
    172993e1f42c8580034447e217a8f1c138256b74d5677ccae38173144a67ffd6 FjallaOne-Regular.ttf
"""
"""Lines with a package's pin and a folder of it, each followed by SHA-256 and names of files."""


def _faces(manifest: str) -> Iterator[Face]:
    pin = folder = ""
    for line in manifest.splitlines():
        first, _, second = line.strip().partition(" ")
        if line.startswith(" "):
            yield Face(pin, f"{folder}/{second}", first)
        else:
            pin, folder = first, second


FACES = tuple(_faces(_MANIFEST))
"""The faces: 16 families, most in several weights, some slanted.

All are under the SIL Open Font License 1.1, but Roboto and Caladea under the Apache License
2.0 and XCharter under Bitstream Charter's, which lets anybody use, change and pass it on.
"""


def find(face: Face) -> Path:
    """Returns the path of a font file after checking its content.

    Raises:
        FileNotFoundError: the package is not installed or lacks the file.
        ValueError: the file is another one than expected.
    """
    cure = f"pip install {face.pin}"
    package, _, inside = face.path.partition("/")
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0], inside) if folders else None
    if path is None or not path.is_file():
        raise FileNotFoundError(f"expected the font {face.path}, found none: {cure}")
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    if got != face.sha256:
        raise ValueError(
            f"{path}: expected the font with SHA-256 {face.sha256}, got one with {got}: {cure}"
        )
    return path


@functools.cache
def glyphs() -> Glyphs:
    """Returns the digits of all FACES, drawn once per process.

    Raises:
        FileNotFoundError: see ``find``.
        ValueError: see ``find``.
    """
    drawn = [[_draw(path, digit) for digit in "0123456789"] for path in map(find, FACES)]
    return Glyphs(
        distance=np.array([[distance for distance, _ in face] for face in drawn], np.float32),
        width=np.array([[width for _, width in face] for face in drawn], np.float32),
    )


def _draw(path: Path, digit: str) -> tuple[np.ndarray, float]:
    """Returns the distance field ``[CELL, CELL]`` and the width of one digit."""
    from PIL import Image, ImageDraw, ImageFont
    from scipy import ndimage

    side, height = CELL * _OVERSAMPLING, DIGIT_HEIGHT * _OVERSAMPLING
    basic = ImageFont.Layout.BASIC  # the other layout engine is not on every machine
    font = ImageFont.truetype(path, height, layout_engine=basic)
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
