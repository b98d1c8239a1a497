"""The toy of JMLR Sec. 5.1.1, trained and drawn: python -m experiments.moons [options].

Two inter-twinning moons of 150 points each are the labelled source, and the same turned by 35
degrees the unlabelled target. A network with one hidden layer of 15 units learns them twice, with
lambda = 0 (G_d learns, and G_f does not hear of it) and with lambda rising to 6.
"""

import dataclasses
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro

from dann_jax import (
    DannModel,
    DomainBatch,
    TrainState,
    features,
    init_state,
    lambda_p,
    make_optimizer,
    make_update_step,
    mu_p,
    predict,
    progress,
    reversed_objective,
)
from dann_jax.networks import FullyConnected
from experiments import style

__all__ = ["LAM", "MODEL", "Options", "draw", "main", "moons", "train"]

PROGRAM = "python -m experiments.moons"
POINTS = 300  # of a domain
NOISE = 0.05  # standard deviation of the points' places; the moons have radius 1
DEGREES = 35
LAM = 6.0
STEPS = 3000
GRID = 200  # points of a side on which a boundary is found
MARGIN = 0.2  # around the points
HEIGHT = 3.75  # inches
MARKERS = "o", "^"  # of the moons


class Tanh(nn.Module):
    """One hidden layer of 15."""

    @nn.compact
    def __call__(self, x):
        """Returns features ``[n, 15]`` of places ``[n, 2]``."""
        return jnp.tanh(nn.Dense(15, name="hidden")(x))


MODEL = DannModel(
    feature_extractor=Tanh(),
    label_predictor=FullyConnected((), 2),
    domain_classifier=FullyConnected((15,), 1),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to draw."""

    key: int = 0
    """Of the points and of the initial weights."""

    output: pathlib.Path = pathlib.Path("moons.png")
    """Where to, PNG or SVG."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the program.

    Args:
      arguments: Of the command line; None for those of the process.

    Returns:
      The exit status: 0, or 2 where the arguments are not right.
    """
    try:
        draw(tyro.cli(Options, args=arguments, prog=PROGRAM, description=__doc__))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def moons(seed: int, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns two moons of 150 points, turned about their centre.

    Args:
      seed: Of the noise.
      degrees: By how much they are turned, counter-clockwise.

    Returns:
      Places ``[300, 2]`` float32 and labels ``[300]`` int32.
    """
    from sklearn.datasets import make_moons

    x, y = make_moons(POINTS, noise=NOISE, random_state=seed)
    a = np.deg2rad(degrees)
    x = (x - x.mean(0)) @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    return x.astype(np.float32), y.astype(np.int32)


def train(
    lam: float,
    keys: jax.Array,
    source_x: np.ndarray,
    source_y: np.ndarray,
    target_x: np.ndarray,
) -> TrainState:
    """Returns states after training on whole domains at each step, one for each key at once.

    Args:
      lam: What lambda rises to; with 0, G_f and G_y are those of a net without G_d.
      keys: ``[k]`` PRNG keys.
      source_x: ``[k, n, 2]``.
      source_y: ``[k, n]``.
      target_x: ``[k, m, 2]``.
    """
    optimizer = make_optimizer(
        lambda step: mu_p(progress(step, STEPS), mu0=0.05),
        factors=lambda path: 5.0 if path[0] == "d" else 1.0,  # G_d keeps up with G_f
    )
    update = make_update_step(
        MODEL,
        optimizer,
        lambda step: lam * lambda_p(progress(step, STEPS)),
        objective=reversed_objective,
    )

    @jax.jit
    @jax.vmap
    def run(key, x, y, t):
        state = init_state(MODEL, optimizer, key, x)
        batch = DomainBatch(x, y, t)
        return jax.lax.scan(lambda s, _: update(s, batch, key), state, length=STEPS)[0]

    return run(keys, source_x, source_y, target_x)


def draw(options: Options) -> None:
    """Trains a plain network and DANN, and draws them beside each other.

    Panels, from left to right: where G_y changes its mind, the first two principal components of
    the features, where G_d does, and the line on which each hidden unit is 0.

    Args:
      options: Which points, and where to.

    Raises:
      ValueError: The path is neither PNG nor SVG.
    """
    (source_x, source_y), (target_x, target_y) = (
        moons(options.key, 0),
        moons(options.key + 100, DEGREES),
    )
    keys = jax.random.split(jax.random.key(options.key), 1)
    every = np.concatenate([source_x, target_x])
    low, high = every.min() - MARGIN, every.max() + MARGIN  # the moons' centre is 0
    mesh = np.meshgrid(*[np.linspace(low, high, GRID)] * 2)
    grid = np.stack([m.ravel() for m in mesh], -1).astype(np.float32)
    points = [("source", source_x, source_y), ("target", target_x, target_y)]
    command = f"{PROGRAM} --key {options.key}"
    size = {"width": style.PAGE, "height": HEIGHT}
    with style.figure(options.output, command, 2, 4, **size) as (drawn, axes):
        for row, (name, lam) in zip(axes, {"plain net": 0.0, "DANN": LAM}.items(), strict=True):
            state = train(lam, keys, source_x[None], source_y[None], target_x[None])
            state = jax.tree.map(lambda a: a[0], state)
            error = np.mean(predict(MODEL, state, target_x).argmax(-1) != target_y)
            row[0].set_ylabel(f"{name}\ntarget error {error:.0%}")
            label = predict(MODEL, state, grid)
            domain = features(MODEL, state, grid, layer="d")
            for axis, score in ((row[0], label[:, 1] - label[:, 0]), (row[2], domain[:, 0])):
                _region(axis, mesh, score)
            kernel, bias = (np.asarray(state.theta["f"]["hidden"][k]) for k in ("kernel", "bias"))
            for unit in (grid @ kernel + bias).T:
                row[3].contour(*mesh, unit.reshape(GRID, GRID), [0], colors="0.35", linewidths=0.8)
            for column in (0, 2, 3):
                _scatter(row[column], points)
                row[column].set(xlim=(low, high), ylim=(low, high))
            inner = [(d, features(MODEL, state, x), y) for d, x, y in points]
            both = np.concatenate([f for _, f, _ in inner])
            principal = np.linalg.svd(both - both.mean(0), full_matrices=False)[2][:2].T
            _scatter(row[1], [(d, (f - both.mean(0)) @ principal, y) for d, f, y in inner])
            reach = 1.1 * np.abs((both - both.mean(0)) @ principal).max()
            row[1].set(xlim=(-reach, reach), ylim=(-reach, reach))
        titles = ("labels ($G_y$)", "features (PCA)", "domains ($G_d$)", "zeros of hidden units")
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[], aspect=1)
            axis.spines[:].set(visible=True, color="0.6")
        drawn.legend(loc="outside lower center", ncols=4, handlelength=1, handles=_legend())
    print(f"written: {options.output}")


def _region(axis, mesh, score):
    """Shades where a score is positive, and draws the line where it is 0."""
    score = score.reshape(GRID, GRID)
    axis.contourf(*mesh, score, [0, np.inf], colors=["0.9"])
    axis.contour(*mesh, score, [0], colors="k", linewidths=1.2)


def _scatter(axis, points):
    for domain, x, y in points:
        for c, marker in enumerate(MARKERS):
            axis.plot(*x[y == c].T, **_look(domain, marker))


def _look(domain, marker):
    """Returns how points look: those of the source are full, so that grey print shows them."""
    colour = style.DOMAINS[domain].colour
    face = {"source": colour, "target": "none"}[domain]
    return {"ls": "", "marker": marker, "ms": 2.2, "mew": 0.5, "mec": colour, "mfc": face}


def _legend():
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], **_look(domain, marker), label=f"{domain}, {moon} moon")
        for domain in style.DOMAINS
        for marker, moon in zip(MARKERS, ("upper", "lower"), strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
