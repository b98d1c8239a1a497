"""Images in memory or left on disk, behind the same functions."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dann_jax import memory
from dann_jax.datasets.image_sets import ImageSet

__all__ = ["Streamed", "blocks", "chosen", "fitted", "over_blocks", "padded", "resized", "size"]

BLOCK = 4096  # images that are in memory at once where a data set is not


class Streamed(Sequence):
    """Images that stay on disk: records for ``dann_jax.streaming``, brought to one size.

    Attributes:
      records: ``ImageRecords``.
      size: Height and width, pixels.
      name: Of the data set, for errors.
      resize: Whether images are resized to it; otherwise smaller ones are padded with black.
    """

    def __init__(self, records: Any, size: int, name: str, *, resize: bool = False):
        self.records, self.size, self.name, self.resize = records, size, name, resize

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """The mean of each channel, grey levels, over all records; computed once."""
        from dann_jax import streaming  # Grain is not needed otherwise

        return streaming.channel_mean(self)

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override] # no slices
        """Returns one record."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Returns many records."""
        return [
            {"image": self._fitted(record["image"][None])[0], "label": record["label"]}
            for record in self.records.__getitems__(indices)
        ]

    def _fitted(self, image):
        return fitted(image, self.size, self.name, resize=self.resize)


class _Chosen:
    """Records of some positions in others."""

    def __init__(self, records, positions):
        self.records, self.positions = records, positions

    def __len__(self):
        return len(self.positions)

    def __getitems__(self, indices):
        return self.records.__getitems__(self.positions[list(indices)].tolist())


def size(images: ImageSet | Streamed) -> int:
    """Returns the number of images."""
    return len(images.label if isinstance(images, ImageSet) else images)


def chosen(images: ImageSet | Streamed, positions: np.ndarray) -> ImageSet | Streamed:
    """Returns the images at an array of positions."""
    if isinstance(images, Streamed):
        records = _Chosen(images.records, positions)
        return Streamed(records, images.size, images.name, resize=images.resize)
    return ImageSet(images.image[positions], images.label[positions])


def blocks(images: ImageSet | Streamed) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields images ``[n, height, width, channel]`` and labels ``[n]`` block by block.

    An ``ImageSet``, in memory already, is one block; of ``Streamed`` one is in memory at once.
    """
    if isinstance(images, ImageSet):
        yield images
        return
    for start in range(0, len(images), BLOCK):
        records = images.__getitems__(range(start, min(start + BLOCK, len(images))))
        labels = np.array([record["label"] for record in records], np.int32)
        yield np.stack([record["image"] for record in records]), labels


def over_blocks(
    images: ImageSet | Streamed, function: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the outputs ``[n, ...]`` of a function for all images, and their labels ``[n]``.

    logits, labels = over_blocks(images, functools.partial(predict, model, state))
    """
    parts = [(function(image), label) for image, label in blocks(images)]
    outputs, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return outputs, labels


def fitted(image: np.ndarray, size: int, name: str, *, resize: bool = False) -> np.ndarray:
    """Returns images ``[n, size, size, channel]``: ``resized``, or else ``padded``."""
    return resized(image, size) if resize else padded(image, size, name)


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """Returns images ``[n, size, size, channel]``, each channel resized by a bilinear filter.

    Pixel centres lie at half numbers, and beyond the border the image goes on as there. Images
    that have the size stay as they are.

    >>> resized(np.array([[[[0], [100]], [[0], [100]]]], np.uint8), 4)[0, 0, :, 0]
    array([  0,  25,  75, 100], dtype=uint8)

    Args:
      image: uint8 ``[n, height, width, channel]``.
      size: Height and width, pixels.
    """
    if image.shape[1:3] == (size, size):
        return image
    from PIL import Image

    output = np.empty((len(image), size, size, image.shape[3]), np.uint8)
    for i, channel in np.ndindex(len(image), image.shape[3]):
        plane = Image.fromarray(image[i, ..., channel])
        plane = plane.resize((size, size), Image.Resampling.BILINEAR)
        output[i, ..., channel] = np.asarray(plane)
    return output


def padded(image: np.ndarray, size: int, name: str) -> np.ndarray:
    """Returns images ``[n, size, size, channel]``, padded with black.

    Args:
      image: ``[n, height, width, channel]``.
      size: Height and width, pixels.
      name: Of the data set.

    Raises:
      ValueError: The images are larger; the message names the data set.
    """
    spare = [size - side for side in image.shape[1:3]]
    if min(spare) < 0:
        raise ValueError(
            f"images of {name} are {image.shape[1]}x{image.shape[2]} pixels: make image_size "
            f"at least {max(image.shape[1:3])}, got {size}"
        )
    if max(spare) == 0:
        return image
    needed, free = image.size // math.prod(image.shape[1:3]) * size**2, memory.free_bytes()
    if needed > free:
        raise ValueError(
            f"images of {name} take {needed / 1e9:,.0f} GB at {size}x{size} pixels, and "
            f"{free / 1e9:,.0f} GB are free: lower image_size"
        )
    return np.pad(image, [(0, 0), *((s // 2, s - s // 2) for s in spare), (0, 0)])
