"""What a wheel and an index get: ranges and their lock file, the description, missing extras."""

import configparser
import importlib
import pathlib
import re
import runpy
import sys

import pytest
from packaging.requirements import Requirement

import dann_jax
from dann_jax import datasets, extras

ROOT = pathlib.Path(__file__).parents[1]
DRAWN = ("digits", "digits_m", "mnist_m", "syn_numbers", "syn_signs")
LINK = re.compile(r"(?<!!)\[[^]\n]+\]\(([^()\s]+)\)")


@pytest.fixture(scope="module")
def config():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def locked():
    lines = (ROOT / "requirements" / "reproduce-py311-cpu.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert all(re.fullmatch(r"[\w.\-\[\]]+==\S+", pin) for pin in pins)
    return {name(pin): pin.partition("==")[2] for pin in pins}


def name(requirement):
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def test_the_extras_take_ranges_and_the_lock_file_has_a_version_of_each(config, locked):
    needed = config["options.extras_require"]
    lines = [config["options"]["install_requires"], *(needed[e] for e in ("data", "experiments"))]
    for line in "\n".join(lines).split("\n"):
        if line and not line.startswith("dann_jax"):
            requirement = Requirement(line)
            assert "==" not in line
            assert locked[name(line)] in requirement.specifier, line


def test_images_are_compared_with_those_that_the_versions_of_the_lock_file_draw(locked):
    for each in DRAWN:
        builder = datasets.builder(each, data_dir="unused")
        assert builder.SAMPLES.keys() == {"train", "test"}
        assert builder.DRAWN_WITH
        for pin in builder.DRAWN_WITH:
            assert locked[name(pin)] == pin.partition("==")[2], pin


@pytest.mark.parametrize("source", [None, "https://host/owner/dann_jax"])
def test_links_of_the_description_work_outside_the_repository(source):
    text = runpy.run_path(str(ROOT / "setup.py"))["description"](source)
    before, after = LINK.findall((ROOT / "README.md").read_text()), LINK.findall(text)
    assert all(link.startswith("https://") for link in after)
    assert len(after) == (len(before) if source else 0)
    assert "```python" in text
    for link in after:
        path = link.removeprefix(f"{source}/blob/main/").partition("#")[0]
        assert (ROOT / path).is_file(), link


def test_types_are_announced(config):
    assert "py.typed" in config["options.package_data"]["dann_jax"].split()
    assert (ROOT / "dann_jax" / "py.typed").is_file()


def test_a_missing_package_is_answered_with_the_extra_that_has_it(monkeypatch):
    for module in ("datasets.digits.digits_dataset_builder", "streaming", "classifier"):
        monkeypatch.delitem(sys.modules, f"dann_jax.{module}", raising=False)
    for package in ("tensorflow_datasets", "grain", "sklearn.base"):
        monkeypatch.setitem(sys.modules, package, None)
    needs = r"^dann_jax\.{} needs the package {}, .* pip install 'dann_jax\[data\]'$".format
    with pytest.raises(ModuleNotFoundError, match=needs("datasets", "tensorflow_datasets")):
        datasets.load("digits", "train")
    with pytest.raises(ModuleNotFoundError, match=needs("streaming", "grain")):
        importlib.import_module("dann_jax.streaming")
    with pytest.raises(ModuleNotFoundError, match=needs("DannClassifier", "sklearn")):
        _ = dann_jax.DannClassifier


def test_a_module_of_this_package_that_is_missing_is_no_extra():
    with pytest.raises(ModuleNotFoundError, match="^No module named 'dann_jax.nothing'"):  # noqa: SIM117
        with extras.needs("it"):
            importlib.import_module("dann_jax.nothing")
