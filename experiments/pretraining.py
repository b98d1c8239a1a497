"""ImageNet weights of a backbone, and its outputs while it is frozen."""

import contextlib
import functools
import hashlib
import math
import pathlib
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from dann_jax import __version__, backbones, datasets, kernels
from dann_jax.datasets import image_sets
from dann_jax.datasets.whole_files import whole
from experiments import record
from experiments.settings import Config

__all__ = ["check", "features", "variables", "weights_origin"]

BATCH = 32  # images a call of a frozen backbone


def weights_origin(config: Config) -> dict[str, str] | None:
    """Returns name and SHA-256 of the file of the backbone's weights; None without a backbone."""
    if config.backbone is None:
        return None
    try:
        path = backbones.weights_file(config.backbone, config.weights)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}: --weights FILE names one") from error
    # A file that changes while a program runs is another one.
    return {"file": path.name, "sha256": _digest(path, path.stat().st_mtime_ns)}


@functools.cache
def _digest(path, _):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(config: Config) -> None:
    """Reads the backbone's weights, where there is one, before anything that takes longer."""
    if weights_origin(config) is not None:
        backbones.load_weights(config.backbone, config.weights)


def variables(config: Config) -> dict[str, Any] | None:
    """Returns the variables that the backbone starts from; None where it is not trained."""
    if config.backbone is None or config.frozen:
        return None
    return backbones.load_weights(config.backbone, config.weights)


def features(
    config: Config,
    images: datasets.ImageSet,
    digest: str,
    folder: pathlib.Path,
    *,
    progress: bool = False,
) -> datasets.ImageSet:
    """Returns ``backbones.outputs`` for images of this digest, from a file in ``folder`` if any."""
    crop = config.crop or config.image_size
    decisive = {
        "images": digest,
        "weights": weights_origin(config)["sha256"],
        "shown": [config.image_size, crop, config.mirror, *["resize"] * config.resize],
        "dtype": config.dtype,
        "versions": [__version__, jax.__version__],
        "device": [jax.local_devices()[0].device_kind, kernels.plain_xla()],
    }
    path = folder / f"{config.backbone}-{record.digest(decisive)[:32]}.npy"
    width = backbones.BACKBONES[config.backbone].features
    outputs = _read(path, (len(images.label), 1, 2 if config.mirror else 1, width))
    if outputs is None:
        outputs = _computed(config, images.image, crop, progress)
        # Without a folder that may be written to they are computed at each start.
        with contextlib.suppress(OSError):
            image_sets.save_array(path, outputs)
            with whole(_digest_path(path)) as temporary:
                temporary.write_text(datasets.digest([outputs]))
    return images._replace(image=outputs)


def _digest_path(path):
    return path.with_suffix(".sha256")


def _read(path, shape):
    """Returns the features in a file; None where there are none, or others than were written."""
    try:
        digest = _digest_path(path).read_text(errors="replace")
    except OSError:  # of an earlier version, or interrupted
        return None
    stored = image_sets.load_array(path)
    is_like = stored is not None and (stored.shape, stored.dtype) == (shape, np.float32)
    if is_like and datasets.digest([stored]) == digest:
        return stored
    if path.exists():
        warnings.warn(f"{path} is damaged: the features are computed anew", stacklevel=3)
    return None


def _computed(config, images, crop, progress):
    outputs = backbones.outputs(
        config.backbone,
        backbones.load_weights(config.backbone, config.weights),
        images,
        crop=crop,
        mirror=config.mirror,
        dtype=jnp.dtype(config.dtype),
        batch_size=BATCH,
    )
    about, count = f"{config.backbone}: features", math.ceil(len(images) / BATCH)
    return np.concatenate(list(track(outputs, about, count, disable=not progress)))
