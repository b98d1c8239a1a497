"""CDAN: a domain classifier that sees features and class probabilities together."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import checks
from dann_jax.batches import DomainBatch
from dann_jax.networks import DannModel
from dann_jax.objective import Apply, Terms, domain_loss, joint_forward
from dann_jax.objectives.entropy import conditional_entropy
from dann_jax.reversal import reverse_gradient

__all__ = ["cdan_objective", "conditioned", "multilinear_map"]

LARGEST = 4096  # entries of the product; beyond, it is randomized
RANDOM = 1024  # entries of the randomized product
_SEED = 0  # of the random matrices, which are never trained


def conditioned(model: DannModel) -> DannModel:
    """Returns a model whose G_d takes ``multilinear_map(features, label_logits)``.

    Args:
      model: G_f, G_y and G_d; that G_d can take an input ``[n, D']``.
    """
    return dataclasses.replace(model, domain_input=multilinear_map)


def multilinear_map(features: Any, label_logits: chex.Array) -> chex.Array:
    """Returns ``T(f, g)``: features f times class probabilities g = softmax(z), for each example.

    ``T = vec(f gᵀ)`` where that has up to 4,096 entries, and otherwise the randomized
    ``T = (R_f f) ⊙ (R_g g) / √1024`` with 1,024 entries, whose inner products are those of f gᵀ
    in expectation. R are fixed matrices of standard normal numbers.

    >>> multilinear_map(jnp.array([[2.0, 6.0]]), jnp.zeros([1, 2])).tolist()
    [[1.0, 1.0, 3.0, 3.0]]

    Args:
      features: ``[n, ...]``, or a pytree of them.
      label_logits: ``[n, classes]``.

    Returns:
      ``[n, D classes]`` or ``[n, 1024]``.

    Source: Long et al., Conditional Adversarial Domain Adaptation (NeurIPS 2018), Eqs. (5)-(7).
    """
    checks.count_examples((features, label_logits), "features and label_logits")
    rows = [a.reshape(len(a), -1) for a in jax.tree.leaves(features)]
    f, g = jnp.concatenate(rows, 1), jax.nn.softmax(label_logits)
    if f.shape[1] * g.shape[1] <= LARGEST:
        return (f[:, :, None] * g[:, None, :]).reshape(len(f), -1)
    R_f, R_g = _random_matrices(f.shape[1], g.shape[1])
    return (f @ R_f.astype(f.dtype)) * (g @ R_g.astype(g.dtype)) / np.sqrt(RANDOM).astype(f.dtype)


@functools.lru_cache(maxsize=8)
def _random_matrices(*sizes):
    generator = np.random.default_rng(_SEED)
    return [generator.standard_normal((size, RANDOM), np.float32) for size in sizes]


def cdan_objective(
    theta: Any,
    batch: DomainBatch,
    lam: float | chex.Array,
    apply: Apply,
    *,
    entropy_conditioning: bool = False,
    normalization: str = "mean",
    domain_weight: float = 1.0,
    axis_name: str | None = None,
) -> tuple[chex.Array, Terms]:
    """Returns Eq. (9) with ``G_d(R_lam(T(f, g)))`` in place of ``G_d(R_lam(f))``: CDAN.

    The model is ``conditioned(model)``. The probabilities g get no gradient from G_d, as in the
    authors' files. With entropy conditioning (CDAN+E) each example has the weight 1 + exp(-H(g))
    in L_d, so that certain predictions count more; the weights get no gradient.

    Args:
      theta: Parameters ``{'f', 'y', 'd'}``.
      batch: Source and target examples, preprocessed for G_f.
      lam: Lambda, scalar, may be traced.
      apply: G_f, G_y and G_d as functions of (theta, x).
      entropy_conditioning: Whether to weight the examples: CDAN+E.
      normalization: Of L_d, see ``objective.domain_loss``.
      domain_weight: Weight of L_d, dimensionless.
      axis_name: As in ``objective.label_loss``.

    Returns:
      The value in nats, shape ``[]``, and its terms.

    Source: Long et al., Conditional Adversarial Domain Adaptation (NeurIPS 2018), Eqs. (2), (8).
    """
    checks.check_numbers(domain_weight=domain_weight)
    forward = joint_forward(theta, batch, apply, axis_name=axis_name)
    z = jax.lax.stop_gradient(forward.label_logits)
    weights = forward.weights
    if entropy_conditioning:
        certain = 1.0 + jnp.exp(-conditional_entropy(z))
        weights = certain if weights is None else certain * weights
    inputs = reverse_gradient(multilinear_map(forward.features, z), lam)
    z_d = apply.domain_classifier(theta["d"], inputs)
    L_d = domain_loss(
        z_d, forward.domains, weights, normalization=normalization, axis_name=axis_name
    )
    return forward.label_loss + domain_weight * L_d, forward.terms(L_d, z_d)
