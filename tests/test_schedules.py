"""lambda_p, mu_p and the progress p."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import lambda_p, mu_p, progress
from dann_jax.schedules import drop


@pytest.mark.parametrize(
    ("p", "want"),
    [
        (0.0, 0.0),  # 2 / 2 - 1
        (0.1, 0.46211716),  # 2 / (1 + e^-1) - 1 = 2 / 1.36787944 - 1
        (0.5, 0.98661430),  # 2 / (1 + e^-5) - 1 = 2 / 1.00673795 - 1
        (1.0, 0.99990920),  # 2 / (1 + e^-10) - 1 = 2 / 1.0000453999 - 1
    ],
)
def test_lambda_p_golden(p, want):
    np.testing.assert_allclose(lambda_p(p), want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("p", "want"),
    [
        (0.0, 0.01),
        (0.1, 0.0059460356),  # 0.01 / 2^0.75
        (1.0, 0.0016557),  # 0.01 / 11^0.75 = 0.01 / 6.0401
    ],
)
def test_mu_p_golden(p, want):
    np.testing.assert_allclose(mu_p(p), want, rtol=1e-4)


def test_options_of_the_schedules():
    np.testing.assert_allclose(lambda_p(0.1, gamma=20.0), lambda_p(0.2), rtol=1e-6)
    # 1 / (1 + 3 * 1)^0.5 = 0.5
    np.testing.assert_allclose(mu_p(1.0, mu0=1.0, alpha=3.0, beta=0.5), 0.5, rtol=1e-6)


def test_alpha_zero_means_no_annealing():
    rates = mu_p(jnp.linspace(0, 1, 11), alpha=0.0)
    np.testing.assert_array_equal(rates, np.full(11, 0.01, np.float32))


@pytest.mark.parametrize("schedule", [lambda_p, mu_p])
def test_progress_outside_0_to_1_is_clamped(schedule):
    np.testing.assert_array_equal(schedule(-0.5), schedule(0.0))
    np.testing.assert_array_equal(schedule(1.5), schedule(1.0))


@pytest.mark.parametrize("schedule", [lambda_p, mu_p])
def test_schedules_take_arrays_and_tracers(schedule):
    p = jnp.linspace(-0.2, 1.2, 8)
    one_by_one = [schedule(float(v)) for v in p]
    np.testing.assert_allclose(schedule(p), one_by_one, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(p), one_by_one, rtol=1e-5, atol=1e-7)


def test_lambda_rises_and_mu_falls():
    p = jnp.linspace(0, 1, 101)
    assert jnp.all(jnp.diff(lambda_p(p)) > 0)
    assert jnp.all(jnp.diff(mu_p(p)) < 0)


def test_progress_is_the_share_of_steps_done():
    np.testing.assert_allclose(progress(jnp.arange(5), 4), [0, 0.25, 0.5, 0.75, 1.0])
    assert progress(9, 4) == 1.0
    assert progress(-1, 4) == 0.0


def test_lambda_horizon_ends_lambda_before_the_run():
    # The authors' Office files: lambda is complete at iteration 10,000 of 50,000.
    lam = jax.jit(lambda step: lambda_p(progress(step, 10_000)))
    np.testing.assert_allclose(lam(1_000), lambda_p(0.1), rtol=1e-6)
    for step in (10_000, 30_000, 50_000):
        np.testing.assert_allclose(lam(step), lambda_p(1.0), rtol=1e-6)


def test_the_learning_rate_drops_once_and_not_at_1():
    p = progress(jnp.arange(10), 10)
    np.testing.assert_allclose(drop(p, 0.7, 0.1), [1.0] * 7 + [0.1] * 3)
    np.testing.assert_array_equal(drop(p, 1.0), np.ones(10))
    np.testing.assert_allclose(drop(progress(2800, 4000), 0.7, 0.25), 0.25)  # the first of them
    # Compiled, p may be rounded down; the update at which it drops is the same.
    steps, shares = np.arange(10, 3000, 10), (0.1, 0.3, 0.6, 0.7, 0.9)
    for at in shares:
        compiled = jax.jit(lambda step, at=at: drop(progress(step, steps), at, 0.5))
        first = np.round(at * steps).astype(np.int32)
        np.testing.assert_array_equal(compiled(first), np.full(len(steps), 0.5))
        np.testing.assert_array_equal(compiled(first - 1), np.ones(len(steps)))
