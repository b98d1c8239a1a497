"""Streamed batches and trainings are those in memory, whole or resumed, on one host or more."""

import contextlib
import functools
import threading
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import (
    DannModel,
    DomainArrays,
    batch_indices,
    checkpoints,
    datasets,
    gather,
    init_state,
    make_optimizer,
    make_update_step,
    programs,
    replicate,
    streaming,
)
from dann_jax.augmentation import augmented, draw_views, take_views
from dann_jax.datasets import image_builder
from dann_jax.datasets.digits import digits_dataset_builder
from dann_jax.datasets.image_records import ImageRecords
from dann_jax.networks import FullyConnected

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(3)
SIZES = (20, 12)
BATCH = (8, 4)
CROP = 4

random = np.random.default_rng(0)
ARRAYS = DomainArrays(
    random.integers(0, 256, [SIZES[0], 6, 7, 3], np.uint8),
    random.integers(0, 3, SIZES[0], np.int32),
    random.integers(0, 256, [SIZES[1], 6, 6, 3], np.uint8),
)


def records(images, labels=None):
    labels = [-1] * len(images) if labels is None else labels
    return [{"image": i, "label": n} for i, n in zip(images, labels, strict=True)]


SOURCE = records(ARRAYS.source_image, ARRAYS.source_label)
TARGET = records(ARRAYS.target_image)


@contextlib.contextmanager
def opened(source=SOURCE, target=TARGET, key=KEY, *, batch=BATCH, **options):
    options = {"workers": 2, "ahead": 3} | options
    with contextlib.closing(
        streaming.batch_stream(source, target, key, batch=batch, **options)
    ) as stream:
        yield stream


def taken(stream, count):
    return [next(stream) for _ in range(count)]


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@functools.partial(jax.jit, static_argnames=("steps", "examples", "batch"))
def drawn(first, steps, examples=SIZES, batch=BATCH):
    order_key, _ = jax.random.split(KEY)
    return batch_indices(order_key, first, steps=steps, examples=examples, batch=batch)


def in_memory(first, steps):
    indices = zip(*map(np.asarray, drawn(first, steps)), strict=True)
    return [jax.device_get(gather(ARRAYS, *of_step)) for of_step in indices]


def until(holds, seconds=10.0):
    """Waits for what threads are about to do, and returns whether they did."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    """Blocks of few steps, which most of the tests cross."""
    monkeypatch.setattr(streaming, "_BLOCK", 3)


# --- the batches -------------------------------------------------------------------------


@pytest.mark.parametrize("block", [3, 100], ids=["many blocks", "one block"])
def test_streamed_batches_are_those_in_memory(monkeypatch, block):
    monkeypatch.setattr(streaming, "_BLOCK", block)
    with opened() as stream:  # ten epochs of the source, three of the target
        got = taken(stream, 25)
    for batch, want in zip(got, in_memory(0, 25), strict=True):
        assert batch.source_image.dtype == batch.target_image.dtype == np.uint8
        assert batch.source_label.dtype == np.int32
        equal(batch, want)


def test_batches_far_into_a_training_are_those_in_memory():
    first = 2**30 + 5
    with opened(first_step=first) as stream:
        equal(taken(stream, 2), in_memory(first, 2))


@functools.partial(jax.jit, static_argnames="domain")
def seen_on_the_device(images, step, domain):
    _, noise_key = jax.random.split(KEY)
    views = draw_views(
        noise_key,
        step,
        domain=domain,
        positions=jnp.arange(len(images)),
        shape=images.shape,
        size=CROP,
        mirror=True,
    )
    return take_views(images, views, CROP)


def test_crops_before_the_transfer_are_those_on_the_device():
    with opened(crop=CROP, mirror=True) as stream:
        got = taken(stream, 4)
    for step, (batch, whole) in enumerate(zip(got, in_memory(0, 4), strict=True)):
        for d, field in enumerate(("source_image", "target_image")):
            want = seen_on_the_device(getattr(whole, field), step, d)
            np.testing.assert_array_equal(getattr(batch, field), want)


def test_the_shards_of_the_processes_make_the_global_batch():
    shards = []
    for index in range(4):
        with opened(shard=(index, 4), crop=CROP) as stream:
            shards.append(taken(stream, 5))
    with opened(crop=CROP) as stream:
        want = taken(stream, 5)
    for step in range(5):
        parts = [shard[step] for shard in shards]
        equal(jax.tree.map(lambda *x: np.concatenate(x), *parts), want[step])


class Watched(list):
    """Records that know which of them were read, in which order."""

    def __getitem__(self, index):
        self.read = [*getattr(self, "read", []), index]
        return super().__getitem__(index)


def test_a_process_reads_its_own_rows_alone():
    source = Watched(SOURCE)
    with opened(source, shard=(1, 4), workers=0) as stream:
        source.read = []  # one was read to learn the shape
        taken(stream, 5)
    assert source.read == np.ravel(drawn(0, 5).source[:, 2:4]).tolist()


def test_batches_are_read_before_they_are_asked_for():
    source = Watched(SOURCE)
    with opened(source, workers=1, ahead=3) as stream:
        source.read = []
        taken(stream, 1)
        assert until(lambda: len(source.read) == 4 * BATCH[0])  # the one taken and three more


# --- the position ------------------------------------------------------------------------


def test_a_restored_position_gives_the_same_batches(tmp_path):
    with opened() as stream:
        taken(stream, 6)
        checkpoints.save(tmp_path / "run", stream.get_state())
        want = taken(stream, 4)
    with opened() as stream:
        taken(stream, 1)  # wherever it stood
        stream.set_state(checkpoints.restore(tmp_path / "run", stream.get_state()))
        equal(taken(stream, 4), want)
        stream.set_state({"next_index": 6})
        equal(taken(stream, 1), want[:1])


# --- training ----------------------------------------------------------------------------


class Features(nn.Module):
    """Dense features of flattened images, with dropout."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = jnp.tanh(nn.Dense(6)(x.reshape(len(x), -1)))
        return nn.Dropout(0.5, deterministic=not train)(x)


MODEL = DannModel(
    feature_extractor=Features(),
    label_predictor=FullyConnected((), 3),
    domain_classifier=FullyConnected((5,), 1),
)
OPTIMIZER = make_optimizer(0.1)
make_update = functools.partial(make_update_step, MODEL, OPTIMIZER, 0.5)


def preprocess(batch):
    def scale(image):
        return (image.astype(jnp.float32) - 100.0) / 100.0

    return batch._replace(
        source_image=scale(batch.source_image), target_image=scale(batch.target_image)
    )


@functools.cache
def _first():
    image = jnp.zeros([2, CROP, CROP, 3])
    init = jax.jit(functools.partial(init_state, MODEL, OPTIMIZER))
    return jax.tree.map(np.array, init(jax.random.key(1), image))


def start(count=1):
    return replicate(jax.tree.map(np.copy, _first()), jax.devices()[:count])


@functools.cache
def streamed(count=1):
    return programs.make_stream_steps(
        make_update, preprocess=preprocess, devices=jax.devices()[:count]
    )


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


@pytest.mark.parametrize("count", [1, 4])
def test_streamed_training_is_that_in_memory(count, devices):
    train = programs.make_train_steps(
        augmented(make_update, size=CROP, mirror=True),
        examples=SIZES,
        batch=BATCH,
        preprocess=preprocess,
        devices=devices[:count],
        fused=False,
    )
    want = train(start(count), replicate(ARRAYS, devices[:count]), KEY, 7)
    with opened(crop=CROP, mirror=True) as stream:
        state, first = streamed(count)(start(count), stream, KEY, 3)
        assert stream.get_state() == {"next_index": 3}
        state, second = streamed(count)(state, stream, KEY, 4)
    metrics = jax.tree.map(lambda *m: np.concatenate(m), first, second)
    assert int(state.step) == 7
    close((state, metrics), want)


def test_a_killed_training_goes_on_with_the_same_losses(tmp_path):
    with opened(crop=CROP) as stream:
        state, _ = streamed()(start(), stream, KEY, 4)
        saved = {"state": jax.device_get(state), "stream": stream.get_state()}
        checkpoints.save(tmp_path / "run", saved)
        want = streamed()(state, stream, KEY, 5)
    with opened(crop=CROP) as stream:
        like = {"state": _first(), "stream": stream.get_state()}
        restored = checkpoints.restore(tmp_path / "run", like)
        stream.set_state(restored["stream"])
        equal(streamed()(replicate(restored["state"], jax.devices()[:1]), stream, KEY, 5), want)


def test_a_loop_of_ones_own_trains_the_same():
    _, noise_key = jax.random.split(KEY)
    update = jax.jit(make_update(axis_name=None))
    state = start()
    with opened(crop=CROP) as stream:
        for batch, _ in zip(stream, range(3), strict=False):
            state, _ = update(state, preprocess(jax.device_put(batch)), noise_key)
    with opened(crop=CROP) as stream:
        close(state, streamed()(start(), stream, KEY, 3)[0])


def test_a_stream_at_another_step_is_refused():
    refusal = pytest.raises(ValueError, match="the stream is at step 2 and the state at 0")
    with opened(crop=CROP, first_step=2) as stream, refusal:
        streamed()(start(), stream, KEY, 1)


def test_a_batch_that_does_not_split_over_the_devices_is_refused(devices):
    refusal = pytest.raises(ValueError, match="batch of 6 examples cannot be split over 4 devices")
    with opened(crop=CROP, batch=(8, 6)) as stream, refusal:
        streamed(4)(start(4), stream, KEY, 1)


# --- workers -----------------------------------------------------------------------------


def test_closing_ends_the_threads():
    before = set(threading.enumerate())
    with opened() as stream:
        taken(stream, 2)
        assert set(threading.enumerate()) - before
    assert until(lambda: not set(threading.enumerate()) - before)


class Broken(list):
    def __getitem__(self, index):
        if index == 13:
            raise OSError("record 13 is torn")
        return super().__getitem__(index)


def test_errors_of_workers_reach_the_reader():
    torn = pytest.raises(RuntimeError, match="a batch of the source: record 13 is torn")
    with opened(Broken(SOURCE)) as stream, torn:
        taken(stream, 3)  # more than an epoch


def test_images_of_another_shape_are_refused():
    target = records([*ARRAYS.target_image[:-1], ARRAYS.target_image[-1][:5]])
    with (
        opened(target=target, crop=CROP) as stream,
        pytest.raises(RuntimeError, match=r"target: expected uint8 \(6, 6, 3\), got uint8 \(5,"),
    ):
        taken(stream, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": []}, "the source has no records"),
        ({"shard": (4, 4)}, "expected a process from 0 to 3, got 4"),
        ({"shard": (0, 3)}, "8 source examples cannot be split over 3 processes: choose 6 or 9"),
        ({"mirror": True}, "mirror without crop"),
        ({"batch": (8, 0)}, "the target has 12 examples and 0 a batch"),
        ({"crop": 7}, "expected a crop of 1 to 6 pixels for images of 6x7, got 7"),
    ],
)
def test_errors_say_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message), opened(**options):
        pass


# --- prepared data sets ------------------------------------------------------------------


@pytest.fixture
def digits(monkeypatch, tmp_path):
    counts = {"train": (2,) * 10, "test": (1,) * 10}
    monkeypatch.setattr(digits_dataset_builder.Builder, "CLASS_COUNTS", counts)
    return datasets.prepare("digits", data_dir=tmp_path)


def test_a_prepared_data_set_is_streamed(digits):
    images, labels = digits.read("train")
    stored = ImageRecords(digits, "train")
    assert len(stored) == 20
    np.testing.assert_array_equal(stored[-1]["image"], images[-1])
    with opened(stored, stored, batch=(5, 5)) as stream:
        got = taken(stream, 4)  # an epoch
    source, target = map(np.asarray, drawn(0, 4, (20, 20), (5, 5)))
    for step, batch in enumerate(got):
        np.testing.assert_array_equal(batch.source_image, images[source[step]])
        np.testing.assert_array_equal(batch.source_label, labels[source[step]])
        np.testing.assert_array_equal(batch.target_image, images[target[step]])


def test_the_channel_mean_is_exact(digits, monkeypatch):
    monkeypatch.setattr(streaming, "_READ", 3)
    np.testing.assert_array_equal(
        streaming.channel_mean(SOURCE), ARRAYS.source_image.mean((0, 1, 2), dtype=np.float64)
    )
    mean = streaming.channel_mean(ImageRecords(digits, "train"))
    np.testing.assert_array_equal(mean, digits.read("train")[0].mean((0, 1, 2), dtype=np.float64))


def test_a_damaged_record_is_named(digits, monkeypatch):
    def pixels(content):
        raise OSError("broken PNG file")

    stored = ImageRecords(digits, "train")
    monkeypatch.setattr(image_builder, "pixels", pixels)
    with pytest.raises(
        ValueError, match=r"digits-train.* got record 7, .* \(broken PNG file\): delete"
    ):
        stored[7]
    with pytest.raises(IndexError):
        stored[20]
