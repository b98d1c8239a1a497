"""TFDS builder of SYN NUMBERS, which is drawn here."""

from collections.abc import Mapping

import numpy as np
import tensorflow_datasets as tfds

from dann_jax.datasets import blocks, image_builder
from dann_jax.datasets.syn_numbers import fonts, rendering

__all__ = ["Builder"]


class Builder(image_builder.ImageBuilder):
    """SYN NUMBERS, 32x32x3: house numbers of one to three digits, labelled by the central one.

    The published SYN NUMBERS can no longer be obtained. This one has its sizes and the means
    that the paper names, and is drawn to look like crops of SVHN.

    Attributes:
        SIZES: how many images each split has.
        SEED: selects the images.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Drawn with seed 0."}

    IMAGE_SHAPE = (32, 32, 3)
    SIZES: Mapping[str, int] = {"train": 479400, "test": 9553}
    SEED = 0

    DESCRIPTION = (
        "House numbers of one to three digits in 38 font faces, drawn with varied place, size, "
        "orientation, colours, background, outline, light, blur and noise: 479,400 images to "
        "train on and 9,553 to test on, 32x32 pixels, labelled by the central digit."
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
        "Drawn by dann_jax (MIT licence) with fonts under the SIL Open Font License 1.1, the "
        "Apache License 2.0 and the Bitstream Charter licence, none of which extends to pictures "
        "of text."
    )

    @property
    def CLASS_COUNTS(self) -> Mapping[str, tuple[int, ...]]:
        """For each split, how many examples each label has: as equal as the size allows."""
        return {
            split: tuple(np.bincount(rendering.labels(0, size), minlength=10).tolist())
            for split, size in self.SIZES.items()
        }

    def _image_sets(self, find):
        fonts.glyphs()  # a missing font is reported before anything is written
        return {
            split: (
                blocks.made(rendering.images, self.SEED, split, size),
                rendering.labels(0, size),
            )
            for split, size in self.SIZES.items()
        }
