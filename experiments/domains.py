"""Pairs of domains as arrays, and what happens to an image before G_f sees it."""

import difflib
import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dann_jax import datasets
from dann_jax.augmentation import centre_crop
from dann_jax.backbones import BACKBONES
from dann_jax.batches import DomainArrays, DomainBatch
from experiments import pretraining
from experiments.methods import Method
from experiments.settings import Config

__all__ = [
    "Pair",
    "Preprocess",
    "Streamed",
    "batch_sizes",
    "blocks",
    "chosen",
    "differences",
    "load_pair",
    "over_blocks",
    "prepare_pair",
    "preprocessing",
    "training_arrays",
    "training_sets",
]


BLOCK = 4096  # images that are in memory at once where a data set is not


class Pair(NamedTuple):
    """The images of both domains, as stored, at the size that the network takes."""

    source_train: "datasets.ImageSet | Streamed"
    source_test: "datasets.ImageSet | Streamed"
    target_train: "datasets.ImageSet | Streamed"
    target_test: "datasets.ImageSet | Streamed"
    class_names: tuple[str, ...]
    target_labelled: bool  # whether the target's training images have labels
    target_files: list[str] | None  # of the images to test on, where the target is a folder
    provenance: dict  # "name/split" -> {"examples": ..., "sha256": ...}
    few: np.ndarray | None = None  # positions of the target's training images with a known label


class Streamed:
    """Images that stay on disk: records for ``dann_jax.streaming``, at the network's size."""

    def __init__(self, records, size: int, name: str):
        """Takes ``ImageRecords``; smaller images are padded with black to ``size`` pixels."""
        self.records, self.size, self.name = records, size, name

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """The mean of each channel, grey levels, over all records; computed once."""
        from dann_jax import streaming  # Grain is not needed otherwise

        return streaming.channel_mean(self)

    def __len__(self):
        """Returns the number of records."""
        return len(self.records)

    def __getitem__(self, index):
        """Returns one record."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices):
        """Returns many records."""
        return [
            {"image": _padded(r["image"][None], self.size, self.name)[0], "label": r["label"]}
            for r in self.records.__getitems__(indices)
        ]


class _Chosen:
    """Records of some positions in others."""

    def __init__(self, records, positions):
        self.records, self.positions = records, positions

    def __len__(self):
        return len(self.positions)

    def __getitems__(self, indices):
        return self.records.__getitems__(self.positions[list(indices)].tolist())


def chosen(images, positions):
    """Returns the images at an array of positions in an ``ImageSet``, or ``Streamed``."""
    if isinstance(images, Streamed):
        return Streamed(_Chosen(images.records, positions), images.size, images.name)
    return datasets.ImageSet(images.image[positions], images.label[positions])


def blocks(images) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields images ``[n, height, width, channel]`` and labels ``[n]`` block by block.

    An ``ImageSet``, in memory already, is one block; of ``Streamed`` one is in memory at once.
    """
    if not isinstance(images, Streamed):
        yield images
        return
    for start in range(0, len(images), BLOCK):
        records = images.__getitems__(range(start, min(start + BLOCK, len(images))))
        labels = np.array([record["label"] for record in records], np.int32)
        yield np.stack([record["image"] for record in records]), labels


def over_blocks(
    images, function: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the outputs ``[n, ...]`` of a function for all images, and their labels ``[n]``."""
    parts = [(function(image), label) for image, label in blocks(images)]
    outputs, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return outputs, labels


class Preprocess(NamedTuple):
    """Mean subtraction and scaling, by domain, and the crop for an evaluation."""

    source_mean: tuple[float, ...]  # grey levels, one for each channel
    target_mean: tuple[float, ...]
    scale: float | tuple[float, ...]
    crop: int  # height and width of what is seen in an evaluation, pixels

    def source(self, image):
        """Returns source images ``[n, h, w, 3]`` float32 for an evaluation, of stored ones."""
        return _standardise(centre_crop(image, self.crop), self.source_mean, self.scale)

    def target(self, image):
        """Returns target images ``[n, h, w, 3]`` float32 for an evaluation, of stored ones."""
        return _standardise(centre_crop(image, self.crop), self.target_mean, self.scale)

    def batch(self, batch: DomainBatch) -> DomainBatch:
        """Returns a batch to train on, of one as stored, grey or colour; crops are made later."""
        return batch._replace(
            source_image=_standardise(batch.source_image, self.source_mean, self.scale),
            target_image=_standardise(batch.target_image, self.target_mean, self.scale),
        )


def _standardise(image, mean, scale):
    image = jnp.broadcast_to(image, (*image.shape[:-1], len(mean))).astype(jnp.float32)
    if isinstance(scale, tuple):
        scale = jnp.asarray(scale, jnp.float32).reshape(1, 1, 1, -1)
    return (image - jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, -1)) / scale


def load_pair(
    config: Config, *, data_dir=None, manual_dir=None, progress=False, streaming=False
) -> Pair:
    """Returns the training and test images of both domains, with the digest of each part as stored.

    Above a frozen backbone its outputs take the place of images: see ``pretraining.features``. A
    folder without a split ``test`` is tested on the images that it is trained on; if it is the
    target, that is the transductive protocol: its labels, if any, are not trained on.

    Args:
      config: Names the data sets, their splits and the image size.
      data_dir: Where prepared data lies or goes, see ``datasets.load``.
      manual_dir: Where files that were fetched by hand lie.
      progress: Whether to show a bar where data is prepared.
      streaming: Whether the images stay on disk, to be read through Grain.

    Raises:
      ValueError: Data sets, classes, labels, sizes or settings do not fit; the message says how.
      OSError: A folder, published files or a backbone's weights are missing.
    """
    if config.frozen and streaming:
        raise ValueError("the outputs of a frozen backbone are in memory: no --streaming")
    where = {"data_dir": data_dir, "manual_dir": manual_dir}
    source = _builder(config.source, config.image_size, None, **where)
    target = _builder(config.target, config.image_size, source.CLASS_NAMES, **where)
    _check_classes(config, source, target)
    features = pathlib.Path(data_dir or datasets.default_data_dir()) / "features"
    options = {"features": features, "streaming": streaming, "progress": progress}
    parts, provenance = {}, {}
    for domain, name, builder in (
        ("source", config.source, source),
        ("target", config.target, target),
    ):
        images = {}  # a split that is both trained and tested on is loaded once
        for use in ("train", "test"):
            split = getattr(config, f"{domain}_{use}")
            if _is_folder(name) and split == "test" and split not in builder.CLASS_COUNTS:
                split = "train"
            if split not in images:
                images[split], origin = _load(builder, split, config, name, **options)
                shown = f"{domain}:{pathlib.Path(name).name}" if _is_folder(name) else name
                provenance[f"{shown}/{split}"] = origin
            parts[f"{domain}_{use}"] = images[split]
        files = builder.files(split) if _is_folder(name) else None
    few = None
    if config.few_labels is not None:
        few = _few(config, parts, source.CLASS_NAMES)
        provenance["few labels"] = {"examples": len(few), "sha256": datasets.digest([few])}
    return Pair(
        **parts,
        class_names=tuple(source.CLASS_NAMES),
        target_labelled=not target.UNLABELLED.get(config.target_train),
        target_files=files,
        provenance=provenance,
        few=few,
    )


def _check_classes(config, source, target):
    if not source.CLASS_NAMES:
        raise ValueError(
            f"{config.source}: expected a sub-folder for each class, since the source must have "
            "labels, got images alone"
        )
    if config.classes not in (None, len(source.CLASS_NAMES)):
        raise ValueError(
            f"{config.source} has {len(source.CLASS_NAMES)} classes, but --classes is "
            f"{config.classes}"
        )
    if tuple(target.CLASS_NAMES) != tuple(source.CLASS_NAMES):
        raise ValueError(
            f"expected both domains to have the same classes, got {_some(source.CLASS_NAMES)} of "
            f"{config.source} and {_some(target.CLASS_NAMES)} of {config.target}"
        )
    if source.UNLABELLED.get(config.source_train):
        raise ValueError(
            f"{config.source}: expected labels of all images to train on, got "
            f"{source.UNLABELLED[config.source_train]} images without: put each into the "
            "sub-folder of its class"
        )


def differences(expected: dict[str, dict], actual: dict[str, dict]) -> str:
    """Returns in words which data differ between two of ``Pair.provenance``; "" where none do."""
    return "; ".join(
        f"{name}: expected {_shown(expected.get(name))}, got {_shown(actual.get(name))}"
        for name in {**expected, **actual}
        if _identity(expected.get(name)) != _identity(actual.get(name))
    )


def _identity(origin):
    return origin and (origin["examples"], origin["sha256"])


def _shown(origin):
    if origin is None:
        return "none"
    part = f" ({origin['part']})" if "part" in origin else ""
    return f"{origin['examples']:,} examples{part} of sha256 {origin['sha256'][:12]}"


def prepare_pair(config: Config, *, data_dir=None, manual_dir=None, progress=False) -> None:
    """Prepares the data of ``load_pair`` on disk, where it is not yet, and raises as that does."""
    for name in (config.source, config.target):
        where = {"data_dir": data_dir, "manual_dir": manual_dir}
        datasets.prepare(_builder(name, config.image_size, None, **where), progress=progress)


def _few(config, parts, class_names):
    """Returns the positions of the target's training images whose labels are known."""
    if parts["target_train"] is parts["target_test"]:
        raise ValueError(
            f"--few-labels: {config.target} is tested on the images that are trained on, labelled "
            "ones among them: expected a --target-test of its own"
        )
    label = np.concatenate([label for _, label in blocks(parts["target_train"])])
    counts = np.bincount(label[label >= 0], minlength=len(class_names))
    if counts.min() < config.few_labels:
        raise ValueError(
            f"--few-labels {config.few_labels}: {config.target} has {counts.min()} labelled "
            f"training images of {class_names[counts.argmin()]!r}: expected at most that many"
        )
    return datasets.subset(label, config.few_labels, 0)


def _load(builder, split, config, name, *, features, streaming, progress):
    """Returns the images of a split at the network's size, and their origin."""
    if streaming:
        builder = datasets.prepare(builder, progress=progress)
        images = Streamed(_records(builder, split), config.image_size, name)
        count, digest = len(images), images.records.digest()
    else:
        stored = datasets.arrays(builder, split, progress=progress)  # checks the split's name first
        builder = datasets.prepare(builder)
        images = stored._replace(image=_padded(stored.image, config.image_size, name))
        count, digest = len(stored.label), datasets.digest(stored)
    if config.frozen:
        images = pretraining.features(config, images, digest, features, progress=progress)
    origin = {"examples": count, "sha256": digest}
    part = (builder.info.metadata or {}).get(split, "whole")
    return images, origin if part == "whole" else origin | {"part": part}


def _some(names):
    return f"{len(names)} ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"


def _builder(name, image_size, class_names, *, data_dir, manual_dir):
    if _is_folder(name):
        return datasets.from_folder(
            name, image_size=image_size, class_names=class_names, data_dir=data_dir
        )
    try:
        return datasets.builder(name, data_dir=data_dir, manual_dir=manual_dir)
    except ValueError as error:
        raise ValueError(f"{error}; a folder of images is given by its path") from error


def _records(builder, split):
    from dann_jax.datasets.records import ImageRecords  # imports TFDS

    return ImageRecords(builder, split)


def _is_folder(name):
    """Whether a domain is a folder of images rather than a data set with a name."""
    if name in datasets.names():
        return False
    path = pathlib.Path(name).expanduser()
    mistyped = difflib.get_close_matches(name, datasets.names(), cutoff=0.8)
    return path.is_dir() or (os.sep in name and not mistyped)


def _size(images):
    return len(images.label) if isinstance(images, datasets.ImageSet) else len(images)


def _padded(image, size, name):
    spare = [size - side for side in image.shape[1:3]]
    if min(spare) < 0:
        raise ValueError(
            f"images of {name} are {image.shape[1]}x{image.shape[2]} pixels: make image_size "
            f"at least {max(image.shape[1:3])}, got {size}"
        )
    if max(spare) == 0:
        return image
    return np.pad(image, [(0, 0), *((s // 2, s - s // 2) for s in spare), (0, 0)])


def preprocessing(config: Config, pair: Pair, method: Method) -> Preprocess:
    """Returns mean subtraction and scaling of a method, from its training images alone.

    A baseline sees one domain, and subtracts its mean from the images of either.
    """
    if config.mean == "backbone":
        backbone = BACKBONES[config.backbone]
        mean, scale = (
            tuple(np.broadcast_to(values, [3]).tolist())
            for values in (backbone.mean, backbone.scale)
        )
        return Preprocess(mean, mean, scale, config.input_size)
    images = _images(pair, method)
    source, target = (_mean(of_domain) for of_domain in images)
    if images[0] is not images[1] and config.mean == "joint":
        counts = [_size(of_domain) for of_domain in images]
        source = target = np.average([source, target], axis=0, weights=counts)
    means = tuple(source.tolist()), tuple(target.tolist())
    return Preprocess(*means, config.input_scale, config.input_size)


def _mean(images):
    if isinstance(images, Streamed):
        return np.broadcast_to(images.mean, [3])
    image = images.image
    # By blocks: a float64 copy of a whole data set would not be small.
    parts = np.array_split(image, max(1, len(image) // 4096))
    total = functools.reduce(np.add, (part.sum((0, 1, 2), dtype=np.float64) for part in parts))
    mean = total / np.prod(image.shape[:3])
    return np.broadcast_to(mean, [max(3, len(mean))]).astype(np.float64)


def _images(pair, method):
    """Returns the training images of both domains; twice the same where a method has but one."""
    if method.few_labels and pair.few is None:
        raise ValueError(
            f"{method.name}: expected a pair with few labels: set few_labels of the config"
        )
    parts = {
        "source": lambda: pair.source_train,
        "target": lambda: pair.target_train,
        "few": lambda: chosen(pair.target_train, pair.few),
        "few + target": lambda: pair.target_train,
    }
    images = [parts[part]() for part in method.trains_on]
    return images[0], images[-1]


def training_sets(pair: Pair, method: Method) -> tuple:
    """Returns the labelled images that a method trains on, and the images beside them.

    Where images of the target with and without a label are trained on together, the labelled ones
    come first.
    """
    labelled, target = _images(pair, method)
    if "few + target" in method.trains_on:
        others = np.delete(np.arange(_size(target)), pair.few)
        target = chosen(target, np.concatenate([pair.few, others]))
    return labelled, target


def batch_sizes(
    config: Config, pair: Pair, method: Method
) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Returns the examples a step in (source, target), and the few labels beside the source.

    These are the number of known labels and those a step; None where there are none.
    """
    half, beside = config.batch_size // 2, method.trains_on[1:]
    if not method.few_labels or not beside:
        return (half, half), None
    few = len(pair.few), config.few_labels_in_batch
    return (half, half if method.adapts else few[1]), few


def training_arrays(pair: Pair, method: Method) -> DomainArrays:
    """Returns ``training_sets`` as arrays in memory; target labels that are not used are -1."""
    source, target = training_sets(pair, method)
    label = None
    if method.few_labels and source is not target:
        label = np.where(np.arange(len(target.label)) < len(pair.few), target.label, -1)
    return DomainArrays(source.image, source.label, target.image, label)
