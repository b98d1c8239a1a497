"""What files of a benchmark hold: typed models, published as docs/benchmark.schema.json.

Times are seconds. Each case has one entry in a file, so the same work has one number. Files of
before format 2, which compared programs within one process, are read by the tables alone.
"""

import statistics
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from experiments import schema

__all__ = [
    *("FORMAT", "LIMIT", "Benchmark", "Case", "LeftOut", "Race", "Runner", "Times"),
    *("checked", "is_race", "json_schema", "spread", "times"),
]

FORMAT = 2  # a change of what the files hold raises it
LIMIT = 0.10  # spread of the rounds from which on a case has no number in the tables

Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
Engine = Literal["ours", "eager", "compiled", "cuda_graphs", "loop", "product"]


class _Entries(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Times(_Entries):
    """The time of a step."""

    median: Annotated[float, Field(gt=0)]
    """Of the rounds."""
    spread: Annotated[float, Field(ge=0)]
    """Largest round less the smallest, over the median."""
    rounds: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    """The median over the calls of each."""
    calls: Count
    """In all rounds together."""


class Case(_Entries):
    """A program that was measured, or why it was not."""

    engine: Engine
    """``ours``; PyTorch's others; ``product``, a large matrix product with JAX."""
    channels_last: bool | None
    """PyTorch's layout of images and convolutions."""
    network: Name | None
    pixels: Count | None
    dtype: Literal["float32", "bfloat16"]
    precision: Name
    """Value of jax_default_matmul_precision; tensorfloat32 is TF32 in PyTorch too."""
    batch: Count
    """Examples a step and key, over all devices; half source, half target."""
    keys: Count
    """Trained as one program."""
    devices: Count
    steps_per_call: Count
    reason: Name | None = None
    """Why it was not measured."""
    step_seconds: Times | None = None
    examples_per_second: Annotated[float, Field(gt=0)] | None = None
    """Over all keys."""
    prepare_seconds: Seconds | None = None
    """Until the first call has ended, after the process has started."""
    lowering_seconds: Seconds | None = None
    compile_seconds: Seconds | None = None
    peak_memory_bytes: Annotated[int, Field(ge=0)] | None = None
    peak_memory_from: Name | None = None
    flop_per_step: Count | None = None
    flop_per_second: Annotated[float, Field(gt=0)] | None = None
    idle_cpu_seconds: Seconds | None = None
    """CPU time of its process while the others had their turns."""

    @property
    def label(self) -> tuple[Any, ...]:
        """What it is a measurement of."""
        return tuple(getattr(self, name) for name in _LABELS)


_LABELS = (
    *("engine", "channels_last", "network", "pixels", "dtype", "precision", "batch", "keys"),
    *("devices", "steps_per_call"),
)


class LeftOut(_Entries):
    """What there was no time for."""

    what: Name
    why: Name


class Equality(_Entries):
    """The first losses of a training here and on the CPU of docs/gpu_equality.json."""

    network: Name
    precision: Name
    losses: list[float] = []
    max_relative_difference: Seconds | None = None
    same_bits: bool | None = None
    """Whether two runs of 100 updates ended with the same parameters."""
    reason: Name | None = None


class Evaluation(_Entries):
    """Accuracies after some updates."""

    step: Count
    seconds: Seconds
    """Since the process was started, the time of runs that were cut off included."""
    source_accuracy: Annotated[float, Field(ge=0, le=1)]
    target_accuracy: Annotated[float, Field(ge=0, le=1)]
    key: Annotated[int, Field(ge=0)] = 0


class Training(_Entries):
    """A training of several keys as one program."""

    config: Name
    keys: Count
    steps: Count
    """Of the whole training."""
    examples: dict[Name, Count]
    evaluations: list[Evaluation]
    finished: bool
    reason: Name | None = None
    """Why it is not finished."""
    seconds: Seconds | None = None


class _Machine(_Entries):
    benchmark_format: Literal[FORMAT]  # type: ignore[valid-type]
    device: Name
    """Kind of the devices."""
    platform: Literal["cpu", "gpu", "tpu"]
    device_count: Count
    processor: Name
    """Its model."""
    cores: Count
    """That each process is pinned to."""
    versions: dict[Name, Name]
    command: Name
    load_average: Seconds | None
    """Of the machine before it began, processes; None where the system does not say."""
    finished: bool
    wall_seconds: Seconds = 0.0


class Benchmark(_Machine):
    """A file of ``experiments.benchmark``."""

    simulated_devices: bool
    compiler_options: dict[Name, Name] | None
    XLA_FLAGS: str
    examples: Count
    rounds: Count
    seconds: Seconds
    cases: list[Case]
    left_out: list[LeftOut] = []
    equality: list[Equality] = []
    training: Training | None = None


class Runner(_Entries):
    """One side of a race."""

    engine: Literal["ours", "loop"]
    about: Name
    seconds: Seconds | None
    """Until the target's test accuracy was reached; None if it was not."""
    evaluations: list[Evaluation]
    finished: bool
    restarts: Annotated[int, Field(ge=0)]
    """How often it went on from a checkpoint after it had been cut off."""
    reason: Name | None = None


class Race(_Machine):
    """A file of ``experiments.benchmark.time_to_accuracy``."""

    config: Name
    settings: dict[Name, Any]
    accuracy: Annotated[float, Field(gt=0, le=1)]
    """Of the target's test images, to be reached."""
    evaluate_every: Count
    key: Annotated[int, Field(ge=0)]
    runners: list[Runner]


def times(rounds: list[float], calls: int) -> Times:
    """Returns the time of a step from that of each round."""
    median = statistics.median(rounds)
    return Times(median=median, spread=spread(rounds), rounds=rounds, calls=calls)


def spread(rounds: list[float]) -> float:
    """Returns the largest less the smallest, over the median.

    >>> spread([1.0, 1.1, 0.95])
    0.15
    """
    return round((max(rounds) - min(rounds)) / statistics.median(rounds), 6)


def is_race(content: dict[str, Any]) -> bool:
    """Returns whether the content of a file is that of a race."""
    return "runners" in content


def checked(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a file as it is, or raises a ValueError with what is wrong."""
    kind = Race if is_race(content) else Benchmark
    _, faults = schema.typed(kind, content)
    if not faults and kind is Benchmark:
        labels = [Case(**case).label for case in content["cases"]]
        if len(set(labels)) < len(labels):
            raise ValueError("the same work has several entries")
    if faults:
        raise ValueError("; ".join(map(str, faults[:3])))
    return content


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of these files."""
    every = pydantic.TypeAdapter(Benchmark | Race).json_schema()
    dialect = "https://json-schema.org/draft/2020-12/schema"
    about = f"A benchmark of dann_jax, format {FORMAT}"
    return {"$schema": dialect, "title": about} | every
