"""A few labels of the target join the label loss, as often as is said, and no other does."""

import contextlib
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_together import small_config

from dann_jax import (
    DomainArrays,
    DomainBatch,
    batch_indices,
    datasets,
    make_study_steps,
    make_train_steps,
    streaming,
)
from dann_jax.batches import check_arrays
from dann_jax.datasets.digits import digits_dataset_builder
from dann_jax.datasets.streamed import Streamed
from dann_jax.programs import Group
from experiments import configs, domains, record, run, studies, train
from experiments.methods import DEFAULT_METHODS, METHODS
from experiments.settings import Config

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(7)
EXAMPLES, BATCH, LABELLED = (20, 17), (4, 6), (5, 2)
NAMES = configs.find_methods("syn_signs_gtsrb_semi")
FEW_LABEL_METHODS = tuple(name for name, method in METHODS.items() if method.few_labels)
BOTH_DOMAINS = ("source-and-few-labels", "dann-and-few-labels")


@functools.partial(jax.jit, static_argnames=("steps", "examples", "batch", "labelled"))
def draw(first, steps=15, examples=EXAMPLES, batch=BATCH, labelled=LABELLED, key=KEY):
    sizes = {"examples": examples, "batch": batch, "labelled": labelled}
    return batch_indices(key, first, steps=steps, **sizes)


# --- which examples make up a batch --------------------------------------------------------


def test_labelled_examples_have_their_place_in_each_batch_and_epochs_of_their_own():
    target = np.asarray(draw(0).target)
    few, others = target[:, :2].reshape(-1, 5), target[:, 2:].reshape(-1, 12)
    np.testing.assert_array_equal(np.sort(few), np.tile(np.arange(5), (6, 1)))
    np.testing.assert_array_equal(np.sort(others), np.tile(np.arange(5, 17), (5, 1)))
    np.testing.assert_array_equal(draw(4).target[:11], target[4:])


def test_without_few_labels_the_batches_are_those_of_earlier_versions():
    indices = draw(2, steps=2, examples=(10, 7), batch=(4, 3), labelled=None)
    assert indices.source.tolist() == [[6, 0, 3, 7], [2, 0, 5, 9]]
    assert indices.target.tolist() == [[1, 4, 5], [1, 3, 2]]


def test_methods_see_the_same_source_and_the_same_labelled_examples():
    adapted, neither = draw(0), draw(0, labelled=None)
    not_adapted = draw(0, examples=(20, 5), batch=(4, 2), labelled=(5, 2))
    np.testing.assert_array_equal(not_adapted.target, np.asarray(adapted.target)[:, :2])
    np.testing.assert_array_equal(not_adapted.source, adapted.source)
    np.testing.assert_array_equal(neither.source, adapted.source)


@pytest.mark.parametrize(
    ("labelled", "message"),
    [
        ((5, 6), "the unlabelled target has 12 examples and 0 a batch"),
        ((18, 2), "the unlabelled target has -1 examples"),
        ((0, 2), "the labelled target has 0 examples and 2 a batch"),
    ],
)
def test_batches_without_one_kind_are_refused(labelled, message):
    with pytest.raises(ValueError, match=message):
        draw(0, labelled=labelled)


def test_targets_without_their_labels_are_refused():
    none = np.zeros(20, int)
    arrays = DomainArrays(np.zeros([20, 2]), none, np.zeros([17, 2]), none[:17])
    check_arrays(arrays, EXAMPLES, LABELLED)
    check_arrays(arrays._replace(target_label=None), EXAMPLES)
    for label in (None, none[:5]):
        with pytest.raises(ValueError, match="a label of each of 17 target examples"):
            check_arrays(arrays._replace(target_label=label), EXAMPLES, LABELLED)
    few = np.array([0, 2, -1, 1, 0] + [-1] * 12)
    with pytest.raises(ValueError, match="each of the first 5 target examples, got 4"):
        check_arrays(arrays._replace(target_label=few), EXAMPLES, LABELLED)
    with pytest.raises(ValueError, match="no labels of the target, got 4: leave out target_label"):
        check_arrays(arrays._replace(target_label=few), EXAMPLES)
    check_arrays(arrays._replace(target_label=np.full(17, -1)), EXAMPLES)


# --- a small experiment --------------------------------------------------------------------


def image_set(seed, n):
    images = np.random.default_rng(seed).integers(0, 256, [n, 8, 8, 3], np.uint8)
    return datasets.ImageSet(images, np.arange(n, dtype=np.int32) % 3)


CONFIG = Config(
    source="a",
    target="b",
    classes=3,
    image_size=8,
    steps=4,
    batch_size=12,
    evaluate_every=2,
    few_labels=2,
    few_labels_in_batch=2,
)
FEW = np.array([1, 2, 6, 9, 11, 13])  # labels 1, 2, 0, 0, 2, 1
PAIR = domains.Pair(
    image_set(0, 30),
    image_set(1, 6),
    image_set(2, 24),
    image_set(3, 9),
    ("x", "y", "z"),
    True,
    None,
    {
        name: {"examples": examples, "sha256": "0" * 64}
        for name, examples in {
            "a/train": 30,
            "a/test": 6,
            "b/train": 24,
            "b/test": 9,
            "few labels": 6,
        }.items()
    },
    FEW,
)


@functools.cache
def prepared(method, count=1):
    """A study, whose programs are compiled but once."""
    with small_config(CONFIG, PAIR):
        return studies.prepare(CONFIG, METHODS[method], PAIR, jax.local_devices()[:count])


def relabelled(positions):
    """The pair with other labels of some training images of the target."""
    label = PAIR.target_train.label.copy()
    label[positions] = (label[positions] + 1) % 3
    return PAIR._replace(target_train=PAIR.target_train._replace(label=label))


def streamed(images):
    """The images as records on disk would be."""

    class Stored(list):
        def __getitems__(self, indices):
            return [self[i] for i in indices]

    records = [{"image": i, "label": n} for i, n in zip(*images, strict=True)]
    return Streamed(Stored(records), 8, "b")


STREAMED = PAIR._replace(
    **{name: streamed(getattr(PAIR, name)) for name in ("source_train", "target_train")}
)


def trained(ready, folder, keys=(3,), **options):
    """The record of key 3, as it is written."""
    train.train(ready, list(keys), folder, **options)
    return record.read_record(folder, 3)


@pytest.fixture(scope="module")
def whole(quick_compilation, tmp_path_factory):
    """The record of key 3 of each method that has images of both domains."""
    folder = tmp_path_factory.mktemp("whole")
    return {method: trained(prepared(method), folder / method) for method in BOTH_DOMAINS}


def assert_near(record, other):
    for name in ("curves", "evaluations"):
        for entry, expected in zip(record[name], other[name], strict=True):
            assert entry == pytest.approx(expected, abs=1e-4), name


def test_what_each_method_trains_on():
    few = PAIR.target_train.image[FEW]
    alone = domains.training_arrays(PAIR, METHODS["few-labels"])
    np.testing.assert_array_equal(alone.source_image, few)
    assert alone.source_label.tolist() == [1, 2, 0, 0, 2, 1]
    assert alone.target_label is None
    both = domains.training_arrays(PAIR, METHODS["source-and-few-labels"])
    assert both.source_image is PAIR.source_train.image
    np.testing.assert_array_equal(both.target_image, few)
    assert both.target_label.tolist() == [1, 2, 0, 0, 2, 1]
    adapted = domains.training_arrays(PAIR, METHODS["dann-and-few-labels"])
    assert adapted.source_image is PAIR.source_train.image
    np.testing.assert_array_equal(adapted.target_image[:6], few)
    assert adapted.target_label.tolist() == [1, 2, 0, 0, 2, 1] + [-1] * 18
    assert adapted.target_label.dtype == np.int32
    images = {image.tobytes() for image in adapted.target_image}
    assert images == {image.tobytes() for image in PAIR.target_train.image}
    assert domains.training_arrays(PAIR, METHODS["dann"]).target_label is None


def test_the_mean_is_that_of_the_training_images():
    few = PAIR.target_train.image[FEW].mean((0, 1, 2))
    source = PAIR.source_train.image.mean((0, 1, 2))
    alone = domains.preprocessing(CONFIG, PAIR, METHODS["few-labels"])
    np.testing.assert_allclose([alone.source_mean, alone.target_mean], [few, few])
    joint = domains.preprocessing(CONFIG, PAIR, METHODS["source-and-few-labels"])
    np.testing.assert_allclose(joint.source_mean, (30 * source + 6 * few) / 36)
    adapted = domains.preprocessing(CONFIG, PAIR, METHODS["dann-and-few-labels"])
    assert adapted == domains.preprocessing(CONFIG, PAIR, METHODS["dann"])


def test_no_other_label_of_the_target_is_trained_on():
    scrambled = relabelled(np.delete(np.arange(24), FEW))
    for method in NAMES:
        before = domains.training_arrays(PAIR, METHODS[method])
        after = domains.training_arrays(scrambled, METHODS[method])
        jax.tree.map(np.testing.assert_array_equal, after, before)
        few = domains.training_arrays(relabelled(FEW), METHODS[method])
        joined = [before.source_label, before.target_label], [few.source_label, few.target_label]
        same = all(np.array_equal(a, b) for a, b in zip(*joined, strict=True))
        assert same == (method not in FEW_LABEL_METHODS)


def test_few_labels_change_nothing_for_the_other_methods():
    none = dataclasses.replace(CONFIG, few_labels=None), PAIR._replace(few=None)
    for method in filter(lambda name: METHODS[name].trains_on, DEFAULT_METHODS):
        assert domains.batch_sizes(CONFIG, PAIR, METHODS[method]) == ((6, 6), None)
        assert domains.batch_sizes(*none, METHODS[method]) == ((6, 6), None)
        for a, b in zip(
            domains.training_arrays(PAIR, METHODS[method]),
            domains.training_arrays(none[1], METHODS[method]),
            strict=True,
        ):
            assert a is b
        before = domains.preprocessing(*none, METHODS[method])
        assert before == domains.preprocessing(CONFIG, PAIR, METHODS[method])


def batches(method, key):
    """The first batches of a training, drawn by the definition."""
    arrays = domains.training_arrays(PAIR, METHODS[method])
    batch, labelled = domains.batch_sizes(CONFIG, PAIR, METHODS[method])
    examples = len(arrays.source_image), len(arrays.target_image)
    rows = draw(0, 3, examples, batch, labelled, jax.random.split(key)[0])
    label = arrays.target_label
    return [
        DomainBatch(
            arrays.source_image[s],
            arrays.source_label[s],
            arrays.target_image[t],
            None if label is None else label[t],
        )
        for s, t in zip(*map(np.asarray, rows), strict=True)
    ]


@pytest.mark.parametrize("method", BOTH_DOMAINS)
def test_the_label_loss_is_the_mean_over_all_labelled_examples_of_the_batch(method):
    ready, group = prepared(method), Group((3,), 1)
    state, key = ready.start(group)
    drawn = batches(method, key)[0]
    label = np.concatenate([drawn.source_label, drawn.target_label])
    assert (label >= 0).sum() == 6 + 2
    image = np.concatenate([drawn.source_image, drawn.target_image]).astype(np.float32)
    preprocess = domains.preprocessing(CONFIG, PAIR, METHODS[method])
    image = (image - np.array(preprocess.source_mean)) / CONFIG.input_scale
    theta = jax.device_get(state.theta)
    (bias_f, weight_f), (bias_y, weight_y) = (jax.tree.leaves(theta[part]) for part in "fy")
    z = np.maximum(image.reshape(len(image), -1) @ weight_f + bias_f, 0) @ weight_y + bias_y
    losses = np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), label]
    with ready.opened(group, key, 0) as data:
        _, metrics = ready.program(group)(state, data, key, 1)
    np.testing.assert_allclose(metrics.label_loss[0], losses[label >= 0].mean(), rtol=1e-4)


class CutOff(Exception):
    pass


@pytest.mark.parametrize("method", BOTH_DOMAINS)
def test_a_training_that_was_cut_off_goes_on_with_the_same_numbers(method, whole, tmp_path):
    def cut(told):
        if told.step > 2:
            raise CutOff

    ready = prepared(method)
    with pytest.raises(CutOff):
        train.train(ready, [3], tmp_path, checkpoint_every=2, report=cut)
    told = []
    resumed = trained(ready, tmp_path, report=told.append)
    assert min(report.step for report in told) > 2, "from the checkpoint"
    for name in ("curves", "evaluations"):
        assert resumed[name] == whole[method][name]


def test_two_devices_have_the_numbers_of_one(whole, tmp_path, devices):
    # The second has no labelled example of the target.
    record = trained(prepared("dann-and-few-labels", 2), tmp_path)
    assert_near(record, whole["dann-and-few-labels"])


def test_keys_trained_together_have_the_numbers_of_each_alone(whole, tmp_path):
    method = "source-and-few-labels"
    record = trained(prepared(method), tmp_path, keys=(3, 4), together=None)
    assert record["together"] == [3, 4]
    assert_near(record, whole[method])


@pytest.mark.parametrize("method", NAMES)
def test_streamed_batches_are_those_in_memory(method):
    with small_config(CONFIG, PAIR):
        ready = studies.prepare(CONFIG, METHODS[method], STREAMED, jax.local_devices()[:1])
    key = jax.random.key(3)
    with ready.opened(Group((3,), 1), key, 0) as stream:
        for batch in batches(method, key):
            jax.tree.map(np.testing.assert_array_equal, next(stream), batch)


def test_a_stream_has_the_labels_of_the_labelled_alone():
    target = streamed(PAIR.target_train)  # all records have a label
    sizes = {"batch": (4, 6), "labelled": (5, 2), "workers": 1}
    key = jax.random.key(3)
    shards = [
        streaming.batch_stream(streamed(PAIR.source_train), target, key, shard=(i, 2), **sizes)
        for i in (0, 1)
    ]
    with contextlib.closing(shards[0]), contextlib.closing(shards[1]):
        first, second = (next(shard) for shard in shards)
    assert (first.target_label >= 0).tolist() == [True, True, False]
    assert second.target_label.tolist() == [-1] * 3


def test_a_stream_has_no_labelled_example_without_its_label():
    few = PAIR.target_train._replace(label=np.full(24, -1))
    sizes = {"batch": (4, 6), "labelled": (5, 2), "workers": 0}
    stream = streaming.batch_stream(streamed(PAIR.source_train), streamed(few), KEY, **sizes)
    refusal = pytest.raises(RuntimeError, match="record [0-4] of the target has no label.* first 5")
    with contextlib.closing(stream), refusal:
        next(stream)


class Counter(NamedTuple):
    """A state that nothing is learnt in."""

    step: jax.Array


@pytest.mark.parametrize("together", [False, True])
def test_batches_in_memory_have_the_labels_of_the_labelled_alone(together):
    arrays = DomainArrays(*PAIR.source_train, *PAIR.target_train)  # all examples have a label
    seen = []

    def make_update(*_, axis_name=None):
        def update(state, batch, key):
            jax.debug.callback(lambda label: seen.append(np.asarray(label)), batch.target_label)
            return Counter(state.step + 1), {}

        return update

    options = {"examples": (30, 24), "batch": (4, 6), "labelled": (5, 2)}
    options |= {"preprocess": lambda batch: batch, "devices": jax.local_devices()[:1]}
    if together:
        states, keys = Counter(jnp.zeros(2, int)), jax.random.split(KEY)
        make_study_steps(make_update, fused=True, **options)(states, arrays, keys, 2)
    else:
        make_train_steps(make_update, fused=True, **options)(Counter(jnp.array(0)), arrays, KEY, 2)
    jax.effects_barrier()
    assert len(seen) == (4 if together else 2)
    for label in seen:
        assert (label >= 0).tolist() == [True] * 2 + [False] * 4


# --- the program ---------------------------------------------------------------------------


def test_the_command_line_trains_with_few_labels(tmp_path, capsys):
    ready = {method: prepared(method) for method in BOTH_DOMAINS}
    where = ["--output", str(tmp_path), "--devices", "1"]
    with small_config(CONFIG, PAIR) as patch:
        patch.setattr(studies, "prepare", lambda config, method, *_: ready[method.name])
        assert run.main(["small", *where, "--methods", *ready]) == 0
    told = capsys.readouterr().out
    for method in ready:
        assert f"{method} key 0 step 4" in told
        result = record.read(tmp_path / "small" / f"{method}.json")
        assert (result["domain_loss"] is None) == (method == "source-and-few-labels")
        assert result["resolved_config"]["few_labels"] == 2
        assert result["curves"][0]["evaluations"]["step"] == [2, 4]
    assert (tmp_path / "small" / "curves.png").exists()


def test_an_experiment_has_the_usual_methods_or_its_own():
    assert set(NAMES) == {"source-only", "dann", *FEW_LABEL_METHODS}
    assert configs.find_methods("syn_signs_gtsrb") == DEFAULT_METHODS
    semi, _ = configs.find_config("syn_signs_gtsrb_semi")
    usual, _ = configs.find_config("syn_signs_gtsrb")
    assert dataclasses.replace(semi, few_labels=None, evaluate_every=usual.evaluate_every) == usual


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--methods", "few-labels"], "few-labels trains on some labels of the target"),
        (["--few-labels", "0"], "few_labels must be at least 1"),
        (["--few-labels", "1", "--batch-size", "32"], "target half of a batch, 16, got 16"),
        (["--few-labels", "1", "--few-labels-in-batch", "0"], "must be at least 1"),
        (["--few-labels-in-batch", "-4"], "few_labels_in_batch must be at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_told_before_anything_starts(options, hint, tmp_path, capsys):
    output = ["--output", str(tmp_path)]
    try:
        status = run.main(["digits_digits_m", *output, *options])
    except SystemExit as stop:
        status = stop.code
    told = capsys.readouterr()
    assert status == 2
    assert hint in " ".join((told.err + told.out).split())
    assert list(tmp_path.iterdir()) == []


def test_a_pair_without_few_labels_is_refused():
    with pytest.raises(ValueError, match="set few_labels"):
        domains.training_sets(PAIR._replace(few=None), METHODS["dann-and-few-labels"])
    without = dataclasses.replace(CONFIG, few_labels=None)
    with pytest.raises(ValueError, match="few-labels trains on some labels"):
        studies.prepare(without, METHODS["few-labels"], PAIR, [])


def test_labels_that_devices_cannot_share_are_refused(devices):
    with pytest.raises(ValueError, match="2 target examples cannot be split over 3 devices"):
        prepared("source-and-few-labels", count=3).program(Group((3,), 3))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Prepares digits, 4 training and 2 test images a class, but 3 to train on of the sixes."""
    few = {"train": (4,) * 6 + (3,) + (4,) * 3, "test": (2,) * 10}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits_dataset_builder.Builder, "CLASS_COUNTS", few)
        folder = tmp_path_factory.mktemp("data")
        datasets.prepare("digits", data_dir=folder)
        yield folder


def test_few_images_of_each_class_are_labelled_the_same_ones_each_time(data_dir):
    config = Config(source="digits", target="digits", few_labels=3)
    pair = domains.load_pair(config, data_dir=data_dir)
    assert np.bincount(pair.target_train.label[pair.few]).tolist() == [3] * 10
    stored = domains.load_pair(config, data_dir=data_dir, streaming=True)
    np.testing.assert_array_equal(stored.few, pair.few)
    assert stored.provenance == pair.provenance
    assert pair.provenance["few labels"]["examples"] == 30
    fewer = domains.load_pair(dataclasses.replace(config, few_labels=2), data_dir=data_dir)
    assert fewer.provenance["few labels"] != pair.provenance["few labels"]
    with pytest.raises(ValueError, match="3 labelled training images of '6': expected at most"):
        domains.load_pair(dataclasses.replace(config, few_labels=4), data_dir=data_dir)
    with pytest.raises(ValueError, match="tested on the images that are trained on"):
        domains.load_pair(dataclasses.replace(config, target_test="train"), data_dir=data_dir)
