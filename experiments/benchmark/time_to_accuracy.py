"""Trains until an accuracy, ours against PyTorch's usual loop, and writes how long each takes.

python -m experiments.benchmark.time_to_accuracy CONFIG --accuracy .80

Each side runs in a process of its own, one after the other, from a cold start: the time includes
imports, reading of the data, compilation, evaluations and checkpoints. Both have the same recipe,
the same images and the same evaluations. The loop is eager PyTorch with DataLoaders of two workers
and transforms of each image. After an interruption the same command goes on.
"""

import dataclasses
import pathlib
import shutil
import time
from typing import Any

import jax

from experiments import arguments as command_line
from experiments import configs, options, record, runtime
from experiments.benchmark import contents
from experiments.benchmark.cases import load_average
from experiments.benchmark.course import Course, LoopCourse, Task, check_loop, stops
from experiments.benchmark.isolated import Worker, failure
from experiments.benchmark.options import check_cpus, default_path

__all__ = ["main"]

PROGRAM = "python -m experiments.benchmark.time_to_accuracy"
RUNNERS = {
    "ours": (Course, "dann_jax"),
    "loop": (LoopCourse, "PyTorch, the loop as people write it (DataLoader, 2 workers, eager)"),
}
CONFIG = "mnist_mnist_m_batch_norm"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to train until when."""

    config: str = CONFIG
    """Whose pair and recipe."""

    accuracy: float = 0.80
    """Share of the target's test images that is to be classified right."""

    evaluate_every: int = 500
    """Updates between two evaluations on all test images."""

    steps: int | None = None
    """Length of the training, whose schedules end there; by default the config's."""

    key: int = 0
    """Number of the PRNG key of ours, and seed of PyTorch's."""

    data_dir: pathlib.Path | None = None
    """Folder of prepared data; by default $DANN_JAX_DATA, or ~/.cache/dann_jax."""

    manual_dir: pathlib.Path | None = None
    """Folder of data files that are already on disk, as their publishers name them."""

    cpus: tuple[int, ...] | None = None
    """Numbers of the CPU cores that each process is pinned to; by default all that this one may
    use."""

    output: pathlib.Path | None = None
    """File of the result; by default runs/benchmark/CONFIG_to_accuracy.json."""

    overwrite: bool = False
    """Begin anew if the file exists."""

    def check(self) -> None:
        """Raises a ValueError if a value makes no sense."""
        if not 0 < self.accuracy <= 1:
            raise ValueError(f"--accuracy must be a share of at most 1, got {self.accuracy}")
        for name in ("evaluate_every", "steps"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 2**31:
                shown = f"--{name.replace('_', '-')}"
                raise ValueError(f"{shown} must be at least 1 and below 2**31, got {value}")
        if not 0 <= self.key <= options.LAST_KEY:
            raise ValueError(f"--key must be from 0 to {options.LAST_KEY}, got {self.key}")
        check_cpus(self.cpus)
        command_line.check_published(self.manual_dir)

    def changes(self) -> dict[str, Any]:
        """Returns the settings that are not the config's."""
        changes = {"evaluate_every": self.evaluate_every}
        return changes | ({} if self.steps is None else {"steps": self.steps})

    def command(self) -> str:
        """Returns the command line that measures the same again."""
        words = [PROGRAM]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            places = "data_dir", "manual_dir", "output", "overwrite"
            if value != field.default and field.name not in places:
                words.append(f"--{field.name.replace('_', '-')}")
                words += map(str, value if isinstance(value, tuple) else [value])
        return " ".join(words)


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; returns 0, 2 for an error, 130 if interrupted."""
    given = command_line.parse(Options, arguments, program=PROGRAM, description=__doc__)
    return command_line.ended(
        lambda: _run(given), interrupted="the same command goes on from the last evaluation"
    )


def _run(given):
    given.check()
    config, _ = configs.find_config(given.config)
    config = dataclasses.replace(config, **given.changes())
    check_loop(config)
    if not runtime.versions_of("torch"):
        raise ValueError(f"{PROGRAM} needs the package torch: install it")
    race, path = _begun(given, config)
    begin, before = time.monotonic(), race["wall_seconds"]
    folder = path.with_suffix(".checkpoints")

    def write():
        race["wall_seconds"] = round(before + time.monotonic() - begin, 1)
        record.write_json(path, contents.checked(race))

    for runner in race["runners"]:
        if runner["finished"]:
            continue
        task = Task(
            config=given.config,
            changes=given.changes(),
            keys=(given.key,),
            folder=folder / runner["engine"],
            data_dir=given.data_dir,
            manual_dir=given.manual_dir,
        )
        _train(runner, task, given, write)
    race["finished"] = True
    write()
    shutil.rmtree(folder, ignore_errors=True)
    print(f"written: {path}")


def _begun(given, config):
    """Returns the content of the file, that of an interrupted run if there is one, and its path."""
    name = f"{given.config}_to_accuracy"
    devices = jax.local_devices()
    race = {
        "benchmark_format": contents.FORMAT,
        "device": runtime.device_kind(devices),
        "platform": jax.default_backend(),
        "device_count": 1,
        "processor": runtime.model_of_processor(),
        "cores": len(given.cpus) if given.cpus else runtime.cores(),
        "versions": runtime.versions() | runtime.versions_of("torch"),
        "command": given.command(),
        "load_average": load_average(),
        "finished": False,
        "wall_seconds": 0.0,
        "config": given.config,
        "settings": dataclasses.asdict(config),
        "accuracy": given.accuracy,
        "evaluate_every": given.evaluate_every,
        "key": given.key,
        "runners": [
            {"engine": engine, "about": about, "seconds": None, "evaluations": []}
            | {"finished": False, "restarts": 0}
            for engine, (_, about) in RUNNERS.items()
        ],
    }
    path = default_path(given.output, name, True)
    if not path.exists() or given.overwrite:
        shutil.rmtree(path.with_suffix(".checkpoints"), ignore_errors=True)
        return race, path
    before = contents.checked(record.read(path))
    same = "config", "command", "processor", "cores", "versions"
    if not contents.is_race(before) or before["finished"]:
        raise ValueError(f"{path} exists: choose another --output, or --overwrite it")
    if differ := [name for name in same if before[name] != race[name]]:
        raise ValueError(
            f"{path} was begun with other {', '.join(differ)}: choose another --output, or "
            "--overwrite it"
        )
    for runner in before["runners"]:
        runner["restarts"] += bool(runner["evaluations"] and not runner["finished"])
    return before, path


def _train(runner, task, given, write):
    """Trains one side until it has the accuracy, or until its last update."""
    kind, about = RUNNERS[runner["engine"]]
    spent = runner["evaluations"][-1]["seconds"] if runner["evaluations"] else 0.0
    begin = time.monotonic()
    worker = Worker(kind, task, cpus=given.cpus)
    try:
        steps = worker.ask("about")["steps"]
        done = runner["evaluations"][-1]["step"] if runner["evaluations"] else 0
        for stop in stops(given.evaluate_every, steps):
            if stop <= done:
                continue
            rows = worker.ask("advance", stop)
            seconds = round(spent + time.monotonic() - begin, 1)
            (row,) = (row for row in rows if row["step"] == stop)
            runner["evaluations"].append(row | {"seconds": seconds})
            print(
                f"{about}: step {stop:,}, {seconds:.0f} s: target {row['target_accuracy']:.4f}",
                flush=True,
            )
            if row["target_accuracy"] >= given.accuracy:
                runner["seconds"] = seconds
                break
            write()
        runner["finished"] = True
    except RuntimeError as error:
        runner |= {"finished": True, "reason": failure(error)}
        print(f"{about}: not measured: {runner['reason']}", flush=True)
    finally:
        worker.stop()
    write()


if __name__ == "__main__":
    command_line.end(main())
