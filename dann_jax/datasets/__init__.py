"""Labelled images of the paper's domains, as arrays and as TFDS builders without TensorFlow.

``digits`` and ``digits_m`` come with scikit-learn, ``syn_numbers`` and ``syn_signs`` are drawn
here: they need no download. The others come from published files, which are read from
``manual_dir`` or else downloaded.

    source = load("syn_signs", "train")
    target = load("gtsrb", "train")
    labelled = load("gtsrb", "train", per_class=10, key=0)  # 430 images; also split "labelled"

Your own images go into a folder with a sub-folder for each class:

    source = arrays(from_folder("photographs", image_size=32), "train")

The TFDS builder gives records instead of arrays; record i is image i:

    records = prepare("mnist").as_data_source("train")
    records[0]["image"], records[0]["label"]

or, for a data set that is prepared already, TFDS alone. The version is part of the name, since
TFDS knows another mnist:

    tfds.data_source("mnist:1.0.0", split="train", data_dir=default_data_dir())
"""

import contextlib
import difflib
import importlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dann_jax import extras
from dann_jax.datasets.image_sets import ImageSet, cached, digest, held_out, subset

if TYPE_CHECKING:
    from dann_jax.datasets.image_builder import ImageBuilder

__all__ = [
    "ImageSet",
    "arrays",
    "builder",
    "default_data_dir",
    "digest",
    "find",
    "from_folder",
    "held_out",
    "is_folder",
    "load",
    "names",
    "prepare",
    "subset",
]

_NAMES = (
    "digits",
    "digits_m",
    "gtsrb",
    "mnist",
    "mnist_m",
    "office31/amazon",
    "office31/dslr",
    "office31/webcam",
    "svhn",
    "syn_numbers",
    "syn_numbers_published",
    "syn_signs",
    "usps",
)
_DATA_DIR_VARIABLE = "DANN_JAX_DATA"


def names() -> tuple[str, ...]:
    """Returns the names of the data sets, in alphabetical order."""
    return _NAMES


def default_data_dir() -> Path:
    """Returns the folder of prepared data: ``$DANN_JAX_DATA``, or else ``~/.cache/dann_jax``."""
    return Path(os.environ.get(_DATA_DIR_VARIABLE) or "~/.cache/dann_jax").expanduser()


def builder(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
) -> "ImageBuilder":
    """Returns the TFDS builder of a data set, which may or may not be prepared yet.

    Args:
        name: one of ``names()``.
        data_dir: folder of prepared data; None for ``default_data_dir()``.
        manual_dir: folder with published files already on disk; None to download them.

    Returns:
        A ``tfds.core.GeneratorBasedBuilder``.

    Raises:
        ValueError: there is no data set of that name.
        ModuleNotFoundError: the extra ``data`` is not installed.
    """
    if name not in _NAMES:
        near = difflib.get_close_matches(name, _NAMES, cutoff=0.4)
        raise ValueError(
            f"expected the name of a data set ({', '.join(_NAMES)}), got {name!r}"
            + (f": did you mean {', '.join(near)}?" if near else "")
        )
    name, _, config = name.partition("/")
    options = {"config": config} if config else {}
    return _builder(name)(data_dir=_root(data_dir), manual_dir=manual_dir, **options)


def from_folder(
    folder: str | os.PathLike,
    *,
    image_size: int,
    class_names: Sequence[str] | None = None,
    data_dir: str | os.PathLike | None = None,
) -> "ImageBuilder":
    """Returns the TFDS builder of a folder of images, which may or may not be prepared yet.

    The classes are the names of the sub-folders. A folder with images and no sub-folders holds
    images of unknown label, -1. If there are sub-folders ``train`` and ``test``, each holds a
    split; otherwise all images are the split ``train``. Hidden files do not count. Nothing else is
    left out in silence: images of other kinds, sub-folders without images and folders within
    those of the classes are refused, and files that are not images are warned of.

    Args:
        folder: the images: JPEG, PNG, BMP, GIF, PPM, TIFF or WebP; HEIC, AVIF and others are
            refused. Of several frames or pages, the first counts.
        image_size: height and width to which they are resized, pixels.
        class_names: which classes there may be, in the order of their labels; some may have no
            images. None for the sub-folders in alphabetical order.
        data_dir: folder of prepared data; None for ``default_data_dir()``.

    Returns:
        A ``tfds.core.GeneratorBasedBuilder``.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: it holds no images, something that would be left out in silence, or a class
            that is not in ``class_names``.
    """
    return _builder("image_folder")(
        folder=folder,
        image_size=image_size,
        class_names=class_names,
        data_dir=_root(data_dir),
    )


def is_folder(name: str) -> bool:
    """Returns whether a domain is a folder of images rather than a data set with a name.

    What looks like a mistyped name is none.

    Args:
        name: a name or a path.
    """
    if name in _NAMES:
        return False
    mistyped = difflib.get_close_matches(name, _NAMES, cutoff=0.8)
    return Path(os.path.expanduser(name)).is_dir() or (os.sep in name and not mistyped)


def find(
    name: str,
    *,
    image_size: int,
    class_names: Sequence[str] | None = None,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
) -> "ImageBuilder":
    """Returns the TFDS builder of a data set by its name, or of a folder of images by its path.

    Args:
        name: one of ``names()``, or a folder.
        image_size: as in ``from_folder``; a data set has a size of its own.
        class_names: as in ``from_folder``.
        data_dir: folder of prepared data; None for ``default_data_dir()``.
        manual_dir: folder with published files already on disk; None to download them.

    Raises:
        ValueError: there is no data set of that name, or see ``from_folder``.
        NotADirectoryError: there is no such folder.
    """
    if is_folder(name):
        return from_folder(name, image_size=image_size, class_names=class_names, data_dir=data_dir)
    try:
        return builder(name, data_dir=data_dir, manual_dir=manual_dir)
    except ValueError as error:
        if name in _NAMES:
            raise
        raise ValueError(f"{error}; a folder of images is given by its path") from error


def prepare(
    name: "str | ImageBuilder",
    *,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    progress: bool = False,
) -> "ImageBuilder":
    """Returns the TFDS builder of a data set, prepared on disk if it was not yet.

    TFDS writes to a temporary folder and renames it when all is written and counted. So an
    interrupted preparation is never mistaken for a finished one, and the next one removes what it
    left. Several processes may prepare the same data set at once: one does it, the others wait.

    Args:
        name: one of ``names()``, or a builder, which knows its folders.
        data_dir: folder of prepared data; None for ``default_data_dir()``.
        manual_dir: folder with published files already on disk; None to download them.
        progress: whether to show progress bars.

    Returns:
        A prepared ``tfds.core.GeneratorBasedBuilder``.

    Raises:
        ValueError: no such data set, a published file is not as published, or the prepared folder
            is damaged.
        FileNotFoundError: a published file is neither on disk nor to be downloaded.
        NotADirectoryError: ``manual_dir`` is not a folder.
        OSError: ``data_dir`` cannot be written, for example because its disk is full.
    """
    built = name
    if isinstance(built, str):
        built = builder(built, data_dir=data_dir, manual_dir=manual_dir)
    if not built.is_prepared():
        built.progress = progress
        with _without_tfds_bars(), extras.needs(built.name):
            built.download_and_prepare()
        built.is_prepared()  # reads what describes it, if another process was first
    return built


def load(
    name: str,
    split: str,
    *,
    per_class: int | None = None,
    key: int = 0,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    progress: bool = False,
) -> ImageSet:
    """Returns a whole split in memory, prepared first if it was not yet.

    Args:
        name: one of ``names()``.
        split: see ``arrays``.
        per_class: see ``arrays``.
        key: see ``arrays``.
        data_dir: folder of prepared data; None for ``default_data_dir()``.
        manual_dir: folder with published files already on disk; None to download them.
        progress: whether to show progress bars.

    Returns:
        The images and labels in the data set's order.

    Raises:
        ValueError: no such data set or split, or a published file is not as published.
        FileNotFoundError: a published file is neither on disk nor to be downloaded.
        NotADirectoryError: ``manual_dir`` is not a folder.
    """
    built = builder(name, data_dir=data_dir, manual_dir=manual_dir)
    return arrays(built, split, per_class=per_class, key=key, progress=progress)


def arrays(
    built: "ImageBuilder",
    split: str,
    *,
    per_class: int | None = None,
    key: int = 0,
    progress: bool = False,
) -> ImageSet:
    """Returns a whole split of a builder's data set in memory, prepared first if it was not yet.

    The arrays are kept as ``.npy`` beside the prepared records, in the folder of the builder's
    version, and later calls read those. Each call verifies their SHA-256; arrays that are damaged
    are made anew from the records, with a warning.

    Args:
        built: from ``builder`` or ``from_folder``.
        split: ``"train"`` or ``"test"``, or a named part of one: ``"labelled"`` of gtsrb (10
            images a class), ``"split_0"`` to ``"split_4"`` of office31 (20 or 8 a class, or all
            of a class that has fewer).
        per_class: as many images of each class, drawn with ``key`` (see ``subset``); None for
            all.
        key: which draw.
        progress: whether to show progress bars if the data set is to be prepared.

    Returns:
        The images and labels in the data set's order.

    Raises:
        ValueError: no such split, fewer images of a class than asked for, a published file is not
            as published, the prepared records are damaged, or the images do not fit in memory.
        FileNotFoundError: a published file is neither on disk nor to be downloaded.
        NotADirectoryError: ``manual_dir`` of the builder is not a folder.
    """
    known = (*built.CLASS_COUNTS, *built.SUBSETS)
    if split not in known:
        raise ValueError(f"expected a split of {built.name} ({', '.join(known)}), got {split!r}")
    if split in built.SUBSETS:
        named = built.SUBSETS[split]
        image_set = arrays(built, named.split, progress=progress)
        chosen = subset(image_set.label, named.per_class, named.key, at_most=named.at_most)
        image_set = ImageSet(image_set.image[chosen], image_set.label[chosen])
    else:
        _check_memory(built, split)
        built = prepare(built, progress=progress)
        folder = Path(built.data_dir) / "arrays"
        image_set = cached(folder, split, built.digest(split), lambda: built.read(split))
    if per_class is None:
        return image_set
    chosen = subset(image_set.label, per_class, key)
    return ImageSet(image_set.image[chosen], image_set.label[chosen])


def _check_memory(built, split):
    size = sum(built.CLASS_COUNTS[split]) + built.UNLABELLED.get(split, 0)
    needed, memory = size * math.prod(built.IMAGE_SHAPE), os.sysconf("SC_PHYS_PAGES")
    memory *= os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise ValueError(
            f"{split} of {built.name} is {size:,} images of {built.IMAGE_SHAPE}, which take "
            f"{needed / 1e9:,.1f} GB of the {memory / 1e9:,.1f} GB of memory: make image_size "
            "(--image-size) smaller, or leave the images on disk (--streaming)"
        )


def _builder(name: str) -> type["ImageBuilder"]:
    with extras.needs(__name__):
        return importlib.import_module(f"{__name__}.{name}.{name}_dataset_builder").Builder


@contextlib.contextmanager
def _without_tfds_bars():
    """Hides the bars of TFDS: that of ``ImageBuilder`` knows how long preparation will take."""
    from tensorflow_datasets.core.utils import tqdm_utils

    before = tqdm_utils._active  # TFDS has a switch but no function that reads it
    tqdm_utils.disable_progress_bar()
    try:
        yield
    finally:
        tqdm_utils.display_progress_bar(before)


def _root(data_dir: str | os.PathLike | None) -> Path:
    return default_data_dir() if data_dir is None else Path(os.path.expanduser(data_dir))
