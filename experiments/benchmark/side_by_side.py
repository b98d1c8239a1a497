"""Prints files of benchmarks beside each other: python -m experiments.benchmark.side_by_side FILES.

The tables are those of docs/speed.md, with a row for each machine. Files of races to an accuracy
may be among them.
"""

import pathlib

from rich.console import Console
from rich.table import Table

from experiments import record
from experiments.arguments import Parser, end, ended
from experiments.benchmark import contents, tables

__all__ = ["main", "show"]

WIDTH = 150  # columns that the tables need


def show(records: dict[str, dict], console: Console) -> None:
    """Prints the tables of files that have rows; of a single one without its machine."""
    console.width = max(WIDTH, console.width)
    hidden = {"file"} if len(records) > 1 else {"file", "device"}
    for title, (head, *rows) in tables.tables(records).items():
        columns = [i for i, name in enumerate(head) if name not in hidden]
        table = Table(*(head[i] for i in columns), title=title)
        for row in rows:
            table.add_row(*(row[i] for i in columns))
        if rows:
            console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; returns 0, or 2 for an error."""
    parser = Parser(prog="python -m experiments.benchmark.side_by_side", description=__doc__)
    parser.add_argument("files", nargs="+", type=pathlib.Path, help="results of benchmarks")
    files = parser.parse_args(arguments).files
    return ended(lambda: show({str(path): _read(path) for path in files}, Console(highlight=False)))


def _read(path):
    """Returns the content of a file of a benchmark, whatever its format."""
    content = record.read(path)
    if content is None:
        raise ValueError(f"{path}: expected the file of a benchmark, got none: name another")
    try:
        if "benchmark_format" in content:
            contents.checked(content)
        tables.tables({path.name: content})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected the file of a benchmark, got another ({error}): name another"
        ) from error
    return content


if __name__ == "__main__":
    end(main())
