"""CORAL: the distance between the covariances of two domains."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from dann_jax import checks
from dann_jax.batches import DomainBatch
from dann_jax.objective import Apply, Terms, joint_forward, of_domains

__all__ = ["coral_loss", "coral_objective"]


def coral_loss(x: chex.Array, y: chex.Array) -> chex.Array:
    """Returns ``‖C_x - C_y‖²_F / (4 D²)``, C the covariances of two samples.

    >>> x, y = jnp.array([[0.0], [2.0]]), jnp.array([[0.0], [4.0]])
    >>> float(coral_loss(x, y))  # covariances 2 and 8: 36 / 4
    9.0

    Args:
      x: ``[n, D]``, n at least 2.
      y: ``[m, D]``, m at least 2.

    Returns:
      The loss, shape ``[]``, float32.

    Raises:
      TypeError: The samples are no real numbers.
      ValueError: The samples have other shapes or a single example.

    Source: Sun and Saenko, Deep CORAL (ECCV Workshops 2016), Eqs. (1)-(3).
    """
    checks.check_real(x, "x")
    checks.check_real(y, "y")
    x, y = (jnp.asarray(a, jnp.float32) for a in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            "expected two samples [n, D] and [m, D] of 2 examples or more, got "
            f"{list(x.shape)} and {list(y.shape)}: flatten the features of each example"
        )
    difference = _covariance(x) - _covariance(y)
    return jnp.sum(difference**2) / (4 * x.shape[1] ** 2)


def _covariance(x):
    x = x - jnp.mean(x, 0, keepdims=True)
    return jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST) / (len(x) - 1)


def coral_objective(
    theta: Any,
    batch: DomainBatch,
    lam: float | chex.Array,
    apply: Apply,
    *,
    weight: float = 1.0,
    features: bool = False,
    axis_name: str | None = None,
) -> tuple[chex.Array, Terms]:
    """Returns ``L_y + lam weight ‖C_S - C_T‖²_F / (4 D²)``: Deep CORAL.

    Args:
      theta: Parameters ``{'f', 'y', 'd'}``; 'd' receives a zero gradient.
      batch: Source and target examples, preprocessed for G_f. Their weights count in L_y alone.
      lam: Trade-off, scalar, may be traced.
      apply: G_f and G_y as functions of (theta, x).
      weight: Of the distance at lam = 1, dimensionless.
      features: Whether covariances are those of the features; else, as in the paper, those of the
        label logits.
      axis_name: Mapped axis of the devices; covariances are those of the whole batch.

    Returns:
      The value, shape ``[]``, and its terms with the penalty ``coral``.

    Source: Sun and Saenko, Deep CORAL (ECCV Workshops 2016), Eq. (6).
    """
    checks.check_numbers(weight=weight)
    forward = joint_forward(theta, batch, apply, axis_name=axis_name)
    of_layer = forward.features if features else forward.label_logits
    distance = coral_loss(*of_domains(of_layer, batch, axis_name=axis_name))
    return forward.label_loss + lam * weight * distance, forward.terms(coral=distance)
