"""Trainings of one method, one for each key, resumable at any checkpoint."""

import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import (
    checkpoints,
    digests,
    evaluation,
    health,
    programs,
    training,
)
from dann_jax.datasets.whole_files import whole
from dann_jax.programs import Group, group_keys
from experiments import (
    continuing,
    interruption,
    keeping,
    logs,
    predictions,
    processes,
    record,
    scores,
    trained,
    unlabelled,
)
from experiments.distances import distances
from experiments.pacing import Pace
from experiments.plan import resolved
from experiments.studies import Study

__all__ = ["LOG_EVERY", "Report", "train"]

ELSEWHERE = {"data", "processor"}  # of an origin: compared by itself, and may be another
LOG_EVERY = 50  # steps a call of the training program, and between two entries of the curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The state of a training, for progress displays."""

    group: Group
    key: int  # one of the group's
    step: int
    metrics: dict[str, float]  # means over the last steps; with penalties, NaN where not known
    mu: float
    source_accuracy: float | None = None  # at evaluations
    target_accuracy: float | None = None
    unlabelled: dict[str, Any] = dataclasses.field(default_factory=dict)  # as ``unlabelled``
    warnings: tuple[str, ...] = ()


def train(
    study: Study,
    keys: Sequence[int],
    folder: pathlib.Path,
    *,
    together: int | None = 1,
    devices_per_key: int | None = None,
    checkpoint_every: int = 5_000,
    checkpoint_minutes: float = 2.0,
    stop: int | None = None,
    log: Sequence[str] = (),
    report: Callable[[Report], None] = lambda report: None,
    advance: Callable[[Group, int], None] = lambda group, step: None,
) -> list[dict[str, Any]]:
    """Trains with each of the keys and returns their records: accuracies, curves, warnings, times.

    Records and checkpoints lie in ``folder/key_KEY``. A training that was cut off goes on from its
    last checkpoint, together with the keys it was begun with, and gives the same numbers as if it
    had not been. A key that is finished is not trained again. Keys are grouped by
    ``group_keys``. ``stop`` is a step to stop at, with the schedules of the full length.

    There is a checkpoint after each ``checkpoint_every`` steps, at an evaluation, at the latest
    after ``checkpoint_minutes``, and where a signal has come: then an ``Interruption`` is raised. A
    training that diverges ends there: its record says where, and has no accuracy.

    ``folder/metrics.jsonl``, and the other logs that are named, take a row for each entry of the
    curves, each once however often a training was cut off. ``advance`` hears of a group's step
    before its first update and when a call has ended.
    """
    records, begun = {key: record.read_record(folder, key) for key in keys}, {}
    for key, each in records.items():
        processes.check_agreement(each is not None and 1 + each["finished"], "records")
        if each is None:
            continue
        trained.check_same(study, each, folder / f"key_{key}", study.origin.keys() - ELSEWHERE)
        group = trained.group_of(each)
        if not each["finished"]:
            if not set(group.keys) <= set(keys):
                raise ValueError(
                    f"key {key} in {folder} was begun together with other keys "
                    f"({', '.join(map(str, group.keys))}): ask for all of them, choose another "
                    "--output, or --overwrite it"
                )
            begun |= dict.fromkeys(group.keys, group)
    new = [key for key in keys if records[key] is None and key not in begun]
    count = len(study.devices)
    todo = group_keys(new, count, together=together, devices_per_key=devices_per_key)
    limits = {"every": checkpoint_every, "minutes": checkpoint_minutes}
    logged = functools.partial(_logged, study, folder, log)
    _log_finished({key: each for key, each in records.items() if each}, logged)
    for group in (*dict.fromkeys(begun.values()), *todo):
        run = _Run(study, group, folder, (report, advance), logged=logged, **limits)
        after = run.train([records[key] for key in group.keys], stop)
        records |= dict(zip(group.keys, after, strict=True))
    return [records[key] for key in keys]


def _log_finished(records, logged):
    """Gives the logs all rows of the keys that are finished."""
    finished = {key: each for key, each in records.items() if each["finished"]}
    for group in dict.fromkeys(map(trained.group_of, finished.values())):
        own = {key: finished[key] for key in group.keys if key in finished}
        with logged(own, logs.rows(own)):
            pass


@contextlib.contextmanager
def _logged(study, folder, names, keys, rows):
    """Gives what logs a row of some keys, which have these rows so far."""
    if not processes.is_first():
        yield lambda row: None
        return
    settings = resolved(study.config, study.method)
    with logs.opened(folder, list(keys), rows, names=names, settings=settings) as write:
        yield write


class _Run:
    """The training of a group of keys as one program."""

    def __init__(self, study, group, folder, hear, *, logged, every, minutes):
        self.study, self.group, self.logged = study, group, logged
        self.report, self.advance = hear
        self.folders = [folder / f"key_{key}" for key in group.keys]
        self.checkpoints = checkpoints.Checkpoints(self.folders[0] / "checkpoint")  # of the group
        self.every, self.minutes = every, minutes  # steps and time between two checkpoints
        self.pace = Pace(LOG_EVERY, study.loops)
        self.pending = None  # metrics are read one call late: reading never holds the device up
        self.parts = []  # metrics of a call that is made in parts
        self.kept = {}  # step of each checkpoint -> the parts, so far, of the call that it is in
        self.next_look = 0  # step at which several processes agree again

    def train(self, records, stop):
        """Trains from the last checkpoint to a step and returns the records."""
        study, steps = self.study, self.study.steps
        stop = steps if stop is None else min(stop, steps)
        program = study.program(self.group)
        states, keys, done = self._restore(records)
        self.lap = self.saved = time.perf_counter()
        self.advance(self.group, done)
        with (
            self.logged(self.group.keys, self._rows_so_far()) as self.log,
            study.opened(self.group, keys, done) as data,
            interruption.held(),
        ):
            if self._lacks_evaluation(done):
                self._evaluate(states, done)
            while done < stop and self._goes_on():
                ends = ((done // n + 1) * n for n in (study.config.evaluate_every, LOG_EVERY))
                left = min(*ends, stop) - done
                count = min(left, self.pace.most)
                states, metrics = program(states, data, keys, count)
                done += count
                self._read()
                self._expect(done, metrics, completes=count == left)
                if self.pace.cuts:  # or a signal would have to wait for two long calls
                    self._read()
                self._look(states, done)
            self._read()  # where no look has
            self._lap("train_seconds")
            _check_equal(states)
            states = jax.device_get(states)
            self._check(states, done)
            if done < steps and self._goes_on():
                return self.records
            if processes.is_first():
                self._finish(states)
        return [each | {"finished": True} for each in self.records]

    def _restore(self, records):
        """Returns states, keys and the number of steps done; the records are as of that step."""
        states, keys = self.study.start(self.group)
        self.shapes = jax.eval_shape(lambda states: states, states)
        saved = self.checkpoints.restore(states) if all(records) else None
        if saved is not None and self._restore_records(records, int(np.ravel(saved.step)[0])):
            states = saved
        else:
            settings = resolved(self.study.config, self.study.method)
            states, starts = continuing.begun(self.study, self.group, states, settings)
            self.records = [trained.new_record(self.study, self.group) | of for of in starts]
        self.start = _first_step(self.records[0])
        done = int(np.ravel(states.step)[0])
        processes.check_agreement(done, "checkpoint")
        if len(self.group.keys) == 1:
            devices = self.study.devices[: self.group.devices_per_key]
            states = programs.replicate(states, devices)
        return states, keys, done

    def _restore_records(self, records, done):
        """Takes the records as of a step; returns whether they have all that belongs to it."""
        for each in records:
            each |= {"finished": False, "digests": None}
            each["origin"] = record.joined_origin([each["origin"], self.study.origin])
            late = each.get("diverged") and each["diverged"]["step"] > done
            each["diverged"] = None if late else each.get("diverged")
            for name in ("curves", "evaluations", "warnings"):
                each[name] = [_row(entry) for entry in each[name] if entry["step"] <= done]
        self.records = records
        ends = (each["curves"][-1]["step"] if each["curves"] else 0 for each in records)
        first = 1 + max(_first_step(records[0]), *ends)
        unfinished = [
            [_row(row) for row in each.get("unfinished", ()) if first <= row["step"] <= done]
            for each in records
        ]
        if {len(rows) for rows in unfinished} != {done + 1 - first}:
            return False
        if first <= done:
            self.parts = [_metrics(unfinished)]
        self.kept = {done: list(self.parts)}
        return True

    def _goes_on(self):
        return not all(each["diverged"] for each in self.records)

    def _expect(self, done, metrics, *, completes):
        """Keeps the metrics of the last steps to be read, with their means at the end of a call."""
        self.parts.append(metrics)
        means = None
        if completes:
            parts, self.parts = self.parts, []
            means = _means(_joined(parts, jnp.concatenate))
        self.pending = done, metrics, means

    def _read(self):
        """Finds what is not finite, and enters the means over a call into the curves."""
        if self.pending is None:
            return
        (done, metrics, means), self.pending = self.pending, None
        of_steps, means = map(self._by_key, jax.device_get((metrics, means)))
        steps = of_steps["lam"].shape[1]
        self.pace.end(steps)
        mu = float(self.study.mu(done - 1))
        self.advance(self.group, done)
        for i, each in enumerate(self.records):
            if each["diverged"]:
                continue
            # A sum that is not finite is one of the last step.
            values = {
                name: np.append(column[i], means[name][i] if means else ())
                for name, column in of_steps.items()
            }
            if place := health.first_not_finite(values):
                index, term = place
                self._diverge(i, done - steps + 1 + min(index, steps - 1), term)
            elif means:
                columns = {name: column[i].item() for name, column in means.items()}
                each["curves"].append(_ABSENT | _entry(done, columns, mu))
                self._show(i)
                if not self._evaluates(done):
                    self._log(i)

    def _by_key(self, metrics):
        """Returns metrics by name, those that are present, with a first axis of keys."""
        present = {} if metrics is None else metrics._asdict()
        present |= present.pop("penalties", {})
        return {
            name: np.reshape(values, (len(self.group.keys), -1))
            for name, values in present.items()
            if values is not training.ABSENT
        }

    def _log(self, i, evaluation=None):
        """Logs the last entry of a key's curves, and the evaluation at its step."""
        self.log(logs.row(self.group.keys[i], self.records[i]["curves"][-1], evaluation or {}))

    def _rows_so_far(self):
        """Returns the rows of all keys but those whose evaluation is still to come."""
        records = dict(zip(self.group.keys, self.records, strict=True))
        evaluated = {
            key: {entry["step"] for entry in each["evaluations"]} for key, each in records.items()
        }
        return [
            row
            for row in logs.rows(records)
            if not self._evaluates(row["step"])
            or row["step"] in evaluated[row["key"]]
            or records[row["key"]]["diverged"]
        ]

    def _show(self, i, **evaluation):
        """Reports on a key at the last entry of its curves."""
        metrics = _row(self.records[i]["curves"][-1])
        metrics |= metrics.pop("penalties", {})
        about = {name: metrics.pop(name) for name in ("step", "mu")}
        about |= {"group": self.group, "key": self.group.keys[i], "metrics": metrics}
        self.report(Report(**about, **evaluation))

    def _look(self, states, done):
        """Evaluates, saves, and ends after a signal, where it is time to."""
        every = self.study.config.evaluate_every
        number, due = self._agreed(done)
        if not (self._evaluates(done) or number or due):
            return
        self._read()
        self._lap("train_seconds")
        if self._evaluates(done) and not number:
            with contextlib.suppress(interruption.Interruption):
                self._evaluate(states, done)
            self._lap()
            self.next_look = done
            number, due = self._agreed(done)
            due = due or done % self.every < every
        if number or (due and done < self.study.steps):
            self._save(states, done)
        if number:
            processes.most([0])  # all wait until the first has saved
        if number and self._goes_on():
            keys = ", ".join(map(str, self.group.keys))
            raise interruption.Interruption(
                number,
                f"{self.study.method.name}, key {keys}, is saved at step {done:,} of "
                f"{self.study.steps:,}, and the same command goes on from there",
            )

    def _agreed(self, done):
        """Returns the number of a signal and whether it is time to save, alike in all processes."""
        if jax.process_count() > 1 and done < self.next_look:
            return 0, False
        elapsed = time.perf_counter() - self.saved
        own = interruption.received(), 1e3 * elapsed, 1e6 * self.pace.seconds
        number, milliseconds, microseconds = processes.most([int(each) for each in own])
        step = microseconds / 1e6
        self.pace.adjust(step)
        self.next_look = done + (math.ceil(1 / step) if step else 1)  # in a second or so
        # A call is on its way, and one more may be before the next look.
        return number, milliseconds / 1e3 + 2 * self.pace.most * step >= 60 * self.minutes

    def _evaluates(self, done):
        return done % self.study.config.evaluate_every == 0 or done == self.study.steps

    def _lacks_evaluation(self, done):
        """Returns whether a signal came before the evaluation at a step had ended."""
        return (
            done > self.start
            and self._evaluates(done)
            and any(
                not each["diverged"] and all(e["step"] != done for e in each["evaluations"])
                for each in self.records
            )
        )

    def _evaluate(self, states, step):
        """Enters the accuracies of all keys, or of none where a signal comes."""
        study, views = self.study, jax.device_get(self.study.evaluated(states))
        outputs, measured = {}, {}
        with interruption.raised():
            for i, each in enumerate(self.records):
                if not each["diverged"]:
                    state = jax.device_put(self._of_one(views, i), study.home)
                    outputs[i] = {  # the target last
                        name: study.outputs(evaluation.predict, state, name) for name in study.tests
                    }
                    measured[i] = scores.measured(study, state)
                    if study.config.divergence:
                        measured[i] |= distances(study, state, self.group.keys[i])
        for i, of_sets in outputs.items():
            if not all(np.isfinite(logits).all() for logits, _ in of_sets.values()):
                self._diverge(i, step, "logits")
                self._log(i)
            else:
                self._enter(i, step, of_sets, measured[i])

    def _enter(self, i, step, outputs, measured):
        """Enters the accuracies of a key, from logits and labels of each test set, and the rest."""
        study, each = self.study, self.records[i]
        accuracy = {f"{name}_accuracy": evaluation.evaluate(*of) for name, of in outputs.items()}
        classes, normalization = len(study.pair.class_names), study.config.normalization
        warnings = health.symptoms(each["curves"][-1], classes=classes, normalization=normalization)
        each["warnings"] += [{"step": step, "warning": text} for text in warnings]
        said = unlabelled.measured(*outputs["target"], study.pair.class_names)
        each["evaluations"].append({"step": step, **accuracy, **said, **measured})
        each |= accuracy
        self._log(i, each["evaluations"][-1])
        last = step == study.steps
        if last and study.pair.target_files is not None and processes.is_first():
            rows = [(study.pair.target_files, outputs["target"][0])]
            path = self.folders[i] / "predictions.csv"
            with whole(path) as temporary, temporary.open("w", **predictions.TEXT) as file:
                predictions.write(file, study.pair.class_names, rows)
        self._show(i, warnings=tuple(warnings), unlabelled=said, **accuracy)

    def _diverge(self, i, step, term):
        """Enters where the training of a key has diverged; the others of its group go on."""
        saved = max(self.kept, default=None)
        self.records[i] |= {
            "diverged": {"step": step, "term": term, "checkpoint": saved},
            "source_accuracy": None,
            "target_accuracy": None,
        }
        if saved is not None and len(self.group.keys) > 1 and processes.is_first():
            state = self._of_one(self.checkpoints.restore(self.shapes, saved), i)
            checkpoints.Checkpoints(self.folders[i] / "last_checkpoint").save(saved, state)

    def _check(self, states, done):
        """Finds keys whose state, in NumPy, is not finite."""
        for i, each in enumerate(self.records):
            term = None if each["diverged"] else health.part_not_finite(self._of_one(states, i))
            if term:
                self._diverge(i, done, term)

    def _of_one(self, states, i):
        """Returns the state of one key; alone, it has no axis of keys."""
        return states if len(self.group.keys) == 1 else jax.tree.map(lambda x: x[i], states)

    def _lap(self, *names):
        """Adds the seconds since the last lap to the records, its share to each."""
        last, self.lap = self.lap, time.perf_counter()
        self.pace.start()
        for each in self.records:
            for name in (*names, "wall_seconds"):
                each[name] += (self.lap - last) / len(self.records)

    def _save(self, states, done):
        """Writes a checkpoint, of finite numbers only."""
        states = jax.device_get(states)
        self._check(states, done)
        if self._goes_on():
            self.kept = dict([*self.kept.items(), (done, jax.device_get(self.parts))][-2:])
            if processes.is_first():
                self._write(finished=False)
                self.checkpoints.save(done, self._without_diverged(states))
        self.saved = time.perf_counter()
        self._lap()

    def _without_diverged(self, states):
        """Returns states with zeros for the keys of a group that have diverged."""
        lost = [i for i, each in enumerate(self.records) if each["diverged"]]

        def cleared(x):
            if not lost or not jnp.issubdtype(x.dtype, jnp.inexact):
                return x
            x = np.array(x)
            x[lost] = 0
            return x

        return jax.tree.map(cleared, states)

    def _write(self, **entries):
        for i, (folder, each) in enumerate(zip(self.folders, self.records, strict=True)):
            rows = {}  # of all checkpoints that there are while the next one is written
            for step, parts in () if entries["finished"] else self.kept.items():
                rows |= {row["step"]: row for row in self._rows(i, step, parts)}
            each["unfinished"] = list(rows.values())
            record.write_checked(folder / "record.json", each | entries)

    def _rows(self, i, last, parts):
        """Returns the metrics of the steps of a key in parts of a call, which end with a step."""
        if not parts:
            return []
        columns = {
            name: column[i].tolist()
            for name, column in self._by_key(_joined(parts, np.concatenate)).items()
        }
        steps = range(last + 1 - len(columns["lam"]), last + 1)
        return [
            _entry(
                step,
                {name: column[n] for name, column in columns.items()},
                float(self.study.mu(step - 1)),
            )
            for n, step in enumerate(steps)
        ]

    def _finish(self, states):
        """Writes the records of all keys, and the states of those that have not diverged."""
        for i, (folder, each) in enumerate(zip(self.folders, self.records, strict=True)):
            if not each["diverged"]:
                state = self._of_one(states, i)
                checkpoints.save(folder / "state", state)
                keeping.keep(self.study, state, folder)
                each["digests"] = record.training_digests(state, each)
        for finished in (False, True):  # all of the group are there before one of it is finished
            self._write(finished=finished)
        if self._goes_on() or len(self.group.keys) > 1:  # else it is the last good one
            self.checkpoints.delete()


_NAMES = [name for name in training.Metrics._fields if name != "penalties"]
_ABSENT = dict.fromkeys(["step", *_NAMES], training.ABSENT)  # a domain branch, say


def _entry(step, metrics, mu):
    """Returns an entry of a record, with what the objective adds as its penalties."""
    penalties = {name: value for name, value in metrics.items() if name not in _NAMES}
    known = {name: value for name, value in metrics.items() if name in _NAMES}
    return {"step": step, **known, "mu": mu} | ({"penalties": penalties} if penalties else {})


def _first_step(record):
    """Returns the step that a training began with: 0, or that of the one that it goes on from."""
    return (record.get("continued") or {"step": 0})["step"]


def _row(entry):
    """Returns an entry of a record with NaN for what is not known, as before it was written."""
    return {
        name: _row(value) if isinstance(value, dict) else math.nan if value is None else value
        for name, value in entry.items()
    }


def _metrics(rows):
    """Returns what ``_Run._rows`` was given, of one key or of all keys of a group."""
    flat = [[row | row.get("penalties", {}) for row in of_key] for of_key in rows]
    names = [*(n for n in _NAMES if n in flat[0][0]), *flat[0][0].get("penalties", {})]
    columns = {}
    for name in names:
        of_keys = np.array([[row[name] for row in of_key] for of_key in flat], np.float32)
        columns[name] = of_keys if len(rows) > 1 else of_keys[0]
    penalties = {name: columns.pop(name) for name in names if name not in _NAMES}
    absent = dict.fromkeys(_NAMES, training.ABSENT)
    return training.Metrics(**absent | columns, penalties=penalties)


def _joined(parts, concatenate):
    """Returns the metrics of the parts of a call, of all its steps."""
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *of_parts: concatenate(of_parts, -1), *parts)


def _check_equal(states):
    """Raises where devices, or processes, that have trained as one do not hold the same."""
    programs.check_replicated(states)
    if jax.process_count() > 1:
        number = int(digests.digest(states)[:8], 16)
        advice = "give all of them the same versions of the packages and devices of the same kind"
        processes.check_agreement(number, "numbers at the end of a training", advice)


@jax.jit
def _means(metrics):
    """Returns means over the steps of a call, on the device."""
    return jax.tree.map(lambda values: jnp.mean(values, -1), metrics)
