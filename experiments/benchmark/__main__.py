"""Measures the speed of training on this machine: python -m experiments.benchmark [options].

Trains on random images and writes one JSON file: time and memory of a step, of several steps a
call, of many keys at once and on several devices. A case that cannot be measured is recorded with
its reason. With --against-pytorch the same networks are trained in PyTorch, in turn with ours.
"""

import sys

import jax
from rich.console import Console
from rich.table import Table

from dann_jax import memory
from experiments import arguments as command_line
from experiments import runtime
from experiments.benchmark import tables
from experiments.benchmark.cases import Benchmark
from experiments.benchmark.options import PROGRAM, Options

__all__ = ["main"]

WIDTH = 150  # columns that the printed tables need


def main(arguments: list[str] | None = None) -> int:
    """Runs the program with these arguments, or those of the process.

    Returns:
      The exit status: 0, 2 if the arguments are not valid, 130 if interrupted.
    """
    cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)  # or compiling would take no time
    try:
        options = command_line.parse(Options, arguments, program=PROGRAM, description=__doc__)
        _run(options, Console(highlight=False))
    except KeyboardInterrupt:
        print("interrupted: the file has what was measured until then", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {command_line.sentence(error)}", file=sys.stderr)
        return 2
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    return 0


def _run(options, console):
    options.check()
    path = options.path(runtime.device_kind(jax.local_devices()))
    twin = _pytorch_twin(jax.default_backend()) if options.against_pytorch else None
    benchmark = Benchmark(options, twin, path, console)
    benchmark.run()
    console.width = max(WIDTH, console.width)
    for title, (head, *rows) in tables.tables({path.name: benchmark.record}).items():
        columns = [i for i, name in enumerate(head) if name not in ("device", "file")]
        table = Table(*(head[i] for i in columns), title=title)
        for row in rows:
            table.add_row(*(row[i] for i in columns))
        if rows:
            console.print(table)
    console.print(f"written: {path}", soft_wrap=True, markup=False)


def _pytorch_twin(platform):
    """Returns the module of PyTorch trainings, if they can run where JAX does."""
    if platform not in ("cpu", "gpu"):
        raise ValueError("--against-pytorch needs a CPU or a GPU: leave it out on this machine")
    try:
        from experiments.benchmark import pytorch_twin
    except ImportError as error:
        raise ValueError(
            f"--against-pytorch needs the package torch ({error}): install it, or leave it out"
        ) from error
    torch = pytorch_twin.torch
    if platform == "gpu" and not torch.cuda.is_available():
        raise ValueError("--against-pytorch: JAX has a GPU, torch has none: install torch for CUDA")
    torch.set_num_threads(runtime.cores())
    return pytorch_twin


if __name__ == "__main__":
    memory.keep_freed_memory()  # as experiments.run does; for PyTorch as well
    sys.exit(main())
