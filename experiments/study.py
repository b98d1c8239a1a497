"""One training of one method with one key, resumable at any checkpoint."""

import contextlib
import csv
import dataclasses
import functools
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import (
    augmentation,
    checkpoints,
    evaluation,
    health,
    networks,
    objective,
    schedules,
    training,
)
from experiments import domains, results
from experiments.config import INITIALISERS, NETWORKS, Config

__all__ = ["Report", "Study", "completed", "prepare", "resolved", "train"]

LOG_EVERY = 50  # steps a call of the training program, and between two entries of the curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What is told to whoever watches the training."""

    step: int
    metrics: dict[str, float]  # means over the last steps
    mu: float
    source_accuracy: float | None = None  # at evaluations
    target_accuracy: float | None = None
    warnings: tuple[str, ...] = ()


def completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns resolved settings with those that came to be after they were written, at defaults."""
    fields = dataclasses.fields(Config)
    usual = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    return {**usual, **settings}


def resolved(config: Config, method: str) -> dict[str, Any]:
    """Returns all that decides the numbers of a run, apart from its key and the versions."""
    return {"method": method, **dataclasses.asdict(config)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """One method on one pair of domains: all that trainings with different keys share."""

    config: Config
    method: str
    devices: list[jax.Device]
    model: networks.DannModel
    class_names: tuple[str, ...]
    target_files: list[str] | None
    init: Callable[..., training.TrainState]  # (key, image) -> state, compiled once
    program: Callable[..., Any]  # (state, data, key, steps) -> (state, metrics), compiled once
    opened: Callable[..., Any]  # (key, first step) -> context manager of the program's data
    mu: Callable[[Any], jax.Array]  # learning rate as a function of the step
    tests: dict[str, tuple]  # images, preprocessing and batch statistics of each accuracy
    origin: dict[str, Any]  # what else decides the numbers: data, versions, devices


def prepare(config: Config, method: str, pair: domains.Pair, devices: list[jax.Device]) -> Study:
    """Returns a method made ready to train on a pair of domains.

    Args:
      config: The experiment.
      method: ``'source-only'``, ``'dann'`` or ``'train-on-target'``.
      pair: The images of both domains.
      devices: To train on.

    Raises:
      ValueError: The batch does not split evenly over the devices.
    """
    options = {"classes": len(pair.class_names), "dtype": jnp.dtype(config.dtype)}
    if config.initialisation != "default":
        options["kernel_init"] = INITIALISERS[config.initialisation]
    model = NETWORKS[config.network](**options)
    steps = config.steps_of(method)

    def mu(step):
        p = schedules.progress(step, steps)
        return schedules.mu_p(p, config.mu0, config.alpha, config.beta)

    def lam(step):
        p = schedules.progress(step, config.lambda_horizon or steps)
        return schedules.lambda_p(p, config.gamma)

    loss = objective.label_objective
    if method == "dann":
        loss = functools.partial(
            objective.reversed_objective,
            normalisation=config.normalisation,
            domain_weight=config.domain_weight,
        )
    optimizer = training.make_optimizer(
        mu, momentum=config.momentum, weight_decay=config.weight_decay
    )
    make_update = functools.partial(
        training.make_update_step, model, optimizer, lam, objective=loss
    )
    preprocess = domains.preprocessing(config, pair, method)
    batch = config.batch_size // 2, config.batch_size // 2
    if isinstance(pair.source_train, domains.Streamed):
        opened, program = _streamed(config, pair, method, make_update, preprocess, batch, devices)
    else:
        opened, program = _in_memory(config, pair, method, make_update, preprocess, batch, devices)
    return Study(
        config=config,
        method=method,
        devices=devices,
        model=model,
        class_names=pair.class_names,
        target_files=pair.target_files,
        init=jax.jit(functools.partial(training.init_state, model, optimizer)),
        program=program,
        opened=opened,
        mu=mu,
        tests={
            "source": (pair.source_test, preprocess.source, 0),
            "target": (pair.target_test, preprocess.target, 1 if method == "dann" else 0),
        },
        origin={
            "data": pair.provenance,
            "versions": results.versions(),
            "device": results.device_kind(devices),
            "device_count": len(devices),
        },
    )


def _in_memory(config, pair, method, make_update, preprocess, batch, devices):
    arrays = domains.training_arrays(pair, method)
    if config.crop or config.mirror:
        make_update = augmentation.augmented(
            make_update, size=config.seen_size, mirror=config.mirror
        )
    program = training.make_train_steps(
        make_update,
        examples=(len(arrays.source_image), len(arrays.target_image)),
        batch=batch,
        preprocess=preprocess.batch,
        devices=devices,
    )
    placed = _placed(arrays, devices)
    return lambda key, first_step: contextlib.nullcontext(placed), program


def _streamed(config, pair, method, make_update, preprocess, batch, devices):
    from dann_jax import streaming  # Grain is not needed otherwise

    source, target = domains.training_sets(pair, method)

    def opened(key, first_step):
        crop = config.seen_size if config.crop or config.mirror else None
        stream = streaming.batch_stream(
            source,
            target,
            key,
            batch=batch,
            crop=crop,
            mirror=config.mirror,
            first_step=first_step,
        )
        return contextlib.closing(stream)

    return opened, streaming.make_train_steps(
        make_update, preprocess=preprocess.batch, devices=devices
    )


def train(
    study: Study,
    key: int,
    folder: pathlib.Path,
    *,
    checkpoint_every: int = 5_000,
    report: Callable[[Report], None] = lambda report: None,
) -> dict[str, Any]:
    """Trains with one key and returns the record of it.

    The record and the checkpoints lie in ``folder``; a run that was cut off goes on from its
    last checkpoint with the same numbers as if it had not been.

    Args:
      study: The method, from ``prepare``.
      key: Number of the PRNG key.
      folder: Of this run alone.
      checkpoint_every: Steps between two checkpoints.
      report: Called while the training goes on.

    Returns:
      The record: accuracies at the last step, the curves, warnings and times.

    Raises:
      ValueError: The folder holds a run with other settings, data, versions or devices.
    """
    config, devices = study.config, study.devices
    settings = resolved(config, study.method)
    record = results.read(folder / "record.json")
    if record is not None:
        record["settings"] = completed(record["settings"])
        _check_same(record, {"settings": settings, "origin": study.origin}, folder)
    if record is not None and record["finished"]:
        return record

    steps = config.steps_of(study.method)
    init_key, train_key = jax.random.split(jax.random.key(key))
    sample = jnp.zeros([2, config.seen_size, config.seen_size, 3])
    state = study.init(init_key, sample)
    restored = checkpoints.restore(folder / "checkpoint", state) if record else None
    if restored is None:
        record = {
            "settings": settings,
            "origin": study.origin,
            "finished": False,
            "curves": [],
            "evaluations": [],
            "warnings": [],
            "train_seconds": 0.0,
            "wall_seconds": 0.0,
        }
    else:
        state = restored
    done = int(state.step)
    for name in ("curves", "evaluations", "warnings"):
        record[name] = [entry for entry in record[name] if entry["step"] <= done]
    state = training.replicate(state, devices)
    clock = _Clock(record)
    pending = None  # metrics are read one call late, so that reading never holds the device up

    def read():
        nonlocal pending
        if pending is None:
            return None
        step, metrics = pending
        pending = None
        means = {name: float(np.mean(values)) for name, values in metrics._asdict().items()}
        record["curves"].append({"step": step, **means, "mu": float(study.mu(step - 1))})
        report(Report(step=step, metrics=means, mu=record["curves"][-1]["mu"]))
        return means

    with study.opened(train_key, done) as data:
        while done < steps:
            stops = (
                (done // config.evaluate_every + 1) * config.evaluate_every,
                (done // LOG_EVERY + 1) * LOG_EVERY,
                steps,
            )
            count = min(stops) - done
            state, metrics = study.program(state, data, train_key, count)
            done += count
            read()
            pending = done, metrics
            if done % config.evaluate_every and done < steps:
                continue
            means = read()
            clock.lap("train_seconds")
            view = jax.device_put(jax.device_get(state.replace(opt_state=())), devices[0])
            tested = {name: _tested(study.model, view, *test) for name, test in study.tests.items()}
            accuracy = {name: evaluation.evaluate(*each) for name, each in tested.items()}
            found = health.symptoms(
                means, classes=len(study.class_names), normalisation=config.normalisation
            )
            record["warnings"] += [{"step": done, "warning": text} for text in found]
            record["evaluations"].append(
                {"step": done, **{f"{name}_accuracy": value for name, value in accuracy.items()}}
            )
            report(
                Report(
                    step=done,
                    metrics=means,
                    mu=record["curves"][-1]["mu"],
                    source_accuracy=accuracy["source"],
                    target_accuracy=accuracy["target"],
                    warnings=tuple(found),
                )
            )
            clock.lap()
            if done < steps and done % checkpoint_every < config.evaluate_every:
                results.write_json(folder / "record.json", record)
                checkpoints.save(folder / "checkpoint", jax.device_get(state))
                clock.lap()
    last = record["evaluations"][-1]
    record |= {
        "finished": True,
        "source_accuracy": last["source_accuracy"],
        "target_accuracy": last["target_accuracy"],
    }
    checkpoints.save(folder / "state", jax.device_get(state))
    if study.target_files is not None:
        _write_predictions(folder / "predictions.csv", study, tested["target"][0])
    results.write_json(folder / "record.json", record)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return record


def _tested(model, state, images, preprocess, domain):
    """Returns the logits and the labels of all images."""
    parts = [
        (evaluation.predict(model, state, image, preprocess=preprocess, domain=domain), label)
        for image, label in domains.blocks(images)
    ]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


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


def _check_same(record, expected, folder):
    """Raises where a record was not made with the same settings, data, versions and devices."""
    changed = [
        name
        for kind, values in expected.items()
        for name, value in values.items()
        if record.get(kind, {}).get(name) != value
    ]
    if changed:
        raise ValueError(
            f"{folder} holds a run with other settings ({', '.join(sorted(changed))}): "
            "choose another --output, or --overwrite it"
        )


class _Clock:
    """Adds the seconds since the last lap to a record."""

    def __init__(self, record):
        self.record, self.last = record, time.perf_counter()

    def lap(self, *names):
        now = time.perf_counter()
        for name in (*names, "wall_seconds"):
            self.record[name] += now - self.last
        self.last = now


def _placed(arrays, devices):
    """Returns the arrays on the devices, an array that is named twice only once."""
    placed = {id(a): training.replicate(a, devices) for a in arrays if a is not None}
    return arrays._replace(
        **{name: placed[id(a)] for name, a in arrays._asdict().items() if a is not None}
    )
