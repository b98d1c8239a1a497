"""What may import what, and what every module promises."""

import ast
import doctest
import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

import dann_jax
from dann_jax import kernels

ROOT = pathlib.Path(dann_jax.__file__).parent
BESIDE = {"alignment", "backbones", "datasets"}  # packages that the rest does not need
CORE = sorted(
    name
    for _, name, _ in pkgutil.iter_modules(dann_jax.__path__)
    if name not in BESIDE and not name.startswith("_")
)
FILES = sorted(ROOT.rglob("*.py"))


def imported(path):
    """Absolute names of all that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_by(name):
    """Absolute names of all that a module or a package imports."""
    files = (ROOT / name).glob("*.py") if (ROOT / name).is_dir() else [ROOT / f"{name}.py"]
    return set().union(*map(imported, files))


def modules_of(name):
    """The other modules of the library that one of them imports."""
    parts = {n.split(".")[1] for n in imported_by(name) if n.startswith("dann_jax.")}
    return (parts & set(CORE)) - {name}


def test_importing_the_library_imports_no_optional_package():
    heavy = [
        "tensorflow",
        "tensorflow_datasets",
        "sklearn",
        "matplotlib",
        "orbax.checkpoint",
        "PIL",
        "grain",
    ]
    code = (
        "import sys, dann_jax; "
        f"print(*[m for m in {heavy!r} if m in sys.modules], "
        "*[m for m in sys.modules if m.startswith('dann_jax.datasets')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT.parent)},
        check=True,
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_imports_neither_experiments_nor_tests(path):
    assert not {n for n in imported(path) if n.split(".")[0] in ("experiments", "tests")}


def test_the_arrows_between_modules_point_one_way():
    below = {
        "reversal": set(),
        "schedules": set(),
        "checks": set(),
        "extras": set(),
        "batches": {"checks"},
        "kernels": set(),
        "memory": set(),
        "checkpoints": set(),
        "digests": set(),
        "objective": {"reversal", "batches", "checks"},
        "objectives": {"batches", "checks", "networks", "objective", "objectives", "reversal"},
        "health": {"objective"},
        "divergence": {"checks"},
        "selection": {"checks", "divergence", "extras"},
        "augmentation": {"objective"},
        "parts": {"objective"},
        "preprocessing": {"augmentation", "batches"},
        "networks": {"checks", "kernels", "objective", "parts"},
        "model_files": {"networks", "objective", "objectives", "preprocessing", "training"},
        "captured": set(),
        "evaluation": {"captured", "checks", "kernels", "networks", "objective"},
        "training": {"batches", "checks", "networks", "objective"},
        "programs": {"batches", "checks", "kernels", "networks", "training"},
        "classifier": {
            *("checks", "evaluation", "fitting", "networks", "objective", "training"),
        },
        "fitting": {
            "batches",
            "captured",
            "checks",
            "evaluation",
            "health",
            "networks",
            "objective",
            "programs",
            "schedules",
            "selection",
            "training",
        },
        "streaming": {"augmentation", "batches", "checks", "extras"},
    }
    assert set(below) == set(CORE)
    for name, allowed in below.items():
        assert modules_of(name) <= allowed, name


def private_names(path):
    """Names of other packages that begin with an underscore and that a file takes."""
    tree, modules, names = ast.parse(path.read_text()), {}, set()
    own = ("dann_jax", "experiments")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full = {each.asname or each.name.split(".")[0]: each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        else:
            continue
        full = {short: name for short, name in full.items() if name.split(".")[0] not in own}
        modules |= full
        names |= set(full.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            if root in modules:
                names.add(f"{modules[root]}.{rest}")
    private = (re.match(r"jax\._src\.\w+|.*?\._[a-z]\w*", name) for name in names)
    return {match[0] for match in private if match}


def test_private_names_of_other_packages_are_these_alone():
    """A new version of a package may change them: each needs a reason and a test."""
    files = [*FILES, *sorted((ROOT.parent / "experiments").rglob("*.py"))]
    found = {name for path in files for name in private_names(path)}
    assert found == ALLOWED


ALLOWED = {
    "jax._src.clusters",  # which process of a cluster is the first, and where
    "os._exit",  # documented
    "tensorflow_datasets.core.utils.tqdm_utils._active",  # a switch without a getter
    "tyro._errors",  # the events of errors
}


def test_the_modules_of_kernels_have_one_door():
    for path in FILES:
        if path.parent.name != "kernels":
            behind = {n for n in imported(path) if n.startswith("dann_jax.kernels.")}
            assert behind <= {f"dann_jax.kernels.{name}" for name in kernels.__all__}, path


def test_the_key_of_a_training_is_split_in_one_place():
    """Other keys are derived by fold_in, but for the two draws of one random view."""
    places = []
    for path in FILES:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and path.parent == ROOT:
                calls = (ast.unparse(node) for node in function.body)
                places += [function.name] * any("jax.random.split(" in call for call in calls)
    assert sorted(places) == ["draw", "draw_views", "split_key"]


def test_core_modules_do_not_know_the_datasets():
    for name in CORE:
        assert not {n for n in imported_by(name) if "dann_jax.datasets" in n}, name


def test_no_module_is_named_after_nothing():
    nothing = {"utils", "util", "helpers", "common", "misc", "core", "tools"}
    for path in FILES:
        assert not nothing & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}, (
            path
        )


@pytest.mark.parametrize("name", CORE)
def test_every_public_name_exists_and_is_documented(name):
    module = importlib.import_module(f"dann_jax.{name}")
    assert module.__doc__
    assert module.__all__
    assert list(module.__all__) == sorted(set(module.__all__))
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), public
            assert f"{value.__module__}.".startswith(f"{module.__name__}."), (
                f"{public} is defined elsewhere"
            )


@pytest.mark.parametrize("name", CORE)
def test_no_public_definition_is_missing_from_all(name):
    """A function or class that other modules of the library import by name has to be public."""
    others = [path for path in FILES if path.stem != name]
    module = importlib.import_module(f"dann_jax.{name}")
    used = {n for path in others for n in imported(path) if n.startswith(f"dann_jax.{name}.")}
    private = {n.split(".")[2] for n in used if n.split(".")[2].startswith("_")}
    assert not private
    assert all(hasattr(module, n.split(".")[2]) for n in used)


def test_every_name_of_the_package_exists():
    assert list(dann_jax.__all__) == sorted(set(dann_jax.__all__))
    for name in dann_jax.__all__:
        assert inspect.getdoc(getattr(dann_jax, name)), name


def test_every_network_is_a_name_of_the_package():
    functions = inspect.getmembers(dann_jax.networks, inspect.isfunction)
    networks = {
        n for n, f in functions if inspect.signature(f).return_annotation is dann_jax.DannModel
    }
    assert {"mnist", "office"} <= networks <= set(dann_jax.__all__)


@pytest.mark.parametrize("name", CORE)
def test_the_examples_in_the_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(f"dann_jax.{name}")).failed == 0


def test_the_closed_forms_have_examples():
    finder = doctest.DocTestFinder()
    tested = {
        test.name
        for name in CORE
        for test in finder.find(importlib.import_module(f"dann_jax.{name}"))
        if test.examples
    }
    for name in ("reversal.reverse_gradient", "objective.label_loss", "objective.domain_loss"):
        assert f"dann_jax.{name}" in tested
    for name in ("schedules.lambda_p", "schedules.mu_p"):
        assert f"dann_jax.{name}" in tested
