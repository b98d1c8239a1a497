"""Compiler options, in one place, by platform."""

import functools
import os

import jax

__all__ = ["options", "plain"]

# Library kernels for convolutions and matrix products, which XLA's own loops on CPU are several
# times slower than. jax.pmap takes no compiler options, so they serve one device only.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


def plain() -> bool:
    """Returns whether programs are to be what XLA makes of the usual operations.

    So it is where the environment variable ``DANN_JAX_PLAIN_XLA`` is 1: no options, and
    ``convolution`` as XLA has it. Numbers differ by rounding. The variable is looked at when a
    program is traced: set it before the first one.
    """
    return os.environ.get("DANN_JAX_PLAIN_XLA", "0") not in ("", "0")


def options(platform: str) -> dict[str, str] | None:
    """Returns ``compiler_options`` for ``jax.jit`` on a platform, None where it needs none.

    Args:
      platform: ``'cpu'``, ``'gpu'`` or ``'tpu'``.

    Returns:
      Names and values of XLA options, or None.
    """
    if platform != "cpu" or plain():
        return None
    return dict(_CPU) if _known() else None


@functools.cache
def _known():
    """Whether this version of XLA knows the options; it refuses to compile with others."""
    try:
        jax.jit(lambda x: x, compiler_options=_CPU).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
