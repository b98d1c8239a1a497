"""Compiled programs kept from run to run by JAX's own cache, and what compiling costs."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import platform
import tempfile
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache

__all__ = ["Compiled", "counted", "default_folder", "keep", "threads"]

_STAGES = "/jax/core/compile/"  # durations of tracing, lowering and compiling a program
_PROGRAM = "/jax/core/compile/backend_compile_duration"  # also of one that is read from the cache
_FOUND = "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass
class Compiled:
    """What was compiled."""

    seconds: float = 0.0  # from Python to programs that can run, those from the cache included
    programs: int = 0
    from_cache: int = 0  # how many of them


def default_folder() -> pathlib.Path:
    """Returns where programs are kept: ``$JAX_COMPILATION_CACHE_DIR``, or in ~/.cache/dann_jax."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or "~/.cache/dann_jax/compiled"
    return pathlib.Path(folder).expanduser()


def keep(folder: pathlib.Path | None) -> None:
    """Keeps every program that this process compiles, and takes what is there already.

    Programs lie in a sub-folder for each kind of machine. The folder may be deleted at any time.

    ``JAX_ENABLE_COMPILATION_CACHE=0`` switches it off, as it does in JAX.

    Args:
      folder: Where to; it is created. None to keep nothing.

    Raises:
      OSError: Nothing can be written there; nothing is kept then.
    """
    compilation_cache.reset_cache()  # or the folder of an earlier call would stay in use
    jax.config.update("jax_compilation_cache_dir", None)
    if folder is None or not jax.config.jax_enable_compilation_cache:
        return
    folder = folder.expanduser().absolute() / _machine()
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # The many small programs of a run take seconds together.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def threads() -> int:
    """Returns the number of threads that a program for CPUs has its work split over."""
    for name in ("PJRT_NPROC", "NPROC"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    # macOS does not tell which processors a process may use.
    return len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))(0))


def _machine():
    """Returns a name for what programs depend on that JAX leaves out of the names of its files.

    A program for CPUs has instructions of one processor, and may have its work split over a number
    of threads, which decides the last bits.
    """
    about = {platform.processor()}
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        about |= {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    digest = hashlib.sha256("\n".join(sorted(about)).encode()).hexdigest()
    return f"{platform.machine()}-{threads()}-threads-{digest[:12]}"


@contextlib.contextmanager
def counted() -> Iterator[Compiled]:
    """Gives a count of what is compiled until the context ends."""
    found = Compiled()

    def add(event, seconds, **_):
        if event.startswith(_STAGES):
            found.seconds += seconds
        found.programs += event == _PROGRAM

    def hit(event, **_):
        found.from_cache += event == _FOUND

    jax.monitoring.register_event_duration_secs_listener(add)
    jax.monitoring.register_event_listener(hit)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(add)
        jax.monitoring.unregister_event_listener(hit)
