"""TFDS builder of a folder of images with a sub-folder for each class."""

import difflib
import hashlib
import math
import operator
import os
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from dann_jax.datasets import image_builder, source_files

__all__ = ["Builder", "read_image", "within"]

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_SUFFIXES = (
    *(".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"),
    *(".ppm", ".tif", ".tiff", ".webp"),
)
_UNREADABLE = (  # images that need more packages
    *(".arw", ".avif", ".cr2", ".cr3", ".dng", ".exr", ".heic", ".heics", ".heif", ".ico", ".jp2"),
    *(".jxl", ".nef", ".psd", ".raw", ".svg", ".tga"),
)
_SYSTEM = ("desktop.ini", "thumbs.db")  # what Windows leaves in folders
_SPLITS = ("train", "test")
_MOST_PIXELS = 80_000_000  # Pillow warns of more; a crafted file must not fill the memory
_NAME_LETTERS = 40  # of the folder's name that the name of the prepared data repeats
_UNKNOWN = -1


class _Picture(NamedTuple):
    """One file and the name of its class, None where that is not known."""

    path: Path
    class_name: str | None


class _Content(NamedTuple):
    """What a folder holds, apart from what systems hide in it."""

    pictures: list[Path]
    folders: list[Path]
    others: list[Path]


class Builder(image_builder.ImageBuilder):
    """The images of a folder, resized to squares of one size, in the order of their paths.

    Prepared data are kept for each state of the folder: a file that is added, removed or written
    anew makes another data set.

    Attributes:
        folder: the folder.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Resized with Pillow's bilinear filter."}

    DESCRIPTION = "Images of a folder of the user's own, resized to squares of one size."
    CITATION = ""
    HOMEPAGE = ""
    LICENSE = "That of the images."
    RESIZES = True

    def __init__(
        self, *, folder, image_size: int, class_names: Sequence[str] | None = None, **kwargs
    ):
        """Builds the builder.

        Args:
            folder: the images, see ``datasets.from_folder``.
            image_size: height and width to which they are resized, pixels.
            class_names: which classes there may be, in the order of their labels; None for the
                sub-folders in alphabetical order.
            **kwargs: those of ``ImageBuilder``.

        Raises:
            NotADirectoryError: there is no such folder.
            ValueError: it holds no images, something that would be left out in silence, or a
                class that is not in ``class_names``.

        Warns:
            UserWarning: it holds files that are not images by their names.
        """
        self.folder = Path(os.path.realpath(os.path.expanduser(folder)))
        image_size, most = operator.index(image_size), math.isqrt(_MOST_PIXELS)
        if not 1 <= image_size <= most:
            raise ValueError(f"expected image_size from 1 to {most:,} pixels, got {image_size:,}")
        if isinstance(class_names, str) or len(set(class_names or ())) < len(class_names or ()):
            raise ValueError(f"expected a list of different class_names, got {class_names!r}")
        _check_name(self.folder.parent, self.folder.name)
        self._pictures = _splits(self.folder)
        everything = [picture for some in self._pictures.values() for picture in some]
        folders = sorted({p.class_name for p in everything if p.class_name is not None})
        self.CLASS_NAMES = tuple(class_names) if class_names is not None else tuple(folders)
        self._check_classes(folders)
        self.IMAGE_SHAPE = (image_size, image_size, 3)
        self._labels = {split: self._labels_of(some) for split, some in self._pictures.items()}
        self.CLASS_COUNTS = {
            split: tuple(labels.count(c) for c in range(len(self.CLASS_NAMES)))
            for split, labels in self._labels.items()
        }
        self.UNLABELLED = {split: labels.count(_UNKNOWN) for split, labels in self._labels.items()}
        name = f"{self.folder.name[:_NAME_LETTERS]}-{self._state(everything)}"
        config = tfds.core.BuilderConfig(name=name, version="1.0.0", description=self.DESCRIPTION)
        super().__init__(config=config, **kwargs)
        arguments = {"folder": folder, "image_size": image_size, "class_names": class_names}
        self._original_state |= arguments
        del self._original_state["config"]

    def files(self, split: str) -> list[str]:
        """Returns the paths of a split's images within the folder, in their order."""
        return [p.path.relative_to(self.folder).as_posix() for p in self._pictures[split]]

    def _create_builder_config(self, builder_config, version=None):
        # TFDS warns of a configuration that the class does not list; here each folder is one.
        return builder_config

    def _check_classes(self, folders):
        spelt: dict[str, str] = {}
        for name in [*self.CLASS_NAMES, *folders]:
            if (other := spelt.setdefault(_plain(name), name)) != name:
                whose = "" if other in folders else f" ({other!r} is a class of the source)"
                raise ValueError(
                    f"{self.folder}: expected one spelling of a class, got {other!r} and {name!r}: "
                    f"rename one of the sub-folders, or put their images together{whose}"
                )
        unknown = [name for name in folders if name not in self.CLASS_NAMES]
        if unknown:
            near = difflib.get_close_matches(unknown[0], self.CLASS_NAMES, n=1) or self.CLASS_NAMES
            raise ValueError(
                f"{self.folder}: expected sub-folders named after the classes "
                f"{', '.join(self.CLASS_NAMES)}, got {', '.join(map(repr, unknown))} (nearest: "
                f"{near[0]}): rename what is spelt in another way, and take out what the source "
                "does not have, since the methods know no other classes"
            )

    def _labels_of(self, pictures):
        numbers = {name: number for number, name in enumerate(self.CLASS_NAMES)}
        return [numbers.get(picture.class_name, _UNKNOWN) for picture in pictures]

    def _state(self, pictures):
        """Returns a name for what the folder holds now and how it is read."""
        state = hashlib.blake2b(digest_size=8)
        state.update(repr((str(self.folder), self.IMAGE_SHAPE, self.CLASS_NAMES)).encode())
        for path, class_name in pictures:
            stat = path.stat()
            name = path.relative_to(self.folder).as_posix()
            # The times of the content may be set, those of the file itself may not.
            times = stat.st_mtime_ns, stat.st_ctime_ns
            state.update(repr((name, class_name, stat.st_size, stat.st_ino, *times)).encode())
        return state.hexdigest()

    def _image_sets(self, find):
        del find  # nothing to fetch
        return {
            split: (
                (read_image(picture.path, self.IMAGE_SHAPE[:2]) for picture in some),
                self._labels[split],
            )
            for split, some in self._pictures.items()
        }


def within(folder: Path, others: list[Path]) -> list[Path]:
    """Returns the paths of all images in a folder and its sub-folders, hidden ones aside.

    Args:
        folder: the folder.
        others: a list to which the files are added that are not images by their names.

    Raises:
        ValueError: there are images that cannot be read, or a folder that cannot.
    """
    inside = _inside(folder, others)
    return inside.pictures + [path for sub in inside.folders for path in within(sub, others)]


def read_image(path: Path, size: tuple[int, int], *, enlarge: bool = True) -> np.ndarray:
    """Returns an image file as screens show it, resized.

    Args:
        path: the file.
        size: height and width, pixels.
        enlarge: whether an image that is smaller than that is resized too, or stays as it is.

    Returns:
        uint8 ``[height, width, 3]``.

    Raises:
        ValueError: the file cannot be decoded, or has too many pixels.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return np.asarray(_decoded(path, size, enlarge))
    except Exception as error:  # a decoder raises whatever a damaged byte leads it to
        why = source_files.reason(error).removesuffix(f" {str(path)!r}")
        raise ValueError(
            f"{path}: expected an image that can be decoded, of at most {_MOST_PIXELS:,} pixels "
            f"({why}): replace it, or leave it out"
        ) from error


def _decoded(path, size, enlarge):
    from PIL import Image, ImageOps

    with Image.open(path, formats=_FORMATS) as image:
        image.verify()  # the checksums of a PNG, which decoding alone may not reach
    with Image.open(path, formats=_FORMATS) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels")
        image.draft("RGB", size)  # a large JPEG is decoded at a fraction of its size
        shown = _rgb(ImageOps.exif_transpose(image))
        is_smaller = shown.height <= size[0] and shown.width <= size[1]
        return shown if is_smaller and not enlarge else shown.resize(size, Image.BILINEAR)


def _plain(name):
    """Returns a name without what makes two spellings of it: case, white space, composition."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _rgb(image):
    """Returns an image in colour as screens show it: on white where transparent, 16 bits as 8."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("F", "I"):
        raise ValueError(f"pixels of type {image.mode}, whose white is not known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _splits(folder: Path) -> dict[str, list[_Picture]]:
    """Returns the pictures of each split in the order of their paths."""
    if not folder.is_dir():
        raise NotADirectoryError(
            f"expected a folder with a sub-folder of images for each class, got {folder}, which "
            "is not a folder"
        )
    others: list[Path] = []
    if all((folder / split).is_dir() for split in _SPLITS):
        inside = _inside(folder, others)
        beside = [*inside.pictures, *(sub for sub in inside.folders if sub.name not in _SPLITS)]
        if beside:
            raise ValueError(
                f"{folder}: expected train/ and test/, which are its splits, alone, got "
                f"{beside[0].name} beside them: take it out, or rename the two if they are classes"
            )
        splits = {split: _pictures(folder / split, others) for split in _SPLITS}
    else:
        splits = {"train": _pictures(folder, others)}
    if others:
        count = f"{len(others)} file{'s' * (len(others) > 1)}"
        warnings.warn(
            f"{folder}: left out {count} not of an image by name ({', '.join(_SUFFIXES)}), the "
            f"first of which is {others[0].relative_to(folder)}",
            stacklevel=4,
        )
    return splits


def _pictures(folder: Path, others: list[Path]) -> list[_Picture]:
    inside = _inside(folder, others)
    labelled = [
        _Picture(path, sub.name)
        for sub in inside.folders
        for path in _of_class(folder, sub, others)
    ]
    if inside.pictures and labelled:
        raise ValueError(
            f"{folder}: expected either images or sub-folders of images, got both "
            f"({inside.pictures[0].name} lies beside {labelled[0].class_name}/): move the images "
            "into the sub-folder of their class"
        )
    if not inside.pictures and not labelled:
        raise ValueError(
            f"{folder}: expected images ({', '.join(_SUFFIXES)}), alone or in a sub-folder for "
            "each class, got none"
        )
    return labelled or [_Picture(path, None) for path in inside.pictures]


def _of_class(folder: Path, sub: Path, others: list[Path]) -> list[Path]:
    """Returns the pictures of a class, or raises where some or all of them would be left out."""
    if sub.name != sub.name.strip() or not sub.name.isprintable():
        raise ValueError(
            f"{folder}: expected names of classes without white space around them and characters "
            f"that cannot be printed, got {sub.name!r}: rename the sub-folder"
        )
    inside = _inside(sub, others)
    if inside.folders:
        deeper = f"{sub.name}/, which holds folders ({inside.folders[0].name}/)"
        raise ValueError(
            f"{folder}: expected a sub-folder of images for each class, got {deeper}: "
            + (
                "move the images up or take the folders out"
                if inside.pictures
                else f"give the folder of the classes, {sub}?"
            )
        )
    if not inside.pictures:
        got = f"{len(inside.others)} other files" if inside.others else "nothing, or hidden files"
        raise ValueError(
            f"{folder}: expected images ({', '.join(_SUFFIXES)}) in each sub-folder, got "
            f"{sub.name}/ with {got}: put images into it, or take it out"
        )
    return inside.pictures


def _inside(folder: Path, others: list[Path]) -> _Content:
    """Returns what a folder holds, and adds the files that are not images to ``others``."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ValueError(
            f"{folder}: expected a folder that can be read, got {error.strerror}: change its "
            "permissions, or take it out"
        ) from error
    unreadable = [path for path in paths if path.suffix.lower() in _UNREADABLE]
    if unreadable:
        raise ValueError(
            f"{folder}: expected images that can be read ({', '.join(_SUFFIXES)}), got "
            f"{len(unreadable)} others, the first of which is {unreadable[0].name}: convert them "
            "to JPEG or PNG, or take them out of the folder"
        )
    content = _Content([], [], [])
    for path in paths:
        if not path.name.isascii():
            _check_name(folder, path.name)
        if path.is_dir():
            content.folders.append(path)
        elif path.suffix.lower() not in _SUFFIXES:
            content.others.append(path)
        elif path.is_file():
            content.pictures.append(path)
        else:
            raise ValueError(
                f"{path}: expected an image, got a link to a file that is not there, or no file: "
                "mend it, or take it out of the folder"
            )
    content.others[:] = [path for path in content.others if path.name.lower() not in _SYSTEM]
    others += content.others
    return content


def _check_name(folder: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{ascii(str(folder))}: expected names in UTF-8, got {ascii(name)}: rename it"
        ) from None
