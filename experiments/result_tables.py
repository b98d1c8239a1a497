"""The tables of the documents: the paper's figures beside those of the result files."""

import dataclasses
import pathlib
from typing import Any

from dann_jax import __version__
from experiments import configs, paper, record
from experiments.display import DASH
from experiments.methods import METHODS, gap_of
from experiments.settings import completed

__all__ = ["accuracy", "frozen", "markdown", "read", "tables"]

BENCHMARKS, HOSTILE, SELECTION = "benchmark", "hostile", "selection"  # folders beside the configs
PAIRS = {  # of the paper, and those of ours beside them
    "table1": (*configs.find_rows("table1"), "syn_numbers_published_svhn", "mnist_svhn"),
    "office31": (*configs.find_rows("office31"), *configs.find_rows("office31_others")),
}
FROZEN = "_frozen"  # ends the names of configs above a frozen backbone
SEMI_SUPERVISED = "syn_signs_gtsrb_semi"
OF_FOLDERS = ("own_pair", "own_photos")  # stand for any two folders: no row
LOWER = next(method for method in METHODS.values() if method.bound == "lower")
ADVERSARIAL = next(method for method in METHODS.values() if method.adversarial and method.default)
PAPER = ("published", "preprint", "published gap")
ACCURACY = "ours, mean ± sd (keys)"
TRIED_RULES = "information_maximization", "batch_nuclear_norm", "soft_neighborhood_density"
RUN = ("steps", "device", "file")
COLUMNS = ("config", "method", *PAPER, ACCURACY, "SVM head", "our gap", *RUN)

Results = dict[str, dict[str, dict[str, Any]]]  # config -> name of the file -> its content


def read(folder: pathlib.Path) -> Results:
    """Returns the contents of all result files CONFIG/METHOD.json, by config and name.

    CONFIG/METHOD-VARIANT.json is in no table but that of the commands. A ValueError lists all
    faults.
    """
    every, wrong = {}, []
    for path in sorted(folder.glob("*/*.json")):
        config = path.parent.name
        if config in (BENCHMARKS, HOSTILE, SELECTION):
            continue
        try:
            every.setdefault(config, {})[path.stem] = _read(path)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(wrong))
    return every


def _read(path):
    """Returns the content of a result file, which has to be where its name says."""
    result, config = record.read_result(path), path.parent.name
    if config not in configs.config_names():
        raise ValueError(f"{path}: there is no config {config}: move the file to its folder")
    if result["config"] != config or not f"{path.stem}-".startswith(f"{result['method']}-"):
        raise ValueError(
            f"{path}: it is of {result['config']}, {result['method']}: move it to "
            f"{result['config']}/{result['method']}.json"
        )
    return result


def tables(results: Results) -> dict[str, str]:
    """Returns the tables in Markdown, of all results from ``read``, by their names.

    ``pairs``: the adversarial method on one line a pair; ``table1`` and ``office31``: the paper's
    pairs and their variants; ``quoted``: the other methods in the paper's table of Office-31;
    ``frozen``: all methods above a frozen backbone in the six directions;
    ``semi``: the semi-supervised experiment; ``own``: configs that are in none of these;
    ``trials``: trainings with several values of lambda_max, and what the rules say of them;
    ``commands``: how each file was made.
    """
    own = [name for name in configs.config_names() if name != SEMI_SUPERVISED]
    filled = {}
    for table, bases in PAIRS.items():
        rows = []
        for base in bases:
            for name in [base, *(n for n in own if n.startswith(f"{base}_"))]:
                rows += _rows(name, base, results)
                own.remove(name)
        filled[table] = _table(COLUMNS, rows)
    rows = [row for name in own for row in _rows(name, None, results)]
    return {
        "pairs": _pairs(own, results),
        **filled,
        "quoted": _quoted(),
        "frozen": frozen(results),
        "semi": _semi_supervised(results.get(SEMI_SUPERVISED, {})),
        "own": _table([name for name in COLUMNS if name not in PAPER], rows),
        "trials": _trials(results),
        "commands": _commands(results),
    }


def _table(columns, rows):
    """Returns a table of some columns of rows by column; a cell that is not there is a dash."""
    return markdown(columns, *([row.get(name, DASH) for name in columns] for row in rows))


def markdown(head, *rows) -> str:
    """Returns a table in Markdown of a head and rows of cells."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


def accuracy(mean: float | None, std: float | None = None, digits: int = 4) -> str:
    """Returns an accuracy, or a mean ± standard deviation, as text; a dash for None."""
    if mean is None:
        return DASH
    return " ± ".join(f"{v:.{digits}f}".removeprefix("0") for v in (mean, std) if v is not None)


def _pairs(own, results):
    """Returns a line for each pair, ours too: the paper's network, and the best of the others."""
    lines = []
    for base in (*own, *PAIRS["table1"], *PAIRS["office31"]):
        names = [
            name
            for name in configs.config_names()
            if f"{name}_".startswith(f"{base}_") and name != SEMI_SUPERVISED
            if ADVERSARIAL.name in results.get(name, {})
        ]
        others = [name for name in names if name != base or base in own]
        others.sort(key=lambda name: results[name][ADVERSARIAL.name]["mean"] or 0)
        columns = [[base] if base in names and base not in own else [], others[-1:]]
        shown = [name for column in columns for name in column]
        if shown or base in (*configs.find_rows("table1"), *configs.find_rows("office31")):
            config, _ = configs.find_config(base)
            domains = [paper.DATA_SETS.get(n, n) for n in (config.source, config.target)]
            minutes = [_minutes(results[name][ADVERSARIAL.name], device=True) for name in shown]
            lines.append(
                [
                    " → ".join(domains),
                    _published_line(base),
                    *("".join(_line(results[n]) for n in column) or DASH for column in columns),
                    "; ".join(minutes) or DASH,
                    "; ".join(shown) or base,
                ]
            )
    ours = ("ours, the paper's network", "ours, another network")
    return markdown(("pair", "paper", *ours, "minutes a key", "config"), *lines)


def _published_line(base):
    published = paper.PUBLISHED.get(base)
    if published is None:
        return DASH
    figures = (published[method.name][0] for method in (LOWER, ADVERSARIAL))
    return " → ".join(accuracy(figure, digits=_digits(base)) for figure in figures)


def _digits(base):
    """Returns how many digits the paper prints."""
    return 3 if base in PAIRS["office31"] else 4


def _line(ours):
    """Returns the lower bound -> the adversarial method of a config, and what limits them."""
    result, lower = ours[ADVERSARIAL.name], ours.get(LOWER.name)
    before = DASH if lower is None else accuracy(lower["mean"])
    if lower is not None and record.diverged(lower):
        before = "diverged"
    steps, usual = result["steps"], _usual_steps(result)
    shorter = f"; {steps:,} of {usual:,} updates" if steps != usual else ""
    return f"{before} → {_mean(result)}{shorter}"


def _mean(result, of=lambda mean: mean):
    """Returns mean ± sd (keys), or how many of the keys diverged."""
    keys, diverged = len(result["keys"]), record.diverged(result)
    if diverged:
        return f"diverged ({diverged} of {keys})"
    mean = None if result["mean"] is None else of(result["mean"])
    return f"{accuracy(mean, result['std'])} ({keys})"


def _minutes(result, device=False):
    """Returns the minutes a key of a training, and the device, if asked for and no CPU."""
    seconds = result.get("wall_seconds")
    if seconds is None:
        return DASH
    minutes = f"{seconds / 60 / len(result['keys']):.1f}"
    return f"{minutes} ({result['device']})" if device and result["device"] != "cpu" else minutes


def _usual_steps(result):
    """Returns how many steps a training of the config has."""
    config, _ = configs.find_config(result["config"])
    return METHODS[result["method"]].steps(config)


def _share(result):
    """Returns how much of its length in the config a training has."""
    return result.get("steps", 0) / _usual_steps(result)


def _picks(method, result):
    """Yields name, label and result of a method; of a closed form those of both its picks."""
    if not method.aligns or (result and not record.has_picks(result)):
        yield method.name, method.label, result
        return
    yield method.name, f"{method.label}, unsupervised pick", result
    yield f"{method.name}-oracle", f"{method.label}, oracle pick", result and record.oracle(result)


def _rows(name, base, results):
    """Returns the rows of a config: those with a file, and those with a figure of the paper.

    A row of dashes stands for a config that has neither. ``base`` is the paper's row that the
    config belongs to; None for one of our own.
    """
    ours, published = results.get(name, {}), paper.PUBLISHED.get(base, {})
    theirs = {pick: figures[0] for pick, figures in published.items()}
    rows = []
    for method in METHODS.values():
        for pick, label, result in _picks(method, ours.get(method.name)):
            if result is None and not (pick in published and name == base):
                continue
            figures = published.get(pick, (None, None))
            texts = [accuracy(figure, digits=_digits(base)) for figure in figures]
            gap = _gap(method, theirs | {method.name: figures[0]})
            row = dict(zip(PAPER, (*texts, gap), strict=True)) | {"config": "", "method": label}
            if result:  # bounds of another length say nothing of this training
                means = {
                    other: each["mean"]
                    for other, each in ours.items()
                    if other == each["method"] and _share(each) == _share(result)
                }
                gap = _gap(method, means | {method.name: result["mean"]})
                row |= _cells(name, method, result) | {"our gap": gap}
            rows.append(row)
    if not rows and name not in OF_FOLDERS:
        rows = [{}]
    if rows:
        rows[0]["config"] = _title(name, base)
    return rows


def _trials(results):
    """Returns the files METHOD-lambda-VALUE.json; the value that the first rule prefers is bold."""
    lines = []
    for config, files in results.items():
        some = {name: each for name, each in files.items() if "-lambda-" in name}
        ends = {
            name: {rule: score[-1] for rule, score in evaluations["scores"].items()}
            for name, each in some.items()
            for evaluations in [each["curves"][0]["evaluations"]]  # of the only key
        }
        best = max(ends, key=lambda name: ends[name][TRIED_RULES[0]], default=None)
        for name, result in some.items():
            settings = completed(result["resolved_config"])
            largest = f"{settings['lambda_max']:g}"
            lines.append(
                [
                    config,
                    result["method"],
                    f"**{largest}**" if name == best else largest,
                    settings["augment"],
                    f"{result['steps']:,}",
                    *(f"{ends[name][rule]:.4f}" for rule in TRIED_RULES),
                    accuracy(result["mean"]),
                    f"[json](experiments/results/{config}/{name}.json)",
                ]
            )
    head = "config", "method", "lambda_max", "augment", "updates", *TRIED_RULES
    return markdown([*head, "target accuracy", "file"], *lines)


def _title(name, base):
    """Returns the name of a config and, of a variant, what it is instead of the paper's row."""
    if base in (None, name):
        return name
    networks = []
    for config, _ in map(configs.find_config, (name, base)):
        below = f" above {'frozen ' * config.frozen}{config.backbone}" if config.backbone else ""
        networks.append(config.network + below)
    different = networks[0] != networks[1]
    difference = f"not the paper's network: {networks[0]}" if different else "another recipe"
    return f"{name} ({difference})"


def _gap(method, means):
    """Returns the share of the gap that a method covers, computed from mean accuracies."""
    covered = gap_of(method, means)
    return DASH if covered is None else f"{covered:.1%}".replace("-", "−")


def _cells(name, method, result):
    """Returns the cells of a result, from the accuracy to the file."""
    version = result["versions"]["dann_jax"]
    link = f"[json](experiments/results/{name}/{method.name}.json)"
    steps, usual = result.get("steps"), _usual_steps(result)
    shorter = f" (not {usual:,})" if steps != usual else ""
    return {
        ACCURACY: _accuracy(result),
        "SVM head": accuracy(result.get("svm_mean"), result.get("svm_std")),
        "steps": DASH if steps is None else f"{steps:,}{shorter}",
        "device": f"{result['device']} x{result['device_count']}",
        "file": link if version == __version__ else f"{link}, by {version}",
    }


def _accuracy(result, of=lambda mean: mean):
    """Returns mean ± sd (keys), and what is not usual about it."""
    parts = [
        f"{split}: {entry['part']}"
        for split, entry in result["data"].items()
        if split.startswith(f"{result['target']}/") and "part" in entry
    ]
    return "; ".join([_mean(result, of), *parts, *_changed(result)])


def _changed(result):
    """Returns settings that are not those of the config, apart from lengths."""
    config, _ = configs.find_config(result["config"])
    usual = dataclasses.asdict(config)
    settings = completed(result["resolved_config"])
    # Lengths have a column; weights are named by their digest; rules change no number.
    silent = {"steps", "baseline_steps", "evaluate_every", "weights", "select"}
    names = sorted(usual.keys() - silent)
    return [f"{name} {settings[name]}" for name in names if settings[name] != usual[name]]


def _quoted():
    """Returns the paper's table of Office-31, with the methods that it compares with."""

    def cell(figure, jmlr=None):
        shown = accuracy(figure, digits=3)
        return shown if jmlr is None else f"{shown} (JMLR {accuracy(jmlr, digits=3)})"

    return markdown(
        ("method", *paper.OFFICE31_DIRECTIONS),
        *(
            [label + ", quoted by the paper" * (name not in paper.OFFICE31_OWN)]
            + [cell(*figure) for figure in figures]
            for name, (label, figures) in paper.OFFICE31.items()
        ),
        [
            "DANN, preprint: 5 random splits",
            *(accuracy(*figure, digits=3) for figure in paper.OFFICE31_SPLITS),
        ],
    )


def frozen(results):
    """Returns methods × directions of Office-31 above a frozen backbone, the best of each in bold.

    The paper's figure of a method, with a network that was fine-tuned, stands below ours.
    """
    columns = [f"{pair}{FROZEN}" for pair in PAIRS["office31"]]
    every = {
        method.name: [results.get(name, {}).get(method.name) for name in columns]
        for method in METHODS.values()
        if any(method.name in results.get(name, {}) for name in columns)
    }
    adapted = [of for name, of in every.items() if METHODS[name].bound != "upper"]
    best = [
        max((r["mean"] for r in of if r and r["mean"] is not None), default=None)
        for of in zip(*adapted, strict=True)
    ]
    lines = []
    for name, of in every.items():
        cells = []
        for result, most in zip(of, best, strict=True):
            cell = DASH if result is None else _mean(result)
            is_best = result is not None and result["mean"] == most and most is not None
            cells.append(f"**{cell}**" if is_best and METHODS[name].bound != "upper" else cell)
        lines.append([METHODS[name].label.replace("*", ""), *cells])
        if name in paper.OFFICE31:
            label, figures = paper.OFFICE31[name]
            texts = (accuracy(figure, digits=3) for figure, *_ in figures)
            shown = dict(zip(paper.OFFICE31_DIRECTIONS, texts, strict=True))
            by_column = (shown.get(_arrow(column), DASH) for column in columns)
            lines.append([f"{label} in the paper's table", *by_column])
    return markdown(("method", *map(_arrow, columns)), *lines)


def _arrow(name):
    """Returns a direction of Office-31 as the paper prints it."""
    source, target = name.split("_")[1:3]
    return f"{source[0].upper()}→{target[0].upper()}"


def _semi_supervised(ours):
    columns = ("in the paper's plot", "method", "validation error, mean ± sd (keys)")
    rows = []
    for name, shown in paper.SEMI_SUPERVISED.items():
        row = {columns[0]: shown, "method": name}
        if name in ours:
            row |= _cells(SEMI_SUPERVISED, METHODS[name], ours[name])
            row[columns[2]] = _accuracy(ours[name], of=lambda mean: 1 - mean)
        rows.append(row)
    return _table((*columns, *RUN), rows)


def _commands(results):
    """Returns how each file was made, the ones that are in no other table included."""
    rows = [
        [
            f"[{config}/{file}](experiments/results/{config}/{file}.json)",
            result["versions"]["dann_jax"],
            _minutes(result),
            f"`{result['command']}`",
        ]
        for config, files in results.items()
        for file, result in files.items()
    ]
    return markdown(("file", "dann_jax", "minutes a key", "command"), *rows)
