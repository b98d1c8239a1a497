"""The tutorial runs, and it is committed with what it prints and draws."""

import base64
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
CELLS = json.loads((ROOT / "docs" / "first_model.ipynb").read_text())["cells"]


def test_the_tutorial_is_committed_with_its_pictures():
    outputs = [output for cell in CELLS for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output["output_type"] == "error"]
    pictures = [output["data"]["image/png"] for output in outputs if "data" in output]
    assert len(pictures) == sum("plt.show()" in "".join(cell["source"]) for cell in CELLS) + 1
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


def test_the_tutorial_prints_what_it_is_committed_with(tmp_path):
    """The numbers to two points: they differ by rounding from processor to processor."""
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    program = tmp_path / "program.py"
    program.write_text("\n\n".join("".join(cell["source"]) for cell in code))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DANN_JAX_DATA": str(tmp_path)}
    environment.pop("XLA_FLAGS", None)
    finished = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    outputs = [output for cell in code for output in cell["outputs"]]
    before = "".join("".join(output.get("text", "")) for output in outputs)
    number = re.compile(r"0\.\d+")
    assert number.sub("x", finished.stdout) == number.sub("x", before)
    numbers = (map(float, number.findall(text)) for text in (finished.stdout, before))
    accuracies = list(zip(*numbers, strict=True))
    assert len(accuracies) == 2
    assert all(abs(a - b) < 0.05 for a, b in accuracies)
    assert accuracies[1][0] > accuracies[0][0] + 0.04
