"""The update and its wrappers: one or four devices, fused or not, resumed or not."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from dann_jax import (
    SOURCE,
    TARGET,
    DannModel,
    DomainArrays,
    DomainBatch,
    PureFunction,
    TrainState,
    checkpoints,
    domain_loss,
    features,
    init_state,
    label_loss,
    label_objective,
    lambda_p,
    make_optimizer,
    make_train_steps,
    make_update_step,
    mu_p,
    progress,
    replicate,
    reverse_gradient,
    reversed_objective,
)
from dann_jax.networks import DomainBatchNorm, FullyConnected, mnist, office_batch_norm
from dann_jax.objective import Terms
from dann_jax.training import averaged, with_average

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(5)
STEPS = 20
SIZES = {"examples": (20, 12), "batch": (8, 8)}


class Features(nn.Module):
    """Dense features of flattened images, with batch norm per domain and dropout if asked."""

    dropout_rate: float = 0.0
    statistics: str | None = None

    @nn.compact
    def __call__(self, x, *, train=False, domain=None, axis_name=None):
        x = nn.Dense(6, name="dense")(x.reshape(len(x), -1))
        if self.statistics is not None:
            norm = DomainBatchNorm(self.statistics, name="norm")
            x = norm(x, train=train, domain=domain, axis_name=axis_name)
        x = jnp.tanh(x)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)


MODEL = DannModel(
    feature_extractor=Features(),
    label_predictor=FullyConnected((), 3),
    domain_classifier=FullyConnected((5,), 1),
)
NORMED = dataclasses.replace(MODEL, feature_extractor=Features(statistics="per_domain"))
NOISY = dataclasses.replace(MODEL, feature_extractor=Features(dropout_rate=0.5))


@pytest.fixture(scope="module")
def arrays():
    random = np.random.default_rng(0)
    return DomainArrays(
        random.integers(0, 200, [20, 2, 2, 1]).astype(np.uint8),
        random.integers(0, 3, 20).astype(np.int32),
        random.integers(50, 255, [12, 2, 2, 1]).astype(np.uint8),
    )


def preprocess(batch):
    def scale(x):
        return (x.astype(jnp.float32) - 100.0) / 100.0

    return batch._replace(
        source_image=scale(batch.source_image), target_image=scale(batch.target_image)
    )


def lam(step):
    return lambda_p(progress(step, STEPS))


def optimizer(**options):
    return make_optimizer(lambda step: mu_p(progress(step, STEPS), mu0=0.1), **options)


@functools.cache
def _start(model):
    state = jax.jit(lambda: init_state(model, optimizer(), KEY, jnp.zeros([2, 2, 2, 1])))()
    return jax.tree.map(np.array, state)


def start(model=MODEL, count=1):
    """The first state, on ``count`` devices; a new copy each time, as programs delete it."""
    return replicate(jax.tree.map(np.copy, _start(model)), jax.devices()[:count])


def program(model=MODEL, count=1, objective=reversed_objective, **options):
    return make_train_steps(
        functools.partial(make_update_step, model, optimizer(), lam, objective=objective),
        preprocess=preprocess,
        devices=jax.devices()[:count],
        **SIZES | options,
    )


cached_program = functools.cache(program)  # to compile each but once


def close(a, b, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def a_batch(key=0):
    keys = jax.random.split(jax.random.key(key), 2)
    return DomainBatch(
        jax.random.normal(keys[0], [8, 2, 2, 1]),
        jnp.arange(8) % 3,
        jax.random.normal(keys[1], [8, 2, 2, 1]) + 0.5,
    )


# --- one trace ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("fused", [False, True])
def test_one_trace_over_five_steps_while_lambda_and_mu_change(count, fused, devices, arrays):
    traces = 0

    def counted(*args, **kwargs):
        nonlocal traces
        traces += 1
        return reversed_objective(*args, **kwargs)

    train = program(count=count, objective=counted, fused=fused)
    state, arrays = start(count=count), replicate(arrays, devices[:count])
    lambdas = []
    for _ in range(5):
        state, metrics = train(state, arrays, KEY, 1)
        lambdas.append(float(metrics.lam[0]))
    assert traces == 1
    np.testing.assert_allclose(lambdas, [lam(t) for t in range(5)], rtol=1e-5)
    assert len(set(lambdas)) == 5
    assert int(state.step) == 5


def test_mu_is_that_of_the_step():
    # Without momentum the size of the step is mu times that of the gradient.
    options = optimizer(momentum=0.0)
    state = init_state(MODEL, options, KEY, jnp.zeros([2, 2, 2, 1]))
    update = jax.jit(make_update_step(MODEL, options, lambda step: 1.0))
    gradients = []
    for t in range(3):
        new, _ = update(state, a_batch(), KEY)
        mu = mu_p(progress(t, STEPS), mu0=0.1)
        gradient = jax.tree.map(lambda a, b, mu=mu: (a - b) / mu, state.theta, new.theta)
        gradients.append(gradient)
        state = new.replace(theta=state.theta)  # the same place, one step later
    close(gradients[0], gradients[1], atol=1e-4)
    close(gradients[0], gradients[2], atol=1e-4)


# --- one device is four devices ----------------------------------------------------------


@pytest.mark.parametrize("model", [MODEL, NORMED], ids=["plain", "batch norm"])
def test_one_device_equals_four(model, devices, arrays):
    one, one_metrics = cached_program(model)(start(model), replicate(arrays, devices[:1]), KEY, 10)
    four, four_metrics = cached_program(model, 4)(
        start(model, 4), replicate(arrays, devices), KEY, 10
    )
    assert int(four.step) == 10
    close(one, four)
    close(one_metrics, four_metrics)


def test_every_shard_of_the_new_state_is_equal(devices, arrays):
    state, metrics = cached_program(NORMED, 4)(start(NORMED, 4), replicate(arrays, devices), KEY, 5)
    for leaf in jax.tree.leaves((state, metrics)):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 4
        for shard in shards[1:]:
            np.testing.assert_array_equal(shard, shards[0])


def split(batch):
    return jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)


@pytest.mark.parametrize("model", [MODEL, NORMED], ids=["plain", "batch norm"])
@pytest.mark.parametrize("objective", [reversed_objective, label_objective])
def test_one_device_equals_a_mapped_axis_with_weights(model, objective):
    """``out_axes=None`` under vmap also proves that nothing is left unaveraged."""
    batch = a_batch()._replace(source_weight=jnp.array([1.0, 1, 0, 2, 0, 0, 1, 1]))
    if objective is reversed_objective:
        batch = batch._replace(target_label=jnp.array([-1, -1, 0, 1, -1, 2, 2, -1]))
    state = start(model)
    make = functools.partial(make_update_step, model, optimizer(), lam, objective=objective)
    one, metrics = jax.jit(make())(state, batch, KEY)
    mapped = jax.vmap(
        make(axis_name="device"), in_axes=(None, 0, None), out_axes=None, axis_name="device"
    )
    four, metrics_of_four = jax.jit(mapped)(state, split(batch), KEY)
    close(one, four)
    close(metrics.label_loss, metrics_of_four.label_loss)
    close(metrics.domain_loss, metrics_of_four.domain_loss)


def test_one_device_equals_shard_map(devices):
    """With replication checks a gradient may be summed already: it must not be counted twice."""
    split_, whole = PartitionSpec("device"), PartitionSpec()
    batch = a_batch()
    make = functools.partial(make_update_step, MODEL, optimizer(), lam)
    sharded = jax.shard_map(
        make(axis_name="device"),
        mesh=Mesh(np.array(devices), ("device",)),
        in_specs=(whole, jax.tree.map(lambda _: split_, batch), whole),
        out_specs=whole,
    )
    start_ = jax.tree.map(jnp.asarray, _start(MODEL))
    # Momentum sums the steps, so that a gradient of another size shows.
    one, four = (jax.jit(update)(start_, batch, KEY)[0] for update in (make(), sharded))
    close(one, four)


def test_an_update_that_does_not_average_is_found_out():
    forgetful = make_update_step(MODEL, optimizer(), lam, axis_name=None)
    mapped = jax.vmap(forgetful, in_axes=(None, 0, None), out_axes=None, axis_name="device")
    with pytest.raises(ValueError, match="out_axes"):
        jax.eval_shape(mapped, start(), split(a_batch()), KEY)


@pytest.mark.parametrize(
    ("batch", "name", "near"), [((30, 8), "source", "28 or 32"), ((8, 10), "target", "8 or 12")]
)
def test_a_batch_that_does_not_split_is_refused(batch, name, near, devices):
    size = max(batch)
    with pytest.raises(
        ValueError,
        match=f"batch of {size} {name} examples cannot be split over 4 devices: choose {near}$",
    ):
        program(count=4, batch=batch)


def test_unequal_domains_train_where_nothing_tells_them_apart():
    images = jnp.zeros([8, 28, 28, 3])
    shapes = jax.eval_shape(lambda x: init_state(mnist(), optimizer(), KEY, x), images)
    batch = DomainBatch(images, jnp.zeros([8], jnp.int32), images[:4])
    jax.eval_shape(make_update_step(mnist(), optimizer(), lam), shapes, batch, KEY)


def test_unequal_domains_are_refused_where_halves_tell_them_apart():
    batch = a_batch()
    smaller = batch._replace(target_image=batch.target_image[:4])
    make = functools.partial(make_update_step, optimizer=optimizer(), lam=lam)
    with pytest.raises(ValueError, match="8 source and 4 target examples.*make both sizes equal"):
        jax.eval_shape(make(NORMED), start(NORMED), smaller, KEY)
    plain = dataclasses.replace(MODEL, feature_extractor=FullyConnected((), 4))
    shapes = jax.eval_shape(lambda x: init_state(plain, optimizer(), KEY, x), jnp.zeros([8, 4]))
    flat = smaller._replace(source_image=jnp.zeros([8, 4]), target_image=jnp.zeros([4, 4]))
    jax.eval_shape(make(plain), shapes, flat, KEY)  # no statistics: any sizes


def test_programs_say_which_arrays_and_steps_they_expect(arrays):
    fewer = arrays._replace(source_image=arrays.source_image[1:])
    with pytest.raises(ValueError, match="20 source and 12 target examples, got 19 images"):
        cached_program()(start(), fewer, KEY, 1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        cached_program()(start(), arrays, KEY, 0)


# --- many steps a call -------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
def test_fused_steps_equal_single_steps(count, devices, arrays):
    arrays = replicate(arrays, devices[:count])
    single = cached_program(NORMED, count)(start(NORMED, count), arrays, KEY, 5)
    fused = program(NORMED, count, fused=True)(start(NORMED, count), arrays, KEY, 5)
    close(single, fused)
    assert single[1].label_loss.shape == fused[1].label_loss.shape == (5,)


def test_steps_in_one_call_equal_steps_in_several(arrays):
    train = cached_program(NOISY)
    arrays = replicate(arrays, jax.devices()[:1])
    once, metrics = train(start(NOISY), arrays, KEY, 10)
    state, first = train(start(NOISY), arrays, KEY, 5)
    state, rest = train(state, arrays, KEY, 5)
    equal(once, state)
    equal(metrics.label_loss, np.concatenate([first.label_loss, rest.label_loss]))


def test_a_resumed_run_is_bit_exact(arrays, tmp_path):
    model = dataclasses.replace(NORMED, label_predictor=FullyConnected((4,), 3, dropout_rate=0.5))
    train = program(model)
    arrays = replicate(arrays, jax.devices()[:1])
    straight, _ = train(start(model), arrays, KEY, 10)
    half, _ = train(start(model), arrays, KEY, 5)
    checkpoints.save(tmp_path / "run", half)
    restored = checkpoints.restore(tmp_path / "run", start(model))
    assert isinstance(restored, TrainState)
    assert int(restored.step) == 5
    resumed, _ = train(restored, arrays, KEY, 5)
    equal(straight, resumed)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("fused", [False, True])
def test_the_state_is_donated_and_the_data_are_not(count, fused, devices, arrays):
    devices = devices[:count]
    state, arrays = start(count=count), replicate(arrays, devices)
    new, _ = program(count=count, fused=fused)(state, arrays, KEY, 1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, arrays)))


@pytest.mark.parametrize(
    ("count", "fused"),
    [
        (2, False),
        (1, True),
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
    ],
)
def test_neither_the_state_nor_the_data_are_copied(count, fused, devices, arrays):
    state, memory = start(count=count), []
    for times in (1, 10):
        more = jax.tree.map(lambda x, times=times: np.concatenate([x] * times), arrays)
        examples = len(more.source_image), len(more.target_image)
        train = program(count=count, fused=fused, examples=examples)
        lowered = train.lower(state, replicate(more, devices[:count]), KEY, 2)
        assert ("while" in lowered.as_text()) == fused  # two steps, or one
        memory.append(lowered.compile().memory_analysis())
    few, many = memory
    assert few.alias_size_in_bytes == sum(x.nbytes for x in jax.tree.leaves(state))
    assert many.argument_size_in_bytes - few.argument_size_in_bytes == 9 * sum(
        x.nbytes for x in arrays if x is not None
    )
    assert many.temp_size_in_bytes == few.temp_size_in_bytes
    equal(state, _start(MODEL))  # to lower a program trains nothing


def test_vmap_over_keys_equals_single_runs():
    keys = jax.random.split(KEY, 3)
    update = make_update_step(NOISY, optimizer(), lam)

    def run(key):
        state = init_state(NOISY, optimizer(), key, jnp.zeros([2, 2, 2, 1]))
        return jax.lax.scan(lambda s, _: update(s, a_batch(), key), state, length=4)

    together = jax.jit(jax.vmap(run))(keys)
    alone = jax.jit(run)
    for i, key in enumerate(keys):
        close(jax.tree.map(lambda x, i=i: x[i], together), alone(key))


# --- the domain is said ------------------------------------------------------------------


def one_after_the_other(order, theta, batch, lam, apply, *, axis_name=None):
    """``reversed_objective``, with G_f and G_d called on one domain after the other."""
    images = {SOURCE: batch.source_image, TARGET: batch.target_image}
    f = {d: apply.feature_extractor(theta["f"], images[d], domain=d) for d in order}
    z_y = apply.label_predictor(theta["y"], f[SOURCE], domain=SOURCE)
    z_d = {
        d: apply.domain_classifier(theta["d"], reverse_gradient(f[d], lam), domain=d) for d in order
    }
    f, z_d = (jnp.concatenate([x[SOURCE], x[TARGET]]) for x in (f, z_d))
    d = jnp.repeat(jnp.arange(2), len(batch.source_image))
    L_y, L_d = label_loss(z_y, batch.source_label), domain_loss(z_d, d)
    terms = Terms(L_y, L_d, f, z_y, batch.source_label, z_d[:, 0], d, None)
    return L_y + L_d, terms


DSBN_OFFICE = dataclasses.replace(
    office_batch_norm(None, classes=3, statistics="per_domain"),
    domain_classifier=FullyConnected((5,), 1),  # shared statistics would be those of each call
)


@pytest.mark.parametrize("order", [(SOURCE, TARGET), (TARGET, SOURCE)])
@pytest.mark.parametrize("model", [NORMED, DSBN_OFFICE], ids=["norm", "office"])
def test_one_domain_after_the_other_is_the_joint_call_with_dsbn(model, order):
    objective = functools.partial(one_after_the_other, order)
    states, metrics = [], []
    for of_update in (reversed_objective, objective):
        update = jax.jit(make_update_step(model, optimizer(), lambda _: 0.7, objective=of_update))
        state = start(model)
        for t in range(3):
            state, of_step = update(state, a_batch(t), KEY)
        states.append(state)
        metrics.append(of_step)
    close(*states)  # with momentum: the gradients of all updates, and the running averages
    close(*metrics)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), states[1], start(model))
    assert all(jax.tree.leaves(moved.batch_stats))
    assert all(jax.tree.leaves(moved.theta["f"]))


def test_one_domain_after_the_other_is_the_joint_call_on_a_mapped_axis():
    states = []
    for of_update in (reversed_objective, functools.partial(one_after_the_other, (0, 1))):
        update = make_update_step(NORMED, optimizer(), 0.7, objective=of_update, axis_name="device")
        mapped = jax.vmap(update, in_axes=(None, 0, None), out_axes=None, axis_name="device")
        states.append(jax.jit(mapped)(start(NORMED), split(a_batch()), KEY)[0])
    close(*states)


def of_one_domain(domain, theta, batch, lam, apply, *, axis_name=None):
    """L_y on one domain, which is said unless it is None."""
    del lam, axis_name
    said = {} if domain is None else {"domain": domain}
    x = batch.target_image if domain == TARGET else batch.source_image
    f = apply.feature_extractor(theta["f"], x, **said)
    z = apply.label_predictor(theta["y"], f, **said)
    L_y = label_loss(z, batch.source_label)
    return L_y, Terms(L_y, None, f, z, batch.source_label, None, None, None)


@pytest.mark.parametrize(("domain", "name"), [(SOURCE, "source"), (TARGET, "target")])
def test_a_call_on_one_domain_uses_and_moves_its_statistics_alone(domain, name):
    """Both halves have one length, so that nothing but ``domain`` tells them apart."""
    objective = functools.partial(of_one_domain, domain)
    update = jax.jit(make_update_step(NORMED, optimizer(), 1.0, objective=objective))
    old, batch = start(NORMED), a_batch()
    new, _ = update(old, batch, KEY)
    dense = old.theta["f"]["dense"]
    image = batch.source_image if domain == SOURCE else batch.target_image
    mean = (image.reshape(8, -1) @ dense["kernel"] + dense["bias"][None]).mean(0)
    old, new = (state.batch_stats["f"]["batch_stats"]["norm"] for state in (old, new))
    np.testing.assert_allclose(new[name]["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    other = {"source": "target", "target": "source"}[name]
    equal(new[other], old[other])


def traced(model, objective):
    update = make_update_step(model, optimizer(), 1.0, objective=objective)
    return jax.eval_shape(update, start(model), a_batch(), KEY)


def test_half_a_batch_without_a_domain_is_refused():
    message = (
        "G_f declares `domain` and got 8 examples without one, but the joint batch has 8 source "
        "and 8 target examples: .*domain=SOURCE or domain=TARGET"
    )
    with pytest.raises(ValueError, match=message):
        traced(NORMED, functools.partial(of_one_domain, None))


@pytest.mark.parametrize("model", [MODEL, NORMED])
@pytest.mark.parametrize("domain", [2, -1, "target"])
def test_an_unknown_domain_is_refused(model, domain):
    with pytest.raises(
        ValueError, match=r"unknown domain .*: expected 0 \(source\) or 1 \(target\), or None"
    ):
        traced(model, functools.partial(of_one_domain, domain))


def test_a_network_that_declares_no_domain_takes_any():
    plain = dataclasses.replace(
        MODEL,
        feature_extractor=PureFunction(
            lambda key, x: jax.random.normal(key, [4, 6]),
            lambda theta, x: jnp.tanh(x.reshape(len(x), -1) @ theta),
        ),
    )
    joint, _ = traced(plain, reversed_objective)
    for order in ((SOURCE, TARGET), (TARGET, SOURCE)):
        objective = functools.partial(one_after_the_other, order)
        assert traced(plain, objective)[0] == joint
        updates = (
            jax.jit(make_update_step(plain, optimizer(), 0.7, objective=each))
            for each in (reversed_objective, objective)
        )
        close(*(update(start(plain), a_batch(), KEY) for update in updates))
    assert traced(plain, functools.partial(of_one_domain, None))[0] == joint


# --- noise -------------------------------------------------------------------------------


def test_dropout_depends_on_the_step_and_not_on_the_order_of_calls():
    update = jax.jit(make_update_step(NOISY, optimizer(), lambda step: 1.0))
    state = start(NOISY)
    later = state.replace(step=state.step + 1)
    first = update(state, a_batch(), KEY)[0].theta
    other = update(later, a_batch(), KEY)[0].theta
    equal(first, update(state, a_batch(), KEY)[0].theta)
    for changed in (other, update(state, a_batch(), jax.random.key(6))[0].theta):
        assert np.any(np.asarray(first["f"]["dense"]["kernel"] != changed["f"]["dense"]["kernel"]))


def test_each_call_of_a_part_has_dropout_masks_of_its_own():
    def differing(calls, theta, batch, lam, apply, *, axis_name=None):
        """L_y, with the difference between the features of two calls as its features."""
        x = jnp.concatenate([batch.source_image, batch.target_image])
        f = [apply.feature_extractor(theta["f"], x) for _ in range(3)]
        value, terms = label_objective(theta, batch, lam, apply)
        return value, terms._replace(features=f[calls[0]] - f[calls[1]] if calls else f[0])

    def norm(model, calls):
        objective = functools.partial(differing, calls)
        update = jax.jit(make_update_step(model, optimizer(), 1.0, objective=objective))
        return float(update(start(model), a_batch(), KEY)[1].feature_norm)

    for calls in ((0, 1), (0, 2), (1, 2)):
        assert norm(NOISY, calls) > 0.1
        assert norm(MODEL, calls) == 0
    # The first call has the mask of the only call of reversed_objective.
    update = jax.jit(make_update_step(NOISY, optimizer(), 1.0))
    only = update(start(NOISY), a_batch(), KEY)[1].feature_norm
    np.testing.assert_allclose(norm(NOISY, ()), only, rtol=1e-6)


def test_dropout_differs_between_devices():
    shard = jax.tree.map(lambda x: x[None, :2], a_batch())

    def after(model, count):
        copies = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), shard)
        update = make_update_step(model, optimizer(), lam, axis_name="device")
        mapped = jax.vmap(update, in_axes=(None, 0, None), out_axes=None, axis_name="device")
        return jax.jit(mapped)(start(model), copies, KEY)[0].theta["f"]["dense"]["kernel"]

    # The same examples on each device: without noise the mean gradient is that of one device,
    # and with it only if the masks were the same.
    close(after(MODEL, 4), after(MODEL, 1))
    assert np.max(np.abs(after(NOISY, 4) - after(NOISY, 1))) > 1e-4


# --- objectives and optimizer ------------------------------------------------------------


def test_source_only_training_leaves_the_domain_classifier_unchanged(arrays):
    state = start()
    before = jax.tree.map(np.array, state.theta)
    train = program(objective=label_objective)
    state, metrics = train(state, replicate(arrays, jax.devices()[:1]), KEY, 5)
    equal(state.theta["d"], before["d"])
    assert np.any(np.asarray(state.theta["f"]["dense"]["kernel"]) != before["f"]["dense"]["kernel"])
    assert np.all(np.isnan(metrics.domain_loss))
    assert np.all(np.isnan(metrics.domain_accuracy))
    assert np.all(np.isfinite(metrics.label_loss))


def test_source_only_training_moves_the_source_statistics_alone():
    update = jax.jit(make_update_step(NORMED, optimizer(), lam, objective=label_objective))
    state = start(NORMED)
    new, _ = update(state, a_batch(), KEY)
    old, new = (s.batch_stats["f"]["batch_stats"]["norm"] for s in (state, new))
    assert np.any(np.asarray(new["source"]["mean"]) != np.asarray(old["source"]["mean"]))
    equal(new["target"], old["target"])


def test_metrics_worked_by_hand():
    # G_f keeps the first two values, the logits are (f1, f2) and the domain logit is f1.
    take = DannModel(
        feature_extractor=PureFunction(lambda key, x: {}, lambda theta, x: x[:, :2]),
        label_predictor=PureFunction(lambda key, f: {}, lambda theta, f: f),
        domain_classifier=PureFunction(lambda key, f: {}, lambda theta, f: f[:, 0]),
    )
    batch = DomainBatch(
        source_image=jnp.array([[3.0, 4.0], [0.0, -5.0]]),  # classes 1 and 0, norms 5 and 5
        source_label=jnp.array([1, 1]),  # right, wrong
        target_image=jnp.array([[-6.0, 8.0], [12.0, 5.0]]),  # norms 10 and 13
        target_label=jnp.array([-1, 0]),  # unknown, right
    )
    state = init_state(take, optimizer(), KEY, batch.source_image)
    _, metrics = make_update_step(take, optimizer(), lambda step: 0.25)(state, batch, KEY)
    np.testing.assert_allclose(metrics.label_accuracy, 2 / 3, rtol=1e-6)
    # Domain logits 3 (source, wrong), 0 (source, right), -6 (target, wrong), 12 (right).
    np.testing.assert_allclose(metrics.domain_accuracy, 0.5)
    np.testing.assert_allclose(metrics.feature_norm, (5 + 5 + 10 + 13) / 4, rtol=1e-6)
    assert metrics.lam == 0.25
    # Without the second source and the second target example: 1 of 1, 0 of 2, (5 + 10) / 2.
    w = jnp.array([1.0, 0.0])
    weighted = batch._replace(source_weight=w, target_weight=w)
    _, metrics = make_update_step(take, optimizer(), 0.25)(state, weighted, KEY)
    np.testing.assert_allclose(metrics.label_accuracy, 1.0)
    np.testing.assert_allclose(metrics.domain_accuracy, 0.0)
    np.testing.assert_allclose(metrics.feature_norm, 7.5, rtol=1e-6)
    assert metrics.lam == 0.25  # a constant will do as well


def test_learning_rate_factors_scale_each_parameter_by_its_path():
    paths = []

    def factors(path):
        paths.append(path)
        new_layer = 10.0 if path[0] in "yd" else 1.0
        return new_layer * (2.0 if path[-1] == "bias" else 1.0)

    def step_of(**options):
        chosen = make_optimizer(0.1, **options)
        state = init_state(MODEL, chosen, KEY, jnp.zeros([2, 2, 2, 1]))
        update = jax.jit(make_update_step(MODEL, chosen, lambda step: 1.0))
        moved = []
        for _ in range(2):  # the second step has momentum in it
            new, _ = update(state, a_batch(), KEY)
            moved.append(jax.tree.map(lambda a, b: a - b, new.theta, state.theta))
            state = new.replace(theta=state.theta)
        return moved

    for scaled, plain in zip(step_of(factors=factors), step_of(), strict=True):
        close(scaled["f"]["dense"]["kernel"], plain["f"]["dense"]["kernel"])
        close(scaled["f"]["dense"]["bias"], 2 * plain["f"]["dense"]["bias"])
        close(scaled["y"]["logits"]["kernel"], 10 * plain["y"]["logits"]["kernel"])
        close(scaled["d"]["fc1"]["dense"]["bias"], 20 * plain["d"]["fc1"]["dense"]["bias"])
    assert ("d", "fc1", "dense", "bias") in paths


def test_weight_decay_shrinks_weights_and_not_biases():
    chosen = make_optimizer(0.1, weight_decay=0.5)
    theta = {"kernel": jnp.full([2, 2], 3.0), "bias": jnp.full([2], 3.0)}
    updates, _ = chosen.update(jax.tree.map(jnp.zeros_like, theta), chosen.init(theta), theta)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * 3.0 * np.ones([2, 2]), rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], np.zeros(2))


def test_nesterov_looks_one_step_ahead():
    # Gradient 1 twice at mu = 1, momentum .5: v = 1, 1.5; steps .5 v + 1 = 1.5, 1.75.
    chosen = make_optimizer(1.0, momentum=0.5, nesterov=True)
    theta, moved = jnp.zeros([]), []
    state = chosen.init(theta)
    for _ in range(2):
        update, state = chosen.update(jnp.ones([]), state, theta)
        moved.append(float(update))
    np.testing.assert_allclose(moved, [-1.5, -1.75])


def test_adam_takes_the_steps_of_kingma_and_ba():
    b1, b2, mu = 0.5, 0.999, [0.1, 0.1, 0.01]
    chosen = make_optimizer(
        lambda step: jnp.asarray(mu)[step], descent=functools.partial(optax.adam, b1=b1)
    )
    theta, m, v = jnp.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    state, expected = chosen.init(theta), np.array([1.0, -2.0])
    for t in range(3):
        g = np.asarray(theta) ** 2 + 0.5  # some gradient
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        ratio = (m / (1 - b1 ** (t + 1))) / (np.sqrt(v / (1 - b2 ** (t + 1))) + 1e-8)
        expected = expected - mu[t] * ratio
        updates, state = chosen.update(jnp.asarray(g), state, theta)
        theta = optax.apply_updates(theta, updates)
        np.testing.assert_allclose(theta, expected, rtol=1e-5)
    with pytest.raises(TypeError, match="descent must be a function of mu, got 'adam'"):
        make_optimizer(0.1, descent="adam")


def test_init_state_uses_the_shape_of_the_image_only_and_a_key_a_part():
    some = init_state(MODEL, optimizer(), KEY, jnp.zeros([2, 2, 2, 1]))
    equal(some.theta, init_state(MODEL, optimizer(), KEY, jnp.ones([5, 2, 2, 1])).theta)
    same = dataclasses.replace(
        MODEL,
        feature_extractor=FullyConnected((), 4),
        label_predictor=FullyConnected((), 4),
        domain_classifier=FullyConnected((), 4),
    )
    theta = init_state(same, optimizer(), KEY, jnp.zeros([2, 4])).theta
    kernels = [np.asarray(theta[part]["logits"]["kernel"]) for part in "fyd"]
    assert np.any(kernels[0] != kernels[1])
    assert np.any(kernels[1] != kernels[2])


def test_an_objective_may_declare_a_key_and_the_average_of_the_parameters():
    keys, averages = [], []

    def objective(theta, batch, lam, apply, *, key, average, axis_name=None):
        keys.append(jax.random.key_data(key).tolist())
        averages.append(average)
        return reversed_objective(theta, batch, lam, apply, axis_name=axis_name)

    decay, batch = 0.75, a_batch()
    sgd = make_optimizer(0.1)
    averaging = with_average(sgd, decay)
    update = make_update_step(MODEL, averaging, 0.5, objective=objective)
    states = [init_state(MODEL, averaging, KEY, batch.source_image)]
    for _ in range(3):
        states.append(update(states[-1], batch, KEY)[0])
    assert len({tuple(key) for key in keys}) == 3  # one for each step
    again = update(states[0], batch, KEY)[0]
    equal(again, states[1])
    assert keys[3] == keys[0]
    close(averages[0], states[0].theta)
    expected = states[0].theta
    for i, state in enumerate(states[1:], start=1):
        expected = jax.tree.map(lambda a, t: decay * a + (1 - decay) * t, expected, state.theta)
        close(averaged(state).theta, expected)
        if i < 3:
            close(averages[i], expected)
    plain = init_state(MODEL, sgd, KEY, batch.source_image)
    for _ in range(3):
        plain = make_update_step(MODEL, sgd, 0.5)(plain, batch, KEY)[0]
    equal(plain.theta, states[3].theta)  # the updates do not depend on the average
    # Parameters that are put in before the first update, such as ImageNet's, start the average.
    theta = jax.tree.map(lambda w: w + 1, states[0].theta)
    pretrained = dataclasses.replace(states[0], theta=theta)
    close(averaged(pretrained).theta, theta)
    state = update(pretrained, batch, KEY)[0]
    expected = jax.tree.map(lambda a, t: decay * a + (1 - decay) * t, theta, state.theta)
    close(averaged(state).theta, expected)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), pretrained, state)
    both = jax.tree.map(lambda *x: jnp.stack(x), theta, expected)
    close(averaged(stacked).theta, both)


def test_no_average_and_no_decay_are_refused():
    state = init_state(MODEL, make_optimizer(0.1), KEY, a_batch().source_image)
    with pytest.raises(ValueError, match="make it with with_average"):
        averaged(state)
    with pytest.raises(ValueError, match="decay must be a number, 0 or more and below 1, got 1.0"):
        with_average(make_optimizer(0.1), 1.0)


def test_the_domain_classifier_takes_what_the_model_says():
    def pair(features, label_logits):
        return jnp.concatenate([features, label_logits], 1)

    model = dataclasses.replace(MODEL, domain_input=pair)
    state = start(model)
    kernel = state.theta["d"]["fc1"]["dense"]["kernel"]
    assert kernel.shape == (6 + 3, 5)
    images = a_batch().source_image
    apply = model.parts["y"].apply
    f = features(model, state, images, layer="f")
    z, _ = apply(state.theta["y"], state.batch_stats["y"], f)
    d, _ = model.parts["d"].apply(state.theta["d"], state.batch_stats["d"], pair(f, z))
    close(features(model, state, images, layer="d"), d)


def test_an_objective_sees_the_layers_of_a_part():
    seen = {}

    def objective(theta, batch, lam, apply, *, axis_name=None):
        f = apply.feature_extractor(theta["f"], batch.source_image, domain=SOURCE)
        z = apply.label_predictor(theta["y"], f, layers=seen)
        seen["output"], seen["loss"] = z, jnp.mean(seen["fc1"] ** 2)
        L_y = label_loss(z, batch.source_label)
        return L_y + seen["loss"], Terms(L_y, None, f, z, batch.source_label, None, None, None)

    model = dataclasses.replace(MODEL, label_predictor=FullyConnected((4,), 3))
    batch = a_batch()
    optimizer = make_optimizer(0.1)
    state = init_state(model, optimizer, KEY, batch.source_image)
    after, _ = make_update_step(model, optimizer, 0.0, objective=objective)(state, batch, KEY)
    assert {"fc1", "fc1/dense", "logits"} <= seen.keys()
    assert seen["logits"] is seen["output"]
    plain, _ = make_update_step(model, optimizer, 0.0, objective=label_objective)(state, batch, KEY)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.theta["f"], plain.theta["f"])
    assert any(jax.tree.leaves(moved))  # the gradient goes through the layer
