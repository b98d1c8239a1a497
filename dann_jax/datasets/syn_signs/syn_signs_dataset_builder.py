"""TFDS builder of SYN SIGNS, which is drawn here."""

from collections.abc import Mapping

import numpy as np
import tensorflow_datasets as tfds

from dann_jax.datasets import blocks, image_builder
from dann_jax.datasets.gtsrb import gtsrb_dataset_builder
from dann_jax.datasets.syn_signs import atlas, rendering

__all__ = ["Builder"]


class Builder(image_builder.ImageBuilder):
    """SYN SIGNS, 40x40x3: the 43 traffic signs of GTSRB; image i shows class i modulo 43.

    The published SYN SIGNS can no longer be obtained. This one has its size, and is rendered
    from this project's own drawings to look like the pictures of GTSRB.

    Attributes:
        SIZES: how many images each split has.
        SEED: selects the images.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Drawn with seed 0."}

    IMAGE_SHAPE = (rendering.SIZE, rendering.SIZE, 3)
    CLASS_NAMES = gtsrb_dataset_builder.Builder.CLASS_NAMES
    SIZES: Mapping[str, int] = {"train": 100_000, "test": 4_300}
    SEED = 0

    DESCRIPTION = (
        "The 43 German traffic signs of GTSRB, drawn and rendered with varied pose, paint, light, "
        "shadow, background, occlusion, exposure, blur and noise: 100,000 images to train on and "
        "4,300 to test on, 40x40 pixels."
    )
    CITATION = """\
@inproceedings{ganin2015unsupervised,
  author = {Ganin, Yaroslav and Lempitsky, Victor},
  title = {Unsupervised Domain Adaptation by Backpropagation},
  booktitle = {International Conference on Machine Learning},
  pages = {1180--1189},
  year = {2015}
}"""
    HOMEPAGE = "http://yaroslav.ganin.net/"
    LICENCE = (
        "Drawn by dann_jax (MIT licence) after designs that are official works. Photographs in "
        "the background: Creative Commons Attribution 2.0 (CC BY 2.0), by the Flickr users "
        "danielbuechele (china.jpg) and vultilion (flower.jpg)."
    )

    @property
    def CLASS_COUNTS(self) -> Mapping[str, tuple[int, ...]]:
        """For each split, how many examples each label has: as equal as the size allows."""
        return {
            split: tuple(np.bincount(rendering.labels(0, size), minlength=atlas.CLASSES).tolist())
            for split, size in self.SIZES.items()
        }

    def _image_sets(self, find):
        del find  # nothing to fetch
        return {
            split: (
                blocks.made(rendering.images, self.SEED, split, size),
                rendering.labels(0, size),
            )
            for split, size in self.SIZES.items()
        }
