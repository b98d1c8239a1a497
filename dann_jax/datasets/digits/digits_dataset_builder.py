"""TFDS builder of the embedded source domain: varied copies of bundled handwritten digits."""

from collections.abc import Mapping

import numpy as np
import tensorflow_datasets as tfds

from dann_jax.datasets import handwriting, image_builder

__all__ = ["CITATION", "Builder", "images"]

CITATION = """\
@misc{alpaydin1998optical,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49},
  year = {1998}
}"""


class Builder(image_builder.ImageBuilder):
    """Varied copies of scikit-learn's handwritten digits, 28x28x1, white on black.

    Attributes:
        SEED: selects the copies.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Copies drawn with seed 1."}

    IMAGE_SHAPE = (28, 28, 1)
    CLASS_COUNTS: Mapping[str, tuple[int, ...]] = {"train": (1000,) * 10, "test": (200,) * 10}
    SEED = 1
    SAMPLES = {
        "train": "073812a6c92151f9de9cf5c930cc5af91e8fa0ff69e23465cba69a811f387f0e",
        "test": "8f5fa35cac2b243b003034d0788219b7a6ffefb331f63fc6ddfa1b721ecad47e",
    }
    DRAWN_WITH = ("numpy==2.4.6", "scikit-learn==1.9.1")

    DESCRIPTION = (
        "Handwritten digits 0 to 9, white on black, 28x28 pixels: 10,000 images to train on "
        "and 2,000 to test on, each a turned, scaled and shifted copy of one of the 1,797 "
        "handwritten digits that scikit-learn bundles. Train and test share no original."
    )
    CITATION = CITATION
    HOMEPAGE = "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits"
    LICENSE = "Creative Commons Attribution 4.0 International (CC BY 4.0)"

    def _image_sets(self, find):
        del find  # nothing to fetch
        return {
            split: images(split, 0, sum(counts), seed=self.SEED)
            for split, counts in self.CLASS_COUNTS.items()
        }


def images(split: str, start: int, stop: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images ``start .. stop - 1`` of a split, each a function of (seed, split, i).

    Args:
        split: ``"train"`` or ``"test"``.
        start: first image.
        stop: one past the last image.
        seed: selects the copies.

    Returns:
        uint8 ``[stop - start, 28, 28, 1]`` and int32 ``[stop - start]``.
    """
    source = handwriting.originals(split)
    image, label = handwriting.copies(source, seed=seed, split=split, start=start, stop=stop)
    return image[..., np.newaxis], label
