"""The gradient reversal layer: Eq. (7), Eq. (8), and every place it must work in."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from dann_jax import reverse_gradient

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = jnp.array([[0.5, -1.0, 2.0], [3.0, 0.25, -0.125], [1.0, 1.0, -2.0], [0.0, 4.0, 0.5]])


def loss(x, lam, reverse=reverse_gradient):
    """A nonlinear function behind the layer."""
    return jnp.sum(jnp.sin(reverse(x, lam)) * jnp.arange(1.0, 4.0)[None])


def expected(x, lam):
    """-lam times the derivative of ``loss`` without the layer."""
    return -lam * jnp.cos(x) * jnp.arange(1.0, 4.0)[None]


@pytest.mark.parametrize("lam", [0.0, 0.31, 1.0, 6.0])
def test_eq7_forward_is_the_identity(lam):
    np.testing.assert_array_equal(reverse_gradient(X, lam), X)
    np.testing.assert_array_equal(jax.jit(reverse_gradient)(X, lam), X)


@pytest.mark.parametrize("lam", [0.0, 0.31, 1.0, 6.0, -2.0])
def test_eq8_backward_is_minus_lambda(lam):
    # dR/dx = -lam I: pull each unit vector back through the layer.
    _, pull = jax.vjp(lambda x: reverse_gradient(x, lam), X[0])
    jacobian = jnp.stack([pull(e)[0] for e in jnp.eye(3)])
    np.testing.assert_allclose(jacobian, -lam * np.eye(3), rtol=1e-6)


def test_eq8_worked_by_hand():
    # d/dx (R(x))^2 = 2x dR/dx = 2 * 3 * (-0.5) = -3
    assert jax.grad(lambda x: reverse_gradient(x, 0.5) ** 2)(3.0) == -3.0


@pytest.mark.parametrize("lam", [1, np.float32(1.0), np.float64(1.0), np.array(1.0)])
def test_lambda_may_be_any_real_scalar(lam):
    np.testing.assert_allclose(jax.grad(loss)(X, lam), expected(X, 1.0), rtol=1e-6)


def test_pytree_leaves_are_all_reversed():
    tree = {"a": X, "b": (X[0], [X[1].astype(jnp.bfloat16)]), "none": None}
    value, pull = jax.vjp(lambda t: reverse_gradient(t, 2.0), tree)
    jax.tree.map(np.testing.assert_array_equal, value, tree)
    (back,) = pull(jax.tree.map(jnp.ones_like, tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for leaf, like in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert leaf.dtype == like.dtype
        np.testing.assert_array_equal(leaf, -2.0 * np.ones(like.shape))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_is_kept_in_value_and_gradient(dtype):
    x = X.astype(dtype)

    def run(x, lam):
        value, pull = jax.vjp(lambda x: reverse_gradient(x, lam), x)
        return value, pull(jnp.ones_like(x))[0]

    for lam in (0.5, jnp.float32(0.5), jnp.bfloat16(0.5)):
        for f in (run, jax.jit(run)):
            value, gradient = f(x, lam)
            assert value.dtype == gradient.dtype == dtype
            np.testing.assert_array_equal(np.asarray(gradient, np.float32), -0.5)


def test_traced_lambda_is_not_compiled_again():
    traces = 0

    @jax.jit
    def gradient(x, lam):
        nonlocal traces
        traces += 1
        return jax.grad(loss)(x, lam)

    for lam in (0.0, 0.1, 0.5, 1.0, 6.0):
        np.testing.assert_allclose(gradient(X, lam), expected(X, lam), rtol=1e-5)
    assert traces == 1


def test_gradient_of_lambda_is_zero():
    for lam in (0.7, jnp.float32(0.7), jnp.bfloat16(0.7)):
        gradient = jax.grad(loss, argnums=1)(X, lam)
        assert gradient == 0.0
        assert gradient.dtype == jnp.result_type(lam)


def test_vmap_over_x():
    gradient = jax.vmap(jax.grad(lambda x: loss(x[None], 0.5)))(X)
    np.testing.assert_allclose(gradient, expected(X, 0.5), rtol=1e-6)


def test_vmap_over_lambda():
    lams = jnp.array([0.0, 0.5, 2.0])
    gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0))(X, lams)
    for lam, gradient in zip(lams, gradients, strict=True):
        np.testing.assert_allclose(gradient, expected(X, lam), rtol=1e-6)


def test_scan_with_a_lambda_per_step():
    lams = jnp.array([0.1, 0.5, 1.0, 3.0])

    def total(x):
        return jax.lax.scan(lambda sum_, lam: (sum_ + loss(x, lam), None), 0.0, lams)[0]

    np.testing.assert_allclose(jax.jit(jax.grad(total))(X), expected(X, lams.sum()), rtol=1e-5)


def test_scan_through_several_layers():
    # Three layers behind each other: (-lam)^3.
    def chain(x):
        x, _ = jax.lax.scan(lambda x, lam: (reverse_gradient(x, lam), None), x, jnp.ones(3) * 2)
        return jnp.sum(x)

    np.testing.assert_allclose(jax.grad(chain)(X), np.full(X.shape, -8.0))


@pytest.mark.parametrize("remat", [jax.checkpoint, jax.remat])
def test_rematerialised(remat):
    gradient = jax.jit(jax.grad(remat(lambda x, lam: loss(x, lam))))(X, 0.3)
    np.testing.assert_allclose(gradient, expected(X, 0.3), rtol=1e-6)


def test_pmap(devices):
    gradient = jax.pmap(jax.grad(lambda x, lam: loss(x[None], lam)), in_axes=(0, None))(X, 0.5)
    np.testing.assert_allclose(gradient, expected(X, 0.5), rtol=1e-6)


def network(theta, x, lam):
    """A two-layer net with the layer in its middle; the mean over examples is the loss."""
    f = jnp.tanh(x @ theta["w"])
    z = jnp.squeeze(reverse_gradient(f, lam) @ theta["v"], -1)
    return jnp.mean(jax.nn.softplus(z))


THETA = {"w": jnp.cos(jnp.arange(6.0)).reshape(3, 2), "v": jnp.array([[1.0], [-0.5]])}


@pytest.mark.parametrize("x_is_split", [True, False])
def test_shard_map_equals_one_device(devices, x_is_split):
    # With replication checks (the default), the gradient of replicated parameters is already
    # the sum over devices, and the loss has to be averaged inside the differentiated function.
    spec = PartitionSpec("device") if x_is_split else PartitionSpec()
    whole = PartitionSpec()

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=Mesh(np.array(devices), ("device",)),
        in_specs=(whole, spec, whole),
        out_specs=whole,
    )
    def sharded(theta, x, lam):
        def mean_loss(theta):
            value = network(theta, x, lam)
            return jax.lax.pmean(value, "device") if x_is_split else value

        return jax.grad(mean_loss)(theta)

    for lam in (0.5, 2.0):
        got, want = sharded(THETA, X, lam), jax.grad(network)(THETA, X, lam)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)


def test_shard_map_gradient_of_split_examples(devices):
    split, whole = PartitionSpec("device"), PartitionSpec()
    gradient = jax.shard_map(
        jax.grad(loss),
        mesh=Mesh(np.array(devices), ("device",)),
        in_specs=(split, whole),
        out_specs=split,
    )(X, 0.5)
    np.testing.assert_allclose(gradient, expected(X, 0.5), rtol=1e-6)


class LinenDomain(nn.Module):
    @nn.compact
    def __call__(self, x, lam):
        return nn.Dense(1)(reverse_gradient(nn.Dense(2, name="below")(x), lam))


class NNXDomain(nnx.Module):
    def __init__(self, rngs):
        self.below, self.above = nnx.Linear(3, 2, rngs=rngs), nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, x, lam):
        return self.above(reverse_gradient(self.below(x), lam))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class PytreeDomain:
    """A module as in Equinox: a dataclass that is a pytree of its own parameters."""

    below: jax.Array
    above: jax.Array

    def __call__(self, x, lam):
        return reverse_gradient(x @ self.below, lam) @ self.above


def _linen():
    module = LinenDomain()
    return module.init(jax.random.key(0), X, 1.0), module.apply


def _nnx():
    definition, state = nnx.split(NNXDomain(nnx.Rngs(0)))
    return state, lambda state, x, lam: nnx.merge(definition, state)(x, lam)


def _pytree():
    module = PytreeDomain(THETA["w"], THETA["v"])
    return module, lambda module, x, lam: module(x, lam)


def _plain():
    return THETA, lambda theta, x, lam: reverse_gradient(x @ theta["w"], lam) @ theta["v"]


@pytest.mark.parametrize("make", [_linen, _nnx, _pytree, _plain])
def test_inside_a_module(make):
    """Below the layer the gradient is -lam times that of lam = -1, above it does not change."""
    theta, apply = make()

    def gradient(lam):
        return jax.jit(jax.grad(lambda theta: jnp.sum(jnp.sin(apply(theta, X, lam)))))(theta)

    plain = jax.tree_util.tree_leaves_with_path(gradient(-1.0))
    reversed_ = jax.tree.leaves(gradient(0.5))
    below = ("below", "'w'")
    seen = 0
    for (path, a), b in zip(plain, reversed_, strict=True):
        is_below = any(name in jax.tree_util.keystr(path) for name in below)
        seen += is_below
        assert jnp.any(a != 0)
        np.testing.assert_allclose(b, a * (-0.5 if is_below else 1.0), rtol=1e-5)
    assert 0 < seen < len(reversed_)


def test_nnx_grad_of_a_module():
    module = NNXDomain(nnx.Rngs(0))

    def gradient(lam):
        return nnx.grad(lambda m: jnp.sum(m(X, lam)))(module)["below"]["kernel"].get_value()

    np.testing.assert_allclose(gradient(2.0), -2.0 * gradient(-1.0), rtol=1e-5)


@pytest.mark.parametrize(
    ("x", "found"),
    [
        (np.arange(3), "int"),
        (np.array([True]), "bool"),
        (np.array([1j]), "complex"),
        (7, "int"),
        ("features", "str"),
        ("float32", "str"),
    ],
)
def test_x_that_is_not_floating_is_refused(x, found):
    with pytest.raises(TypeError, match=f"floating-point arrays, got {found}.*pass features as"):
        reverse_gradient(x, 1.0)


def test_the_wrong_leaf_is_named():
    with pytest.raises(TypeError, match=r"int32 at x\['b'\]\[1\]"):
        reverse_gradient({"a": X, "b": [X, jnp.arange(3)]}, 1.0)


@pytest.mark.parametrize("lam", [True, np.bool_(True), 1j, "0.5", "float32", None, [0.5]])
def test_lambda_that_is_not_a_real_number_is_refused(lam):
    with pytest.raises(TypeError, match="lam must be a real scalar, got .*: pass a number"):
        reverse_gradient(X, lam)


@pytest.mark.parametrize("shape", [(1,), (4,), (2, 2)])
def test_lambda_that_is_not_a_scalar_is_refused(shape):
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \[.*vmap"):
        reverse_gradient(X, jnp.ones(shape))
    with pytest.raises(ValueError, match="must be a scalar"):  # under a transformation too
        jax.jit(reverse_gradient)(X, jnp.ones(shape))


def test_forward_mode_raises_instead_of_returning_a_wrong_number():
    with pytest.raises(TypeError):
        jax.jvp(lambda x: reverse_gradient(x, 1.0), (X,), (X,))
