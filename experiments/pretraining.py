"""Backbones with ImageNet weights, and their outputs while they are frozen."""

import contextlib
import functools
import hashlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from dann_jax import __version__, datasets, kernels
from dann_jax.augmentation import centre_crop
from dann_jax.backbones import BACKBONES, load_weights, weights_file
from dann_jax.training import TrainState
from experiments import record
from experiments.settings import Config

__all__ = ["check", "features", "started", "variables", "weights_origin"]

BATCH = 32  # images a call of a frozen backbone


def weights_origin(config: Config) -> dict[str, str] | None:
    """Returns name and SHA-256 of the file of the backbone's weights; None without a backbone.

    Raises:
      FileNotFoundError: There is no such file, or none is named and no installed package has one.
    """
    if config.backbone is None:
        return None
    try:
        path = weights_file(config.backbone, config.weights)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}: --weights FILE names one") from error
    # A file that changes while a program runs is another one.
    return {"file": path.name, "sha256": _digest(path, path.stat().st_mtime_ns)}


@functools.cache
def _digest(path, changed):
    del changed
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(config: Config) -> None:
    """Reads the backbone's weights, where there is one, before anything that takes longer.

    Raises:
      FileNotFoundError: They are missing, see ``weights_origin``.
      ValueError: From ``load_weights``: the file is not that of the backbone.
    """
    if weights_origin(config) is not None:
        load_weights(config.backbone, config.weights)


def variables(config: Config) -> dict[str, Any] | None:
    """Returns the variables that the backbone starts from; None where it is not trained."""
    if config.backbone is None or config.frozen:
        return None
    return load_weights(config.backbone, config.weights)


def started(state: TrainState, backbone: dict[str, Any] | None) -> TrainState:
    """Returns a state before the first update whose backbone has these variables, if any."""
    if backbone is None:
        return state
    collections = dict(backbone)
    theta = state.theta["f"] | {"backbone": collections.pop("params")}
    statistics = {
        name: initial | ({"backbone": collections[name]} if name in collections else {})
        for name, initial in state.batch_stats["f"].items()
    }
    return state.replace(
        theta=state.theta | {"f": theta}, batch_stats=state.batch_stats | {"f": statistics}
    )


def features(
    config: Config,
    images: datasets.ImageSet,
    digest: str,
    folder: pathlib.Path,
    *,
    progress: bool = False,
) -> datasets.ImageSet:
    """Returns the outputs of the frozen backbone for images, from a file if it is there.

    The views of an image lie side by side as pixels do: the middle of the image, and with
    ``config.mirror`` its mirror image. A random crop of one pixel, as in training, is one of them
    at random; the middle pixel, as in evaluation, is the image itself.

    Args:
      config: The experiment.
      images: At ``config.image_size``, colour.
      digest: SHA-256 of the images as stored.
      folder: Where the file lies or goes. It is named after all that decides its numbers.
      progress: Whether to show a bar.

    Returns:
      Features ``[n, 1, 1 or 2, D]`` float32, and the labels of the images.
    """
    crop = config.crop or config.image_size
    decisive = {
        "images": digest,
        "weights": weights_origin(config)["sha256"],
        "shown": [config.image_size, crop, config.mirror],
        "dtype": config.dtype,
        "versions": [__version__, jax.__version__],
        "device": [jax.local_devices()[0].device_kind, kernels.plain_xla()],
    }
    path = folder / f"{config.backbone}-{record.digest(decisive)[:32]}.npy"
    shape = (len(images.label), 1, 2 if config.mirror else 1, BACKBONES[config.backbone].features)
    outputs = _read(path, shape)
    if outputs is None:
        outputs = _computed(config, images.image, crop, progress)
        # Without a folder that may be written to they are computed at each start.
        with contextlib.suppress(OSError), record.whole(path) as temporary:
            np.save(temporary, outputs)
    return images._replace(image=outputs)


def _read(path, shape):
    """Returns the features in a file, None where it is absent, damaged or of other images."""
    try:
        stored = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return stored if (stored.shape, stored.dtype) == (shape, np.float32) else None


def _computed(config, images, crop, progress):
    backbone = BACKBONES[config.backbone]
    module = backbone.make(dtype=jnp.dtype(config.dtype))
    options = kernels.compiler_options(jax.local_devices()[0].platform)
    mean, scale = (
        np.broadcast_to(values, [1, 1, 1, 3]).astype(np.float32)
        for values in (backbone.mean, backbone.scale)
    )

    @functools.partial(jax.jit, compiler_options=options)
    def forward(weights, image):
        image = (image.astype(jnp.float32) - mean) / scale
        views = [image, image[:, :, ::-1]] if config.mirror else [image]
        outputs = [module.apply(weights, view).astype(jnp.float32) for view in views]
        return jnp.stack(outputs, 1)[:, None]

    weights = load_weights(config.backbone, config.weights)
    rows = []
    starts = range(0, len(images), BATCH)
    for start in track(starts, f"{config.backbone}: features", disable=not progress):
        image = np.asarray(centre_crop(images[start : start + BATCH], crop))
        missing = BATCH - len(image)  # one shape, one compilation
        padded = np.pad(image, [(0, missing), *[(0, 0)] * 3])
        rows.append(np.asarray(forward(weights, padded))[: len(image)])
    return np.concatenate(rows)
