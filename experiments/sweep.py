"""Combinations of settings, and their order by a rule that takes no target labels."""

import dataclasses
import difflib
import itertools
import pathlib
import statistics
import typing
from typing import Any

import numpy as np
from rich.table import Table

from experiments import display, options, record
from experiments.choice import ORACLE
from experiments.methods import METHODS
from experiments.options import Options
from experiments.settings import Config

__all__ = ["RULE", "combinations", "path", "ranked", "settings", "table"]

RULE = "information_maximization"  # where --select names none
FOLDER, FILE = "sweep", "sweep.json"
KINDS = {  # of the numeric settings
    name: kind
    for name, hint in typing.get_type_hints(Config).items()
    for kind in (int, float)
    if kind in (hint, *typing.get_args(hint))
}


def path(name: str, asked: Options) -> pathlib.Path:
    """Returns where the table of a sweep lies."""
    return asked.folder(name) / FILE


def settings(asked: Options) -> tuple[str, ...]:
    """Returns the names of the settings that vary."""
    return tuple(word.partition("=")[0] for word in asked.sweep)


def combinations(name: str, asked: Options) -> dict[str, Options]:
    """Returns the options of each combination of a sweep by its name; they score ``RULE`` at least.

    Raises:
      ValueError: Settings, values, rules or methods are not such as can be swept over.
    """
    methods, rules = asked.methods, asked.config.select or (RULE,)
    if len(methods) != 1 or METHODS[methods[0]].aligns:
        raise ValueError(
            f"--sweep trains one method: name it with --methods, got {', '.join(methods)}"
        )
    every = {}
    for values in _drawn(_values(asked.sweep), asked):
        config = dataclasses.replace(asked.config, **values, select=rules)
        title = ",".join(f"{n}={str(value).removesuffix('.0')}" for n, value in values.items())
        every[title] = dataclasses.replace(
            asked,
            config=config,
            output=asked.folder(name) / FOLDER / title,
            subfolder=False,
            sweep=(),
            sweep_random=None,
            list=False,
        )
        options.check(every[title])
    return every


def _values(words):
    """Returns the values of each setting, from words such as gamma=5,10."""
    values = {}
    for word in words:
        name, equals, texts = word.partition("=")
        if not equals:
            raise ValueError(f"--sweep: expected NAME=VALUE,VALUE,..., got {word[:60]!r}")
        if name not in KINDS:
            near = difflib.get_close_matches(name, KINDS, n=1)
            known = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(KINDS)}"
            raise ValueError(f"--sweep: {name[:60]!r} is no numeric setting: {known}")
        if name in values:
            raise ValueError(f"--sweep: expected each setting once, got {name} again")
        values[name] = [_number(name, text) for text in texts.split(",")]
        if len(set(values[name])) < len(values[name]):
            raise ValueError(f"--sweep {name}: expected each value once, got {texts[:60]}")
    if not values:
        raise ValueError("--sweep: expected NAME=VALUE,VALUE,... of a numeric setting, got none")
    return values


def _number(name, text):
    try:
        if "_" in text or not text.isascii():
            raise ValueError
        return KINDS[name](text)
    except ValueError:
        kind = {int: "whole numbers", float: "numbers"}[KINDS[name]]
        got = repr(text[:60]) if text else "none"
        raise ValueError(f"--sweep {name}: expected {kind} between commas, got {got}") from None


def _drawn(values, asked):
    """Returns all combinations of the values, or some of them, in their order."""
    grid = [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]
    count = asked.sweep_random
    if count is None:
        count = len(grid)
    elif not 1 <= count <= len(grid):
        raise ValueError(f"--sweep-random must be 1 to {len(grid)}, all combinations, got {count}")
    places = np.random.default_rng(asked.first_key).permutation(len(grid))[:count]
    return [grid[place] for place in sorted(places)]


def ranked(name: str, asked: Options, every: dict[str, Options]) -> dict[str, Any]:
    """Returns the combinations with a result by the mean score of their keys, the best first.

    Scores are those of the last step. A combination of which a key has none, as after a divergence,
    comes last.
    """
    method, rows = asked.methods[0], []
    rule = next(iter(every.values())).config.select[0]
    for title, each in every.items():
        result = record.read_result(each.output / f"{method}.json")
        if result is None:
            continue
        scores = [
            None if diverged else curves["evaluations"]["scores"][rule][-1]
            for curves, diverged in zip(result["curves"], result["diverged"], strict=True)
        ]
        rows.append(
            {
                "name": title,
                "settings": {n: getattr(each.config, n) for n in settings(asked)},
                "score": None if None in scores else statistics.fmean(scores),
                "scores": scores,
                ORACLE: result["mean"],
                f"{ORACLE}_accuracy": result["target_accuracy"],
                "file": f"{FOLDER}/{title}/{method}.json",
            }
        )
    rows.sort(key=lambda row: (row["score"] is None, -(row["score"] or 0.0)))
    known = [row["name"] for row in rows if row["score"] is not None]
    return {
        "config": name,
        "method": method,
        "keys": list(asked.numbers),
        "rule": rule,
        "chosen": known[0] if known else None,
        "combinations": rows,
    }


def table(content: dict[str, Any]) -> Table:
    """Returns the ranks as a table; the oracle's column, which ranks nothing, is the last."""
    first, rule = content["combinations"][0], content["rule"]
    title = f"{content['config']}, {content['method']}: ranked by {rule}, last step"
    shown = Table(title=title, caption=f"{ORACLE}: accuracy on the target's test images")
    for column in ("", *first["settings"], rule, ORACLE):
        shown.add_column(column, justify="right")
    for place, row in enumerate(content["combinations"], 1):
        score = display.DASH if row["score"] is None else f"{row['score']:.4g}"
        values = map(str, row["settings"].values())
        shown.add_row(str(place), *values, score, display.accuracy(row[ORACLE]))
    return shown
