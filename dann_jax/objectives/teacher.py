"""Self-ensembling with a mean teacher on the target, beside DANN or alone."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from dann_jax import checks
from dann_jax.batches import DomainBatch
from dann_jax.objective import TARGET, Apply, Terms, joint_forward, weighted_mean
from dann_jax.objectives.entropy import adversarial_terms, target_entropy

__all__ = ["class_balance_loss", "mean_teacher_objective"]

_LEAST = 1e-6  # added to probabilities before their logarithm


def class_balance_loss(p: chex.Array) -> chex.Array:
    """Returns how far mean class probabilities are from equal ones, as a binary cross-entropy.

    ``- sum_k (1/K) ln p_k + (1 - 1/K) ln(1 - p_k)``, least where each of the K classes has 1/K.

    >>> round(float(class_balance_loss(jnp.array([0.5, 0.5]))), 4)  # 2 ln 2
    1.3863

    Args:
      p: ``[classes]``, the mean of class probabilities over a batch.

    Returns:
      Shape ``[]``, nats; finite where a class has probability 0 or 1.

    Source: French et al. (ICLR 2018), Sec. 3.4, and the authors' code.
    """
    uniform = 1 / len(p)
    return -jnp.sum(uniform * jnp.log(p + _LEAST) + (1 - uniform) * jnp.log(1 - p + _LEAST))


def mean_teacher_objective(
    theta: Any,
    batch: DomainBatch,
    lam: float | chex.Array,
    apply: Apply,
    *,
    average: Any,
    weight: float = 0.3,
    confidence: float = 0.97,
    balance: float = 0.05,
    entropy_weight: float = 0.0,
    normalization: str = "mean",
    domain_weight: float = 1.0,
    axis_name: str | None = None,
) -> tuple[chex.Array, Terms]:
    """Returns Eq. (9) + w (C + b B) + e H(target), C the consistency with a mean teacher.

    The teacher is the average of the parameters that ``training.with_average`` keeps. p are the
    student's class probabilities of ``target_image``, q the teacher's of ``target_view``, another
    augmentation of the same examples, or else of the same images, with dropout masks of its own::

        C = mean_i m_i sum_k (p_ik - q_ik)^2        m_i = 1 where max_k q_ik > confidence, else 0
        B = mean_i m_i class_balance_loss(mean_i p_i)

    The teacher gets no gradient; batch norm in it takes the statistics of its batch and leaves the
    running ones alone. With ``domain_weight=0`` it is the method by itself, without DANN.

    Args:
      theta: Parameters ``{'f', 'y', 'd'}``, the student.
      batch: Source and target examples, preprocessed for G_f.
      lam: Lambda, scalar, may be traced. C and B do not follow it.
      apply: G_f, G_y and G_d, from ``make_update_step``.
      average: Parameters like ``theta``, the teacher; the update passes those of its optimizer.
      weight: w, dimensionless. The authors' 3 for the mean over 10 classes is .3 for the sum.
      confidence: Least probability of the teacher's class, which takes the place of a ramp of w.
      balance: b, dimensionless, as a share of w.
      entropy_weight: e, of the mean entropy over the target, dimensionless.
      normalization: Of L_d, see ``objective.domain_loss``.
      domain_weight: Weight of L_d, dimensionless.
      axis_name: As in ``objective.label_loss``.

    Returns:
      The value, shape ``[]``, and its terms with the penalties ``consistency``, ``balance`` and
      ``entropy``.

    Source: French, Mackiewicz and Fisher, Self-ensembling for visual domain adaptation (ICLR
    2018); Tarvainen and Valpola (NIPS 2017).
    """
    weights = {"weight": weight, "balance": balance, "entropy_weight": entropy_weight}
    checks.check_numbers(**weights, domain_weight=domain_weight, confidence=confidence)
    forward = joint_forward(theta, batch, apply, axis_name=axis_name)
    L_d, z_d = adversarial_terms(
        theta, lam, apply, forward, normalization=normalization, axis_name=axis_name
    )
    view = batch.target_image if batch.target_view is None else batch.target_view
    f = apply.feature_extractor(average["f"], view, domain=TARGET, aside=True)
    z = apply.label_predictor(average["y"], f, domain=TARGET, aside=True)
    q = jax.lax.stop_gradient(jax.nn.softmax(z.astype(jnp.float32)))
    p = jax.nn.softmax(forward.label_logits[forward.n_source :].astype(jnp.float32))
    w = jnp.ones(len(p)) if forward.weights is None else forward.weights[forward.n_source :]
    confident = (jnp.max(q, -1) > confidence).astype(jnp.float32)
    consistency = weighted_mean(confident * jnp.sum((p - q) ** 2, -1), w, axis_name)
    if axis_name is not None:  # B is no mean over examples: that of all devices' batch
        p, confident, w = jax.lax.all_gather((p, confident, w), axis_name, tiled=True)
    mean_p = jax.vmap(weighted_mean, in_axes=(1, None))(p, w)
    balanced = weighted_mean(confident, w) * class_balance_loss(mean_p)
    H = target_entropy(forward, axis_name)
    value = forward.label_loss + domain_weight * L_d + entropy_weight * H
    value += weight * (consistency + balance * balanced)
    penalties = {"consistency": consistency, "balance": balanced, "entropy": H}
    return value, forward.terms(L_d, z_d, **penalties)
