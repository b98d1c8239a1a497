"""Methods of domain adaptation that the paper is compared with: they align given features."""

from dann_jax.alignment.subspace import (
    Subspace,
    align,
    deviation_bounds,
    principal_subspace,
    stable_components,
)

__all__ = [
    "Subspace",
    "align",
    "deviation_bounds",
    "principal_subspace",
    "stable_components",
]
