"""Maximum mean discrepancy (MMD), and the objectives of DDC and DAN that are made of it."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from dann_jax import checks
from dann_jax.batches import DomainBatch
from dann_jax.objective import Apply, Terms, joint_forward, of_domains

__all__ = ["dan_objective", "ddc_objective", "gaussian_kernel", "linear_kernel", "mmd"]

ESTIMATORS = ("biased", "unbiased", "linear")
Kernel = Callable[[chex.Array, chex.Array], chex.Array]


def linear_kernel(x: chex.Array, y: chex.Array) -> chex.Array:
    """Returns ``k(x, y) = xᵀ y`` of all pairs, ``[n, m]``.

    Args:
      x: ``[n, D]``.
      y: ``[m, D]``.
    """
    return _products(x, y)


def gaussian_kernel(
    x: chex.Array, y: chex.Array, *, variance: float | chex.Array, powers: tuple[int, ...] = (0,)
) -> chex.Array:
    """Returns ``k(x, y) = mean_p exp(-‖x - y‖² / (2ᵖ variance))`` of all pairs, ``[n, m]``.

    A mean of Gaussian kernels with several bandwidths is again a characteristic kernel.

    Args:
      x: ``[n, D]``.
      y: ``[m, D]``.
      variance: Scale of the squared distances, see ``median_heuristic``.
      powers: Of two, one for each kernel.

    Raises:
      ValueError: There is no kernel, or the variance is not positive.
      TypeError: The variance is no number.

    Source: Gretton et al. (NIPS 2012); Long et al. (ICML 2015), Eq. (4) with equal weights.
    """
    checks.check_number(variance, "variance", positive=True)
    if not powers:
        raise ValueError("expected powers of one kernel or more, got none")
    distances = _squared_distances(x, y) / variance
    return sum(jnp.exp(-distances / 2.0**power) for power in powers) / len(powers)


def median_heuristic(x: chex.Array, y: chex.Array) -> chex.Array:
    """Returns the median squared distance between different examples, without a gradient.

    Args:
      x: ``[n, D]``.
      y: ``[m, D]``; pairs are those of both together.

    Returns:
      ``[]``, 1 where the examples are all equal.

    Source: Gretton et al. (JMLR 2012), Sec. 8.
    """
    joint = jax.lax.stop_gradient(jnp.concatenate([x, y]))
    first, second = jnp.triu_indices(len(joint), 1)
    median = jnp.median(_squared_distances(joint, joint)[first, second])
    return jnp.where(median > 0, median, 1.0)


def _squared_distances(x, y):
    squares = jnp.sum(x**2, -1)[:, None] + jnp.sum(y**2, -1)[None] - 2 * _products(x, y)
    return jnp.maximum(squares, 0.0)  # rounding may leave a small negative number


def _products(x, y):
    # In TF32, a GPU's default, differences of examples would drown in the rounding.
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def mmd(x: chex.Array, y: chex.Array, *, kernel: Kernel, estimator: str = "unbiased") -> chex.Array:
    """Returns an estimate of MMD², the squared distance of two samples' mean embeddings.

    With h(i, j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i):

    - ``'biased'``: ``mean k(x, x) + mean k(y, y) - 2 mean k(x, y)`` over all pairs, which is never
      negative.
    - ``'unbiased'``: the same without the pairs of an example with itself.
    - ``'linear'``: the mean of h over the pairs (1, 2), (3, 4), ... of examples, in linear time,
      for samples of one size.

    >>> x, y = jnp.array([[0.0], [2.0]]), jnp.array([[3.0], [5.0]])
    >>> float(mmd(x, y, kernel=linear_kernel, estimator="biased"))  # (1 - 4)^2
    9.0

    Args:
      x: ``[n, D]``.
      y: ``[m, D]``.
      kernel: ``([n, D], [m, D]) -> [n, m]``, such as ``linear_kernel``.
      estimator: ``'biased'``, ``'unbiased'`` or ``'linear'``.

    Returns:
      MMD², shape ``[]``, float32. All but the biased estimate may be negative.

    Raises:
      TypeError: The samples are no real numbers.
      ValueError: The samples have other shapes, or too few examples, or the estimator is unknown.

    Source: Gretton et al. (JMLR 2012), Eq. (5), Lemma 6 and Lemma 14.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(
            f"unknown estimator {estimator!r}: expected one of {', '.join(ESTIMATORS)}"
        )
    checks.check_real(x, "x")
    checks.check_real(y, "y")
    x, y = (jnp.asarray(a, jnp.float32) for a in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"expected two samples [n, D] and [m, D], got {list(x.shape)} and {list(y.shape)}: "
            "flatten the features of each example"
        )
    least = 1 if estimator == "biased" else 2
    if min(len(x), len(y)) < least:
        raise ValueError(
            f"the {estimator} estimate needs {least} or more examples in each sample, got "
            f"{len(x)} and {len(y)}"
        )
    if estimator == "linear":
        return _linear_time(x, y, kernel)
    within = [_mean(kernel(a, a), estimator) for a in (x, y)]
    return sum(within) - 2 * jnp.mean(kernel(x, y))


def _mean(values, estimator):
    """Returns the mean of the kernel within a sample; unbiased without its diagonal."""
    if estimator == "biased":
        return jnp.mean(values)
    n = len(values)
    return (jnp.sum(values) - jnp.trace(values)) / (n * (n - 1))


def _linear_time(x, y, kernel):
    if len(x) != len(y):
        raise ValueError(
            f"the linear-time estimate pairs examples of two samples of one size, got {len(x)} and "
            f"{len(y)}: use the unbiased one"
        )
    of_pairs = jax.vmap(lambda a, b: kernel(a[None], b[None])[0, 0])
    even = len(x) - len(x) % 2
    (x1, x2), (y1, y2) = ((a[0:even:2], a[1:even:2]) for a in (x, y))
    h = of_pairs(x1, x2) + of_pairs(y1, y2) - of_pairs(x1, y2) - of_pairs(x2, y1)
    return jnp.mean(h)


def ddc_objective(
    theta: Any,
    batch: DomainBatch,
    lam: float | chex.Array,
    apply: Apply,
    *,
    weight: float = 1.0,
    axis_name: str | None = None,
) -> tuple[chex.Array, Terms]:
    """Returns ``L_y + lam weight MMD²(f_S, f_T)`` with the linear kernel: DDC.

    MMD² is the squared distance of the domains' mean features, those of the last layer of G_f.

    Args:
      theta: Parameters ``{'f', 'y', 'd'}``; 'd' receives a zero gradient.
      batch: Source and target examples, preprocessed for G_f. Their weights count in L_y alone.
      lam: Trade-off, scalar, may be traced.
      apply: G_f and G_y as functions of (theta, x).
      weight: Of MMD² at lam = 1, dimensionless; .25 in the paper.
      axis_name: Mapped axis of the devices; MMD² is that of the whole batch.

    Returns:
      The value, shape ``[]``, and its terms with the penalty ``mmd``.

    Source: Tzeng et al., Deep Domain Confusion (arXiv 1412.3474), Eqs. (1) and (2).
    """
    checks.check_numbers(weight=weight)
    forward = joint_forward(theta, batch, apply, axis_name=axis_name)
    x, y = of_domains(forward.features, batch, axis_name=axis_name)
    # That is the biased estimate with the linear kernel, without its rounding.
    discrepancy = jnp.sum((jnp.mean(x, 0) - jnp.mean(y, 0)) ** 2)
    value = forward.label_loss + lam * weight * discrepancy
    return value, forward.terms(mmd=discrepancy)


def dan_objective(
    theta: Any,
    batch: DomainBatch,
    lam: float | chex.Array,
    apply: Apply,
    *,
    weight: float = 1.0,
    features: bool = True,
    powers: tuple[int, ...] = (-2, -1, 0, 1, 2),
    estimator: str = "unbiased",
    axis_name: str | None = None,
) -> tuple[chex.Array, Terms]:
    """Returns ``L_y + lam weight Σ_l MMD²(l_S, l_T)`` over fully connected layers l: DAN.

    The kernel of each layer is a mean of Gaussians, with 2ᵖ times the median squared distance of
    the batch's activations as their variances. The layers are those of G_y (all outputs of its
    top-level modules, its logits among them), and the last one of G_f.

    Args:
      theta: Parameters ``{'f', 'y', 'd'}``; 'd' receives a zero gradient.
      batch: Source and target examples, preprocessed for G_f. Their weights count in L_y alone.
      lam: Trade-off, scalar, may be traced.
      apply: G_f and G_y as functions of (theta, x).
      weight: Of the sum at lam = 1, dimensionless.
      features: Whether the last layer of G_f counts: where it is fully connected (a bottleneck).
      powers: Of two, p; the paper learns weights of the kernels, here they are equal.
      estimator: See ``mmd``; the paper's is ``'linear'``, which varies more.
      axis_name: Mapped axis of the devices; MMD² is that of the whole batch.

    Returns:
      The value, shape ``[]``, and its terms with the penalty ``mmd``, the sum.

    Source: Long et al., Learning Transferable Features with Deep Adaptation Networks (ICML 2015),
    Eqs. (3)-(5).
    """
    checks.check_numbers(weight=weight)
    forward = joint_forward(theta, batch, apply, layers=True, axis_name=axis_name)
    layers = [forward.features] if features else []
    layers += forward.layers
    discrepancy = jnp.float32(0)
    for layer in layers:
        x, y = of_domains(layer, batch, axis_name=axis_name)
        kernel = functools.partial(gaussian_kernel, variance=median_heuristic(x, y), powers=powers)
        discrepancy += mmd(x, y, kernel=kernel, estimator=estimator)
    value = forward.label_loss + lam * weight * discrepancy
    return value, forward.terms(mmd=discrepancy)
