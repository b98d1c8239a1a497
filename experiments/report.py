"""Turns result files into the tables of the documents: python -m experiments.report [--check].

A table stands between two markers, in README.md or docs/speed.md. Every figure of ours comes from
a file in experiments/results; a cell without a file is a dash. --check changes nothing and fails
when a document and the files disagree.
"""

import argparse
import pathlib
import sys
from typing import Any

from experiments import config as configs
from experiments import results

__all__ = ["PUBLISHED", "main", "speed_tables", "step_time", "table"]

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "experiments" / "results"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
BENCHMARKS = FOLDER / "benchmark"
DASH = "—"
_SCALING = ("strong", "weak")  # cases of a benchmark that are on several devices

# Target accuracy in the paper's Tables 1 and 2, and in its first preprint (arXiv:1409.7495v1);
# None where one of them has no such figure: the preprint's Office-31 is another protocol.
PUBLISHED = {
    "mnist_mnist_m": {
        "source-only": (0.5225, 0.5749),
        "dann": (0.7666, 0.8149),
        "train-on-target": (0.9596, 0.9891),
    },
    "syn_numbers_svhn": {
        "source-only": (0.8674, 0.8665),
        "dann": (0.9109, 0.9048),
        "train-on-target": (0.9220, 0.9244),
    },
    "svhn_mnist": {
        "source-only": (0.5490, 0.5919),
        "dann": (0.7385, 0.7107),
        "train-on-target": (0.9942, 0.9951),
    },
    "syn_signs_gtsrb": {
        "source-only": (0.7900, 0.7400),
        "dann": (0.8865, 0.8866),
        "train-on-target": (0.9980, 0.9987),
    },
    "office31_amazon_webcam": {"source-only": (0.642, None), "dann": (0.730, None)},
    "office31_dslr_webcam": {"source-only": (0.961, None), "dann": (0.964, None)},
    "office31_webcam_dslr": {"source-only": (0.978, None), "dann": (0.992, None)},
}


def table(folder: pathlib.Path = FOLDER) -> str:
    """Returns the table in Markdown: experiments of the paper, and others that have a result.

    Args:
      folder: Where the result files lie, as CONFIG/METHOD.json.
    """
    lines = [
        "| config | method | paper / preprint | ours, mean ± sd | keys | gap covered | steps "
        "| minutes a key | device | file |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in configs.config_names():
        found = {
            method: results.read(folder / name / f"{method}.json") for method in configs.METHODS
        }
        if name not in PUBLISHED and not any(found.values()):
            continue
        lines += [_row(name, method, found) for method in configs.METHODS]
    return "\n".join(lines) + "\n"


def _row(name: str, method: str, found: dict[str, Any]) -> str:
    paper = PUBLISHED.get(name, {}).get(method)
    cells = [
        name,
        method,
        DASH if paper is None else " / ".join(_accuracy(value) for value in paper),
    ]
    result = found[method]
    if result is None:
        return "| " + " | ".join(cells + [DASH] * 7) + " |"
    spread = "" if result["std"] is None else f" ± {_accuracy(result['std'])}"
    parts = [of["part"] for of in result["data"].values() if "part" in of]
    oracle = "" if result["selection"] == "last step" else f" ({result['selection']})"
    bounds = [found["source-only"], found["train-on-target"]]
    gap = None
    if method == "dann" and None not in bounds:
        gap = results.gap_covered(result["mean"], *(bound["mean"] for bound in bounds))
    cells += [
        f"{_accuracy(result['mean'])}{spread}{oracle}{''.join(f' ({part})' for part in parts)}",
        str(len(result["keys"])),
        DASH if gap is None else f"{gap:.1%}",
        f"{result['steps']:,}",
        f"{result['wall_seconds'] / 60 / len(result['keys']):.1f}",
        f"{result['device']} x{result['device_count']}",
        f"[json](experiments/results/{name}/{method}.json)",
    ]
    return "| " + " | ".join(cells) + " |"


def _accuracy(value):
    return DASH if value is None else f"{value:.4f}".removeprefix("0")


def speed_tables(records: dict[str, dict]) -> dict[str, list[list[str]]]:
    """Returns the tables of benchmarks, machines side by side: for each a head and its rows.

    Args:
      records: Results of ``experiments.benchmark``, by the names of their files.

    Returns:
      Tables ``'benchmark'``, ``'steps-per-call'``, ``'keys'`` and ``'devices'``.
    """
    found = sorted(
        (
            (case["network"], case["pixels"], _arithmetic(record, case), name, record, case)
            for name, record in records.items()
            for case in record["cases"]
            if "network" in case
        ),
        key=lambda entry: entry[:4],
    )

    def rows(head, measures, cells):
        lines = [["network", "arithmetic", "device", "examples a step", *head]]
        for network, pixels, arithmetic, name, record, case in found:
            if case["measures"] in measures:
                lines.append(
                    [f"{network}, {pixels} px", arithmetic, _machine(record), str(case["batch"])]
                    + cells(name, record, case)
                )
        return lines

    return {
        "benchmark": rows(
            (
                *("ms a step (quartiles)", "examples/s", "compile s", "GFLOP/s (share of product)"),
                *("peak MB", "PyTorch / ours", "file"),
            ),
            ("update",),
            lambda name, record, case: [
                step_time(case),
                _number(case, "examples_per_second", "{:,.0f}"),
                _compile_time(case),
                _rate(case),
                _number(case, "peak_memory_bytes", "{:,.0f}", 1e-6),
                _against_pytorch(case),
                f"[json](experiments/results/benchmark/{name})",
            ],
        ),
        "steps-per-call": rows(
            ("steps a call", "ms a step (quartiles)", "compile s"),
            ("steps_per_call",),
            lambda name, record, case: [
                str(case["steps_per_call"]),
                step_time(case),
                _compile_time(case),
            ],
        ),
        "keys": rows(
            (
                *("keys", "ms a step of all (quartiles)", "times one key", "examples/s"),
                *("compile s", "peak MB"),
            ),
            ("keys",),
            lambda name, record, case: [
                str(case["keys"]),
                step_time(case),
                _number(case, "times_one_key", "{:.2f}"),
                _number(case, "examples_per_second", "{:,.0f}"),
                _compile_time(case),
                _number(case, "peak_memory_bytes", "{:,.0f}", 1e-6),
            ],
        ),
        "devices": rows(
            ("scaling", "devices", "ms a step (quartiles)", "times one device's examples/s"),
            _SCALING,
            lambda name, record, case: [
                case["measures"],
                f"{case['devices']}{' simulated' if record['simulated_devices'] else ''}",
                step_time(case),
                _number(case, "times_one_device", "{:.2f}"),
            ],
        ),
    }


def step_time(case: dict[str, Any]) -> str:
    """Returns the median and quartiles of a step in ms, or the reason why there are none."""
    if "reason" in case:
        return case["reason"]
    times = case["step_seconds"]
    median, lower, upper = (
        f"{t:.3g}" if t < 1e3 else f"{t:,.0f}"
        for t in (1e3 * times["median"], *(1e3 * t for t in times["quartiles"]))
    )
    return f"{median} ({lower}–{upper})"


def _arithmetic(record, case):
    """Returns how products are computed."""
    if record["dtype"] == "bfloat16":
        return "bfloat16"
    if case["precision"] == "tensorfloat32":
        return "TF32"
    exact = case["precision"] == "highest" or record["platform"] == "cpu"
    return "float32" if exact else "float32, default products"


def _machine(record):
    if record["platform"] == "cpu":
        return f"{record['processor']}, {record['cores']} cores"
    return record["device"]


def _number(case, name, form, factor=1.0):
    return form.format(case[name] * factor) if case.get(name) is not None else DASH


def _compile_time(case):
    if "compile_seconds" not in case:
        return DASH
    return f"{case['lowering_seconds'] + case['compile_seconds']:.1f}"


def _rate(case):
    if "flop_per_second" not in case:
        return DASH
    share = _number(case, "share_of_product", "{:.0%}")
    return f"{case['flop_per_second'] / 1e9:,.0f} ({share})"


def _against_pytorch(case):
    """Returns how many times longer PyTorch takes, for each way to run it."""
    return (
        ", ".join(
            f"{mode['engine'].replace('_', ' ')}{' channels last' * mode['channels_last']} "
            f"{_number(mode, 'ratio', '{:.2f}')}"
            for mode in case.get("pytorch", [])
        )
        or DASH
    )


def _speed_tables():
    """Returns the tables of the committed benchmarks in Markdown."""
    paths = sorted(BENCHMARKS.glob("*.json"))
    records = {path.name: results.read(path) for path in paths}
    for record in records.values():
        if record["simulated_devices"]:  # they share the cores: they show only that several work
            record["cases"] = [case for case in record["cases"] if case["measures"] in _SCALING]
    tables = speed_tables(records)
    return {name: _markdown(*lines) for name, lines in tables.items()}


def _markdown(head, *rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _filled(text: str, tables: dict[str, str], path: pathlib.Path) -> str:
    """Returns a document with the tables that it has markers for.

    Raises:
      ValueError: It has no markers, or those of a table are not there once each.
    """
    filled = 0
    for name, content in tables.items():
        begin, end = (BEGIN.replace("results", name), END.replace("results", name))
        if not text.count(begin) and not text.count(end):
            continue
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise ValueError(f"{path} must have {begin} and {end} once, in this order")
        head, rest = text.split(begin)
        _, tail = rest.split(end)
        text = f"{head}{begin}\n{content}{end}{tail}"
        filled += 1
    if not filled:
        raise ValueError(f"{path} must have {BEGIN} and {END}, or those of another table")
    return text


def main(arguments: list[str] | None = None) -> int:
    """Runs the program.

    Args:
      arguments: Of the command line; None for those of the process.

    Returns:
      The exit status: 1 where ``--check`` finds a difference, 2 where markers are missing.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    parser.add_argument("--readme", type=pathlib.Path, default=ROOT / "README.md")
    parser.add_argument("--speed", type=pathlib.Path, default=ROOT / "docs" / "speed.md")
    options = parser.parse_args(arguments)
    tables = {"results": table(), **_speed_tables()}
    status = 0
    for path in (options.readme, options.speed):
        text = path.read_text()
        try:
            new = _filled(text, tables, path)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if new == text:
            print(f"{path.name} agrees with the result files")
        elif options.check:
            print(
                f"{path.name} and the result files disagree: run python -m experiments.report",
                file=sys.stderr,
            )
            status = 1
        else:
            path.write_text(new)
            print(f"written: {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())
