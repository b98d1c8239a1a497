"""What a metric cannot say is absent or NaN: no accuracy is invented, no NaN made on purpose."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dann_jax import (
    DannModel,
    DomainArrays,
    DomainBatch,
    accuracy_counts,
    evaluate,
    init_state,
    init_states,
    label_loss,
    label_objective,
    make_optimizer,
    make_study_steps,
    make_train_steps,
    make_update_step,
    predicted_classes,
    replicate,
    reverse_gradient,
)
from dann_jax.alignment import principal_subspace
from dann_jax.networks import FullyConnected
from dann_jax.objective import Terms

KEY = jax.random.key(0)
X, T = np.random.default_rng(0).normal(size=(2, 16, 3)).astype(np.float32)
Y = np.tile([0, 1], 8)
OPTIMIZER = make_optimizer(0.05)


def model(classes=2, domains=1):
    return DannModel(
        feature_extractor=FullyConnected((), 4),
        label_predictor=FullyConnected((), classes),
        domain_classifier=FullyConnected((8,), domains),
    )


def trained(net, batch, objective, steps=2):
    update = jax.jit(make_update_step(net, OPTIMIZER, 0.5, objective=objective))
    state = init_state(net, OPTIMIZER, KEY, X)
    for _ in range(steps):
        state, metrics = update(state, batch, KEY)
    return metrics


def start():
    return init_state(model(), OPTIMIZER, KEY, X)


def absent(metrics):
    """The names of the metrics that are no arrays, apart from penalties, which are by name."""
    every = {name: value for name, value in metrics._asdict().items() if name != "penalties"}
    return {name for name, value in every.items() if not jax.tree.leaves(value)}


DOMAIN = {"domain_loss", "domain_accuracy"}


# --- absent ------------------------------------------------------------------------------


def test_a_baseline_has_no_metrics_of_domains():
    metrics = trained(model(), DomainBatch(X, Y, T), label_objective)
    assert absent(metrics) == DOMAIN
    assert np.isnan(metrics.domain_loss)
    assert np.isnan(float(metrics.domain_accuracy))
    assert f"{metrics.domain_loss:.3f}" == "nan"


@pytest.mark.parametrize("program", ["one", "two devices", "study"])
@pytest.mark.parametrize("fused", [True, False])
def test_programs_of_a_baseline_train_where_nans_are_errors(program, fused, devices):
    used = devices[: 2 if program == "two devices" else 1]
    options = {"examples": (16, 16), "batch": (4, 4), "preprocess": lambda batch: batch}
    make = functools.partial(make_update_step, model(), OPTIMIZER, 0.5, objective=label_objective)
    arrays = replicate(DomainArrays(X, Y, T), used)
    with jax.debug_nans(True):
        if program == "study":
            keys = jax.random.split(KEY, 2)
            train = make_study_steps(
                lambda settings, axis_name: make(axis_name=axis_name),
                devices=used,
                fused=fused,
                **options,
            )
            states = init_states(model(), OPTIMIZER, keys, X)
            _, metrics = train(states, arrays, keys, 3)
        else:
            train = make_train_steps(make, devices=used, fused=fused, **options)
            state = replicate(init_state(model(), OPTIMIZER, KEY, X), used)
            _, metrics = train(state, arrays, KEY, 3)
    assert absent(metrics) == DOMAIN
    assert metrics.label_loss.shape == ((2, 3) if program == "study" else (3,))


def test_an_update_that_is_not_compiled_trains_where_nans_are_errors():
    with jax.debug_nans(True):
        update = make_update_step(model(), OPTIMIZER, 0.5, objective=label_objective)
        _, metrics = update(init_state(model(), OPTIMIZER, KEY, X), DomainBatch(X, Y, T), KEY)
    assert absent(metrics) == DOMAIN


def supervised(loss):
    """An objective on the source alone, with a loss of its own."""

    def objective(theta, batch, lam, apply, *, axis_name=None):
        f = apply.feature_extractor(theta["f"], batch.source_image)
        z = apply.label_predictor(theta["y"], f)
        value = loss(z, batch.source_label)
        return value, Terms(value, None, f, z, batch.source_label, None, None, None)

    return objective


def squares(z, y):
    return jnp.mean((z[:, 0] - y) ** 2)


def binary(z, y):
    return optax.sigmoid_binary_cross_entropy(z, y).mean()


@pytest.mark.parametrize(
    ("loss", "labels", "outputs"),
    [
        (squares, X @ np.array([1.0, -2.0, 0.5], np.float32), 1),
        (squares, np.arange(16) % 5, 1),  # counts
        (squares, X[:, 0], 2),  # a mean and a variance, say
        (binary, np.eye(5, dtype=np.float32)[np.arange(16) % 5], 5),
        (binary, np.eye(5, dtype=int)[np.arange(16) % 5], 5),
        (binary, np.eye(16, dtype=int), 16),
    ],
)
def test_regression_and_several_labels_have_no_accuracy(loss, labels, outputs):
    batch = DomainBatch(X, labels, T)
    metrics = trained(model(classes=outputs), batch, supervised(loss))
    assert absent(metrics) == DOMAIN | {"label_accuracy"}
    assert np.isfinite(metrics.label_loss)


def of_domains(theta, batch, lam, apply, *, axis_name=None):
    x = jnp.concatenate([batch.source_image, batch.target_image])
    f = apply.feature_extractor(theta["f"], x)
    z = apply.label_predictor(theta["y"], f[: len(batch.source_image)])
    d = jnp.arange(len(x)) % 3
    z_d = apply.domain_classifier(theta["d"], reverse_gradient(f, lam))
    L_y = label_loss(z, batch.source_label)
    L_d = optax.softmax_cross_entropy_with_integer_labels(z_d, d).mean()
    return L_y + L_d, Terms(L_y, L_d, f, z, batch.source_label, z_d, d, None)


def test_three_domains_have_a_loss_and_no_accuracy():
    metrics = trained(model(domains=3), DomainBatch(X, Y, T), of_domains)
    assert absent(metrics) == {"domain_accuracy"}
    assert 0 <= metrics.label_accuracy <= 1


def test_an_objective_without_labels_has_neither_their_loss_nor_their_accuracy():
    def objective(theta, batch, lam, apply, *, axis_name=None):
        f = apply.feature_extractor(theta["f"], batch.target_image)
        return jnp.mean(f**2), Terms(None, None, None, None, None, None, None, None)

    metrics = trained(model(), DomainBatch(X, Y, T), objective)
    assert absent(metrics) == set(metrics._fields) - {"lam", "penalties"}


# --- not finite --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_no_class(value):
    logits = np.array([[1.0, 0.0], [value, 0.0], [0.0, 1.0]], np.float32)
    labels = np.zeros(3, int)
    assert predicted_classes(logits).tolist() == [0, -1, 1]
    counts = accuracy_counts(logits, labels)
    assert [int(n) for n in counts] == [1, 3, 1]
    assert np.isnan(counts.accuracy)
    assert np.isnan(evaluate(logits, labels))
    kept = accuracy_counts(logits, labels, np.array([True, False, True]))
    assert (kept.correct, kept.count, kept.accuracy) == (1, 2, 0.5)
    unknown = accuracy_counts(logits, np.array([0, -1, -1]))
    assert int(unknown.correct) == 1  # an unknown label is not met by logits that are no class


def test_a_training_that_diverged_has_no_accuracies():
    batch = DomainBatch(X, np.zeros(16, int), T)
    for objective, names in (
        (label_objective, {"label_accuracy"}),
        (None, {"label_accuracy", "domain_accuracy"}),
    ):
        options = {} if objective is None else {"objective": objective}
        update = jax.jit(make_update_step(model(), OPTIMIZER, 0.5, **options))
        state = init_state(model(), OPTIMIZER, KEY, X)
        state = state.replace(theta=jax.tree.map(lambda w: w * np.nan, state.theta))
        _, metrics = update(state, batch, KEY)
        assert all(np.isnan(getattr(metrics, name)) for name in names)
        assert not names & absent(metrics)


def test_features_that_are_not_finite_have_no_subspace():
    x = np.ones([4, 2])
    x[2, 1] = np.inf
    with pytest.raises(ValueError, match="got inf for feature 1 of example 2"):
        principal_subspace(x)


def numbered_from_one(batch):
    return batch._replace(source_label=batch.source_label - 1)


@pytest.mark.parametrize("fused", [False, True])
def test_labels_that_preprocess_numbers_anew_train_as_those_do(fused):
    results = []
    for preprocess, first in ((lambda batch: batch, 0), (numbered_from_one, 1)):
        train = make_train_steps(
            functools.partial(make_update_step, model(), OPTIMIZER, 0.5),
            examples=(16, 16),
            batch=(4, 4),
            preprocess=preprocess,
            devices=jax.devices()[:1],
            fused=fused,
        )
        results.append(train(start(), DomainArrays(X, Y + first, T), KEY, 3))
    chex.assert_trees_all_equal(*results)


@pytest.mark.parametrize(
    "dtype",
    [np.uint8, *(pytest.param(other, marks=pytest.mark.slow) for other in (np.uint32, np.int8))],
)
def test_unsigned_labels_of_a_few_of_the_target_train_as_signed_ones_do(dtype):
    train = make_train_steps(
        functools.partial(make_update_step, model(), OPTIMIZER, 0.5),
        examples=(16, 16),
        batch=(4, 4),
        labelled=(3, 1),
        preprocess=lambda batch: batch,
        devices=jax.devices()[:1],
    )
    arrays = [DomainArrays(X, Y, T, Y.astype(d)) for d in (np.int32, dtype)]
    (_, signed), (_, other) = (train(start(), each, KEY, 3) for each in arrays)
    assert np.isfinite(signed.label_loss).all()
    chex.assert_trees_all_equal(signed, other)


def test_a_label_that_is_no_class_makes_the_loss_and_the_accuracy_nan_under_a_trace():
    update = jax.jit(make_update_step(model(), OPTIMIZER, 0.5))
    for wrong in (2, -2, 255):
        metrics = update(start(), DomainBatch(X, np.r_[wrong, Y[1:]].astype(np.int32), T), KEY)[1]
        assert np.isnan([metrics.label_loss, metrics.label_accuracy]).all(), wrong
        assert np.isfinite(metrics.domain_loss)


def test_integers_that_are_no_classes_have_no_accuracy():
    def with_terms(**changes):
        def objective(theta, batch, lam, apply, *, axis_name=None):
            value, terms = label_objective(theta, batch, lam, apply)
            return value, terms._replace(**changes)

        return objective

    batch = DomainBatch(X, Y, T)
    deep = trained(model(), batch, with_terms(label_logits=jnp.zeros([16, 2, 2])))
    assert "label_accuracy" in absent(deep)
    beyond = trained(model(), batch, with_terms(labels=jnp.arange(16)))
    assert "label_accuracy" not in absent(beyond)
    assert np.isnan(beyond.label_accuracy)
    domains = {"domains": jnp.arange(16) % 3, "domain_logits": jnp.zeros(16)}
    assert np.isnan(trained(model(), batch, with_terms(**domains)).domain_accuracy)
    with pytest.raises(ValueError, match="the weights in Terms"):
        trained(model(), batch, with_terms(weights=jnp.ones(20), features=None))
