"""Predictions, features and accuracies, exact for any number of examples."""

import dataclasses
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import (
    DannModel,
    PureFunction,
    accuracy_counts,
    evaluate,
    features,
    gtsrb,
    init_state,
    make_optimizer,
    mnist,
    mnist_batch_norm,
    predict,
    replicate,
    svhn,
)
from dann_jax.evaluation import AccuracyCounts, last_hidden_layer, layer_names
from dann_jax.networks import (
    Convolution,
    ConvolutionalFeatures,
    DomainBatchNorm,
    FullyConnected,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
MODEL = DannModel(
    feature_extractor=ConvolutionalFeatures((Convolution(3, 3, pool=2),)),
    label_predictor=FullyConnected((7,), 4),
    domain_classifier=FullyConnected((5,), 1),
)
IMAGES = np.random.default_rng(0).integers(0, 255, [23, 6, 6, 1]).astype(np.uint8)
LABELS = np.arange(23) % 4


def preprocess(x):
    return x.astype(jnp.float32) / 255.0


@pytest.fixture(scope="module")
def state():
    start = jax.jit(lambda x: init_state(MODEL, make_optimizer(0.1), KEY, x))
    return start(preprocess(IMAGES))


def by_hand(state):
    f = MODEL.feature_extractor.apply({"params": state.theta["f"]}, preprocess(IMAGES))
    return f, MODEL.label_predictor.apply({"params": state.theta["y"]}, f)


@pytest.mark.parametrize("batch_size", [1, 7, 22, 23, 24, 512])
def test_predictions_do_not_depend_on_the_batch_size(state, batch_size):
    got = predict(MODEL, state, IMAGES, preprocess=preprocess, batch_size=batch_size)
    assert got.shape == (23, 4)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, by_hand(state)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 5, 8, 13, 16, 23])
def test_accuracy_is_exact_for_any_number_of_examples(state, size):
    logits = predict(MODEL, state, IMAGES[:size], preprocess=preprocess, batch_size=8)
    right = int(np.sum(np.argmax(by_hand(state)[1][:size], -1) == LABELS[:size]))
    assert evaluate(logits, LABELS[:size]) == right / size


def test_at_most_two_compilations_for_any_number_of_examples(state):
    traces = itertools.count()

    def counted(x):
        next(traces)
        return preprocess(x)

    for size in (23, 17, 9, 16):
        predict(MODEL, state, IMAGES[:size], preprocess=counted, batch_size=8)
    assert next(traces) == 1


def test_predict_takes_a_state_on_several_devices(state, devices):
    got = predict(MODEL, replicate(state, devices), IMAGES, preprocess=preprocess, batch_size=8)
    np.testing.assert_allclose(got, by_hand(state)[1], rtol=1e-4, atol=1e-5)


def test_accuracy_counts_worked_by_hand():
    # Largest logits: 1, 0, 1, 1. Labels: 1, 1, 1, 0. Right: the first and the third.
    logits = jnp.array([[0.0, 2.0], [3.0, 1.0], [-5.0, -4.0], [0.0, 0.5]])
    labels = jnp.array([1, 1, 1, 0])
    counts = accuracy_counts(logits, labels)
    assert (int(counts.correct), int(counts.count), counts.accuracy) == (2, 4, 0.5)
    masked = accuracy_counts(logits, labels, jnp.array([True, True, False, False]))
    assert (int(masked.correct), int(masked.count), masked.accuracy) == (1, 2, 0.5)


def test_an_unknown_label_is_not_counted_and_one_unit_is_no_class():
    logits = jnp.array([[0.0, 2.0], [3.0, 1.0], [np.nan, 0.0]])
    counts = accuracy_counts(logits, np.array([1, -1, -1]))
    assert tuple(map(int, counts)) == (1, 1, 0)
    assert math.isnan(accuracy_counts(logits, np.array([-1, -1, -1])).accuracy)
    with pytest.raises(TypeError, match=r"got float32 \[3, 1\]: let G_y end in a unit for each"):
        accuracy_counts(logits[:, :1], np.array([0, 0, 0]))


def test_accuracy_counts_of_parts_add_up():
    logits = jax.random.normal(KEY, [11, 3])
    labels = jnp.arange(11) % 3
    padded = jnp.pad(logits, [(0, 1), (0, 0)]).reshape(4, 3, 3)
    mask = (jnp.arange(12) < 11).reshape(4, 3)
    parts = jax.vmap(accuracy_counts)(padded, jnp.pad(labels, (0, 1)).reshape(4, 3), mask)
    assert AccuracyCounts(*map(jnp.sum, parts)).accuracy == accuracy_counts(logits, labels).accuracy
    assert math.isnan(accuracy_counts(logits[:0], labels[:0]).accuracy)


# --- named layers ------------------------------------------------------------------------


def test_features_of_named_layers(state):
    f, y = by_hand(state)
    want = {"f": f, "y": y}
    convolved = nn.Conv(3, (3, 3), padding="VALID").apply(
        {"params": state.theta["f"]["conv1"]}, preprocess(IMAGES)
    )
    want["f/conv1"] = nn.max_pool(convolved, (2, 2), (2, 2))  # a convolution pools its output
    fc1 = state.theta["y"]["fc1"]["dense"]
    want["y/fc1"] = jax.nn.relu(jnp.dot(f, fc1["kernel"]) + fc1["bias"][None])
    d = MODEL.domain_classifier.apply({"params": state.theta["d"]}, f)
    want["d"] = want["d/logits"] = d
    for layer, values in want.items():
        got = features(MODEL, state, IMAGES, layer=layer, preprocess=preprocess, batch_size=9)
        np.testing.assert_allclose(got, values, rtol=1e-4, atol=1e-5, err_msg=layer)


def test_layer_names_are_those_of_the_parts_and_their_layers(state):
    names = layer_names(MODEL, state, preprocess(IMAGES))
    assert {"f", "f/conv1", "y", "y/fc1", "y/fc1/dense", "y/logits", "d", "d/fc1"} <= set(names)


def test_the_last_hidden_layer_is_what_the_logits_are_made_of(state):
    layer = last_hidden_layer(MODEL)
    assert layer == "y/fc1"
    hidden = features(MODEL, state, IMAGES, layer=layer, preprocess=preprocess)
    last = state.theta["y"]["logits"]
    logits = hidden @ np.asarray(last["kernel"]) + np.asarray(last["bias"])[None]
    np.testing.assert_allclose(logits, by_hand(state)[1], rtol=1e-4, atol=1e-5)
    names = [last_hidden_layer(make()) for make in (mnist, svhn, gtsrb)]
    assert names == ["y/fc2", "y/fc2", "y/fc1"]
    assert (
        last_hidden_layer(dataclasses.replace(MODEL, label_predictor=FullyConnected((), 4))) == "f"
    )


def test_an_unknown_layer_is_answered_with_those_there_are(state):
    with pytest.raises(ValueError, match="no layer 'conv1': expected one of .*f/conv1.*y/fc1"):
        features(MODEL, state, IMAGES, layer="conv1", preprocess=preprocess)


def test_wrong_sizes_are_refused(state):
    with pytest.raises(ValueError, match="no images"):
        predict(MODEL, state, IMAGES[:0], preprocess=preprocess)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        predict(MODEL, state, IMAGES, preprocess=preprocess, batch_size=0)
    with pytest.raises(ValueError, match=r"got \[3, 2\] and \[2\]"):
        evaluate(np.zeros([3, 2]), np.zeros(2, int))


@pytest.mark.parametrize("domain", [2, None, "target"])
def test_an_unknown_domain_is_refused(state, domain):
    for evaluated in (predict, features):
        with pytest.raises(ValueError, match=r"expected 0 \(source\) or 1 \(target\)$"):
            evaluated(MODEL, state, IMAGES, preprocess=preprocess, domain=domain)


def test_parts_that_are_plain_functions():
    model = DannModel(
        feature_extractor=PureFunction(lambda key, x: jnp.ones([]), lambda t, x: t * x),
        label_predictor=PureFunction(lambda key, f: 2.0 * jnp.eye(2), lambda t, f: f @ t),
        domain_classifier=PureFunction(lambda key, f: jnp.ones([2, 1]), lambda t, f: f @ t),
    )
    x = np.array([[1.0, 2.0], [3.0, -1.0], [0.0, 5.0]], np.float32)
    state = init_state(model, make_optimizer(0.1), KEY, x)
    np.testing.assert_array_equal(predict(model, state, x, batch_size=2), 2 * x)
    np.testing.assert_array_equal(features(model, state, x), x)
    np.testing.assert_array_equal(features(model, state, x, layer="d"), x.sum(1, keepdims=True))
    assert set(layer_names(model, state, x)) == {"f", "y", "d"}


def test_the_domain_chooses_the_batch_statistics():
    model = DannModel(
        feature_extractor=DomainBatchNorm("per_domain"),
        label_predictor=FullyConnected((), 2),
        domain_classifier=FullyConnected((), 1),
    )
    x = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)
    state = init_state(model, make_optimizer(0.1), KEY, x)
    averages = state.batch_stats["f"]["batch_stats"]
    moved = averages | {"target": {"mean": jnp.full([2], 10.0), "var": jnp.full([2], 4.0)}}
    state = state.replace(batch_stats=state.batch_stats | {"f": {"batch_stats": moved}})
    np.testing.assert_allclose(features(model, state, x, domain=0), x, rtol=1e-4)
    np.testing.assert_allclose(features(model, state, x), (x - 10) / 2, rtol=1e-4)  # target


def test_layers_of_a_net_with_batch_norm_have_names():
    model = mnist_batch_norm()
    images = jax.ShapeDtypeStruct([2, 28, 28, 3], jnp.float32)
    shapes = jax.eval_shape(lambda x: init_state(model, make_optimizer(0.1), KEY, x), images)
    assert {"f/norm1", "f/conv2", "y/fc2", "d/fc1"} <= set(layer_names(model, shapes, images))
