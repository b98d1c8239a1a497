"""A program that is timed, in a process of its own: idle threads of others do not disturb it."""

import contextlib
import dataclasses
import multiprocessing
import os
import time
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dann_jax import memory
from dann_jax.kernels import compiler_options

__all__ = ["MOST_CALLS", "OURS", "PRODUCT", "Program", "Work", "Worker", "failure"]

OURS, PRODUCT = "ours", "product"  # engines of JAX; the others are PyTorch's
SIZES, SIZE_OF_OTHERS = {"cpu": 2048}, 8192  # rows and columns of the matrix product
MOST_CALLS = 200  # timed calls of a turn
END = 20.0  # seconds for a process to end by itself


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What a process does: steps of a training, or matrix products."""

    engine: str
    """``ours``; PyTorch's ``eager``, ``compiled``, ``cuda_graphs`` and ``loop``; or ``product``."""
    channels_last: bool | None = None
    """PyTorch's layout of images and convolutions; None for JAX."""
    network: str | None = None
    pixels: int | None = None
    dtype: str = "float32"
    precision: str = "default"
    """Value of jax_default_matmul_precision."""
    batch: int = 128
    """Examples a step and key, over all devices."""
    keys: int = 1
    """Trained as one program."""
    devices: int = 1
    platform: str = "cpu"
    """Where: JAX's ``cpu``, ``gpu`` or ``tpu``."""


class Program:
    """Work that is ready to be timed, in this process."""

    def __init__(self, work: Work):
        """Makes the images and the state; nothing is compiled yet."""
        self.last_cpu = time.process_time()
        if work.engine == PRODUCT:
            self.call: Any = _Product(work.dtype)
        elif work.engine == OURS:
            from experiments.benchmark import workload

            subject = workload.Subject(work.network, work.pixels, work.dtype)
            available = jax.local_devices()
            if work.devices > len(available):
                raise ValueError(f"this process has {len(available)} devices")
            keys = None if work.keys == 1 else work.keys
            devices = available[: work.devices]
            self.call = workload.Training(subject, work.batch, devices=devices, keys=keys)
        else:
            from experiments.benchmark import pytorch_twin

            self.call = pytorch_twin.start(work)

    def prepare(self, steps: int) -> dict[str, Any]:
        """Compiles for calls of so many steps, warms up, and returns costs and a call's time.

        The time of the call, ``call_seconds``, is a first guess.
        """
        begin = time.perf_counter()
        costs = self.call.prepare(steps) if hasattr(self.call, "prepare") else {}
        if not costs:
            self.call(steps)
        costs |= {"prepare_seconds": time.perf_counter() - begin}
        calls = []
        for _ in range(2):  # the first ones of PyTorch are slow
            start = time.perf_counter()
            self.call(steps)
            calls.append(time.perf_counter() - start)
        self.last_cpu = time.process_time()
        return {"call_seconds": min(calls)} | costs

    def turn(self, steps: int, seconds: float) -> dict[str, Any]:
        """Makes calls for about so many seconds, one at least, after one that does not count.

        Returns the seconds of each, and the CPU time that the process took since its last turn.
        """
        idle = time.process_time() - self.last_cpu
        begin, times = time.perf_counter(), []
        self.call(steps)  # fills caches
        while not times or (
            len(times) < MOST_CALLS and time.perf_counter() - begin + times[-1] < seconds
        ):
            start = time.perf_counter()
            self.call(steps)
            times.append(time.perf_counter() - start)
        self.last_cpu = time.process_time()
        return {"times": times, "idle_cpu_seconds": idle}


class _Product:
    """A large matrix product of the type and precision of the networks."""

    def __init__(self, dtype):
        platform = jax.default_backend()
        self.size = SIZES.get(platform, SIZE_OF_OTHERS)
        draws = jax.random.split(jax.random.key(0))
        self.factors = [jax.random.normal(k, [self.size, self.size], dtype) for k in draws]
        self.program = jax.jit(jnp.matmul, compiler_options=compiler_options(platform))

    def __call__(self, steps):
        for _ in range(steps):
            jax.block_until_ready(self.program(*self.factors))

    def prepare(self, steps):
        self(steps)
        return {"flop_per_step": 2 * self.size**3}


class Worker:
    """A process with a ``Program``, or with another object whose methods it calls."""

    def __init__(self, kind: Any, *arguments: Any, cpus: Sequence[int] | None = None):
        """Starts it; what ``kind(*arguments)`` raises comes with the first ``ask``.

        ``cpus`` are those that it is pinned to; None for those of this process.
        """
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, cpus, kind, *arguments))
        self.process.start()
        other.close()

    def send(self, name: str, *arguments: Any) -> None:
        """Has a method called; ``receive`` waits for what it returns."""
        with contextlib.suppress(OSError):  # then receive says so
            self.connection.send((name, arguments))

    def receive(self, timeout: float | None = None) -> Any:
        """Returns what the method that was called returns.

        Raises:
          TimeoutError: It takes longer than ``timeout`` seconds.
          RuntimeError: It has failed, or the process has ended.
        """
        if not self.connection.poll(timeout):
            raise TimeoutError
        try:
            answer, reason = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(END)
            code = self.process.exitcode
            raise RuntimeError(f"its process ended with status {code}") from None
        if reason is not None:
            raise RuntimeError(reason)
        return answer

    def ask(self, name: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Returns what a method returns: ``send``, then ``receive``."""
        self.send(name, *arguments)
        return self.receive(timeout)

    def stop(self) -> None:
        """Ends the process."""
        self.connection.close()  # it ends where it waits for the next call
        self.process.join(END if self.process.is_alive() else None)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def failure(error: BaseException) -> str:
    """Returns in one line why something failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def serve(connection, cpus, kind, *arguments):
    """Runs in the new process: makes the object, and calls its methods until the other end goes."""
    if cpus is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)
    # Several processes share a GPU; and what is compiled must not come from a cache.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
    jax.config.update("jax_enable_compilation_cache", False)
    work = arguments[0] if arguments and isinstance(arguments[0], Work) else None
    if work is not None and work.engine not in (OURS, PRODUCT):
        jax.config.update("jax_platforms", "cpu")  # PyTorch has the GPU
    if getattr(kind, "keeps_freed_memory", work is None or work.engine != "loop"):
        memory.keep_freed_memory()  # as experiments.run does; for PyTorch as well
    with contextlib.ExitStack() as stack, contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        if work is not None:
            stack.enter_context(jax.default_matmul_precision(work.precision))
        program, reason = None, None
        try:
            program = kind(*arguments)
        except Exception as error:  # of any library
            reason = failure(error)
        while True:
            name, given = connection.recv()
            answer, why = None, reason
            if reason is None:
                try:
                    answer = getattr(program, name)(*given)
                except Exception as error:
                    why = failure(error)
            connection.send((answer, why))
