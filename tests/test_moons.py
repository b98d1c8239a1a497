"""The toy of JMLR Sec. 5.1.1: inter-twinning moons, the target turned by 35 degrees."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import make_moons

from dann_jax import (
    DannModel,
    DomainBatch,
    evaluate,
    init_state,
    label_objective,
    lambda_p,
    make_optimizer,
    make_update_step,
    mu_p,
    predict,
    progress,
    reversed_objective,
)
from dann_jax.networks import FullyConnected

STEPS = 3000
KEYS = 3


class Tanh(nn.Module):
    """One hidden layer of 15."""

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(15)(x))


MODEL = DannModel(
    feature_extractor=Tanh(),
    label_predictor=FullyConnected((), 2),
    domain_classifier=FullyConnected((15,), 1),
)


def moons(seed, degrees):
    """150 points a moon, turned about their centre."""
    x, y = make_moons(300, noise=0.05, random_state=seed)
    a = np.deg2rad(degrees)
    x = (x - x.mean(0)) @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    return x.astype(np.float32), y.astype(np.int32)


@pytest.fixture(scope="module")
def domains():
    source = [moons(seed, 0) for seed in range(KEYS)]
    target = [moons(seed + 100, 35) for seed in range(KEYS)]
    return tuple(np.stack(a) for a in (*zip(*source, strict=True), *zip(*target, strict=True)))


def train(objective, source_x, source_y, target_x):
    """Full-batch training, of one state a key at once; lambda rises to 6."""
    optimizer = make_optimizer(
        lambda step: mu_p(progress(step, STEPS), mu0=0.05),
        factors=lambda path: 5.0 if path[0] == "d" else 1.0,  # G_d keeps up with G_f
    )
    update = make_update_step(
        MODEL,
        optimizer,
        lambda step: 6.0 * lambda_p(progress(step, STEPS)),
        objective=objective,
    )

    @jax.jit
    @jax.vmap
    def run(key, x, y, t):
        state = init_state(MODEL, optimizer, key, x)
        batch = DomainBatch(x, y, t)
        return jax.lax.scan(lambda s, _: update(s, batch, key), state, length=STEPS)[0]

    return run(jax.random.split(jax.random.key(0), KEYS), source_x, source_y, target_x)


def accuracies(states, x, y):
    states = [jax.tree.map(lambda a, i=i: a[i], states) for i in range(KEYS)]
    return [evaluate(predict(MODEL, s, x[i]), y[i]) for i, s in enumerate(states)]


def test_dann_beats_source_only_on_the_rotated_moons(domains):
    source_x, source_y, target_x, target_y = domains
    plain, dann = (
        functools.partial(train, o)(source_x, source_y, target_x)
        for o in (label_objective, reversed_objective)
    )
    source_only, adapted = (accuracies(s, target_x, target_y) for s in (plain, dann))
    assert min(accuracies(plain, source_x, source_y)) > 0.95  # it has learnt its own domain
    assert min(accuracies(dann, source_x, source_y)) > 0.95
    for before, after in zip(source_only, adapted, strict=True):
        assert before < 0.82
        assert after > before + 0.07
    assert np.mean(adapted) > np.mean(source_only) + 0.12
