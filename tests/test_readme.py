"""The README and the documents: its program runs, links lead to files, Python blocks are valid."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

from experiments.methods import METHODS

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = (README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^()\s]+)\)")
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def prose(path):
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)


def anchors(path):
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_has_at_most_150_lines():
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize(("weight", "least", "most"), [("3 *", 0.9, 1.0), ("0 *", 0.5, 0.85)])
def test_the_program_of_the_readme_adapts_where_lambda_is_not_0(tmp_path, weight, least, most):
    program = tmp_path / "program.py"
    text = PYTHON.findall(README.read_text())[0]
    assert text.count("3 *") == 1
    program.write_text(text.replace("3 *", weight))
    finished = subprocess.run(
        [sys.executable, str(program)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert least < float(finished.stdout.rsplit(maxsplit=1)[-1]) < most


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_links_lead_to_files_and_headings(path):
    broken = []
    for link in LINK.findall(prose(path)):
        if re.match(r"https?:|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        inside = target.exists() and target.is_relative_to(ROOT)
        if not inside or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_python_in_documents_is_valid(path):
    for i, block in enumerate(PYTHON.findall(path.read_text())):
        compile(block, f"{path.name}, block {i}", "exec")


def test_modules_that_documents_run_exist():
    text = "".join(path.read_text() for path in DOCUMENTS)
    modules = set(re.findall(r"python -m (experiments[\w.]*)", text))
    assert {"experiments.run", "experiments.verify", "experiments.report"} <= modules
    for module in modules:
        spec = importlib.util.find_spec(module)
        assert spec, module
        if spec.submodule_search_locations:
            assert importlib.util.find_spec(f"{module}.__main__"), module


def test_every_method_has_a_page():
    pages = [path.read_text() for path in (ROOT / "docs" / "methods").glob("*.md")]
    for name in METHODS:
        assert any(re.search(rf"(--methods [ \w-]*\b|^\| ){name}\b", page, re.M) for page in pages)


@pytest.mark.parametrize("package", ["dann_jax", "experiments"])
def test_the_layout_has_a_line_for_each_module(package):
    page = (ROOT / "docs" / "layout.md").read_text().split(f"## {package}:")[1].split("## ")[0]
    lines = re.findall(r"^([a-z_]+(?:\.py|/)) ", page, re.M)
    entries = (ROOT / package).iterdir()
    modules = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in entries
        if not path.name.startswith(("_", ".")) and (path.is_dir() or path.suffix == ".py")
    }
    assert sorted(lines) == sorted(modules)
