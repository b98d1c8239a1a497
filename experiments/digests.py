"""SHA-256 of what a training ends with: the same command on the same machine gives the same."""

import hashlib
from typing import Any

import jax
import numpy as np

from experiments import record

__all__ = ["of_arrays", "of_training"]


def of_arrays(tree: Any) -> str:
    """Returns the SHA-256 of a pytree of arrays: paths, in their order, dtypes, shapes and bits."""
    leaves = {
        jax.tree_util.keystr(path): a for path, a in jax.tree_util.tree_leaves_with_path(tree)
    }
    total = hashlib.sha256()
    for path, leaf in sorted(leaves.items()):
        array = np.ascontiguousarray(leaf)
        total.update(f"{path} {array.dtype.name} {list(np.shape(leaf))}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def of_training(state: Any, done: dict[str, Any]) -> dict[str, str]:
    """Returns the digests of a finished training: its state, and the record of what it has done.

    Those of parameters are of the batch statistics too. Those of losses are of L_y and L_d at each
    entry of the curves, in all their digits, those of accuracies of all evaluations.
    """
    return {
        "parameters": of_arrays({"theta": state.theta, "batch_stats": state.batch_stats}),
        "losses": _of_rows(done["curves"], "step", "label_loss", "domain_loss"),
        "accuracies": _of_rows(done["evaluations"], "step", "source_accuracy", "target_accuracy"),
    }


def _of_rows(rows, *names):
    known = [[None if np.isnan(row[name]) else row[name] for name in names] for row in rows]
    return record.digest(known)
