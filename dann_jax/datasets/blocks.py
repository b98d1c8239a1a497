"""Images generated block by block in several processes, in order and with the same bytes.

An image is a function of (seed, stream, index), so any process may generate it. Each worker runs
this module as a program: unlike ``multiprocessing`` that neither forks a process in which JAX has
threads nor imports the user's script a second time.

    python -m dann_jax.datasets.blocks MODULE FUNCTION SEED STREAM SIZE FIRST STEP
"""

import contextlib
import importlib
import io
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator

import numpy as np

__all__ = ["Images", "generate"]

Images = Callable[[int, str, int, int], np.ndarray]
"""(seed, stream, start, stop) -> uint8 ``[stop - start, height, width, channel]``."""

_BLOCK = 256  # images; small enough for the cache of a core, large enough for NumPy
_PATIENCE = 5.0  # seconds for a process that failed to end by itself
_WORTH = 8  # blocks that a process must have to be worth its start, some 2 seconds


def generate(
    images: Images, seed: int, stream: str, size: int, *, processes: int | None = None
) -> Iterator[np.ndarray]:
    """Yields images ``0 .. size - 1`` of a stream, one at a time and in order.

    Args:
        images: generates a range of images; a function that can be imported by its name.
        seed: passed on.
        stream: passed on.
        size: how many images.
        processes: how many to use; None for one for each core, or fewer if there are few
            images. The bytes do not depend on it.

    Yields:
        uint8 ``[height, width, channel]``.

    Raises:
        ValueError: ``processes`` is not positive.
        ChildProcessError: a process failed; the message has the last line of its errors.
    """
    if processes is None:
        processes = max(1, min(_cores(), size // (_BLOCK * _WORTH)))
    if processes < 1:
        raise ValueError(f"expected at least 1 process, got {processes}")
    if processes == 1:
        for start in range(0, size, _BLOCK):
            yield from images(seed, stream, start, min(start + _BLOCK, size))
        return
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(_worker(images, seed, stream, size, first, processes))
            for first in range(processes)
        ]
        for block in range(-(-size // _BLOCK)):
            yield from _read(*workers[block % processes])


def _cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _worker(images, seed, stream, size, first, step):
    """Starts a process that writes every ``step``-th block, from block ``first`` on."""
    arguments = [images.__module__, images.__name__, seed, stream, size, first, step]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            # The package must be the one that runs here; each process keeps to its core.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        try:
            yield process, errors
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def _read(process, errors):
    # NumPy reads what it takes for a file by its position in it, which a pipe does not have.
    pipe = types.SimpleNamespace(read=process.stdout.read)
    try:
        return np.lib.format.read_array(pipe, allow_pickle=False)
    except (ValueError, EOFError) as error:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_PATIENCE)
        process.kill()  # it may wait for somebody to read what is not an array
        status = process.wait()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines() or ["nothing"]
        raise ChildProcessError(
            f"a process that makes images ended with status {status} and said: {lines[-1]}"
        ) from error


def _main(module, function, seed, stream, size, first, step):
    # What is printed, by libraries too, must not end up among the pixels.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    images = getattr(importlib.import_module(module), function)
    size = int(size)
    for start in range(int(first) * _BLOCK, size, int(step) * _BLOCK):
        block = images(int(seed), stream, start, min(start + _BLOCK, size))
        file = io.BytesIO()
        np.lib.format.write_array(file, block, allow_pickle=False)
        try:
            output.write(file.getbuffer())
            output.flush()
        except BrokenPipeError:  # nobody wants the rest
            os._exit(1)


if __name__ == "__main__":
    _main(*sys.argv[1:])
