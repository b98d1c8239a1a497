"""TFDS builder of MNIST from its published files."""

from collections.abc import Mapping

import tensorflow_datasets as tfds

from dann_jax.datasets import image_builder
from dann_jax.datasets.mnist import idx

__all__ = ["Builder"]


class Builder(image_builder.ImageBuilder):
    """MNIST, 28x28x1, in the order of the published files.

    Attributes:
        FILES: for each split the file of the images and the file of the labels.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The four published files, in their order."}

    IMAGE_SHAPE = (28, 28, 1)
    CLASS_COUNTS = {
        "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    }
    FILES: Mapping[str, tuple[idx.IdxFile, idx.IdxFile]] = idx.OFFICIAL

    DESCRIPTION = (
        "Handwritten digits 0 to 9, white on black, centred in 28x28 pixels: 60,000 to train "
        "on and 10,000 to test on."
    )
    CITATION = """\
@article{lecun1998gradient,
  author = {LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},
  title = {Gradient-based learning applied to document recognition},
  journal = {Proceedings of the IEEE},
  volume = {86},
  number = {11},
  pages = {2278--2324},
  year = {1998}
}"""
    HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"
    LICENSE = "Published by Yann LeCun, Corinna Cortes and Christopher Burges without a licence."

    def _image_sets(self, find):
        sets = {split: idx.read_split(files, find) for split, files in self.FILES.items()}
        return {split: (images[..., None], labels) for split, (images, labels) in sets.items()}
