"""Saving and restoring training states with orbax, whole or not at all."""

import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp

__all__ = ["restore", "save"]


def save(folder: str | pathlib.Path, tree: Any) -> None:
    """Writes a pytree of arrays; an earlier checkpoint there stays until this one is complete.

    Args:
      folder: Where to write; it is created.
      tree: Pytree of arrays, typed PRNG keys among them or not.
    """
    folder = pathlib.Path(folder).absolute()
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(new, ignore_errors=True)
    with _checkpointer() as checkpointer:
        checkpointer.save(new, tree)
    if folder.exists():  # else the checkpoint to keep may be `old`, after an interruption
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def restore(folder: str | pathlib.Path, like: Any) -> Any:
    """Returns the pytree that ``save`` wrote.

    Args:
      folder: Where it was written.
      like: Pytree of the same structure, shapes and dtypes (arrays or their shapes).

    Returns:
      Pytree like ``like``, or None where there is no checkpoint.

    Raises:
      ValueError: The checkpoint has another structure.
    """
    folder = pathlib.Path(folder).absolute()
    if not folder.exists():
        # Cut off between two renames in `save`: the earlier checkpoint is whole.
        folder = folder.with_name(folder.name + ".old")
        if not folder.exists():
            return None
    with _checkpointer() as checkpointer:
        return checkpointer.restore(folder, jax.tree.map(ocp.utils.to_shape_dtype_struct, like))


def _checkpointer():
    """Returns a checkpointer that does not wait for other processes, which hold the same."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)
