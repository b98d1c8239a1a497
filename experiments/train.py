"""Trainings of one method, one for each key, resumable at any checkpoint."""

import contextlib
import csv
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

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
    programs,
    schedules,
    training,
)
from experiments import domains, pretraining, processes, record, runtime
from experiments.methods import Method, check_settings
from experiments.plan import Group, groups, resolved
from experiments.settings import Config, make_model

__all__ = ["Report", "Study", "fits", "group_of", "prepare", "restored", "train"]

LOG_EVERY = 50  # steps a call of the training program, and between two entries of the curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The state of a training, for whoever watches."""

    group: Group
    key: int  # one of the group's
    step: int
    metrics: dict[str, float]  # means over the last steps
    mu: float
    source_accuracy: float | None = None  # at evaluations
    target_accuracy: float | None = None
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """One method on one pair of domains: all that trainings with different keys share."""

    config: Config
    method: Method
    devices: list[jax.Device]
    model: networks.DannModel
    class_names: tuple[str, ...]
    target_files: list[str] | None
    start: Callable[[Group], tuple[Any, jax.Array]]  # -> states and keys to train with
    program: Callable[[Group], Callable]  # -> (states, data, keys, steps) -> (states, metrics)
    opened: Callable[..., Any]  # (group, keys, first step) -> context manager of the data
    mu: Callable[[Any], jax.Array]  # learning rate as a function of the step
    tests: dict[str, tuple]  # images, preprocessing and domain of each accuracy
    origin: dict[str, Any]  # what else decides the numbers: data, versions, devices

    @property
    def home(self) -> jax.Device:
        """The device of this process that evaluates."""
        return next(d for d in self.devices if d.process_index == jax.process_index())


def prepare(config: Config, method: Method, pair: domains.Pair, devices: list[jax.Device]) -> Study:
    """Returns all that trainings of a method on a pair of domains share.

    Its ``program`` raises a ValueError where a batch does not split evenly over the devices.
    """
    check_settings(config, [method])
    model, steps = make_model(config, len(pair.class_names)), method.steps(config)

    def mu(step):
        p = schedules.progress(step, steps)
        return schedules.mu_p(p, config.mu0, config.alpha, config.beta)

    def lam(step):
        p = schedules.progress(step, config.lambda_horizon or steps)
        return schedules.lambda_p(p, config.gamma)

    optimizer = _optimizer(config, mu)
    make_update = functools.partial(
        training.make_update_step, model, optimizer, lam, objective=method.objective(config)
    )
    preprocess = domains.preprocessing(config, pair, method)
    feed = _streamed if isinstance(pair.source_train, domains.Streamed) else _in_memory
    sets = _Sets(config, pair, method, preprocess)
    opened, program = feed(sets, make_update, devices)
    shape = 2, config.input_size, config.input_size, len(preprocess.source_mean)
    return Study(
        config=config,
        method=method,
        devices=devices,
        model=model,
        class_names=pair.class_names,
        target_files=pair.target_files,
        start=_start(model, optimizer, shape, pretraining.variables(config)),
        program=program,
        opened=opened,
        mu=mu,
        tests={
            "source": (pair.source_test, preprocess.source, 0),
            "target": (pair.target_test, preprocess.target, int(method.adapts)),
        },
        origin=_origin(pair, devices),
    )


def _origin(pair, devices):
    return {
        "data": pair.provenance,
        "versions": runtime.versions(),
        "device": runtime.device_kind(devices),
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "plain_xla": kernels.plain_xla(),
        "threads": runtime.threads() if devices[0].platform == "cpu" else None,
    }


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
        return many(numbers, backbone) if len(numbers) > 1 else single(numbers[0], backbone)

    return start


@dataclasses.dataclass(frozen=True)
class _Sets:
    """What batches are drawn from, and how."""

    config: Config
    pair: domains.Pair
    method: Method
    preprocess: domains.Preprocess

    @property
    def sizes(self):
        """Of a batch: (source, target), and the labelled ones of the target."""
        batch, labelled = domains.batch_sizes(self.config, self.pair, self.method)
        return {"batch": batch, "labelled": labelled}


def _in_memory(sets, make_update, devices):
    config, arrays = sets.config, domains.training_arrays(sets.pair, sets.method)
    if config.crop or config.mirror:
        make_update = augmentation.augmented(
            make_update, size=config.input_size, mirror=config.mirror
        )
    examples = len(arrays.source_image), len(arrays.target_image)
    options = {"examples": examples, "preprocess": sets.preprocess.batch, **sets.sizes}

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


def _placed(arrays, devices):
    """Returns the arrays on the devices, an array that is named twice only once."""
    placed = {id(a): programs.replicate(a, devices) for a in arrays if a is not None}
    return arrays._replace(
        **{name: placed[id(a)] for name, a in arrays._asdict().items() if a is not None}
    )


def _streamed(sets, make_update, devices):
    from dann_jax import streaming  # Grain is not needed otherwise

    config, (source, target) = sets.config, domains.training_sets(sets.pair, sets.method)
    program = programs.make_stream_steps(
        make_update, preprocess=sets.preprocess.batch, devices=devices
    )

    def opened(group, key, first_step):
        crop = config.input_size if config.crop or config.mirror else None
        options = {"crop": crop, "mirror": config.mirror, "first_step": first_step}
        return contextlib.closing(
            streaming.batch_stream(source, target, key, **sets.sizes, **options)
        )

    def only(group):
        if group != Group(group.keys[:1], len(devices)):
            raise ValueError(
                f"expected one key at a time on all {len(devices)} devices, as batches are read "
                f"for it alone, got {len(group.keys)} on {group.devices_per_key} each: leave out "
                "--together and --devices-per-key, or --streaming"
            )
        return program

    return opened, only


def group_of(record: dict[str, Any]) -> Group:
    """Returns the group that a key was, or is being, trained in."""
    return Group(tuple(record["together"]), record["devices_per_key"])


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
    """Trains with each of the keys and returns their records: accuracies, curves, warnings, times.

    Records and checkpoints lie in ``folder/key_KEY``. A training that was cut off goes on from its
    last checkpoint, together with the keys it was begun with, and gives the same numbers as if it
    had not been. A key that is finished is not trained again.

    Args:
      study: The method, from ``prepare``.
      keys: Numbers of the PRNG keys.
      folder: Of this method alone.
      together: How many keys, at most, are trained as one program; None for all.
      devices_per_key: How many devices share a key's batches; None for as few as keep all busy.
      checkpoint_every: Steps between two checkpoints.
      stop: Step to stop at, unfinished, with the schedules of the full length; None for the last.
      report: Called while the trainings go on.

    Raises:
      ValueError: The folder holds trainings with other settings, data, versions or devices, or
        some that were begun together with other keys.
    """
    records = {key: _read(study, folder / f"key_{key}") for key in keys}
    for each in records.values():
        processes.check_agreement(each is not None and 1 + each["finished"], "records")
    begun = {}
    for key, each in records.items():
        if each is not None and not each["finished"]:
            group = group_of(each)
            if not set(group.keys) <= set(keys):
                raise ValueError(
                    f"key {key} in {folder} was begun together with other keys "
                    f"({', '.join(map(str, group.keys))}): ask for all of them, choose another "
                    "--output, or --overwrite it"
                )
            begun |= dict.fromkeys(group.keys, group)
    new = [key for key in keys if records[key] is None and key not in begun]
    todo = groups(new, len(study.devices), together, devices_per_key)
    for group in (*dict.fromkeys(begun.values()), *todo):
        run = _Run(study, group, [folder / f"key_{key}" for key in group.keys], report)
        after = run.train([records[key] for key in group.keys], checkpoint_every, stop)
        records |= dict(zip(group.keys, after, strict=True))
    return [records[key] for key in keys]


class _Run:
    """The training of a group of keys as one program."""

    def __init__(self, study, group, folders, report):
        self.study, self.group, self.folders, self.report = study, group, folders, report
        self.checkpoints = checkpoints.Checkpoints(folders[0] / "checkpoint")  # of the whole group
        self.pending = None  # metrics are read one call late: reading never holds the device up

    def train(self, records, checkpoint_every, stop):
        """Trains from the last checkpoint to a step and returns the records."""
        config, steps = self.study.config, self.study.method.steps(self.study.config)
        stop = steps if stop is None else min(stop, steps)
        program = self.study.program(self.group)
        states, keys, done = self._restore(records)
        clock = _Clock(self.records)
        with self.study.opened(self.group, keys, done) as data:
            while done < stop:
                ends = ((done // n + 1) * n for n in (config.evaluate_every, LOG_EVERY))
                count = min(*ends, stop) - done
                states, metrics = program(states, data, keys, count)
                done += count
                self._read()
                self.pending = done, _means(metrics)
                if done % config.evaluate_every and done < steps:
                    continue
                means = self._read()
                clock.lap("train_seconds")
                self._evaluate(states, means, done)
                clock.lap()
                due = done < steps and done % checkpoint_every < config.evaluate_every
                if due and processes.is_first():
                    self._write()
                    self.checkpoints.save(done, jax.device_get(states))
                    clock.lap()
        self._read()  # where no evaluation follows
        if done < steps:
            return self.records
        self._finish(states)
        return [each | {"finished": True} for each in self.records]

    def _restore(self, records):
        """Returns states, keys and the number of steps done; the records are as of that step."""
        states, keys = self.study.start(self.group)
        saved = self.checkpoints.restore(states) if all(records) else None
        if saved is None:
            records = [_new_record(self.study, self.group) for _ in self.group.keys]
        else:
            states = saved
        done = int(np.ravel(states.step)[0])
        processes.check_agreement(done, "checkpoint")
        for each in records:
            each["finished"] = False
            for name in ("curves", "evaluations", "warnings"):
                each[name] = [entry for entry in each[name] if entry["step"] <= done]
        self.records = records
        if len(self.group.keys) == 1:
            devices = self.study.devices[: self.group.devices_per_key]
            states = programs.replicate(states, devices)
        return states, keys, done

    def _read(self):
        """Enters the means over the last call into the curves and returns them, of each key."""
        if self.pending is None:
            return None
        (step, metrics), self.pending = self.pending, None
        mu = float(self.study.mu(step - 1))
        columns = {  # what the method does not have, a domain branch say, is NaN for each key
            name: np.broadcast_to(values, len(self.group.keys))
            for name, values in metrics._asdict().items()
        }
        means = []
        for i, key in enumerate(self.group.keys):
            means.append({name: float(values[i]) for name, values in columns.items()})
            self.records[i]["curves"].append({"step": step, **means[i], "mu": mu})
            self.report(Report(group=self.group, key=key, step=step, metrics=means[i], mu=mu))
        return means

    def _evaluate(self, states, means, step):
        views = jax.device_get(states.replace(opt_state=()))
        for i, key in enumerate(self.group.keys):
            state = jax.device_put(self._of_one(views, i), self.study.home)
            accuracy, logits = _tested(self.study, state)
            warnings = health.symptoms(
                means[i],
                classes=len(self.study.class_names),
                normalization=self.study.config.normalization,
            )
            each = self.records[i]
            each["warnings"] += [{"step": step, "warning": text} for text in warnings]
            each["evaluations"].append({"step": step, **accuracy})
            each |= accuracy
            last = step == self.study.method.steps(self.study.config)
            if last and self.study.target_files is not None and processes.is_first():
                _write_predictions(self.folders[i] / "predictions.csv", self.study, logits)
            mu, warnings = each["curves"][-1]["mu"], tuple(warnings)
            progress = {"step": step, "metrics": means[i], "mu": mu, "warnings": warnings}
            self.report(Report(group=self.group, key=key, **progress, **accuracy))

    def _of_one(self, states, i):
        """Returns the state of one key; alone, it has no axis of keys."""
        return states if len(self.group.keys) == 1 else jax.tree.map(lambda x: x[i], states)

    def _write(self, **entries):
        for folder, each in zip(self.folders, self.records, strict=True):
            record.write_json(folder / "record.json", each | entries)

    def _finish(self, states):
        if not processes.is_first():
            return
        states = jax.device_get(states)
        for i, folder in enumerate(self.folders):
            checkpoints.save(folder / "state", self._of_one(states, i))
        for finished in (False, True):  # all of the group are there before one of it is finished
            self._write(finished=finished)
        self.checkpoints.delete()


def _new_record(study, group):
    return {
        "format": record.FORMAT,
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


def _tested(study, state):
    """Returns the accuracy in each domain, and the logits of the target's test images."""
    accuracy = {}
    for name, (images, preprocess, domain) in study.tests.items():
        predict = functools.partial(
            evaluation.predict, study.model, state, preprocess=preprocess, domain=domain
        )
        logits, labels = domains.over_blocks(images, predict)
        accuracy[f"{name}_accuracy"] = evaluation.evaluate(logits, labels)
    return accuracy, logits


def _write_predictions(path, study, logits):
    """Writes the most probable class of each file of the target; none for logits that diverged."""
    probability = np.exp(logits - logits.max(-1, keepdims=True))
    probability /= probability.sum(-1, keepdims=True)
    # Names of files may stand as the system has them.
    text = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
    with record.whole(path) as temporary, temporary.open("w", **text) as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "probability"])
        classes = np.asarray(evaluation.predicted_classes(logits))
        for name, number, row in zip(study.target_files, classes, probability, strict=True):
            known = [study.class_names[number], f"{row.max():.4f}"] if number >= 0 else ["", ""]
            writer.writerow([name, *known])


class _Clock:
    """Adds the seconds since the last lap to the records of a group, its share to each."""

    def __init__(self, records):
        self.records, self.last = records, time.perf_counter()

    def lap(self, *names):
        now = time.perf_counter()
        for each in self.records:
            for name in (*names, "wall_seconds"):
                each[name] += (now - self.last) / len(self.records)
        self.last = now


def restored(study: Study, key: int, folder: pathlib.Path) -> Any:
    """Returns the state at the end of the training with a key in ``folder``, on one device.

    Other versions or devices may have made it, so that what follows from it may differ by rounding
    from their own.

    Raises:
      ValueError: The training is not finished, or was made with other settings or other data.
    """
    folder = folder / f"key_{key}"
    finished = record.read(folder / "record.json")
    if finished is None or not finished["finished"]:
        raise ValueError(
            f"{folder} holds no finished training of {study.method.name}: train it first"
        )
    _check_same(study, finished, folder, {})
    place = jax.sharding.SingleDeviceSharding(study.home)
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
    begun = record.read(folder / "record.json")
    if begun is not None:
        _check_same(study, begun, folder, study.origin.keys() - {"data"})
    return begun


def fits(study: Study, keys: Sequence[int], folder: pathlib.Path) -> bool:
    """Returns whether all trainings in a folder are of this study, and of no other keys."""
    expected = resolved(study.config, study.method), study.origin
    records = map(record.read, folder.glob("key_*/record.json"))
    return all(
        (each["settings"], each["origin"]) == expected
        and (each["finished"] or set(each["together"]) <= set(keys))
        for each in records
    )


def _check_same(study, begun, folder, entries):
    """Raises where a record was not made with the same settings, data and entries of its origin."""
    settings, origin = begun["settings"], begun["origin"]
    expected = resolved(study.config, study.method)
    changed = [name for name, value in expected.items() if settings.get(name) != value]
    changed += [name for name in entries if origin.get(name) != study.origin[name]]
    if changed:
        threads = origin.get("threads")
        first = f"set PJRT_NPROC and NPROC to {threads}, " if changed == ["threads"] else ""
        raise ValueError(
            f"{folder} holds a run with other settings ({', '.join(sorted(changed))}): {first}"
            "choose another --output, or --overwrite it"
        )
    others = domains.differences(origin["data"], study.origin["data"])
    if others:
        raise ValueError(
            f"{folder} holds a run with other data ({others}): choose those with --data-dir or "
            "--manual-dir, or another --output, or --overwrite it"
        )
