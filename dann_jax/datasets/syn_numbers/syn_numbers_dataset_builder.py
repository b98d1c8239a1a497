"""TFDS builder of SYN NUMBERS, which is drawn here."""

import tensorflow_datasets as tfds

from dann_jax.datasets import drawn_builder
from dann_jax.datasets.syn_numbers import fonts, rendering

__all__ = ["Builder"]


class Builder(drawn_builder.DrawnBuilder):
    """SYN NUMBERS, 32x32x3: house numbers of one to three digits, labelled by the central one.

    The published SYN NUMBERS can no longer be obtained. This one has its sizes and the means
    that the paper names, and is drawn to look like crops of SVHN.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Drawn with seed 0."}

    IMAGE_SHAPE = (32, 32, 3)
    SIZES = {"train": 479400, "test": 9553}
    IMAGES = staticmethod(rendering.images)
    LABELS = staticmethod(rendering.labels)
    SAMPLES = {
        "train": "8334395f5e36581e6253a57045113be02d2cc0fad2433c425cd82ded50f8089e",
        "test": "67f1fa614f1e66828c35c77b1ab4bb241fc654f7106e4c57d9922bdd90e5648e",
    }
    DRAWN_WITH = ("numpy==2.4.6", "Pillow==13.0.0", "scipy==1.17.1", *fonts.PINS)

    DESCRIPTION = (
        "House numbers of one to three digits in 38 font faces, drawn with varied place, size, "
        "orientation, colours, background, outline, light, blur and noise: 479,400 images to "
        "train on and 9,553 to test on, 32x32 pixels, labelled by the central digit."
    )
    LICENSE = (
        "Drawn by dann_jax (MIT licence) with fonts under the SIL Open Font License 1.1, the "
        "Apache License 2.0 and the Bitstream Charter licence, none of which extends to pictures "
        "of text."
    )

    def _image_sets(self, find):
        fonts.glyphs()  # a missing font is reported before anything is written
        return super()._image_sets(find)
