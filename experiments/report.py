"""Turns result files into the tables of the documents: python -m experiments.report [--check].

A table stands between two markers, in README.md or a document in docs. Every figure of ours comes
from a file in experiments/results, which has to be whole; a cell without a file is a dash. The JSON
Schemas of these files, docs/result.schema.json and docs/benchmark.schema.json, are written too.
--check changes nothing and fails when a document and the files disagree.
"""

import pathlib
import sys

from dann_jax.datasets.whole_files import whole
from experiments import record, result_tables, schema, selection
from experiments.arguments import Parser, end, ended
from experiments.benchmark import contents
from experiments.benchmark import tables as benchmark_tables
from experiments.hostile import tables as hostile_tables

__all__ = ["BEGIN", "BENCHMARKS", "END", "FOLDER", "ROOT", "main"]

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "experiments" / "results"
HOSTILE = FOLDER / result_tables.HOSTILE
BENCHMARKS = FOLDER / result_tables.BENCHMARKS
SELECTION = FOLDER / result_tables.SELECTION
SCHEMA = ROOT / "docs" / "result.schema.json"
BENCHMARK_SCHEMA = ROOT / "docs" / "benchmark.schema.json"
BEGIN, END = "<!-- {}: begin -->", "<!-- {}: end -->"


def _benchmarks():
    """Returns the tables of the committed benchmarks in Markdown."""
    paths = sorted(BENCHMARKS.glob("*.json"))
    records = {path.name: record.read(path) for path in paths}
    for name, benchmark in records.items():
        try:
            if "benchmark_format" in benchmark:
                contents.checked(benchmark)
            elif "simulated_devices" not in benchmark or "cases" not in benchmark:
                raise ValueError("it has no cases")
            benchmark_tables.tables({name: benchmark})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{BENCHMARKS / name} is no benchmark ({type(error).__name__}: {error}): make it "
                "anew"
            ) from error
    # Simulated devices share the cores: they show only that several work.
    tables = benchmark_tables.tables(records, simulated=False)
    return {name: result_tables.markdown(*lines) for name, lines in tables.items()}


def _documents():
    """Returns the documents of the project that have the markers of a table."""
    every = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [path for path in every if ": begin -->" in path.read_text()]


def _filled(text: str, tables: dict[str, str], path: pathlib.Path) -> str:
    """Returns a document with the tables whose markers it has; ValueError without good ones."""
    filled = 0
    for name, content in tables.items():
        begin, end = BEGIN.format(name), END.format(name)
        if not text.count(begin) and not text.count(end):
            continue
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise ValueError(f"{path} must have {begin} and {end} once, in this order")
        head, rest = text.split(begin)
        _, tail = rest.split(end)
        if path.parent == ROOT / "docs":
            content = content.replace("](experiments/", "](../experiments/")
        text = f"{head}{begin}\n{content}{end}{tail}"
        filled += 1
    if not filled:
        raise ValueError(f"{path} must have the markers of a table: {', '.join(tables)}")
    return text


def main(arguments: list[str] | None = None) -> int:
    """Runs the program and returns 0, 1 where ``--check`` finds a difference, or 2 for an error."""
    parser = Parser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    parser.add_argument("documents", nargs="*", type=pathlib.Path, help="all with markers if none")
    options = parser.parse_args(arguments)
    return ended(lambda: _fill(options), interrupted="the same command does the rest")


def _fill(options):
    status = 0
    tables = result_tables.tables(result_tables.read(FOLDER)) | _benchmarks()
    tables |= hostile_tables.tables(HOSTILE) | selection.tables(SELECTION)
    documents = {path: path.read_text() for path in options.documents or _documents()}
    filled = {path: _filled(text, tables, path) for path, text in documents.items()}
    if not options.documents:
        for path, of in ((SCHEMA, schema), (BENCHMARK_SCHEMA, contents)):
            documents[path] = path.read_text() if path.exists() else ""
            filled[path] = record.as_text(of.json_schema())
    for path, new in filled.items():
        if new == documents[path]:
            print(f"{path.name} agrees with the result files")
        elif options.check:
            print(
                f"{path.name} and the result files disagree: run python -m experiments.report",
                file=sys.stderr,
            )
            status = 1
        else:
            with whole(path) as temporary:
                temporary.write_text(new)
            print(f"written: {path}")
    return status


if __name__ == "__main__":
    end(main())
