"""What a module of the experiments may know, and how long its functions may be."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console
from test_together import CONFIG, small_config

import experiments
from dann_jax.objective import label_objective
from experiments import display, execute, record
from experiments.methods import METHODS, Alignment, Method
from experiments.options import Options
from experiments.plan import make_plan

ROOT = pathlib.Path(experiments.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
POSITIONAL, LINES = 5, 60  # the most of a function

# The table itself, the paper's figures by method, and an experiment that consists of some.
NAMES_METHODS = {"methods.py", "paper.py", "configs/syn_signs_gtsrb_semi.py"}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def tree_of(path):
    return ast.parse(path.read_text())


def functions_of(path):
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, kinds)]


def imports_of(path):
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_function_has_many_positional_parameters_or_is_long(path):
    for function in functions_of(path):
        where = f"{name_of(path)}:{function.lineno} {function.name}"
        parameters = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
        parameters = [name for name in parameters if name not in ("self", "cls")]
        assert len(parameters) <= POSITIONAL, where
        assert function.end_lineno - function.lineno + 1 <= LINES, where


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_table_of_methods_knows_a_method_by_its_name(path):
    constants = {
        node.value
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert (name_of(path) in NAMES_METHODS) == bool(constants & METHODS.keys())


def test_only_the_records_know_json():
    knowing = {name_of(path) for path in FILES if "json" in imports_of(path)}
    assert knowing == {"record.py"}


def test_data_does_not_climb_back():
    """What is higher up in a run is not imported from below."""
    down = ["run", "execute", "train", "plan", "options", "configs", "methods", "settings"]
    for i, name in enumerate(down):
        path = ROOT / name / "__init__.py" if name == "configs" else ROOT / f"{name}.py"
        above = {f"experiments.{each}" for each in down[:i]}
        assert not imports_of(path) & above, name


def test_every_method_trains_or_aligns():
    for name, method in METHODS.items():
        assert name == method.name
        assert bool(method.trains_on and method.objective) != bool(method.aligns and method.fit)
        assert method.aligns is None or METHODS[method.aligns].trains_on
    assert sorted(m.bound for m in METHODS.values() if m.bound) == ["lower", "upper"]


def test_no_two_modules_have_names_that_differ_by_a_letter():
    names = sorted({path.stem for path in FILES if path.stem != "__init__"} | {"configs"})
    for name in names:
        assert f"{name}s" not in names


def entropy_objective(config):
    """L_y, and as much of the entropy of the target's labels as the weight of L_d says."""

    def objective(theta, batch, lam, apply, *, axis_name=None):
        value, terms = label_objective(theta, batch, lam, apply, axis_name=axis_name)
        features = apply.feature_extractor(theta["f"], batch.target_image)
        logits = jax.nn.log_softmax(apply.label_predictor(theta["y"], features))
        entropy = -jnp.mean(jnp.sum(jnp.exp(logits) * logits, -1))
        return value + config.domain_weight * entropy, terms

    return objective


def centered(source, labels, target):
    """Subtracts the mean of each domain."""
    del labels
    means = source.mean(0), target.mean(0)
    of_source, of_target = ((lambda x, most, mean=m: lambda d: x - mean) for m in means)
    return Alignment([source.shape[1]], [source.shape[1]], of_source, of_target, {})


@pytest.mark.usefixtures("quick_compilation")
def test_a_new_method_is_one_entry(tmp_path):
    added = [
        Method(
            name="entropy",
            label="entropy",
            trains_on=("source", "target"),
            objective=entropy_objective,
            svm_head=True,
        ),
        Method(name="centered", label="centered", aligns="entropy", fit=centered, selection="one"),
    ]
    with small_config() as patch:
        for method in added:
            patch.setitem(METHODS, method.name, method)
        names = tuple(method.name for method in added)
        options = Options(config=CONFIG, methods=names, output=tmp_path)
        todo = make_plan("small", options)
        assert [(job.method.name, job.head) for job in todo.jobs] == [
            ("entropy", True),
            ("centered", False),
        ]
        execute.execute(todo, options, jax.local_devices()[:1], Console(quiet=True))
        results = record.read_results(tmp_path / "small")
        assert list(results) == list(names)
        assert "svm_accuracy" in results["entropy"]
        assert results["centered"]["selection"] == "one"
        assert display.table("small", {"small": results}).row_count == 2  # one pick, one row
        assert make_plan("small", options).jobs == []
