"""Methods of domain adaptation that the paper is compared with: they align given features."""

from dann_jax.alignment.subspace import (
    Subspace,
    align,
    aligned_features,
    deviation_bounds,
    principal_subspace,
    stable_components,
)

__all__ = [
    "Subspace",
    "align",
    "aligned_features",
    "deviation_bounds",
    "principal_subspace",
    "stable_components",
]
