"""The counts of outcomes as tables: in the terminal, and in Markdown of the committed files."""

import pathlib
from collections import Counter
from typing import Any

from rich.table import Table

from experiments import record
from experiments.hostile.outcomes import FAILURES, HARMLESS
from experiments.result_tables import markdown

__all__ = ["in_terminal", "tables"]


def in_terminal(outcomes: dict[str, Counter]) -> Table:
    """Returns the outcomes of each case, and of all."""
    kinds = [kind for kind in (*HARMLESS, *FAILURES) if any(c[kind] for c in outcomes.values())]
    table = Table("", "trials", *kinds)
    every = outcomes | {"all": sum(outcomes.values(), Counter())}
    for name, counts in every.items():
        table.add_row(name, f"{counts.total():,}", *(f"{counts[kind]:,}" for kind in kinds))
    return table


def tables(folder: pathlib.Path) -> dict[str, str]:
    """Returns the table of each file of counts in a folder by the name of its program."""
    contents = [record.read(path) for path in sorted(folder.glob("*.json"))]
    return {content["program"]: _table(content) for content in contents}


def _table(content: dict[str, Any]) -> str:
    cases = content["cases"]
    kinds = [kind for kind in HARMLESS if any(kind in counts for counts in cases.values())]
    with_checksum = any("checksum" in counts for counts in cases.values())
    every = Counter()
    rows = []
    for name, counts in cases.items():
        numbers = {kind: counts.get(kind, 0) for kind in ("trials", *kinds)}
        numbers["failed"] = sum(counts.get(kind, 0) for kind in (*FAILURES, "failed"))
        every.update(numbers)
        checksum = ["yes" if counts["checksum"] else ""] if with_checksum else []
        rows.append([name, *checksum, *(f"{n:,}" for n in numbers.values())])
    blank = [""] if with_checksum else []
    rows.append(["all", *blank, *(f"{n:,}" for n in every.values())])
    head = ["", *(["checksum"] if with_checksum else []), "trials", *kinds, "failed"]
    about = f"{content['seconds']:,.0f} s on {content['processor']}, seed {content['seed']}"
    return f"{markdown(head, *rows)}\n{about}, dann_jax {content['versions']['dann_jax']}.\n"
