"""TFDS builder of SVHN from its published files of cropped digits ("format 2")."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from dann_jax.datasets import image_builder, source_files
from dann_jax.datasets.svhn import mat

__all__ = ["Builder", "read"]

_IMAGE_BYTES = 32 * 32 * 3
_MOST_OTHERS = 1 << 20  # bytes of all but the images in a file
_HOMEPAGE = "http://ufldl.stanford.edu/housenumbers/"


class Builder(image_builder.ImageBuilder):
    """SVHN, 32x32x3, in the order of the published files; the central digit is the label.

    The test part may also be its first 5,000 images alone, for those who have no more. Which it
    was, ``info.metadata["test"]`` and the size of the split say.

    Attributes:
        FILES: the file of each split.
        EXTRACT_COUNTS: how many test images each label has among the first 5,000.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The two published files, in their order."}

    IMAGE_SHAPE = (32, 32, 3)
    CLASS_COUNTS = {
        "train": (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
        "test": (1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
    }
    EXTRACT_COUNTS: Sequence[int] = (339, 988, 775, 561, 496, 450, 381, 376, 316, 318)
    FILES: Mapping[str, source_files.PublishedFile] = {
        split: source_files.PublishedFile(name, "svhn", (_HOMEPAGE + name,), md5)
        for split, name, md5 in (
            ("train", "train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            ("test", "test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        )
    }

    DESCRIPTION = (
        "Digits 0 to 9 cut from house numbers in street photographs, 32x32 pixels, with parts of "
        "the neighbouring digits left and right: 73,257 images to train on and 26,032 to test "
        "on. Where the test split holds 5,000 images, only the first 5,000 were at hand, and "
        "accuracies on them are not those on the whole."
    )
    CITATION = """\
@inproceedings{netzer2011reading,
  author = {Netzer, Yuval and Wang, Tao and Coates, Adam and Bissacco, Alessandro and
            Wu, Bo and Ng, Andrew Y.},
  title = {Reading Digits in Natural Images with Unsupervised Feature Learning},
  booktitle = {NIPS Workshop on Deep Learning and Unsupervised Feature Learning},
  year = {2011}
}"""
    HOMEPAGE = _HOMEPAGE
    LICENSE = "Free for non-commercial use only."

    def _image_sets(self, find):
        whole = type(self).CLASS_COUNTS
        accepted = {
            "train": {"whole": whole["train"]},
            "test": {"whole": whole["test"], "first 5,000 images": self.EXTRACT_COUNTS},
        }
        sets, parts = {}, {}
        for split, file in self.FILES.items():
            images, labels, parts[split] = read(file, find(file), accepted[split])
            sets[split] = images, labels
        self.CLASS_COUNTS = {split: accepted[split][part] for split, part in parts.items()}
        tfds.core.MetadataDict(parts).save_metadata(self.data_path)
        return sets


def read(
    file: source_files.PublishedFile, path: Path, accepted: Mapping[str, Sequence[int]]
) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns images and labels of a MATLAB file (version 5) in the published layout.

    The file holds X, uint8 ``[row, column, channel, n]``, and y ``[n, 1]``, where 1 to 9 are the
    digits 1 to 9 and 10 is the digit 0.

    Args:
        file: which published file it is.
        path: its path.
        accepted: for each part of the data that the file may hold, how many images of each digit
            0 to 9 that has.

    Returns:
        uint8 ``[n, 32, 32, 3]``; uint8 ``[n]``, in which 0 is the digit 0; which part it is.

    Raises:
        ValueError: a damaged file, another layout, or other numbers.
    """
    sizes = [sum(counts) for counts in accepted.values()]
    try:
        content = mat.parse(path.read_bytes(), max(sizes) * _IMAGE_BYTES + _MOST_OTHERS)
        n = len(content["y"])
        listed = {name: (array.shape, array.dtype.name) for name, array in content.items()}
        if n not in sizes or listed["X"] != ((32, 32, 3, n), "uint8") or listed["y"][0] != (n, 1):
            raise ValueError(f"it holds {listed}")
        images, labels = content["X"].transpose(3, 0, 1, 2), content["y"][:, 0]
        if not np.isin(labels, range(1, 11)).all():
            raise ValueError(f"labels from {labels.min()} to {labels.max()}")
    except Exception as error:  # the parser raises whatever a damaged byte leads it to
        raise source_files.mismatch(
            file,
            path,
            expected="a complete MATLAB 5 file with X, uint8 [32, 32, 3, n], and y, [n, 1], "
            f"labels 1 to 10 and n {' or '.join(map(str, sizes))}",
            got=f"a damaged, truncated or other file ({source_files.reason(error)})",
        ) from error
    labels = labels.astype(np.uint8) % 10
    got = np.bincount(labels, minlength=10).tolist()
    for part, counts in accepted.items():
        if got == list(counts):
            return images, labels, part
    raise source_files.mismatch(
        file,
        path,
        expected="as many images of each digit 0 to 9 as "
        + " or ".join(f"the {part} ({list(counts)})" for part, counts in accepted.items()),
        got=str(got),
    )
