"""The schedules of lambda and mu over the training progress p (paper, Sec. 4.1); a drop of mu."""

import jax
import jax.numpy as jnp

__all__ = ["drop", "lambda_p", "mu_p", "progress"]

Scalar = float | jax.Array


def progress(step: Scalar, steps: Scalar) -> jax.Array:
    """Returns p = step / steps, the share of the training that is done, clamped to [0, 1].

    With ``steps`` smaller than the length of the run, a schedule of p reaches its end early
    and stays there: ``lambda_p(progress(step, 10_000))`` is the lambda horizon of the authors'
    Office files, where lambda is complete at iteration 10,000 of 50,000.

    Args:
      step: Number of updates done, scalar or array of any shape, may be traced.
      steps: Number of updates at which p is 1.

    Returns:
      p, float32, dimensionless, shape of ``step``.

    Raises:
      ValueError: ``steps`` is known and not positive.
    """
    if isinstance(steps, int | float) and not steps > 0:
        raise ValueError(f"steps must be positive, the updates at which p is 1, got {steps}")
    return jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0.0, 1.0)


def lambda_p(p: Scalar, gamma: float = 10.0) -> jax.Array:
    """Returns lambda_p = 2 / (1 + exp(-gamma p)) - 1, which rises from 0 towards 1.

    >>> float(lambda_p(0.0)), round(float(lambda_p(0.1)), 4)
    (0.0, 0.4621)

    Args:
      p: Training progress, dimensionless, any shape; clamped to [0, 1].
      gamma: Steepness, dimensionless; the paper uses 10 for all experiments.

    Returns:
      lambda_p, shape of ``p``.

    Source: Ganin & Lempitsky (2015), Sec. 4.1.
    """
    p = jnp.clip(p, 0.0, 1.0)
    return 2.0 / (1.0 + jnp.exp(-gamma * p)) - 1.0


def mu_p(p: Scalar, mu0: float = 0.01, alpha: float = 10.0, beta: float = 0.75) -> jax.Array:
    """Returns mu_p = mu0 / (1 + alpha p)^beta, the annealed learning rate.

    ``alpha=0`` gives a constant rate mu0, as the paper uses for SVHN to MNIST.

    >>> round(float(mu_p(0.0)), 6), round(float(mu_p(1.0)), 6)
    (0.01, 0.001656)

    Args:
      p: Training progress, dimensionless, any shape; clamped to [0, 1].
      mu0: Learning rate at p = 0, per update.
      alpha: Speed of annealing, dimensionless.
      beta: Exponent of annealing, dimensionless.

    Returns:
      mu_p, shape of ``p``.

    Source: Ganin & Lempitsky (2015), Sec. 4.1.
    """
    p = jnp.clip(p, 0.0, 1.0)
    return mu0 / (1.0 + alpha * p) ** beta


def drop(p: Scalar, at: float = 0.7, factor: float = 0.1) -> jax.Array:
    """Returns what to multiply the learning rate by: 1, and ``factor`` from ``p = at`` on.

    It is the usual way to end a training with a constant learning rate; the paper's is ``mu_p``.

    >>> round(float(drop(0.5)), 4), round(float(drop(0.7)), 4)
    (1.0, 0.1)

    Args:
      p: Training progress, dimensionless, any shape. A compiled program may round it down by a
        few units in the last place, so that 2^-20 less than ``at`` counts as ``at``.
      at: When the learning rate drops, progress, dimensionless.
      factor: Multiple of the learning rate after it, dimensionless.

    Returns:
      1 or ``factor``, float32, shape of ``p``.
    """
    before = jnp.asarray(p, jnp.float32) < at - 2**-20
    return jnp.where(before, jnp.float32(1.0), jnp.float32(factor))
