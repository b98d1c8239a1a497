"""Batches of data that do not fit in memory, read ahead through Grain.

The batch of step t is the one that ``make_train_steps`` draws on the device for the same key.
Here threads read it from records on disk, while the device is busy with the steps before it:

    source = ImageRecords(datasets.prepare("syn_signs"), "train")
    target = ImageRecords(datasets.prepare("gtsrb"), "train")
    train = make_stream_steps(make_update, preprocess=preprocess)
    with contextlib.closing(batch_stream(source, target, key, batch=(64, 64))) as stream:
        state, metrics = train(state, stream, key, 1000)

or with a loop of your own:

    noise_key = split_key(key).noise
    update = jax.jit(make_update_step(model, optimizer, lam), donate_argnums=0)
    for batch in stream:
        state, metrics = update(state, preprocess(jax.device_put(batch)), noise_key)

where calls return before the device is done, so that reading and copying the next batch take
place meanwhile. A position in the stream is a step, ``stream.get_state()`` is a pytree to save
with a checkpoint, and ``stream.set_state`` goes there at once.
"""

import functools
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import augmentation, extras
from dann_jax.batches import DomainBatch, batch_indices, multiples, split_key
from dann_jax.checks import check_count, check_labels, check_pair

with extras.needs(__name__):
    import grain

__all__ = ["Records", "batch_stream", "channel_mean"]

_BLOCK = 4096  # steps to draw at once: an epoch's order costs as much for one step as for all
_LAST_STEP = 2**31 - 1  # of TrainState
_READ = 100  # records to fetch at once where there are no batches


class Records(Protocol):
    """A sequence of ``{"image": ..., "label": ...}`` that can be read in any order.

    An image is uint8 ``[height, width, channel]``, all of one shape; a label is an integer, -1
    where it is not known. Where there is ``__getitems__``, it is called with many indices at
    once. ``datasets.image_records.ImageRecords`` are the records of a prepared data set.
    """

    def __len__(self) -> int:
        """Returns the number of records."""

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """Returns one record. It is called from several threads."""


def batch_stream(
    source: Records,
    target: Records,
    key: chex.PRNGKey,
    *,
    batch: tuple[int, int],
    labelled: tuple[int, int] | None = None,
    crop: int | None = None,
    mirror: bool = False,
    first_step: int = 0,
    shard: tuple[int, int] | None = None,
    workers: int = 4,
    ahead: int = 8,
) -> grain.DatasetIterator[DomainBatch]:
    """Returns an iterator over the batches of successive steps, without end.

    Of the labels of the target it reads those of ``labelled`` alone. Close the stream after an
    error.

    Args:
      source: Labelled records.
      target: Records; only the labels of its labelled ones matter.
      key: PRNG key of the training: the same as that of the training program.
      batch: Examples a step, over all processes, in (source, target).
      labelled: Number of labelled records of the target, its first ones, and of those in a step;
        see ``batch_indices``.
      crop: Height and width of random crops, pixels, taken before the images go to the device;
        the same as those of ``augmentation.augmented``, which is then not needed. None for
        whole images.
      mirror: Whether to mirror one half of the crops.
      first_step: Step of the first batch.
      shard: (index, count) of the processes, each of which reads its own rows of the global
        batch: the first gets the first ``batch / count``, and so on. None for those of JAX.
      workers: Threads, each of which reads whole batches; 0 to read when asked.
      ahead: Batches to read ahead.

    Returns:
      A Grain iterator of ``DomainBatch``, NumPy, uint8 images and int32 labels. ``get_state``
      and ``set_state`` give and take its position; ``close`` ends its threads.

    Raises:
      ValueError: A domain or a batch is empty, the batch does not split over the processes, the
        crop is larger than the images, or there is ``mirror`` without ``crop``.
      TypeError: The first record of a domain has no image, or a number is not whole.
      RuntimeError: From the iterator: a record cannot be read, one of ``labelled`` has no label,
        or a label is no integer.
    """
    index, count = (jax.process_index(), jax.process_count()) if shard is None else shard
    if not 0 <= index < count:
        raise ValueError(f"expected a process from 0 to {count - 1}, got {index}: change shard")
    if mirror and crop is None:
        raise ValueError("mirror without crop: give crop, the size of the images for all of them")
    check_pair(batch, "batch")
    for name, number in (("first_step", first_step), ("workers", workers), ("ahead", ahead)):
        check_count(number, name, 0)
    readers = []
    for name, records, size in zip(("source", "target"), (source, target), batch, strict=True):
        if not len(records):
            raise ValueError(f"the {name} has no records: expected at least 1")
        if size % count:
            raise ValueError(
                f"batch of {size} {name} examples cannot be split over {count} processes: "
                f"choose {multiples(size, count)}"
            )
        readers.append(_Reader(name, records, _image_shape(records[0], name), crop))
    try:
        cpu = jax.local_devices(backend="cpu")[0]  # the accelerator is busy with the updates
    except RuntimeError:  # JAX_PLATFORMS left the CPU out
        cpu = jax.local_devices()[0]
    draw = functools.partial(
        _draw,
        jax.device_put(split_key(key), cpu),
        steps=_BLOCK,
        examples=(len(source), len(target)),
        batch=tuple(batch),
        labelled=None if labelled is None else tuple(labelled),
        shapes=tuple(reader.shape for reader in readers),
        crop=crop,
        mirror=mirror,
    )
    jax.eval_shape(draw, first_step)  # raises what would otherwise come from a thread
    labels = None if labelled is None else labelled[0]
    steps = grain.MapDataset.source(
        _Batches(readers, _Schedule(draw, _BLOCK), index, count, labels)
    )
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=max(ahead, workers))
    stream = iter(steps.to_iter_dataset(options))
    stream.set_state({"next_index": first_step})
    return stream


def _image_shape(record, name):
    """Returns the shape of a record's image; raises where it is no record."""
    image = record.get("image") if isinstance(record, Mapping) else None
    if np.ndim(image) != 3 or "label" not in record:
        got = type(record).__name__
        if isinstance(record, Mapping):
            got = ", ".join(f"{key} {list(np.shape(value))}" for key, value in record.items())
        raise TypeError(
            "expected records {'image': [height, width, channel], 'label': ...}, got "
            f"{got} in record 0 of the {name}: give grey images an axis of one channel"
        )
    return np.shape(image)


@functools.partial(
    jax.jit,
    static_argnames=("steps", "examples", "batch", "labelled", "shapes", "crop", "mirror"),
)
def _draw(keys, first_step, *, steps, examples, batch, labelled, shapes, crop, mirror):
    """Returns, of each domain, the rows of some steps, ``[steps, batch]``, and their views."""
    rows = batch_indices(
        keys.order, first_step, steps=steps, examples=examples, batch=batch, labelled=labelled
    )
    if crop is None:
        return tuple((of_domain,) for of_domain in rows)

    def views(step, domain):
        return augmentation.draw_views(
            keys.noise,
            step,
            domain=domain,
            positions=jnp.arange(batch[domain]),
            shape=shapes[domain],
            size=crop,
            mirror=mirror,
        )

    numbers = first_step + jnp.arange(steps)
    return tuple((rows[d], *jax.vmap(functools.partial(views, domain=d))(numbers)) for d in (0, 1))


class _Schedule:
    """What each step reads, drawn in blocks of steps, one block ahead of the reading.

    The order of a large domain takes seconds to draw, too long for the device to wait.
    """

    def __init__(self, draw, steps):
        self._draw, self._steps = draw, steps
        self._lock = threading.Lock()
        self._block = functools.lru_cache(maxsize=3)(self._start)

    def _start(self, number):
        block = Future()

        def run():
            try:
                block.set_result(jax.device_get(self._draw(number * self._steps)))
            except Exception as error:
                block.set_exception(error)

        threading.Thread(target=run, name="draw-batches").start()
        return block

    def __call__(self, step):
        number, place = divmod(step, self._steps)
        with self._lock:
            block, _ = self._block(number), self._block(number + 1)
        return jax.tree.map(lambda table: table[place], block.result())


class _Reader(NamedTuple):
    """Reads examples of one domain."""

    name: str
    records: Records
    shape: tuple[int, int, int]  # of a stored image
    crop: int | None

    def __call__(self, rows, corners=None, mirrored=None):
        """Returns images ``[n, height, width, channel]`` uint8 and labels ``[n]`` as stored."""
        height, width, channels = self.shape
        if self.crop is not None:
            height = width = self.crop
        image = np.empty((len(rows), height, width, channels), np.uint8)
        pixels = _pixels(image)
        label = []
        try:
            for i, record in enumerate(_fetch(self.records, rows.tolist())):
                whole = record["image"]
                if (whole.dtype, whole.shape) != (np.uint8, self.shape):
                    raise ValueError(
                        f"expected uint8 {self.shape}, got {whole.dtype} {whole.shape} "
                        f"in record {rows[i]}"
                    )
                whole = _pixels(whole)
                if self.crop is not None:
                    whole = augmentation.take_view(whole, corners[i], mirrored[i], self.crop)
                pixels[i] = whole
                label.append(record["label"])
        except Exception as error:
            raise RuntimeError(f"cannot read a batch of the {self.name}: {error}") from error
        return image, np.asarray(label)

    def labels(self, rows, label):
        """Returns the labels of some records as int32; raises where one is no integer."""
        try:
            check_labels(label)
        except (TypeError, ValueError) as error:
            raise RuntimeError(
                f"cannot read labels of records {', '.join(map(str, rows))} of the {self.name}: "
                f"{error}"
            ) from error
        return label.astype(np.int32)


class _Batches:
    """All batches as a source of Grain's: element t is the batch of step t."""

    def __init__(self, readers, schedule, index, count, labels):
        self._readers, self._schedule, self._index, self._count = readers, schedule, index, count
        self._labels = labels  # how many records of the target are labelled, its first ones

    def __len__(self):
        return _LAST_STEP

    def __getitem__(self, step):
        drawn = jax.tree.map(
            lambda table: np.split(table, self._count)[self._index], self._schedule(step)
        )
        (source_image, source_label), (target_image, target_label) = (
            read(*of_domain) for read, of_domain in zip(self._readers, drawn, strict=True)
        )
        source, target = self._readers
        source_label = source.labels(drawn[0][0], source_label)
        if self._labels is None:
            return DomainBatch(source_image, source_label, target_image)
        rows, *_ = drawn[1]
        label = np.full(len(rows), -1, np.int32)
        is_labelled = rows < self._labels
        label[is_labelled] = target.labels(rows[is_labelled], target_label[is_labelled])
        for row in rows[is_labelled & (label < 0)]:
            raise RuntimeError(
                f"record {row} of the target has no label: expected one of each of the first "
                f"{self._labels}"
            )
        return DomainBatch(source_image, source_label, target_image, label)


def _fetch(records, rows):
    if hasattr(records, "__getitems__"):
        return records.__getitems__(rows)
    return [records[row] for row in rows]


def _pixels(image):
    """Returns ``[..., height, width]``: NumPy mirrors whole pixels faster than channels."""
    return np.ascontiguousarray(image).view(f"V{image.shape[-1]}")[..., 0]


def channel_mean(records: Records, *, workers: int = 4) -> np.ndarray:
    """Returns the mean of each channel over all pixels of all images: one pass over the data.

    Sums are exact, so the result does not depend on the number of threads.

    Args:
      records: The records.
      workers: Threads.

    Returns:
      Grey levels, float64 ``[channel]``.
    """

    def total(start):
        rows = range(start, min(start + _READ, len(records)))
        return sum(r["image"].sum((0, 1), dtype=np.int64) for r in _fetch(records, list(rows)))

    with ThreadPoolExecutor(workers) as pool:
        totals = list(pool.map(total, range(0, len(records), _READ)))
    height, width, _ = records[0]["image"].shape
    return sum(totals) / (len(records) * height * width)
