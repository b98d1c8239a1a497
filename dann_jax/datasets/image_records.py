"""The records of a prepared data set, for readers that never hold all of it in memory."""

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds

from dann_jax.datasets import image_builder, image_sets, source_files

__all__ = ["ImageRecords"]

_BLOCK = 1000  # records fetched at once: one by one, fetching costs more than decoding


class ImageRecords(Sequence):
    """The images and labels of a stored split, decoded when asked for; record i is image i.

    Several threads may read at once: fetching and decoding leave the interpreter free.

    Attributes:
        builder: from ``datasets.prepare``.
        split: a split that is stored.
    """

    def __init__(self, builder: image_builder.ImageBuilder, split: str):
        if split not in builder.CLASS_COUNTS:
            raise ValueError(
                f"expected a stored split of {builder.name} ({', '.join(builder.CLASS_COUNTS)}), "
                f"got {split!r}: named parts of splits are for arrays in memory"
            )
        self.builder, self.split = builder, split
        # TFDS's own decoding is slower, and warns about a missing OpenCV.
        undecoded = {"image": tfds.decode.SkipDecoding()}
        self._stored = builder.as_data_source(split, decoders=undecoded)

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self._stored)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override] # no slices
        """Returns ``{"image": uint8 [height, width, channel], "label": int}``.

        Raises:
            IndexError: there is no such record.
            ValueError: what is stored is damaged, or not an image of the data set.
        """
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Returns many records, which takes less time than one by one."""
        try:
            stored = self._stored.__getitems__(list(indices))
        except (RuntimeError, IndexError) as error:  # array_record has a checksum of each record
            raise self.builder.damaged(self.split, source_files.reason(error)) from error
        return [self._decoded(i, record) for i, record in zip(indices, stored, strict=True)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields all records in order."""
        for start in range(0, len(self), _BLOCK):
            yield from self.__getitems__(range(start, min(start + _BLOCK, len(self))))

    def digest(self) -> str:
        """Returns the SHA-256 that ``datasets.digest`` gives for the arrays, from one pass.

        Raises:
            ValueError: the records are damaged, or not those that were prepared.
        """
        digest = image_sets.Digest((len(self), *self.builder.IMAGE_SHAPE))
        for record in self:
            digest.add(**record)
        self.builder.confirm(self.split, digest.hexdigest())
        return digest.hexdigest()

    def _decoded(self, index, record):
        try:
            image = image_builder.pixels(record["image"]).reshape(self.builder.IMAGE_SHAPE)
        except Exception as error:  # zlib, struct, Pillow and NumPy each have their own
            got = f"record {index}, which is no image of {self.builder.IMAGE_SHAPE} "
            got += f"({source_files.reason(error)})"
            raise self.builder.damaged(self.split, got) from error
        return {"image": image, "label": int(record["label"])}
