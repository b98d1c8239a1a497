"""Subspace alignment: the source's principal subspace is turned towards the target's.

Source: Fernando, Habrard, Sebban and Tuytelaars, "Unsupervised Visual Domain Adaptation Using
Subspace Alignment" (ICCV 2013), in whose symbols X_S and X_T are bases, M the alignment and d the
number of components.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "Alignment",
    "Subspace",
    "align",
    "deviation_bounds",
    "principal_subspace",
    "stable_components",
    "subspace_alignment",
]


SAME = 1e-12  # share of the largest variance that is rounding


class Subspace(NamedTuple):
    """The principal components of one domain's features, standardized one by one."""

    mean: np.ndarray  # [D]
    deviation: np.ndarray  # [D], standard deviations; 1 for features that never change
    basis: np.ndarray  # [D, D], orthonormal columns, of falling variance
    variance: np.ndarray  # [D], along the columns of the basis
    radius: float  # largest norm of the standardized examples
    examples: int

    @property
    def rank(self) -> int:
        """Number of directions that the features vary in: the others of the basis are arbitrary."""
        return int((self.variance > SAME * self.variance[0]).sum())

    def project(self, x: np.ndarray, d: int) -> np.ndarray:
        """Returns the first ``d`` components ``[n, d]`` of features ``[n, D]``."""
        return self.standardize(x) @ self.basis[:, :d]

    def standardize(self, x: np.ndarray) -> np.ndarray:
        """Returns z-scored features ``[n, D]``."""
        return (x - self.mean) / self.deviation


def principal_subspace(x: np.ndarray) -> Subspace:
    """Returns all principal components of features, each of which is z-scored first.

    Args:
      x: ``[n, D]``, at least two examples.

    Raises:
      ValueError: The features are not a matrix of at least two examples, not finite, or so large
        or small that their squares are not.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"expected features [n, D] of at least 2 examples, got {list(x.shape)}")
    if not np.isfinite(x).all():
        example, feature = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(
            f"expected finite features, got {x[example, feature]} for feature {feature} of example "
            f"{example}: the training that they are from diverged"
        )
    mean = x.mean(0)
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = np.where(np.ptp(x, 0) > 0, x.std(0), 1.0)
    if not (np.isfinite(deviation) & (deviation > 0)).all():
        feature = np.argmin(np.isfinite(deviation) & (deviation > 0))
        raise ValueError(
            f"expected features whose squares are numbers, got a standard deviation of "
            f"{deviation[feature]} for feature {feature}: scale the features"
        )
    z = (x - mean) / deviation
    variance, basis = np.linalg.eigh(z.T @ z / (len(z) - 1))
    return Subspace(
        mean=mean,
        deviation=deviation,
        basis=basis[:, ::-1],
        variance=np.maximum(variance[::-1], 0.0),
        radius=float(np.linalg.norm(z, axis=1).max()),
        examples=len(z),
    )


def align(source: Subspace, target: Subspace, d: int) -> np.ndarray:
    """Returns M = X_Sᵀ X_T ``[d, d]``, which minimises ‖X_S M − X_T‖ in the Frobenius norm.

    What is aligned are S X_S M, ``source.project(x, d) @ M``, and T X_T, ``target.project(x, d)``.

    Args:
      source: Whose first ``d`` components are X_S.
      target: Whose first ``d`` components are X_T.
      d: Number of components, 1 to D.

    Raises:
      ValueError: There are not as many components, or the domains have other features.
    """
    if len(source.mean) != len(target.mean):
        raise ValueError(
            "expected as many features in both domains, got "
            f"{len(source.mean)} and {len(target.mean)}"
        )
    if not 1 <= d <= len(source.mean):
        raise ValueError(f"expected 1 to {len(source.mean)} components, got {d}")
    return source.basis[:, :d].T @ target.basis[:, :d]


def deviation_bounds(source: Subspace, target: Subspace, *, delta: float = 0.1) -> np.ndarray:
    """Returns how far, at most, the alignment is from that of infinitely many examples.

    8 d^(3/2) B (1 + √(ln(2/δ)/2)) Σ 1 / (√n (λ_d − λ_{d+1})), with a term for each domain, bounds
    ‖X_S M X_Tᵀ − its expectation‖ with probability 1 − δ. λ are variances, n numbers of examples,
    and B is the largest norm of an example. A bound is infinite where λ_d = λ_{d+1} in a domain.

    Args:
      source: Principal components of the source.
      target: Those of the target.
      delta: Probability with which the bound may fail, in (0, 1); the default is this library's.

    Returns:
      ``[D - 1]``, for d = 1, 2, ...

    Source: Fernando et al. (2013), Theorem 1.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must be a probability, in (0, 1), got {delta}")
    d = np.arange(1, len(source.variance))
    radius = max(source.radius, target.radius)
    gaps = [s.variance[:-1] - s.variance[1:] for s in (source, target)]
    counts = source.examples, target.examples
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = sum(1 / (math.sqrt(n) * gap) for n, gap in zip(counts, gaps, strict=True))
        bounds = 8 * d**1.5 * radius * (1 + math.sqrt(math.log(2 / delta) / 2)) * inverse
    # Said outright, for a gap of zero may have a sign, and examples that are all equal no radius.
    return np.where(np.minimum(*gaps) > 0, bounds, np.inf)


def stable_components(
    source: Subspace, target: Subspace, *, gamma: float = 1e5, delta: float = 0.1
) -> int:
    """Returns the largest number of components whose ``deviation_bounds`` are at most γ, or 0.

    The number to use is among those up to this one; Fernando et al. (2013) choose it by two-fold
    cross-validation on the labelled source. No label of the target is needed for either step.

    Args:
      source: Principal components of the source.
      target: Those of the target.
      gamma: Largest deviation that is accepted; the default is this library's.
      delta: Probability with which the bound may fail, in (0, 1); the default is this library's.
    """
    (fine,) = np.nonzero(deviation_bounds(source, target, delta=delta) <= gamma)
    return int(fine[-1]) + 1 if len(fine) else 0


class Alignment(NamedTuple):
    """A closed form that is fitted to features of both domains."""

    components: list[int]  # the numbers of components to try, smallest first; one if it has none
    eligible: list[int]  # those of them that a choice without target labels is made among
    source: Callable[[np.ndarray, int], Callable[[int], np.ndarray]]  # (x, largest d) -> d -> x'
    target: Callable[[np.ndarray, int], Callable[[int], np.ndarray]]
    entries: dict[str, Any]  # what else it found, by name


def subspace_alignment(
    source: np.ndarray,
    labels: np.ndarray | None,
    target: np.ndarray,
    *,
    candidates: Iterable[int] = range(2, 61),
) -> Alignment:
    """Returns subspace alignment, fitted to features of both domains.

    Args:
      source: ``[n, D]``.
      labels: Not used: the form needs none.
      target: ``[m, D]``.
      candidates: Numbers of components, smallest first; the default is DANN's authors'. Those that
        are not below n, m and D are left out.

    Raises:
      ValueError: There are too few features or examples for any of them.
    """
    del labels
    bases = principal_subspace(source), principal_subspace(target)
    candidates = sorted(candidates)
    if not candidates or candidates[0] < 1 or len(bases[0].mean) != len(bases[1].mean):
        raise ValueError(
            "expected as many features in both domains, and numbers of components from 1 on, got "
            f"{len(bases[0].mean)} and {len(bases[1].mean)} features and {candidates[:5]}"
        )
    count = min(*source.shape, len(target))
    components = [d for d in candidates if d < count]
    if not components:
        raise ValueError(
            f"subspace alignment in {min(candidates)} components or more needs more features and "
            f"examples than that, got {count}"
        )
    stable = max(stable_components(*bases), components[0])

    def of_source(x, most):
        projected = bases[0].project(x, most)
        return lambda d: projected[:, :d] @ align(*bases, d)

    def of_target(x, most):
        projected = bases[1].project(x, most)
        return lambda d: projected[:, :d]

    eligible = [d for d in components if d <= stable]
    return Alignment(components, eligible, of_source, of_target, {"stable_components": stable})
