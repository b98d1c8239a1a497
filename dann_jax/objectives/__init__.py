"""Objectives of other methods, on the same update, batches and keys as ``reversed_objective``.

``make_update_step(..., objective=ddc_objective)`` trains with one; ``functools.partial`` sets its
options.
"""

from dann_jax.objectives.adversarial import vada_objective, virtual_adversarial_loss
from dann_jax.objectives.conditional import cdan_objective, conditioned, multilinear_map
from dann_jax.objectives.correlation import coral_loss, coral_objective
from dann_jax.objectives.discrepancy import (
    dan_objective,
    ddc_objective,
    gaussian_kernel,
    linear_kernel,
    mmd,
)
from dann_jax.objectives.entropy import conditional_entropy, entropy_objective
from dann_jax.objectives.teacher import class_balance_loss, mean_teacher_objective

__all__ = [
    "cdan_objective",
    "class_balance_loss",
    "conditional_entropy",
    "conditioned",
    "coral_loss",
    "coral_objective",
    "dan_objective",
    "ddc_objective",
    "entropy_objective",
    "gaussian_kernel",
    "linear_kernel",
    "mean_teacher_objective",
    "mmd",
    "multilinear_map",
    "vada_objective",
    "virtual_adversarial_loss",
]
