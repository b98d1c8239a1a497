"""Which evaluation of a training a rule, or the oracle, chooses."""

from typing import Any

import numpy as np

from dann_jax import selection

__all__ = ["ORACLE", "chosen"]

ORACLE = "oracle"  # chooses by the target's test labels, which no rule may


def chosen(evaluations: dict[str, Any], name: str) -> int | None:
    """Returns the position of the evaluation that a rule, or the oracle, chooses: the first best.

    Args:
      evaluations: Columns, as result files keep them.
      name: One of the rules that they have scores of, or ``ORACLE``.

    Returns:
      The position; None where no value is known.
    """
    column = evaluations["target_accuracy"] if name == ORACLE else evaluations["scores"][name]
    values = np.array([np.nan if value is None else value for value in column], float)
    return None if np.isnan(values).all() else selection.choose(values)
