"""Trains a key of a result again and compares: python -m experiments.verify RESULT.json.

Settings, method and data are those of the file. With --steps N only the first steps are
trained, with the schedules of the whole length; a key that diverged is trained until it does. Exit
status: 0 where the numbers agree bit for bit, 4 where they agree within the tolerance, as they
should on another processor, 1 where they do not agree, 2 where they cannot be compared, or
contradict each other in the file.
"""

import collections
import dataclasses
import math
import pathlib
import sys
import tempfile
from typing import Any, NamedTuple

import jax

from dann_jax import memory
from dann_jax.programs import Group
from experiments import continuing, domains, record, studies, train
from experiments.arguments import Parser, check_published, end, ended
from experiments.display import accuracy
from experiments.methods import METHODS
from experiments.plan import config_of, resolved

__all__ = ["Difference", "differences", "environment", "main"]

DIFFERS, NEAR = 1, 4  # exit statuses
# Tolerance on another processor. In the 1,500 steps of digits_digits_m rounding adds up to .067
# with the instructions of another one, and to .041 without the fast kernels; another key differs
# by .21 or more.
WIDE = 0.1
DIVERGED = "the step of divergence"  # the name of a number
ACCURACIES = ("source_accuracy", "target_accuracy")
NEVER = sys.maxsize  # steps between two checkpoints: a verification starts anew


class Difference(NamedTuple):
    """A number of a result beside the one that should be the same."""

    key: int
    step: int
    name: str
    expected: float | None
    actual: float | None
    relative: float  # to the largest value of the curve

    def __str__(self):
        """Says which number, and both values."""
        where = f"{self.name} of key {self.key} at step {self.step:,}"
        return f"{where} is {self.expected} in the file, {self.actual} here"


def environment(result: dict[str, Any], here: dict[str, Any]) -> dict[str, tuple]:
    """Returns what decides the last bits and differs from ``Study.origin``: (in the file, here).

    The processor does where it is the device. A file that does not name it may be of any.
    """
    of_cpu = [each["threads"] is not None for each in (result, here)]
    left = {"data", "versions"} | (set() if any(of_cpu) else {"processor"})
    there = {name: result.get(name) for name in here if name not in left}
    there |= result["versions"]
    pairs = {name: (value, (here | here["versions"]).get(name)) for name, value in there.items()}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def differences(key: int, expected: dict, actual: dict) -> list[Difference]:
    """Returns all numbers that two ``record.curves`` of a key both have, in the order of steps.

    A number that is not finite, None, is the same as another one. Columns of nothing else are not
    numbers.
    """
    every = []
    for kind in expected:
        columns = [_flat(curves[kind]) for curves in (expected, actual)]
        there, here = map(_rows, columns)
        steps = [step for step in there if step in here]
        for name in columns[0].keys() & columns[1].keys() - {"step"}:
            pairs = [(there[step][name], here[step][name]) for step in steps]
            known = [abs(a) for a, _ in pairs if a is not None]
            if not known and all(b is None for _, b in pairs):
                continue
            scale = max(known, default=0) or 1
            for step, (a, b) in zip(steps, pairs, strict=True):
                relative = 0.0 if a is b else math.inf
                if None not in (a, b):
                    relative = abs(a - b) / scale
                every.append(Difference(key, step, name, a, b, relative))
    return sorted(every, key=lambda each: (each.step, each.name))


def _flat(columns):
    """Returns columns with those of penalties, scores and predicted classes among the others."""
    flat = {}
    for name, column in columns.items():
        if name == "predicted":  # a class may have the name of another column
            column = {f"predicted {each}": counts for each, counts in column.items()}
        flat |= column if isinstance(column, dict) else {name: column}
    return flat


def _rows(columns):
    """Returns entries by their step; NaN is None, as in a file."""
    rows = {}
    for values in zip(*columns.values(), strict=True):
        values = [None if v is None or math.isnan(v) else v for v in values]
        row = dict(zip(columns, values, strict=True))
        rows[row["step"]] = row
    return rows


def _result(path):
    """Returns the content of a file that can be verified."""
    result = record.read_result(path)
    if result is None:
        raise ValueError(f"{path}: expected a result CONFIG/METHOD.json, got no file")
    method = METHODS[result["method"]]
    if method.aligns:
        raise ValueError(
            f"{path} follows from trainings, with nothing random beside them: verify "
            f"{method.aligns}.json"
        )
    return result


def _last_step(result, steps, keys):
    """Returns where to stop: at the first entry of the curves that is not before ``steps``."""
    start = result["continued"][0]["step"] if result.get("continued") else 0
    most = result["steps"] - start
    if steps is not None and not 1 <= steps <= most:
        raise ValueError(f"--steps must be 1 to {most}, those of the file, got {steps}")
    places = [result["keys"].index(key) for key in keys if key in result["keys"]]
    ends = [(result["diverged"][i] or {"step": result["steps"]})["step"] for i in places]
    entries = result["curves"][places[0]]["training"]["step"]
    wanted = min(start + (steps or most), max(ends))
    return min((step for step in entries if step >= wanted), default=wanted)


def _study(result, options):
    """Returns the result's method, ready to train on the same data."""
    config = config_of(result["resolved_config"], options.weights)
    if options.continue_from is not None:
        if config.continue_from is None:
            raise ValueError("--continue-from: the trainings of the file began with no other")
        config = dataclasses.replace(config, continue_from=options.continue_from)
    _check_starts(result, config)
    check_published(options.manual_dir)
    devices = jax.local_devices()
    count = options.devices
    if count is None:
        count = min(result["device_count"], len(devices))
    if not 1 <= count <= len(devices):
        raise ValueError(f"--devices {count}: this process has {len(devices)}")
    _last_step(result, options.steps, result["keys"])  # raises before the data is read
    pair = domains.load_pair(config, data_dir=options.data_dir, manual_dir=options.manual_dir)
    others = domains.differences(result["data"], pair.provenance)
    if others:
        raise ValueError(
            f"the data are not those of the file ({others}): choose others with --data-dir or "
            "--manual-dir"
        )
    return studies.prepare(config, METHODS[result["method"]], pair, devices[:count])


def _check_starts(result, config):
    """Raises where what the trainings of a file began with is not here, or is another."""
    method = METHODS[result["method"]]
    for key, entry in zip(result["keys"], result.get("continued", ()), strict=False):
        start = continuing.find(config, method, key, resolved(config, method))
        got = {"step": start.step, "sha256": start.sha256}
        if any(entry[name] != value for name, value in got.items()):
            raise ValueError(
                f"key {key} of the file began with another training than {start.folder} (expected "
                f"sha256 {entry['sha256'][:12]} at step {entry['step']:,}, got "
                f"{start.sha256[:12]} at step {start.step:,}): name its folder with --continue-from"
            )


def _verify(options):
    if options.tolerance is not None and not 0 <= options.tolerance < math.inf:
        raise ValueError(f"--tolerance must be a number from 0 on, got {options.tolerance}")
    result = _result(options.result)
    key = result["keys"][0] if options.key is None else options.key
    if key not in result["keys"]:
        raise ValueError(f"--key {key}: the file has {', '.join(map(str, result['keys']))}")
    study = _study(result, options)
    changed = environment(result, study.origin)
    group = Group((key,), len(study.devices))
    for each in result["groups"] if not changed else ():  # else bits cannot be compared
        if key in each["keys"]:
            group = Group(tuple(each["keys"]), each["devices_per_key"])
    study.program(group)  # raises where it cannot be
    stop = _last_step(result, options.steps, group.keys)
    print(
        f"{result['config']}, {result['method']}, key {', '.join(map(str, group.keys))}: "
        f"{stop:,} of {result['steps']:,} steps on {study.origin['device']} x{len(study.devices)}",
        flush=True,
    )
    start = result["continued"][0]["step"] if result.get("continued") else 0
    if options.steps is not None and start + options.steps < stop:
        step = start + options.steps
        print(f"step {step:,} has no entry in the curves: step {stop:,} is the next")
    for name, (there, here) in changed.items():
        there = "not named" if name == "processor" and there is None else there
        print(f"not the same: {name} {there} in the file, {here} here")
    compared, digests = _compared(study, group, result, stop)
    if not compared:
        raise ValueError(
            f"{options.result} has no number to compare up to step {stop:,}: choose more --steps"
        )
    _print_compared(compared, digests)
    without = "; the linear SVMs were not compared" * ("svm_accuracy" in result)
    tolerance = (WIDE if changed else 0.0) if options.tolerance is None else options.tolerance
    return _verdict(compared, digests, changed, tolerance, without)


def _compared(study, group, result, stop):
    """Trains a group of keys; returns their numbers, and digests, beside those of the result."""
    with tempfile.TemporaryDirectory() as folder:
        records = train.train(
            study,
            group.keys,
            pathlib.Path(folder),
            together=len(group.keys),
            devices_per_key=group.devices_per_key,
            checkpoint_every=NEVER,
            checkpoint_minutes=math.inf,
            stop=stop,
            report=_print_accuracy,
        )
    numbers, digests = [], {}
    for key, each in zip(group.keys, records, strict=True):
        if key not in result["keys"]:  # of another call
            continue
        place = result["keys"].index(key)
        expected, actual = result["curves"][place], record.curves(each)
        numbers += differences(key, expected, actual)
        numbers += _ends(key, (expected, result["diverged"][place]), (actual, each), stop)
        there, here = result["digests"][place] or {}, each.get("digests") or {}
        digests |= {f"{n} of key {key}": (there[n], here[n]) for n in there if n in here}
    return numbers, digests


def _ends(key, of_file, of_training, stop):
    """Returns entries that a file has alone up to a step, and where both trainings diverged."""
    (expected, there), (actual, begun) = of_file, of_training
    there = there["step"] if there and there["step"] <= stop else None
    here = begun["diverged"]["step"] if begun.get("diverged") else None
    alone = [
        Difference(key, step, f"the number of {kind} entries", 1, 0, math.inf)
        for kind, columns in expected.items()
        for step in columns["step"]
        if step <= (stop if here is None else here - 1) and step not in actual[kind]["step"]
    ]
    if there is None and here is None:
        return alone
    training = expected["training"]
    losses = dict(zip(training["step"], training["label_loss"], strict=True))
    last = max((step for step, loss in losses.items() if loss is not None), default=0)
    relative = math.inf if None in (here, there) else abs(here - there) / there
    # Files of before format 3 know no more than the entry with the first loss that is not finite.
    if relative < math.inf and losses.get(there, 0) is None and last < here <= there:
        relative = 0.0
    return [*alone, Difference(key, there or here, DIVERGED, there, here, relative)]


def _print_compared(compared, digests):
    """Prints what was compared, and what was not."""
    counts = collections.Counter(each.name for each in compared)
    by_name = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    print(f"compared: {by_name}; digests {len(digests)}")
    if missing := [name for name in ACCURACIES if not counts[name]]:
        print(f"not compared: {', '.join(missing)}, of which there is none up to this step")


def _print_accuracy(report):
    if report.target_accuracy is not None:
        target = accuracy(report.target_accuracy)
        print(f"key {report.key} step {report.step:,}: target {target}", flush=True)


def _counted(compared):
    """Returns how many numbers were compared, and of how many keys where they diverged."""
    steps = sum(each.name == DIVERGED for each in compared)
    numbers = len(compared) - steps
    parts = [f"{numbers:,} numbers of the curves and evaluations"] if numbers else []
    if steps:
        parts.append(f"the step of divergence of {steps} key{'s' * (steps > 1)}")
    return " and ".join(parts) + " alone" * (not numbers)


def _verdict(compared, digests, changed, tolerance, without):
    """Prints the outcome, and returns the exit status."""
    numbers = _counted(compared) + without
    first = next((each for each in compared if each.expected != each.actual), None)
    others = [name for name, (there, here) in digests.items() if there != here]
    if first is None and not others:
        print(f"agrees bit for bit, in the six digits that a file keeps: {numbers}")
        return 0
    apart = {
        each: abs(each.expected - each.actual)
        for each in compared
        if each.name in ACCURACIES and None not in (each.expected, each.actual)
    }
    if apart:  # which is not a share of anything
        most = max(apart, key=apart.get)
        print(f"accuracies differ by at most {apart[most]:.4f}: {most}")
    largest = max(each.relative for each in compared)
    share = f"max relative difference {largest:.2g}; tolerance {tolerance:g}"
    beyond = next((each for each in compared if each.relative > tolerance), None)
    hint = f"; --tolerance {WIDE:g} allows what rounding does elsewhere"
    hint = "" if changed or tolerance or largest > WIDE else hint
    if beyond is not None:
        print(f"differs at step {beyond.step:,}: {beyond} ({numbers}; {share}){hint}")
        return DIFFERS
    if first is None and not tolerance:
        differing = f"differs: the digests of {', '.join(others)}"
        print(f"{differing} (the same in six digits: {numbers}){hint}")
        return DIFFERS
    place = " on another processor, or with other devices or versions" if changed else ""
    print(f"agrees within the tolerance{place}, not bit for bit: {numbers} ({share})")
    if first is not None:
        print(f"the first that is not the same: {first}")
    return NEAR


def main(arguments: list[str] | None = None) -> int:
    """Runs the program with arguments, by default the process's, and returns the exit status."""
    parser = Parser(prog="python -m experiments.verify", description=__doc__)
    parser.add_argument("result", type=pathlib.Path, help="a file CONFIG/METHOD.json")
    parser.add_argument("--key", type=int, help="which key; the file's first by default")
    parser.add_argument("--steps", type=int, help="how many of the first steps; all by default")
    parser.add_argument("--devices", type=int, help="how many; as many as the file by default")
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder of prepared data")
    parser.add_argument("--manual-dir", type=pathlib.Path, help="folder of the published files")
    parser.add_argument("--weights", type=pathlib.Path, help="file of a backbone's weights")
    parser.add_argument(
        "--continue-from",
        type=pathlib.Path,
        help="folder of the trainings that those of the file began with; the file's by default",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference, as a share of the largest value of a curve; by default "
        f"{WIDE:g} where the processor, devices, threads or versions are others, else 0",
    )
    options = parser.parse_args(arguments)
    return ended(lambda: _verify(options), jax.errors.JaxRuntimeError)


if __name__ == "__main__":
    memory.keep_freed_memory()
    end(main())
