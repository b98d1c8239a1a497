"""Several processes, of one host or many, that train as one: jax.distributed."""

import contextlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

__all__ = ["all_or_none", "check_agreement", "is_first", "most", "start"]


def start(coordinator: str | None, count: int | None, index: int | None) -> None:
    """Joins ``count`` processes, before anything else uses JAX, at the first's ``HOST:PORT``.

    All are None where JAX finds them out by itself (Slurm, Open MPI, Kubernetes, TPU pods).
    """
    if len({value is None for value in (coordinator, count, index)}) > 1:
        raise ValueError(
            "expected --coordinator, --processes and --process-id, or none of them, got "
            f"{coordinator}, {count} and {index}"
        )
    if coordinator is None:
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise ValueError(
                f"JAX cannot find the other processes here ({error}): add --coordinator "
                "HOST:PORT --processes N --process-id I"
            ) from error
        return
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdigit() and 0 <= index < count):
        raise ValueError(
            "expected --coordinator HOST:PORT and a --process-id from 0 to below --processes, got "
            f"{coordinator}, {index} and {count}"
        )
    jax.distributed.initialize(coordinator, count, index)


def is_first() -> bool:
    """Returns whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def check_agreement(
    number: int, what: str, advice: str = "make --output a folder that all of them share"
) -> None:
    """Waits for all processes, and raises a ValueError in each where their numbers differ.

    The number, below 2^32, stands for what a process has read from the files that all share, or
    for what it has computed.
    """
    if jax.process_count() == 1:
        return
    if len(set(_gathered(number))) > 1:
        raise ValueError(f"the processes have not found the same {what}: {advice}")


def most(numbers: Sequence[int]) -> list[int]:
    """Returns the largest of each of some numbers, below 2^32, that the processes have.

    Of one process these are the numbers themselves; several wait for each other.
    """
    if jax.process_count() == 1:
        return list(numbers)
    every = multihost_utils.process_allgather(np.array(numbers, np.uint32))
    return np.reshape(every, (-1, len(numbers))).max(0).tolist()


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """Waits for all processes at the end, where all go on or, if one has failed, each raises."""
    try:
        yield
    except Exception:
        if jax.process_count() > 1:
            _gathered(1)
        raise
    if jax.process_count() > 1 and any(_gathered(0)):
        raise ValueError("another process has failed: see its message")


def _gathered(number):
    """Returns the numbers of all processes."""
    return np.ravel(multihost_utils.process_allgather(np.uint32(number))).tolist()
