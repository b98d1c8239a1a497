"""Many trainings as one program are the trainings one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_distributed import MODEL

from dann_jax import (
    DomainArrays,
    init_state,
    lambda_p,
    make_optimizer,
    make_train_steps,
    make_update_step,
    mu_p,
    programs,
    progress,
    replicate,
    reversed_objective,
)
from dann_jax.programs import group_keys

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEYS = jax.random.split(jax.random.key(7), 4)
STEPS = 20
SIZES = {"examples": (20, 12), "batch": (8, 8)}
OPTIMIZER = make_optimizer(lambda step: 0.1)  # to start its state, where the rate does not matter
SAMPLE = jnp.zeros([2, 4, 4, 1])
random = np.random.default_rng(1)
ARRAYS = DomainArrays(
    random.integers(0, 256, [20, 4, 4, 1], np.uint8),
    random.integers(0, 3, 20, np.int32),
    random.integers(0, 256, [12, 4, 4, 1], np.uint8),
)
USUAL = {"mu0": 0.1, "gamma": 10.0, "weight": 1.0}


def preprocess(batch):
    return batch._replace(
        source_image=batch.source_image / 255.0, target_image=batch.target_image / 255.0
    )


def make_update(settings, axis_name=None):
    settings = USUAL if settings is None else settings
    return make_update_step(
        MODEL,
        make_optimizer(lambda step: mu_p(progress(step, STEPS), settings["mu0"])),
        lambda step: lambda_p(progress(step, STEPS), settings["gamma"]),
        objective=functools.partial(reversed_objective, domain_weight=settings["weight"]),
        axis_name=axis_name,
    )


@functools.cache
def _first(size):
    init = jax.jit(lambda keys: programs.init_states(MODEL, OPTIMIZER, keys, SAMPLE))
    return jax.device_get(init(KEYS[:size]))


def first_states(size=len(KEYS)):
    """The first states; a new copy each time, as programs delete it."""
    return jax.tree.map(jnp.array, _first(size))


first_state = jax.jit(functools.partial(init_state, MODEL, OPTIMIZER))


@functools.cache
def alone(count=1, settings=()):
    """The program of one training by itself."""
    return make_train_steps(
        functools.partial(make_update, dict(settings) or None),
        preprocess=preprocess,
        devices=jax.local_devices()[:count],
        **SIZES,
    )


def program(devices=1, **options):
    return programs.make_study_steps(
        make_update,
        preprocess=preprocess,
        devices=jax.local_devices()[:devices],
        **SIZES | options,
    )


def together(settings=None, *, keys=KEYS, calls=(STEPS,), **options):
    train = program(**options)
    states = first_states(len(keys))
    metrics = []
    for steps in calls:
        states, of_call = train(states, ARRAYS, keys, steps, settings)
        metrics.append(of_call)
    return states, jax.tree.map(lambda *m: np.concatenate(m, 1), *metrics)


def assert_same(study, keys=KEYS, settings=None, sharing=1):
    """Asserts that a study is its trainings by themselves, on as many devices as share each."""
    states, metrics = study
    devices = jax.local_devices()[:sharing]
    for i, key in enumerate(keys):
        chosen = {name: float(values[i]) for name, values in (settings or {}).items()}
        train = alone(sharing, tuple(chosen.items()))
        state = replicate(first_state(key, SAMPLE), devices)
        state, metrics_alone = train(state, replicate(ARRAYS, devices), key, STEPS)
        of_key = jax.tree.map(lambda x, i=i: x[i], (metrics, states.theta))
        close = functools.partial(np.testing.assert_allclose, atol=1e-4, err_msg=f"key {i}")
        jax.tree.map(functools.partial(close, rtol=1e-4), of_key[0], metrics_alone)
        jax.tree.map(close, of_key[1], state.theta)


SPLITS = {  # trainings, devices, and how many of these are to share a training: how many do
    (4, 1, None): 1,
    (4, 2, None): 1,
    (4, 4, None): 1,
    (4, 2, 2): 2,
    (2, 4, None): 2,
    (3, 4, None): 4,
}


OFTEN = (4, 1, None), (4, 2, 2), (2, 4, None)  # the others are slow and much like these


@pytest.mark.parametrize(
    ("size", "count", "asked"),
    [pytest.param(*each, marks=() if each in OFTEN else pytest.mark.slow) for each in SPLITS],
)
def test_a_study_of_keys_is_the_trainings_one_by_one(size, count, asked, devices):
    keys = KEYS[:size]
    study = together(keys=keys, devices=count, devices_per_training=asked)
    assert_same(study, keys, sharing=SPLITS[size, count, asked])


@pytest.mark.parametrize(("count", "sharing"), [(2, 1), (4, 2)])
def test_fused_steps_equal_single_steps(count, sharing, devices):
    study = together(devices=count, devices_per_training=sharing, fused=True)
    assert_same(study, sharing=sharing)


@pytest.mark.slow
def test_settings_vary_along_the_axis_of_the_keys():
    settings = {
        "mu0": jnp.array([0.1, 0.03, 0.1, 0.2]),
        "gamma": jnp.array([10.0, 10.0, 3.0, 20.0]),
        "weight": jnp.array([1.0, 1.0, 0.3, 0.0]),
    }
    assert_same(together(settings, devices=2), settings=settings)


def test_a_study_in_several_calls_is_that_in_one():
    whole, parts = together(), together(calls=(7, 13))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_trainings_that_do_not_spread_over_the_devices_are_refused():
    with pytest.raises(ValueError, match="4 trainings .* over 3 devices: use one of 1, 2 devices"):
        together(devices=3)
    match = "cannot have 3 devices each of 4: make devices_per_training one of 1, 2, 4, or None"
    with pytest.raises(ValueError, match=match):
        together(devices=4, devices_per_training=3)


def test_settings_of_another_number_of_trainings_are_refused():
    with pytest.raises(ValueError, match="of 4 trainings, as many as keys.*of 3, 4"):
        together({name: jnp.full(3, value) for name, value in USUAL.items()})
    with pytest.raises(ValueError, match="of 4 trainings.*None"):
        together(USUAL)


def test_other_arrays_and_no_steps_are_refused():
    train = program()
    states = first_states()
    with pytest.raises(ValueError, match="expected arrays of"):
        train(states, ARRAYS._replace(target_image=ARRAYS.target_image[1:]), KEYS, 1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        train(states, ARRAYS, KEYS, 0)


@pytest.mark.parametrize(
    ("sharing", "fused"),
    [
        (2, False),
        (1, True),
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
    ],
)
def test_neither_the_states_nor_the_data_are_copied(sharing, fused):
    states, memory = first_states(), []
    for times in (1, 10):
        arrays = jax.tree.map(lambda x, times=times: np.concatenate([x] * times), ARRAYS)
        train = program(
            devices=2,
            devices_per_training=sharing,
            fused=fused,
            examples=(len(arrays.source_image), len(arrays.target_image)),
        )
        lowered = train.lower(states, arrays, KEYS, 2)
        memory.append(lowered.compile().memory_analysis())
    few, many = memory
    of_a_device = sum(x.nbytes for x in jax.tree.leaves(states)) * sharing // 2
    assert few.alias_size_in_bytes == of_a_device
    assert many.argument_size_in_bytes - few.argument_size_in_bytes == 9 * sum(
        x.nbytes for x in ARRAYS if x is not None
    )
    assert many.temp_size_in_bytes == few.temp_size_in_bytes


def test_the_states_are_donated():
    train, states = program(devices=2), first_states()
    arrays = replicate(ARRAYS, jax.local_devices()[:2])
    states, _ = train(states, arrays, KEYS, 1)  # spreads them over the devices
    new, _ = train(states, arrays, KEYS, 1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(states))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, arrays)))


@pytest.mark.parametrize("fused", [False, True])
def test_what_lies_on_one_device_is_spread_over_all(fused, devices):
    settings = {name: jnp.full(len(KEYS), value) for name, value in USUAL.items()}
    train = program(devices=4, fused=fused)
    _, expected = train(first_states(), ARRAYS, KEYS, 2, settings)
    states, keys, settings = jax.device_put((first_states(), KEYS, settings), devices[3])
    states, metrics = train(states, ARRAYS, keys, 2, settings)
    jax.tree.map(np.testing.assert_array_equal, metrics, expected)
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(states)} == {4}


@pytest.mark.parametrize(
    ("keys", "devices", "together", "devices_per_key", "expected"),
    [
        (3, 1, None, None, [(3, 1)]),
        (3, 1, 2, None, [(2, 1), (1, 1)]),
        (2, 4, 1, None, [(1, 4), (1, 4)]),
        (4, 4, None, None, [(4, 1)]),
        (11, 4, None, None, [(8, 1), (2, 2), (1, 4)]),
        (3, 4, None, None, [(2, 2), (1, 4)]),
        (5, 4, None, 2, [(4, 2), (1, 2)]),
        (3, 4, None, 1, [(3, 1)]),
        (2, 4, None, 4, [(2, 4)]),
    ],
)
def test_keys_are_spread_over_devices_first(keys, devices, together, devices_per_key, expected):
    options = {"together": together, "devices_per_key": devices_per_key}
    groups = group_keys(range(keys), devices, **options)
    assert [(len(group.keys), group.devices_per_key) for group in groups] == expected
    assert [key for group in groups for key in group.keys] == list(range(keys))
