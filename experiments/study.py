"""Trainings of one method, one for each key, resumable at any checkpoint."""

import contextlib
import csv
import dataclasses
import functools
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import (
    augmentation,
    checkpoints,
    evaluation,
    health,
    kernels,
    networks,
    objective,
    programs,
    schedules,
    training,
)
from experiments import compilations, domains, pretraining, processes, results
from experiments.config import ADVERSARIAL, Config, make_model

__all__ = [
    "Group",
    "Report",
    "Study",
    "completed",
    "completed_origin",
    "config_of",
    "group_of",
    "groups",
    "prepare",
    "resolved",
    "restored",
    "train",
]

LOG_EVERY = 50  # steps a call of the training program, and between two entries of the curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What is told to whoever watches the trainings."""

    group: "Group"
    key: int  # one of the group's
    step: int
    metrics: dict[str, float]  # means over the last steps
    mu: float
    source_accuracy: float | None = None  # at evaluations
    target_accuracy: float | None = None
    warnings: tuple[str, ...] = ()


class Group(NamedTuple):
    """Keys that are trained as one program; their number decides the last bits of the numbers."""

    keys: tuple[int, ...]
    devices_per_key: int  # which share its batches


def group_of(key: int, record: dict[str, Any]) -> Group:
    """Returns the group that a key was, or is being, trained in; alone in a record without one."""
    alone = [key], record["origin"]["device_count"]
    keys = record.get("together", alone[0])
    return Group(tuple(keys), record.get("devices_per_key", alone[1]))


def groups(
    keys: list[int], devices: int, together: int | None, devices_per_key: int | None
) -> list[Group]:
    """Returns keys in groups: as many as may be, spread over the devices first.

    Args:
      keys: Numbers of the keys.
      devices: How many there are.
      together: The largest number of keys in a group; None for as many as there are.
      devices_per_key: How many devices share the batches of a key, a divisor of ``devices``;
        None for as few as keep all devices busy.
    """

    def fits(size):
        if devices_per_key is None:
            return not (size % devices and devices % size)
        at_once = devices // devices_per_key
        return size < at_once or not size % at_once

    found = []
    while keys:
        most = len(keys) if together is None else min(together, len(keys))
        size = max(filter(fits, range(1, most + 1)))
        found.append(Group(tuple(keys[:size]), devices_per_key or max(1, devices // size)))
        keys = keys[size:]
    return found


def completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns resolved settings with those that came to be after they were written, at defaults."""
    fields = dataclasses.fields(Config)
    usual = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    return {**usual, **settings}


def completed_origin(origin: dict[str, Any], threads: int | None) -> dict[str, Any]:
    """Returns ``Study.origin`` as a file has it, with entries that it is older than.

    Args:
      origin: From a file.
      threads: What to suppose where it does not tell their number.
    """
    return {"process_count": 1, "plain_xla": False, "threads": threads, **origin}


def resolved(config: Config, method: str) -> dict[str, Any]:
    """Returns all that decides the numbers of a run, apart from its key and the versions."""
    settings = {"method": method, **dataclasses.asdict(config)}
    return settings | {"weights": pretraining.weights_origin(config)}


def config_of(
    settings: dict[str, Any], weights: pathlib.Path | None, *, version: str | None
) -> Config:
    """Returns the experiment that resolved settings are of.

    Args:
      settings: From ``resolved``, perhaps by an older version.
      weights: File of the backbone's weights, which may lie elsewhere now; None for the installed
        package that has them.
      version: Of dann_jax that they were resolved by.

    Raises:
      ValueError: This version does not have all of the settings, or they are not valid, or the
        weights are others.
      FileNotFoundError: There are no weights.
    """
    settings = completed(settings)
    names = {field.name for field in dataclasses.fields(Config)}
    unknown = settings.keys() - names - {"method"}
    if unknown:
        raise ValueError(
            f"settings that this version does not have ({', '.join(sorted(unknown))}): install "
            f"the one that made the file, dann_jax {version}"
        )
    config = Config(**{name: settings[name] for name in names} | {"weights": weights})
    found = pretraining.weights_origin(config)
    if found != settings["weights"]:
        raise ValueError(
            f"the weights are not those of the file: expected {settings['weights']}, got {found}: "
            "name its file of weights with --weights"
        )
    return config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """One method on one pair of domains: all that trainings with different keys share."""

    config: Config
    method: str
    devices: list[jax.Device]
    model: networks.DannModel
    class_names: tuple[str, ...]
    target_files: list[str] | None
    start: Callable[[Group], tuple[Any, jax.Array]]  # -> states and keys to train with
    program: Callable[[Group], Callable]  # -> (states, data, keys, steps) -> (states, metrics)
    opened: Callable[..., Any]  # (group, keys, first step) -> context manager of the data
    mu: Callable[[Any], jax.Array]  # learning rate as a function of the step
    tests: dict[str, tuple]  # images, preprocessing and batch statistics of each accuracy
    origin: dict[str, Any]  # what else decides the numbers: data, versions, devices


def prepare(config: Config, method: str, pair: domains.Pair, devices: list[jax.Device]) -> Study:
    """Returns a method made ready to train on a pair of domains.

    Its ``program`` raises a ValueError where a batch does not split evenly over the devices.

    Args:
      config: The experiment.
      method: One of ``METHODS`` or ``FEW_LABEL_METHODS``.
      pair: The images of both domains.
      devices: To train on; those of all processes where there are several.
    """
    config.check_methods([method])
    model = make_model(config, len(pair.class_names))
    steps = config.steps_of(method)

    def mu(step):
        p = schedules.progress(step, steps)
        return schedules.mu_p(p, config.mu0, config.alpha, config.beta)

    def lam(step):
        p = schedules.progress(step, config.lambda_horizon or steps)
        return schedules.lambda_p(p, config.gamma)

    loss = objective.label_objective
    if method in ADVERSARIAL:
        loss = functools.partial(
            objective.reversed_objective,
            normalization=config.normalisation,
            domain_weight=config.domain_weight,
        )
    optimizer = _optimizer(config, mu)
    make_update = functools.partial(
        training.make_update_step, model, optimizer, lam, objective=loss
    )
    if method == "source-and-few-labels":
        make_update = _as_source(make_update)
    preprocess = domains.preprocessing(config, pair, method)
    seen = 2, config.seen_size, config.seen_size, len(preprocess.source_mean)
    made = _streamed if isinstance(pair.source_train, domains.Streamed) else _in_memory
    opened, program = made(config, pair, method, make_update, preprocess, devices)
    return Study(
        config=config,
        method=method,
        devices=devices,
        model=model,
        class_names=pair.class_names,
        target_files=pair.target_files,
        start=_start(model, optimizer, seen, pretraining.variables(config)),
        program=program,
        opened=opened,
        mu=mu,
        tests={
            "source": (pair.source_test, preprocess.source, 0),
            "target": (pair.target_test, preprocess.target, int(method in ADVERSARIAL)),
        },
        origin={
            "data": pair.provenance,
            "versions": results.versions(),
            "device": results.device_kind(devices),
            "device_count": len(devices),
            "process_count": jax.process_count(),
            "plain_xla": kernels.plain_xla(),
            "threads": compilations.threads() if devices[0].platform == "cpu" else None,
        },
    )


def _as_source(make_update):
    """Returns ``make_update`` for updates that take the target's examples for the source's."""

    def make(*, axis_name=None):
        update = make_update(axis_name=axis_name)

        def joint_update(state, batch, key):
            joint = batch._replace(
                source_image=jnp.concatenate([batch.source_image, batch.target_image]),
                source_label=jnp.concatenate([batch.source_label, batch.target_label]),
                target_label=None,
            )
            return update(state, joint, key)

        return joint_update

    return make


def _optimizer(config, mu):
    def factor(path):
        of_part = config.backbone_factor if path[:2] == ("f", "backbone") else 1.0
        return of_part * (config.bias_factor if path[-1] == "bias" else 1.0)

    return training.make_optimizer(
        mu,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        factors=None if config.backbone_factor == config.bias_factor == 1.0 else factor,
    )


def _start(model, optimizer, shape, backbone):
    def one(number, backbone):
        init_key, train_key = jax.random.split(jax.random.key(number))
        state = training.init_state(model, optimizer, init_key, jnp.zeros(shape))
        return pretraining.started(state, backbone), train_key

    single, many = jax.jit(one), jax.jit(jax.vmap(one, in_axes=(0, None)))

    def start(group):
        numbers = np.array(group.keys, np.uint32)
        if len(numbers) > 1:
            return many(numbers, backbone)
        return single(numbers[0], backbone)

    return start


def _in_memory(config, pair, method, make_update, preprocess, devices):
    batch, labelled = domains.batch_sizes(config, pair, method)
    arrays = domains.training_arrays(pair, method)
    if config.crop or config.mirror:
        make_update = augmentation.augmented(
            make_update, size=config.seen_size, mirror=config.mirror
        )
    options = {
        "examples": (len(arrays.source_image), len(arrays.target_image)),
        "batch": batch,
        "preprocess": preprocess.batch,
        "labelled": labelled,
    }

    def used(group):
        return devices[: len(group.keys) * group.devices_per_key]

    @functools.cache  # compiled once
    def program(size, devices_per_key):
        shared = used(Group(tuple(range(size)), devices_per_key))
        if size == 1:
            return programs.make_train_steps(make_update, devices=shared, **options)
        steps = programs.make_study_steps(
            lambda settings, axis_name: make_update(axis_name=axis_name),
            devices=shared,
            devices_per_training=devices_per_key,
            **options,
        )
        steps.program_of(size)  # raises before anything starts
        return steps

    placed = functools.cache(lambda count: _placed(arrays, devices[:count]))
    return (
        lambda group, keys, first_step: contextlib.nullcontext(placed(len(used(group)))),
        lambda group: program(len(group.keys), group.devices_per_key),
    )


def _streamed(config, pair, method, make_update, preprocess, devices):
    from dann_jax import streaming  # Grain is not needed otherwise

    batch, labelled = domains.batch_sizes(config, pair, method)
    source, target = domains.training_sets(pair, method)
    program = programs.make_stream_steps(make_update, preprocess=preprocess.batch, devices=devices)

    def opened(group, key, first_step):
        crop = config.seen_size if config.crop or config.mirror else None
        stream = streaming.batch_stream(
            source,
            target,
            key,
            batch=batch,
            labelled=labelled,
            crop=crop,
            mirror=config.mirror,
            first_step=first_step,
        )
        return contextlib.closing(stream)

    def only(group):
        if group != Group(group.keys[:1], len(devices)):
            raise ValueError(
                f"expected one key at a time on all {len(devices)} devices, as batches are read "
                f"for it alone, got {len(group.keys)} on {group.devices_per_key} each: leave out "
                "--together and --devices-per-key, or --streaming"
            )
        return program

    return opened, only


def train(
    study: Study,
    keys: Sequence[int],
    folder: pathlib.Path,
    *,
    together: int | None = 1,
    devices_per_key: int | None = None,
    checkpoint_every: int = 5_000,
    stop: int | None = None,
    report: Callable[[Report], None] = lambda report: None,
) -> list[dict[str, Any]]:
    """Trains with each of the keys and returns the records of it.

    Records and checkpoints lie in ``folder/key_KEY``; a training that was cut off goes on from its
    last checkpoint, together with the keys it was begun with, and gives the same numbers as if it
    had not been. A key that is finished is not trained again.

    Args:
      study: The method, from ``prepare``.
      keys: Numbers of the PRNG keys.
      folder: Of this method alone.
      together: How many keys, at most, are trained as one program; None for as many as there are.
      devices_per_key: How many devices share the batches of a key. None for as few as keep all
        devices busy.
      checkpoint_every: Steps between two checkpoints.
      stop: Step to stop at, with the schedules of the full length; what is not complete then is
        not written as finished. None for the last.
      report: Called while the trainings go on.

    Returns:
      The record of each key: accuracies at the last evaluation, the curves, warnings and times.

    Raises:
      ValueError: The folder holds trainings with other settings, data, versions or devices, or
        some that were begun together with keys that are not asked for.
    """
    records = {key: _read(study, folder / f"key_{key}") for key in keys}
    for record in records.values():
        processes.check_agreement(record is not None and 1 + record["finished"], "records")
    begun = {}
    for key, record in records.items():
        if record is not None and not record["finished"]:
            group = group_of(key, record)
            if not set(group.keys) <= set(keys):
                raise ValueError(
                    f"key {key} in {folder} was begun together with other keys "
                    f"({', '.join(map(str, group.keys))}): ask for all of them, choose another "
                    "--output, or --overwrite it"
                )
            begun |= dict.fromkeys(group.keys, group)
    new = [key for key in keys if records[key] is None and key not in begun]
    todo = [
        *dict.fromkeys(begun.values()),
        *groups(new, len(study.devices), together, devices_per_key),
    ]
    for group in todo:
        before = [records[key] for key in group.keys]
        after = _train(study, group, before, folder, checkpoint_every, stop, report)
        records |= dict(zip(group.keys, after, strict=True))
    return [records[key] for key in keys]


def restored(study: Study, key: int, folder: pathlib.Path) -> Any:
    """Returns the state at the end of a training, on one device.

    It may have been made by other versions, or on other devices, which is why what is made of it
    may differ by rounding from what they would have made.

    Args:
      study: The method that was trained.
      key: The key that it was trained with.
      folder: Where: the folder ``train`` was given.

    Raises:
      ValueError: The training is not finished, or was made with other settings or other data.
    """
    folder = folder / f"key_{key}"
    record = results.read(folder / "record.json")
    if record is None or not record["finished"]:
        raise ValueError(f"{folder} holds no finished training of {study.method}: train it first")
    _check_same(study, record, folder, {})
    home = next(d for d in study.devices if d.process_index == jax.process_index())
    place = jax.sharding.SingleDeviceSharding(home)
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        jax.eval_shape(lambda: study.start(Group((key,), 1))[0]),
    )
    state = checkpoints.restore(folder / "state", like)
    if state is None:
        raise ValueError(f"{folder} has no state: it was not copied along, or has been removed")
    return state


def _read(study, folder):
    """Returns the record of a training that was begun, None where there is none."""
    record = results.read(folder / "record.json")
    if record is not None:
        record["settings"] = completed(record["settings"])
        record["origin"] = completed_origin(record["origin"], study.origin["threads"])
        _check_same(study, record, folder, study.origin.keys() - {"data"})
    return record


def _train(study, group, records, folder, checkpoint_every, stop, report):
    """Trains a group from where it is, and returns the records."""
    config = study.config
    steps = config.steps_of(study.method)
    stop = steps if stop is None else min(stop, steps)
    folders = [folder / f"key_{key}" for key in group.keys]
    checkpoint = folders[0] / "checkpoint"  # of the whole group
    program = study.program(group)
    home = next(d for d in study.devices if d.process_index == jax.process_index())
    states, keys = study.start(group)
    saved = checkpoints.restore(checkpoint, states) if all(records) else None
    if saved is None:
        records = [_new_record(study, group) for _ in group.keys]
    else:
        states = saved
        del saved  # or it is held as long as the training goes on
    done = int(np.ravel(states.step)[0])
    processes.check_agreement(done, "checkpoint")
    for record in records:
        record["finished"] = False
        for name in ("curves", "evaluations", "warnings"):
            record[name] = [entry for entry in record[name] if entry["step"] <= done]
    if len(group.keys) == 1:
        states = programs.replicate(states, study.devices[: group.devices_per_key])
    clock = _Clock(records)
    pending = None  # metrics are read one call late, so that reading never holds the device up

    def read():
        """Returns the means over the last call of each training."""
        nonlocal pending
        if pending is None:
            return None
        step, metrics = pending
        pending = None
        mu = float(study.mu(step - 1))
        columns = {name: np.ravel(values) for name, values in metrics._asdict().items()}
        means = []
        for i, (key, record) in enumerate(zip(group.keys, records, strict=True)):
            means.append({name: float(values[i]) for name, values in columns.items()})
            record["curves"].append({"step": step, **means[i], "mu": mu})
            report(Report(group=group, key=key, step=step, metrics=means[i], mu=mu))
        return means

    with study.opened(group, keys, done) as data:
        while done < stop:
            ends = (
                (done // config.evaluate_every + 1) * config.evaluate_every,
                (done // LOG_EVERY + 1) * LOG_EVERY,
                stop,
            )
            count = min(ends) - done
            states, metrics = program(states, data, keys, count)
            done += count
            read()
            pending = done, _means(metrics)
            if done % config.evaluate_every and done < steps:
                continue
            means = read()
            clock.lap("train_seconds")
            views = jax.device_get(states.replace(opt_state=()))
            for i, record in enumerate(records):
                view = jax.device_put(_of_one(views, group, i), home)
                told = _evaluate(study, record, view, means[i], done, folders[i])
                report(Report(group=group, key=group.keys[i], **told))
            clock.lap()
            due = done < steps and done % checkpoint_every < config.evaluate_every
            if due and processes.is_first():
                for each, record in zip(folders, records, strict=True):
                    results.write_json(each / "record.json", record)
                checkpoints.save(checkpoint, jax.device_get(states))
                clock.lap()
    read()  # where no evaluation follows
    if done < steps:
        return records
    if processes.is_first():
        last = jax.device_get(states)
        for i, each in enumerate(folders):
            checkpoints.save(each / "state", _of_one(last, group, i))
        for finished in (False, True):  # all of the group are there before one of it is finished
            for each, record in zip(folders, records, strict=True):
                results.write_json(each / "record.json", record | {"finished": finished})
        shutil.rmtree(checkpoint, ignore_errors=True)
    return [record | {"finished": True} for record in records]


def _new_record(study, group):
    return {
        "settings": resolved(study.config, study.method),
        "origin": study.origin,
        "together": list(group.keys),
        "devices_per_key": group.devices_per_key,
        "finished": False,
        "curves": [],
        "evaluations": [],
        "warnings": [],
        "train_seconds": 0.0,  # each the key's share of those of its group
        "wall_seconds": 0.0,
    }


@jax.jit
def _means(metrics):
    """Returns means over the steps of a call, on the device."""
    return jax.tree.map(lambda values: jnp.mean(values, -1), metrics)


def _of_one(states, group, i):
    """Returns the state of one training of a group; alone, it has no axis of trainings."""
    return states if len(group.keys) == 1 else jax.tree.map(lambda x: x[i], states)


def _evaluate(study, record, state, means, step, folder):
    """Enters an evaluation into the record of a training, and returns what is told of it."""
    tested = {name: _tested(study.model, state, *test) for name, test in study.tests.items()}
    accuracy = {f"{name}_accuracy": evaluation.evaluate(*each) for name, each in tested.items()}
    found = health.symptoms(
        means, classes=len(study.class_names), normalization=study.config.normalisation
    )
    record["warnings"] += [{"step": step, "warning": text} for text in found]
    record["evaluations"].append({"step": step, **accuracy})
    record |= accuracy
    last = step == study.config.steps_of(study.method)
    if last and study.target_files is not None and processes.is_first():
        _write_predictions(folder / "predictions.csv", study, tested["target"][0])
    mu = record["curves"][-1]["mu"]
    return {"step": step, "metrics": means, "mu": mu, "warnings": tuple(found), **accuracy}


def _tested(model, state, images, preprocess, domain):
    """Returns the logits and the labels of all images."""
    predict = functools.partial(
        evaluation.predict, model, state, preprocess=preprocess, domain=domain
    )
    return domains.over_blocks(images, predict)


def _write_predictions(path, study, logits):
    """Writes the most probable class of each file of the target."""
    probability = np.exp(logits - logits.max(-1, keepdims=True))
    probability /= probability.sum(-1, keepdims=True)
    with results.whole(path) as temporary, _text(temporary) as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "probability"])
        for name, row in zip(study.target_files, probability, strict=True):
            writer.writerow([name, study.class_names[row.argmax()], f"{row.max():.4f}"])


def _text(path):
    """Opens a file for text in which names of files may stand as the system has them."""
    return path.open("w", newline="", encoding="utf-8", errors="surrogateescape")


def _check_same(study, record, folder, entries):
    """Raises where a record was not made with the same settings, data and entries of its origin."""
    settings, made = resolved(study.config, study.method), completed(record["settings"])
    changed = [name for name, value in settings.items() if made.get(name) != value]
    changed += [n for n in entries if record["origin"].get(n) != study.origin[n]]
    if changed:
        threads = record["origin"].get("threads")
        first = f"set PJRT_NPROC and NPROC to {threads}, " if changed == ["threads"] else ""
        raise ValueError(
            f"{folder} holds a run with other settings ({', '.join(sorted(changed))}): {first}"
            "choose another --output, or --overwrite it"
        )
    others = domains.differences(record["origin"]["data"], study.origin["data"])
    if others:
        raise ValueError(
            f"{folder} holds a run with other data ({others}): choose those with --data-dir or "
            "--manual-dir, or another --output, or --overwrite it"
        )


class _Clock:
    """Adds the seconds since the last lap to the records of a group, its share to each."""

    def __init__(self, records):
        self.records, self.last = records, time.perf_counter()

    def lap(self, *names):
        now = time.perf_counter()
        for record in self.records:
            for name in (*names, "wall_seconds"):
                record[name] += (now - self.last) / len(self.records)
        self.last = now


def _placed(arrays, devices):
    """Returns the arrays on the devices, an array that is named twice only once."""
    placed = {id(a): programs.replicate(a, devices) for a in arrays if a is not None}
    return arrays._replace(
        **{name: placed[id(a)] for name, a in arrays._asdict().items() if a is not None}
    )
