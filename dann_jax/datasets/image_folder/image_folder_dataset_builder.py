"""TFDS builder of a folder of images with a sub-folder for each class."""

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from dann_jax.datasets import image_builder

__all__ = ["Builder"]

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff"),
    ".webp",
)
_UNREADABLE = (".avif", ".heic", ".heif", ".jp2", ".jxl", ".svg")  # images that need more packages
_SPLITS = ("train", "test")
_MOST_PIXELS = 80_000_000  # Pillow warns of more; a crafted file must not fill the memory
_NAME_LETTERS = 40  # of the folder's name that the name of the prepared data repeats
_UNKNOWN = -1


class _Picture(NamedTuple):
    """One file and the name of its class, None where that is not known."""

    path: Path
    class_name: str | None


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
            ValueError: it holds no images, or a class that is not in ``class_names``.
        """
        self.folder = Path(folder).expanduser().resolve()
        if image_size < 1:
            raise ValueError(f"expected image_size of at least 1 pixel, got {image_size}")
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
        for name in folders:
            if name not in self.CLASS_NAMES:
                near = difflib.get_close_matches(name, self.CLASS_NAMES, n=1) or self.CLASS_NAMES
                raise ValueError(
                    f"{self.folder}: expected sub-folders named after the classes "
                    f"{', '.join(self.CLASS_NAMES)}, got {name!r} (nearest: {near[0]}): rename it, "
                    "or take it out if the source has no such class"
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
            state.update(repr((name, class_name, stat.st_size, stat.st_mtime_ns)).encode())
        return state.hexdigest()

    def _image_sets(self, find):
        del find  # nothing to fetch
        return {
            split: ((self._image(picture.path) for picture in some), self._labels[split])
            for split, some in self._pictures.items()
        }

    def _image(self, path):
        from PIL import Image, ImageOps

        size = self.IMAGE_SHAPE[:2]
        try:
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise ValueError(f"{image.width}x{image.height} pixels")
                image.draft("RGB", size)  # a large JPEG is decoded at a fraction of its size
                resized = _rgb(ImageOps.exif_transpose(image)).resize(size, Image.BILINEAR)
        except Exception as error:  # a decoder raises whatever a damaged byte leads it to
            raise ValueError(
                f"{path}: expected an image of at most {_MOST_PIXELS:,} pixels that can be "
                f"decoded, got {error}: replace it, or take it out of the folder"
            ) from error
        return np.asarray(resized)


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
    if all((folder / split).is_dir() for split in _SPLITS):
        return {split: _pictures(folder / split) for split in _SPLITS}
    return {"train": _pictures(folder)}


def _pictures(folder: Path) -> list[_Picture]:
    inside = _inside(folder)
    unlabelled = [_Picture(path, None) for path in inside if _is_picture(path)]
    labelled = []
    for sub in filter(Path.is_dir, inside):
        pictures = [path for path in _inside(sub) if _is_picture(path)]
        deeper = [path for path in _inside(sub) if path.is_dir()]
        if deeper and not pictures:
            raise ValueError(
                f"{folder}: expected a sub-folder of images for each class, got {sub.name}/, "
                f"which holds folders ({deeper[0].name}/): give the folder of the classes, {sub}?"
            )
        labelled += [_Picture(path, sub.name) for path in pictures]
    if unlabelled and labelled:
        raise ValueError(
            f"{folder}: expected either images or sub-folders of images, got both "
            f"({unlabelled[0].path.name} lies beside {labelled[0].class_name}/): move the images "
            "into the sub-folder of their class"
        )
    if not unlabelled and not labelled:
        raise ValueError(
            f"{folder}: expected images ({', '.join(_SUFFIXES)}), alone or in a sub-folder for "
            "each class, got none"
        )
    return unlabelled or labelled


def _inside(folder: Path) -> list[Path]:
    """Returns what a folder holds, apart from what systems hide in it by a dot."""
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    unreadable = [path for path in inside if path.suffix.lower() in _UNREADABLE]
    if unreadable:
        raise ValueError(
            f"{folder}: expected images that can be read ({', '.join(_SUFFIXES)}), got "
            f"{len(unreadable)} others, the first of which is {unreadable[0].name}: convert them "
            "to JPEG or PNG, or take them out of the folder"
        )
    return inside


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and path.is_file()
