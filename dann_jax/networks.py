"""The networks of the paper's Fig. 4 (JMLR numbering) as Flax Linen modules, and variants.

A part of a model (G_f, G_y or G_d) is a Linen module, a ``PureFunction``, or an NNX module from
``nnx_part``. A module is called with its input, an array or a pytree of arrays, and with those of
the keyword arguments ``train``, ``domain`` and ``axis_name`` that its ``__call__`` declares:

- ``train`` (bool): dropout is active and batch statistics are those of the batch; ``training``,
  ``is_training`` and the opposites ``deterministic``, ``use_running_average`` and ``inference``
  do as well;
- ``domain``: 0 source, 1 target, or None for a joint batch, whose first half is source and
  whose second half is target;
- ``axis_name``: mapped axis over which batch statistics are averaged, or None.

Each network here is a function that takes ``classes``, the number of labels, and the
``LayerOptions``, and returns a ``DannModel`` for images ``[n, height, width, channel]``.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict, Unpack

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from dann_jax.checks import check_count, check_number
from dann_jax.kernels import convolve, max_pool
from dann_jax.objective import SOURCE, TARGET, check_domain
from dann_jax.parts import Part, PureFunction, accepted, adapt

__all__ = [
    "Convolution",
    "ConvolutionalFeatures",
    "DannModel",
    "DomainBatchNorm",
    "FullyConnected",
    "LayerOptions",
    "OfficeFeatures",
    "compact",
    "gtsrb",
    "is_weight",
    "mnist",
    "mnist_batch_norm",
    "office",
    "office_batch_norm",
    "parameter_names",
    "project_max_norm",
    "svhn",
    "svhn_batch_norm",
]

Initializer = Callable[..., Any]
Activation = Callable[[Any], Any]


def _features_alone(features, label_logits):
    del label_logits
    return features


@dataclasses.dataclass(frozen=True, kw_only=True)
class DannModel:
    """G_f, G_y and G_d of the paper's Fig. 1, each of the kinds that ``parts.adapt`` takes.

    Attributes:
      feature_extractor: G_f, images ``[n, height, width, channel]`` to features.
      label_predictor: G_y, features to label logits ``[n, classes]``.
      domain_classifier: G_d, features to one domain logit ``[n, 1]`` or ``[n]``. The gradient
        reversal before it is not part of it: the objective puts it there.
      max_norm: Bound c on the Euclidean norm of the incoming weights of each unit of G_f and
        G_y, restored after each update (Srivastava et al. 2014); none if None.
      domain_input: What G_d takes, as a function of features and label logits: the features
        alone, or ``objectives.multilinear_map``. An objective passes G_d the same.
      parts: The three under ``'f'``, ``'y'`` and ``'d'``, in the form that training and
        evaluation call.

    Raises:
      TypeError: A part is neither a Linen module, nor a ``PureFunction``, nor from ``nnx_part``;
        or a module whose ``__call__`` does not say how it is told training from prediction.
      ValueError: ``max_norm`` is not positive, or G_f or G_y are Equinox modules, which count their
        units along another axis.
    """

    feature_extractor: nn.Module | PureFunction | Part
    label_predictor: nn.Module | PureFunction | Part
    domain_classifier: nn.Module | PureFunction | Part
    max_norm: float | None = None
    domain_input: Callable[[Any, Any], Any] = _features_alone
    parts: dict[str, Part] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        """Adapts the parts."""
        if self.max_norm is not None:
            check_number(self.max_norm, "max_norm", positive=True, remedy="pass None for no bound")
        names = {"f": "feature_extractor", "y": "label_predictor", "d": "domain_classifier"}
        parts = {part: adapt(getattr(self, name), name) for part, name in names.items()}
        for part in "fy":
            if self.max_norm is not None and not getattr(parts[part], "units_last", True):
                raise ValueError(
                    f"max_norm bounds the last axis of weights, and an Equinox module's units "
                    f"({names[part]}) are the first: pass None, and bound the norms in the "
                    "optimizer"
                )
        object.__setattr__(self, "parts", parts)  # the dataclass is frozen

    def inputs(self, part: str, x: Any, outputs: dict[str, Any]) -> Any:
        """Returns what a part takes: inputs ``x`` of G_f, and else outputs of those before it.

        Args:
          part: ``'f'``, ``'y'`` or ``'d'``.
          x: Input of G_f.
          outputs: Of the parts before this one, by name.
        """
        if part == "f":
            return x
        return outputs["f"] if part == "y" else self.domain_input(outputs["f"], outputs["y"])


# --- layers ------------------------------------------------------------------------------


class Convolution(NamedTuple):
    """One convolution, with the activation, the max-pooling and the dropout that follow it."""

    features: int
    kernel: int
    pool: int | None = None  # side of the pooling window; its stride is 2
    dropout_rate: float = 0.0  # probability that a unit is dropped in training


class LayerOptions(TypedDict, total=False):
    """What all layers of a network share; keyword arguments of each network of this module.

    Attributes:
      kernel_init: Initializer of the weights, above a backbone of the new ones; biases start at
        0. The paper states none. By default it is He-normal, and LeCun-normal in ``svhn`` and
        its variant: settled by measurement (docs/recipe.md).
      dtype: Of the computation, float32 or bfloat16; parameters are float32.
    """

    kernel_init: Initializer
    dtype: Any


class DomainBatchNorm(nn.Module):
    """Batch normalization of a joint batch of two domains, with one scale and one bias.

    With ``statistics='shared'`` mean and variance are taken over source and target together.
    With ``'per_domain'`` it is domain-specific batch normalization (DSBN): they are taken over
    each domain by itself, and each has its own running averages. ``domain`` says which those of
    ``x`` are; a joint batch (None), in training alone, updates and uses both. Scale and bias are
    those of both domains, while Chang et al. have one of each for each domain.

    Attributes:
      statistics: ``'shared'`` or ``'per_domain'``.
      momentum: Share of the running averages that each batch keeps.
      dtype: Of the computation; parameters and statistics are float32.

    Source: Chang et al., Domain-specific batch normalization for unsupervised domain adaptation
    (CVPR 2019).
    """

    statistics: str = "per_domain"
    momentum: float = 0.9
    dtype: Any = jnp.float32

    @property
    def uses_domain(self) -> bool:
        """Whether the output may depend on the domain."""
        return self.statistics == "per_domain"

    @nn.compact
    def __call__(self, x, *, train=False, domain=None, axis_name=None):
        """Returns ``x`` normalized over all but its last axis, same shape."""
        if self.statistics not in ("shared", "per_domain"):
            raise ValueError(
                f"unknown batch statistics {self.statistics!r}: expected 'shared' or 'per_domain'"
            )
        check_domain(domain)
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)

        def normalizer(name):
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
            x = normalizer("shared")(x)
        else:
            source, target = normalizer("source"), normalizer("target")
            if self.is_initializing():  # both sets of averages exist from the start
                source(x), target(x)
            if domain == SOURCE:
                x = source(x)
            elif domain == TARGET:
                x = target(x)
            elif not (train or self.is_initializing()):
                raise ValueError(
                    "per-domain statistics outside training need the domain of the examples, got "
                    "None: let each module above DomainBatchNorm declare `domain` and pass it on"
                )
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
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.padding)
        if self.pool is not None:
            x = max_pool(x, self.pool, 2, self.padding)
        return x + bias.astype(self.dtype).reshape(1, 1, 1, -1)


class ConvolutionalFeatures(nn.Module):
    """G_f as convolutions, each followed by ReLU, max-pooling and dropout; output is flat.

    Attributes:
      layers: The convolutions in order.
      bottleneck: Number of features of a fully connected layer on top, with what the convolutions
        have but dropout; None for no such layer.
      padding: Of convolutions and pooling, ``'VALID'`` or ``'SAME'``.
      input_dropout_rate: Probability that an input value is dropped in training.
      statistics: Batch normalization after each layer, ``'shared'`` or ``'per_domain'``
        (see ``DomainBatchNorm``); None, as in the paper, for none.
      activation: Of each layer, in place of ReLU; must not decrease, as max-pooling precedes it.
      kernel_init: Initializer of the weights; biases start at 0.
      dtype: Of the computation; parameters are float32.
    """

    layers: tuple[Convolution, ...]
    bottleneck: int | None = None
    padding: str = "VALID"
    input_dropout_rate: float = 0.0
    statistics: str | None = None
    activation: Activation = nn.relu
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32

    @property
    def uses_domain(self) -> bool:
        """Whether the output may depend on the domain."""
        return self.statistics == "per_domain"

    @property
    def smallest_image(self) -> int:
        """Least height and width of the images, pixels; smaller ones leave no feature."""
        size = 1
        for layer in reversed(self.layers if self.padding == "VALID" else ()):
            before_pool = size if layer.pool is None else layer.pool + 2 * (size - 1)
            size = before_pool + layer.kernel - 1
        return size

    @nn.compact
    def __call__(self, x, *, train=False, domain=None, axis_name=None):
        """Returns features ``[n, D]`` of images ``[n, height, width, channel]``."""
        least = self.smallest_image
        if x.ndim != 4 or min(x.shape[1:3]) < least:
            remedy = "use larger images, or layers with smaller windows"
            if x.ndim == 3:
                remedy = "pass images[..., None] where there is one channel"
            elif x.ndim == 4 and x.shape[1] in (1, 3):
                remedy = "pass images.transpose(0, 2, 3, 1) where the channels come first"
            raise ValueError(
                f"expected images [n, height, width, channel] of at least {least}x{least} pixels, "
                f"got [n, {', '.join(map(str, x.shape[1:]))}]: {remedy}"
            )
        x = _dropout(x.astype(self.dtype), self.input_dropout_rate, train, "drop_input")
        for i, layer in enumerate(self.layers, start=1):
            # relu and the bias are monotonic, so the maximum may be taken before them: there the
            # gradient of all but the largest entry is 0, whatever relu and the bias do.
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
            x = self.activation(x)
            x = _dropout(x, layer.dropout_rate, train, f"drop{i}")
        x = x.reshape(x.shape[0], -1)
        if self.bottleneck is None:
            return x
        x = nn.Dense(
            self.bottleneck, kernel_init=self.kernel_init, dtype=self.dtype, name="bottleneck"
        )(x)
        if self.statistics is not None:
            norm = DomainBatchNorm(self.statistics, dtype=self.dtype, name="norm")
            x = norm(x, train=train, domain=domain, axis_name=axis_name)
        return self.activation(x)


class Hidden(nn.Module):
    """A fully connected layer with ReLU and dropout, and batch normalization before them."""

    features: int
    dropout_rate: float = 0.0
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32
    batch_norm: bool = False
    statistics: str = "shared"
    activation: Activation = nn.relu

    @property
    def uses_domain(self) -> bool:
        """Whether the output may depend on the domain."""
        return self.batch_norm and self.statistics == "per_domain"

    @nn.compact
    def __call__(self, x, *, train=False, domain=None, axis_name=None):
        """Returns activations ``[n, features]``."""
        x = nn.Dense(self.features, kernel_init=self.kernel_init, dtype=self.dtype, name="dense")(x)
        if self.batch_norm:
            norm = DomainBatchNorm(self.statistics, dtype=self.dtype, name="norm")
            x = norm(x, train=train, domain=domain, axis_name=axis_name)
        return _dropout(self.activation(x), self.dropout_rate, train, "drop")


class FullyConnected(nn.Module):
    """G_y or G_d: hidden layers ``fc1``, ``fc2``, ... with ReLU, then linear ``logits``.

    Attributes:
      hidden: Widths of the hidden layers.
      outputs: Number of logits: the classes for G_y, 1 for G_d.
      dropout_rate: Probability that a hidden unit is dropped in training.
      kernel_init: Initializer of the weights; biases start at 0.
      dtype: Of the computation; parameters are float32.
      batch_norm: Whether hidden layers are normalized before their ReLU.
      statistics: Of that, ``'shared'`` or ``'per_domain'`` (see ``DomainBatchNorm``): a G_d with
        statistics of each domain would not see the means that tell them apart.
      activation: Of hidden layers, in place of ReLU.
    """

    hidden: tuple[int, ...]
    outputs: int
    dropout_rate: float = 0.0
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32
    batch_norm: bool = False
    statistics: str = "shared"
    activation: Activation = nn.relu

    @property
    def uses_domain(self) -> bool:
        """Whether the output may depend on the domain."""
        return bool(self.hidden) and self.batch_norm and self.statistics == "per_domain"

    def __post_init__(self):
        """Checks the number of logits."""
        check_count(self.outputs, "outputs, the number of classes,")
        super().__post_init__()

    @nn.compact
    def __call__(self, x, *, train=False, domain=None, axis_name=None):
        """Returns logits ``[n, outputs]`` of features ``[n, D]``."""
        norm = self.batch_norm, self.statistics
        options = self.dropout_rate, self.kernel_init, self.dtype, *norm, self.activation
        for i, width in enumerate(self.hidden, start=1):
            hidden = Hidden(width, *options, name=f"fc{i}")
            x = hidden(x, train=train, domain=domain, axis_name=axis_name)
        return nn.Dense(
            self.outputs, kernel_init=self.kernel_init, dtype=self.dtype, name="logits"
        )(x)


def _dropout(x, rate, train, name):
    check_number(rate, "dropout_rate", below=1)
    if rate == 0.0:
        return x
    return nn.Dropout(rate=rate, deterministic=not train, name=name)(x)


class OfficeFeatures(nn.Module):
    """G_f for Office-31: a backbone and a linear bottleneck on top of it.

    Attributes:
      backbone: Module from images ``[n, height, width, 3]`` to activations ``[n, D]``; None where
        the input is such activations, ``[n, 1, 1, D]``.
      bottleneck: Number of features.
      statistics: Batch normalization and ReLU after the bottleneck, ``'shared'`` or
        ``'per_domain'`` (see ``DomainBatchNorm``); None, as in the paper, for neither.
      kernel_init: Initializer of the bottleneck's weights.
      dtype: Of the bottleneck's computation; parameters are float32.
    """

    backbone: nn.Module | None
    bottleneck: int = 256
    statistics: str | None = None
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32

    @property
    def uses_domain(self) -> bool:
        """Whether the output may depend on the domain."""
        of_backbone = self.backbone is not None and accepted(self.backbone, {"domain": None})
        return self.statistics == "per_domain" or bool(of_backbone)

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


# --- networks ----------------------------------------------------------------------------


def mnist(*, classes: int = 10, **options: Unpack[LayerOptions]) -> DannModel:
    """Returns the network for MNIST to MNIST-M (JMLR Fig. 4a).

    No padding: 1,200 features for 32x32 images, 768 for 28x28.
    """
    return _mnist(classes, options, statistics=None, domain_units=100)


def mnist_batch_norm(
    *, classes: int = 10, statistics: str = "per_domain", **options: Unpack[LayerOptions]
) -> DannModel:
    """Returns a variant of ``mnist`` that is not the paper's: batch norm and a wider G_d.

    G_f has batch normalization after both convolutions (DSBN, with ``statistics='per_domain'``;
    see ``DomainBatchNorm``), and G_d has 512 hidden units in place of 100.
    """
    return _mnist(classes, options, statistics=statistics, domain_units=512)


def _mnist(classes, options, *, statistics, domain_units):
    layers = Convolution(32, 5, pool=2), Convolution(48, 5, pool=2)
    return DannModel(
        feature_extractor=ConvolutionalFeatures(layers, statistics=statistics, **options),
        label_predictor=FullyConnected((100, 100), classes, **options),
        domain_classifier=FullyConnected((domain_units,), 1, **options),
    )


def svhn(*, classes: int = 10, **options: Unpack[LayerOptions]) -> DannModel:
    """Returns the network for SVHN and SYN NUMBERS (JMLR Fig. 4b), with dropout and max-norm.

    SAME padding: 8,192 features for 32x32 images. The paper names Srivastava et al. (2014) for
    dropout and the max-norm constraint and prints no values; these are theirs: dropout rates of
    .1 (input), .25, .25, .5 (convolutions) and .5 (fully connected layers of G_y), and the bound
    c is 4. G_d has neither. With this dropout and the paper's learning rate, He-normal weights
    lose their features within a hundred updates; LeCun-normal ones learn (docs/recipe.md).
    """
    rates = 1 - 0.9, 0.25, 0.25, 0.5  # 1 - the probabilities that Srivastava et al. print
    return _svhn(classes, options, dropout_rates=rates, statistics=None, max_norm=4.0)


def svhn_batch_norm(
    *, classes: int = 10, statistics: str = "per_domain", **options: Unpack[LayerOptions]
) -> DannModel:
    """Returns a variant of ``svhn`` that is not the paper's: batch norm in G_f.

    Batch normalization after each convolution (DSBN, with ``statistics='per_domain'``; see
    ``DomainBatchNorm``) takes the place of dropout in G_f and of max-norm. The hidden layers of
    G_y keep their dropout of .5. It leaves chance in a third of the updates that ``svhn`` takes
    (docs/recipe.md).
    """
    return _svhn(classes, options, dropout_rates=(0.0,) * 4, statistics=statistics, max_norm=None)


_LECUN_NORMAL = nn.initializers.lecun_normal()  # one object: networks built twice are equal


def _svhn(classes, options, *, dropout_rates, statistics, max_norm):
    """Returns the layers of ``svhn``; dropout rates of the input and of the convolutions."""
    options = {"kernel_init": _LECUN_NORMAL} | options
    input_rate, *rates = dropout_rates
    layers = (
        Convolution(64, 5, pool=3, dropout_rate=rates[0]),
        Convolution(64, 5, pool=3, dropout_rate=rates[1]),
        Convolution(128, 5, dropout_rate=rates[2]),
    )
    return DannModel(
        feature_extractor=ConvolutionalFeatures(
            layers,
            padding="SAME",
            input_dropout_rate=input_rate,
            statistics=statistics,
            **options,
        ),
        label_predictor=FullyConnected((3072, 2048), classes, dropout_rate=0.5, **options),
        domain_classifier=FullyConnected((1024, 1024), 1, **options),
        max_norm=max_norm,
    )


def gtsrb(*, classes: int = 43, **options: Unpack[LayerOptions]) -> DannModel:
    """Returns the network for GTSRB and SYN SIGNS (JMLR Fig. 4c).

    No padding: 1,024 features for 40x40 images.
    """
    layers = (
        Convolution(96, 5, pool=2),
        Convolution(144, 3, pool=2),
        Convolution(256, 5, pool=2),
    )
    return DannModel(
        feature_extractor=ConvolutionalFeatures(layers, **options),
        label_predictor=FullyConnected((512,), classes, **options),
        domain_classifier=FullyConnected((1024, 1024), 1, **options),
    )


_LEAKY_RELU = functools.partial(nn.leaky_relu, negative_slope=0.1)  # one object, as above


def compact(
    *,
    classes: int = 10,
    statistics: str = "per_domain",
    bottleneck: bool = True,
    **options: Unpack[LayerOptions],
) -> DannModel:
    """Returns a network for all pairs of small images, 28x28 pixels or more; it is not the paper's.

    Three convolutions and a fully connected layer of 256 units, all with batch normalization and
    leaky ReLU, .1; dropout of .5 after the second and the third convolution; linear label logits.
    SAME padding: 2,048 units below the fully connected layer for 28x28 and 32x32 images.

    Args:
      classes: Number of labels.
      statistics: Of the batches, ``'shared'`` or ``'per_domain'`` (DSBN); see ``DomainBatchNorm``.
      bottleneck: Whether the fully connected layer is the last one of G_f, so that G_d sees its 256
        units; else it is the first one of G_y, and G_d sees the convolutional features.
      **options: The ``LayerOptions``.
    """
    layers = (
        Convolution(32, 5, pool=2),
        Convolution(64, 5, pool=2, dropout_rate=0.5),
        Convolution(128, 3, pool=2, dropout_rate=0.5),
    )
    normed: dict[str, Any] = {"statistics": statistics, "activation": _LEAKY_RELU, **options}
    return DannModel(
        feature_extractor=ConvolutionalFeatures(
            layers, bottleneck=256 if bottleneck else None, padding="SAME", **normed
        ),
        label_predictor=FullyConnected(
            () if bottleneck else (256,), classes, batch_norm=True, **normed
        ),
        domain_classifier=FullyConnected((500, 500), 1, activation=_LEAKY_RELU, **options),
    )


def office(
    backbone: nn.Module | None, *, classes: int = 31, **options: Unpack[LayerOptions]
) -> DannModel:
    """Returns the network for Office-31: a backbone, a 256-unit bottleneck, G_y and G_d.

    Dropout of .5 on both hidden layers of G_d, as in the authors' files.

    Args:
      backbone: Module from images to activations ``[n, D]``; the paper's is AlexNet up to fc7.
        None where the model gets activations ``[n, 1, 1, D]`` in place of images.
      classes: Number of labels.
      **options: The ``LayerOptions``, of the layers above the backbone.
    """
    return DannModel(
        feature_extractor=OfficeFeatures(backbone, **options),
        label_predictor=FullyConnected((), classes, **options),
        domain_classifier=FullyConnected((1024, 1024), 1, dropout_rate=0.5, **options),
    )


def office_batch_norm(
    backbone: nn.Module | None,
    *,
    classes: int = 31,
    statistics: str = "shared",
    **options: Unpack[LayerOptions],
) -> DannModel:
    """Returns a variant of ``office`` that is not the paper's: batch norm in place of dropout.

    Batch normalization and ReLU follow the bottleneck, and both hidden layers of G_d have batch
    normalization and no dropout.

    Args:
      backbone: As in ``office``.
      classes: Number of labels.
      statistics: Of the bottleneck, ``'shared'`` or ``'per_domain'`` (DSBN); see
        ``DomainBatchNorm``.
      **options: The ``LayerOptions``, of the layers above the backbone.
    """
    return DannModel(
        feature_extractor=OfficeFeatures(backbone, statistics=statistics, **options),
        label_predictor=FullyConnected((), classes, **options),
        domain_classifier=FullyConnected((1024, 1024), 1, batch_norm=True, **options),
    )


def parameter_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Returns the path of a parameter in a pytree as names, from the part down.

    >>> [(path, _)] = jax.tree_util.tree_leaves_with_path({"f": {"conv1": {"bias": 0.0}}})
    >>> parameter_names(path)
    ('f', 'conv1', 'bias')
    """
    names = (str(getattr(k, "key", getattr(k, "name", k))) for k in path)
    return tuple(names)


def is_weight(path: tuple[Any, ...], parameter: chex.Array) -> bool:
    """Returns whether a parameter is a weight, which decays and has a bound on its norm.

    Weights are arrays of two or more axes (kernels, embeddings) but for those that are named
    ``bias``, ``b`` or ``scale``, or end in ``bias``: attention's biases have two axes.

    Args:
      path: Where the parameter is, from ``jax.tree_util.tree_map_with_path``.
      parameter: The parameter.
    """
    names = [name for name in parameter_names(path) if name not in ("value", "raw_value")]
    name = names[-1] if names else ""
    return jnp.ndim(parameter) > 1 and not (name in ("b", "scale") or name.endswith("bias"))


def project_max_norm(theta: Any, bound: float) -> Any:
    """Returns ``theta`` with each unit's incoming weights scaled to a norm of at most ``bound``.

    Weights are those of ``is_weight``, and their last axis counts the units (Flax's layout);
    biases and other vectors are left alone.

    Args:
      theta: Pytree of parameters.
      bound: Largest Euclidean norm c.

    Returns:
      Pytree like ``theta``.

    Source: Srivastava et al. (JMLR 2014), Sec. 5.1.
    """

    def project(path, w):
        if not is_weight(path, w):
            return w
        norm = jnp.sqrt(jnp.sum(w**2, axis=tuple(range(w.ndim - 1)), keepdims=True))
        return w * jnp.minimum(1.0, bound / jnp.maximum(norm, jnp.finfo(w.dtype).tiny))

    return jax.tree_util.tree_map_with_path(project, theta)
