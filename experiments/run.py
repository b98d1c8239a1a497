"""Trains and measures an experiment: python -m experiments.run CONFIG [--keys N] [options].

For each method (source-only, dann, train-on-target, and those with few labels) and each key it
trains, evaluates, and writes OUTPUT/CONFIG/METHOD.json; the curves go to OUTPUT/CONFIG/curves.png.
Linear SVMs then take the place of the last layer, and subspace alignment (sa) is measured on
source-only's features. A run that was cut off goes on where it was. In place of CONFIG a table may
be named, such as table1 or office31: all its experiments are run, with the same options. --list
shows all of them.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import shutil
import sys
import zlib
from typing import Annotated, Literal

import jax
import tyro
from rich.console import Console

from experiments import (
    allocation,
    compilations,
    display,
    domains,
    heads,
    pretraining,
    processes,
    results,
    study,
    tables,
)
from experiments import config as configs
from experiments.figures import curves

__all__ = ["Options", "main"]

PROGRAM = "python -m experiments.run"
DEFAULT = "digits_digits_m"  # whose settings --help shows where no config is named
OF_A_ROW = {  # what makes a row of a table itself, and cannot be one for all of them
    *("source", "target", "source_train", "source_test", "target_train", "target_test"),
    *("classes", "network", "image_size", "crop"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to run an experiment, then its settings."""

    config: tyro.conf.OmitArgPrefixes[configs.Config]

    keys: int = 1
    """Number of PRNG keys to train with."""

    first_key: int = 0
    """The first of them; the others follow."""

    methods: tuple[Literal[(*configs.METHODS, *configs.FEW_LABEL_METHODS)], ...] = configs.METHODS
    """Which methods to train, by default those that the experiment consists of; sa needs
    source-only, which is trained with it if need be."""

    svm: bool = True
    """Whether to measure what a linear SVM makes of each finished training's last hidden layer."""

    output: pathlib.Path = pathlib.Path("runs")
    """Folder of result files, pictures and checkpoints."""

    overwrite: bool = False
    """Train anew where there are results, and replace them. A call that is cut off begins with the
    first of them when it is made again: leave out, by --methods or by rows, what is finished."""

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
    """How many keys, at most, are trained as one program. By default all of them on a GPU or TPU,
    and one on a CPU, where it does not pay."""

    devices_per_key: int | None = None
    """Number of devices that share the batches of a key; by default as few as keep all of them
    busy: keys are spread over devices first."""

    compilation_cache: pathlib.Path = dataclasses.field(default_factory=compilations.default_folder)
    """Folder in which compiled programs are kept from run to run; none for no such folder."""

    distributed: bool = False
    """Train as one of several processes, on the devices of all, each of which is started with the
    same command. Only the first writes and prints; --output must be a folder that all share."""

    coordinator: str | None = None
    """HOST:PORT of the first process, for --distributed on machines where JAX cannot tell."""

    processes: int | None = None
    """Number of processes, where --coordinator is given."""

    process_id: int | None = None
    """Which of them this one is, from 0."""

    checkpoint_every: int = 5_000
    """Updates between two checkpoints, each made after an evaluation."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the program.

    Args:
      arguments: Of the command line; None for those of the process.

    Returns:
      The exit status: 0, or 2 where the arguments or the data are not right.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(highlight=False)
    if "--list" in arguments:
        _list(console)
        return 0
    help_wanted = bool({"-h", "--help"} & set(arguments))
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if name is None and not help_wanted:
        print(
            f"usage: {PROGRAM} CONFIG [--keys N] [options]\n"
            f"CONFIG is one of {', '.join(configs.config_names())}, or a table, "
            f"{', '.join(tables.table_names())}; --list tells of each, --help of the options",
            file=sys.stderr,
        )
        return 2
    try:
        rows = tables.find_rows(name)
        if rows:
            return _run_table(name, rows, arguments, console)
        about = None if name else f"{__doc__}\nThe defaults below are those of {DEFAULT}."
        options = _options(name or DEFAULT, arguments, name or "CONFIG", about)
        _check(options)
        devices = _start(options, console)
        if any(_todo(options, options.output / (name or DEFAULT))):
            _check_weights(options)
        _run(name, options, devices, console)
        console.print(display.table(name, {name: _found(options.output / name)}))
    except KeyboardInterrupt:
        told = "the same command goes on from the last checkpoint"
        if "--overwrite" in arguments:
            told = (
                "with --overwrite the same command trains what is finished anew too: leave that "
                "out by --methods, and run rows of a table by themselves"
            )
        print(f"interrupted: {told}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _options(name, arguments, shown, about=None):
    """Returns the options for an experiment, of a command that names ``shown``."""
    settings, text = configs.find_config(name)
    return tyro.cli(
        Annotated[Options, tyro.conf.arg(name="")],
        args=arguments,
        default=Options(config=settings, methods=configs.find_methods(name)),
        prog=f"{PROGRAM} {shown}",
        description=about or text,
    )


def _list(console):
    for name in tables.table_names():
        rows = ", ".join(tables.find_rows(name))
        console.print(f"[bold]{name}[/bold]  (a table: {rows})", soft_wrap=True)
    console.print()
    for name in configs.config_names():
        settings, about = configs.find_config(name)
        pair = f"{settings.source} -> {settings.target}, {settings.steps:,} steps"
        console.print(f"[bold]{name}[/bold]  ({pair})", soft_wrap=True)
        text = "".join(f"  {line}".rstrip() + "\n" for line in about.strip().splitlines())
        console.print(text, soft_wrap=True, markup=False)


def _run_table(name, rows, arguments, console):
    """Runs the experiments of a table, those that can be, and returns the exit status."""
    about = (
        f"{__doc__}\nThe rows of {name} are {', '.join(rows)}. The defaults below are those of the "
        "first; what is given is given to all."
    )
    every = {row: _options(row, arguments, name, about) for row in rows}
    _check_shared(every)
    failures = {}

    def attempt(row, function, *arguments):
        try:
            return function(*arguments)
        except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
            failures[row] = str(error)  # an error itself would hold the arrays of its row
            print(f"error: {row}: {error}", file=sys.stderr)

    for row, options in every.items():  # what is missing is told before hours of training
        attempt(row, _check, options)
    if len(failures) < len(rows):
        devices = _start(next(iter(every.values())), console)
    for row in rows:
        if row not in failures:
            attempt(row, _make_ready, every[row], every[row].output / row, console)
    if len(failures) == len(rows):
        return 2
    for row in rows:
        if row not in failures:
            console.print(f"[bold]{row}[/bold]")
            attempt(row, _run, row, every[row], devices, console)
    console.print(display.table(name, {row: _found(every[row].output / row) for row in rows}))
    for row, error in failures.items():
        print(f"error: {row} is not complete: {error}", file=sys.stderr)
    return 2 if failures else 0


def _check_shared(every):
    """Raises where an option would make one row of a table of another."""
    wrong = {
        f"--{name.replace('_', '-')}"
        for row, options in every.items()
        for name in OF_A_ROW
        if getattr(options.config, name) != getattr(configs.find_config(row)[0], name)
    }
    if wrong:
        raise ValueError(
            f"{', '.join(sorted(wrong))} cannot be the same for all rows of a table: run the rows "
            f"by themselves ({', '.join(every)})"
        )


def _check_weights(options):
    """Reads the weights: before anything is trained, but once devices are up."""
    with processes.all_or_none():
        pretraining.check(options.config)


def _make_ready(options, folder, console):
    """Prepares the data of an experiment that is not complete, and checks what is there of it."""
    if any(_todo(options, folder)):
        _check_weights(options)
        with processes.all_or_none():
            if processes.is_first():
                domains.prepare_pair(options.config, **_where(options, console))


def _start(options, console):
    """Returns the devices, of all processes where there are several."""
    if options.distributed:
        processes.start(options.coordinator, options.processes, options.process_id)
        console.quiet = not processes.is_first()
    devices = _devices(options)
    _keep_programs(options.compilation_cache, console)
    return devices


def _run(name, options, devices, console):
    folder = options.output / name
    missing, headless = _todo(options, folder)
    for method in options.methods:
        if method not in missing:
            path = folder / f"{method}.json"
            console.print(f"{path} is there already", markup=False, soft_wrap=True)
    processes.check_agreement(zlib.crc32(",".join(missing + headless).encode()), "results")
    files = []
    if missing or headless:
        files = _complete(name, missing, headless, folder, devices, options, console)
    if processes.is_first():
        files += _draw(folder)
    if files:
        console.print("written: " + ", ".join(map(str, files)), soft_wrap=True, markup=False)


def _complete(name, missing, headless, folder, devices, options, console):
    """Makes the results that are missing, and the SVMs that others lack; returns their files."""
    config, keys = options.config, _keys(options)
    with _alone(folder):  # before hours of training, not after them
        pair = _pair(options, console)
        without = {"sa": "to measure it by", "train-on-target": "to train on"}
        for method in () if pair.target_labelled else [m for m in without if m in missing]:
            if missing == [method]:
                raise ValueError(f"{method}: {config.target} has no labels {without[method]}")
            console.print(f"{method} is left out: the target has no labels {without[method]}")
            missing.remove(method)
        trained = [method for method in missing if method != "sa"]
        ready = {method: _prepared(method, keys, pair, devices, options) for method in trained}
        for method in dict.fromkeys((*missing, *headless)):
            if method == "sa":
                _align(name, keys, pair, folder, devices, options, console)
                continue
            if method in ready:  # and no longer: it holds the arrays on the devices
                _method(name, ready.pop(method), keys, folder, devices, options, console)
            if options.svm:
                _head(method, keys, pair, folder, devices, options, console)
    files = [folder / f"{method}.json" for method in dict.fromkeys((*missing, *headless))]
    if pair.target_files is not None:
        of_keys = [folder / method / f"key_{key}" for method in trained for key in keys]
        files += [each / "predictions.csv" for each in of_keys]
    return files


def _draw(folder):
    """Draws the curves where a result is newer than the picture of them; returns its path then."""
    picture = folder / "curves.png"
    drawn = {method: r for method, r in _found(folder).items() if "curves" in r}
    newest = max(((folder / f"{method}.json").stat().st_mtime_ns for method in drawn), default=0)
    if not drawn or (picture.exists() and picture.stat().st_mtime_ns >= newest):
        return []
    curves.draw(drawn, picture)
    return [picture]


def _keys(options):
    return list(range(options.first_key, options.first_key + options.keys))


def _todo(options, folder):
    """Returns methods without a result, and those whose result lacks the SVM that it could have."""
    keys, base = _keys(options), folder / "source-only"
    asked = set(options.methods)
    if "sa" in asked and not all((base / f"key_{key}" / "state").exists() for key in keys):
        asked.add("source-only")  # whose features it aligns
    if options.overwrite and "source-only" in asked and (folder / "sa.json").exists():
        asked.add("sa")  # or it would be that of other features
    missing, headless = [], []
    for method in sorted(asked, key=(*configs.METHODS, *options.methods).index):
        path = folder / f"{method}.json"
        if options.overwrite or not _is_kept(path, options.config, method, keys):
            missing.append(method)
        elif options.svm and _lacks_head(folder, method, keys):
            headless.append(method)
    if "sa" in missing and "source-only" in asked - {*missing}:
        _check_states(base, keys)
    return missing, headless


def _check_states(base, keys):
    gone = [str(base / f"key_{key}") for key in keys if not (base / f"key_{key}/state").exists()]
    if gone:
        raise ValueError(
            f"sa needs the states of source-only, but {', '.join(gone)} has none: leave sa out of "
            "--methods, choose another --output, or --overwrite the results"
        )


def _lacks_head(folder, method, keys):
    """Whether a result could have, but has not, the accuracy of a linear SVM."""
    result = results.read(folder / f"{method}.json") if method in heads.HEADED else None
    if result is None or result["mean"] is None or "svm_accuracy" in result:
        return False
    return all((folder / method / f"key_{key}" / "state").exists() for key in keys)


@contextlib.contextmanager
def _alone(folder):
    with contextlib.ExitStack() as held:
        with processes.all_or_none():
            if processes.is_first():
                held.enter_context(results.alone(folder))
        yield


def _pair(options, console):
    """Returns the images; the first process prepares them for all."""

    def load():
        where = _where(options, console)
        return domains.load_pair(options.config, **where, streaming=options.streaming)

    with processes.all_or_none():
        pair = load() if processes.is_first() else None
    with processes.all_or_none():
        return load() if pair is None else pair


def _where(options, console):
    return {
        "data_dir": options.data_dir,
        "manual_dir": options.manual_dir,
        "progress": console.is_terminal and processes.is_first(),
    }


def _found(folder):
    """Returns the results of all methods that have one."""
    methods = *configs.METHODS, *configs.FEW_LABEL_METHODS
    every = {method: results.read(folder / f"{method}.json") for method in methods}
    return {method: result for method, result in every.items() if result is not None}


def _check(options):
    if options.keys < 1 or options.first_key < 0 or options.checkpoint_every < 1:
        raise ValueError(
            "--keys and --checkpoint-every must be at least 1, --first-key at least 0; got "
            f"{options.keys}, {options.checkpoint_every} and {options.first_key}"
        )
    if options.first_key + options.keys > 2**32:
        raise ValueError(f"PRNG keys are below 2^32: lower --first-key {options.first_key}")
    if options.together != "auto" and options.together < 1:
        raise ValueError(f"--together must be auto or at least 1, got {options.together}")
    if options.streaming and (options.together not in ("auto", 1) or options.devices_per_key):
        raise ValueError(
            "--streaming reads batches for one key at a time, on all devices: leave out "
            "--together and --devices-per-key"
        )
    of_process = options.coordinator, options.processes, options.process_id
    if not options.distributed and of_process != (None, None, None):
        raise ValueError("--coordinator, --processes and --process-id need --distributed: add it")
    if options.distributed and (
        options.together not in ("auto", 1) or options.devices or options.devices_per_key
    ):
        raise ValueError(
            "--distributed trains one key at a time on all devices: leave out --together, "
            "--devices and --devices-per-key"
        )
    if not options.methods or len(set(options.methods)) < len(options.methods):
        raise ValueError("--methods names each method at most once, and at least one")
    options.config.check_methods(options.methods)
    pretraining.weights_origin(options.config)  # raises where there are none


def _keep_programs(folder, console):
    try:
        compilations.keep(None if str(folder) == "none" else folder)
    except OSError as error:
        console.print(
            f"[yellow]warning: compiled programs are not kept ({error}): choose another "
            "--compilation-cache, or none[/yellow]",
            soft_wrap=True,
        )


def _devices(options):
    devices, count, each = jax.devices(), options.devices, options.devices_per_key
    if count is not None and not 1 <= count <= len(devices):
        raise ValueError(f"--devices {count}: this process has {len(devices)}")
    devices = devices[:count]
    if each is not None and (each < 1 or len(devices) % each):
        raise ValueError(
            f"--devices-per-key {each}: expected a divisor of the number of devices, {len(devices)}"
        )
    return devices


def _together(options, devices):
    """Returns how many keys, at most, are trained as one program; None for all."""
    if options.together != "auto":
        return options.together
    alone = options.streaming or options.distributed or devices[0].platform == "cpu"
    return 1 if alone else None


def _is_kept(path, config, method, keys):
    """Whether the result is there; False also where it has the first of the keys alone."""
    result = results.read(path)
    if result is None:
        return False
    if study.completed(result.get("resolved_config", {})) == study.resolved(config, method):
        if result["keys"] == keys:
            return True
        if set(result["keys"]) < set(keys):
            return False
    raise ValueError(
        f"{path} holds a result with other keys or settings: choose another --output, or "
        "replace it with --overwrite"
    )


def _prepared(method, keys, pair, devices, options):
    """Returns a method made ready to train, with batches that the devices can share."""
    prepared = study.prepare(options.config, method, pair, devices)
    each = _together(options, devices), options.devices_per_key
    for group in study.groups(keys, len(devices), *each):
        prepared.program(group)  # raises where it cannot be, before anything is moved
    return prepared


def _method(name, prepared, keys, folder, devices, options, console):
    """Trains a method and writes its result."""
    method = prepared.method
    replaced = folder / f"{method}.replaced"
    with processes.all_or_none():
        if processes.is_first() and options.overwrite and (folder / method).exists():
            if not replaced.exists():  # kept until there is a new result
                (folder / method).rename(replaced)
            elif not _goes_on(prepared, keys, folder / method):
                shutil.rmtree(folder / method)
    with compilations.counted() as compiled, display.progress(console) as progress:
        records = study.train(
            prepared,
            keys,
            folder / method,
            together=_together(options, devices),
            devices_per_key=options.devices_per_key,
            checkpoint_every=options.checkpoint_every,
            report=display.Watch(progress, console, method, prepared.config.steps_of(method)),
        )
    if not processes.is_first():
        return
    console.print(
        f"{method}: {compiled.programs} programs compiled in {compiled.seconds:.1f} s, "
        f"{compiled.from_cache} of them from the cache"
    )
    result = _result(name, options, method, keys, records, devices)
    result |= {
        "compile_seconds": round(compiled.seconds, 3),
        "programs_compiled": compiled.programs,
        "programs_from_cache": compiled.from_cache,
        **results.peak_memory(jax.local_devices()),
    }
    _write(folder / f"{method}.json", result, options)
    shutil.rmtree(replaced, ignore_errors=True)


def _write(path, result, options):
    """Writes a result, in place of one that may be replaced, or that it extends."""
    kept = path.exists() and not options.overwrite
    extends = kept and not _is_kept(path, options.config, result["method"], result["keys"])
    results.write_json(path, result, replace=options.overwrite or extends)


def _head(method, keys, pair, folder, devices, options, console):
    """Adds to a result what linear SVMs make of its trainings, where it can have that."""
    with processes.all_or_none():  # the first alone knows what it has written by now
        if not processes.is_first() or not _lacks_head(folder, method, keys):
            return
        prepared = study.prepare(options.config, method, pair, devices)
        found = []
        for key in keys:
            path = folder / method / f"key_{key}" / "svm.json"
            make = functools.partial(heads.svm, prepared, pair, key, folder / method)
            found.append(_once(path, make))
            console.print(
                f"{method} key {key}: linear SVM on {found[-1]['layer']}, C {found[-1]['C']:g}: "
                f"target {display.accuracy(found[-1]['target_accuracy'])}"
            )
        path = folder / f"{method}.json"
        results.write_json(path, results.read(path) | heads.svm_entries(found))


def _align(name, keys, pair, folder, devices, options, console):
    """Writes the result of subspace alignment."""
    with processes.all_or_none():
        if not processes.is_first():
            return
        base = folder / "source-only"
        prepared = study.prepare(options.config, "source-only", pair, devices)
        found = []
        for key in keys:
            make = functools.partial(heads.sa, prepared, pair, key, base)
            found.append(_once(base / f"key_{key}" / "sa.json", make, anew=options.overwrite))
            told = "sa key {}: target {}, {} components; oracle {}, {} components"
            console.print(
                told.format(
                    key,
                    display.accuracy(found[-1]["target_accuracy"]),
                    found[-1]["components"],
                    display.accuracy(found[-1]["oracle_accuracy"]),
                    found[-1]["oracle_components"],
                )
            )
        record = results.read(base / f"key_{keys[0]}" / "record.json")
        _write(folder / "sa.json", _aligned(name, options, keys, record, found), options)


def _once(path, make, anew=False):
    """Returns the content of a file, which is made where it is not there."""
    found = None if anew else results.read(path)
    if found is None:
        found = make()
        results.write_json(path, found)
    return found


def _goes_on(prepared, keys, folder):
    """Whether all that an earlier overwrite has trained, before it was cut off, fits this one."""
    expected = study.resolved(prepared.config, prepared.method), prepared.origin
    threads = prepared.origin["threads"]

    def fits(record):
        settings = study.completed(record["settings"])
        return (settings, study.completed_origin(record["origin"], threads)) == expected and (
            record["finished"] or set(record["together"]) <= set(keys)
        )

    return all(fits(results.read(path)) for path in folder.glob("key_*/record.json"))


def _result(name, options, method, keys, records, devices):
    config = options.config
    # Null in a file is NaN here: a target without labels.
    accuracy = [
        math.nan if record["target_accuracy"] is None else record["target_accuracy"]
        for record in records
    ]
    mean, std = results.mean_and_std(accuracy)
    steps = config.steps_of(method)
    groups = _groups_of(keys, records)
    return {
        "config": name,
        "method": method,
        "source": config.source,
        "target": config.target,
        "keys": keys,
        "target_accuracy": accuracy,
        "mean": mean,
        "std": std,
        "source_accuracy": [record["source_accuracy"] for record in records],
        "selection": "last step",
        "steps": steps,
        "batch_size": config.batch_size,
        "domain_loss": {
            "normalisation": config.normalisation,
            "weight": config.domain_weight,
        }
        if method in configs.ADVERSARIAL
        else None,
        **records[0]["origin"],  # the same for all of them
        "groups": [group._asdict() for group in groups],
        "wall_seconds": round(sum(record["wall_seconds"] for record in records), 1),
        "steps_per_second": round(
            steps * len(keys) / sum(record["train_seconds"] for record in records), 2
        ),
        "warnings": [record["warnings"] for record in records],
        "curves": [
            {
                "training": results.columns(record["curves"]),
                "evaluations": results.columns(record["evaluations"]),
            }
            for record in records
        ],
        "resolved_config": study.resolved(config, method),
        "command": _command(name, options, method, keys)
        + _grouping(options, keys, groups, devices),
    }


def _aligned(name, options, keys, record, found):
    config = options.config
    return {
        "config": name,
        "method": "sa",
        "source": config.source,
        "target": config.target,
        "keys": keys,
        **heads.aligned_entries(found),
        "steps": config.steps_of("source-only"),
        "batch_size": config.batch_size,
        "domain_loss": None,
        **record["origin"],  # of source-only, the same for all keys
        "resolved_config": study.resolved(config, "sa"),
        "command": _command(name, options, "sa", keys),
    }


def _groups_of(keys, records):
    """Returns the groups that keys were trained in, each once."""
    return list(dict.fromkeys(map(study.group_of, keys, records)))


def _grouping(options, keys, groups, devices):
    """Returns what makes a command train keys in these groups; a comment where nothing does."""
    largest, sharing = max(len(group.keys) for group in groups), groups[0].devices_per_key
    asked = options.together, options.devices_per_key  # which finished keys need not follow
    for together, each in (asked, ("auto", None), (largest, None), (largest, sharing)):
        chosen = dataclasses.replace(options, together=together, devices_per_key=each)
        if study.groups(keys, len(devices), _together(chosen, devices), each) == groups:
            words = f" --together {together}" if together != "auto" else ""
            return words + (f" --devices-per-key {each}" if each is not None else "")
    return "  # in several calls, for other keys each: see groups"


def _command(name, options, method, keys):
    """Returns the command line that makes a result again, without the folders of one machine."""
    config = options.config
    usual, _ = configs.find_config(name)
    words = [PROGRAM, name, "--methods", method, "--keys", str(len(keys))]
    if keys[0]:
        words += ["--first-key", str(keys[0])]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(usual, field.name):
            flag = field.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                shown = value.name if isinstance(value, pathlib.Path) else value
                words += [f"--{flag}", str(shown)]
    return " ".join(words)


if __name__ == "__main__":
    allocation.keep_freed_memory()
    sys.exit(main())
