"""TFDS builder of the embedded target domain: handwritten digits blended over photographs."""

import itertools
from collections.abc import Mapping

import numpy as np
import tensorflow_datasets as tfds

from dann_jax.datasets import blend, draws, handwriting, image_builder, photographs
from dann_jax.datasets.digits import digits_dataset_builder

__all__ = ["Builder", "images"]

_EXPOSURE = (0.3, 1.0)  # of a patch, relative to its photograph
_THRESHOLD = 127  # where a stroke of a copy ends, see handwriting.STROKE


class Builder(image_builder.ImageBuilder):
    """Copies of scikit-learn's handwritten digits over its two photographs, 28x28x3.

    What MNIST-M is to MNIST, from data that come with scikit-learn. Neither an original digit
    nor a pixel of a photograph is shared by train and test.

    Attributes:
        SEED: selects the copies and the patches.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Copies and patches drawn with seed 2."}

    IMAGE_SHAPE = (28, 28, 3)
    CLASS_COUNTS: Mapping[str, tuple[int, ...]] = {"train": (1000,) * 10, "test": (200,) * 10}
    SEED = 2
    SAMPLES = {
        "train": "4dc41dbcb6e9b3bc2ab954c37e652208369242f791d832bcb5fb8f0a25990e74",
        "test": "9468c48b707c5175c79f6a33ed208e659fae104d0ee815d44a3b1917cffc3666",
    }
    DRAWN_WITH = ("numpy==2.4.6", "Pillow==13.0.0", "scikit-learn==1.9.1")

    DESCRIPTION = (
        "Handwritten digits 0 to 9 blended over patches of two colour photographs by the "
        "absolute difference of each pixel and channel, 28x28 pixels: 10,000 images to train "
        "on and 2,000 to test on. Digits and photographs are those that scikit-learn bundles."
    )
    CITATION = digits_dataset_builder.CITATION
    HOMEPAGE = "https://scikit-learn.org/stable/datasets.html"
    LICENSE = (
        "Digits: Creative Commons Attribution 4.0 International (CC BY 4.0). Photographs: "
        "Creative Commons Attribution 2.0 (CC BY 2.0), by the Flickr users danielbuechele "
        "(china.jpg) and vultilion (flower.jpg)."
    )

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
        seed: selects the copies and the patches.

    Returns:
        uint8 ``[stop - start, 28, 28, 3]`` and int32 ``[stop - start]``.
    """
    source = handwriting.originals(split)
    digit, label = handwriting.copies(source, seed=seed, split=split, start=start, stop=stop)
    pictures = photographs.bundled()[split]
    draw = draws.uniform(seed, f"{split} patches", start, stop, count=5)
    patches = np.stack([blend.patch(pictures, d[:3], handwriting.SIZE) for d in draw])
    patches = _vary(patches, draw[:, 3:])
    return blend.blend(patches, blend.binarise(digit, threshold=_THRESHOLD)), label


def _vary(patches: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """Returns patches under another exposure and with their colour channels in another order.

    Two photographs have few backgrounds, where a natural collection has dark and light ones of
    any colour.
    """
    low, high = _EXPOSURE
    exposure = low + (high - low) * draw[:, 0]
    exposed = np.round(patches * exposure[:, None, None, None]).astype(np.uint8)
    orders = np.array(list(itertools.permutations(range(3))))
    order = orders[draws.choice(draw[:, 1], len(orders))]
    return np.take_along_axis(exposed, order[:, None, None, :], axis=-1)
