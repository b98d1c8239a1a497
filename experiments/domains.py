"""Pairs of domains as arrays, and what happens to an image before G_f sees it."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dann_jax import datasets
from dann_jax.batches import DomainArrays, DomainBatch
from experiments.config import Config

__all__ = ["Pair", "Preprocess", "load_pair", "preprocessing", "training_arrays"]


class Pair(NamedTuple):
    """The images of both domains, as stored, at the size that the network takes."""

    source_train: datasets.ImageSet
    source_test: datasets.ImageSet
    target_train: datasets.ImageSet
    target_test: datasets.ImageSet
    provenance: dict  # "name/split" -> {"examples": ..., "sha256": ...}


class Preprocess(NamedTuple):
    """Mean subtraction and scaling, by domain."""

    source_mean: tuple[float, ...]  # grey levels, one for each channel
    target_mean: tuple[float, ...]
    scale: float

    def source(self, image):
        """Returns source images ``[n, h, w, 3]`` float32 of stored ones, grey or colour."""
        return _standardise(image, self.source_mean, self.scale)

    def target(self, image):
        """Returns target images ``[n, h, w, 3]`` float32 of stored ones, grey or colour."""
        return _standardise(image, self.target_mean, self.scale)

    def batch(self, batch: DomainBatch) -> DomainBatch:
        """Returns a batch as G_f takes it of one as stored."""
        return batch._replace(
            source_image=self.source(batch.source_image),
            target_image=self.target(batch.target_image),
        )


def _standardise(image, mean, scale):
    image = jnp.broadcast_to(image, (*image.shape[:-1], len(mean))).astype(jnp.float32)
    return (image - jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, -1)) / scale


def load_pair(config: Config, *, data_dir=None, manual_dir=None) -> Pair:
    """Returns the training and test images of both domains.

    Args:
      config: Names the data sets and the image size.
      data_dir: Where prepared data lies or goes, see ``datasets.load``.
      manual_dir: Where files that were fetched by hand lie.

    Returns:
      The pair, with the digest of each part as it was stored.

    Raises:
      ValueError: Images are larger than ``config.image_size``, or a label is out of range.
    """
    parts, provenance = [], {}
    for name in (config.source, config.target):
        for split in ("train", "test"):
            images = datasets.load(name, split, data_dir=data_dir, manual_dir=manual_dir)
            provenance[f"{name}/{split}"] = {
                "examples": len(images.label),
                "sha256": datasets.digest(images),
            }
            if images.label.max() >= config.classes:
                raise ValueError(
                    f"{name} has label {images.label.max()}, but classes is {config.classes}"
                )
            parts.append(images._replace(image=_padded(images.image, config.image_size, name)))
    return Pair(*parts, provenance)


def _padded(image, size, name):
    spare = [size - side for side in image.shape[1:3]]
    if min(spare) < 0:
        raise ValueError(
            f"images of {name} are {image.shape[1]}x{image.shape[2]} pixels: make image_size "
            f"at least {max(image.shape[1:3])}, got {size}"
        )
    if max(spare) == 0:
        return image
    pads = [(0, 0), *((s // 2, s - s // 2) for s in spare), (0, 0)]
    return np.pad(image, pads)


def preprocessing(config: Config, pair: Pair, method: str) -> Preprocess:
    """Returns mean subtraction and scaling of a method, from its training images alone.

    A baseline sees one domain, and subtracts its mean from the images of either.
    """
    source, target = _mean(pair.source_train.image), _mean(pair.target_train.image)
    if method == "source-only":
        target = source
    elif method == "train-on-target":
        source = target
    elif config.mean == "joint":
        counts = len(pair.source_train.label), len(pair.target_train.label)
        source = target = np.average([source, target], axis=0, weights=counts)
    return Preprocess(tuple(source.tolist()), tuple(target.tolist()), config.input_scale)


def _mean(image):
    # By blocks: a float64 copy of a whole data set would not be small.
    blocks = np.array_split(image, max(1, len(image) // 4096))
    total = functools.reduce(np.add, (b.sum((0, 1, 2), dtype=np.float64) for b in blocks))
    mean = total / np.prod(image.shape[:3])
    return np.broadcast_to(mean, [3]).astype(np.float64)


def training_arrays(pair: Pair, method: str) -> DomainArrays:
    """Returns what a method trains on; only train-on-target gets labels of the target."""
    source, target = pair.source_train, pair.target_train
    if method == "train-on-target":
        source = target
    if method == "dann":
        return DomainArrays(source.image, source.label, target.image)
    return DomainArrays(source.image, source.label, source.image)
