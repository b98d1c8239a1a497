"""The toy of JMLR Sec. 5.1.1, trained and drawn: python -m experiments.moons [options].

Two inter-twinning moons of 150 points each are the labelled source; the same moons turned by 35
degrees are the unlabelled target. A network with one hidden layer of 15 units is trained twice:
with lambda = 0 (G_d learns, but G_f gets none of its gradient) and with lambda rising to 6.
"""

import dataclasses
import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import dann_jax
from dann_jax.networks import FullyConnected
from experiments.figures import style

__all__ = ["LAM", "MODEL", "Options", "draw", "main", "moons", "train"]

POINTS = 300  # of a domain
NOISE = 0.05  # standard deviation of the points' places; the moons have radius 1
DEGREES = 35
LAM = 6.0
STEPS = 3000
GRID = 200  # points a side, to draw a boundary
MARGIN = 0.2  # around the points, whose centre is 0
HEIGHT = 3.75  # inches
MARKERS = {"upper": "o", "lower": "^"}  # of the moons


class Tanh(nn.Module):
    """One hidden layer of 15."""

    @nn.compact
    def __call__(self, x):
        """Returns features ``[n, 15]`` of places ``[n, 2]``."""
        return jnp.tanh(nn.Dense(15, name="hidden")(x))


MODEL = dann_jax.DannModel(
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


def moons(seed: int, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns two moons of 150 points, turned counter-clockwise about their centre.

    These are places ``[300, 2]`` float32 and labels ``[300]`` int32. The seed is that of the noise.
    """
    from sklearn.datasets import make_moons

    x, y = make_moons(POINTS, noise=NOISE, random_state=seed)
    a = np.deg2rad(degrees)
    x = (x - x.mean(0)) @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    return x.astype(np.float32), y.astype(np.int32)


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
def train(
    lam: float, key: jax.Array, source_x: jax.Array, source_y: jax.Array, target_x: jax.Array
) -> dann_jax.TrainState:
    """Returns states after training on whole domains at each step, one for each key at once.

    ``lam`` is the final value of lambda; with 0, G_f and G_y are those of a network without G_d.
    The other arguments have a leading axis of keys.
    """
    optimizer = dann_jax.make_optimizer(
        lambda step: dann_jax.mu_p(dann_jax.progress(step, STEPS), mu0=0.05),
        factors=lambda path: 5.0 if path[0] == "d" else 1.0,  # G_d keeps up with G_f
    )
    update = dann_jax.make_update_step(
        MODEL,
        optimizer,
        lambda step: lam * dann_jax.lambda_p(dann_jax.progress(step, STEPS)),
        objective=dann_jax.reversed_objective,
    )
    state = dann_jax.init_state(MODEL, optimizer, key, source_x)
    batch = dann_jax.DomainBatch(source_x, source_y, target_x)
    return jax.lax.scan(lambda s, _: update(s, batch, key), state, length=STEPS)[0]


def draw(options: Options) -> pathlib.Path:
    """Trains a plain network and DANN, draws one above the other, and returns the picture's path.

    Panels, from left to right: the boundary of G_y, the first two principal components of the
    features, the boundary of G_d, and the line on which each hidden unit is 0.
    """
    style.check_key(options.key, "--key")
    style.check_format(options.output)
    source, target = moons(options.key, 0), moons(options.key + 100, DEGREES)
    keys = jax.random.split(jax.random.key(options.key), 1)
    command = f"python -m experiments.moons --key {options.key}"
    size = {"shape": (2, 4), "width": style.PAGE, "height": HEIGHT}
    with style.figure(options.output, command, **size) as (figure, axes):
        for row, (name, lam) in zip(axes, {"plain net": 0.0, "DANN": LAM}.items(), strict=True):
            states = train(lam, keys, source[0][None], source[1][None], target[0][None])
            state = jax.tree.map(lambda a: a[0], states)
            error = 1 - dann_jax.evaluate(dann_jax.predict(MODEL, state, target[0]), target[1])
            row[0].set_ylabel(f"{name}\ntarget error {error:.0%}")
            _draw_row(row, state, {"source": source, "target": target})
        titles = ("labels ($G_y$)", "features (PCA)", "domains ($G_d$)", "zeros of hidden units")
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title)
        lines = axes[0, 0].lines[: 2 * len(MARKERS)]  # of each moon and domain
        figure.legend(loc="outside lower center", ncols=4, handlelength=1, handles=lines)
    return options.output


main = functools.partial(style.run, Options, draw, __doc__)


def _draw_row(row, state, points):
    """Draws the four panels of a network."""
    labels, inside, domains, units = row
    reach = _scatter((labels, domains, units), points) + MARGIN
    for axis in (labels, domains, units):
        style.frame(axis, reach)
    mesh = np.meshgrid(*[np.linspace(-reach, reach, GRID)] * 2)
    grid = np.stack([m.ravel() for m in mesh], -1).astype(np.float32)
    logits = dann_jax.predict(MODEL, state, grid)
    for axis, score in (
        (labels, logits[:, 1] - logits[:, 0]),
        (domains, dann_jax.features(MODEL, state, grid, layer="d")),
    ):
        score = score.reshape(GRID, GRID)
        axis.contourf(*mesh, score, [0, np.inf], colors=["0.9"])
        axis.contour(*mesh, score, [0], colors="k", linewidths=1.2)
    for unit in dann_jax.features(MODEL, state, grid, layer="f").T:
        units.contour(*mesh, unit.reshape(GRID, GRID), [0], colors="0.35", linewidths=0.8)
    hidden = {domain: dann_jax.features(MODEL, state, x) for domain, (x, _) in points.items()}
    every = np.concatenate(list(hidden.values()))
    mean = every.mean(0)
    principal = np.linalg.svd(every - mean, full_matrices=False)[2][:2].T
    places = {domain: ((f - mean) @ principal, points[domain][1]) for domain, f in hidden.items()}
    style.frame(inside, 1.1 * _scatter([inside], places))


def _scatter(axes, points):
    """Draws both moons of both domains on each of the axes, and returns the largest coordinate."""
    for axis in axes:
        for domain, (x, y) in points.items():
            colour = style.DOMAINS[domain].colour
            face = colour if domain == "source" else "none"  # grey print shows the difference
            look = {"ls": "", "ms": 2.2, "mew": 0.5, "mec": colour, "mfc": face}
            for c, (moon, marker) in enumerate(MARKERS.items()):
                axis.plot(*x[y == c].T, marker=marker, label=f"{domain}, {moon} moon", **look)
    return max(np.abs(x).max() for x, _ in points.values())
