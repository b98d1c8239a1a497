"""Which trainings, closed forms and SVMs an experiment lacks: worked out once, before any device.

Every refusal that needs neither data nor devices is raised here.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

from dann_jax.programs import Group, group_keys
from experiments import continuing, logs, pretraining, record
from experiments.methods import METHODS, Method, check_settings, of_names
from experiments.options import OTHER_CALLS, Options, command_words
from experiments.settings import Config, completed, differences

__all__ = ["Job", "Plan", "check", "command", "config_of", "grouping", "make_plan", "resolved"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is missing of the result of one method."""

    name: str  # of the experiment
    method: Method
    options: Options
    trains: bool  # whether the result itself is missing
    head: bool  # whether to measure linear SVMs
    replaces: bool = False  # whether the result may take the place of an earlier one

    @property
    def config(self) -> Config:
        """The settings."""
        return self.options.config

    @property
    def keys(self) -> tuple[int, ...]:
        """The numbers of the PRNG keys."""
        return self.options.numbers

    @property
    def output(self) -> pathlib.Path:
        """The folder of the experiment."""
        return self.options.folder(self.name)

    @property
    def result(self) -> pathlib.Path:
        """The result file."""
        return self.output / f"{self.method.name}.json"

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the trainings; of a closed form, of those that it aligns."""
        return self.output / (self.method.aligns or self.method.name)

    def most_together(self, devices: list) -> int | None:
        """Returns how many keys, at most, are trained as one program; None for all."""
        options = self.options
        if options.together != "auto":
            return options.together
        if options.streaming or options.distributed or devices[0].platform == "cpu":
            return 1
        return None if self.config.trains_keys_together else len(devices)

    def groups(self, devices: list) -> list[Group]:
        """Returns the keys in groups, if all of them are trained on these devices."""
        most, sharing = self.most_together(devices), self.options.devices_per_key
        return group_keys(self.keys, len(devices), together=most, devices_per_key=sharing)


class Plan(NamedTuple):
    """All that is to be done for an experiment."""

    jobs: list[Job]
    kept: list[pathlib.Path]  # results that are there already


def make_plan(name: str, options: Options) -> Plan:
    """Returns what is missing of an experiment, or raises where it cannot be made."""
    check(options)
    output, keys = options.folder(name), options.numbers
    jobs = []
    for method in _wanted(options, output):
        path = output / f"{method.name}.json"
        kept = None if options.overwrite else _kept_keys(path, options.config, method, keys)
        trains = kept != keys
        jobs.append(
            Job(
                name=name,
                method=method,
                options=options,
                trains=trains,
                head=options.svm and method.svm_head and (trains or _lacks_head(path, keys)),
                replaces=options.overwrite or bool(kept),
            )
        )
    _check_states(jobs)
    _check_starts(jobs)
    return Plan(
        [job for job in jobs if job.trains or job.head],
        [job.result for job in jobs if not job.trains and job.method.name in options.methods],
    )


def check(options: Options) -> None:
    """Raises a ValueError where options do not fit each other."""
    if options.keys < 1 or options.first_key < 0 or options.checkpoint_every < 1:
        raise ValueError(
            "--keys and --checkpoint-every must be at least 1, --first-key at least 0; got "
            f"{options.keys}, {options.checkpoint_every} and {options.first_key}"
        )
    if not options.checkpoint_minutes > 0:
        raise ValueError(f"--checkpoint-minutes must be positive, got {options.checkpoint_minutes}")
    if options.first_key + options.keys > 2**32:
        raise ValueError(f"PRNG keys are below 2^32: lower --first-key {options.first_key}")
    if options.together != "auto" and options.together < 1:
        raise ValueError(f"--together must be auto or at least 1, got {options.together}")
    grouped = options.together not in ("auto", 1) or options.devices_per_key
    if options.streaming and grouped:
        raise ValueError(
            "--streaming reads batches for one key at a time, on all devices: leave out "
            "--together and --devices-per-key"
        )
    of_process = options.coordinator, options.processes, options.process_id
    if not options.distributed and of_process != (None, None, None):
        raise ValueError("--coordinator, --processes and --process-id need --distributed: add it")
    if options.distributed and (grouped or options.devices):
        raise ValueError(
            "--distributed trains one key at a time on all devices: leave out --together, "
            "--devices and --devices-per-key"
        )
    if not options.methods or len(set(options.methods)) < len(options.methods):
        raise ValueError("--methods names each method at most once, and at least one")
    check_settings(options.config, of_names(options.methods))
    logs.check(options.log)
    pretraining.weights_origin(options.config)  # raises where they are missing


def _wanted(options, output):
    """Returns the methods that are asked for, and those that they need or that need them."""
    wanted = set(options.methods)
    forms = [method for method in METHODS.values() if method.aligns]
    for method in forms:
        folder = output / method.aligns
        result = record.read(output / f"{method.aligns}.json") or {}
        if method.name in wanted and _stateless(result, folder, options.numbers):
            wanted.add(method.aligns)
    for method in forms:
        stale = options.overwrite and (output / f"{method.name}.json").exists()
        if method.aligns in wanted and stale:  # or it would be that of other features
            wanted.add(method.name)
    return of_names(wanted)


def _stateless(result, folder, keys):
    """Returns which keys have no state although they have not diverged."""
    lost = dict(zip(result.get("keys", ()), result.get("diverged", ()), strict=False))
    return [n for n in keys if not lost.get(n) and not (folder / f"key_{n}" / "state").exists()]


def _kept_keys(path, config, method, keys):
    """Returns the keys of the result that is there, all of them or some; None without one."""
    result = record.read_result(path)
    if result is None:
        return None
    kept = tuple(result["keys"])
    changed = differences(completed(result["resolved_config"]), resolved(config, method))
    if kept != keys and not set(kept) < set(keys):
        changed.append(f"keys {_range(kept)} there, {_range(keys)} asked for")
    if changed:
        raise ValueError(
            f"{path} holds another result ({'; '.join(changed)}): choose another --output, or "
            "replace it with --overwrite"
        )
    return kept


def _range(keys):
    return f"{keys[0]}-{keys[-1]}" if len(keys) > 1 else f"{keys[0]}"


def _lacks_head(path, keys):
    """Whether a result could have, but has not, the accuracy of a linear SVM."""
    result = record.read_result(path)
    if set(result["target_accuracy"]) == {None} or "svm_accuracy" in result:
        return False
    return not _stateless(result, path.with_suffix(""), keys)


def _check_states(jobs):
    """Raises where trainings that a closed form aligns are finished but have no states."""
    finished = {job.method.name for job in jobs if not job.trains}
    for job in jobs:
        if not (job.trains and job.method.aligns in finished):
            continue
        result = record.read(job.folder.with_name(f"{job.method.aligns}.json"))
        if missing := _stateless(result, job.folder, job.keys):
            folders = ", ".join(str(job.folder / f"key_{key}") for key in missing)
            raise ValueError(
                f"{job.method.name} needs the states of {job.method.aligns}, but {folders} has "
                f"none: leave {job.method.name} out of --methods, choose another --output, or "
                "--overwrite the results"
            )


def _check_starts(jobs):
    """Raises where a key that has not begun is to begin with a training that is not there."""
    for job in jobs:
        if not job.trains or job.method.aligns or job.config.continue_from is None:
            continue
        steps = {}
        for key in job.keys:
            done = None if job.options.overwrite else record.read_record(job.folder, key)
            if done is not None:
                steps[key] = (done.get("continued") or {"step": 0})["step"]
                continue
            settings = resolved(job.config, job.method)
            start = continuing.find(job.config, job.method, key, settings)
            steps[key] = start.step
            if job.options.overwrite and job.folder.resolve() in start.folder.resolve().parents:
                raise ValueError(
                    f"--overwrite would replace {start.folder}, which --continue-from names: "
                    "choose another --output"
                )
        if len(set(steps.values())) > 1:
            got = ", ".join(f"key {key} at step {step:,}" for key, step in steps.items())
            raise ValueError(
                f"--continue-from {job.config.continue_from}: expected all keys of a result to "
                f"begin at one step, got {got}: train those of a step with --first-key and --keys, "
                "into an --output of their own"
            )


def resolved(config: Config, method: Method) -> dict[str, Any]:
    """Returns all that decides the numbers of a run, apart from its key and the versions."""
    settings = {"method": method.name, **dataclasses.asdict(config)}
    as_stored = {"weights": pretraining.weights_origin(config), "select": list(config.select)}
    if config.continue_from is not None:
        as_stored["continue_from"] = config.continue_from.as_posix()
    return settings | as_stored


def config_of(settings: dict[str, Any], weights: pathlib.Path | None) -> Config:
    """Returns the experiment that settings of a file, as ``resolved`` gives them, are of.

    ``weights`` is where the backbone's weights lie now; None for the installed package.
    """
    there = completed(settings)
    names = [field.name for field in dataclasses.fields(Config)]
    config = Config(**{name: there[name] for name in names} | {"weights": weights})
    origin = pretraining.weights_origin(config)
    if origin != there["weights"]:
        raise ValueError(
            f"the weights are not those of the file: expected {there['weights']}, got {origin}: "
            "name its file of weights with --weights"
        )
    return config


def command(job: Job, trained: list[Group] | None = None, devices: list | None = None) -> str:
    """Returns the command line that makes a result again, in the groups that were trained."""
    words = command_words(job.name, job.method.name, job.keys, job.config)
    return words + ("" if trained is None else grouping(job, trained, devices))


def grouping(job: Job, trained: list[Group], devices: list) -> str:
    """Returns the words that make a command train keys in these groups, or a comment."""
    largest, sharing = max(len(group.keys) for group in trained), trained[0].devices_per_key
    asked = job.options.together, job.options.devices_per_key  # finished keys need not follow them
    for together, each in (asked, ("auto", None), (largest, None), (largest, sharing)):
        again = dataclasses.replace(job.options, together=together, devices_per_key=each)
        if dataclasses.replace(job, options=again).groups(devices) == trained:
            words = f" --together {together}" if together != "auto" else ""
            return words + (f" --devices-per-key {each}" if each is not None else "")
    return OTHER_CALLS
