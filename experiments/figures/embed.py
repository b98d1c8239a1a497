"""Draws features in two dimensions by t-SNE: python -m experiments.embed FOLDER [options].

FOLDER holds finished trainings, such as runs/CONFIG of experiments.run. Test images of the source
are blue, those of the target red; each method has a panel, source-only beside DANN, and both show
the same images. Under each stands the error of a linear classifier that tells the domains apart
(50% where it cannot), five-fold cross-validated on the features that t-SNE sees.
"""

import dataclasses
import functools
import pathlib
import sys
from typing import Literal

import jax
import numpy as np
import tyro

from dann_jax import datasets, evaluation
from experiments import domains, results, study, style

__all__ = [
    "Options",
    "domain_error",
    "draw",
    "drawn",
    "embedded",
    "main",
    "principal_components",
]

PROGRAM = "python -m experiments.embed"
COMPONENTS = 50  # of the features' principal ones, what t-SNE sees
FOLDS = 5
HEIGHT = 3.7  # inches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to draw."""

    folder: tyro.conf.Positional[pathlib.Path]
    """Where the trainings are: FOLDER/METHOD/key_KEY/state."""

    methods: tuple[str, ...] = ("source-only", "dann")
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
    """File of the backbone's weights, where there is one that no installed package has."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the program.

    Args:
      arguments: Of the command line; None for those of the process.

    Returns:
      The exit status: 0, or 2 where there is nothing to draw.
    """
    try:
        options = tyro.cli(Options, args=arguments, prog=PROGRAM, description=__doc__)
        path = options.output or options.folder / f"{options.layer}.png"
        draw(options, path)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {path}")
    return 0


def draw(options: Options, path: pathlib.Path) -> None:
    """Draws the features of finished trainings.

    Args:
      options: Which.
      path: Where to, PNG or SVG.

    Raises:
      ValueError: There is no such training, data or weights are not those it was made with, G_y
        has no hidden layer to show, or there are too few images for the perplexity.
    """
    _check(options)
    records = {method: _record(options.folder / method, options.key) for method in options.methods}
    command = " ".join(
        [PROGRAM, f"RUNS/{options.folder.resolve().name}", "--methods", *options.methods]
        + [f"--key {options.key} --layer {options.layer} --images {options.images}"]
        + [f"--perplexity {options.perplexity:g} --seed {options.seed}"]
    )
    titles = style.method_names(list(options.methods))
    count = len(options.methods)
    size = {"width": count * style.PAGE / 2, "height": HEIGHT}
    with style.figure(path, command, 1, count, **size) as (figure, axes):
        reach = 0.0
        drawn_of = _features(options, records)
        for axis, (method, of_domain, accuracy) in zip(axes[0], drawn_of, strict=True):
            is_target = np.repeat([False, True], [len(f) for f in of_domain])
            seen = principal_components(np.concatenate(of_domain))
            places = embedded(seen, options.perplexity, options.seed)
            places -= (places.min(0) + places.max(0)) / 2
            reach = max(reach, 1.05 * np.abs(places).max())
            for mask, look in zip((~is_target, is_target), style.DOMAINS.values(), strict=True):
                axis.scatter(*places[mask].T, s=7, lw=0.6, c=look.colour, marker=look.marker)
            error = domain_error(seen, is_target, options.seed)
            axis.set_title(f"{titles[method]} ({'adapted' if 'dann' in method else 'non-adapted'})")
            axis.set_xlabel(
                f"domains told apart with {error:.0%} error"
                + ("" if accuracy is None else f"\ntarget test error {1 - accuracy:.1%}")
            )
        for axis in axes[0]:  # the same scale in all
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect=1)
            axis.spines[:].set(visible=True, color="0.6")
        figure.legend(
            list(style.DOMAINS), loc="outside upper center", ncols=2, handlelength=1, markerscale=2
        )


def drawn(images: datasets.ImageSet, count: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """Returns ``count`` images, or all where there are fewer, chosen by the seed."""
    chosen = np.random.default_rng(seed).permutation(len(images.label))[:count]
    return images.image[np.sort(chosen)]


def principal_components(features: np.ndarray) -> np.ndarray:
    """Returns the first 50 principal components, or all where there are fewer: ``[n, d]``."""
    from sklearn.decomposition import PCA

    return PCA(min(COMPONENTS, *features.shape), svd_solver="full").fit_transform(features)


def embedded(features: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Returns places ``[n, 2]`` by t-SNE, begun from the two first columns.

    Args:
      features: ``[n, d]``, principal components.
      perplexity: Below n.
      seed: Of what is random in it.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # so few points are slower with several, the more so on busy cores
        return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def domain_error(features: np.ndarray, is_target: np.ndarray, seed: int) -> float:
    """Returns the share of images that a linear classifier puts into the wrong domain.

    It is a logistic regression, and each fifth of the images is classified by one that was fitted
    to the others. This is not the proxy A-distance of JMLR Sec. 5.1.5.

    Args:
      features: ``[n, d]``.
      is_target: ``[n]`` bool.
      seed: Of the division in five.
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
        raise ValueError("--methods names each method at most once, and at least one")
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
    """Returns what a finished training has kept of itself."""
    record = results.read(folder / f"key_{key}" / "record.json")
    if record is None or not record.get("finished"):
        raise ValueError(
            f"no finished training in {folder / f'key_{key}'}: make one with python -m "
            "experiments.run"
        )
    return record


def _features(options, records):
    """Yields each method, features ``[n, d]`` of both domains, and its target accuracy."""
    where = {"data_dir": options.data_dir, "manual_dir": options.manual_dir}

    @functools.cache  # as a rule all methods have the same settings
    def load(config):
        return domains.load_pair(config, **where, progress=sys.stderr.isatty())

    for method, record in records.items():
        version = record["origin"]["versions"].get("dann_jax")
        config = study.config_of(record["settings"], options.weights, version=version)
        prepared = study.prepare(config, method, load(config), jax.devices()[:1])
        state = study.restored(prepared, options.key, options.folder / method)
        layer = {"features": "f", "hidden": evaluation.last_hidden_layer(prepared.model)}
        if options.layer == "hidden" and layer["hidden"] == "f":
            raise ValueError("this G_y has no hidden layer: leave out --layer hidden")
        found = [_of_domain(prepared, state, i, layer[options.layer], options) for i in range(2)]
        yield method, found, record["target_accuracy"]


def _of_domain(prepared, state, domain, layer, options):
    images, preprocess, statistics = prepared.tests[("source", "target")[domain]]
    found = evaluation.features(
        prepared.model,
        state,
        drawn(images, options.images, (options.seed, domain)),
        layer=layer,
        preprocess=preprocess,
        domain=statistics,
    )
    return found.reshape(len(found), -1)


if __name__ == "__main__":
    sys.exit(main())
