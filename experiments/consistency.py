"""Whether the entries of a result file, or of a record, contradict each other."""

import dataclasses
import functools
import itertools
import math
import pathlib
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dann_jax import __version__, selection
from experiments import choice, configs
from experiments.methods import METHODS
from experiments.options import OTHER_CALLS, command_words
from experiments.schema import (
    AlignmentResult,
    DomainLoss,
    Fault,
    Record,
    TrainingResult,
    shown,
    typed,
)
from experiments.settings import Config

__all__ = ["mean_and_std", "record_faults", "result_faults"]

DIGITS = 1e-5  # relative: more than what the six digits of a curve leave out
SUMMARIES = {  # prefix of the mean and the deviation -> accuracy of each key
    "": "target_accuracy",
    "svm_": "svm_accuracy",
    "oracle_": "oracle_accuracy",
}
BY_COMPONENTS = "by_components.target_accuracy"
NESTED = ("penalties", "scores", "predicted")  # columns by what objectives add, rules and classes
SURENESS = ("target_confidence", "target_entropy", "predicted")  # of a target without labels
PENALTIES = "penalties."  # before these names
FEW_LABELS, HELD_OUT = "few labels", "held out"  # entries of data
PACKAGES = ("dann_jax", "python", "jax", "jaxlib", "flax", "optax", "numpy")  # of every training
LONGEST = 10_000_000  # updates whose schedules are compared


def result_faults(content: dict[str, Any]) -> list[Fault]:
    """Returns what keeps the content of a result file from being whole and consistent."""
    name = content.get("method")
    if "method" in content and name not in list(METHODS):
        return [_unknown_method("method", name)]
    aligns = "method" in content and METHODS[name].aligns
    result, faults = typed(AlignmentResult if aligns else TrainingResult, content)
    if result is None:
        return faults
    of_kind = [each(result) for each in _OF_TRAININGS]
    return _first(
        _of_lists(result),
        _of_settings(result.resolved_config, "resolved_config"),
        _of_data(result, result.resolved_config, "data"),
        _of_result(result),
        *([_of_alignment(result)] if aligns else of_kind),
        _of_accuracies(result),
    )


def record_faults(content: dict[str, Any], key: int) -> list[Fault]:
    """Returns what keeps the content of a key's record from being whole and consistent."""
    record, faults = typed(Record, content)
    if record is None:
        return faults
    if record.settings.method not in METHODS:
        return [_unknown_method("settings.method", record.settings.method)]
    return _first(
        _of_settings(record.settings, "settings"),
        _of_data(record.origin, record.settings, "origin.data"),
        _of_record(record, key),
    )


def _unknown_method(entry, name):
    return Fault(entry, f"one of {', '.join(METHODS)}", shown(name))


def _first(*checks: Iterable[Fault]) -> list[Fault]:
    """Returns what the first check yields that yields any: those after it suppose there is none."""
    return next((faults for check in checks if (faults := list(check))), [])


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns mean and sample standard deviation (None of one value); NaN where a value is."""
    if any(map(math.isnan, values)):
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _close(a, b, tolerance=1e-9):
    return a == b if a is None or b is None else math.isclose(a, b, rel_tol=tolerance)


# --- settings and data


def _config(settings) -> Config:
    """Returns the settings of a file, without the place of the weights."""
    return Config(**settings.model_dump(exclude={"method", "weights"}))


def _of_settings(settings, entry):
    """Yields settings that do not fit each other."""
    try:
        _config(settings)
    except ValueError as error:
        yield Fault(entry, "settings that fit each other", str(error))
    if (settings.backbone is None) != (settings.weights is None):
        expected = "null" if settings.backbone is None else "the weights of the backbone"
        yield Fault(f"{entry}.weights", expected, shown(settings.weights))


def _of_data(origin, settings, entry):
    """Yields data sets that the settings do not name, or that are missing, and no version."""
    for name in PACKAGES:
        if name not in origin.versions:
            yield Fault(f"versions.{name}", "the version that made the file", "none")
    expected = [_data_names(settings, domain, use) for domain, use in _SPLITS]
    if settings.few_labels is not None:
        expected.append([FEW_LABELS])
    for names in expected:
        if not set(names) & origin.data.keys():
            yield Fault(f"{entry}.{names[0]}", "an entry, as the settings name it", "none")
    for name in sorted(origin.data.keys() - {name for names in expected for name in names}):
        yield Fault(f"{entry}.{name}", "only data that the settings name", shown(origin.data[name]))


_SPLITS = [(domain, use) for domain in ("source", "target") for use in ("train", "test")]


def _data_names(settings, domain, use):
    """Returns what an entry of data may be called: as a data set, or as a folder."""
    name, split = getattr(settings, domain), getattr(settings, f"{domain}_{use}")
    folder = f"{domain}:{pathlib.Path(name).name}"
    instead = [f"{folder}/train"] * (split == "test")  # where a folder has no such part
    if instead and domain == "source" and settings.held_out:
        instead.append(f"{folder}/{HELD_OUT}")
    return [f"{name}/{split}", f"{folder}/{split}", *instead]


def _examples(result, domain):
    """Returns how many test images an accuracy is of; None where some may have no label."""
    name, *others = _data_names(result.resolved_config, domain, "test")
    names = [name, *(other for other in others if other.endswith(f"/{HELD_OUT}"))]
    return next((result.data[name].examples for name in names if name in result.data), None)


# --- results


def _of_lists(result):
    """Yields lists without one entry for each key, and keys that do not follow each other."""
    count, first = len(result.keys), result.keys[0]
    if result.keys != list(range(first, first + count)):
        yield Fault("keys", "each key once, in order, without gaps", shown(result.keys))
    lists = {name: getattr(result, name) for name in _PER_KEY if name in result.model_fields_set}
    for name, values in result.svm or ():
        if isinstance(values, list) and name != "C_grid":
            lists[f"svm.{name}"] = values
    if isinstance(result, AlignmentResult):
        lists[BY_COMPONENTS] = result.by_components.target_accuracy
    for name, values in lists.items():
        if len(values) != count:
            yield Fault(name, f"an entry for each of {count} keys", f"{len(values)}")


_PER_KEY = (
    *("target_accuracy", "source_accuracy", "diverged", "digests", "warnings", "curves"),
    *("continued", "svm_accuracy", "components", "oracle_accuracy", "oracle_components"),
)


def _of_result(result):
    """Yields what is not as the settings say, and a command that does not make the file."""
    method, config = METHODS[result.method], _config(result.resolved_config)
    weighted = DomainLoss(normalization=config.normalization, weight=config.domain_weight)
    expected = {
        "method": result.resolved_config.method,
        "source": config.source,
        "target": config.target,
        "batch_size": config.batch_size,
        "domain_loss": weighted if method.adversarial else None,
        "steps": method.steps(config),
    }
    for name, value in expected.items():
        if getattr(result, name) != value:
            got = shown(getattr(result, name))
            yield Fault(name, f"{shown(value)}, that of resolved_config", got)
    if result.selection != method.selection:
        expected = f"{shown(method.selection)}, that of {method.name}"
        yield Fault("selection", expected, shown(result.selection))
    if result.process_count > result.device_count:
        most = f"at most the device_count {result.device_count}"
        yield Fault("process_count", most, shown(result.process_count))
    yield from _of_svm(result)
    yield from _of_command(result, config)


def _of_svm(result):
    """Yields what the SVM of a key cannot have, and what is missing of it."""
    if result.svm is None:
        return
    for name in ("C", "validation_accuracy", "converged"):
        values = getattr(result.svm, name)
        for i, (value, diverged) in enumerate(zip(values, result.diverged, strict=True)):
            if (value is None) != (diverged is not None):
                expected = "a value" if diverged is None else "null, as the training diverged"
                yield Fault(f"svm.{name}[{i}]", expected, shown(value))
            elif name == "C" and value is not None and value not in result.svm.C_grid:
                yield Fault(f"svm.C[{i}]", "one of svm.C_grid", shown(value))


def _of_command(result, config):
    try:
        usual, _ = configs.find_config(result.config)
    except ValueError:
        yield Fault("config", "a name of experiments.run --list", shown(result.config))
        return
    # The configs of another version may have had other settings.
    same_version = result.versions["dann_jax"] == __version__
    makes = [config if same_version else usual]
    if same_version and config.backbone:  # the weights may be those of the installed package
        file = pathlib.Path(result.resolved_config.weights.file)
        makes.append(dataclasses.replace(config, weights=file))
    makes = [command_words(result.config, result.method, result.keys, each) for each in makes]
    if not any(
        f"{result.command} ".startswith(f"{words} ")
        and (not same_version or _groups_keys(result.command.removeprefix(words), result))
        for words in makes
    ):
        expected = f"{shown(makes[0])}, and what makes the groups"
        yield Fault("command", expected, shown(result.command))


_GROUPING = re.compile(r"(?: --together ([1-9]\d{0,9}))?(?: --devices-per-key ([1-9]\d{0,9}))?")


def _groups_keys(words, result):
    """Returns whether the words at the end of a command can make the groups of the result."""
    groups = getattr(result, "groups", ())
    if words == OTHER_CALLS:
        return bool(groups)
    match = _GROUPING.fullmatch(words)
    together, each = match.groups() if match else (0, None)
    return match is not None and all(
        len(group.keys) <= int(together or len(group.keys))
        and group.devices_per_key == int(each or group.devices_per_key)
        for group in groups
    )


def _of_accuracies(result):
    """Yields accuracies that are none, or that no number of examples gives, and other means."""
    for name, values, domain in _accuracies(result):
        examples = _examples(result, domain)
        lacks = _lacks(result, domain)
        for i, value in enumerate(values):
            if (value is None) != lacks[i]:
                expected = "null, as the training diverged or there are no labels"
                yield Fault(f"{name}[{i}]", expected if lacks[i] else "an accuracy", shown(value))
            yield from _of_share(f"{name}[{i}]", value, examples)
    for prefix, name in SUMMARIES.items():
        values = getattr(result, name, [])
        expected = (None, None) if None in values or not values else mean_and_std(values)
        for part, value in zip(("mean", "std"), expected, strict=True):
            got = getattr(result, f"{prefix}{part}", None)
            if not _close(got, value):
                yield Fault(f"{prefix}{part}", f"{shown(value)}, that of {name}", shown(got))


def _accuracies(result):
    """Returns the accuracies of each key: their names, values and domains."""
    every = [
        ("target_accuracy", result.target_accuracy, "target"),
        ("source_accuracy", result.source_accuracy, "source"),
    ]
    if isinstance(result, AlignmentResult):
        return [*every, ("oracle_accuracy", result.oracle_accuracy, "target")]
    if result.svm is not None:
        every += [
            ("svm_accuracy", result.svm_accuracy, "target"),
            ("svm.source_accuracy", result.svm.source_accuracy, "source"),
        ]
    return every


def _lacks(result, domain):
    """Returns whether each key has no accuracy: it diverged, or nothing has labels."""
    if isinstance(result, AlignmentResult):
        usual = [False] * len(result.keys)
    else:
        columns = [getattr(c.evaluations, f"{domain}_accuracy") for c in result.curves]
        usual = [bool(column) and set(column) == {None} for column in columns]
    return [
        each if diverged is None else True
        for each, diverged in zip(usual, result.diverged, strict=True)
    ]


def _of_share(entry, value, examples, tolerance=1e-9):
    """Yields an accuracy that is not a number of examples divided by that of all of them."""
    if value is None or examples is None:
        return
    right = value * examples
    if abs(right - round(right)) > max(tolerance * right, 1e-6):
        yield Fault(entry, f"a multiple of 1/{examples}, the test examples", shown(value))


# --- trainings


def _of_continued(result):
    """Yields what a training began with although it is not to, or the other way round."""
    run = result.resolved_config.continue_from
    if (run is None) != (not result.continued):
        expected = "none" if run is None else "an entry for each key, as continue_from says"
        yield Fault("continued", expected, shown(result.continued))
    for i, each in enumerate(result.continued):
        if each.step >= result.steps:
            yield Fault(f"continued[{i}].step", f"less than {result.steps}", shown(each.step))


def _first_step(result, i):
    return result.continued[i].step if result.continued else 0


def _of_training(result):
    yield from _of_groups(result)
    if result.programs_from_cache > result.programs_compiled:
        most = f"at most the {result.programs_compiled} programs_compiled"
        yield Fault("programs_from_cache", most, shown(result.programs_from_cache))
    of_svm = {"svm", "svm_accuracy", "svm_mean", "svm_std"}
    missing = sorted(of_svm - result.model_fields_set)
    if 0 < len(missing) < len(of_svm):
        yield Fault(missing[0], "an entry, as there are others of SVMs", "none")
    if not missing and result.svm is None:
        yield Fault("svm", "an object, as there are accuracies of SVMs", "null")
    for i, warnings in enumerate(result.warnings):
        yield from _of_warnings(f"warnings[{i}]", warnings, result.steps)


def _of_groups(result):
    keys = [key for group in result.groups for key in group.keys]
    others = [] if result.command.endswith(OTHER_CALLS) else set(keys) - set(result.keys)
    if len(set(keys)) < len(keys) or not set(result.keys) <= set(keys) or others:
        expected = f"groups with each of the keys {shown(result.keys)} once"
        yield Fault("groups", expected, shown([group.keys for group in result.groups]))
    for i, group in enumerate(result.groups):
        if group.devices_per_key > result.device_count:
            most = f"at most the device_count {result.device_count}"
            yield Fault(f"groups[{i}].devices_per_key", most, shown(group.devices_per_key))
        if not set(group.keys) & set(result.keys):
            yield Fault(f"groups[{i}].keys", "one of the keys", shown(group.keys))


def _of_warnings(entry, warnings, steps):
    for i, each in enumerate(warnings):
        if each.step > steps:
            yield Fault(f"{entry}[{i}].step", f"at most the last step {steps}", shown(each.step))


def _of_steps(result):
    """Yields steps of curves that are not those at which a training has entries."""
    every = result.resolved_config.evaluate_every
    for i, (curves, diverged) in enumerate(zip(result.curves, result.diverged, strict=True)):
        for part, columns in curves:
            yield from _of_columns(f"curves[{i}].{part}", columns)
            end = columns.step[-1] if columns.step else 0
            yield from _of_end(f"curves[{i}].{part}.step", end, result.steps, diverged)
        evaluated, before = curves.evaluations.step, _first_step(result, i) // every
        for j, step in enumerate(evaluated):
            if step != (expected := min((before + j + 1) * every, result.steps)):
                place = f"curves[{i}].evaluations.step[{j}]"
                yield Fault(place, f"{expected}, as evaluate_every says", shown(step))
        least = math.ceil(result.steps / every)
        if diverged is not None:
            least = (diverged.step - 1) // every
        least -= before
        if len(evaluated) < least:
            expected = f"at least {least} evaluations, one every {every} steps"
            yield Fault(f"curves[{i}].evaluations.step", expected, f"{len(evaluated)}")
        if missing := sorted(set(evaluated) - set(curves.training.step)):
            yield Fault(f"curves[{i}].training.step", f"an entry at step {missing[0]}", "none")


def _of_columns(entry, columns):
    for name, values in _by_name(columns, columns.model_fields_set):
        count = len(values)
        if count != len(columns.step):
            expected = f"{len(columns.step)} entries, as many as steps"
            yield Fault(f"{entry}.{name}", expected, f"{count}")
    for i, (step, after) in enumerate(itertools.pairwise(columns.step), 1):
        if after <= step:
            yield Fault(f"{entry}.step[{i}]", f"more than the step before, {step}", shown(after))


def _by_name(columns, names):
    """Returns columns of these names but that of the steps; nested ones each by themselves."""
    every = [(name, getattr(columns, name)) for name in sorted(names - {"step", *NESTED})]
    for nested in NESTED:
        of_names = getattr(columns, nested, {})
        every += [(f"{nested}.{name}", values) for name, values in of_names.items()]
    return every


def _of_end(entry, end, steps, diverged):
    if end > steps or (end < steps and diverged is None):
        yield Fault(entry, f"a last step of {steps}", shown(end))


def _of_curves(result):
    """Yields columns of a method without, and numbers that are not finite before a divergence."""
    method = METHODS[result.method]
    for i, (curves, diverged) in enumerate(zip(result.curves, result.diverged, strict=True)):
        training, entry = curves.training, f"curves[{i}].training"
        end = math.inf if diverged is None else diverged.step
        if diverged is not None and diverged.step > result.steps:
            yield Fault(f"diverged[{i}].step", f"at most {result.steps}", shown(diverged.step))
        for name, column in _by_name(training, type(training).model_fields.keys()):
            known = any(value is not None for value in column)
            if name in _OF_DOMAINS and not method.adversarial:
                if known:
                    expected = f"null, as {method.name} has no domain branch"
                    yield Fault(f"{entry}.{name}", expected, shown(column))
            elif known or name in _ALWAYS or name.startswith(PENALTIES):  # else it does not apply
                for j, step in enumerate(training.step):
                    if step < end and (not column or column[j] is None):
                        expected = f"a number at step {step}, as nothing diverged by then"
                        yield Fault(f"{entry}.{name}[{j}]", expected, "null")
        if training.step:
            yield from _of_penalties(entry, training, method)
        yield from _of_schedules(entry, training, result, (_first_step(result, i), end))
        yield from _of_evaluations(f"curves[{i}].evaluations", result, i)
        if curves.evaluations.step:
            there = {name for name in _DISTANCES if getattr(curves.evaluations, name)}
            entry = f"curves[{i}].evaluations"
            yield from _of_distances(entry, there, method, result.resolved_config)


_OF_DOMAINS = ("domain_loss", "domain_accuracy")
_ALWAYS = ("label_loss", "domain_loss", "lam")  # of a method that has any


def _of_penalties(entry, row, method):
    """Yields what a method does not add to L_y and L_d, and what is missing of that it does."""
    if row.penalties.keys() != set(method.penalties):
        expected = f"{', '.join(method.penalties) or 'none'}, as {method.name} adds"
        yield Fault(f"{entry}.penalties", expected, shown(list(row.penalties)))


def _of_schedules(entry, training, result, between):
    """Yields a learning rate or a lambda that the settings do not give at its step."""
    begin, end = between
    config = result.resolved_config
    last = training.step[-1] if training.step else 0
    if last > LONGEST:
        return
    horizon, of_lam = config.lambda_horizon or result.steps, (config.gamma, config.lambda_max)
    of_mu = (config.mu0, config.alpha, config.beta), (config.drop_at, config.drop_factor)
    mu, lam = _schedules(last, result.steps, horizon, of_lam, of_mu)
    rounding = {"mu": _ROUNDING, "lam": _ROUNDING * max(1.0, config.lambda_max)}
    for j, (start, step) in enumerate(itertools.pairwise([begin, *training.step])):
        means = {"mu": mu[step - 1], "lam": (lam[step] - lam[start]) / (step - start)}
        for name, expected in means.items():
            got = (getattr(training, name) or [None] * (j + 1))[j]
            tolerances = {"rel_tol": DIGITS, "abs_tol": rounding[name]}
            near = got is None or math.isclose(got, expected, **tolerances)
            if step < end and not near:
                expected = f"{expected:.6g}, as the settings say at step {step}"
                yield Fault(f"{entry}.{name}[{j}]", expected, shown(got))


_ROUNDING = 2.5e-7  # of a lambda_p near 0, in float32


@functools.lru_cache(maxsize=8)
def _schedules(last, steps, horizon, of_lam, of_mu):
    """Returns mu at each step up to the last, and the sum of lambda before each.

    They are those of ``dann_jax.schedules``, in NumPy: files are read before several processes
    find each other, and JAX must not have computed anything by then.
    """
    (gamma, most), ((mu0, alpha, beta), (drop_at, drop_factor)) = of_lam, of_mu

    def progress(end):
        return np.minimum(np.arange(last, dtype=np.float32) / np.float32(end), np.float32(1))

    with np.errstate(over="ignore"):
        lam = most * (2 / (1 + np.exp(-gamma * progress(horizon).astype(float))) - 1)
    p = progress(steps)
    mu = mu0 / (1 + alpha * p.astype(float)) ** beta
    mu = np.where(p < np.float32(drop_at), mu, drop_factor * mu)
    return mu, np.concatenate([[0.0], np.cumsum(lam)])


def _of_evaluations(entry, result, i):
    """Yields accuracies that no number of examples gives, or that are not those of the result."""
    evaluations, diverged = result.curves[i].evaluations, result.diverged[i]
    end = math.inf if diverged is None else diverged.step
    for domain in ("source", "target"):
        name = f"{domain}_accuracy"
        column, examples = getattr(evaluations, name), _examples(result, domain)
        known = any(value is not None for value in column)
        for j, (step, value) in enumerate(zip(evaluations.step, column, strict=True)):
            yield from _of_share(f"{entry}.{name}[{j}]", value, examples, DIGITS / 2)
            if known and step < end and value is None:
                yield Fault(f"{entry}.{name}[{j}]", "an accuracy, as there are labels", "null")
        accuracy = getattr(result, name)[i]
        if diverged is None and not _close(accuracy, column[-1], DIGITS):
            expected = f"{shown(column[-1])}, that of the last evaluation"
            yield Fault(f"{name}[{i}]", expected, shown(accuracy))
    if evaluations.step:
        yield from _of_scores(entry, evaluations, result.resolved_config)
        yield from _of_predicted(entry, evaluations)


def _of_scores(entry, row, settings):
    """Yields scores of a rule that was not asked for, and what is missing of one that was."""
    if row.scores.keys() != set(settings.select):
        expected = f"{', '.join(settings.select) or 'none'}, as select says"
        yield Fault(f"{entry}.scores", expected, shown(list(row.scores)))
    classes = math.inf if settings.classes is None else settings.classes
    for rule, (low, high) in selection.ranges(classes).items():
        scores = row.scores.get(rule)
        for score in scores if isinstance(scores, list) else [scores]:
            if score is not None and not low - DIGITS <= score <= high + DIGITS:
                expected = f"a number from {low:.4g} to {high:.4g}"
                yield Fault(f"{entry}.scores.{rule}", expected, shown(score))


def _of_predicted(entry, evaluations):
    """Yields what is said of the predictions although there are labels, or is not whole."""
    there = {name: bool(getattr(evaluations, name)) for name in SURENESS}
    labelled = any(value is not None for value in evaluations.target_accuracy)
    for name, is_there in there.items():
        if is_there != (any(there.values()) and not labelled):
            expected = "none, as there are labels" if labelled else "one, as there are others"
            yield Fault(f"{entry}.{name}", expected, "one" if is_there else "none")
    totals = [sum(counts) for counts in zip(*evaluations.predicted.values(), strict=True)]
    for j, total in enumerate(totals):
        if total != totals[0]:
            expected = f"{totals[0]} images, as at the first evaluation"
            yield Fault(f"{entry}.predicted", expected, f"{total} at step {evaluations.step[j]}")


def _of_selected(result):
    """Yields steps that the rules do not choose, and other accuracies than those at the steps."""
    rules = result.resolved_config.select
    names = [*rules, choice.ORACLE] if rules else []
    if sorted(result.selected) != sorted(names):
        yield Fault("selected", ", ".join(names) or "none, as select", shown([*result.selected]))
        return
    for name, selected in result.selected.items():
        entry, accuracies = f"selected.{name}", selected.target_accuracy
        for part, values in (("step", selected.step), ("target_accuracy", accuracies)):
            if len(values) != len(result.keys):
                expected = f"an entry for each of {len(result.keys)} keys"
                yield Fault(f"{entry}.{part}", expected, f"{len(values)}")
                return
        for i, (curves, diverged) in enumerate(zip(result.curves, result.diverged, strict=True)):
            columns, place = curves.evaluations, None
            if diverged is None:
                place = choice.chosen(columns.model_dump(), name)
            step = None if place is None else columns.step[place]
            accuracy = None if place is None else columns.target_accuracy[place]
            if selected.step[i] != step:
                yield Fault(f"{entry}.step[{i}]", shown(step), shown(selected.step[i]))
            elif not _close(accuracies[i], accuracy, DIGITS):
                expected = f"{shown(accuracy)}, that at the step"
                yield Fault(f"{entry}.target_accuracy[{i}]", expected, shown(accuracies[i]))
        expected = (None, None) if None in accuracies else mean_and_std(accuracies)
        for part, value in zip(("mean", "std"), expected, strict=True):
            if not _close(getattr(selected, part), value):
                expected = f"{shown(value)}, that of the accuracies"
                yield Fault(f"{entry}.{part}", expected, shown(getattr(selected, part)))


def _of_distances(entry, there, method, settings):
    """Yields distances between the domains that are missing, or were not asked for."""
    known = _DISTANCES if method.adversarial else _DISTANCES[:1]
    for name in _DISTANCES:
        expected = settings.divergence and name in known
        if (name in there) != expected:
            words = f"as {method.name} logs it" if expected else "as it is not logged"
            got = "none" if expected else "one"
            yield Fault(f"{entry}.{name}", f"{'a number' if expected else 'none'}, {words}", got)


_DISTANCES = ("proxy_a_distance", "discriminator_bound")  # of all, and where G_d is trained


_OF_TRAININGS = _of_continued, _of_training, _of_steps, _of_curves, _of_selected


# --- closed forms


def _of_alignment(result):
    """Yields picks that are not those of the table by the number of components."""
    table = result.by_components
    if None in result.diverged and result.svm.features is None:
        yield Fault("svm.features", "their number", "none")
    picks = (
        ("components", "target_accuracy", result.components, result.target_accuracy),
        ("oracle_components", "oracle_accuracy", result.oracle_components, result.oracle_accuracy),
    )
    for i, diverged in enumerate(result.diverged):
        row = table.target_accuracy[i]
        if diverged is not None:
            of_key = (row, result.components[i], result.oracle_components[i])
            if of_key != (None, None, None):
                yield Fault(f"{BY_COMPONENTS}[{i}]", "null, as the training diverged", shown(row))
            continue
        if row is None or len(row) != len(table.components):
            expected = f"{len(table.components)} accuracies, one for each of by_components"
            yield Fault(f"{BY_COMPONENTS}[{i}]", expected, shown(row))
            continue
        by_components = dict(zip(table.components, row, strict=True))
        if not row:  # each key has one number of its own
            by_components = {result.components[i]: result.target_accuracy[i]}
        for name, of, components, accuracies in picks:
            if components[i] not in by_components:
                expected = "one of by_components.components"
                yield Fault(f"{name}[{i}]", expected, shown(components[i]))
            elif accuracies[i] != by_components[components[i]]:
                expected = f"{by_components[components[i]]}, that of {components[i]} components"
                yield Fault(f"{of}[{i}]", expected, shown(accuracies[i]))
        best = max(by_components.values())
        if result.oracle_accuracy[i] != best:
            expected = f"{shown(best)}, the best of by_components"
            yield Fault(f"oracle_accuracy[{i}]", expected, shown(result.oracle_accuracy[i]))
        for j, value in enumerate(row):
            yield from _of_share(f"{BY_COMPONENTS}[{i}][{j}]", value, _examples(result, "target"))


# --- records


def _of_record(record, key):
    """Yields what contradicts itself in the record of a key."""
    method = METHODS[record.settings.method]
    steps = method.steps(_config(record.settings))
    if key not in record.together or len(set(record.together)) < len(record.together):
        yield Fault("together", f"distinct keys, {key} among them", shown(record.together))
    yield from _of_warnings("warnings", record.warnings, steps)
    for name, rows in (("curves", record.curves), ("unfinished", record.unfinished)):
        for i, row in enumerate(rows):
            yield from _of_penalties(f"{name}[{i}]", row, method)
    for i, row in enumerate(record.evaluations):
        yield from _of_scores(f"evaluations[{i}]", row, record.settings)
    for name, rows in (("curves", record.curves), ("evaluations", record.evaluations)):
        for i, (row, after) in enumerate(itertools.pairwise(rows), 1):
            if after.step <= row.step:
                expected = f"more than the step before, {row.step}"
                yield Fault(f"{name}[{i}].step", expected, shown(after.step))
        end = rows[-1].step if rows else 0
        if record.finished or end > steps:
            yield from _of_end(f"{name}[-1].step", end, steps, record.diverged)
    for i, row in enumerate(record.evaluations):
        there = row.model_fields_set & set(_DISTANCES)
        yield from _of_distances(f"evaluations[{i}]", there, method, record.settings)
    for name in ("source_accuracy", "target_accuracy"):
        accuracy = getattr(record, name)
        last = getattr(record.evaluations[-1], name) if record.evaluations else None
        if record.diverged is not None:
            last = None
        if record.finished and accuracy != last:
            yield Fault(name, f"{shown(last)}, that of the last evaluation", shown(accuracy))
