"""Measures the speed of training on this machine: python -m experiments.benchmark [options].

Trains on random images and writes one JSON file: time and memory of a step, of several steps a
call, of many keys at once and on several devices. Each program has a process of its own, pinned to
the same cores, and they take turns. A case that cannot be measured is recorded with its reason.
With --against-pytorch the same networks are trained in PyTorch too. With --everything it does all
of that in one call, for a machine that is there for some minutes.
"""

import os

import jax
from rich.console import Console

from experiments import arguments as command_line
from experiments import runtime
from experiments.benchmark import everything
from experiments.benchmark.cases import Benchmark
from experiments.benchmark.options import PROGRAM, Options
from experiments.benchmark.side_by_side import show

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Runs the program with these arguments, or those of the process.

    Returns:
      The exit status: 0, 2 if the arguments are not valid, 130 if interrupted.
    """
    options = command_line.parse(Options, arguments, program=PROGRAM, description=__doc__)
    return command_line.ended(
        lambda: _run(options, Console(highlight=False)),
        interrupted="the file has what was measured until then",
    )


def _run(options, console):
    options.check()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others need the GPU's memory
    path = options.path(runtime.device_kind(jax.local_devices()))
    if options.against_pytorch or options.everything:
        _check_pytorch(jax.default_backend(), needed=options.against_pytorch)
    benchmark = Benchmark(options, path, console)
    count = sum(len(group.works) for group in benchmark.groups())
    benchmark.say(
        f"{count} programs, each in a process of its own, {options.rounds} rounds, up to "
        f"{benchmark.seconds:g} s of calls a case, compilation beside it: up to about "
        f"{benchmark.estimate() / 60:.0f} minutes"
    )
    if options.everything:
        everything.run(benchmark)
    else:
        benchmark.run()
    benchmark.write(finished=True)
    show({path.name: benchmark.record}, console)
    console.print(f"written: {path}", soft_wrap=True, markup=False)


def _check_pytorch(platform, *, needed):
    """Raises a ValueError unless PyTorch is there, and can run where JAX does."""
    if platform not in ("cpu", "gpu") and needed:
        raise ValueError("--against-pytorch needs a CPU or a GPU: leave it out on this machine")
    if needed and not runtime.versions_of("torch"):
        raise ValueError("--against-pytorch needs the package torch: install it, or leave it out")


if __name__ == "__main__":
    command_line.end(main())
