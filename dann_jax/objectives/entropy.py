"""Entropy minimization on the target, beside DANN."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from dann_jax import checks
from dann_jax.batches import DomainBatch
from dann_jax.objective import (
    Apply,
    Forward,
    Terms,
    domain_loss,
    joint_forward,
    weighted_mean,
)
from dann_jax.reversal import reverse_gradient

__all__ = ["adversarial_terms", "conditional_entropy", "entropy_objective", "target_entropy"]


def conditional_entropy(label_logits: chex.Array) -> chex.Array:
    """Returns the entropy of each example's class probabilities, ``-Σ_k p_k ln p_k``.

    >>> round(float(conditional_entropy(jnp.zeros([1, 10]))[0]), 4)  # ln 10
    2.3026

    Args:
      label_logits: ``[n, classes]``.

    Returns:
      ``[n]`` nats, float32; its gradient is finite for any finite logits.

    Raises:
      ValueError: The logits have another shape.

    Source: Grandvalet and Bengio (NIPS 2004).
    """
    if label_logits.ndim != 2:
        raise ValueError(f"expected label logits [n, classes], got {list(label_logits.shape)}")
    log_p = jax.nn.log_softmax(label_logits.astype(jnp.float32))
    return -jnp.sum(jnp.exp(log_p) * log_p, -1)


def target_entropy(forward: Forward, axis_name: str | None = None) -> chex.Array:
    """Returns the mean entropy of the target's examples, shape ``[]``.

    Args:
      forward: Of a joint batch.
      axis_name: As in ``objective.label_loss``.
    """
    n = forward.n_source
    weights = None if forward.weights is None else forward.weights[n:]
    return weighted_mean(conditional_entropy(forward.label_logits[n:]), weights, axis_name)


def adversarial_terms(
    theta: Any,
    lam: float | chex.Array,
    apply: Apply,
    forward: Forward,
    *,
    normalization: str,
    axis_name: str | None,
) -> tuple[chex.Array, chex.Array]:
    """Returns L_d behind the reversal, and the domain logits, as ``reversed_objective`` does."""
    z_d = apply.domain_classifier(theta["d"], reverse_gradient(forward.features, lam))
    L_d = domain_loss(
        z_d, forward.domains, forward.weights, normalization=normalization, axis_name=axis_name
    )
    return L_d, z_d


def entropy_objective(
    theta: Any,
    batch: DomainBatch,
    lam: float | chex.Array,
    apply: Apply,
    *,
    entropy_weight: float = 0.1,
    normalization: str = "mean",
    domain_weight: float = 1.0,
    axis_name: str | None = None,
) -> tuple[chex.Array, Terms]:
    """Returns Eq. (9) plus ``entropy_weight H(G_y(G_f(x_T)))``: DANN with target entropy.

    Args:
      theta: Parameters ``{'f', 'y', 'd'}``.
      batch: Source and target examples, preprocessed for G_f.
      lam: Lambda, scalar, may be traced. The entropy does not follow it.
      apply: G_f, G_y and G_d as functions of (theta, x).
      entropy_weight: Of the mean entropy over the target, dimensionless.
      normalization: Of L_d, see ``objective.domain_loss``.
      domain_weight: Weight of L_d, dimensionless.
      axis_name: As in ``objective.label_loss``.

    Returns:
      The value in nats, shape ``[]``, and its terms with the penalty ``entropy``.

    Source: Grandvalet and Bengio (NIPS 2004); with DANN: Shu et al. (ICLR 2018), Sec. 4.
    """
    checks.check_numbers(entropy_weight=entropy_weight, domain_weight=domain_weight)
    forward = joint_forward(theta, batch, apply, axis_name=axis_name)
    L_d, z_d = adversarial_terms(
        theta, lam, apply, forward, normalization=normalization, axis_name=axis_name
    )
    H = target_entropy(forward, axis_name)
    value = forward.label_loss + domain_weight * L_d + entropy_weight * H
    return value, forward.terms(L_d, z_d, entropy=H)
