"""The tutorial runs, and it is committed with what it prints and draws."""

import base64
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CELLS = json.loads((ROOT / "docs" / "first_model.ipynb").read_text())["cells"]


def test_the_tutorial_is_committed_with_its_pictures():
    outputs = [output for cell in CELLS for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output["output_type"] == "error"]
    pictures = [output["data"]["image/png"] for output in outputs if "data" in output]
    assert len(pictures) == sum("plt.show()" in "".join(cell["source"]) for cell in CELLS) + 1
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.parametrize("steps", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_the_tutorial_prints_what_it_is_committed_with(tmp_path, steps):
    """All but the numbers and, after all steps, these to some points: processors round."""
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    text = "\n\n".join("".join(cell["source"]) for cell in code)
    assert text.count("steps = 300\n") == 1
    program = tmp_path / "program.py"
    program.write_text(text.replace("steps = 300\n", f"steps = {steps}\n"))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DANN_JAX_DATA": str(tmp_path)}
    environment.pop("XLA_FLAGS", None)
    finished = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    outputs = [output for cell in code for output in cell["outputs"]]
    committed = "".join("".join(output.get("text", "")) for output in outputs)
    number = re.compile(r"0\.\d+")
    assert number.sub("x", finished.stdout) == number.sub("x", committed)
    without, dann = map(float, number.findall(finished.stdout))
    if steps == 300:
        assert dann > without + 0.04
        assert abs(dann - float(number.findall(committed)[1])) < 0.05
