"""Signs that tell a healthy saddle-point training from a collapsed one."""

import math
from collections.abc import Mapping

from dann_jax.objective import chance_domain_loss

__all__ = ["symptoms"]


def symptoms(
    metrics: Mapping[str, float], *, classes: int, normalisation: str = "mean"
) -> list[str]:
    """Returns what looks wrong in training metrics, one sentence each; none is good news.

    Three ways to fail are told apart: the numbers are no longer finite; the features tell nothing
    of the labels (the label loss is at its chance value ln(classes): they have collapsed, or, early
    on, not begun to learn); G_d wins (it separates the domains although lambda is at work, so that
    its reversed gradient fades and there is no adaptation).

    Args:
      metrics: Means over some hundred steps, by the names of ``training.Metrics``; without a
        domain branch ``domain_loss`` and ``domain_accuracy`` are NaN.
      classes: Number of labels.
      normalisation: Of the domain loss, see ``objective.domain_loss``.

    Returns:
      Sentences; empty if all is well.
    """
    label_loss, domain_loss = metrics["label_loss"], metrics["domain_loss"]
    norm, lam = metrics["feature_norm"], metrics["lam"]
    adapts = not math.isnan(metrics["domain_accuracy"])
    if not all(map(math.isfinite, (label_loss, norm))) or (
        adapts and not math.isfinite(domain_loss)
    ):
        return [
            f"training diverged: L_y {label_loss}, L_d {domain_loss}, feature norm {norm}; "
            "lower mu0 or the scale of the inputs"
        ]
    found = []
    if lam > 0.1 and label_loss > 0.95 * math.log(classes):
        found.append(
            f"the features tell nothing of the labels: L_y {label_loss:.2f} is at its chance value "
            f"{math.log(classes):.2f}, so they have collapsed or not begun to learn; if it stays, "
            f"lower {'the domain weight, ' if adapts else ''}mu0 or the scale of the inputs"
        )
    chance = chance_domain_loss(normalisation)
    if adapts and lam > 0.5 and domain_loss < 0.1 * chance:
        found.append(
            f"the domain classifier wins: L_d {domain_loss:.3f}, {domain_loss / chance:.0%} of "
            "its chance value, so G_f receives almost no gradient from it; change the "
            "initialisation or the scale of the inputs, or raise the domain weight"
        )
    return found
