"""TFDS builder of USPS from its published text files, or from usps.h5."""

import gzip
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from dann_jax.datasets import image_builder, image_sets, source_files

__all__ = ["Builder", "read_h5", "read_text"]

_HOMEPAGE = "https://hastie.su.domains/ElemStatLearn/"
_PIXELS = 16 * 16
_LINE_BYTES = 4096  # twice what a published line has


class Builder(image_builder.ImageBuilder):
    """USPS, 16x16x1, in the order of the published files: white digits on black.

    The text files print grey values v in [-1, 1]; the image holds round((v + 1) * 127.5). Where
    they are not at hand, the user's own ``usps.h5`` is read, which has values v in [0, 1]; then the
    image holds round(v * 255). Halves are rounded to the even number.

    Attributes:
        FILES: the file of each split.
        SHA256: ``image_sets.digest`` of each split as the text files have it. The files
            themselves are printed and zipped in more than one way. Of ``usps.h5``, the layout
            and the number of each digit are checked alone.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The two published files, in their order."}

    IMAGE_SHAPE = (16, 16, 1)
    CLASS_COUNTS = {
        "train": (1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644),
        "test": (359, 264, 198, 166, 200, 160, 170, 147, 166, 177),
    }
    FILES: Mapping[str, source_files.PublishedFile] = {
        split: source_files.PublishedFile(
            name, "usps", (f"{_HOMEPAGE}datasets/{name}",), aliases=("usps.h5",)
        )
        for split, name in (("train", "zip.train.gz"), ("test", "zip.test.gz"))
    }
    SHA256: Mapping[str, str] = {
        "train": "bb71931c1b420f73879e10bb975686c3b9d13d59957e38bc345bd59a8f293474",
        "test": "25ae7dd1fb8df90e3651e358798f58abb0d5e27d56f8ac1827f68e6915ab0431",
    }

    DESCRIPTION = (
        "Handwritten digits 0 to 9 of postcodes on envelopes, scanned by the U.S. Postal Service, "
        "deslanted and brought to 16x16 pixels: 7,291 to train on and 2,007 to test on."
    )
    CITATION = """\
@inproceedings{lecun1990handwritten,
  author = {LeCun, Yann and Matan, Ofer and Boser, Bernhard and Denker, John S. and
            Henderson, Don and Howard, Richard E. and Hubbard, Wayne and Jackel, Lawrence D. and
            Baird, Henry S.},
  title = {Handwritten zip code recognition with multilayer networks},
  booktitle = {International Conference on Pattern Recognition},
  pages = {35--40},
  year = {1990}
}
@article{hull1994database,
  author = {Hull, Jonathan J.},
  title = {A database for handwritten text recognition research},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume = {16},
  number = {5},
  pages = {550--554},
  year = {1994}
}"""
    HOMEPAGE = f"{_HOMEPAGE}data.html"
    LICENSE = "Made available by AT&T research labs for research, without a licence."

    def _image_sets(self, find):
        return {
            split: self._image_set(split, file, find(file)) for split, file in self.FILES.items()
        }

    def _image_set(self, split, file, path):
        text = path.suffix != ".h5"
        counts = list(self.CLASS_COUNTS[split])
        if text:
            images, labels = read_text(file, path, sum(counts))
        else:
            images, labels = read_h5(file, path, split, sum(counts))
        got = np.bincount(labels, minlength=10).tolist()
        if got != counts:
            expected = f"as many images of each digit 0 to 9 as {counts}"
            raise source_files.mismatch(file, path, expected=expected, got=str(got))
        digest = image_sets.digest(image_sets.ImageSet(images, labels))
        if text and digest != self.SHA256[split]:
            raise source_files.mismatch(
                file,
                path,
                expected=f"images and labels with SHA-256 {self.SHA256[split]}",
                got=f"others with SHA-256 {digest}",
            )
        return images, labels


def read_text(
    file: source_files.PublishedFile, path: Path, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of a gzipped text file: a line of 257 numbers for each image.

    The first number is the digit, the others are grey values in [-1, 1], row by row.

    Args:
        file: which published file it is.
        path: its path.
        n: how many lines it must have.

    Returns:
        uint8 ``[n, 16, 16, 1]``, round((v + 1) * 127.5), and int32 ``[n]``.

    Raises:
        ValueError: a damaged or truncated file, another layout, or values out of range.
    """

    def read():
        most = n * _LINE_BYTES
        with gzip.open(path) as stream:
            content = stream.read(most + 1)
        if len(content) > most:
            raise ValueError(f"more than {most:,} bytes")
        lines = [line.split() for line in content.splitlines()]
        if len(lines) != n:
            raise ValueError(f"{len(lines):,} lines")
        for i, line in enumerate(lines):
            if len(line) != 1 + _PIXELS:
                raise ValueError(f"{len(line)} values in line {i + 1}")
        table = np.array(lines).astype(np.float64)
        return table[:, 1:], table[:, 0]

    expected = f"a gzip file of {n:,} lines of a label 0 to 9 and {_PIXELS} values from -1 to 1"
    return _checked(file, path, read, lowest=-1, expected=expected)


def read_h5(
    file: source_files.PublishedFile, path: Path, split: str, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of a split of an HDF5 file.

    Its group of the split's name holds data ``[n, 256]``, grey values in [0, 1], row by row, and
    target ``[n]``, the digits.

    Args:
        file: which published file it stands for.
        path: its path.
        split: ``"train"`` or ``"test"``.
        n: how many images the split must have.

    Returns:
        uint8 ``[n, 16, 16, 1]``, round(v * 255), and int32 ``[n]``.

    Raises:
        ValueError: a damaged file, another layout, values out of range, or h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ValueError(
            f"{path}: expected h5py, which reads this file, got none: pip install h5py, or put "
            f"{file.name} from {file.urls[0]} beside it, which needs no package"
        ) from error

    def read():
        with h5py.File(path) as content:
            data, target = content[split]["data"], content[split]["target"]
            if data.shape != (n, _PIXELS) or target.shape != (n,):  # before anything is read
                raise ValueError(f"data {list(data.shape)} and target {list(target.shape)}")
            return data[:].astype(np.float64), target[:].astype(np.float64)

    expected = (
        f"an HDF5 file with {split}/data, [{n}, {_PIXELS}] with values from 0 to 1, and "
        f"{split}/target, [{n}] with labels 0 to 9"
    )
    return _checked(file, path, read, lowest=0, expected=expected)


def _checked(
    file: source_files.PublishedFile,
    path: Path,
    read: Callable[[], Sequence[np.ndarray]],
    *,
    lowest: int,
    expected: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of ``read``'s grey values, from ``lowest`` to 1, and labels."""
    try:
        values, labels = read()
        # Not a number is in no range.
        if not ((values >= lowest) & (values <= 1)).all():
            raise ValueError(f"values from {values.min():g} to {values.max():g}")
        if not np.isin(labels, range(10)).all():
            raise ValueError(f"labels from {labels.min():g} to {labels.max():g}")
    except Exception as error:  # a reader raises whatever a damaged byte leads it to
        got = f"a damaged, truncated or other file ({source_files.reason(error)})"
        raise source_files.mismatch(file, path, expected=expected, got=got) from error
    grey = np.rint((values - lowest) * (255 / (1 - lowest))).astype(np.uint8)
    return grey.reshape(-1, 16, 16, 1), labels.astype(np.int32)
