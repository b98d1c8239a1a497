"""What the builders of synthetic domains share: images drawn here, in several processes."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dann_jax.datasets import blocks, image_builder

__all__ = ["DrawnBuilder"]


class DrawnBuilder(image_builder.ImageBuilder):
    """A builder of images of which image i of a split is a function of (SEED, split, i).

    Attributes:
        SIZES: how many images each split has.
        SEED: selects the images.
        IMAGES: draws a range of them, a function that can be imported by its name.
        LABELS: ``(start, stop) -> int [stop - start]``, their labels, which no draw decides.
    """

    SIZES: Mapping[str, int]
    SEED = 0
    IMAGES: blocks.Images
    LABELS: Callable[[int, int], np.ndarray]

    CITATION = image_builder.PAPER
    HOMEPAGE = "http://yaroslav.ganin.net/"

    @property
    def CLASS_COUNTS(self) -> Mapping[str, Sequence[int]]:  # type: ignore[override]
        """For each split, how many examples each label has: as equal as the size allows."""
        classes = len(self.CLASS_NAMES)
        return {
            split: tuple(np.bincount(self.LABELS(0, size), minlength=classes).tolist())
            for split, size in self.SIZES.items()
        }

    def _image_sets(self, find):
        del find  # nothing to fetch
        return {
            split: (blocks.generate(self.IMAGES, self.SEED, split, size), self.LABELS(0, size))
            for split, size in self.SIZES.items()
        }
