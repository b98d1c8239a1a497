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
    backbones,
    checkpoints,
    digests,
    evaluation,
    health,
    kernels,
    networks,
    programs,
    schedules,
    training,
)
from dann_jax.datasets.streamed import Streamed, over_blocks
from dann_jax.datasets.whole_files import whole
from dann_jax.programs import Group, group_keys
from experiments import domains, pretraining, processes, record, runtime
from experiments.methods import Method, check_settings
from experiments.plan import resolved
from experiments.settings import Config, completed, differences, make_model

__all__ = ["Report", "Study", "fits", "group_of", "prepare", "restored", "train"]

LOG_EVERY = 50  # steps a call of the training program, and between two entries of the curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The state of a training, for progress displays."""

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
    pair: domains.Pair
    devices: list[jax.Device]
    model: networks.DannModel
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

    def outputs(self, function: Callable, state: Any, name: str, images=None, **options):
        """Returns what a function of ``evaluation`` gives for images (to test on), and labels."""
        test, preprocess, domain = self.tests[name]
        options |= {"preprocess": preprocess, "domain": domain}
        of_block = functools.partial(function, self.model, state, **options)
        return over_blocks(test if images is None else images, of_block)


def prepare(config: Config, method: Method, pair: domains.Pair, devices: list[jax.Device]) -> Study:
    """Returns all that trainings of a method on a pair of domains share."""
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
    batch, labelled = domains.batch_sizes(config, pair, method)
    sizes = {"batch": batch, "labelled": labelled, "preprocess": preprocess.batch}
    if isinstance(pair.source_train, Streamed):
        sets = domains.training_sets(pair, method)
        opened, program = _streamed(config, sets, make_update, devices, sizes)
    else:
        arrays = domains.training_arrays(pair, method)
        opened, program = _in_memory(config, arrays, make_update, devices, sizes)
    shape = 2, config.input_size, config.input_size, len(preprocess.source_mean)
    return Study(
        config=config,
        method=method,
        pair=pair,
        devices=devices,
        model=model,
        start=_start(model, optimizer, shape, pretraining.variables(config)),
        program=program,
        opened=opened,
        mu=mu,
        tests={
            "source": (pair.source_test, preprocess.source, 0),
            "target": (pair.target_test, preprocess.target, int(method.adapts)),
        },
        origin={
            "data": pair.provenance,
            "versions": runtime.versions(),
            "device": runtime.device_kind(devices),
            "device_count": len(devices),
            "process_count": jax.process_count(),
            "plain_xla": kernels.plain_xla(),
            "threads": runtime.threads() if devices[0].platform == "cpu" else None,
        },
    )


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
        return backbones.with_weights(state, backbone) if backbone else state, train_key

    single, many = jax.jit(one), jax.jit(jax.vmap(one, in_axes=(0, None)))

    def start(group):
        numbers = np.array(group.keys, np.uint32)
        return many(numbers, backbone) if len(numbers) > 1 else single(numbers[0], backbone)

    return start


def _in_memory(config, arrays, make_update, devices, sizes):
    """Returns ``Study.opened`` and ``Study.program`` of arrays that lie on the devices."""
    if config.crop or config.mirror:
        make_update = augmentation.augmented(
            make_update, size=config.input_size, mirror=config.mirror
        )
    options = {"examples": (len(arrays.source_image), len(arrays.target_image)), **sizes}

    @functools.cache
    def placed(count):
        """Returns the arrays on devices, one that is named twice only once."""
        each = {id(a): programs.replicate(a, devices[:count]) for a in arrays if a is not None}
        return type(arrays)(*(each.get(id(a)) for a in arrays))

    @functools.cache  # compiled once
    def program(size, devices_per_key):
        shared = devices[: size * devices_per_key]
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

    def opened(group, keys, first_step):
        count = min(len(group.keys) * group.devices_per_key, len(devices))
        return contextlib.nullcontext(placed(count))

    return opened, lambda group: program(len(group.keys), group.devices_per_key)


def _streamed(config, sets, make_update, devices, sizes):
    """Returns ``Study.opened`` and ``Study.program`` of images that stay on disk."""
    from dann_jax import streaming  # Grain is not needed otherwise

    preprocess = sizes.pop("preprocess")
    program = programs.make_stream_steps(make_update, preprocess=preprocess, devices=devices)

    def opened(group, key, first_step):
        crop = config.input_size if config.crop or config.mirror else None
        options = {"crop": crop, "mirror": config.mirror, "first_step": first_step}
        return contextlib.closing(streaming.batch_stream(*sets, key, **sizes, **options))

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
    had not been. A key that is finished is not trained again. Keys are grouped by
    ``group_keys``. ``stop`` is a step to stop at, with the schedules of the full length.
    """
    records, begun = {key: _record(folder, key) for key in keys}, {}
    for key, each in records.items():
        processes.check_agreement(each is not None and 1 + each["finished"], "records")
        if each is None:
            continue
        _check_same(study, each, folder / f"key_{key}", study.origin.keys() - {"data"})
        group = group_of(each)
        if not each["finished"]:
            if not set(group.keys) <= set(keys):
                raise ValueError(
                    f"key {key} in {folder} was begun together with other keys "
                    f"({', '.join(map(str, group.keys))}): ask for all of them, choose another "
                    "--output, or --overwrite it"
                )
            begun |= dict.fromkeys(group.keys, group)
    new = [key for key in keys if records[key] is None and key not in begun]
    options = {"together": together, "devices_per_key": devices_per_key}
    todo = group_keys(new, len(study.devices), **options)
    for group in (*dict.fromkeys(begun.values()), *todo):
        run = _Run(study, group, folder, report)
        after = run.train([records[key] for key in group.keys], checkpoint_every, stop)
        records |= dict(zip(group.keys, after, strict=True))
    return [records[key] for key in keys]


class _Run:
    """The training of a group of keys as one program."""

    def __init__(self, study, group, folder, report):
        self.study, self.group, self.report = study, group, report
        self.folders = [folder / f"key_{key}" for key in group.keys]
        self.checkpoints = checkpoints.Checkpoints(self.folders[0] / "checkpoint")  # of the group
        self.pending = None  # metrics are read one call late: reading never holds the device up

    def train(self, records, checkpoint_every, stop):
        """Trains from the last checkpoint to a step and returns the records."""
        config, steps = self.study.config, self.study.method.steps(self.study.config)
        stop = steps if stop is None else min(stop, steps)
        program = self.study.program(self.group)
        states, keys, done = self._restore(records)
        self.lap = time.perf_counter()
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
                self._lap("train_seconds")
                self._evaluate(states, means, done)
                self._lap()
                due = done < steps and done % checkpoint_every < config.evaluate_every
                if due and processes.is_first():
                    self._write()
                    self.checkpoints.save(done, jax.device_get(states))
                    self._lap()
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
        means = [
            {name: float(values[i]) for name, values in columns.items()}
            for i in range(len(self.group.keys))
        ]
        for i, each in enumerate(self.records):
            each["curves"].append({"step": step, **means[i], "mu": mu})
            self._show(i, means[i])
        return means

    def _show(self, i, metrics, **evaluation):
        """Reports on a key at the last entry of its curves."""
        step, mu = (self.records[i]["curves"][-1][name] for name in ("step", "mu"))
        about = {"group": self.group, "key": self.group.keys[i], "step": step, "mu": mu}
        self.report(Report(**about, metrics=metrics, **evaluation))

    def _evaluate(self, states, means, step):
        study, views = self.study, jax.device_get(states.replace(opt_state=()))
        for i, each in enumerate(self.records):
            state = jax.device_put(self._of_one(views, i), study.home)
            accuracy = {}
            for name in study.tests:  # the target last
                logits, labels = study.outputs(evaluation.predict, state, name)
                accuracy[f"{name}_accuracy"] = evaluation.evaluate(logits, labels)
            classes, normalization = len(study.pair.class_names), study.config.normalization
            warnings = health.symptoms(means[i], classes=classes, normalization=normalization)
            each["warnings"] += [{"step": step, "warning": text} for text in warnings]
            each["evaluations"].append({"step": step, **accuracy})
            each |= accuracy
            last = step == study.method.steps(study.config)
            if last and study.pair.target_files is not None and processes.is_first():
                _write_predictions(self.folders[i] / "predictions.csv", study, logits)
            self._show(i, means[i], warnings=tuple(warnings), **accuracy)

    def _of_one(self, states, i):
        """Returns the state of one key; alone, it has no axis of keys."""
        return states if len(self.group.keys) == 1 else jax.tree.map(lambda x: x[i], states)

    def _lap(self, *names):
        """Adds the seconds since the last lap to the records, its share to each."""
        last, self.lap = self.lap, time.perf_counter()
        for each in self.records:
            for name in (*names, "wall_seconds"):
                each[name] += (self.lap - last) / len(self.records)

    def _write(self, **entries):
        for folder, each in zip(self.folders, self.records, strict=True):
            record.write_json(folder / "record.json", each | entries)

    def _finish(self, states):
        _check_equal(states)
        if not processes.is_first():
            return
        states = jax.device_get(states)
        for i, folder in enumerate(self.folders):
            checkpoints.save(folder / "state", self._of_one(states, i))
        for finished in (False, True):  # all of the group are there before one of it is finished
            self._write(finished=finished)
        self.checkpoints.delete()


def _check_equal(states):
    """Raises where devices, or processes, that have trained as one do not hold the same."""
    programs.check_replicated(states)
    if jax.process_count() > 1:
        number = int(digests.digest(states)[:8], 16)
        advice = "give all of them the same versions of the packages and devices of the same kind"
        processes.check_agreement(number, "numbers at the end of a training", advice)


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


def _write_predictions(path, study, logits):
    """Writes the most probable class of each file of the target; none for logits that diverged."""
    probability = np.exp(logits - logits.max(-1, keepdims=True))
    probability /= probability.sum(-1, keepdims=True)
    # Names of files may stand as the system has them.
    text = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
    with whole(path) as temporary, temporary.open("w", **text) as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "probability"])
        pair, classes = study.pair, np.asarray(evaluation.predicted_classes(logits))
        for name, number, row in zip(pair.target_files, classes, probability, strict=True):
            known = [pair.class_names[number], f"{row.max():.4f}"] if number >= 0 else ["", ""]
            writer.writerow([name, *known])


def restored(study: Study, key: int, folder: pathlib.Path) -> Any:
    """Returns the state at the end of a finished training with the study's settings and data.

    Other versions or devices may have made it, so that what follows from it may differ by rounding.
    """
    finished, folder = _record(folder, key), folder / f"key_{key}"
    if finished is None or not finished["finished"]:
        raise ValueError(
            f"{folder} holds no finished training of {study.method.name}: train it first"
        )
    _check_same(study, finished, folder)
    shapes = jax.eval_shape(lambda: study.start(Group((key,), 1))[0])
    place = jax.sharding.SingleDeviceSharding(study.home)
    like = jax.tree.map(lambda x: x.update(sharding=place), shapes)
    state = checkpoints.restore(folder / "state", like)
    if state is None:
        raise ValueError(f"{folder} has no state: it was not copied along, or has been removed")
    return state


def _record(folder, key):
    """Returns the record of a training that was begun, None where there is none."""
    return record.read_record(folder, key)


def fits(study: Study, keys: Sequence[int], folder: pathlib.Path) -> bool:
    """Returns whether all trainings in a folder are of this study, and of no other keys."""
    expected = resolved(study.config, study.method), study.origin
    names = [path.parent.name for path in folder.glob("key_*/record.json")]
    try:
        records = [_record(folder, int(name.removeprefix("key_"))) for name in names]
    except ValueError:  # damaged, or of another format
        return False
    return all(
        (completed(each["settings"]), each["origin"]) == expected
        and (each["finished"] or set(each["together"]) <= set(keys))
        for each in records
    )


def _check_same(study, begun, folder, entries=()):
    """Raises where a record was not made with the same settings, data and entries of its origin."""
    settings, origin = completed(begun["settings"]), begun["origin"]
    changed = differences(settings, resolved(study.config, study.method))
    names = [name for name in sorted(entries) if origin[name] != study.origin[name]]
    for name in names:
        there, here = origin[name], study.origin[name]
        pair = (there, here) if name == "versions" else ({name: there}, {name: here})
        changed += differences(*pair, whose="here")
    if changed:
        threads = f"set PJRT_NPROC and NPROC to {origin['threads']}, "
        first = threads if len(changed) == 1 and names == ["threads"] else ""
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}): {first}"
            "choose another --output, or --overwrite it"
        )
    others = domains.differences(origin["data"], study.origin["data"])
    if others:
        raise ValueError(
            f"{folder} holds a run with other data ({others}): choose those with --data-dir or "
            "--manual-dir, or another --output, or --overwrite it"
        )
