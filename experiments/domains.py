"""Pairs of domains as arrays, and what each method trains on."""

import pathlib
import warnings
from typing import NamedTuple

import numpy as np

from dann_jax import datasets
from dann_jax.backbones import BACKBONES
from dann_jax.batches import DomainArrays
from dann_jax.datasets.streamed import Streamed, blocks, chosen, fitted, size
from dann_jax.preprocessing import Preprocess, image_mean
from experiments import pretraining
from experiments.methods import Method
from experiments.settings import Config

__all__ = [
    "Folders",
    "Pair",
    "batch_sizes",
    "differences",
    "folders_now",
    "load_pair",
    "prepare_pair",
    "preprocessing",
    "training_arrays",
    "training_sets",
]


class Pair(NamedTuple):
    """The images of both domains, as stored, at the size that the network takes."""

    source_train: datasets.ImageSet | Streamed
    source_test: datasets.ImageSet | Streamed
    target_train: datasets.ImageSet | Streamed
    target_test: datasets.ImageSet | Streamed
    class_names: tuple[str, ...]
    target_labelled: bool  # whether the target's training images have labels
    target_files: list[str] | None  # of the images to test on, where the target is a folder
    provenance: dict  # "name/split" -> {"examples": ..., "sha256": ...}
    few: np.ndarray | None = None  # positions of the target's training images with a known label
    target_resizes: bool = False  # whether the target's builder resizes pictures of any size


def load_pair(
    config: Config, *, data_dir=None, manual_dir=None, progress=False, streaming=False
) -> Pair:
    """Returns the training and test images of both domains, with the digest of each part as stored.

    Above a frozen backbone its outputs take the place of images: see ``pretraining.features``. A
    target that is a folder without a split ``test`` is tested on the images that it is trained on,
    the transductive protocol: its labels, if any, are not trained on. Of such a source
    ``config.held_out`` of each class is tested on instead. With ``streaming`` the images stay on
    disk. Folders are as in ``datasets.load``.
    """
    if config.frozen and streaming:
        raise ValueError("the outputs of a frozen backbone are in memory: no --streaming")
    source, target = _find(config, data_dir=data_dir, manual_dir=manual_dir)
    features = pathlib.Path(data_dir or datasets.default_data_dir()) / "features"
    options = {"features": features, "streaming": streaming, "progress": progress}
    parts, provenance = {}, {}
    for domain, builder in (("source", source), ("target", target)):
        name, images, lacks_test = getattr(config, domain), {}, False
        is_folder = datasets.is_folder(name)
        shown = f"{domain}:{pathlib.Path(name).name}" if is_folder else name
        for use in ("train", "test"):
            split = getattr(config, f"{domain}_{use}")
            if is_folder and (part := _split(builder, split)) != split:
                split, lacks_test = part, True
            if split not in images:  # one that is both trained and tested on is loaded once
                images[split], provenance[f"{shown}/{split}"] = _load(
                    builder, split, config, name=name, **options
                )
            parts[f"{domain}_{use}"] = images[split]
        if lacks_test and domain == "source":
            held_out = _hold_out(parts, config.held_out, builder.CLASS_NAMES)
            provenance |= {f"{shown}/held out": held_out} if held_out else {}
        files = builder.files(split) if is_folder else None
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
        target_resizes=target.RESIZES,
    )


def _find(config, **where):
    """Returns the builders of both domains, which have the same classes."""
    where |= {"image_size": config.image_size}
    source = datasets.find(config.source, **where)
    _check_source(config, source)
    target = datasets.find(config.target, class_names=source.CLASS_NAMES, **where)
    if tuple(target.CLASS_NAMES) != tuple(source.CLASS_NAMES):
        raise ValueError(
            f"expected both domains to have the same classes, got {_some(source.CLASS_NAMES)} of "
            f"{config.source} and {_some(target.CLASS_NAMES)} of {config.target}: pair others"
        )
    return source, target


def _check_source(config, source):
    if not source.CLASS_NAMES:
        raise ValueError(
            f"{config.source}: expected a sub-folder for each class, since the source must have "
            "labels, got images alone"
        )
    count = len(source.CLASS_NAMES)
    if count < 2:
        raise ValueError(
            f"{config.source}: expected at least two classes to tell apart, got one "
            f"({source.CLASS_NAMES[0]}): give each class a sub-folder of its own"
        )
    if config.classes not in (None, count):
        raise ValueError(f"{config.source} has {count} classes, but --classes is {config.classes}")
    if unlabelled := source.UNLABELLED.get(config.source_train):
        raise ValueError(
            f"{config.source}: expected labels of all images to train on, got {unlabelled} images "
            "without: put each into the sub-folder of its class"
        )


def _some(names):
    return f"{len(names)} ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"


def differences(expected: dict[str, dict], actual: dict[str, dict]) -> str:
    """Returns in words which data differ between two of ``Pair.provenance``; "" where none do."""
    every = []
    for name in {**expected, **actual}:
        pair = [side.get(name) or {} for side in (expected, actual)]
        if len({(each.get("examples"), each.get("sha256")) for each in pair}) > 1:
            every.append(f"{name}: expected {_shown(pair[0])}, got {_shown(pair[1])}")
    return "; ".join(every)


def _shown(origin):
    if not origin:
        return "none"
    part = f" ({origin['part']})" if "part" in origin else ""
    return f"{origin['examples']:,} examples{part} of sha256 {origin['sha256'][:12]}"


class Folders(NamedTuple):
    """What folders of images hold."""

    classes: tuple[str, ...] | None  # of the source; None where it is no folder
    files: list[str] | None  # to test on, in their order; None where the target is no folder
    origins: dict[str, dict]  # as a ``Pair.provenance``


def folders_now(config: Config, **where) -> Folders | None:
    """Returns what the folders of a pair hold; None where there are none, or not any more.

    They are prepared where they are not yet.
    """
    names = [getattr(config, domain) for domain in ("source", "target")]
    folders = [name for name in names if datasets.is_folder(name)]
    if not folders or not all(pathlib.Path(name).expanduser().is_dir() for name in folders):
        return None
    classes, files, origins = None, None, {}
    for domain, builder in zip(("source", "target"), _find(config, **where), strict=True):
        if not datasets.is_folder(name := getattr(config, domain)):
            continue
        builder = datasets.prepare(builder)
        for split in builder.CLASS_COUNTS:
            count = sum(builder.CLASS_COUNTS[split]) + builder.UNLABELLED[split]
            if digest := builder.digest(split):
                origin = {"examples": count, "sha256": digest}
                origins[f"{domain}:{pathlib.Path(name).name}/{split}"] = origin
        if domain == "source":
            classes = tuple(builder.CLASS_NAMES)
        else:
            files = builder.files(_split(builder, config.target_test))
    return Folders(classes, files, origins)


def _split(folder, split):
    """Returns the part of a folder that a split is: all of one without a part ``test``."""
    return "train" if split == "test" and split not in folder.CLASS_COUNTS else split


def prepare_pair(config: Config, *, data_dir=None, manual_dir=None, progress=False) -> None:
    """Prepares the data of ``load_pair`` on disk, where it is not yet, and raises as that does."""
    for builder in _find(config, data_dir=data_dir, manual_dir=manual_dir):
        datasets.prepare(builder, progress=progress)


def _hold_out(parts, share, class_names):
    """Takes what to test on out of a source's training images; returns its origin, None if none."""
    images = parts["source_train"]
    label = np.concatenate([label for _, label in blocks(images)])
    positions = datasets.held_out(label, share)
    if not len(positions):
        return None
    if lone := [class_names[c] for c in np.setdiff1d(label, label[positions])]:
        warnings.warn(
            f"the source accuracy says nothing of {_some(lone)} of the classes: there is one image "
            "of each, which is trained on",
            stacklevel=2,
        )
    parts["source_train"] = chosen(images, np.delete(np.arange(len(label)), positions))
    parts["source_test"] = chosen(images, positions)
    return {"examples": len(positions), "sha256": datasets.digest([positions])}


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


def _load(builder, split, config, *, name, features, streaming, progress):
    """Returns the images of a split at the network's size, and their origin."""
    if streaming:
        from dann_jax.datasets.image_records import ImageRecords  # imports TFDS

        builder = datasets.prepare(builder, progress=progress)
        images = Streamed(
            ImageRecords(builder, split), config.image_size, name, resize=config.resize
        )
        origin = {"examples": len(images), "sha256": images.records.digest()}
    else:
        stored = datasets.arrays(builder, split, progress=progress)  # checks the split's name first
        builder = datasets.prepare(builder)
        image = fitted(stored.image, config.image_size, name, resize=config.resize)
        images = stored._replace(image=image)
        sha256 = builder.digest(split)  # that of a whole split is verified, and need not be made
        origin = {"examples": len(stored.label), "sha256": sha256 or datasets.digest(stored)}
    if config.frozen:
        digest = origin["sha256"]
        images = pretraining.features(config, images, digest, features, progress=progress)
    part = (builder.info.metadata or {}).get(split, "whole")
    return images, origin if part == "whole" else origin | {"part": part}


def preprocessing(config: Config, pair: Pair, method: Method) -> Preprocess:
    """Returns the preprocessing of a method, from its training images: a baseline's of one."""
    of_weights = config.mean == "backbone"
    if of_weights and not config.frozen:
        backbone = BACKBONES[config.backbone]
        rest = backbone.scale, config.input_size, config.normalize_images
        return Preprocess(backbone.mean, backbone.mean, *rest)
    images = _images(pair, method)
    source, target = map(_mean, images)
    if images[0] is not images[1] and config.mean != "per_domain":
        source = target = np.average([source, target], axis=0, weights=list(map(size, images)))
    means = tuple(source.tolist()), tuple(target.tolist())
    scale = 1.0 if of_weights else config.input_scale
    return Preprocess(*means, scale, config.input_size, config.normalize_images)


def _mean(images):
    mean = images.mean if isinstance(images, Streamed) else image_mean(images.image)
    return np.broadcast_to(mean, [max(3, len(mean))]).astype(np.float64)


def _images(pair, method):
    """Returns the training images of both domains; twice the same where a method has but one."""
    if method.few_labels and pair.few is None:
        raise ValueError(
            f"{method.name}: expected a pair with few labels: set few_labels of the config"
        )
    few = chosen(pair.target_train, pair.few) if method.few_labels else None
    parts = {"source": pair.source_train, "few": few}
    images = [parts.get(part, pair.target_train) for part in method.trains_on]
    return images[0], images[-1]


def training_sets(pair: Pair, method: Method) -> tuple:
    """Returns labelled images to train on, and others: of the target, labelled ones first."""
    labelled, target = _images(pair, method)
    if "few + target" in method.trains_on:
        others = np.delete(np.arange(size(target)), pair.few)
        target = chosen(target, np.concatenate([pair.few, others]))
    return labelled, target


def batch_sizes(
    config: Config, pair: Pair, method: Method
) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Returns examples a step in (source, target), and the number of few labels, and a step's."""
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
        label = np.where(np.arange(size(target)) < len(pair.few), target.label, -1)
    return DomainArrays(source.image, source.label, target.image, label)
