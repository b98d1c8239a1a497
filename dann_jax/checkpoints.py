"""Checkpoints of training states with orbax: the last few, whole or not at all, with digests."""

import asyncio
import contextlib
import json
import logging
import numbers
import pathlib
import shutil
import threading
import warnings
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

__all__ = ["Checkpoints", "restore", "save"]

_STATE, _DIGESTS = "state", "digests"  # the two items of a checkpoint
_SINGLE = "_METADATA"  # in the folder itself: one tree of a StandardCheckpointer
_OF_SYSTEM = "os_error_code"  # in tensorstore's errors that come from the operating system
_LETTERS = 600  # of another error, in an error
_QUIET = threading.RLock()  # held while the process's loop and logger are others
_SHOWN = 5  # differences in an error
_REMEDY = "restore it with the network and optimizer that it was saved with"
_SINGLE_REMEDY = "restore it with the version of dann_jax that wrote it, or train again"


class Checkpoints:
    """The last checkpoints of a training, in one folder, by step.

    A checkpoint appears under its step only when it is complete, so an interruption at any moment
    leaves the ones before it. What an interrupted save has left behind is removed by the next one.
    Each array has a CRC-32, which is compared when it is read. Of several processes the first
    saves, and each restores by itself: they do not wait for each other.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = Checkpoints(folder)
    ...     checkpoints.save(100, {"w": np.array([0.5, 2.0])})
    ...     restored = checkpoints.restore({"w": np.zeros(2)})
    >>> restored["w"].tolist()
    [0.5, 2.0]

    Args:
      folder: Where the checkpoints lie; the first save creates it.
      keep: How many to keep, the latest ones. With two, a damaged one costs some steps only.
    """

    def __init__(self, folder: str | pathlib.Path, keep: int = 2):
        if keep < 1:
            raise ValueError(f"expected at least one checkpoint to keep, got {keep}: raise keep")
        self.folder = pathlib.Path(folder).absolute()
        self.keep = keep

    def save(self, step: int, tree: Any) -> None:
        """Writes the checkpoint of a step.

        Checkpoints of this step and of later ones are removed first: a training that saves a step
        again has gone on from an earlier one.

        Args:
          step: Number of updates done, 0 or more.
          tree: Pytree of arrays, which may include typed PRNG keys.

        Raises:
          ValueError: The step is negative, there is nothing to save, an array is empty, or two
            arrays have one name.
          TypeError: A leaf is no array and no number.
          OSError: It cannot be written; the checkpoints before it stay.
          RuntimeError: This is not the first of several processes.
        """
        if step < 0:
            raise ValueError(f"expected a step from 0 on, got {step}: pass the updates done")
        if jax.process_index():
            raise RuntimeError(
                f"expected process 0, which alone can write with orbax, got {jax.process_index()}: "
                "save in process 0, and restore in every process"
            )
        _check_storable(tree)
        tree = jax.tree.map(_as_array, tree)
        arrays = {path: [_kind(leaf), _digest(leaf)] for path, leaf in _entries(tree).items()}
        items = ocp.args.Composite(
            **{
                _STATE: ocp.args.StandardSave(tree),
                _DIGESTS: ocp.args.JsonSave({"arrays": arrays, "crc32": _crc32_of(arrays)}),
            }
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._manager(cleanup_tmp_directories=True) as manager:
                for later in sorted(manager.all_steps(), reverse=True):
                    if later >= step:
                        manager.delete(later)
                manager.save(step, args=items)
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and _OF_SYSTEM not in str(error):
                raise
            raise OSError(
                f"expected to write the checkpoint {self.folder / str(step)}, got "
                f"{_first_line(error)}: free some space or choose another folder"
            ) from error

    def restore(self, like: Any, step: int | None = None) -> Any:
        """Returns a tree that ``save`` wrote: by default the latest that is not damaged.

        Args:
          like: Pytree of the same structure, shapes and dtypes (arrays or their shapes).
          step: Which one; None for the latest. If that is damaged, a warning says so, and the one
            before it is restored.

        Returns:
          Pytree like ``like``, placed as its arrays are; None if there is no checkpoint.

        Raises:
          ValueError: The checkpoint has another structure, shape or dtype, there is none of this
            step, or all are damaged.
        """
        steps = self._steps()
        if step is not None:
            if step not in steps:
                raise ValueError(
                    f"expected the step of a checkpoint in {self.folder}, {steps}, got {step}"
                )
            steps = [step]
        if not steps:
            return _restore_single(self.folder, like)
        damage = []
        for candidate in reversed(steps):
            try:
                tree = self._read(candidate, like)
            except _DamagedError as error:
                damage.append(f"{self.folder / str(candidate)} is damaged ({error})")
                continue
            if damage:
                text = f"{'; '.join(damage)}: restored the checkpoint before, of step {candidate}"
                warnings.warn(text, stacklevel=2)
            return tree
        raise ValueError(
            f"{'; '.join(damage)}, and there is no other checkpoint to restore: copy the folder "
            f"anew from where it came from, or delete {self.folder} to start from the beginning"
        )

    def latest_step(self) -> int | None:
        """Returns the step of the latest checkpoint, None if there is none."""
        return max(self._steps(), default=None)

    def delete(self) -> None:
        """Removes the folder with all checkpoints, if there is one."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _steps(self):
        """Returns the steps of the complete checkpoints, in ascending order."""
        if not self.folder.exists():
            return []
        with self._manager() as manager:
            return sorted(manager.all_steps())

    @contextlib.contextmanager
    def _manager(self, **options):
        """Opens a manager that does not wait for other processes, which hold the same."""
        handlers = {
            _STATE: ocp.StandardCheckpointHandler(multiprocessing_options=_alone()),
            _DIGESTS: ocp.JsonCheckpointHandler(multiprocessing_options=_alone()),
        }
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self.keep,
            create=False,
            lightweight_initialize=True,  # or it reads what another process may be deleting
            enable_async_checkpointing=False,
            multiprocessing_options=_alone(),
            **options,
        )
        with (
            _quiet(),
            ocp.CheckpointManager(self.folder, item_handlers=handlers, options=options) as manager,
        ):
            yield manager

    def _read(self, step, like):
        """Returns the tree of one step; raises ``_DamagedError`` if it is not the one saved."""
        with self._manager() as manager:
            arrays = _digests(manager, step)
            kinds = {path: kind for path, (kind, _) in arrays.items()}
            _check_like(self.folder / str(step), kinds, like)
            args = ocp.args.Composite(**{_STATE: ocp.args.StandardRestore(_abstract(like))})
            tree = _readable(lambda: manager.restore(step, args=args))[_STATE]
        for path, leaf in _entries(tree).items():
            if _digest(leaf) != arrays[path][1]:
                raise _DamagedError(f"{path} does not have the digest that it was saved with")
        return tree


def save(folder: str | pathlib.Path, tree: Any) -> None:
    """Writes one pytree of arrays; an earlier one there stays until this one is complete.

    Args:
      folder: Where to write; it is created.
      tree: Pytree of arrays, which may include typed PRNG keys.
    """
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save((checkpoints.latest_step() or 0) + 1, tree)


def restore(folder: str | pathlib.Path, like: Any) -> Any:
    """Returns the pytree that ``save`` wrote.

    Args:
      folder: Where it was written, here or by orbax's ``StandardCheckpointer``, which earlier
        versions used and which stores no digests.
      like: Pytree of the same structure, shapes and dtypes (arrays or their shapes).

    Returns:
      Pytree like ``like``, placed as its arrays are; None if there is no checkpoint.

    Raises:
      ValueError: It has another structure, shape or dtype, or is damaged.
    """
    return Checkpoints(folder, keep=1).restore(like)


class _DamagedError(Exception):
    """A checkpoint cannot be read, or is not what was saved."""


def _restore_single(folder, like):
    """Returns the tree that a ``StandardCheckpointer`` wrote, None if there is none."""
    if not (folder / _SINGLE).exists():
        return None
    checkpointer = ocp.StandardCheckpointer(multiprocessing_options=_alone())
    with _quiet(), checkpointer:
        try:
            stored = _readable(lambda: checkpointer.metadata(folder).item_metadata.tree)
            kinds = {path: _kind(leaf) for path, leaf in _entries(stored).items()}
            _check_like(folder, kinds, jax.tree.map(_as_stored, like), _SINGLE_REMEDY)
            return _readable(lambda: checkpointer.restore(folder, _abstract(like)))
        except _DamagedError as error:
            raise ValueError(
                f"{folder} is damaged ({error}): copy it anew from where it came from, or delete "
                "it and train again"
            ) from error


def _alone():
    """Returns options by which this process does not wait for the others."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that is closed when all its tasks have ended, and is silent about late ones.

    Where one array cannot be read or written, orbax raises that error and closes its loop, while
    tensorstore still works on the others: each of these would print a traceback.
    """

    def close(self):
        tasks = set() if self.is_closed() else asyncio.all_tasks(self)
        if tasks:
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()

    def call_soon_threadsafe(self, callback, *args, context=None):
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if self.is_closed():
                return None
            raise

    def call_exception_handler(self, context):
        pass


@contextlib.contextmanager
def _quiet():
    """Keeps orbax from printing the tracebacks of errors that it raises as well."""
    logger = logging.getLogger("absl")
    with _QUIET:
        level, new_event_loop = logger.level, asyncio.new_event_loop
        logger.setLevel(logging.CRITICAL)
        asyncio.new_event_loop = _PatientLoop
        try:
            yield
        finally:
            asyncio.new_event_loop = new_event_loop
            logger.setLevel(level)


def _readable(read):
    """Returns what ``read`` returns; whatever a damaged file makes it raise says so."""
    try:
        return read()
    except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        raise _DamagedError(_first_line(error)) from error


def _first_line(error):
    """Returns the type of an error and the beginning of what it says."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:_LETTERS]}"


def _digests(manager, step):
    """Returns kind and CRC-32 of each array of a checkpoint, by its path."""
    args = ocp.args.Composite(**{_DIGESTS: ocp.args.JsonRestore()})
    content = _readable(lambda: manager.restore(step, args=args))[_DIGESTS]
    arrays = content.get("arrays") if isinstance(content, dict) else None
    if arrays is None or content.get("crc32") != _crc32_of(arrays):
        raise _DamagedError("the digests themselves are damaged")
    return arrays


def _is_key(leaf):
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_stored(leaf):
    """Returns the array by which orbax stores a leaf: that of a typed key, or of a number."""
    if not hasattr(leaf, "dtype"):
        return np.asarray(leaf)
    return jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf


def _as_array(leaf):
    """Returns a leaf that orbax can store.

    It knows no scalars of NumPy, and of several processes none that are on one device alone.
    """
    alone = isinstance(leaf, jax.Array) and not _is_key(leaf) and jax.process_count() > 1
    return np.asarray(leaf) if alone or isinstance(leaf, np.generic) else leaf


def _abstract(like):
    return jax.tree.map(lambda leaf: ocp.utils.to_shape_dtype_struct(_as_array(leaf)), like)


def _entries(tree):
    """Returns the leaves of a tree by their paths, empty containers and None among them."""
    serialized = ocp.tree.serialize_tree(tree, keep_empty_nodes=True)
    flat = ocp.tree.to_flat_dict(serialized, keep_empty_nodes=True)
    return {"/".join(map(str, path)): leaf for path, leaf in flat.items()}


def _check_storable(tree):
    """Raises where orbax would stop in the middle of a tree, or write two arrays to one place."""
    if _kind(tree) == "empty":
        raise ValueError("expected a pytree with arrays to save, got an empty one")
    serialized = ocp.tree.serialize_tree(tree, keep_empty_nodes=True)
    flat, names = ocp.tree.to_flat_dict(serialized, keep_empty_nodes=True), set()
    for path, leaf in flat.items():
        name = "/".join(map(str, path))
        if _kind(leaf) != "empty" and not isinstance(leaf, numbers.Number):
            if not hasattr(leaf, "dtype"):
                raise TypeError(
                    f"expected arrays and numbers to save, got {type(leaf).__name__} at {name}: "
                    "leave it out"
                )
            if not leaf.size:
                raise ValueError(
                    f"expected arrays with at least one element to save, got {_kind(leaf)} at "
                    f"{name}: leave it out"
                )
        if (one := name.replace(".", "/")) in names:
            raise ValueError(
                f"expected a name of its own for each array, got two that are {name} with its "
                "parts joined by / or .: rename one of them"
            )
        names.add(one)


def _kind(leaf):
    """Returns dtype and shape of an array, such as ``float32 [2, 3]``, or the type of a number."""
    if leaf is None or (isinstance(leaf, dict | list | tuple) and not leaf):
        return "empty"
    if not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{leaf.dtype} {list(leaf.shape)}"


def _digest(leaf):
    """Returns the CRC-32 of the bytes of an array: an accident is noticed, not a forgery."""
    if _kind(leaf) == "empty":
        return 0
    if isinstance(leaf, jax.Array) and _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))


def _crc32_of(arrays):
    return zlib.crc32(json.dumps(arrays, sort_keys=True).encode())


def _check_like(where, stored, like, remedy=_REMEDY):
    """Raises unless the arrays of a checkpoint, by their kinds, are those of a pytree."""
    expected = {path: _kind(leaf) for path, leaf in _entries(like).items()}
    differences = [
        f"{path}: expected {expected.get(path, 'nothing')}, got {stored.get(path, 'nothing')}"
        for path in sorted(expected.keys() | stored.keys())
        if expected.get(path) != stored.get(path)
    ]
    if differences:
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise ValueError(
            f"the checkpoint {where} is of another state ({'; '.join(differences[:_SHOWN])}{more}):"
            f" {remedy}"
        )
