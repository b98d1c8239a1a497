"""Convolution and max-pooling in fast forms equal the plain ones, gradients included."""

import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from dann_jax import (
    DomainBatch,
    init_state,
    kernels,
    make_optimizer,
    make_update_step,
    mnist,
)

KEY = jax.random.key(0)
POOLINGS = pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (3, 1)])
SIDES = pytest.mark.parametrize("sides", [(8, 8), (7, 9)])
PADDINGS = pytest.mark.parametrize("padding", ["VALID", "SAME"])


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setenv("DANN_JAX_PLAIN_XLA", "1")


# --- pooling -----------------------------------------------------------------------------


@PADDINGS
@POOLINGS
@SIDES
@pytest.mark.parametrize("levels", [None, 3])
def test_max_pool_and_its_gradient_equal_those_of_flax(padding, window, stride, sides, levels):
    # Of three values most windows have several that are largest: the first gets the gradient.
    shape = (2, *sides, 3)
    x = jax.random.permutation(KEY, math.prod(shape)).reshape(shape) - 100.0
    x = x if levels is None else jnp.mod(x, levels)

    def ours(x):
        return kernels.max_pool(x, window, stride, padding)

    def theirs(x):
        return nn.max_pool(x, (window, window), (stride, stride), padding)

    np.testing.assert_array_equal(ours(x), theirs(x))
    weights = jnp.cos(jnp.arange(theirs(x).size, dtype=jnp.float32)).reshape(theirs(x).shape)
    np.testing.assert_allclose(
        jax.jit(jax.grad(lambda x: jnp.sum(weights * ours(x))))(x),
        jax.jit(jax.grad(lambda x: jnp.sum(weights * theirs(x))))(x),
        rtol=1e-6,
        atol=1e-6,
    )


def test_the_first_of_equal_entries_gets_the_gradient():
    def gradient(window):
        x = jnp.array(window).reshape(1, 2, 2, 1)
        return jax.grad(lambda x: kernels.max_pool(x, 2).sum())(x).ravel().tolist()

    assert gradient([1.0, 1, 1, 1]) == [1, 0, 0, 0]
    assert gradient([1.0, 2, 2, 1]) == [0, 1, 0, 0]
    assert gradient([1.0, 3, 1, 1]) == [0, 1, 0, 0]


def test_max_pool_of_bfloat16_stays_bfloat16():
    x = jnp.ones([1, 3, 3, 1], jnp.bfloat16)
    y, gradient = jax.value_and_grad(lambda x: kernels.max_pool(x, 3, 2, "SAME").sum())(x)
    assert y.dtype == gradient.dtype == jnp.bfloat16


# --- depthwise convolution ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("sides", "windows", "stride", "padding"),
    [
        ((4, 5), (5, 5), 1, "SAME"),
        ((7, 6), (5, 5), 2, "SAME"),
        ((31, 3), (3, 3), 1, "SAME"),  # more rows than are added up at once
        ((16, 5), (3, 3), 2, [(1, 1), (1, 1)]),
        ((6, 7), (2, 3), 2, "VALID"),
    ],
)
def test_depthwise_convolution_and_its_gradients_equal_those_of_xla(
    monkeypatch, quick_compilation, sides, windows, stride, padding
):
    keys = jax.random.split(KEY, 2)
    x = jax.random.normal(keys[0], (2, *sides, 3))
    kernel = jax.random.normal(keys[1], (*windows, 1, 3))

    def value_and_gradients(x, kernel):
        convolve = functools.partial(kernels.convolve_depthwise, stride=stride, padding=padding)
        y, gradients = jax.vjp(convolve, x, kernel)
        return y, gradients(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    ours = jax.jit(value_and_gradients)(x, kernel)
    monkeypatch.setenv("DANN_JAX_PLAIN_XLA", "1")
    theirs = jax.jit(lambda *args: value_and_gradients(*args))(x, kernel)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_depthwise_convolutions_of_several_keys_equal_those_one_by_one(quick_compilation):
    x = jax.random.normal(KEY, (3, 2, 4, 4, 2))
    kernel = jax.random.normal(KEY, (3, 3, 3, 1, 2))

    def gradients(x, kernel):
        return jax.grad(lambda *args: (kernels.convolve_depthwise(*args) ** 2).sum(), (0, 1))(
            x, kernel
        )

    alone = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(jax.jit(gradients), x, kernel))
    together = jax.jit(jax.vmap(gradients))(x, kernel)
    chex.assert_trees_all_close(together, alone, rtol=1e-5, atol=1e-5)


def test_depthwise_convolutions_are_sums_of_shifted_images_on_a_cpu(monkeypatch):
    if jax.default_backend() != "cpu":
        pytest.skip("the form for CPUs")
    x, kernel = jnp.ones([2, 8, 8, 4]), jnp.ones([3, 3, 1, 4])

    def count(*args):
        jaxpr = jax.make_jaxpr(lambda *args: kernels.convolve_depthwise(*args))(*args)
        return str(jaxpr).count("conv_general_dilated")

    assert not count(x, kernel)
    assert count(*(a.astype(jnp.bfloat16) for a in (x, kernel)))
    monkeypatch.setenv("DANN_JAX_PLAIN_XLA", "1")
    assert count(x, kernel)


def test_what_cannot_be_convolved_depthwise_is_refused():
    x = jnp.ones([1, 8, 8, 4])
    with pytest.raises(ValueError, match="for images of 4 channels, float32"):
        kernels.convolve_depthwise(x, jnp.ones([3, 3, 4, 1]))
    with pytest.raises(ValueError, match="bfloat16, for images of 4 channels, float32"):
        kernels.convolve_depthwise(x, jnp.ones([3, 3, 1, 4], jnp.bfloat16))
    with pytest.raises(ValueError, match="expected 'VALID' or 'SAME'"):
        kernels.convolve_depthwise(x, jnp.ones([3, 3, 1, 4]), padding="FULL")
    small = kernels.convolve_depthwise(x, jnp.ones([9, 9, 1, 4]), padding="VALID")
    assert small.shape == (1, 0, 0, 4)


# --- convolution -------------------------------------------------------------------------


def convolutions_in(x, kernel):
    jaxpr = jax.make_jaxpr(lambda *args: kernels.convolve(*args))(x, kernel)  # traced anew
    return str(jaxpr).count("conv_general_dilated")


def test_many_channels_in_float32_are_convolved_by_matrix_products_on_a_cpu():
    if jax.default_backend() != "cpu":
        pytest.skip("the form for CPUs")
    x, kernel = jnp.ones([2, 8, 8, 16]), jnp.ones([5, 5, 16, 16])
    assert not convolutions_in(x, kernel)
    assert convolutions_in(x[..., :3], kernel[:, :, :3])
    assert convolutions_in(*(a.astype(jnp.bfloat16) for a in (x, kernel)))


@pytest.mark.parametrize("channels", [3, 16])
def test_the_flag_leaves_plain_convolutions(plain, channels):
    x, kernel = jnp.ones([2, 8, 8, channels]), jnp.ones([5, 5, channels, 16])
    jaxpr = jax.make_jaxpr(lambda *args: kernels.convolve(*args))(x, kernel)
    assert [e.primitive.name for e in jaxpr.eqns] == ["conv_general_dilated"]


def test_what_cannot_be_convolved_or_pooled_is_refused():
    x = jnp.ones([1, 8, 8, 16])
    with pytest.raises(ValueError, match="kernel of 32 channels, float32, for images of 16"):
        kernels.convolve(x, jnp.ones([3, 3, 32, 16]))
    with pytest.raises(ValueError, match="bfloat16, for images of 16, float32"):
        kernels.convolve(x, jnp.ones([3, 3, 16, 16], jnp.bfloat16))
    for padding in ("same", "FULL", ((1, 1), (1, 1))):
        with pytest.raises(ValueError, match="expected 'VALID' or 'SAME'"):
            kernels.convolve(x, jnp.ones([3, 3, 16, 16]), padding)
        with pytest.raises(ValueError, match="expected 'VALID' or 'SAME'"):
            kernels.max_pool(x, 2, padding=padding)
    with pytest.raises(ValueError, match="floating-point values to pool, got int32"):
        kernels.max_pool(x.astype(jnp.int32), 2)


@pytest.mark.parametrize("shape", [(1, 4, 4, 16), (0, 8, 8, 16)])
def test_no_output_is_an_empty_array(shape):
    kernel = jnp.ones([5, 5, 16, 16])
    n, side = shape[0], max(shape[1] - 4, 0)
    assert kernels.convolve(jnp.ones(shape), kernel).shape == (n, side, side, 16)


@PADDINGS
@pytest.mark.parametrize("side", [2, 5])
def test_gradients_of_a_convolution_of_few_channels_equal_those_of_xla(padding, side):
    keys = jax.random.split(KEY, 3)
    x = jax.random.normal(keys[0], (4, 7, 9, 3))
    kernel = jax.random.normal(keys[1], (side, side, 3, 8))
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    theirs = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding=padding, **options
    )
    expected, of_theirs = jax.vjp(theirs, x, kernel)
    y, of_ours = jax.vjp(lambda *args: kernels.convolve(*args, padding), x, kernel)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    dy = jax.random.normal(keys[2], expected.shape)
    for gradient, wanted in zip(of_ours(dy), of_theirs(dy), strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_batches_of_any_size_can_be_exported(padding):
    """Sizes that are symbols take XLA's usual operations."""
    keys = jax.random.split(KEY, 3)
    kernel = jax.random.normal(keys[0], (3, 3, 16, 16))
    depthwise = jax.random.normal(keys[1], (3, 3, 1, 16))

    def layers(x):
        x = kernels.convolve(x, kernel, padding)
        x = kernels.convolve_depthwise(x, depthwise, padding=padding)
        return kernels.max_pool(x, 2, padding=padding)

    (n,) = export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, 8, 8, 16), jnp.float32)
    exported = export.export(jax.jit(layers))(shape)
    for size in (1, 3):
        x = jax.random.normal(keys[2], (size, 8, 8, 16))
        np.testing.assert_allclose(exported.call(x), layers(x), rtol=1e-3, atol=1e-3)


def updates(steps=20):
    model, optimizer = mnist(), make_optimizer(lambda step: 0.01)
    keys = jax.random.split(KEY, 3)
    images = jax.random.normal(keys[0], (2, 8, 28, 28, 3))
    batch = DomainBatch(images[0], jax.random.randint(keys[1], (8,), 0, 10), images[1])
    state = init_state(model, optimizer, keys[2], images[0])
    update = jax.jit(make_update_step(model, optimizer, lambda step: 0.5))
    losses = []
    for _ in range(steps):
        state, metrics = update(state, batch, KEY)
        losses.append((metrics.label_loss, metrics.domain_loss))
    return np.array(losses)


def test_updates_in_fast_forms_equal_plain_ones(monkeypatch):
    fast = updates()
    monkeypatch.setenv("DANN_JAX_PLAIN_XLA", "1")
    np.testing.assert_allclose(fast, updates(), rtol=1e-3, atol=1e-4)
