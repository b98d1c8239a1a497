"""The command line of ``experiments.run``."""

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro

from experiments import configs, runtime
from experiments.methods import DEFAULT_METHODS, METHODS
from experiments.settings import Config

__all__ = ["PROGRAM", "Options", "check_shared", "parse"]

PROGRAM = "python -m experiments.run"
OF_A_ROW = (  # settings that make a row of a table itself, and cannot be one for all of them
    "source target source_train source_test target_train target_test "
    "classes network image_size resize crop"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to run an experiment, then its settings."""

    config: tyro.conf.OmitArgPrefixes[Config]

    keys: int = 1
    """Number of PRNG keys to train with."""

    first_key: int = 0
    """The first of them; the others follow."""

    methods: tuple[Literal[tuple(METHODS)], ...] = DEFAULT_METHODS
    """Which methods to train, by default those of the experiment. A closed form such as sa needs
    the trainings whose features it aligns: they are made with it if need be."""

    svm: bool = True
    """Whether to measure a linear SVM on each finished training's last hidden layer."""

    output: pathlib.Path = pathlib.Path("runs")
    """Folder of result files, pictures and checkpoints."""

    overwrite: bool = False
    """Train anew where there are results, and replace them. After an interruption the same call
    begins with the first of them again: leave out, by --methods or by rows, what is finished."""

    data_dir: pathlib.Path | None = None
    """Folder of prepared data; by default $DANN_JAX_DATA, or ~/.cache/dann_jax."""

    manual_dir: pathlib.Path | None = None
    """Folder of data files that are already on disk, as their publishers name them."""

    streaming: bool = False
    """Read images from disk when they are needed, for data sets larger than memory; the numbers
    are the same."""

    devices: int | None = None
    """Number of local devices to train on; by default all."""

    together: Literal["auto"] | int = "auto"
    """How many keys, at most, are trained as one program. By default, where it pays: on a GPU or
    TPU all of them for small networks, else one for each device; one on a CPU."""

    devices_per_key: int | None = None
    """Number of devices that share the batches of a key; by default as few as keep all of them
    busy: keys are spread over devices first."""

    compilation_cache: pathlib.Path = dataclasses.field(default_factory=runtime.cache_folder)
    """Folder in which compiled programs are kept from run to run; none for no such folder."""

    distributed: bool = False
    """Train as one of several processes, on the devices of all, each of which is started with the
    same command. Only the first writes and prints; --output must be a folder that all share."""

    coordinator: str | None = None
    """HOST:PORT of the first process, for --distributed on machines that JAX does not know."""

    processes: int | None = None
    """Number of processes, with --coordinator."""

    process_id: int | None = None
    """Which of them this one is, from 0."""

    checkpoint_every: int = 5_000
    """Updates between two checkpoints, each made after an evaluation."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the PRNG keys."""
        return tuple(range(self.first_key, self.first_key + self.keys))


def parse(name: str, arguments: list[str], *, shown: str, about: str | None = None) -> Options:
    """Returns the options for an experiment, which the command may have ``shown`` as a table."""
    config, text = configs.find_config(name)
    return tyro.cli(
        Annotated[Options, tyro.conf.arg(name="")],
        args=arguments,
        default=Options(config=config, methods=configs.find_methods(name)),
        prog=f"{PROGRAM} {shown}",
        description=about or text,
    )


def check_shared(rows: dict[str, Options]) -> None:
    """Raises a ValueError where an option would make one row of a table of another."""
    wrong = {
        f"--{name.replace('_', '-')}"
        for row, options in rows.items()
        for name in OF_A_ROW.split()
        if getattr(options.config, name) != getattr(configs.find_config(row)[0], name)
    }
    if wrong:
        raise ValueError(
            f"{', '.join(sorted(wrong))} cannot be the same for all rows of a table: run the rows "
            f"by themselves ({', '.join(rows)})"
        )
