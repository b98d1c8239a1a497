"""Draws features in two dimensions by t-SNE: python -m experiments.embed FOLDER [options].

FOLDER holds finished trainings, such as runs/CONFIG of experiments.run. Test images of the source
are blue, those of the target red. Each method has a panel, and all panels show the same images.
Each panel states the error of a linear classifier that tells the domains apart (50% is a guess),
from five-fold cross-validation on the input of t-SNE.
"""

import dataclasses
import functools
import pathlib
import sys
from typing import Literal, NamedTuple

import jax
import numpy as np
import tyro

from dann_jax import datasets, evaluation
from experiments import domains, plan, record, train
from experiments.figures import program, style
from experiments.methods import DRAWN, METHODS

__all__ = [
    "Options",
    "choose_images",
    "domain_error",
    "draw",
    "main",
    "principal_components",
    "tsne",
]

PROGRAM = "python -m experiments.embed"
COMPONENTS = 50  # principal components of the features, the input of t-SNE
FOLDS = 5
HEIGHT = 3.7  # inches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to draw."""

    folder: tyro.conf.Positional[pathlib.Path]
    """Where the trainings are: FOLDER/METHOD/key_KEY/state."""

    methods: tuple[str, ...] = DRAWN
    """Whose features, a panel for each."""

    key: int = 0
    """Which training of each."""

    layer: Literal["features", "hidden"] = "features"
    """The top of G_f, or the last hidden layer of G_y."""

    images: int = 500
    """Test images of each domain."""

    perplexity: float = 30.0
    """Of t-SNE: about as many neighbours count for each image."""

    seed: int = 0
    """Of the choice of images, of t-SNE and of the cross-validation."""

    output: pathlib.Path | None = None
    """Where to, PNG or SVG; by default FOLDER/LAYER.png."""

    data_dir: pathlib.Path | None = None
    """Folder of prepared data; by default $DANN_JAX_DATA, or ~/.cache/dann_jax."""

    manual_dir: pathlib.Path | None = None
    """Folder of data files that are already on disk, as their publishers name them."""

    weights: pathlib.Path | None = None
    """File of the backbone's weights, if no installed package has them."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the program with these arguments, or those of the process; returns its exit status."""
    return program.run(draw, Options, arguments, program=PROGRAM, description=__doc__)


class _Panel(NamedTuple):
    """The features of one method."""

    method: str
    features: np.ndarray  # [n, d]
    is_target: np.ndarray  # [n] bool
    accuracy: float | None  # on the target


def draw(options: Options) -> pathlib.Path:
    """Draws the features of finished trainings.

    Args:
      options: Which.

    Returns:
      The path of the picture.

    Raises:
      ValueError: There is no such training, its data or weights differ from those at hand, G_y
        has no hidden layer to show, or there are too few images for the perplexity.
    """
    _check(options)
    path = options.output or options.folder / f"{options.layer}.png"
    records = {method: _record(options.folder / method, options.key) for method in options.methods}
    count = len(options.methods)
    size = {"shape": (1, count), "width": count * style.PAGE / 2, "height": HEIGHT}
    with style.figure(path, _command(options), **size) as (figure, axes):
        panels = _panels(options, records)
        reach = max(
            _draw_panel(axis, panel, options) for axis, panel in zip(axes[0], panels, strict=True)
        )
        for axis in axes[0]:  # the same scale in all
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect=1)
            axis.spines[:].set(visible=True, color="0.6")
        figure.legend(
            list(style.DOMAINS), loc="outside upper center", ncols=2, handlelength=1, markerscale=2
        )
    return path


def _command(options):
    return (
        f"{PROGRAM} RUNS/{options.folder.resolve().name} --methods {' '.join(options.methods)} "
        f"--key {options.key} --layer {options.layer} --images {options.images} "
        f"--perplexity {options.perplexity:g} --seed {options.seed}"
    )


def _draw_panel(axis, panel, options):
    """Draws the features of a method, and returns the largest coordinate."""
    components = principal_components(panel.features)
    places = tsne(components, options.perplexity, options.seed)
    places -= (places.min(0) + places.max(0)) / 2
    for mask, look in zip((~panel.is_target, panel.is_target), style.DOMAINS.values(), strict=True):
        axis.scatter(*places[mask].T, s=7, lw=0.6, c=look.colour, marker=look.marker)
    error = domain_error(components, panel.is_target, options.seed)
    name = style.legend_names(options.methods)[panel.method]
    axis.set_title(f"{name} ({'' if METHODS[panel.method].adversarial else 'non-'}adapted)")
    axis.set_xlabel(
        f"domains told apart with {error:.0%} error"
        + ("" if panel.accuracy is None else f"\ntarget test error {1 - panel.accuracy:.1%}")
    )
    return 1.05 * np.abs(places).max()


def choose_images(images: datasets.ImageSet, count: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """Returns ``count`` images, or all if there are fewer, chosen by the seed."""
    chosen = np.random.default_rng(seed).permutation(len(images.label))[:count]
    return images.image[np.sort(chosen)]


def principal_components(features: np.ndarray) -> np.ndarray:
    """Returns the first 50 principal components, or all if there are fewer: ``[n, d]``."""
    from sklearn.decomposition import PCA

    return PCA(min(COMPONENTS, *features.shape), svd_solver="full").fit_transform(features)


def tsne(features: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Returns places ``[n, 2]`` by t-SNE, starting from the first two principal components.

    Args:
      features: ``[n, d]``, principal components.
      perplexity: Below n.
      seed: Of its random choices.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # faster for so few points, above all on busy cores
        return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def domain_error(features: np.ndarray, is_target: np.ndarray, seed: int) -> float:
    """Returns the share of images that a linear classifier assigns to the wrong domain.

    The classifier is a logistic regression, cross-validated in five folds. This is not the proxy
    A-distance of JMLR Sec. 5.1.5.

    Args:
      features: ``[n, d]``.
      is_target: ``[n]`` bool.
      seed: Of the five folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    parts = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return 1 - float(cross_val_score(classifier, features, is_target, cv=parts).mean())


def _check(options):
    if not options.methods or len(set(options.methods)) < len(options.methods):
        raise ValueError("--methods must name each method at most once, and at least one")
    if unknown := set(options.methods) - METHODS.keys():
        raise ValueError(
            f"unknown method {', '.join(sorted(unknown))}: expected some of {', '.join(METHODS)}"
        )
    if options.images < FOLDS:
        raise ValueError(f"--images must be at least {FOLDS}, got {options.images}")
    if options.seed < 0:
        raise ValueError(f"--seed must not be negative, got {options.seed}")
    if not 1 < options.perplexity < 2 * options.images:
        raise ValueError(
            f"--perplexity must be between 1 and the number of images of both domains, "
            f"{2 * options.images}, got {options.perplexity:g}"
        )


def _record(folder, key):
    """Returns the record of a finished training."""
    training = record.read(folder / f"key_{key}" / "record.json")
    if training is None or not training.get("finished"):
        raise ValueError(
            f"no finished training in {folder / f'key_{key}'}: train it with python -m "
            "experiments.run"
        )
    return training


def _panels(options, records):
    """Yields the features of each method."""
    place = {"data_dir": options.data_dir, "manual_dir": options.manual_dir}

    @functools.cache  # as a rule all methods have the same settings
    def load(config):
        return domains.load_pair(config, **place, progress=sys.stderr.isatty())

    for method, training in records.items():
        version = training["origin"]["versions"].get("dann_jax")
        config = plan.config_of(training["settings"], options.weights, version=version)
        prepared = train.prepare(config, METHODS[method], load(config), jax.devices()[:1])
        state = train.restored(prepared, options.key, options.folder / method)
        layer = "f" if options.layer == "features" else _hidden_layer(prepared.model)
        of_domain = [
            evaluation.features(
                prepared.model,
                state,
                choose_images(images, options.images, (options.seed, i)),
                layer=layer,
                preprocess=preprocess,
                domain=statistics,
            )
            for i, (images, preprocess, statistics) in enumerate(
                prepared.tests[domain] for domain in style.DOMAINS
            )
        ]
        features = np.concatenate([f.reshape(len(f), -1) for f in of_domain])
        is_target = np.repeat([False, True], [len(f) for f in of_domain])
        yield _Panel(method, features, is_target, training["target_accuracy"])


def _hidden_layer(model):
    layer = evaluation.last_hidden_layer(model)
    if layer == "f":
        raise ValueError("this G_y has no hidden layer: leave out --layer hidden")
    return layer


if __name__ == "__main__":
    sys.exit(main())
