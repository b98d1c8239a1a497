"""The networks of the paper's Fig. 4 (JMLR numbering) as Flax Linen modules, and variants.

A part of a model (G_f, G_y or G_d) is a Linen module or a ``PureFunction``. A Linen module is
called with its input and with those of the keyword arguments ``train``, ``domain`` and
``axis_name`` that its ``__call__`` declares:

- ``train`` (bool): dropout is active and batch statistics are those of the batch;
- ``domain``: 0 source, 1 target, or None for a joint batch, whose first half is source and
  whose second half is target;
- ``axis_name``: mapped axis over which batch statistics are averaged, or None.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from dann_jax.convolution import convolve, max_pool
from dann_jax.objective import SOURCE, TARGET

__all__ = [
    "Convolution",
    "ConvolutionalFeatures",
    "DannModel",
    "DomainBatchNorm",
    "FullyConnected",
    "OfficeFeatures",
    "PureFunction",
    "accepted",
    "gtsrb",
    "mnist",
    "mnist_batch_norm",
    "office",
    "office_batch_norm",
    "project_max_norm",
    "svhn",
    "svhn_batch_norm",
    "svhn_no_dropout",
]

Initializer = Callable[..., Any]


class PureFunction(NamedTuple):
    """A part given by plain functions, of any library."""

    init: Callable[[chex.PRNGKey, Any], Any]  # (key, x) -> theta
    apply: Callable[[Any, Any], Any]  # (theta, x) -> output


@dataclasses.dataclass(frozen=True, kw_only=True)
class DannModel:
    """G_f, G_y and G_d of the paper's Fig. 1, each a Linen module or a ``PureFunction``.

    Attributes:
      feature_extractor: G_f, images ``[n, height, width, channel]`` to features.
      label_predictor: G_y, features to label logits ``[n, classes]``.
      domain_classifier: G_d, features to one domain logit ``[n, 1]`` or ``[n]``. The gradient
        reversal before it is not part of it: the objective puts it there.
      max_norm: Bound c on the Euclidean norm of the incoming weights of each unit of G_f and
        G_y, restored after each update (Srivastava et al. 2014); none if None.
    """

    feature_extractor: nn.Module | PureFunction
    label_predictor: nn.Module | PureFunction
    domain_classifier: nn.Module | PureFunction
    max_norm: float | None = None


class Convolution(NamedTuple):
    """One convolution, with the ReLU, the max-pooling and the dropout that follow it."""

    features: int
    kernel: int
    pool: int | None = None  # side of the pooling window; its stride is 2
    keep: float = 1.0  # probability that a unit is kept in training


class DomainBatchNorm(nn.Module):
    """Batch normalisation of a joint batch of two domains, with one scale and one bias.

    With ``statistics='shared'`` mean and variance are taken over source and target together;
    with ``'per_domain'`` over each domain by itself, and each keeps its own running averages,
    which ``domain`` chooses between when not in training.

    Attributes:
      statistics: ``'shared'`` or ``'per_domain'``.
      momentum: Share of the running averages that each batch keeps.
      dtype: Of the computation; parameters and statistics are float32.
    """

    statistics: str = "per_domain"
    momentum: float = 0.9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False, domain=None, axis_name=None):
        """Returns ``x`` normalised over all but its last axis, same shape."""
        if self.statistics not in ("shared", "per_domain"):
            raise ValueError(
                f"unknown batch statistics {self.statistics!r}: expected 'shared' or 'per_domain'"
            )
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])

        def normaliser(name):
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=self.momentum,
                axis_name=axis_name,
                use_scale=False,
                use_bias=False,
                dtype=self.dtype,
                name=name,
            )

        if self.statistics == "shared":
            x = normaliser("shared")(x)
        else:
            source, target = normaliser("source"), normaliser("target")
            if self.is_initializing():  # both sets of averages exist from the start
                source(x), target(x)
            if domain == SOURCE:
                x = source(x)
            elif domain == TARGET:
                x = target(x)
            else:
                if x.shape[0] % 2:
                    raise ValueError(
                        f"per-domain statistics of a joint batch of {x.shape[0]} examples: "
                        "expected as many source as target examples"
                    )
                halves = jnp.split(x, 2)
                x = jnp.concatenate([source(halves[0]), target(halves[1])])
        scale, bias = (p.astype(x.dtype).reshape([1] * (x.ndim - 1) + [-1]) for p in (scale, bias))
        return x * scale + bias


class PooledConvolution(nn.Module):
    """A convolution with stride 1, max-pooling with stride 2 where there is any, and a bias.

    Attributes:
      features: Number of output channels.
      kernel: Side of the kernel, in pixels.
      pool: Side of the pooling window, in pixels; None for no pooling.
      padding: Of convolution and pooling, ``'VALID'`` or ``'SAME'``.
      kernel_init: Initializer of the weights; biases start at 0.
      dtype: Of the computation; parameters are float32.
    """

    features: int
    kernel: int
    pool: int | None = None
    padding: str = "VALID"
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Returns ``[n, height', width', features]`` of ``[n, height, width, channel]``."""
        shape = self.kernel, self.kernel, x.shape[-1], self.features
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.padding)
        if self.pool is not None:
            x = max_pool(x, self.pool, 2, self.padding)
        return x + bias.astype(self.dtype).reshape(1, 1, 1, -1)


class ConvolutionalFeatures(nn.Module):
    """G_f as convolutions, each followed by ReLU, max-pooling and dropout; output is flat.

    Attributes:
      layers: The convolutions in order.
      padding: Of convolutions and pooling, ``'VALID'`` or ``'SAME'``.
      input_keep: Probability that an input value is kept in training.
      statistics: Batch normalisation after each convolution, ``'shared'`` or ``'per_domain'``
        (see ``DomainBatchNorm``); None, as in the paper, for none.
      kernel_init: Initializer of the weights; biases start at 0.
      dtype: Of the computation; parameters are float32.
    """

    layers: tuple[Convolution, ...]
    padding: str = "VALID"
    input_keep: float = 1.0
    statistics: str | None = None
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False, domain=None, axis_name=None):
        """Returns features ``[n, D]`` of images ``[n, height, width, channel]``."""
        x = _dropout(x.astype(self.dtype), self.input_keep, train, "drop_input")
        for i, layer in enumerate(self.layers, start=1):
            if self.padding == "VALID" and min(x.shape[1:3]) < layer.kernel:
                raise ValueError(
                    f"conv{i} needs inputs of at least {layer.kernel}x{layer.kernel} pixels, got "
                    f"{x.shape[1]}x{x.shape[2]}: use larger images"
                )
            # As relu and the bias are monotonic, the maximum may be taken before them, where the
            # gradient of what is not largest is known to be 0 without a look at them.
            x = PooledConvolution(
                layer.features,
                layer.kernel,
                pool=layer.pool if self.statistics is None else None,
                padding=self.padding,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            if self.statistics is not None:
                norm = DomainBatchNorm(self.statistics, dtype=self.dtype, name=f"norm{i}")
                x = norm(x, train=train, domain=domain, axis_name=axis_name)
                if layer.pool is not None:
                    x = max_pool(x, layer.pool, 2, self.padding)
            x = nn.relu(x)
            x = _dropout(x, layer.keep, train, f"drop{i}")
        return x.reshape(x.shape[0], -1)


class Hidden(nn.Module):
    """A fully connected layer with ReLU and dropout, and batch normalisation before them."""

    features: int
    keep: float = 1.0
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32
    batch_norm: bool = False

    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        """Returns activations ``[n, features]``."""
        x = nn.Dense(self.features, kernel_init=self.kernel_init, dtype=self.dtype, name="dense")(x)
        if self.batch_norm:
            norm = DomainBatchNorm("shared", dtype=self.dtype, name="norm")
            x = norm(x, train=train, axis_name=axis_name)
        return _dropout(nn.relu(x), self.keep, train, "drop")


class FullyConnected(nn.Module):
    """G_y or G_d: hidden layers ``fc1``, ``fc2``, ... with ReLU, then linear ``logits``.

    Attributes:
      hidden: Widths of the hidden layers.
      outputs: Number of logits: the classes for G_y, 1 for G_d.
      keep: Probability that a hidden unit is kept in training.
      kernel_init: Initializer of the weights; biases start at 0.
      dtype: Of the computation; parameters are float32.
      batch_norm: Whether hidden layers are normalised before their ReLU, over all examples that
        they see: a G_d with statistics of each domain would not see the means that tell them
        apart.
    """

    hidden: tuple[int, ...]
    outputs: int
    keep: float = 1.0
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32
    batch_norm: bool = False

    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        """Returns logits ``[n, outputs]`` of features ``[n, D]``."""
        options = self.keep, self.kernel_init, self.dtype, self.batch_norm
        for i, width in enumerate(self.hidden, start=1):
            x = Hidden(width, *options, name=f"fc{i}")(x, train=train, axis_name=axis_name)
        return nn.Dense(
            self.outputs, kernel_init=self.kernel_init, dtype=self.dtype, name="logits"
        )(x)


def _dropout(x, keep, train, name):
    if keep == 1.0:
        return x
    return nn.Dropout(rate=1.0 - keep, deterministic=not train, name=name)(x)


def mnist(
    *,
    classes: int = 10,
    kernel_init: Initializer = nn.initializers.he_normal(),
    dtype: Any = jnp.float32,
) -> DannModel:
    """Returns the network for MNIST to MNIST-M (JMLR Fig. 4a).

    No padding: 1,200 features for 32x32 images, 768 for 28x28. The paper states no
    initialisation; the default here was settled by measurement (docs/recipe.md).

    Args:
      classes: Number of labels.
      kernel_init: Initializer of all weights.
      dtype: Of the computation, float32 or bfloat16; parameters are float32.

    Returns:
      The model, for images ``[n, height, width, channel]``.
    """
    shared = {"kernel_init": kernel_init, "dtype": dtype}
    return DannModel(
        feature_extractor=ConvolutionalFeatures(
            (Convolution(32, 5, pool=2), Convolution(48, 5, pool=2)), **shared
        ),
        label_predictor=FullyConnected((100, 100), classes, **shared),
        domain_classifier=FullyConnected((100,), 1, **shared),
    )


def mnist_batch_norm(
    *,
    classes: int = 10,
    statistics: str = "per_domain",
    domain_units: int = 512,
    kernel_init: Initializer = nn.initializers.he_normal(),
    dtype: Any = jnp.float32,
) -> DannModel:
    """Returns a variant of ``mnist`` that is not the paper's: batch norm and a wider G_d.

    G_f has batch normalisation after both convolutions, and G_d ``domain_units`` hidden units
    in place of 100; all else is as in ``mnist``.

    Args:
      classes: Number of labels.
      statistics: ``'per_domain'`` or ``'shared'``, see ``DomainBatchNorm``.
      domain_units: Width of the hidden layer of G_d.
      kernel_init: Initializer of all weights.
      dtype: Of the computation, float32 or bfloat16; parameters are float32.

    Returns:
      The model, for images ``[n, height, width, channel]``.
    """
    shared = {"kernel_init": kernel_init, "dtype": dtype}
    paper = mnist(classes=classes, **shared)
    return dataclasses.replace(
        paper,
        feature_extractor=paper.feature_extractor.clone(statistics=statistics),
        domain_classifier=FullyConnected((domain_units,), 1, **shared),
    )


def svhn(
    *,
    classes: int = 10,
    kernel_init: Initializer = nn.initializers.lecun_normal(),
    dtype: Any = jnp.float32,
) -> DannModel:
    """Returns the network for SVHN and SYN NUMBERS (JMLR Fig. 4b), with dropout and max-norm.

    SAME padding: 8,192 features for 32x32 images. The paper names Srivastava et al. (2014) for
    dropout and the max-norm constraint and prints no values; these are theirs: units are kept
    with .9 (input), .75, .75, .5 (convolutions) and .5 (fully connected layers of G_y), and
    the bound c is 4. G_d has neither. With this dropout and the paper's learning rate, He-normal
    weights lose their features within a hundred updates; LeCun-normal ones learn
    (docs/recipe.md).

    Args:
      classes: Number of labels.
      kernel_init: Initializer of all weights.
      dtype: Of the computation, float32 or bfloat16; parameters are float32.

    Returns:
      The model, for images ``[n, height, width, channel]``.
    """
    return _svhn((0.9, 0.75, 0.75, 0.5, 0.5), 4.0, classes, kernel_init=kernel_init, dtype=dtype)


def svhn_no_dropout(
    *,
    classes: int = 10,
    kernel_init: Initializer = nn.initializers.he_normal(),
    dtype: Any = jnp.float32,
) -> DannModel:
    """Returns a variant of the network for SVHN without dropout and max-norm, not the paper's.

    It learns at once from He-normal weights, where ``svhn`` first stays at chance for some 250
    updates.

    Args:
      classes: Number of labels.
      kernel_init: Initializer of all weights.
      dtype: Of the computation, float32 or bfloat16; parameters are float32.

    Returns:
      The model, for images ``[n, height, width, channel]``.
    """
    return _svhn((1.0,) * 5, None, classes, kernel_init=kernel_init, dtype=dtype)


def svhn_batch_norm(
    *,
    classes: int = 10,
    statistics: str = "per_domain",
    kernel_init: Initializer = nn.initializers.lecun_normal(),
    dtype: Any = jnp.float32,
) -> DannModel:
    """Returns a variant of the network for SVHN that is not the paper's: batch norm in G_f.

    Batch normalisation after each convolution stands in place of dropout in G_f and of max-norm;
    the hidden layers of G_y keep their dropout of .5. It leaves chance in a third of the updates
    that ``svhn`` takes (docs/recipe.md).

    Args:
      classes: Number of labels.
      statistics: ``'per_domain'`` or ``'shared'``, see ``DomainBatchNorm``.
      kernel_init: Initializer of all weights.
      dtype: Of the computation, float32 or bfloat16; parameters are float32.

    Returns:
      The model, for images ``[n, height, width, channel]``.
    """
    shared = {"kernel_init": kernel_init, "dtype": dtype}
    plain = _svhn((1.0, 1.0, 1.0, 1.0, 0.5), None, classes, **shared)
    return dataclasses.replace(
        plain, feature_extractor=plain.feature_extractor.clone(statistics=statistics)
    )


def _svhn(keep, max_norm, classes, **shared):
    of_input, *of_layers, of_hidden = keep
    layers = (
        Convolution(64, 5, pool=3, keep=of_layers[0]),
        Convolution(64, 5, pool=3, keep=of_layers[1]),
        Convolution(128, 5, keep=of_layers[2]),
    )
    return DannModel(
        feature_extractor=ConvolutionalFeatures(
            layers, padding="SAME", input_keep=of_input, **shared
        ),
        label_predictor=FullyConnected((3072, 2048), classes, keep=of_hidden, **shared),
        domain_classifier=FullyConnected((1024, 1024), 1, **shared),
        max_norm=max_norm,
    )


def gtsrb(
    *,
    classes: int = 43,
    kernel_init: Initializer = nn.initializers.he_normal(),
    dtype: Any = jnp.float32,
) -> DannModel:
    """Returns the network for GTSRB and SYN SIGNS (JMLR Fig. 4c).

    No padding: 1,024 features for 40x40 images.

    Args:
      classes: Number of labels.
      kernel_init: Initializer of all weights.
      dtype: Of the computation, float32 or bfloat16; parameters are float32.

    Returns:
      The model, for images ``[n, height, width, channel]``.
    """
    shared = {"kernel_init": kernel_init, "dtype": dtype}
    layers = (
        Convolution(96, 5, pool=2),
        Convolution(144, 3, pool=2),
        Convolution(256, 5, pool=2),
    )
    return DannModel(
        feature_extractor=ConvolutionalFeatures(layers, **shared),
        label_predictor=FullyConnected((512,), classes, **shared),
        domain_classifier=FullyConnected((1024, 1024), 1, **shared),
    )


class OfficeFeatures(nn.Module):
    """G_f for Office-31: a backbone and a linear bottleneck on top of it.

    Attributes:
      backbone: Module from images ``[n, height, width, 3]`` to activations ``[n, D]``; None where
        G_f is given such activations, ``[n, 1, 1, D]``.
      bottleneck: Number of features.
      statistics: Batch normalisation and ReLU after the bottleneck, ``'shared'`` or
        ``'per_domain'`` (see ``DomainBatchNorm``); None, as in the paper, for neither.
      kernel_init: Initializer of the bottleneck's weights.
      dtype: Of the bottleneck's computation; parameters are float32.
    """

    backbone: nn.Module | None
    bottleneck: int = 256
    statistics: str | None = None
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False, domain=None, axis_name=None):
        """Returns features ``[n, bottleneck]``."""
        options = {"train": train, "domain": domain, "axis_name": axis_name}
        if self.backbone is None:
            x = x.reshape(x.shape[0], -1)
        else:
            x = self.backbone(x, **accepted(self.backbone, options))
        x = nn.Dense(
            self.bottleneck, kernel_init=self.kernel_init, dtype=self.dtype, name="bottleneck"
        )(x)
        if self.statistics is None:
            return x
        norm = DomainBatchNorm(self.statistics, dtype=self.dtype, name="norm")
        return nn.relu(norm(x, **options))


def office(
    backbone: nn.Module | None,
    *,
    classes: int = 31,
    kernel_init: Initializer = nn.initializers.he_normal(),
    dtype: Any = jnp.float32,
) -> DannModel:
    """Returns the network for Office-31: a backbone, a 256-unit bottleneck, G_y and G_d.

    Dropout of .5 on both hidden layers of G_d, as in the authors' files.

    Args:
      backbone: Module from images to activations ``[n, D]``; the paper's is AlexNet up to fc7.
        None where the model is given activations.
      classes: Number of labels.
      kernel_init: Initializer of the new weights.
      dtype: Of the computation, float32 or bfloat16; parameters are float32.

    Returns:
      The model, for images ``[n, height, width, 3]`` or activations ``[n, 1, 1, D]``.
    """
    shared = {"kernel_init": kernel_init, "dtype": dtype}
    return DannModel(
        feature_extractor=OfficeFeatures(backbone, **shared),
        label_predictor=FullyConnected((), classes, **shared),
        domain_classifier=FullyConnected((1024, 1024), 1, keep=0.5, **shared),
    )


def office_batch_norm(
    backbone: nn.Module | None,
    *,
    classes: int = 31,
    statistics: str = "shared",
    kernel_init: Initializer = nn.initializers.he_normal(),
    dtype: Any = jnp.float32,
) -> DannModel:
    """Returns a variant of ``office`` that is not the paper's: batch norm in place of dropout.

    Batch normalisation and ReLU follow the bottleneck, and batch normalisation stands in both
    hidden layers of G_d, which have no dropout.

    Args:
      backbone: As in ``office``.
      classes: Number of labels.
      statistics: Of the bottleneck, ``'shared'`` or ``'per_domain'``, see ``DomainBatchNorm``.
      kernel_init: Initializer of the new weights.
      dtype: Of the computation, float32 or bfloat16; parameters are float32.

    Returns:
      The model, for images ``[n, height, width, 3]`` or activations ``[n, 1, 1, D]``.
    """
    shared = {"kernel_init": kernel_init, "dtype": dtype}
    return DannModel(
        feature_extractor=OfficeFeatures(backbone, statistics=statistics, **shared),
        label_predictor=FullyConnected((), classes, **shared),
        domain_classifier=FullyConnected((1024, 1024), 1, batch_norm=True, **shared),
    )


@functools.cache
def _declared(cls):
    return frozenset(inspect.signature(cls.__call__).parameters)


def accepted(module: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Returns those of ``options`` that the module's ``__call__`` declares by name."""
    if isinstance(module, PureFunction):
        return {}
    declared = _declared(type(module))
    return {k: v for k, v in options.items() if k in declared}


def project_max_norm(theta: Any, bound: float) -> Any:
    """Returns ``theta`` with each unit's incoming weights scaled to a norm of at most ``bound``.

    Weights are arrays of two or more axes whose last axis counts the units (Flax's layout);
    biases and other vectors are left alone.

    Args:
      theta: Pytree of parameters.
      bound: Largest Euclidean norm c.

    Returns:
      Pytree like ``theta``.

    Source: Srivastava et al. (JMLR 2014), Sec. 5.1.
    """

    def project(w):
        if w.ndim < 2:
            return w
        norm = jnp.sqrt(jnp.sum(w**2, axis=tuple(range(w.ndim - 1)), keepdims=True))
        return w * jnp.minimum(1.0, bound / jnp.maximum(norm, jnp.finfo(w.dtype).tiny))

    return jax.tree.map(project, theta)
