"""TFDS builder of SYN SIGNS, which is drawn here."""

import tensorflow_datasets as tfds

from dann_jax.datasets import drawn_builder
from dann_jax.datasets.gtsrb import gtsrb_dataset_builder
from dann_jax.datasets.syn_signs import rendering

__all__ = ["Builder"]


class Builder(drawn_builder.DrawnBuilder):
    """SYN SIGNS, 40x40x3: the 43 traffic signs of GTSRB; image i shows class i modulo 43.

    The published SYN SIGNS can no longer be obtained. This one has its size, and is rendered
    from this project's own drawings to look like the pictures of GTSRB.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Drawn with seed 0."}

    IMAGE_SHAPE = (rendering.SIZE, rendering.SIZE, 3)
    CLASS_NAMES = gtsrb_dataset_builder.Builder.CLASS_NAMES
    SIZES = {"train": 100_000, "test": 4_300}
    IMAGES = staticmethod(rendering.images)
    LABELS = staticmethod(rendering.labels)

    DESCRIPTION = (
        "The 43 German traffic signs of GTSRB, drawn and rendered with varied pose, paint, light, "
        "shadow, background, occlusion, exposure, blur and noise: 100,000 images to train on and "
        "4,300 to test on, 40x40 pixels."
    )
    LICENSE = (
        "Drawn by dann_jax (MIT licence) after designs that are official works. Photographs in "
        "the background: Creative Commons Attribution 2.0 (CC BY 2.0), by the Flickr users "
        "danielbuechele (china.jpg) and vultilion (flower.jpg)."
    )
