"""The command line of ``experiments.run``."""

import dataclasses
import pathlib
import shlex
from collections.abc import Collection, Sequence
from typing import Annotated, Literal

import tyro

from dann_jax import datasets, memory
from experiments import arguments as command_line
from experiments import configs, runtime
from experiments.methods import DEFAULT_METHODS, METHODS
from experiments.settings import Config, check_size, example_bytes, input_bytes

__all__ = [
    *("LOGS", "OTHER_CALLS", "PROGRAM", "Options"),
    *("check", "check_shared", "command_words", "complete_command", "parse"),
]

PROGRAM = "python -m experiments.run"
OTHER_CALLS = "  # in several calls, for other keys each: see groups"  # after a command
LOGS = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # --log -> the package, as pip names it
LAST_KEY = 2**32 - 1  # of the PRNG
MOST_KEYS = 10_000  # each has a folder
OF_A_ROW = (  # settings that make a row of a table itself, and cannot be one for all of them
    "source target source_train source_test target_train target_test "
    "classes network image_size resize crop continue_from"
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

    sweep: tuple[str, ...] = ()
    """NAME=VALUE,VALUE,... of each of some numeric settings, such as gamma=5,10 mu0=0.003,0.01:
    trains one method with all combinations, and ranks them by the first rule of --select, without
    target labels."""

    sweep_random: int | None = None
    """How many of the combinations to train, which --first-key draws; None for all."""

    list: bool = False
    """With --sweep: prints one complete command a combination instead, for a job array. The sweep
    itself finds what they have trained. Without it: all configs and tables."""

    output: pathlib.Path = pathlib.Path("runs")
    """Folder of result files, pictures and checkpoints."""

    subfolder: bool = True
    """Whether these lie in a folder CONFIG of --output, or in --output itself."""

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

    log: tuple[Literal[tuple(LOGS)], ...] = ()
    """Where metrics go beside METHOD/metrics.jsonl: TensorBoard, in METHOD/key_KEY/tensorboard
    (needs tensorboardX), and Weights & Biases, a run for each key (needs wandb)."""

    checkpoint_every: int = 5_000
    """Updates between two checkpoints, each made after an evaluation."""

    checkpoint_minutes: float = 2.0
    """The most minutes between two checkpoints."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the PRNG keys."""
        return tuple(range(self.first_key, self.first_key + self.keys))

    def folder(self, name: str) -> pathlib.Path:
        """Returns the folder of an experiment."""
        return self.output / name if self.subfolder else self.output


def parse(name: str, arguments: list[str], *, shown: str, about: str | None = None) -> Options:
    """Returns the options for an experiment, which the command may have ``shown`` as a table."""
    config, text = configs.find_config(name)
    options = command_line.parse(
        Annotated[Options, tyro.conf.arg(name="")],
        arguments,
        default=Options(config=config, methods=configs.find_methods(name)),
        program=f"{PROGRAM} {shown}",
        description=about or text,
    )
    check(options)
    held_out, source = options.config.held_out, options.config.source
    if held_out not in (0, config.held_out) and not datasets.is_folder(source):
        raise ValueError(
            f"--held-out {held_out:g} is for a folder without test images, and {source} has its "
            "own: leave it out"
        )
    return options


def check(options: Options) -> None:
    """Raises a ValueError where a value is too large, or a folder is none."""
    if options.first_key + options.keys > LAST_KEY + 1 or options.keys > MOST_KEYS:
        raise ValueError(
            f"expected at most {MOST_KEYS:,} keys in a call, from 0 to {LAST_KEY}, got --keys "
            f"{options.keys} and --first-key {options.first_key}: lower them"
        )
    if options.sweep_random is not None and not options.sweep:
        raise ValueError("--sweep-random draws from the combinations of --sweep: name settings too")
    _check_domains(options.config)
    command_line.check_folder(options.output, "--output")
    command_line.check_folder(options.data_dir, "--data-dir", written=False)  # if all is prepared
    command_line.check_published(options.manual_dir)
    check_size(options.config)
    _check_memory(options.config)


def _check_domains(config):
    """Raises where a config for two folders was given none."""
    given = {name: getattr(config, name) for name in ("source", "target")}
    absent = [n for n, value in given.items() if value == n.upper()]
    missing = [f"--{n}" for n in absent if not pathlib.Path(given[n]).is_dir()]
    if missing:
        raise ValueError(
            f"this config is for data of your own: give {' and '.join(missing)} too; a folder of "
            "images is given by its path"
        )


def _check_memory(config):
    """Raises where a batch does not fit: on a CPU the process would be killed without a word."""
    free, needed = memory.free_bytes(), config.batch_size * input_bytes(config)
    if needed > free / 100:  # else what its layers make of it fits as well
        needed = config.batch_size * example_bytes(config)
    if needed > free:
        raise ValueError(
            f"a batch of {config.batch_size} examples takes {needed / 1e9:,.0f} GB or more, and "
            f"{free / 1e9:,.0f} GB are free: lower --batch-size, or the size of the images"
        )


def command_words(name: str, method: str, keys: Sequence[int], config: Config) -> str:
    """Returns the command line that trains a method with these keys and settings."""
    if config.weights is not None:  # wherever they lie
        config = dataclasses.replace(config, weights=pathlib.Path(config.weights.name))
    return shlex.join(_words(name, method, keys, config))


def complete_command(name: str, options: Options, settings: Collection[str]) -> str:
    """Returns the command line that trains the only method with all options, paths too.

    It has ``settings`` even where they are those of the config.
    """
    usual = Options(config=options.config, methods=options.methods)
    usual = dataclasses.replace(usual, keys=options.keys, first_key=options.first_key)
    words = _words(name, options.methods[0], options.numbers, options.config, settings)
    return shlex.join([*words, *_flags(options, usual)])


def _words(name, method, keys, config, settings=()):
    words = [*PROGRAM.split(), name, "--methods", method, "--keys", str(len(keys))]
    if keys[0]:
        words += ["--first-key", str(keys[0])]
    return words + _flags(config, configs.find_config(name)[0], settings)


def _flags(options, usual, always=()):
    """Returns the words for the fields of a dataclass that are not as usual."""
    words = []
    for field in dataclasses.fields(options):
        value, flag = getattr(options, field.name), field.name.replace("_", "-")
        if value == getattr(usual, field.name) and field.name not in always:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


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
