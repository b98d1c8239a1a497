"""Labelled images of the paper's domains, as arrays and as TFDS builders without TensorFlow.

``digits`` and ``digits_m`` come with scikit-learn and need no download; ``mnist`` and
``mnist_m`` are made from published files, taken from ``manual_dir`` or else downloaded.

    source = load("digits", "train")
    target = load("digits_m", "train")

Whoever prefers records to arrays uses the TFDS builder itself, whose record i is image i:

    records = prepare("mnist").as_data_source("train")
    records[0]["image"], records[0]["label"]

or, for a data set that is prepared already, TFDS alone. The version is part of the name, since
TFDS knows another mnist:

    tfds.data_source("mnist:1.0.0", split="train", data_dir=default_data_dir())
"""

import contextlib
import difflib
import hashlib
import importlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from dann_jax.datasets.image_builder import ImageBuilder

__all__ = [
    "ImageSet",
    "builder",
    "default_data_dir",
    "digest",
    "load",
    "names",
    "prepare",
]

_NAMES = ("digits", "digits_m", "mnist", "mnist_m")
_DATA_DIR_VARIABLE = "DANN_JAX_DATA"


class ImageSet(NamedTuple):
    """Labelled images of one split of one domain."""

    image: np.ndarray  # uint8 [n, height, width, channel]
    label: np.ndarray  # int32 [n]


def names() -> tuple[str, ...]:
    """Returns the names of the data sets, in alphabetical order."""
    return _NAMES


def default_data_dir() -> Path:
    """Returns where prepared data lie: ``$DANN_JAX_DATA``, or else ``~/.cache/dann_jax``."""
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
        data_dir: where prepared data lie; None for ``default_data_dir()``.
        manual_dir: folder with published files already on disk; None to download them.

    Returns:
        A ``tfds.core.GeneratorBasedBuilder``.

    Raises:
        ValueError: there is no data set of that name.
    """
    if name not in _NAMES:
        near = difflib.get_close_matches(name, _NAMES, cutoff=0.4) or _NAMES
        raise ValueError(
            f"expected the name of a data set ({', '.join(_NAMES)}), got {name!r}: "
            f"did you mean {' or '.join(near)}?"
        )
    module = importlib.import_module(f"{__name__}.{name}.{name}_dataset_builder")
    root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    return module.Builder(data_dir=root, manual_dir=manual_dir)


def prepare(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    progress: bool = False,
) -> "ImageBuilder":
    """Returns the TFDS builder of a data set, prepared on disk if it was not yet.

    TFDS writes to a temporary folder and renames it when all is written and counted, so that an
    interrupted preparation is never mistaken for a finished one, and several processes may
    prepare the same data set at once.

    Args:
        name: one of ``names()``.
        data_dir: where prepared data lie; None for ``default_data_dir()``.
        manual_dir: folder with published files already on disk; None to download them.
        progress: whether to show TFDS's progress bars.

    Returns:
        A prepared ``tfds.core.GeneratorBasedBuilder``.

    Raises:
        ValueError: no such data set, or a published file is not as published.
        FileNotFoundError: a published file is neither on disk nor to be downloaded.
        NotADirectoryError: ``manual_dir`` is not a folder.
    """
    built = builder(name, data_dir=data_dir, manual_dir=manual_dir)
    if built.is_prepared():
        return built
    with _progress_bars(progress):
        try:
            built.download_and_prepare()
        except OSError:
            # Another process may have finished first, and its folder cannot be replaced.
            finished = builder(name, data_dir=data_dir, manual_dir=manual_dir)
            if not finished.is_prepared():
                raise
            return finished
    return built


def load(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
) -> ImageSet:
    """Returns a whole split in memory, prepared first if it was not yet.

    The arrays are kept as ``.npy`` beside the prepared records, in the folder of the builder's
    version, and later calls read those. Files that are not whole are made anew.

    Args:
        name: one of ``names()``.
        split: ``"train"`` or ``"test"``.
        data_dir: where prepared data lie; None for ``default_data_dir()``.
        manual_dir: folder with published files already on disk; None to download them.

    Returns:
        The images and labels in the data set's order.

    Raises:
        ValueError: no such data set or split, or a published file is not as published.
        FileNotFoundError: a published file is neither on disk nor to be downloaded.
        NotADirectoryError: ``manual_dir`` is not a folder.
    """
    built = builder(name, data_dir=data_dir, manual_dir=manual_dir)
    if split not in built.CLASS_COUNTS:
        raise ValueError(
            f"expected a split of {name} ({', '.join(built.CLASS_COUNTS)}), got {split!r}"
        )
    if not built.is_prepared():
        built = prepare(name, data_dir=data_dir, manual_dir=manual_dir)
    folder = Path(built.data_dir) / "arrays"
    shape = (built.info.splits[split].num_examples, *built.IMAGE_SHAPE)
    cached = _read_cache(folder, split, shape)
    if cached is not None:
        return cached
    loaded = ImageSet(*built.read(split))
    # A folder that may only be read (shared data, a container) costs the next start some
    # seconds; it is no reason to fail.
    with contextlib.suppress(OSError):
        _write_cache(folder, split, loaded)
    return loaded


def digest(image_set: ImageSet) -> str:
    """Returns the SHA-256 of a set of images: of shapes, types and bytes, images then labels.

    Args:
        image_set: any images and labels.

    Returns:
        64 hexadecimal digits.
    """
    sha256 = hashlib.sha256()
    for array in image_set:
        array = np.asarray(array)
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        sha256.update(f"{little.dtype.str}{little.shape}".encode())
        sha256.update(little.data)
    return sha256.hexdigest()


def _cache_paths(folder: Path, split: str) -> tuple[Path, Path]:
    return folder / f"{split}-image.npy", folder / f"{split}-label.npy"


def _read_cache(folder: Path, split: str, shape: tuple[int, ...]) -> ImageSet | None:
    """Returns the cached arrays, or None if they are absent or not what they should be."""
    try:
        cached = ImageSet(
            *(np.load(path, allow_pickle=False) for path in _cache_paths(folder, split))
        )
    except (OSError, ValueError, EOFError):
        return None
    expected = [(shape, np.uint8), (shape[:1], np.int32)]
    got = [(array.shape, array.dtype) for array in cached]
    return cached if got == expected else None


def _write_cache(folder: Path, split: str, image_set: ImageSet) -> None:
    folder.mkdir(exist_ok=True)
    for path, array in zip(_cache_paths(folder, split), image_set, strict=True):
        # A name of its own for each process; the rename makes the whole file appear at once.
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, array, allow_pickle=False)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


@contextlib.contextmanager
def _progress_bars(shown: bool):
    from tensorflow_datasets.core.utils import tqdm_utils

    before = tqdm_utils._active  # TFDS has a switch but no way to ask how it stands
    tqdm_utils.display_progress_bar(shown)
    try:
        yield
    finally:
        tqdm_utils.display_progress_bar(before)
