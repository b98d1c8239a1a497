"""Exports a trained model as one function in one file: python -m experiments.export RUN.

RUN is the folder of a finished training, such as runs/own_photos/dann/key_0. The file is an
artefact of jax.export, which needs jax alone, on a CPU, GPU or TPU: images of the training's size,
uint8 [n, size, size, 3] for any n, to the probabilities of the classes, float32 [n, classes]. What
happens to an image before the network, a frozen backbone too, is in it.
"""

import dataclasses
import pathlib
from typing import Annotated

import jax
import jax.export
import jax.numpy as jnp
import tyro

from dann_jax import evaluation, model_files
from dann_jax.datasets.whole_files import whole
from dann_jax.objective import TARGET
from experiments import arguments as command_line

__all__ = ["Options", "export", "main"]

PROGRAM = "python -m experiments.export"
PLATFORMS = "cpu", "cuda", "tpu"
SERVING = """To serve it without this package (pip install jax flatbuffers Pillow):

import json, jax.export, numpy as np, pathlib, PIL.Image, PIL.ImageOps
image = PIL.ImageOps.exif_transpose(PIL.Image.open("NEW.jpg")).convert("RGB")
image = np.asarray(image.resize(({size}, {size}), PIL.Image.BILINEAR))
p = jax.export.deserialize(pathlib.Path({artefact!r}).read_bytes()).call(image[None])[0]
print(json.loads(pathlib.Path({description!r}).read_text())["classes"][p.argmax()], p.max())
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to export, and where to."""

    run: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a finished training, METHOD/key_KEY, or one above it that holds no other."""

    output: pathlib.Path | None = None
    """The file; by default model.jax_export in the folder of the training."""

    overwrite: bool = False
    """Replaces a file that is there."""


def export(options: Options) -> str:
    """Writes the artefact; returns in words where it is, and a program of five lines that uses it.

    Raises:
      ValueError: There is such a file already, or no trained model.
    """
    folder = model_files.find(options.run)
    path = options.output or folder / "model.jax_export"
    command_line.check_file(path, "--output", overwrite=options.overwrite)
    size = model_files.describe(folder)["image"]["size"]
    model, state, _, preprocess = model_files.load(folder)

    def probabilities(image):
        taken = state.theta, state.batch_stats, preprocess(image)
        logits = evaluation.label_logits(model, *taken, domain=TARGET)
        return jax.nn.softmax(logits.astype(jnp.float32))

    (n,) = jax.export.symbolic_shape("n")
    image = jax.ShapeDtypeStruct((n, size, size, 3), jnp.uint8)
    exported = jax.export.export(jax.jit(probabilities), platforms=PLATFORMS)(image)
    with whole(path) as temporary:
        temporary.write_bytes(exported.serialize())
    about = {"artefact": str(path), "description": str(folder / model_files.DESCRIPTION)}
    return f"written: {path}\n\n{SERVING.format(size=size, **about)}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the program and returns its exit status: 0, or 2 where nothing was exported."""
    options = command_line.parse(Options, arguments, program=PROGRAM, description=__doc__)
    return command_line.ended(
        lambda: print(export(options), end=""),
        ImportError,  # of flatbuffers
    )


if __name__ == "__main__":
    command_line.end(main())
