"""One training whatever the number of devices, one digest whatever the process, keys as told."""

import functools
import hashlib
import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_together import CONFIG, PAIR, prepared
from test_training import MODEL, NORMED, a_batch, lam, optimizer, preprocess

from dann_jax import (
    DannModel,
    DomainArrays,
    batch_indices,
    init_state,
    make_train_steps,
    make_update_step,
    replicate,
    split_key,
)
from dann_jax.augmentation import draw_views
from dann_jax.datasets import draws, subset
from dann_jax.datasets.gtsrb.gtsrb_dataset_builder import permutation
from dann_jax.digests import digest
from dann_jax.objective import Terms
from dann_jax.programs import Group, check_replicated
from experiments import heads, train, trained

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(5)
COUNTS = (1, 2, 4, 8)  # of devices
STEPS = 50
SECONDS = 300  # after which the process is given up
SIZES = {"examples": (20, 12), "batch": (16, 16)}

random = np.random.default_rng(0)
ARRAYS = DomainArrays(
    random.integers(0, 200, [20, 2, 2, 1]).astype(np.uint8),
    random.integers(0, 3, 20).astype(np.int32),
    random.integers(50, 255, [12, 2, 2, 1]).astype(np.uint8),
)


# --- devices -----------------------------------------------------------------------------


def first_state(model, key):
    return init_state(model, optimizer(), key, jnp.zeros([2, 2, 2, 1]))


def trained_on(count, key=KEY, model=NORMED, steps=STEPS, **options):
    """The state and the metrics of a training on so many devices."""
    devices = jax.devices()[:count]
    make_update = functools.partial(make_update_step, model, optimizer(), lam)
    program = make_train_steps(
        make_update, preprocess=preprocess, devices=devices, **SIZES | options
    )
    state = replicate(jax.jit(functools.partial(first_state, model))(key), devices)
    return program(state, replicate(ARRAYS, devices), key, steps)


def numbers(name, tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def work(path):
    """What a process of eight devices does."""
    assert jax.device_count() == max(COUNTS)
    found = {}
    for count in COUNTS:
        every = trained_on(count)
        check_replicated(every)
        found |= numbers(f"{count}: ", every)
    np.savez(path, **found)


@pytest.fixture(scope="module")
def of_counts(tmp_path_factory):
    """The numbers of one training on 1, 2, 4 and 8 devices."""
    path = tmp_path_factory.mktemp("devices") / "numbers.npz"
    environment = os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={max(COUNTS)}",
    }
    command = [sys.executable, "-W", "error", __file__, str(path)]
    subprocess.run(command, env=environment, check=True, timeout=SECONDS)
    return dict(np.load(path))


@pytest.mark.parametrize("count", COUNTS[1:])
def test_any_number_of_devices_gives_one_trajectory(count, of_counts):
    """The metrics of each step, and the state after the last; there is no dropout in it."""
    expected = {key: value for key, value in of_counts.items() if key.startswith("1: ")}
    assert expected["1: [1].label_loss"].shape == (STEPS,)
    assert int(expected["1: [0].step"]) == STEPS
    for key, value in expected.items():
        other = of_counts[key.replace("1", str(count), 1)]
        np.testing.assert_allclose(other, value, rtol=1e-5, atol=1e-5, err_msg=key)


def test_the_devices_have_trained(of_counts):
    first = numbers("1: [0]", jax.jit(functools.partial(first_state, NORMED))(KEY))
    weights = [name for name in first if "theta" in name and "kernel" in name]
    assert len(weights) == 4
    assert all(np.abs(of_counts[name] - first[name]).max() > 1e-2 for name in weights)


def test_an_update_that_does_not_average_is_found_out_at_the_end(devices):
    def make_update(axis_name):
        del axis_name  # what the check is for
        return make_update_step(MODEL, optimizer(), lam)

    program = make_train_steps(make_update, preprocess=preprocess, devices=devices, **SIZES)
    state = replicate(jax.jit(functools.partial(first_state, MODEL))(KEY), devices)
    check_replicated(state)
    state, _ = program(state, replicate(ARRAYS, devices), KEY, 1)
    message = (
        r"others on \S*0 than on \S*1 for tree\.theta\['d'\].*jax.lax.pmean over its axis_name"
    )
    with pytest.raises(ValueError, match=message):
        check_replicated(state)
    with pytest.raises(ValueError, match=message):
        train._check_equal(state)


def test_equal_bits_pass_the_check_whatever_they_say(devices):
    tree = {"nan": np.full(3, np.nan), "key": KEY, "half": jnp.ones(2, jnp.bfloat16), "n": 3}
    check_replicated(replicate(tree, devices))
    check_replicated(jax.device_get(tree))
    other = [
        jax.device_put(np.float32([0.0, sign * 0.0]), d)
        for sign, d in zip([1, -1], devices[:2], strict=True)
    ]
    sharding = replicate(np.zeros(2, np.float32), devices[:2]).sharding
    with pytest.raises(ValueError, match="expected equal numbers on all devices"):
        check_replicated(jax.make_array_from_single_device_arrays((2,), sharding, other))


# --- digests -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ready(quick_compilation):
    """A small study of ``experiments`` on one device."""
    return prepared(1)


def test_a_key_has_one_digest_and_another_key_another(ready, tmp_path):
    """Of parameters, losses and accuracies."""
    every = []
    for run in ("first", "second"):
        folder = tmp_path / run
        records = train.train(ready, [3, 4], folder)
        states = [trained.restored(ready, key, folder) for key in (3, 4)]
        for state, record in zip(states, records, strict=True):
            parts = state, record["curves"], record["evaluations"]
            every.append([digest(part) for part in parts])
    (one, other), again = every[:2], every[2:]
    assert again == [one, other]
    assert not set(one) & set(other)


# --- what each key seeds: the rows of docs/keys.md ----------------------------------------


def test_the_number_of_a_training_gives_the_keys_of_its_start_and_of_its_steps(ready):
    start_key, train_key = jax.random.split(jax.random.key(7))
    state, key = ready.start(Group((7,), 1))
    assert key == train_key
    size = CONFIG.image_size
    parts, x = ready.model.parts, jnp.zeros([2, size, size, 3])
    for i, (name, part) in enumerate(parts.items()):
        expected, _ = jax.jit(part.init)(jax.random.fold_in(start_key, i), x)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-6), state.theta[name], expected
        )
        x = jnp.zeros([2, 8]) if name == "f" else x
    states, keys = ready.start(Group((6, 7), 1))
    assert keys[1] == train_key
    theta = jax.tree.map(lambda a: a[1], states.theta)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), theta, state.theta)


def test_the_order_of_an_epoch_is_a_permutation_by_domain_and_epoch():
    order_key, noise_key = jax.random.split(KEY)
    assert split_key(KEY) == (order_key, noise_key)

    @functools.partial(jax.jit, static_argnums=2)
    def order(part, epoch, size):
        key = jax.random.fold_in(jax.random.fold_in(order_key, part), epoch)
        return jax.random.permutation(key, size)

    draw = jax.jit(batch_indices, static_argnames=("steps", "examples", "batch", "labelled"))
    drawn = draw(order_key, 0, steps=6, examples=(9, 8), batch=(3, 4))
    for part, size in enumerate((9, 8)):
        expected = np.concatenate([order(part, epoch, size) for epoch in (0, 1, 2)])
        np.testing.assert_array_equal(np.ravel(drawn[part]), expected[: drawn[part].size])
    drawn = draw(order_key, 0, steps=3, examples=(9, 8), batch=(3, 4), labelled=(2, 2))
    few = np.stack([order(1, epoch, 2) for epoch in range(3)])
    rest = 2 + order(2, 0, 6).reshape(3, 2)
    np.testing.assert_array_equal(drawn.target, np.concatenate([few, rest], 1))


class Noise(nn.Module):
    """Numbers of dropout and of another random stream, of the two kinds that parts may have."""

    @nn.compact
    def __call__(self, x, *, train=False):
        scale = self.param("scale", nn.initializers.ones, [])
        if not train:
            return x * scale
        dropped = nn.Dropout(0.5, deterministic=False)(jnp.ones(8))
        return scale * jnp.concatenate([dropped, jax.random.normal(self.make_rng("own"), [8])])


CALLS = ("f", "f", "y", "f", "d", "y")  # of the parts, by an objective


def noisy_objective(theta, batch, lam, apply, *, axis_name=None):
    """Calls the parts; the features, whose mean norm is a metric, are all that they return."""
    del lam, axis_name
    parts = dict(zip("fyd", apply, strict=True))
    features = jnp.stack([parts[name](theta[name], batch.source_image) for name in CALLS])
    return jnp.sum(features), Terms(None, None, features, None, None, None, None, None)


@pytest.mark.parametrize("count", [None, 2])
def test_the_noise_of_a_call_is_that_of_step_device_part_and_call(count):
    model = DannModel(feature_extractor=Noise(), label_predictor=Noise(), domain_classifier=Noise())
    axis_name = None if count is None else "device"
    update = make_update_step(
        model, optimizer(), 0.0, objective=noisy_objective, axis_name=axis_name
    )
    state = init_state(model, optimizer(), KEY, jnp.zeros([4])).replace(step=jnp.int32(3))
    batch, noise_key = a_batch(), split_key(KEY).noise
    if count is not None:
        in_axes = None, None, None
        update = jax.vmap(update, in_axes, out_axes=None, axis_name=axis_name, axis_size=count)
    _, metrics = update(state, batch, noise_key)
    norms = []
    for device in range(count or 1):
        key = jax.random.fold_in(noise_key, 3)
        key = key if count is None else jax.random.fold_in(key, device)
        for i, name in enumerate(CALLS):
            of_call, before = jax.random.fold_in(key, "fyd".index(name)), CALLS[:i].count(name)
            of_call = jax.random.fold_in(of_call, before) if before else of_call
            rngs = {"dropout": of_call, "own": jax.random.fold_in(of_call, 0x5EED)}
            variables = {"params": state.theta[name]}
            y = Noise().apply(variables, batch.source_image, train=True, rngs=rngs)
            norms.append(jnp.linalg.norm(y))
    assert len({float(norm) for norm in norms}) == len(norms)
    np.testing.assert_allclose(metrics.feature_norm, np.mean(norms), rtol=1e-6)


def test_a_view_is_that_of_domain_step_and_position():
    noise_key = split_key(KEY).noise
    options = {"domain": 1, "positions": jnp.array([2, 5]), "size": 4, "mirror": True}
    views = draw_views(noise_key, 6, shape=(9, 7, 3), **options)
    key = jax.random.fold_in(noise_key, np.uint32(2**32 - 1))
    key = jax.random.fold_in(jax.random.fold_in(key, 1), 6)
    for i, position in enumerate((2, 5)):
        corner_key, mirror_key = jax.random.split(jax.random.fold_in(key, position))
        corner = jax.random.randint(corner_key, [2], 0, jnp.array([9 - 4 + 1, 7 - 4 + 1]))
        np.testing.assert_array_equal(views.corner[i], corner)
        assert views.mirrored[i] == jax.random.bernoulli(mirror_key)


def test_the_number_of_a_training_draws_the_examples_of_its_svm(monkeypatch):
    monkeypatch.setattr(heads, "MOST", 5)
    images = PAIR.source_train
    drawn = heads._drawn(images, 7)
    order = np.random.default_rng(7).permutation(len(images.label))[:5]
    np.testing.assert_array_equal(drawn.image, images.image[order])
    np.testing.assert_array_equal(drawn.label, images.label[order])


def philox(seed, stream, index, count):
    """Uniform numbers by the recipe: a key of seed and stream, a range of counters an index."""
    name = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    blocks = -(-count // 4)
    key = np.array([seed, name], np.uint64)
    words = np.random.Philox(key=key, counter=index * blocks).random_raw(4 * blocks)
    return (words[:count] >> np.uint64(11)) / 2.0**53


def test_data_sets_are_drawn_by_seed_stream_and_index():
    for seed, stream, index, count in [(0, "train", 0, 3), (2, "test patches", 17, 5)]:
        drawn = draws.uniform(seed, stream, index, index + 1, count=count)
        np.testing.assert_array_equal(drawn[0], philox(seed, stream, index, count))
    order = [philox(3, "permutation", i, 1)[0] for i in range(9)]
    np.testing.assert_array_equal(permutation(9, seed=3), np.argsort(order))


def test_a_subset_has_the_smallest_draws_of_each_class():
    label = np.array([0, 1, 0, 1, 1, 0, -1, 1])
    draw = np.array([philox(4, "subset", i, 1)[0] for i in range(len(label))])
    expected = [i for c in (0, 1) for i in sorted(np.flatnonzero(label == c), key=draw.take)[:2]]
    np.testing.assert_array_equal(subset(label, 2, 4), sorted(expected))


if __name__ == "__main__":
    work(sys.argv[1])
