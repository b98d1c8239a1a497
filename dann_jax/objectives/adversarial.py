"""VADA: virtual adversarial training on both domains, beside DANN with target entropy."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from dann_jax import checks
from dann_jax.batches import DomainBatch
from dann_jax.objective import Apply, Forward, Terms, joint_forward, weighted_mean
from dann_jax.objectives.entropy import adversarial_terms, target_entropy

__all__ = ["vada_objective", "virtual_adversarial_loss"]

_PROBE = 0.1  # length of the random step at which the gradient is taken, as a share of the radius


def virtual_adversarial_loss(
    logits_of: Any, x: Any, label_logits: chex.Array, key: chex.PRNGKey, *, radius: float
) -> chex.Array:
    """Returns ``KL(p(x) ‖ p(x + r))`` of each example, r the step that changes p most.

    One power iteration finds r: ``r = radius ∇_d KL(p(x) ‖ p(x + d)) / ‖·‖`` at a small random d.
    p(x) and r get no gradient.

    Args:
      logits_of: ``x -> label logits [n, classes]``, a pure function: with the same dropout masks
        and batch statistics in each call.
      x: ``[n, ...]``, or a pytree of inputs, which are perturbed together.
      label_logits: ``[n, classes]`` of x.
      key: PRNG key of d.
      radius: Euclidean norm of r, in the units of x.

    Returns:
      ``[n]`` nats, float32, never negative but for rounding.

    Raises:
      ValueError: There is not one row of logits for each example, or the radius is negative.

    Source: Miyato et al., Virtual Adversarial Training (TPAMI 2019), Eqs. (5), (10)-(12).
    """
    checks.count_examples((x, label_logits), "x and label_logits")
    checks.check_numbers(radius=radius)
    log_p = jax.lax.stop_gradient(jax.nn.log_softmax(label_logits.astype(jnp.float32)))

    def divergence(d):
        log_q = jax.nn.log_softmax(logits_of(_plus(x, d)).astype(jnp.float32))
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)

    leaves, structure = jax.tree.flatten(x)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
    d = _of_length(jax.tree.unflatten(structure, noise), _PROBE * radius)
    gradient = jax.grad(lambda d: jnp.sum(divergence(d)))(d)
    return divergence(jax.lax.stop_gradient(_of_length(gradient, radius)))


def _plus(x, d):
    return jax.tree.map(jnp.add, x, d)


def _of_length(tree, length):
    """Returns directions of each example with this Euclidean norm; 0 stays 0."""
    leaves = jax.tree.leaves(tree)
    # Gradients of confident predictions are so small that their squares would vanish.
    largest = jnp.stack([jnp.max(jnp.abs(a.reshape(len(a), -1)), -1) for a in leaves]).max(0)
    largest = jnp.where(largest > 0, largest, 1.0)
    tree = jax.tree.map(lambda a: a / _as_column(largest, a), tree)
    squares = sum(jnp.sum(a.reshape(len(a), -1) ** 2, -1) for a in jax.tree.leaves(tree))
    norm = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    return jax.tree.map(lambda a: length * a / _as_column(norm, a), tree)


def _as_column(values, array):
    return values.astype(array.dtype).reshape([-1] + [1] * (array.ndim - 1))


def vada_objective(
    theta: Any,
    batch: DomainBatch,
    lam: float | chex.Array,
    apply: Apply,
    *,
    key: chex.PRNGKey,
    target_weight: float = 0.1,
    source_weight: float = 1.0,
    radius: float = 3.5,
    normalization: str = "mean",
    domain_weight: float = 1.0,
    axis_name: str | None = None,
) -> tuple[chex.Array, Terms]:
    """Returns Eq. (9) + λ_t (H(target) + VAT(target)) + λ_s VAT(source): VADA.

    H is the mean entropy of the target's predictions, VAT the mean of ``virtual_adversarial_loss``
    over a domain. Perturbed examples pass with the dropout masks of the batch and do not move the
    running statistics of batch norm.

    Args:
      theta: Parameters ``{'f', 'y', 'd'}``.
      batch: Source and target examples, preprocessed for G_f.
      lam: Lambda, scalar, may be traced; the paper has a constant .01 (see ``lambda_max``).
      apply: G_f, G_y and G_d, from ``make_update_step``.
      key: PRNG key of the random directions.
      target_weight: λ_t, dimensionless.
      source_weight: λ_s, dimensionless.
      radius: Norm of the perturbation, in the units of G_f's input.
      normalization: Of L_d, see ``objective.domain_loss``.
      domain_weight: Weight of L_d, dimensionless.
      axis_name: As in ``objective.label_loss``.

    Returns:
      The value in nats, shape ``[]``, and its terms with the penalties ``entropy``, ``vat_source``
      and ``vat_target``.

    Source: Shu et al., A DIRT-T Approach to Unsupervised Domain Adaptation (ICLR 2018), Eqs. (7),
    (8) and App. B.
    """
    weights = {"target_weight": target_weight, "source_weight": source_weight}
    checks.check_numbers(**weights, domain_weight=domain_weight)
    forward = joint_forward(theta, batch, apply, axis_name=axis_name)
    L_d, z_d = adversarial_terms(
        theta, lam, apply, forward, normalization=normalization, axis_name=axis_name
    )
    H = target_entropy(forward, axis_name)

    def logits_of(x):
        f = apply.feature_extractor(theta["f"], x, aside=True)
        return apply.label_predictor(theta["y"], f, aside=True)

    x = jax.tree.map(lambda s, t: jnp.concatenate([s, t]), batch.source_image, batch.target_image)
    divergence = virtual_adversarial_loss(logits_of, x, forward.label_logits, key, radius=radius)
    of_source, of_target = _means(divergence, forward, axis_name)
    value = forward.label_loss + domain_weight * L_d + target_weight * (H + of_target)
    value += source_weight * of_source
    return value, forward.terms(L_d, z_d, entropy=H, vat_source=of_source, vat_target=of_target)


def _means(values: chex.Array, forward: Forward, axis_name: str | None):
    """Returns the means over the source and over the target."""
    n, w = forward.n_source, forward.weights
    return tuple(
        weighted_mean(values[part], None if w is None else w[part], axis_name)
        for part in (slice(None, n), slice(n, None))
    )
