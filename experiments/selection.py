"""Compares the rules of --select over many trainings: python -m experiments.selection RUN...

A RUN is a result file that was made with --select, or a folder with some in it, such as
runs/CONFIG/sweep. At least 24 trainings of one config are needed. For each rule, the program says
how its scores at the last step rank the trainings (Spearman's correlation with the accuracy on the
target's test images), what the training that it chooses lacks to the best one, and what the steps
that it chooses lack to the best ones. It writes these as JSON, and a picture beside it.
"""

import pathlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats

from dann_jax import selection
from experiments import record
from experiments.arguments import Parser, check_folder, end, ended
from experiments.choice import ORACLE
from experiments.figures import selection as picture
from experiments.methods import METHODS
from experiments.result_tables import accuracy, markdown

__all__ = ["LEAST", "main", "study", "tables"]

LEAST = 24  # trainings
HEAD = "rule", "rank correlation", "training it chooses", "loses", "steps it chooses", "lose"
ENTRIES = "target_accuracy", "loss", "step_accuracy", "step_loss"


def study(runs: Sequence[pathlib.Path]) -> dict[str, Any]:
    """Returns what the rules make of all trainings of result files, or of folders of them.

    Trainings that diverged are left out.

    Raises:
      ValueError: A file is none, or has no scores; they are of several configs or pairs, or too
        few; or a training is in two of them.
    """
    trainings, configs, steps, seen = [], set(), set(), {}
    for run in runs:
        for path, result in _results(run):
            shown = path.relative_to(run if run.is_dir() else run.parent).as_posix()
            trainings += _trainings(result, shown)
            pair = [result["resolved_config"][n] for n in ("source", "target", "target_test")]
            configs.add((result["config"], "{} to {}/{}".format(*pair)))
            for key in result["keys"]:
                other = seen.setdefault(record.digest([result["resolved_config"], key]), path)
                if other is not path:
                    raise ValueError(
                        f"expected each training once, got key {key} of {other} in {path} too"
                    )
            steps.add(result["steps"])
    if len(configs) > 1:
        got = ", ".join(f"{name} ({pair})" for name, pair in sorted(configs))
        raise ValueError(f"expected results of one config and pair, got {got}")
    if len(trainings) < LEAST:
        raise ValueError(f"expected at least {LEAST} trainings, got {len(trainings)}: give more")
    rules = [r for r in selection.RULES if all(r in each["scores"] for each in trainings)]
    if not rules:
        raise ValueError("expected a rule that all trainings have scores of, got none")
    reached = [each["target_accuracy"] for each in trainings]
    best = statistics.fmean(each["steps"][ORACLE] for each in trainings)
    rows = {rule: _row(rule, trainings, reached, best) for rule in rules}
    return {
        "config": configs.pop()[0],
        "steps": sorted(steps),
        "rules": rows,
        "last_step": {
            "target_accuracy": statistics.fmean(reached),
            "loss": max(reached) - statistics.fmean(reached),
            "step_loss": best - statistics.fmean(reached),
        },
        ORACLE: {"target_accuracy": max(reached), "step_accuracy": best},
        "trainings": trainings,
    }


def _results(run: pathlib.Path) -> Iterator[tuple[pathlib.Path, dict[str, Any]]]:
    """Yields the result files that a run has, and their contents."""
    paths = [run]
    if run.is_dir():
        paths = sorted(path for path in run.rglob("*.json") if path.stem in METHODS)
        paths = [path for path in paths if not path.parent.name.startswith("key_")]
    for path in paths:
        result = record.read_result(path)
        if result is None or not result.get("selected"):
            got = "no file" if result is None else "a result without scores"
            raise ValueError(f"{path}: expected a result made with --select, got {got}")
        yield path, result


def _trainings(result, shown):
    """Returns the trainings of a result that did not diverge, with their scores at the end."""
    every = []
    for i, key in enumerate(result["keys"]):
        if result["diverged"][i]:
            continue
        columns = result["curves"][i]["evaluations"]
        chosen = {n: each["target_accuracy"][i] for n, each in result["selected"].items()}
        scores = {rule: column[-1] for rule, column in columns["scores"].items()}
        if None in (*chosen.values(), *scores.values()):
            raise ValueError(f"{shown}, key {key}: expected target labels and finite scores")
        every.append(
            {
                "file": shown,
                "key": key,
                "target_accuracy": result["target_accuracy"][i],
                "scores": scores,
                "steps": chosen,
            }
        )
    return every


def _row(rule, trainings, reached, best):
    """Returns how well a rule ranks the trainings, and what its choices lack to the oracle's."""
    scores = [each["scores"][rule] for each in trainings]
    varies = np.ptp(scores) > 0 and np.ptp(reached) > 0
    chosen = reached[selection.choose(scores)]
    at_steps = statistics.fmean(each["steps"][rule] for each in trainings)
    return {
        "rank_correlation": float(stats.spearmanr(scores, reached)[0]) if varies else None,
        "target_accuracy": chosen,
        "loss": max(reached) - chosen,
        "step_accuracy": at_steps,
        "step_loss": best - at_steps,
    }


def tables(folder: pathlib.Path) -> dict[str, str]:
    """Returns the table in Markdown of each study ``CONFIG.json`` in a folder, as ``selection``.

    Raises:
      ValueError: A study does not follow from the results in the folder CONFIG beside it.
    """
    lines = []
    for path in sorted(folder.glob("*.json")):
        content = record.read(path)
        if content != study([path.with_suffix("")]):
            raise ValueError(f"{path} is not that of the files in {path.stem}/: make it anew")
        lines.append(_table(content))
    return {"selection": "\n".join(lines)} if lines else {}


def _table(content):
    rows = []
    for name, row in content["rules"].items():
        correlation = row["rank_correlation"]
        shown = "—" if correlation is None else f"{correlation:.2f}".replace("-", "−")
        figures = (accuracy(row[n]) for n in ENTRIES)
        rows.append([f"`{name}`", shown, *figures])
    last, best = content["last_step"], content[ORACLE]
    mean, loss, step_loss = (accuracy(last[n]) for n in ("target_accuracy", "loss", "step_loss"))
    rows.append(["none: a mean training, its last step", "", mean, loss, mean, step_loss])
    most, at_step = (accuracy(best[n]) for n in ("target_accuracy", "step_accuracy"))
    rows.append([ORACLE, "1", most, "", at_step, ""])
    count, steps = len(content["trainings"]), ", ".join(f"{n:,}" for n in content["steps"])
    about = f"{content['config']}: {count} trainings of {steps} updates."
    return f"{markdown(HEAD, *rows)}\n{about}\n"


def main(arguments: list[str] | None = None) -> int:
    """Runs the program and returns its exit status: 0, or 2 for an error."""
    parser = Parser(prog="python -m experiments.selection", description=__doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="result files, or folders")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/selection.json"),
        help="the JSON file; the picture has the same name, and .png (runs/selection.json)",
    )
    options = parser.parse_args(arguments)
    return ended(lambda: _write(options))


def _write(options):
    check_folder(options.output.parent, "--output")
    if options.output.suffix != ".json":
        raise ValueError(f"--output {options.output}: expected a name that ends in .json")
    content = study(options.runs)
    record.write_json(options.output, content)
    path = options.output.with_suffix(".png")
    picture.draw(content, path)
    print(_table(content))
    print(f"written: {options.output}, {path}")


if __name__ == "__main__":
    end(main())
