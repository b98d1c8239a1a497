"""Several processes, of one host or many, that train as one: jax.distributed."""

import atexit
import contextlib
import functools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import jax
import numpy as np
from jax._src import clusters  # of a cluster, who is the first process, and where
from jax.experimental import multihost_utils
from rich.console import Console

from experiments import peers

__all__ = [
    "DIED",
    "all_fail",
    "all_or_none",
    "check_agreement",
    "is_first",
    "leave",
    "most",
    "start",
    "together",
]

DIED = 75  # the exit status of a process that ends because another has died: EX_TEMPFAIL
_PATIENCE = 10.0  # seconds for others to end as this one does, before it ends alone
_NEVER = 1_000_000  # seconds without a sign of life, after which JAX would abort this process
_REMEDY = "start all of them again with the same command, which goes on from the last checkpoint"

_peers: peers.Peers | None = None  # where there are several processes


def start(coordinator: str | None, count: int | None, index: int | None) -> None:
    """Joins ``count`` processes, before anything else uses JAX, at the first's ``HOST:PORT``.

    All are None where JAX finds them out by itself (Slurm, Open MPI, Kubernetes, TPU pods). From
    then on this process ends, with one sentence and the status ``DIED``, where another has died.
    """
    if len({value is None for value in (coordinator, count, index)}) > 1:
        raise ValueError(
            "expected --coordinator, --processes and --process-id, or none of them, got "
            f"{coordinator}, {count} and {index}"
        )
    if coordinator is None:
        find = clusters.ClusterEnv.auto_detect_unset_distributed_params
        coordinator, count, index, _ = find(None, None, None, None, None, int(peers.JOIN))
        if coordinator is None or count is None or index is None:
            raise ValueError(
                "JAX cannot find the other processes here: add --coordinator HOST:PORT "
                "--processes N --process-id I"
            )
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdigit() and 0 <= index < count):
        raise ValueError(
            "expected --coordinator HOST:PORT and a --process-id from 0 to below --processes, got "
            f"{coordinator}, {index} and {count}"
        )
    host = host.strip("[]")
    service = _join(host, int(port), index, count)
    jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM
    jax.distributed.initialize(
        f"127.0.0.1:{peers.relay(host, service) if index else service}",
        count,
        index,
        coordinator_bind_address=f"[::]:{service}",
        heartbeat_timeout_seconds=_NEVER,
    )


def _join(host, port, index, count):
    """Waits for all processes; returns the port of JAX's service in the first one."""
    global _peers
    if index == 0:
        with peers.listen(0) as free:
            service = free.getsockname()[1]
        try:
            door = peers.listen(port)
        except OSError as error:
            raise ValueError(
                f"cannot listen at port {port} ({error}): choose another --coordinator"
            ) from error
        _peers = peers.Peers(index, count, _end, door=door, greeting=str(service))
    else:
        try:
            first, greeting = peers.connect(host, port, index, count)
        except OSError:
            _end(0, "late")
        service = int(greeting)
        _peers = peers.Peers(index, count, _end, first=first)
    if not _peers.meet("joined", None if index else peers.JOIN):
        _peers.lose(_peers.missing("joined")[0], "late")
    return service


def _end(index, how):
    """Ends this process at once: what JAX would still do waits for the one that is lost."""
    console = Console()
    if console.is_terminal:  # a bar may be there
        console.show_cursor()
        console.line()
    os.write(2, f"error: process {index} (the first is 0) {peers.HOW[how]}: {_REMEDY}\n".encode())
    os._exit(DIED)


def leave(status: int) -> NoReturn:
    """Ends this process, and so the others."""
    if _peers is not None:
        _peers.leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def all_fail() -> bool:
    """Returns whether all processes fail, as this one does: they can go on together.

    Does not return where this one fails because another has died.
    """
    return _peers is None or _peers.meet("failed", _PATIENCE)


def together(program: Callable[..., int]) -> Callable[..., int]:
    """Returns a program that ends when all processes do; one that ends alone ends the others."""

    @functools.wraps(program)
    def run(*arguments):
        status = 1
        try:
            status = program(*arguments)
            return status
        finally:
            if _peers is not None:
                _part(status)

    return run


def _part(status):
    """Waits until all processes are done, with success for as long as it takes."""
    try:
        done = _peers.meet(peers.DONE, None if status == 0 else _PATIENCE)
    except KeyboardInterrupt:
        done, status = False, 130
    if not done:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        leave(status)
    exits = threading.Event()
    atexit.register(exits.set)
    threading.Thread(target=_exit_in_time, args=(exits, status), daemon=True).start()


def _exit_in_time(exits, status):
    """Ends a process that waits, at its exit, for JAX's service in another that has died since."""
    exits.wait()
    time.sleep(_PATIENCE)
    os._exit(status)


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
