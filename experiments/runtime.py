"""The process and its machine: versions, devices, memory, threads, and compiled programs.

JAX's own cache keeps compiled programs from run to run.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import platform
import resource
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata

import jax
from jax.experimental.compilation_cache import compilation_cache

from dann_jax import __version__

__all__ = [
    "Compiled",
    "cache_folder",
    "cores",
    "counted",
    "device_kind",
    "keep_programs",
    "machine",
    "model_of_processor",
    "peak_memory",
    "processor",
    "threads",
    "versions",
    "versions_of",
]

PACKAGES = (
    "jax jaxlib flax optax numpy scipy scikit-learn Pillow resvg_py tensorflow-datasets grain"
)
_STAGES = "/jax/core/compile/"  # durations of tracing, lowering and compiling a program
_PROGRAM = "/jax/core/compile/backend_compile_duration"  # also of one that is read from the cache
_HIT = "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass
class Compiled:
    """A count of compilations."""

    seconds: float = 0.0  # from Python to programs that can run, those from the cache included
    programs: int = 0
    from_cache: int = 0  # how many of them


def versions() -> dict[str, str]:
    """Returns the versions of the packages that the numbers depend on."""
    every = {"dann_jax": __version__, "python": platform.python_version()}
    return every | versions_of(*PACKAGES.split())


def versions_of(*names: str) -> dict[str, str]:
    """Returns the versions of packages, those that are installed."""
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def device_kind(devices: list[jax.Device]) -> str:
    """Returns the kind of the devices, such as ``cpu`` or ``NVIDIA H200``."""
    return devices[0].device_kind


def _cpu_info():
    """Returns what Linux says of the first CPU, by name; nothing elsewhere."""
    with contextlib.suppress(OSError):
        first, *_ = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")
        parts = (line.partition(":") for line in first.splitlines())
        return {name.strip(): value.strip() for name, _, value in parts}
    return {}


def processor():
    """Returns the name of the CPU."""
    return _cpu_info().get("model name") or platform.processor() or platform.machine()


def model_of_processor() -> str:
    """Returns which CPU this is: its name, and its numbers where the name is that of several."""
    numbers = [(n, v) for n, v in _cpu_info().items() if n in ("cpu family", "model", "stepping")]
    about = ", ".join(f"{name} {value}" for name, value in numbers)
    return f"{processor()} ({about})" if about else processor()


def peak_memory(devices: list[jax.Device]) -> dict[str, int]:
    """Returns the most memory, bytes, that this process has held since it started.

    Where devices count their memory, ``peak_memory_bytes`` is that of the fullest, elsewhere
    ``peak_resident_bytes`` that of the whole process, Python and data included.
    """
    stats = [device.memory_stats() for device in devices]
    if all(stats):
        return {"peak_memory_bytes": max(each["peak_bytes_in_use"] for each in stats)}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def cores() -> int:
    """Returns the number of CPU cores that programs use."""
    for name in ("PJRT_NPROC", "NPROC"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    # macOS has no way to ask for the processors that a process may use.
    return len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))(0))


def threads() -> int:
    """Returns the number of threads that a program for CPUs has its work split over.

    XLA starts one for each core, and at least one for each simulated device; all devices share
    them.
    """
    return max(cores(), sum(device.platform == "cpu" for device in jax.local_devices()))


def cache_folder() -> pathlib.Path:
    """Returns where programs are kept: ``$JAX_COMPILATION_CACHE_DIR``, or in ~/.cache/dann_jax."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or "~/.cache/dann_jax/compiled"
    return pathlib.Path(folder).expanduser()


def keep_programs(folder: pathlib.Path | None) -> None:
    """Keeps every program that this process compiles, and takes those that are there already.

    Programs lie in a sub-folder for each kind of machine, created where needed; None keeps nothing.
    The folder may be deleted at any time. ``JAX_ENABLE_COMPILATION_CACHE=0`` switches it off, as it
    does in JAX.
    """
    compilation_cache.reset_cache()  # or the folder of an earlier call would stay in use
    jax.config.update("jax_compilation_cache_dir", None)
    if folder is None or not jax.config.jax_enable_compilation_cache:
        return
    folder = folder.expanduser().absolute() / machine()
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # The many small programs of a run take seconds together.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def machine() -> str:
    """Returns a name for what programs for CPUs depend on: processor, instructions and threads.

    JAX's names of compiled programs leave it out.
    """
    about = {platform.processor()}
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        about |= {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    digest = hashlib.sha256("\n".join(sorted(about)).encode()).hexdigest()
    return f"{platform.machine()}-{threads()}-threads-{digest[:12]}"


@contextlib.contextmanager
def counted() -> Iterator[Compiled]:
    """Gives a count of the programs that are compiled until the context ends."""
    count = Compiled()

    def add(event, seconds, **_):
        count.seconds += seconds * event.startswith(_STAGES)
        count.programs += event == _PROGRAM

    def hit(event, **_):
        count.from_cache += event == _HIT

    with contextlib.ExitStack() as stack:
        jax.monitoring.register_event_duration_secs_listener(add)
        stack.callback(jax.monitoring.unregister_event_duration_listener, add)
        jax.monitoring.register_event_listener(hit)
        stack.callback(jax.monitoring.unregister_event_listener, hit)
        yield count
