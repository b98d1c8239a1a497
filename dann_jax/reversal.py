"""The gradient reversal layer R_lambda: Eq. (7) and Eq. (8)."""

from typing import TypeVar

import jax
import jax.numpy as jnp

__all__ = ["reverse_gradient"]

PyTree = TypeVar("PyTree")


def reverse_gradient(x: PyTree, lam: float | jax.Array) -> PyTree:
    """Returns ``x``, and multiplies the gradient that flows back through it by ``-lam``.

    Forward, Eq. (7): ``R(x) = x``. Backward, Eq. (8): ``dR/dx = -lam I``. Between a feature
    extractor and a domain classifier it turns plain descent on Eq. (9) into the saddle-point
    steps of Eqs. (4)-(6). ``lam`` receives a zero gradient. Reverse mode only: the layer is no
    function whose derivative is -lam, so forward-mode differentiation raises a ``TypeError``.

    >>> float(jax.grad(lambda x: reverse_gradient(x, 0.5) ** 2)(3.0))  # -0.5 * 2 * 3
    -3.0

    Args:
      x: Pytree of floating-point arrays, any shapes; dtypes are kept, in the gradient too.
      lam: Lambda, dimensionless scalar: a Python number, or an array of shape ``[]`` which may
        be traced (a new value needs no new compilation).

    Returns:
      ``x``, unchanged.

    Raises:
      TypeError: A leaf of ``x`` is not floating-point, or ``lam`` is not a real number.
      ValueError: ``lam`` is not a scalar.

    Source: Ganin & Lempitsky (2015), Sec. 3.2.
    """
    _check(x, lam)
    return _reverse(x, jnp.asarray(lam, jnp.promote_types(jnp.result_type(lam), jnp.float32)))


@jax.custom_vjp
def _reverse(x, lam):  # Eq. (7)
    return x


def _forward(x, lam):
    return x, lam


def _backward(lam, cotangent):  # Eq. (8)
    reversed_ = jax.tree.map(lambda c: -lam.astype(c.dtype) * c, cotangent)
    return reversed_, jnp.zeros_like(lam)


_reverse.defvjp(_forward, _backward)


def _check(x, lam):
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        dtype = _dtype(leaf)
        if isinstance(dtype, str) or not jnp.issubdtype(dtype, jnp.floating):
            where = f" at x{jax.tree_util.keystr(path)}" if path else ""
            raise TypeError(
                f"reverse_gradient needs floating-point arrays, got {dtype}{where}: "
                "pass features as float32 or bfloat16 (for example x.astype(jnp.float32))"
            )
    dtype = _dtype(lam)
    if isinstance(dtype, str) or not (
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    ):
        raise TypeError(
            f"lam must be a real scalar, got {dtype}: pass a number or an array of shape []"
        )
    if jnp.shape(lam) != ():
        raise ValueError(
            f"lam must be a scalar, got shape {list(jnp.shape(lam))}: pass one number, or map over "
            "several with jax.vmap(reverse_gradient, in_axes=(None, 0))"
        )


def _dtype(value):
    """Returns the dtype of a number or an array, the name of its type for anything else."""
    if value is None or isinstance(value, str | type):  # which result_type reads as dtypes
        return type(value).__name__
    try:
        return jnp.result_type(value)
    except (TypeError, ValueError):
        return type(value).__name__
