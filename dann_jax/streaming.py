"""Training on data that do not fit in memory: batches read ahead through Grain.

The batch of step t is the one that ``make_train_steps`` draws on the device for the same key,
here read from records on disk by threads, while the device is busy with the steps before it:

    source = ImageRecords(datasets.prepare("syn_signs"), "train")
    target = ImageRecords(datasets.prepare("gtsrb"), "train")
    train = make_train_steps(make_update, preprocess=preprocess)
    with contextlib.closing(batch_stream(source, target, key, batch=(64, 64))) as stream:
        state, metrics = train(state, stream, key, 1000)

or with a loop of one's own:

    _, noise_key = jax.random.split(key)
    update = jax.jit(make_update_step(model, optimizer, lam), donate_argnums=0)
    for batch in stream:
        state, metrics = update(state, preprocess(jax.device_put(batch)), noise_key)

where calls return before the device is done, so that reading and copying the next batch take
place meanwhile. A position in the stream is a step, ``stream.get_state()`` is a pytree to be
saved with a checkpoint, and ``stream.set_state`` goes there at once.
"""

import functools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import augmentation, training
from dann_jax.batches import DomainBatch, batch_indices
from dann_jax.training import Metrics, TrainState

__all__ = ["Records", "batch_stream", "channel_mean", "make_train_steps"]

_BLOCK = 4096  # steps drawn at once: an epoch's order costs as much for one step as for all
_LAST_STEP = 2**31 - 1  # of TrainState
_IN_FLIGHT = 2  # steps that the device is given before the host waits for it
_READ = 100  # records fetched at once where there are no batches


class Records(Protocol):
    """A sequence of ``{"image": ..., "label": ...}`` that can be read in any order.

    An image is uint8 ``[height, width, channel]``, all of one shape; a label is an integer, -1
    where it is not known. Where there is ``__getitems__``, it is called with many indices at
    once. ``datasets.records.ImageRecords`` are the records of a prepared data set.
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

    Labels of the target are not looked at, but those of ``labelled``. After an error the stream
    is to be closed.

    Args:
      source: Labelled records.
      target: Records; labels matter of its labelled ones alone.
      key: PRNG key of the training: the one that the training program gets.
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
      workers: Threads, each of which makes a whole batch; 0 to read when asked.
      ahead: Batches that are kept ready.

    Returns:
      A Grain iterator of ``DomainBatch``, NumPy, uint8 images and int32 labels. ``get_state``
      and ``set_state`` give and take its position; ``close`` ends its threads.

    Raises:
      ValueError: A domain or a batch is empty, the batch does not split over the processes, the
        crop is larger than the images, or there is ``mirror`` without ``crop``.
      RuntimeError: From the iterator: a record cannot be read, or one of ``labelled`` has no label.
    """
    index, count = (jax.process_index(), jax.process_count()) if shard is None else shard
    if not 0 <= index < count:
        raise ValueError(f"expected a process from 0 to {count - 1}, got {index}: change shard")
    if mirror and crop is None:
        raise ValueError("mirror without crop: give crop, the size of the images for all of them")
    readers = []
    for name, found, size in zip(("source", "target"), (source, target), batch, strict=True):
        if not len(found):
            raise ValueError(f"the {name} has no records: expected at least 1")
        if size % count:
            raise ValueError(
                f"batch of {size} {name} examples cannot be split over {count} processes: "
                f"make the batch size a multiple of {count}"
            )
        readers.append(_Reader(name, found, found[0]["image"].shape, crop))
    try:
        cpu = jax.local_devices(backend="cpu")[0]  # the accelerator is busy with the updates
    except RuntimeError:  # JAX_PLATFORMS left the CPU out
        cpu = jax.local_devices()[0]
    draw = functools.partial(
        _draw,
        jax.device_put(jax.random.split(key), cpu),
        steps=_BLOCK,
        examples=(len(source), len(target)),
        batch=tuple(batch),
        labelled=None if labelled is None else tuple(labelled),
        shapes=tuple(reader.shape for reader in readers),
        crop=crop,
        mirror=mirror,
    )
    jax.eval_shape(draw, first_step)  # raises what would otherwise come from a thread
    known = None if labelled is None else labelled[0]
    steps = grain.MapDataset.source(_Batches(readers, _Schedule(draw, _BLOCK), index, count, known))
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=max(ahead, workers))
    stream = iter(steps.to_iter_dataset(options))
    stream.set_state({"next_index": first_step})
    return stream


@functools.partial(
    jax.jit,
    static_argnames=("steps", "examples", "batch", "labelled", "shapes", "crop", "mirror"),
)
def _draw(keys, first_step, *, steps, examples, batch, labelled, shapes, crop, mirror):
    """Returns, of each domain, the rows of some steps, ``[steps, batch]``, and their views."""
    order_key, noise_key = keys
    rows = batch_indices(
        order_key, first_step, steps=steps, examples=examples, batch=batch, labelled=labelled
    )
    if crop is None:
        return tuple((of_domain,) for of_domain in rows)

    def views(step, domain):
        return augmentation.draw_views(
            noise_key,
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
        """Returns images ``[n, height, width, channel]`` uint8 and labels ``[n]`` int32."""
        height, width, channels = self.shape
        if self.crop is not None:
            height = width = self.crop
        image = np.empty((len(rows), height, width, channels), np.uint8)
        pixels = _pixels(image)
        label = np.empty(len(rows), np.int32)
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
                pixels[i], label[i] = whole, record["label"]
        except Exception as error:
            raise RuntimeError(f"cannot read a batch of the {self.name}: {error}") from error
        return image, label


class _Batches:
    """All batches as a source of Grain's: element t is the batch of step t."""

    def __init__(self, readers, schedule, index, count, known):
        self._readers, self._schedule, self._index, self._count = readers, schedule, index, count
        self._known = known  # how many labels of the target are; None for none, and no labels

    def __len__(self):
        return _LAST_STEP

    def __getitem__(self, step):
        mine = jax.tree.map(
            lambda drawn: np.split(drawn, self._count)[self._index], self._schedule(step)
        )
        (source_image, source_label), (target_image, target_label) = (
            read(*drawn) for read, drawn in zip(self._readers, mine, strict=True)
        )
        known = None
        if self._known is not None:
            rows = mine[1][0]
            known = np.where(rows < self._known, target_label, np.int32(-1))
            for row in rows[(rows < self._known) & (known < 0)]:
                raise RuntimeError(
                    f"record {row} of the target has no label: expected one of each of the first "
                    f"{self._known}"
                )
        return DomainBatch(source_image, source_label, target_image, known)


def _fetch(found, rows):
    if hasattr(found, "__getitems__"):
        return found.__getitems__(rows)
    return [found[row] for row in rows]


def _pixels(image):
    """Returns ``[..., height, width]``: NumPy mirrors whole pixels faster than channels."""
    return np.ascontiguousarray(image).view(f"V{image.shape[-1]}")[..., 0]


def channel_mean(found: Records, *, workers: int = 4) -> np.ndarray:
    """Returns the mean of each channel over all pixels of all images: one pass over the data.

    Sums are exact, so the result does not depend on the number of threads.

    Args:
      found: The records.
      workers: Threads.

    Returns:
      Grey levels, float64 ``[channel]``.
    """

    def total(start):
        rows = range(start, min(start + _READ, len(found)))
        return sum(r["image"].sum((0, 1), dtype=np.int64) for r in _fetch(found, list(rows)))

    with ThreadPoolExecutor(workers) as pool:
        totals = list(pool.map(total, range(0, len(found), _READ)))
    height, width, _ = found[0]["image"].shape
    return sum(totals) / (len(found) * height * width)


def make_train_steps(
    make_update: Callable[..., Callable],
    *,
    preprocess: Callable[[DomainBatch], DomainBatch],
    devices: list[jax.Device] | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns the program of ``training.make_train_steps`` for batches from a stream.

    The state is donated. A batch is read and copied to the devices while they are busy with the
    one before it; no batch is taken that is not trained on, so that between two calls the
    position of the stream is the step.

    Args:
      make_update: ``axis_name -> update``, see ``training.make_train_steps``.
      preprocess: Turns a batch as streamed into one that G_f takes, inside the program.
      devices: Devices to use; None for all local ones. On those of several processes each takes
        its own rows of the global batch, which are what its stream gives.

    Returns:
      ``train(state, stream, key, steps) -> (state, metrics)``, with the key that
      ``batch_stream`` got. Put ``state`` on the devices with ``training.replicate`` first.

    Raises:
      ValueError: From the program: the stream stands at another step than the state, or the
        batch does not split evenly over the devices.
    """
    devices = training.grouped(devices)
    count = len(devices)
    update = make_update(axis_name=training.AXIS if count > 1 else None)

    def step(state, batch, key):
        _, noise_key = jax.random.split(key)
        return update(state, preprocess(batch), noise_key)

    compiled = training.compile_over(devices, step, (None, 0, None))
    shares = training.shares(devices)
    local = shares.num_devices

    def place(batch):
        if count > 1:
            for x in jax.tree.leaves(batch):
                if len(x) % local:
                    raise ValueError(
                        f"batch of {len(x)} examples cannot be split over {local} devices: "
                        f"make the batch size a multiple of {local}"
                    )
            batch = jax.tree.map(lambda x: x.reshape(local, -1, *x.shape[1:]), batch)
        return jax.device_put(batch, shares)

    def train(state, stream, key, steps):
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        first = stream.get_state()["next_index"]
        batch = place(next(stream))
        if first != int(state.step):  # waits for the device, which by now has a batch to go on
            raise ValueError(
                f"the stream is at step {first} and the state at {int(state.step)}: "
                "set the stream to the step of the state"
            )
        metrics = []
        for s in range(steps):
            state, seen = compiled(state, batch, key)
            metrics.append(seen)
            if s + 1 < steps:
                batch = place(next(stream))
            if s >= _IN_FLIGHT:  # or the batches of many steps would pile up on the device
                jax.block_until_ready(metrics[s - _IN_FLIGHT])
        return state, jax.tree.map(lambda *m: jnp.stack(m), *metrics)

    return train
