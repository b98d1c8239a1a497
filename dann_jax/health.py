"""Signs that tell a healthy saddle-point training from a collapsed one."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dann_jax.objective import chance_domain_loss

__all__ = ["first_not_finite", "part_not_finite", "symptoms"]

_TERMS = {  # metrics in the order of blame; an accuracy is NaN where a logit is not finite
    "label_loss": "label_loss",
    "domain_loss": "domain_loss",
    "feature_norm": "feature_norm",
    "lam": "lambda",
    "label_accuracy": "label_logits",
    "domain_accuracy": "domain_logits",
}
_PARTS = {  # of a training.TrainState
    "theta": "parameters",
    "batch_stats": "batch_statistics",
    "opt_state": "momentum",
}


def first_not_finite(metrics: Mapping[str, np.ndarray]) -> tuple[int, str] | None:
    """Returns where metrics stop being finite: the index of the step and the term.

    >>> first_not_finite({"label_loss": np.array([0.7, 0.9, np.inf]), "lam": np.zeros(3)})
    (2, 'label_loss')

    Args:
      metrics: Values of each step, ``[steps]``, by the names of ``training.Metrics`` and of the
        penalties; without those that the objective does not have.

    Returns:
      The first step, and of several terms there the first in the order label_loss, domain_loss,
      feature_norm, lambda, label_logits, domain_logits, penalties; None where all are finite.
    """
    terms = _TERMS | {name: name for name in metrics if name not in _TERMS}
    first = [
        (int(np.argmin(np.isfinite(metrics[name]))), order, term)
        for order, (name, term) in enumerate(terms.items())
        if name in metrics and not np.isfinite(metrics[name]).all()
    ]
    return min(first)[::2] if first else None


def part_not_finite(state: Any) -> str | None:
    """Returns what of a ``training.TrainState`` is not finite, None where all of it is.

    Args:
      state: The state, its arrays in NumPy.

    Returns:
      ``parameters``, ``batch_statistics`` or ``momentum``.
    """
    for name, term in _PARTS.items():
        for leaf in jax.tree.leaves(getattr(state, name)):
            numbers = jnp.issubdtype(leaf.dtype, jnp.inexact)
            if numbers and not np.isfinite(leaf).all():
                return term
    return None


def symptoms(
    metrics: Mapping[str, float], *, classes: int, normalization: str = "mean"
) -> list[str]:
    """Returns what looks wrong in training metrics, one sentence each; none is good news.

    There are three symptoms. The numbers are no longer finite. The features say nothing about the
    labels: the label loss is at its chance value ln(classes) or above it, as they have collapsed
    or, early on, not begun to learn. G_d wins: it separates the domains although lambda is at
    work, so its reversed gradient fades and there is no adaptation.

    Args:
      metrics: Means over some hundred steps, by the names of ``training.Metrics``; without a
        domain branch ``domain_loss`` and ``domain_accuracy`` are NaN or None.
      classes: Number of labels.
      normalization: Of the domain loss, see ``objective.domain_loss``.

    Returns:
      Sentences; empty if all is well.
    """
    label_loss, domain_loss = metrics["label_loss"], metrics["domain_loss"]
    norm, lam = metrics["feature_norm"], metrics["lam"]
    adapts = not all(
        metrics[name] is None or math.isnan(metrics[name])
        for name in ("domain_loss", "domain_accuracy")
    )
    if not all(map(math.isfinite, (label_loss, norm))) or (
        adapts and not math.isfinite(domain_loss)
    ):
        return [
            f"training diverged: L_y {label_loss}, L_d {domain_loss}, feature norm {norm}; "
            "lower mu0 or the scale of the inputs"
        ]
    sentences = []
    chance = math.log(classes)
    if lam > 0.1 and label_loss > 0.95 * chance:
        where = "at" if label_loss < 1.05 * chance else "above"
        sentences.append(
            f"the features say nothing about the labels: L_y {label_loss:.2f} is {where} its "
            f"chance value {chance:.2f}, so they have collapsed or not begun to learn; if it "
            f"stays, lower {'the domain weight, ' if adapts else ''}mu0 or the scale of the inputs"
        )
    chance = chance_domain_loss(normalization)
    if adapts and lam > 0.5 and domain_loss < 0.1 * chance:
        sentences.append(
            f"the domain classifier wins: L_d {domain_loss:.3f}, {domain_loss / chance:.0%} of "
            "its chance value, so G_f receives almost no gradient from it; change the "
            "initialization or the scale of the inputs, or raise the domain weight"
        )
    return sentences
