"""Modules of any library are told training from prediction, and their state is kept apart."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dann_jax import (
    TARGET,
    DannModel,
    DomainArrays,
    DomainBatch,
    PureFunction,
    equinox_part,
    features,
    init_state,
    init_states,
    label_objective,
    make_optimizer,
    make_train_steps,
    make_update_step,
    mnist,
    mnist_batch_norm,
    nnx_part,
    office_batch_norm,
    predict,
    replicate,
    svhn,
)
from dann_jax.networks import DomainBatchNorm, FullyConnected, project_max_norm

KEY = jax.random.key(0)
X, T = np.random.default_rng(0).normal(size=(2, 16, 3)).astype(np.float32)
Y = np.tile([0, 1], 8)
BATCH = DomainBatch(X, Y, T)
OPTIMIZER = make_optimizer(0.05)


def model(feature_extractor):
    return DannModel(
        feature_extractor=feature_extractor,
        label_predictor=FullyConnected((), 2),
        domain_classifier=FullyConnected((8,), 1),
    )


def trained(net, batch=BATCH, steps=3, **options):
    update = jax.jit(make_update_step(net, OPTIMIZER, 0.5, **options))
    state = init_state(net, OPTIMIZER, KEY, batch.source_image)
    for _ in range(steps):
        state, metrics = update(state, batch, jax.random.key(1))
    assert update._cache_size() == 1
    return state, metrics


# --- the switch --------------------------------------------------------------------------


class Train(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dropout(0.5, deterministic=not train)(nn.BatchNorm(not train)(nn.Dense(4)(x)))


class Training(Train):
    @nn.compact
    def __call__(self, x, *, training=False):
        return Train.__call__(self, x, training)


class IsTraining(Train):
    @nn.compact
    def __call__(self, x, is_training):
        return Train.__call__(self, x, is_training)


class Deterministic(Train):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return Train.__call__(self, x, not deterministic)


class UseRunningAverage(Train):
    @nn.compact
    def __call__(self, x, *, use_running_average=True):
        return Train.__call__(self, x, not use_running_average)


class Inference(Train):
    @nn.compact
    def __call__(self, x, *, inference=True):
        return Train.__call__(self, x, not inference)


class TrainAndAnything(Train):
    @nn.compact
    def __call__(self, x, train=False, **kwargs):
        assert not kwargs
        return Train.__call__(self, x, train)


@pytest.mark.parametrize(
    "module",
    [Training, IsTraining, Deterministic, UseRunningAverage, Inference, TrainAndAnything],
)
def test_a_switch_of_any_name_trains_as_train_does(module):
    expected, _ = trained(model(Train()))
    state, _ = trained(model(module()))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    mean = state.batch_stats["f"]["batch_stats"]["BatchNorm_0"]["mean"]
    assert np.abs(mean).min() > 0  # batch statistics moved
    np.testing.assert_array_equal(
        predict(model(module()), state, X), predict(model(Train()), state, X)
    )


class Anything(nn.Module):
    @nn.compact
    def __call__(self, x, **kwargs):
        return nn.Dropout(0.5, deterministic=not kwargs.get("train"))(nn.Dense(4)(x))


class Attribute(nn.Module):
    train: bool = False

    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=not self.train)(nn.Dense(4)(x))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Anything(), r"Anything cannot be told training.*\*\*kwargs.*declare one of train, "),
        (Attribute(), "its attribute `train` is the same for both"),
        (nn.Sequential([nn.Dense(4), Train()]), "nn.Sequential passes its layers no switch"),
    ],
)
def test_a_module_that_cannot_be_told_training_from_prediction_is_refused(module, message):
    with pytest.raises(TypeError, match=message):
        model(module)


def test_a_sequence_of_layers_without_a_switch_is_a_part():
    trained(model(nn.Sequential([nn.Dense(4), nn.relu])))


def test_layers_that_nobody_tells_say_so():
    class Untold(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5)(x)

    class UntoldNorm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm()(x)

    for module in (Untold(), UntoldNorm()):
        with pytest.raises(ValueError, match="deterministic|use_running_average"):
            trained(model(module))


class Attends(nn.Module):
    fixed: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        attention = nn.MultiHeadDotProductAttention(1, dropout_rate=0.9)
        return Inside(train)(attention(x[:, None], deterministic=self.fixed or not train)[:, 0])


class Inside(nn.Module):
    train: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        return x * jax.random.bernoulli(self.make_rng("dropout"), 0.5, x.shape) if self.train else x


class Quiet(nn.Module):
    """Declares what it does not pass on."""

    inner: nn.Module

    @nn.compact
    def __call__(self, x, train=False, domain=None):
        return self.inner(nn.Dense(4)(x))


class Declares(nn.Module):
    statistics: str = "per_domain"

    @nn.compact
    def __call__(self, x, train=False):
        return DomainBatchNorm(self.statistics)(nn.Dense(4)(x), train=train)


class InnerNorm(nn.Module):
    @nn.compact
    def __call__(self, x, train=False, domain=None):
        return nn.BatchNorm(not train)(x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Attends(fixed=True), "dropout MultiHeadDotProductAttention_0 is off in training"),
        (Quiet(Inside()), "attribute `train` is False"),
        (Quiet(InnerNorm()), "inner/BatchNorm_0 has fixed statistics in training"),
        (Quiet(DomainBatchNorm("shared")), "inner/shared has fixed statistics in training"),
        (nn.Sequential([DomainBatchNorm("shared"), nn.relu]), "passes its layers no switch"),
    ],
)
def test_a_layer_that_is_off_in_training_is_refused(module, message):
    with pytest.raises(TypeError, match=message):
        jax.eval_shape(lambda: trained_once(model(module)))


def trained_once(net, batch=BATCH):
    state = init_state(net, OPTIMIZER, KEY, batch.source_image)
    return make_update_step(net, OPTIMIZER, 0.5)(state, batch, KEY)[0]


def test_layers_that_are_told_are_trained():
    for module in (Attends(), Declares("shared")):
        jax.eval_shape(lambda module=module: trained_once(model(module)))


@pytest.mark.parametrize("module", [Declares(), Quiet(DomainBatchNorm("per_domain"))])
def test_statistics_of_each_domain_without_a_domain_are_refused(module):
    with pytest.raises((ValueError, TypeError), match="domain"):
        jax.eval_shape(lambda: trained_once(model(module)))
    x = jnp.ones([4, 3])
    variables = DomainBatchNorm().init(KEY, x)
    with pytest.raises(ValueError, match="outside training need the domain"):
        DomainBatchNorm().apply(variables, x)
    DomainBatchNorm().apply(variables, x, domain=TARGET)


class DropsAlways(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(4)(x))


def test_dropout_that_predictions_have_too_is_refused():
    net = model(DropsAlways())
    state = init_state(net, OPTIMIZER, KEY, X)
    for call in (predict, features):
        with pytest.raises(TypeError, match="DropsAlways needs random numbers outside training"):
            call(net, state, X)


class Flat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x.reshape(len(x), -1))


def test_a_list_of_examples_is_no_array():
    net = model(Flat())
    state = init_state(net, OPTIMIZER, KEY, X)
    for call in (predict, features):
        with pytest.raises(TypeError, match=r"does not take a list of 2 .*np.asarray\(list\)"):
            call(net, state, [X[0], X[1]])


class Both(nn.Module):
    @nn.compact
    def __call__(self, x):
        one, other = x
        return nn.Dense(4)(one - other)


def test_a_list_of_inputs_is_a_batch_as_a_tuple_is():
    net = model(Both())
    state = init_state(net, OPTIMIZER, KEY, [X, X])
    np.testing.assert_array_equal(predict(net, state, [X, X]), predict(net, state, (X, X)))


# --- state and random streams ------------------------------------------------------------


class Sower(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        h = nn.BatchNorm(not train)(nn.Dense(4)(x))
        self.sow("intermediates", "h", h)
        self.sow("losses", "square", jnp.mean(h**2))
        self.sow("sums", "h", h.sum(), reduce_fn=lambda a, b: a + b, init_fn=lambda: 0.0)
        return h


def test_what_a_module_sows_is_not_fed_back():
    state, _ = trained(model(Sower()))
    assert set(state.batch_stats["f"]) == {"batch_stats"}
    devices = jax.devices()[:1]
    train = make_train_steps(
        functools.partial(make_update_step, model(Sower()), OPTIMIZER, 0.5),
        examples=(16, 16),
        batch=(4, 4),
        preprocess=lambda batch: batch,
        devices=devices,
        fused=True,
    )
    started = init_state(model(Sower()), OPTIMIZER, KEY, X)
    after, _ = train(replicate(started, devices), DomainArrays(X, Y, T), KEY, 3)
    assert int(after.step) == 3


class DropPath(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x, train=False):
        drop = nn.Dropout(self.rate, rng_collection="drop_path", deterministic=not train)
        return drop(nn.Dropout(0.0, deterministic=not train)(nn.Dense(4)(x)))


def test_random_streams_of_any_name_have_keys():
    (_, kept), (_, dropped) = (trained(model(DropPath(rate)), steps=1) for rate in (0.0, 0.5))
    assert dropped.feature_norm != kept.feature_norm
    state, _ = trained(model(DropPath(0.5)))
    np.testing.assert_array_equal(*(predict(model(DropPath(0.5)), state, X) for _ in range(2)))


# --- biases by name ----------------------------------------------------------------------


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm(feature_axes=(-2, -1))(nn.Dense(8)(x)[:, None, :])
        return nn.MultiHeadDotProductAttention(num_heads=2)(h, h)[:, 0]


def test_biases_and_scales_of_two_axes_neither_decay_nor_have_a_bound():
    decay = make_optimizer(0.1, momentum=0.0, weight_decay=0.5)
    state = init_state(model(Attention()), decay, KEY, X)
    ones = jax.tree.map(jnp.ones_like, state.theta)
    steps, _ = decay.update(jax.tree.map(jnp.zeros_like, ones), state.opt_state, ones)
    bounded = project_max_norm(jax.tree.map(lambda w: 10 * w, ones), 1.0)
    ranks = set()
    for (path, step), w in zip(
        jax.tree_util.tree_leaves_with_path(steps), jax.tree.leaves(bounded), strict=True
    ):
        name = path[-1].key
        if name in ("bias", "scale"):
            ranks.add(step.ndim)
            assert not np.any(step)
            np.testing.assert_array_equal(w, 10.0)
        else:
            np.testing.assert_allclose(step, -0.05, rtol=1e-6)
            assert np.max(w) <= 1.0
    assert ranks == {1, 2}


def test_parameters_are_float32_where_64_bits_are_enabled():
    with jax.enable_x64(True):
        for net in (mnist(), mnist_batch_norm(), svhn()):
            x = jax.ShapeDtypeStruct([2, 32, 32, 3], jnp.float32)
            state = jax.eval_shape(lambda x, net=net: init_state(net, OPTIMIZER, KEY, x), x)
            leaves = jax.tree.leaves((state.theta, state.batch_stats))
            assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


# --- domains -----------------------------------------------------------------------------


def images(n):
    return np.random.default_rng(n).normal(size=(n, 1, 1, 20)).astype(np.float32)


@pytest.mark.parametrize("net", [office_batch_norm(None, classes=2, statistics="per_domain")])
def test_batch_norm_over_one_example_is_refused(net):
    with pytest.raises(ValueError, match="norm/source takes its statistics over one value"):
        trained(net, DomainBatch(images(1), np.zeros(1, int), images(1)))
    trained(net, DomainBatch(images(2), np.zeros(2, int), images(2)), steps=1)


def test_batch_norm_of_any_module_over_one_example_is_refused():
    one = DomainBatch(X[:1], Y[:1], T[:1])
    with pytest.raises(ValueError, match="BatchNorm_0 takes its statistics over one value"):
        trained(model(Train()), one, objective=label_objective)


class Convolved(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(not train)(nn.Conv(2, (3,))(x[..., None]))
        return x.reshape(len(x), -1)


@pytest.mark.parametrize("module", [Train(), Convolved()])
def test_batch_norm_over_one_example_of_each_domain_is_refused(module):
    one, two = (DomainBatch(X[:n], Y[:n], T[:n]) for n in (1, 2))
    with pytest.raises(ValueError, match="BatchNorm_0 .* over one example of each domain"):
        jax.eval_shape(lambda: trained_once(model(module), one))
    jax.eval_shape(lambda: trained_once(model(module), two))


def test_a_domain_that_was_never_trained_is_refused():
    net = office_batch_norm(None, classes=2, statistics="per_domain")
    x = images(16)
    batch = DomainBatch(x, Y, x + 1)
    state, _ = trained(net, batch, objective=label_objective)
    for call in (predict, features):
        with pytest.raises(ValueError, match="no batch of the target was trained on.*domain=0"):
            call(net, state, x, domain=TARGET)
        assert call(net, state, x, domain=0).shape[0] == 16
    both, _ = trained(net, batch)
    assert predict(net, both, x).shape == predict(net, both, x, domain=0).shape == (16, 2)
    started = init_state(net, OPTIMIZER, KEY, x)
    assert predict(net, started, x).shape == (16, 2)  # untrained as a whole
    shared = office_batch_norm(None, classes=2, statistics="shared")
    state, _ = trained(shared, batch, objective=label_objective)
    assert predict(shared, state, x).shape == (16, 2)


def test_a_domain_of_ones_own_module_that_was_never_trained_is_refused():
    class OwnNorms(nn.Module):
        @nn.compact
        def __call__(self, x, train=False, domain=None):
            norms = [nn.BatchNorm(not train, name=name) for name in ("a", "b")]
            if self.is_initializing():
                return [norm(x) for norm in norms][0]
            return norms[1 if domain else 0](x)

    state, _ = trained(model(OwnNorms()), objective=label_objective)
    with pytest.raises(ValueError, match="domain=0"):
        predict(model(OwnNorms()), state, X)


# --- several inputs ----------------------------------------------------------------------


class TwoInputs(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(jnp.concatenate([x["a"], x["b"]], -1))


def test_several_inputs_train_and_predict_as_one_does():
    def split(x):
        return {"a": x[:, :1], "b": x[:, 1:]}

    net, one = model(TwoInputs()), model(nn.Dense(4))
    devices, results = jax.devices()[:1], []
    for each, of in ((net, split), (one, lambda x: x)):
        state = init_state(each, OPTIMIZER, KEY, of(X))
        dense = init_state(one, OPTIMIZER, KEY, X).theta["f"]
        f = {"Dense_0": dense} if each is net else dense
        state = state.replace(theta=state.theta | {"f": f})
        train = make_train_steps(
            functools.partial(make_update_step, each, OPTIMIZER, 0.5),
            examples=(16, 16),
            batch=(4, 4),
            preprocess=lambda batch: batch,
            devices=devices,
        )
        arrays = replicate(DomainArrays(of(X), Y, of(T)), devices)
        state, _ = train(replicate(state, devices), arrays, KEY, 5)
        results.append([f(each, state, of(T), batch_size=5) for f in (predict, features)])
    assert results[0][0].shape == (16, 2)
    for two, single in zip(*results, strict=True):
        np.testing.assert_allclose(two, single, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="one first axis"):
        predict(net, init_state(net, OPTIMIZER, KEY, split(X)), {"a": X[:, :1], "b": X[:5, 1:]})


# --- NNX ---------------------------------------------------------------------------------


class Nnx(nnx.Module):
    def __init__(self, rngs, norm=True, rate=0.5):
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs) if norm else None
        self.drop = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        h = jnp.tanh(self.dense(x))
        return self.drop(h if self.norm is None else self.norm(h))


def test_an_nnx_part_keeps_batch_statistics_and_drops_in_training_alone():
    net = model(nnx_part(Nnx))
    state, first = trained(net, steps=1)
    _, kept = trained(model(nnx_part(functools.partial(Nnx, rate=0.0))), steps=1)
    assert first.feature_norm != kept.feature_norm
    norm = state.batch_stats["f"]["norm"]
    kernel = init_state(net, OPTIMIZER, KEY, X).theta["f"]["dense"]["kernel"]
    h = np.tanh(np.concatenate([X, T]) @ np.asarray(kernel))
    np.testing.assert_allclose(norm["mean"], 0.01 * h.mean(0), rtol=1e-4, atol=1e-6)
    together = predict(net, state, X)
    alone = np.concatenate([predict(net, state, X[i : i + 1]) for i in range(16)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(together, predict(net, state, X))


class NnxOff(nnx.Module):
    """Has a layer that is told to be off, or by a name of its own."""

    def __init__(self, rngs, layer="drop", own=False):
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.9, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(1, 4, decode=False, dropout_rate=0.9, rngs=rngs)
        self.is_train, self.layer, self.own = False, layer, own

    def __call__(self, x):
        h, off = self.dense(x), not (self.own and self.is_train)
        if self.layer == "norm":
            return self.norm(h, use_running_average=off)
        if self.layer == "attend":
            return self.attend(h[:, None], deterministic=off)[:, 0]
        return self.drop(h, deterministic=off)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "dropout Dropout is off"),
        ({"own": True}, "dropout Dropout is off"),
        ({"layer": "norm"}, "batch norm BatchNorm has fixed statistics"),
        ({"layer": "attend"}, "dropout MultiHeadAttention is off"),
    ],
)
def test_an_nnx_layer_that_is_off_in_training_is_refused(options, message):
    net = model(nnx_part(functools.partial(NnxOff, **options)))
    with pytest.raises(TypeError, match=message):
        jax.eval_shape(lambda: trained_once(net))


def test_nnx_batch_norm_over_one_example_is_refused():
    net = model(nnx_part(functools.partial(Nnx, rate=0.0)))
    one = DomainBatch(X[:1], Y[:1], T[:1])
    with pytest.raises(ValueError, match="BatchNorm takes its statistics over one example"):
        jax.eval_shape(lambda: trained_once(net, one))


def test_a_checked_nnx_module_keeps_its_classes():
    module = Nnx(nnx.Rngs(0))
    jax.eval_shape(lambda: trained_once(model(nnx_part(module))))
    assert (type(module.drop), type(module.norm)) == (nnx.Dropout, nnx.BatchNorm)


class Noted(nnx.Variable):
    pass


class NnxSower(Nnx):
    def __call__(self, x):
        self.noted = Noted(x.sum())
        return super().__call__(x)


def test_what_an_nnx_module_makes_in_a_call_is_no_state():
    net = model(nnx_part(NnxSower))
    state = jax.eval_shape(lambda: init_state(net, OPTIMIZER, KEY, X))
    after = jax.eval_shape(lambda: trained_once(net))
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_an_nnx_part_has_an_initialization_for_each_key_and_new_noise_each_step():
    net = model(nnx_part(functools.partial(Nnx, norm=False)))
    states = init_states(net, OPTIMIZER, jax.random.split(KEY, 3), X)
    assert len(np.unique(states.theta["f"]["dense"]["kernel"][:, 0, 0])) == 3
    update = jax.jit(make_update_step(net, make_optimizer(0.0), 0.5))
    state = init_state(net, make_optimizer(0.0), KEY, X)
    norms = []
    for _ in range(3):
        state, metrics = update(state, BATCH, KEY)
        norms.append(float(metrics.feature_norm))
    assert len(set(norms)) == 3


def test_an_nnx_module_starts_from_its_own_parameters():
    module = Nnx(nnx.Rngs(5))
    state = init_state(model(nnx_part(module)), OPTIMIZER, KEY, X)
    np.testing.assert_array_equal(state.theta["f"]["dense"]["kernel"], module.dense.kernel[...])


def pure(module):
    definition, theta = nnx.split(module)
    return PureFunction(lambda key, x: theta, lambda theta, x: nnx.merge(definition, theta)(x))


def test_a_pure_function_of_an_nnx_module_with_state_is_refused():
    with pytest.raises(TypeError, match="norm/mean.*nnx_part"):
        trained(model(pure(Nnx(nnx.Rngs(0)))))


def test_a_pure_function_of_an_nnx_module_with_dropout_trains_and_does_not_predict():
    class Dropped(nnx.Module):
        def __init__(self, rngs):
            self.dense, self.drop = nnx.Linear(3, 4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(self.dense(x))

    net = model(pure(Dropped(nnx.Rngs(0))))
    state, _ = trained(net)
    with pytest.raises(ValueError, match="nnx_part"):
        predict(net, state, X)


def test_parameters_that_cannot_be_trained_are_refused():
    part = PureFunction(lambda key, x: {"n": jnp.int32(3)}, lambda theta, x: x)
    with pytest.raises(TypeError, match=r"theta\['n'\] of G_f is int32"):
        init_state(model(part), OPTIMIZER, KEY, X)
    with pytest.raises(TypeError, match="expected an nnx.Module or a function"):
        nnx_part(3)


# --- Equinox -----------------------------------------------------------------------------


def test_an_equinox_part_trains_drops_in_training_alone_and_predicts():
    eqx = pytest.importorskip("equinox")

    class Encoder(eqx.Module):
        dense: eqx.nn.Linear
        drop: eqx.nn.Dropout

        def __init__(self, key, rate=0.5):
            self.dense, self.drop = eqx.nn.Linear(3, 4, key=key), eqx.nn.Dropout(rate)

        def __call__(self, x, key):
            return self.drop(jnp.tanh(self.dense(x)), key=key)

    net = model(equinox_part(Encoder))
    first, again, kept = (
        trained(each, steps=1)
        for each in (net, net, model(equinox_part(lambda key: Encoder(key, 0.0))))
    )
    assert first[1].feature_norm == again[1].feature_norm != kept[1].feature_norm
    start, state = init_state(net, OPTIMIZER, KEY, X), first[0]
    for name in ("weight", "bias"):
        moved = getattr(state.theta["f"].dense, name) - getattr(start.theta["f"].dense, name)
        assert jnp.any(moved != 0)
    h = jnp.tanh(X @ state.theta["f"].dense.weight.T + state.theta["f"].dense.bias[None])
    features_of = features(net, state, X)
    np.testing.assert_allclose(features_of, h, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="max_norm bounds the last axis of weights"):
        dataclasses.replace(net, max_norm=1.0)
    with pytest.raises(TypeError, match="expected a function key -> Equinox module, got Linear"):
        equinox_part(eqx.nn.Linear(3, 4, key=KEY))
