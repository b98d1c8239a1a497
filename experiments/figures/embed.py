"""Draws features in two dimensions by t-SNE: python -m experiments.embed FOLDER [options].

FOLDER holds finished trainings, such as runs/CONFIG of experiments.run. Test images of the source
are blue, those of the target red. Each method has a panel, and all panels show the same images.
Each panel states the error of a linear classifier that tells the domains apart (50% is a guess),
from five-fold cross-validation on the input of t-SNE.
"""

import dataclasses
import functools
import pathlib
from typing import Literal

import jax
import numpy as np
import tyro

from dann_jax import datasets, evaluation
from experiments import plan, record, studies, trained
from experiments.figures import style
from experiments.methods import DRAWN, METHODS

__all__ = ["Options", "choose_images", "domain_error", "draw", "main"]

COMPONENTS = 50  # principal components of the features, the input of t-SNE
FOLDS = 5
HEIGHT = 3.7  # inches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(style.DataOptions):
    """What to draw."""

    folder: tyro.conf.Positional[pathlib.Path]
    """Where the trainings are: FOLDER/METHOD/key_KEY/state."""

    methods: tuple[Literal[tuple(METHODS)], ...] = DRAWN
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

    weights: pathlib.Path | None = None
    """File of the backbone's weights, if no installed package has them."""

    def check(self) -> None:
        """Raises a ValueError if a value makes no sense."""
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError("--methods must name each method at most once, and at least one")
        if self.images < FOLDS:
            raise ValueError(f"--images must be at least {FOLDS}, got {self.images}")
        style.check_key(self.seed, "--seed")
        style.check_key(self.key, "--key")
        if not 1 < self.perplexity < 2 * self.images:
            raise ValueError(
                f"--perplexity must be between 1 and the number of images of both domains, "
                f"{2 * self.images}, got {self.perplexity:g}"
            )


def draw(options: Options) -> pathlib.Path:
    """Draws the features of finished trainings, and returns the path of the picture."""
    options.check()
    path = options.output or options.folder / f"{options.layer}.png"
    records = {method: _record(options.folder / method, options.key) for method in options.methods}
    names = style.legend_names(records)
    command = (
        f"python -m experiments.embed RUNS/{options.folder.resolve().name} --methods "
        f"{' '.join(records)} --key {options.key} --layer {options.layer} --images "
        f"{options.images} --perplexity {options.perplexity:g} --seed {options.seed}"
    )
    count = len(records)
    size = {"shape": (1, count), "width": count * style.PAGE / 2, "height": HEIGHT}
    load_pair = functools.cache(options.load_pair)  # as a rule all have the same settings
    with style.figure(path, command, **size) as (figure, axes):
        reaches = []
        for axis, (method, training) in zip(axes[0], records.items(), strict=True):
            adapted = "adapted" if METHODS[method].adversarial else "non-adapted"
            axis.set_title(f"{names[method]} ({adapted})")
            features = _features(method, training, options, load_pair)
            reaches.append(_draw_panel(axis, *features, training["target_accuracy"], options))
        for axis in axes[0]:
            style.frame(axis, max(reaches))  # the same scale in all
        figure.legend(
            list(style.DOMAINS), loc="outside upper center", ncols=2, handlelength=1, markerscale=2
        )
    return path


main = functools.partial(style.run, Options, draw, __doc__)


def _draw_panel(axis, features, is_target, accuracy, options):
    """Draws features ``[n, d]`` of both domains, and returns the largest coordinate."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count = min(COMPONENTS, *features.shape)
    components = PCA(count, svd_solver="full").fit_transform(features)
    tsne = TSNE(perplexity=options.perplexity, init="pca", random_state=options.seed)
    with threadpool_limits(1):  # faster for so few points, above all on busy cores
        places = tsne.fit_transform(components)
    places -= (places.min(0) + places.max(0)) / 2
    for mask, look in zip((~is_target, is_target), style.DOMAINS.values(), strict=True):
        axis.scatter(*places[mask].T, s=7, lw=0.6, c=look.colour, marker=look.marker)
    label = f"domains told apart with {domain_error(components, is_target, options.seed):.0%} error"
    if accuracy is not None:
        label += f"\ntarget test error {1 - accuracy:.1%}"
    axis.set_xlabel(label)
    return 1.05 * np.abs(places).max()


def choose_images(images: datasets.ImageSet, count: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """Returns ``count`` images, or all if there are fewer, chosen by the seed."""
    chosen = np.random.default_rng(seed).permutation(len(images.label))[:count]
    return images.image[np.sort(chosen)]


def domain_error(features: np.ndarray, is_target: np.ndarray, seed: int) -> float:
    """Returns the share of images that a linear classifier assigns to the wrong domain.

    The classifier is a logistic regression, cross-validated in five folds. This is not the proxy
    A-distance of JMLR Sec. 5.1.5.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    parts = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return 1 - float(cross_val_score(classifier, features, is_target, cv=parts).mean())


def _record(folder, key):
    """Returns the record of a finished training."""
    training = record.read_record(folder, key)
    if training is None or not training["finished"]:
        raise ValueError(
            f"no finished training in {folder / f'key_{key}'}: train it with python -m "
            "experiments.run"
        )
    return training


def _features(method, training, options, load_pair):
    """Returns features ``[n, d]`` of both domains, and which are the target's, ``[n]`` bool."""
    config = plan.config_of(training["settings"], options.weights)
    prepared = studies.prepare(config, METHODS[method], load_pair(config), jax.devices()[:1])
    state = trained.restored(prepared, options.key, options.folder / method)
    hidden = evaluation.last_hidden_layer(prepared.model)
    if options.layer == "hidden" and hidden == "f":
        raise ValueError("this G_y has no hidden layer: leave out --layer hidden")
    parts = []
    for i, domain in enumerate(style.DOMAINS):
        images, preprocess, statistics = prepared.tests[domain]
        chosen = choose_images(images, options.images, (options.seed, i))
        features = evaluation.features(
            prepared.model,
            state,
            chosen,
            layer="f" if options.layer == "features" else hidden,
            preprocess=preprocess,
            domain=statistics,
        )
        parts.append(features.reshape(len(features), -1))
    return np.concatenate(parts), np.repeat([False, True], [len(part) for part in parts])
