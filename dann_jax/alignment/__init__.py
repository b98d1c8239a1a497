"""Methods of domain adaptation that the paper is compared with: they align given features."""

from dann_jax import extras
from dann_jax.alignment.subspace import (
    Alignment,
    Subspace,
    align,
    deviation_bounds,
    principal_subspace,
    stable_components,
    subspace_alignment,
)

with extras.needs(__name__):
    from dann_jax.alignment.estimators import (
        DLID,
        CorrelationAlignment,
        GeodesicFlowKernel,
        SubspaceAlignment,
    )

__all__ = [
    "DLID",
    "Alignment",
    "CorrelationAlignment",
    "GeodesicFlowKernel",
    "Subspace",
    "SubspaceAlignment",
    "align",
    "deviation_bounds",
    "principal_subspace",
    "stable_components",
    "subspace_alignment",
]
