"""TFDS builder of MNIST-M: MNIST blended over the photographs of BSDS500."""

from collections.abc import Mapping

import tensorflow_datasets as tfds

from dann_jax.datasets import blend, image_builder, photographs
from dann_jax.datasets.mnist import idx

__all__ = ["Builder"]


class Builder(image_builder.ImageBuilder):
    """MNIST-M, 32x32x3: image i is MNIST image i over a random patch of a photograph.

    Sizes, labels and the treatment of the digit are those of the published MNIST-M; which patch
    goes under which digit is not published and is drawn here. Train images use the train and
    val photographs of BSDS500, test images its test photographs.

    Attributes:
        FILES: for each split MNIST's file of images and file of labels.
        SIZES: how many of the first MNIST images of each split are used.
        PHOTOGRAPH_COUNTS: how many photographs each part of BSDS500 must have.
        PHOTOGRAPH_SHA256: their digest.
        SEED: selects the patches.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Patches drawn with seed 0."}

    IMAGE_SHAPE = (32, 32, 3)
    CLASS_COUNTS = {
        "train": (5825, 6640, 5853, 6028, 5746, 5331, 5812, 6158, 5757, 5851),
        "test": (878, 1016, 933, 908, 890, 807, 856, 914, 880, 919),
    }
    FILES: Mapping[str, tuple[idx.IdxFile, idx.IdxFile]] = idx.OFFICIAL
    SIZES = {"train": 59001, "test": 9001}
    PHOTOGRAPH_COUNTS = photographs.BSDS500_COUNTS
    PHOTOGRAPH_SHA256 = photographs.BSDS500_SHA256
    SEED = 0
    SAMPLES = {
        "train": "de4accb6586d30ff2aef08a078d0c3fb866bb686f8ddbb954cafa93421cbca80",
        "test": "3578c28ca1cb0bcb99976e85ab8e077f357610deaeef2d1f3cb714bc4d336733",
    }
    DRAWN_WITH = ("Pillow==13.0.0",)

    DESCRIPTION = (
        "MNIST digits blended over random patches of colour photographs from BSDS500 by the "
        "absolute difference of each pixel and channel: 59,001 images to train on and 9,001 to "
        "test on, 32x32 pixels."
    )
    CITATION = (
        image_builder.PAPER
        + """
@article{arbelaez2011contour,
  author = {Arbel{\\'a}ez, Pablo and Maire, Michael and Fowlkes, Charless and Malik, Jitendra},
  title = {Contour Detection and Hierarchical Image Segmentation},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume = {33},
  number = {5},
  pages = {898--916},
  year = {2011}
}"""
    )
    HOMEPAGE = "http://yaroslav.ganin.net/"
    LICENSE = (
        "Made from MNIST, published without a licence, and BSDS500, which is free for "
        "non-commercial research and education."
    )

    def _image_sets(self, find):
        pictures = photographs.bsds500(
            find, counts=self.PHOTOGRAPH_COUNTS, sha256=self.PHOTOGRAPH_SHA256
        )
        pictures = {"train": pictures["train"] + pictures["val"], "test": pictures["test"]}
        sets = {}
        for split, size in self.SIZES.items():
            digits, labels = idx.read_split(self.FILES[split], find)
            images = blend.mnist_m_images(
                digits[:size], pictures[split], seed=self.SEED, split=split
            )
            sets[split] = (images, labels[:size])
        return sets
