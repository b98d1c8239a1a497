"""The settings of an experiment, and the network that they name."""

import dataclasses
import functools
import math
import pathlib
import typing
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import datasets, networks
from dann_jax.augmentation import Distortion
from dann_jax.backbones import BACKBONES, AlexNet
from dann_jax.objective import NORMALIZATIONS
from dann_jax.selection import RULES

__all__ = [
    *("AUGMENTATIONS", "INITIALIZERS", "NETWORKS", "Config"),
    *("check_size", "completed", "differences", "example_bytes", "input_bytes"),
    *("library_network", "make_model"),
]


def _office_alexnet(*, dtype, **options):
    kernel_init = options.get("kernel_init", nn.initializers.he_normal())
    return networks.office(AlexNet(kernel_init=kernel_init, dtype=dtype), dtype=dtype, **options)


NETWORKS = {
    "mnist": networks.mnist,
    "mnist_batch_norm": networks.mnist_batch_norm,
    "svhn": networks.svhn,
    "svhn_batch_norm": networks.svhn_batch_norm,
    "gtsrb": networks.gtsrb,
    "compact": networks.compact,
    "compact_convolutional": functools.partial(networks.compact, bottleneck=False),
    "office_alexnet": _office_alexnet,
    "office": networks.office,
    "office_batch_norm": networks.office_batch_norm,
    "office_per_domain": functools.partial(networks.office_batch_norm, statistics="per_domain"),
}
ALL_KEYS_TOGETHER = ("mnist", "mnist_batch_norm")
"""Networks whose keys take less time as one program than one after the other, on a GPU: with larger
convolutions they take more, since a convolution with a kernel for each key has as many groups."""

WITH_BACKBONE = ("office", "office_batch_norm", "office_per_domain")

AUGMENTATIONS = {
    "none": Distortion(),
    "light": Distortion(shift=2, noise=0.1),
    "strong": Distortion(shift=2, affine=0.1, scale=(0.25, 1.5), inversion=True, noise=0.1),
}

INITIALIZERS = {
    "truncated_normal_0.1": nn.initializers.truncated_normal(0.1),
    "he_normal": nn.initializers.he_normal(),
    "lecun_normal": nn.initializers.lecun_normal(),
    "glorot_uniform": nn.initializers.glorot_uniform(),
}


_COUNTS = (
    *("steps", "baseline_steps", "batch_size", "evaluate_every", "lambda_horizon"),
    *("classes", "image_size", "crop", "few_labels", "few_labels_in_batch"),
)
_LAST = 2**31 - 1  # of counts, steps among them
_POSITIVE = (
    *("mu0", "drop_factor", "input_scale", "backbone_factor", "bias_factor", "vat_radius"),
)
_SHARES = "momentum", "adam_b1", "average_decay", "confidence", "held_out"
_NOT_NEGATIVE = (
    *("alpha", "beta", "gamma", "lambda_max", "weight_decay"),
    *("domain_weight", "alignment_weight", "entropy_weight", "vat_weight", "consistency_weight"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one row of the results: a pair of domains and a training recipe."""

    source: str
    """Labelled source: the name of a data set, or a folder with a sub-folder for each class."""

    target: str
    """Unlabelled target: the name of a data set, or a folder. Sub-folders for each class serve to
    measure the accuracy."""

    source_train: str = "train"
    """Split of the source to train on, or a named part of one."""

    source_test: str = "test"
    """Split of the source to measure the accuracy on."""

    target_train: str = "train"
    """Split of the target to train on, without its labels."""

    target_test: str = "test"
    """Split of the target to measure the accuracy on; ``train`` is the transductive protocol."""

    held_out: float = 0.0
    """Share of each class of a source that is a folder without images to test on, 0 to 1, that
    measures the accuracy on the source and is not trained on."""

    classes: int | None = 10
    """Number of labels; None for as many as the source has."""

    network: Literal[tuple(NETWORKS)] = "mnist"
    """Network: those of the paper's Fig. 4, and variants. office, office_batch_norm and
    office_per_domain need a backbone; the batch statistics of their bottleneck are none, joint, or
    of each domain. office_alexnet starts from random weights. G_d of compact sees a bottleneck,
    that of compact_convolutional the convolutional features."""

    backbone: Literal[tuple(BACKBONES)] | None = None
    """Network below the bottleneck, which starts from ImageNet weights."""

    weights: pathlib.Path | None = None
    """File of the backbone's weights; None for the installed package that has them."""

    frozen: bool = False
    """Whether the backbone stays as it is: its outputs for the middle of each image, and of the
    mirror image, are computed once and kept with the prepared data."""

    initialization: Literal[("default", *INITIALIZERS)] = "default"
    """Of all weights; ``default`` is the network's own."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32."""

    image_size: int = 32
    """Height and width of the images, pixels; smaller ones are padded with black."""

    resize: bool = False
    """Whether images of another size are resized to image_size (bilinear) instead."""

    crop: int | None = None
    """Height and width of what the network sees of an image, pixels: a random part in training, the
    middle in evaluation and below a frozen backbone; None for all of it."""

    mirror: bool = False
    """Whether training images are exchanged left and right at random, one half of them."""

    mean: Literal["joint", "per_domain", "backbone"] = "joint"
    """Colour subtracted from images: the mean of both domains' training images, or of each domain
    (baselines: of their own training images); or that which the backbone's weights were made with,
    and its scale. Above a frozen backbone, of its outputs instead of colours: backbone is joint
    there, without a scale."""

    input_scale: float = 255.0
    """What mean-subtracted pixels (grey levels), or outputs of a frozen backbone (dimensionless),
    are divided by, unless it is the backbone's scale."""

    normalize_images: bool = False
    """Whether each channel of each image is standardized to mean 0 and standard deviation 1, in
    place of mean and input_scale; of whole images alone, without crop and mirror."""

    augment: Literal[tuple(AUGMENTATIONS)] = "none"
    """How images are distorted in training, after crop and mirror: light, shifts by up to 2 pixels
    and noise; strong, also affine maps, other contrasts and inversion."""

    steps: int = 10_000
    """Length of DANN, updates."""

    baseline_steps: int | None = None
    """Length of source-only and train-on-target, updates; None for that of DANN."""

    batch_size: int = 128
    """Examples a step over all devices: half source, half target. Baselines train on as many
    labelled examples as DANN, half of this number."""

    mu0: float = 0.01
    """Learning rate at the start, per update."""

    alpha: float = 10.0
    """Speed of the learning rate's annealing, dimensionless; 0 for none."""

    beta: float = 0.75
    """Exponent of the learning rate's annealing, dimensionless."""

    drop_at: float = 1.0
    """When the learning rate drops, share of the updates that are done; 1 for no drop."""

    drop_factor: float = 0.1
    """What the learning rate is multiplied by when it drops, dimensionless."""

    gamma: float = 10.0
    """Steepness of lambda's rise, dimensionless."""

    lambda_max: float = 1.0
    """Largest lambda, dimensionless: what G_f feels of G_d, whose own learning rate it leaves."""

    lambda_horizon: int | None = None
    """When lambda is complete, updates; None for the last."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimizer: SGD with momentum, as in the paper, or Adam."""

    adam_b1: float = 0.9
    """Decay of Adam's mean of the gradients, 0 to 1."""

    momentum: float = 0.9
    """Momentum of SGD, share of the last step, 0 to 1."""

    nesterov: bool = False
    """Whether momentum is Nesterov's."""

    weight_decay: float = 0.0
    """Multiple of the weights (not the biases) added to the gradient."""

    backbone_factor: float = 1.0
    """Multiple of the learning rate for the backbone."""

    bias_factor: float = 1.0
    """Multiple of the learning rate for biases, those of the backbone among them."""

    normalization: Literal[NORMALIZATIONS] = "mean"
    """What L_d averages over: the joint batch, or each domain (then summed)."""

    domain_weight: float = 1.0
    """Weight of L_d, dimensionless."""

    alignment_weight: float = 1.0
    """Weight of the distance between domains in ddc, dan and deep-coral, at lambda 1,
    dimensionless."""

    entropy_weight: float = 0.1
    """Weight of the target's entropy, in entropy and vada, and of virtual adversarial training on
    the target in vada, dimensionless."""

    vat_weight: float = 1.0
    """Weight of virtual adversarial training on the source in vada, dimensionless."""

    vat_radius: float = 3.5
    """Norm of vada's perturbations, in units of the network's input."""

    consistency_weight: float = 0.3
    """Weight of the squared difference from the teacher in mean-teacher, dimensionless."""

    confidence: float = 0.97
    """Probability of a class above which mean-teacher learns from the teacher."""

    average_decay: float | None = None
    """Share of an average of the parameters, for evaluation, that each update keeps; None for the
    last parameters. It starts from the initial ones, and batch statistics are not averaged: in the
    first updates its accuracy says little."""

    evaluate_every: int = 1_000
    """Updates between two evaluations on the test images."""

    select: tuple[Literal[tuple(RULES)], ...] = ()
    """Rules that score the network at each evaluation without target labels, and choose a step: see
    docs/selection.md."""

    divergence: bool = False
    """Whether evaluations log distances between the domains: the proxy A-distance of G_y's last
    hidden layer and, of methods that train G_d, 2|1 - alpha|; on at most 2,000 test images of each
    domain."""

    few_labels: int | None = None
    """How many target training images of each class have a label, the same for all keys, for the
    methods with few labels; None for none."""

    few_labels_in_batch: int = 16
    """How many of these are in each batch of both domains: DANN's target half has as many fewer of
    the others; without a domain branch they are added to the source half. L_y is the mean over all
    labelled examples of the batch."""

    continue_from: pathlib.Path | None = None
    """Folder of finished trainings to begin with: runs/CONFIG, or METHOD or METHOD/key_KEY in it.
    With the same settings and data but more steps, in all, they go on; otherwise their parameters
    are the start, where the shapes fit: see docs/running.md."""

    def __post_init__(self):
        """Checks the values against each other."""
        object.__setattr__(self, "select", tuple(dict.fromkeys(self.select)))
        if self.continue_from is not None:
            object.__setattr__(self, "continue_from", pathlib.Path(self.continue_from))
        for name in ("source", "target"):
            if not getattr(self, name):
                raise ValueError(f"--{name} must be the name of a data set, or a folder of images")
        for names, valid, expected in (
            (_COUNTS, lambda value: 1 <= value <= _LAST, f"be at least 1 and at most {_LAST}"),
            (_POSITIVE, lambda value: 0 < value < math.inf, "be positive"),
            (_NOT_NEGATIVE, lambda value: 0 <= value < math.inf, "not be negative"),
            (_SHARES, lambda value: 0 <= value < 1, "be in [0, 1)"),
            (("drop_at",), lambda value: 0 <= value <= 1, "be in [0, 1]"),
        ):
            for name in names:
                value = getattr(self, name)
                if value is not None and not valid(value):
                    raise ValueError(f"{name} must {expected}, got {value}")
        for name in (*_POSITIVE, *_NOT_NEGATIVE):
            value = getattr(self, name)
            rounded = float(_float32(value))
            # gamma and input_scale make NaN in these cases: a training that stops at once.
            if (rounded == 0 < value and name != "input_scale") or (
                rounded == math.inf and name != "gamma"
            ):
                raise ValueError(
                    f"{name} must be a number that float32 can hold, 1e-38 to 3e38, got {value}, "
                    f"which is {rounded} there"
                )
        if self.crop is not None and self.crop > self.image_size:
            raise ValueError(f"crop must be at most image_size {self.image_size}, got {self.crop}")
        if self.batch_size % 2:
            raise ValueError(
                f"batch_size must be even (half source, half target), got {self.batch_size}: "
                f"choose {self.batch_size - 1 or 2} or {self.batch_size + 1}"
            )
        half, mixed = self.batch_size // 2, self.few_labels is not None
        if mixed and self.few_labels_in_batch >= half:
            raise ValueError(
                f"few_labels_in_batch must be less than the target half of a batch, {half}, got "
                f"{self.few_labels_in_batch}"
            )
        self._check_names()

    def _check_names(self):
        for name, kind in typing.get_type_hints(Config).items():
            kinds = (kind, *typing.get_args(kind))  # of a union, its parts
            literal = next((k for k in kinds if typing.get_origin(k) is Literal), None)
            value = getattr(self, name)
            if literal and not (value is None and type(None) in kinds):
                valid = typing.get_args(literal)
                for each in value if isinstance(value, tuple) else (value,):
                    if each not in valid:
                        expected = ", ".join(valid)
                        raise ValueError(f"unknown {name} {each!r}: expected one of {expected}")
        if (self.backbone is None) == (self.network in WITH_BACKBONE):
            raise ValueError(
                f"expected a backbone for the networks {', '.join(WITH_BACKBONE)} and for no "
                f"other, got network {self.network} and backbone {self.backbone}"
            )
        if self.backbone is None and (self.weights is not None or self.frozen):
            raise ValueError("weights and frozen are a backbone's: name a --backbone too")
        if self.mean == "backbone" and self.backbone is None:
            raise ValueError("mean backbone needs a backbone: name one, or choose joint")
        if self.normalize_images and (self.frozen or self.crop is not None or self.mirror):
            raise ValueError(
                "normalize_images is for whole images: leave out crop, mirror and frozen"
            )
        if self.augment != "none" and self.frozen:
            raise ValueError("augment is for images, not a backbone's outputs: leave out frozen")

    @property
    def trains_keys_together(self) -> bool:
        """Whether it pays on a GPU to train all keys as one program, see ``ALL_KEYS_TOGETHER``."""
        return self.frozen or self.network in ALL_KEYS_TOGETHER

    @property
    def input_size(self) -> int:
        """Height and width of the trained network's input, pixels; 1 above a frozen backbone."""
        return 1 if self.frozen else self.crop or self.image_size


def _float32(value):
    with np.errstate(over="ignore", under="ignore"):
        return np.float32(value)


def _input(config):
    """Returns the shape of one example as G_f gets it."""
    size = config.input_size
    channels = BACKBONES[config.backbone].features if config.frozen else 3
    return jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)


def input_bytes(config: Config) -> int:
    """Returns the memory of one example as G_f gets it, bytes."""
    return 4 * math.prod(_input(config).shape)


def example_bytes(config: Config) -> int:
    """Returns the memory that a training needs for each example of a batch, at least, bytes.

    It is that of the input and of the outputs of G_f's layers, which the gradient needs.
    """
    part, image = make_model(config, config.classes or 2).parts["f"], _input(config)

    def outputs(key, image):
        theta, batch_stats = part.init(key, image)
        layers = {}
        part.apply(theta, batch_stats, image, domain=0, layers=layers)
        return layers

    shapes = jax.tree.leaves((image, jax.eval_shape(outputs, jax.random.key(0), image)))
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in shapes)


def check_size(config: Config) -> None:
    """Raises a ValueError where the network leaves no feature of images of this size."""
    if config.backbone is None:
        smallest = getattr(make_model(config, 2).feature_extractor, "smallest_image", 1)
        if config.input_size < smallest:
            raise ValueError(
                f"{'image_size' if config.crop is None else 'crop'} must be at least {smallest} "
                f"for the network {config.network}, got {config.input_size}"
            )


def completed(stored: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a file; one that is younger than the file has its default."""
    fields = dataclasses.fields(Config)
    usual = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    return usual | {"select": []} | stored


def differences(old: dict[str, Any], new: dict[str, Any], *, whose: str = "asked for") -> list[str]:
    """Returns what differs between settings, or other entries of a file, old and new, in words.

    >>> differences({"mu0": 0.01, "steps": 9}, {"mu0": 0.02, "steps": 9})
    ['mu0: 0.01 there, 0.02 asked for']

    Two paths of one folder of images do not differ.
    """
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    for name in {"source", "target"}.intersection(names):
        if _one_folder(old.get(name), new.get(name)):
            names.remove(name)
    return [f"{name}: {old.get(name)} there, {new.get(name)} {whose}" for name in names]


def _one_folder(*names):
    """Returns whether names of domains are paths of the same folder."""
    if None in names or not all(map(datasets.is_folder, names)):
        return False
    return len({pathlib.Path(name).expanduser().resolve() for name in names}) == 1


def make_model(config: Config, classes: int) -> networks.DannModel:
    """Returns the network of an experiment for a number of labels; frozen backbones are no part."""
    options = {"classes": classes, "dtype": jnp.dtype(config.dtype)}
    if config.initialization != "default":
        options["kernel_init"] = INITIALIZERS[config.initialization]
    if config.network in WITH_BACKBONE:
        backbone = BACKBONES[config.backbone]
        options["backbone"] = None if config.frozen else backbone.make(dtype=options["dtype"])
    return NETWORKS[config.network](**options)


def library_network(config: Config, classes: int) -> dict[str, Any]:
    """Returns the network of ``make_model`` as ``dann_jax.model_files`` names it.

    That is a function of ``networks`` by name, its arguments but for the initializer, and the
    backbone below it.
    """
    name, backbone, more = config.network, config.backbone, {}
    if name == "office_alexnet":
        name, backbone = "office", "alexnet"
    if name == "office_per_domain":
        name, more = "office_batch_norm", {"statistics": "per_domain"}
    if name == "compact_convolutional":
        name, more = "compact", {"bottleneck": False}
    arguments = {"classes": classes, "dtype": config.dtype, **more}
    return {"name": name, "arguments": arguments, "backbone": backbone, "frozen": config.frozen}
