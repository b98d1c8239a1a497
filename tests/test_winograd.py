"""Minimal filtering: its matrices are exact, and its convolutions equal the sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax.kernels import winograd

KEY = jax.random.key(0)
# Of the largest value: rounding is some ten times that of a sum in float32 (1e-6).
CLOSE = 3e-5


@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3), (5, 3), (4, 5), (5, 5)])
def test_matrices_correlate_exactly(m, r):
    a, g, b = winograd.matrices(m, r)
    numbers = np.random.default_rng(0)
    d, kernel = numbers.normal(size=m + r - 1), numbers.normal(size=r)
    np.testing.assert_allclose(
        a @ ((g @ kernel) * (b @ d)), np.correlate(d, kernel), rtol=1e-12, atol=1e-12
    )


def plain(x, kernel, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def assert_close(y, expected):
    assert y.shape == expected.shape
    assert y.dtype == expected.dtype
    assert float(jnp.abs(y - expected).max() / jnp.abs(expected).max()) < CLOSE


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("sides", [(12, 12), (14, 14), (5, 7)])
@pytest.mark.slow
def test_convolution_and_its_gradients_equal_those_of_the_sum(sides, side, padding):
    keys = jax.random.split(KEY, 3)
    x = jax.nn.relu(jax.random.normal(keys[0], (3, *sides, 17)))
    kernel = jax.random.normal(keys[1], (side, side, 17, 6))
    expected, of_plain = jax.vjp(lambda *args: plain(*args, padding), x, kernel)
    y, of_ours = jax.vjp(lambda *args: winograd.convolve(*args, padding), x, kernel)
    assert_close(y, expected)
    dy = jax.random.normal(keys[2], expected.shape)
    for gradient, wanted in zip(of_ours(dy), of_plain(dy), strict=True):
        assert_close(gradient, wanted)


def test_many_kernels_under_vmap_equal_each_alone():
    x = jax.random.normal(KEY, (2, 2, 8, 8, 16))
    kernels = jax.random.normal(KEY, (2, 5, 5, 16, 16))
    many = jax.vmap(winograd.convolve)(x, kernels)
    for i in range(2):
        assert_close(many[i], plain(x[i], kernels[i], "VALID"))
