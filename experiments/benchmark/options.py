"""The command line of the benchmark."""

import dataclasses
import math
import os
import pathlib
from typing import Literal

from experiments import arguments as command_line
from experiments.benchmark.workload import SIZES

__all__ = ["PROGRAM", "Options", "check_cpus", "default_path"]

PROGRAM = "python -m experiments.benchmark"
MOST = 1_000_000  # of keys, of steps a call and of examples
NETWORKS = tuple(name for name in SIZES if name != "office_alexnet")


def _are_counts(numbers):
    return all(1 <= number <= MOST for number in numbers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    networks: tuple[Literal[tuple(SIZES)], ...] = NETWORKS
    """Networks to train; mnist at 28 and at 32 pixels."""

    keys: tuple[int, ...] = (1, 4, 16)
    """Numbers of keys to train as one program."""

    steps_per_call: tuple[int, ...] = (1, 10, 100)
    """Numbers of updates that one call makes."""

    devices: tuple[int, ...] | None = None
    """Numbers of local devices, for strong and weak scaling; by default 2, 4, 8 ... and all."""

    against_pytorch: bool = False
    """Train in PyTorch too, in turn with ours: eager, torch.compile and, on a GPU, CUDA graphs,
    each in both layouts; and in the loop that people write, with DataLoaders."""

    everything: bool = False
    """All of it in an order of importance, to be used with --minutes: equality with the CPU's
    numbers, every case in float32, TF32 and bfloat16 against PyTorch, and a training of five keys
    from arrays in --data-dir. What there was no time for is listed."""

    data_dir: pathlib.Path | None = None
    """With --everything: a folder that experiments.benchmark.arrays has written."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32."""

    batch: int = 128
    """Examples a step: half source, half target."""

    seconds: float | None = None
    """About how long the calls of one case may take in all rounds; a case of which not even one
    call a round fits is left out. By default 10 on a CPU and 3 elsewhere."""

    rounds: int = 5
    """How often each case has its turn."""

    minutes: float | None = None
    """How long all may take, compilation and rounds included; what does not fit is left out. None
    for as long as it takes."""

    cpus: tuple[int, ...] | None = None
    """Numbers of the CPU cores that each process is pinned to; by default all that this one may
    use."""

    output: pathlib.Path | None = None
    """File of the result; by default runs/benchmark/DEVICE.json."""

    overwrite: bool = False
    """Replace the file if it exists."""

    def check(self) -> None:
        """Raises a ValueError if a value makes no sense."""
        counts = (*self.keys, *self.steps_per_call, *(self.devices or ()))
        if not self.networks or not self.steps_per_call or not _are_counts(counts):
            raise ValueError(
                "expected at least one of --networks and of --steps-per-call, and numbers of 1 to "
                f"{MOST} for --keys, --steps-per-call and --devices, got {counts}"
            )
        if not _are_counts([self.batch]) or self.batch % 2:
            raise ValueError(
                f"--batch must be even (half source, half target) and at most {MOST}, got "
                f"{self.batch}"
            )
        for name in ("seconds", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"--{name} must be positive, got {value}")
        if not 1 <= self.rounds <= MOST:
            raise ValueError(f"--rounds must be at least 1 and at most {MOST}, got {self.rounds}")
        if self.data_dir is not None and not self.everything:
            raise ValueError("--data-dir is of use with --everything alone: leave it out")
        check_cpus(self.cpus)
        command_line.check_folder(self.data_dir, "--data-dir", written=False)

    def time_of_case(self, platform: str) -> float:
        """Returns ``seconds``, or what is usual on a platform."""
        return self.seconds or (10.0 if platform == "cpu" else 3.0)

    def path(self, device_kind: str) -> pathlib.Path:
        """Returns the file of the result; a ValueError if it exists and may not be replaced."""
        return default_path(self.output, device_kind, self.overwrite)

    def command(self) -> str:
        """Returns the command line that measures the same again."""
        words = [PROGRAM]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value == field.default or field.name in ("output", "overwrite", "data_dir"):
                continue
            words.append(f"--{field.name.replace('_', '-')}")
            if value is not True:
                words += map(str, value if isinstance(value, tuple) else [value])
        return " ".join(words)


def check_cpus(cpus: tuple[int, ...] | None) -> None:
    """Raises a ValueError unless this process may use these CPU cores."""
    if cpus is None:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("--cpus: this system cannot pin processes: leave it out")
    usable = sorted(os.sched_getaffinity(0))
    if not cpus or not set(cpus) <= set(usable):
        raise ValueError(f"--cpus: expected some of {usable}, got {list(cpus)}: choose others")


def default_path(output: pathlib.Path | None, name: str, overwrite: bool) -> pathlib.Path:
    """Returns the file of a result; a ValueError if it exists and may not be replaced."""
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    command_line.check_folder((output or pathlib.Path()).parent, "--output")
    path = output or pathlib.Path("runs", "benchmark", f"{'_'.join(words)}.json")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: choose another --output, or --overwrite it")
    return path
