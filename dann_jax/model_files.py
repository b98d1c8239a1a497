"""A trained model in a folder: ``model.json``, what it takes and gives, and its weights."""

import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy

from dann_jax import networks, training
from dann_jax.objective import SOURCE, TARGET
from dann_jax.preprocessing import Preprocess

__all__ = ["DESCRIPTION", "LoadedModel", "WEIGHTS", "contents", "describe", "find", "load"]

DESCRIPTION = "model.json"
"""The file that describes a model."""

WEIGHTS = "weights.safetensors"
"""The file of its parameters and batch statistics."""

FORMAT = 1  # of model.json
_DOMAINS = {"source": SOURCE, "target": TARGET}
_NETWORKS = ("mnist", "mnist_batch_norm", "svhn", "svhn_batch_norm", "gtsrb", "compact")
_WITH_BACKBONE = ("office", "office_batch_norm")
_REMEDY = "copy the folder anew from where it came from, or train again with --overwrite"
_MISSING = (
    "name another, or train with experiments.run (anew with --overwrite where an earlier version "
    "has trained, or the training diverged)"
)


class LoadedModel(NamedTuple):
    """A trained model as ``predict`` and ``features`` take it."""

    model: networks.DannModel
    state: training.TrainState  # without that of the optimizer
    classes: tuple[str, ...]  # in the order of the logits
    preprocess: Callable[[chex.Array], chex.Array]  # [n, h, w, 1 or 3] uint8 to what G_f takes


def contents(
    description: dict[str, Any], state: training.TrainState, backbone: Any = None
) -> dict[str, bytes]:
    """Returns the files of a trained model by name; ``model.json``, the last, names the weights.

    Args:
      description: The entries of ``model.json`` but for its format, digests and step:
        ``classes``, names; ``network``, a function of ``networks`` by name and its ``arguments``,
        the ``backbone`` below it by name or null, whether that is ``frozen``, and G_d's
        ``domain_input``; ``image``, the ``size`` that images have, ``resize``, whether they get
        it by resizing or by padding, the ``crop`` of their middle, and the ``mean`` and ``scale``
        of pixels; ``features``, ``mean`` and ``scale`` of a frozen backbone's outputs or null;
        ``domain``, whose batch statistics predict. Others are kept.
      state: What was trained.
      backbone: The variables of a frozen backbone, which are no part of the state.

    Raises:
      ValueError: A number of the state is not finite.
    """
    trees = {"theta": state.theta, "batch_stats": state.batch_stats, "backbone": backbone or {}}
    arrays = _by_name(trees)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"expected finite weights to keep, got others in {name}: train again")
    weights = safetensors.numpy.save(arrays)
    entries = description | {
        "format": FORMAT,
        "step": int(state.step),
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(weights).hexdigest()},
    }
    text = json.dumps(entries | {"checksum": _checksum(entries)}, indent=1, allow_nan=False)
    return {WEIGHTS: weights, DESCRIPTION: f"{text}\n".encode()}


def find(folder: str | pathlib.Path) -> pathlib.Path:
    """Returns the folder of the only trained model in a folder, or in its ``METHOD/key_KEY``.

    Raises:
      FileNotFoundError: There is none; the error says what to do.
      ValueError: There are several.
    """
    folder = pathlib.Path(folder).expanduser()
    for pattern in ("", "key_*/", "*/key_*/", "*/*/key_*/"):
        found = sorted(path.parent for path in folder.glob(f"{pattern}{DESCRIPTION}"))
        if len(found) > 1:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise ValueError(
                f"{folder}: expected one trained model, got {', '.join(map(str, found[:3]))}{more}"
                ": name one of them"
            )
        if found:
            return found[0]
    got = f"one without {DESCRIPTION}" if folder.is_dir() else "none"
    raise FileNotFoundError(
        f"{folder}: expected the folder of a finished training, METHOD/key_KEY, got {got}: "
        f"{_MISSING}"
    )


def describe(folder: str | pathlib.Path) -> dict[str, Any]:
    """Returns the entries of ``model.json``, see ``contents``.

    Args:
      folder: As in ``load``.

    Raises:
      FileNotFoundError: There is no trained model.
      ValueError: There are several, or the file is damaged or of another format.
    """
    path = find(folder) / DESCRIPTION
    try:
        entries = json.loads(path.read_bytes())
        damaged = entries.pop("checksum") != _checksum(entries)
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError):
        damaged = True
    if damaged:
        raise ValueError(
            f"{path} is damaged (it does not have the checksum that it was written with): {_REMEDY}"
        )
    if entries["format"] != FORMAT:
        raise ValueError(
            f"{path}: expected format {FORMAT}, got {entries['format']}: read it with dann_jax "
            f"{entries['versions']['dann_jax']}, which wrote it, or train again with --overwrite"
        )
    return entries


def load(folder: str | pathlib.Path) -> LoadedModel:
    """Returns a trained model that ``experiments.run`` left in a folder.

        model, state, classes, preprocess = load("runs/own_photos/dann/key_0")
        logits = predict(model, state, images, preprocess=preprocess)

    Args:
      folder: ``METHOD/key_KEY`` of a run, or a folder above it with no other trained model.

    Returns:
      Model, state without the optimizer's, class names, and the preprocessing of stored images
      ``[n, height, width, 1 or 3]``, which contains a frozen backbone. If only source images were
      trained on, batch statistics of the target are those of the source, so that ``predict``
      needs no ``domain``.

    Raises:
      FileNotFoundError: There is no trained model, or its weights are not there.
      ValueError: There are several, or one is damaged or of another format.
    """
    folder = find(folder)
    entries, path = describe(folder), folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the weights of {DESCRIPTION}, got no file: {_REMEDY}"
        )
    digest, expected = hashlib.sha256(path.read_bytes()).hexdigest(), entries["weights"]["sha256"]
    if digest != expected:
        raise ValueError(
            f"{path} is damaged, or of another training (expected sha256 {expected[:12]}, got "
            f"{digest[:12]}): {_REMEDY}"
        )
    from dann_jax.backbones import read_arrays  # not needed to import the package

    model, shapes = _model(entries)
    trees = _filled(shapes, read_arrays(path), path)
    state = training.TrainState(
        step=jnp.asarray(entries["step"], jnp.int32),
        theta=trees["theta"],
        batch_stats=_for_both_domains(trees["batch_stats"], _DOMAINS[entries["domain"]]),
        opt_state=(),
    )
    classes = tuple(entries["classes"])
    return LoadedModel(model, state, classes, _of_stored(_preprocess(entries, trees["backbone"])))


def _of_stored(preprocess):
    """Returns the same function, which refuses images that are not as stored."""

    def of_stored(image):
        if image.dtype != np.uint8 or image.ndim != 4:
            raise TypeError(
                "expected images as stored, uint8 [n, height, width, channel], 0 to 255, got "
                f"{image.dtype} {list(image.shape)}"
            )
        return preprocess(image)

    return of_stored


def _checksum(entries):
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _by_name(trees):
    """Returns the arrays of pytrees by the names that they have in the file."""
    leaves = jax.tree_util.tree_leaves_with_path(trees)
    return {"/".join(networks.parameter_names(path)): np.asarray(leaf) for path, leaf in leaves}


def _backbone(entries):
    """Returns the backbone's entry of the table and its module; None twice without one."""
    network = entries["network"]
    if network["backbone"] is None:
        return None, None
    from dann_jax.backbones import BACKBONES

    backbone = BACKBONES[network["backbone"]]
    return backbone, backbone.make(dtype=jnp.dtype(network["arguments"]["dtype"]))


def _model(entries):
    """Returns the network, and the shapes of all that the file of weights holds."""
    network, (backbone, module) = entries["network"], _backbone(entries)
    arguments = network["arguments"] | {"dtype": jnp.dtype(network["arguments"]["dtype"])}
    if network["name"] in _WITH_BACKBONE:
        arguments["backbone"] = None if network["frozen"] else module
    elif network["name"] not in _NETWORKS:
        raise ValueError(f"unknown network {network['name']!r} in {DESCRIPTION}: train again")
    model = getattr(networks, network["name"])(**arguments)
    if network["domain_input"] == "multilinear_map":
        from dann_jax.objectives import conditioned

        model = conditioned(model)
    side, channels, frozen = entries["image"]["crop"], len(entries["image"]["mean"]), {}
    if network["frozen"]:
        image = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
        frozen = jax.eval_shape(module.init, jax.random.key(0), image)
        side, channels = 1, backbone.features
    state = jax.eval_shape(
        lambda key, image: training.init_state(model, optax.identity(), key, image),
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32),
    )
    return model, {"theta": state.theta, "batch_stats": state.batch_stats, "backbone": frozen}


def _filled(shapes, arrays, path):
    """Returns pytrees of these shapes with the arrays of a file."""
    expected = {
        "/".join(networks.parameter_names(where)): leaf.shape
        for where, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    got = {name: array.shape for name, array in arrays.items()}
    if wrong := sorted(n for n in {*expected, *got} if expected.get(n) != got.get(n)):
        name = wrong[0]
        raise ValueError(
            f"{path}: expected the arrays of the network of {DESCRIPTION}, got {len(wrong)} others "
            f"({name}: expected {expected.get(name, 'none')}, got {got.get(name, 'none')}): load "
            "it with the version of dann_jax that wrote it"
        )
    leaves = [jnp.asarray(arrays[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _for_both_domains(batch_stats, domain):
    """Returns batch statistics with those of the source for both, where no other was trained."""
    if not isinstance(batch_stats, dict) or domain == TARGET:
        return batch_stats
    if batch_stats.keys() == {"source", "target"}:
        return dict.fromkeys(batch_stats, batch_stats["source"])
    return {name: _for_both_domains(each, domain) for name, each in batch_stats.items()}


def _preprocess(entries, variables):
    """Returns what turns stored images into what G_f takes."""
    pixels = _standardizer(entries["image"], entries["image"]["crop"])
    if not entries["network"]["frozen"]:
        return pixels
    _, module = _backbone(entries)
    outputs = _standardizer(entries["features"], 1)

    def preprocess(image):
        activations = module.apply(variables, pixels(image)).astype(jnp.float32)
        return outputs(activations[:, None, None])

    return preprocess


def _standardizer(entries, crop):
    mean, scale = tuple(entries["mean"]), entries["scale"]
    scale = tuple(scale) if isinstance(scale, list) else scale
    return Preprocess(mean, mean, scale, crop, entries.get("each_image", False)).target
