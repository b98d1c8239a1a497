"""The toy of JMLR Sec. 5.1.1: inter-twinning moons, the target turned by 35 degrees."""

import jax
import numpy as np
import pytest

from dann_jax import evaluate, predict
from experiments.figures.moons import DEGREES, LAM, MODEL, moons, train

KEYS = 32  # where a single adapted training ends hangs on rounding, their mean does not


@pytest.fixture(scope="module")
def domains():
    source = [moons(seed, 0) for seed in range(KEYS)]
    target = [moons(seed + 100, DEGREES) for seed in range(KEYS)]
    return tuple(np.stack(a) for a in (*zip(*source, strict=True), *zip(*target, strict=True)))


def accuracies(states, x, y):
    """Accuracy of each key."""
    states = [jax.tree.map(lambda a, i=i: a[i], states) for i in range(KEYS)]
    return np.array([evaluate(predict(MODEL, s, x[i]), y[i]) for i, s in enumerate(states)])


@pytest.mark.slow
def test_dann_beats_source_only_on_the_rotated_moons(domains):
    source_x, source_y, target_x, target_y = domains
    keys = jax.random.split(jax.random.key(0), KEYS)
    plain, dann = (train(lam, keys, source_x, source_y, target_x) for lam in (0.0, LAM))
    assert min(accuracies(plain, source_x, source_y)) > 0.95  # it has learnt its own domain
    assert np.mean(accuracies(dann, source_x, source_y)) > 0.95
    source_only, adapted = (accuracies(s, target_x, target_y) for s in (plain, dann))
    gain = adapted - source_only
    assert np.mean(source_only) < 0.8
    assert max(source_only) < 0.83
    assert np.mean(gain) > 0.1
    assert np.mean(gain > 0.07) >= 0.75
    assert np.mean(gain) > 8 * np.std(gain, ddof=1) / np.sqrt(KEYS)  # standard errors


def test_moons_are_turned_counter_clockwise():
    (x, y), (turned, labels) = moons(0, 0), moons(0, 90)
    np.testing.assert_allclose(turned, np.stack([-x[:, 1], x[:, 0]], -1), atol=1e-6)
    assert list(y) == list(labels)
    assert list(np.bincount(y)) == [150, 150]
