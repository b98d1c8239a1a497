"""The command line of the benchmark."""

import dataclasses
import math
import pathlib
from typing import Literal

from experiments import arguments as command_line
from experiments.benchmark.workload import SIZES

__all__ = ["PROGRAM", "Options"]

PROGRAM = "python -m experiments.benchmark"
MOST = 1_000_000  # of keys, of steps a call and of examples


def _are_counts(numbers):
    return all(1 <= number <= MOST for number in numbers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    networks: tuple[Literal[tuple(SIZES)], ...] = ("mnist", "svhn", "gtsrb")
    """Networks to train; mnist at 28 and at 32 pixels."""

    keys: tuple[int, ...] = (1, 4, 16)
    """Numbers of keys to train as one program."""

    steps_per_call: tuple[int, ...] = (1, 10, 100)
    """Numbers of updates that one call makes."""

    devices: tuple[int, ...] | None = None
    """Numbers of local devices, for strong and weak scaling; by default 2, 4, 8 ... and all."""

    against_pytorch: bool = False
    """Train in PyTorch too, in turn with ours."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32."""

    batch: int = 128
    """Examples a step: half source, half target."""

    seconds: float = 30.0
    """About how long the calls of one case may take, compilation excluded; a case whose single
    call is expected to take longer is left out."""

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
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"--seconds must be positive, got {self.seconds}")

    def path(self, device_kind: str) -> pathlib.Path:
        """Returns the file of the result; a ValueError if it exists and may not be replaced."""
        words = "".join(c if c.isalnum() else " " for c in device_kind.lower()).split()
        command_line.check_folder((self.output or pathlib.Path()).parent, "--output")
        path = self.output or pathlib.Path("runs", "benchmark", f"{'_'.join(words)}.json")
        if path.exists() and not self.overwrite:
            raise ValueError(f"{path} exists: choose another --output, or --overwrite it")
        return path

    def command(self) -> str:
        """Returns the command line that measures the same again."""
        words = [PROGRAM]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value == field.default or field.name in ("output", "overwrite"):
                continue
            words.append(f"--{field.name.replace('_', '-')}")
            if value is not True:
                words += map(str, value if isinstance(value, tuple) else [value])
        return " ".join(words)
