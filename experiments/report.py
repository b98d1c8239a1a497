"""Turns result files into the README's table: python -m experiments.report [--check].

The table stands between two markers. Every figure of ours comes from a file in
experiments/results; a cell without a file is a dash. --check changes nothing and fails when
the README and the files disagree.
"""

import argparse
import pathlib
import sys
from typing import Any

from experiments import config as configs
from experiments import results

__all__ = ["PUBLISHED", "main", "table"]

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "experiments" / "results"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
DASH = "—"

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


def main(arguments: list[str] | None = None) -> int:
    """Runs the program.

    Args:
      arguments: Of the command line; None for those of the process.

    Returns:
      The exit status: 1 where ``--check`` finds a difference.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    parser.add_argument("--readme", type=pathlib.Path, default=ROOT / "README.md")
    options = parser.parse_args(arguments)
    text = options.readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        print(f"error: {options.readme} must have {BEGIN} and {END} once", file=sys.stderr)
        return 2
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    new = f"{head}{BEGIN}\n{table()}{END}{tail}"
    if new == text:
        print("the README agrees with the result files")
        return 0
    if options.check:
        print(
            "the README and the result files disagree: run python -m experiments.report",
            file=sys.stderr,
        )
        return 1
    options.readme.write_text(new)
    print(f"written: {options.readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
