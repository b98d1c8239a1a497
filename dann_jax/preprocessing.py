"""What happens to a stored image before G_f sees it: its standardization, and the crop."""

import functools
from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from dann_jax.augmentation import center_crop
from dann_jax.batches import DomainBatch

__all__ = ["Preprocess", "image_mean"]

_BLOCK = 4096  # images summed at once: a float64 copy of a whole data set would not be small


class Preprocess(NamedTuple):
    """Mean subtraction and scaling, by domain, and the crop for an evaluation.

    preprocess = Preprocess(mean, mean, 255.0, crop=28)
    train = make_train_steps(make_update, preprocess=preprocess.batch, ...)
    logits = predict(model, state, images, preprocess=preprocess.target)
    """

    source_mean: tuple[float, ...]  # grey levels, one for each channel
    target_mean: tuple[float, ...]
    scale: float | tuple[float, ...]
    crop: int  # height and width of what is seen in an evaluation, pixels
    each_image: bool = False  # standardize by the image's own mean and deviation instead of these

    def _standardized(self, image, mean):
        image = jnp.broadcast_to(image, (*image.shape[:-1], len(mean))).astype(jnp.float32)
        return _of_itself(image) if self.each_image else _of_domain(image, mean, self.scale)

    def source(self, image: chex.Array) -> chex.Array:
        """Returns source images ``[n, h, w, 3]`` float32 for an evaluation, of stored ones."""
        return self._standardized(center_crop(image, self.crop), self.source_mean)

    def target(self, image: chex.Array) -> chex.Array:
        """Returns target images ``[n, h, w, 3]`` float32 for an evaluation, of stored ones."""
        return self._standardized(center_crop(image, self.crop), self.target_mean)

    def batch(self, batch: DomainBatch) -> DomainBatch:
        """Returns a batch to train on, of one as stored, grey or colour; crops are made later."""
        return batch._replace(
            source_image=self._standardized(batch.source_image, self.source_mean),
            target_image=self._standardized(batch.target_image, self.target_mean),
        )


def _of_itself(image):
    """Returns images whose channels have mean 0 and deviation 1 each; 0 where one is constant."""
    centered = image - image[:, :1, :1]  # exactly 0 where constant, unlike what a mean leaves
    centered -= jnp.mean(centered, (1, 2), keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centered**2, (1, 2), keepdims=True))
    return centered / jnp.where(deviation > 0, deviation, 1.0)


def _of_domain(image, mean, scale):
    if isinstance(scale, tuple):
        scale = jnp.asarray(scale, jnp.float32).reshape(1, 1, 1, -1)
    return (image - jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, -1)) / scale


def image_mean(image: np.ndarray) -> np.ndarray:
    """Returns the mean of each channel over all pixels of all images.

    >>> image_mean(np.arange(8).reshape(2, 2, 1, 2))
    array([3., 4.])

    Args:
      image: ``[n, height, width, channel]``.

    Returns:
      float64 ``[channel]``.
    """
    parts = np.array_split(image, max(1, len(image) // _BLOCK))
    total = functools.reduce(np.add, (part.sum((0, 1, 2), dtype=np.float64) for part in parts))
    return total / np.prod(image.shape[:3])
