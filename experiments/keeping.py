"""What a finished training leaves to be applied: ``model.json`` and its weights."""

import pathlib
from typing import Any

from dann_jax import backbones, model_files, networks
from dann_jax.datasets.whole_files import whole
from experiments import runtime
from experiments.settings import library_network
from experiments.studies import Study

__all__ = ["keep"]


def keep(study: Study, state: Any, folder: pathlib.Path) -> None:
    """Writes what ``dann_jax.load`` reads, the parameters as they are evaluated."""
    config, backbone = study.config, None
    if config.frozen:
        backbone = backbones.load_weights(config.backbone, config.weights)
    files = model_files.contents(_description(study), study.evaluated(state), backbone)
    for name, content in files.items():
        with whole(folder / name) as temporary:
            temporary.write_bytes(content)


def _description(study):
    """Returns the entries of ``model.json``."""
    config, preprocess = study.config, study.preprocess
    _, _, domain = study.tests["target"]
    is_usual = study.model.domain_input is networks.DannModel.domain_input
    crop = config.crop or config.image_size
    pixels = outputs = {"mean": preprocess.target_mean, "scale": preprocess.scale}
    if config.frozen:
        backbone = backbones.BACKBONES[config.backbone]
        pixels = {"mean": backbone.mean, "scale": backbone.scale}
    return {
        "classes": study.pair.class_names,
        "network": {
            **library_network(config, len(study.pair.class_names)),
            "domain_input": "features" if is_usual else "multilinear_map",
        },
        "image": {
            "size": config.image_size,
            "resize": config.resize or study.pair.target_resizes,
            "crop": crop,
            "each_image": config.normalize_images,
            **pixels,
        },
        "features": outputs if config.frozen else None,
        "domain": ("source", "target")[domain],
        "source": config.source,
        "target": config.target,
        "method": study.method.name,
        "versions": runtime.versions(),
    }
