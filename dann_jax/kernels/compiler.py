"""Compiler options by platform, and the switch that turns all of this package off."""

import functools
import os

import jax

__all__ = ["compiler_options", "plain_xla"]

# Library kernels for convolutions and matrix products, which XLA's own loops on CPU are several
# times slower than. jax.pmap takes no compiler options, so they serve one device only.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


def plain_xla() -> bool:
    """Returns whether XLA's usual operations, and no options, are used: ``DANN_JAX_PLAIN_XLA=1``.

    Numbers differ by rounding. The environment variable is read when a program is traced: set it
    before the first one.
    """
    return os.environ.get("DANN_JAX_PLAIN_XLA", "0") not in ("", "0")


def compiler_options(platform: str) -> dict[str, str] | None:
    """Returns ``compiler_options`` for ``jax.jit`` on a platform, None where it needs none.

    Args:
      platform: ``'cpu'``, ``'gpu'`` or ``'tpu'``.

    Returns:
      Names and values of XLA options, or None.
    """
    if platform != "cpu" or plain_xla():
        return None
    return dict(_CPU) if _known() else None


@functools.cache
def _known():
    """Returns whether this version of XLA has the options; it refuses to compile with others."""
    try:
        jax.jit(lambda x: x, compiler_options=_CPU).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
