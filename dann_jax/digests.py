"""Digests of pytrees of arrays: equal for equal numbers, bit for bit, and for nothing else."""

import hashlib
from typing import Any

import jax
import numpy as np

__all__ = ["digest"]


def digest(tree: Any) -> str:
    """Returns the SHA-256 of the paths, dtypes, shapes and bytes of the arrays of a pytree.

    >>> digest({"w": np.zeros(2)})[:12], digest({"w": np.zeros([2, 1])})[:12]
    ('ecd0d6fcd45d', '280003708967')

    The bits count: 0 and -0 differ, and a NaN is equal to itself. Where the arrays lie, on one
    device or replicated over several, does not.

    Args:
      tree: Pytree of arrays, typed PRNG keys and Python numbers.

    Returns:
      64 hexadecimal digits.

    Raises:
      TypeError: A leaf is no array of numbers.
    """
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        where, kind = jax.tree_util.keystr(path), getattr(leaf, "dtype", None)
        if kind is not None and jax.dtypes.issubdtype(kind, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        if array.dtype.hasobject:
            raise TypeError(
                f"expected an array of numbers at tree{where}, got {type(leaf).__name__}: "
                "leave out what is no array"
            )
        # A header says how many bytes follow it, so that no two trees make the same text.
        total.update(f"{where} {kind or array.dtype} {list(array.shape)}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()
