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
    SAMPLES = {
        "train": "e74dc29dcc00fe6680e0bf9b435cdf38f4f762b6a9056a18f98b81b9309ac3a1",
        "test": "b507eba4ad9cddd270db2e8a6f9c7135fe4cb3fffced989ca99a2c2fae4a71d1",
    }
    DRAWN_WITH = ("numpy==2.4.6", "Pillow==13.0.0", "resvg_py==0.5.0", "scikit-learn==1.9.1")

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
