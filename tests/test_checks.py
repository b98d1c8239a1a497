"""Labels and domains that are none are refused by every way in, before anything is compiled."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import (
    DannModel,
    DomainArrays,
    DomainBatch,
    accuracy_counts,
    domain_loss,
    evaluate,
    init_state,
    init_states,
    label_loss,
    label_objective,
    make_optimizer,
    make_stream_steps,
    make_study_steps,
    make_train_steps,
    make_update_step,
    replicate,
    reversed_objective,
    saddle_objective,
)
from dann_jax.batches import check_arrays
from dann_jax.checks import check_domains, check_labels, count_examples
from dann_jax.networks import FullyConnected
from dann_jax.objective import Apply, Terms
from dann_jax.streaming import batch_stream

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
LABELS = np.array([0, 2, 1, 0, 2, 1, 0, 1])
X, T = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)
MODEL = DannModel(
    feature_extractor=FullyConnected((), 4),
    label_predictor=FullyConnected((), 3),
    domain_classifier=FullyConnected((), 1),
)
OPTIMIZER = make_optimizer(0.1)
MAKE = functools.partial(make_update_step, MODEL, OPTIMIZER, 0.5)


def changed(value, dtype=None):
    labels = LABELS.astype(dtype or LABELS.dtype)
    labels[5] = value
    return labels


WRONG = [
    (changed(3), ValueError, r"\[5\] is 3: expected 0 to 2, or -1"),
    (changed(-2), ValueError, r"\[5\] is -2"),
    (changed(255, np.uint8), ValueError, r"\[5\] is 255"),
    (changed(2**32 + 1), ValueError, rf"\[5\] is {2**32 + 1}"),
    (changed(0.5, np.float32), TypeError, r"must be integers, got float32 \(.*\[5\] is 0.5\)"),
    (changed(np.nan, np.float64), TypeError, r"must be integers, got float64 \(.*\[5\] is nan\)"),
    (changed(1, bool), TypeError, "must be integers, got bool"),
]
wrong_labels = pytest.mark.parametrize(("labels", "error", "message"), WRONG)


def state():
    return init_state(MODEL, OPTIMIZER, KEY, X)


@wrong_labels
def test_losses_and_accuracies_refuse_labels_that_are_no_classes(labels, error, message):
    logits = np.zeros([8, 3], np.float32)
    for function in (label_loss, accuracy_counts, evaluate):
        with pytest.raises(error, match=f"labels.*{message}"):
            function(logits, labels)


@wrong_labels
@pytest.mark.parametrize("objective", [label_objective, reversed_objective, saddle_objective])
def test_objectives_refuse_labels_that_are_no_classes(objective, labels, error, message):
    parts = MODEL.parts.values()
    apply = Apply(*((lambda t, x, part=part: part.apply(t, {}, x)[0]) for part in parts))
    with pytest.raises(error, match=f"source_label.*{message}"):
        objective(state().theta, DomainBatch(X, labels, T), 0.5, apply)
    if objective is not label_objective:
        with pytest.raises(error, match=f"target_label.*{message}"):
            objective(state().theta, DomainBatch(X, LABELS, T, labels), 0.5, apply)


@wrong_labels
def test_an_update_refuses_the_labels_of_a_batch_that_it_is_given(labels, error, message):
    with pytest.raises(error, match=f"source_label.*{message}"):
        MAKE()(state(), DomainBatch(X, labels, T), KEY)
    batch = DomainBatch(X, labels, T)
    with pytest.raises(error, match=f"source_label.*{message}"):
        jax.jit(lambda state: MAKE()(state, batch, KEY))(state())


@pytest.mark.parametrize("dtype", [np.float32, bool])
def test_under_a_trace_the_type_of_labels_is_checked(dtype):
    with pytest.raises(TypeError, match="source_label must be integers"):
        jax.jit(MAKE())(state(), DomainBatch(X, LABELS.astype(dtype), T), KEY)
    with pytest.raises(TypeError, match="labels must be integers"):
        jax.jit(label_loss)(np.zeros([8, 3]), LABELS.astype(dtype))


def program(kind, make=MAKE, labelled=None):
    """A function that makes two steps of a training program with arrays, once."""
    options = {"examples": (8, 8), "batch": (4, 4), "preprocess": lambda batch: batch}
    options |= {"labelled": labelled, "devices": jax.devices()[:1]}
    if kind == "one":
        train = make_train_steps(make, **options)
        start = replicate(state(), options["devices"])
        return lambda arrays: train(start, arrays, KEY, 2)
    keys = jax.random.split(KEY, 2)
    train = make_study_steps(lambda settings, axis_name: make(axis_name=axis_name), **options)
    states = init_states(MODEL, OPTIMIZER, keys, X)
    return lambda arrays: train(states, arrays, keys, 2)


@functools.cache
def refusing_program(kind, labelled=None):
    """A program for calls that are all refused, after which its state is still there."""
    return program(kind, labelled=labelled)


@wrong_labels
@pytest.mark.parametrize("kind", ["one", "study"])
def test_programs_refuse_data_sets_with_other_labels(kind, labels, error, message, caplog):
    call = refusing_program(kind)
    with jax.log_compiles(), pytest.raises(error, match=f"source_label.*{message}"):
        call(DomainArrays(X, labels, T))
    call = refusing_program(kind, (5, 2))
    with jax.log_compiles(), pytest.raises(error, match=f"target_label.*{message}"):
        call(DomainArrays(X, LABELS, T, labels))
    assert not compiled(caplog)


def compiled(caplog):
    """The training programs that were compiled."""
    text = [record.getMessage() for record in caplog.records]
    return [each for each in text if re.match(r"Finished XLA compilation of .*step", each)]


@pytest.mark.parametrize("kind", ["one", "study"])
def test_programs_take_classes_and_unknown_labels(kind, caplog):
    call = program(kind, labelled=(5, 2))
    with jax.log_compiles():
        _, metrics = call(DomainArrays(X, changed(-1), T, changed(-1, np.int8)))
    assert np.isfinite(metrics.label_loss).all()
    assert compiled(caplog)


def test_a_program_checks_the_labels_of_later_calls_too(devices):
    options = {"examples": (8, 8), "batch": (4, 4), "preprocess": lambda batch: batch}
    for count in (1, 2):
        used = devices[:count]
        train = make_train_steps(MAKE, devices=used, **options)
        arrays = replicate(DomainArrays(X, LABELS, T), used)
        after, _ = train(replicate(state(), used), arrays, KEY, 2)
        with pytest.raises(ValueError, match=r"source_label\[5\] is 3: expected 0 to 2"):
            train(after, arrays._replace(source_label=jnp.asarray(changed(3))), KEY, 2)


def test_an_objective_for_other_labels_takes_them_in_a_program():
    def squares(theta, batch, lam, apply, *, axis_name=None):
        f = apply.feature_extractor(theta["f"], batch.source_image)
        z = apply.label_predictor(theta["y"], f)
        loss = jnp.mean((z[:, 0] - batch.source_label) ** 2)
        return loss, Terms(loss, None, f, z, batch.source_label, None, None, None)

    make = functools.partial(MAKE, objective=squares)
    for labels in (X[:, 0], X.sum(1) * 100):
        _, metrics = program("one", make)(DomainArrays(X, labels, T))
        assert np.isfinite(metrics.label_loss).all()
        assert np.isnan(metrics.label_accuracy)


def test_integers_that_jax_would_cut_to_32_bits_are_refused():
    arrays = DomainArrays(X, changed(2**32 + 1), T)
    with pytest.raises(ValueError, match=rf"source_label\[5\] is {2**32 + 1}.*int32"):
        replicate(arrays)


@wrong_labels
def test_streams_refuse_other_labels(labels, error, message):
    def records(labels):
        images = np.zeros([8, 4, 4, 3], np.uint8)
        return [{"image": i, "label": n} for i, n in zip(images, labels, strict=True)]

    model = DannModel(
        feature_extractor=FullyConnected((), 4),
        label_predictor=FullyConnected((), 3),
        domain_classifier=FullyConnected((), 1),
    )
    x = np.zeros([8, 48], np.float32)

    def flat(batch):
        images = batch.source_image, batch.target_image
        source, target = (i.reshape(len(i), -1).astype(jnp.float32) for i in images)
        return batch._replace(source_image=source, target_image=target)

    train = make_stream_steps(
        functools.partial(make_update_step, model, OPTIMIZER, 0.5),
        preprocess=flat,
        devices=jax.devices()[:1],
    )
    started = replicate(init_state(model, OPTIMIZER, KEY, x), jax.devices()[:1])
    stream = batch_stream(records(labels), records(-np.ones(8, int)), KEY, batch=(8, 8), workers=0)
    with pytest.raises((error, RuntimeError), match=r"is 3|is -2|255|4294967297|must be integers"):
        train(started, stream, KEY, 1)


@wrong_labels
def test_check_arrays_refuses_other_labels(labels, error, message):
    arrays = DomainArrays(X, LABELS, T, labels)
    with pytest.raises(error, match=f"source_label.*{message}"):
        check_arrays(arrays._replace(source_label=labels, target_label=None), (8, 8), classes=3)
    with pytest.raises(error, match=f"target_label.*{message}"):
        check_arrays(arrays, (8, 8), (6, 2), classes=3)


@pytest.mark.parametrize("labels", [LABELS[:6], LABELS[:, None]])
def test_each_example_has_one_label(labels):
    with pytest.raises(ValueError, match=r"source_label \[8\], one label for each of 8 source"):
        MAKE()(state(), DomainBatch(X, labels, T), KEY)


@pytest.mark.parametrize("value", [2, -1, 0.5, np.nan])
def test_other_domains_are_refused(value):
    domains = np.array([0, 1, value])
    with pytest.raises(ValueError, match=rf"domains\[2\] is {value}.*0 \(source\) or 1 \(target\)"):
        domain_loss(np.zeros(3), domains)
    check_domains(domains[:2])
    check_domains(np.array([True, False]))


def test_all_wrong_labels_are_counted_and_the_first_is_named():
    with pytest.raises(ValueError, match=r"labels\[0, 1\] is 9.*\(3 of 4 are others\)"):
        check_labels(np.array([[1, 9], [7, 8]]), 3)


def test_examples_are_counted_over_all_inputs():
    assert count_examples({"a": np.zeros([5, 2]), "b": np.zeros(5)}) == 5
    with pytest.raises(ValueError, match=r"images must be arrays with one first axis.*\(5,\), \(4"):
        count_examples([np.zeros(5), np.zeros(4)])
