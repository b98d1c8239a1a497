"""Equations (1)-(9) against an oracle that knows no gradient reversal."""

import functools
import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dann_jax
from dann_jax import (
    Apply,
    DannModel,
    DomainBatch,
    PureFunction,
    domain_loss,
    init_state,
    label_loss,
    make_optimizer,
    make_update_step,
    objective,
    reversal,
    reversed_objective,
    saddle_objective,
    schedules,
    training,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

MU = 0.05


def dense(inputs, outputs, activation=lambda x: x):
    def init(key, _):
        return {"w": jax.random.normal(key, [inputs, outputs]), "b": jnp.zeros([1, outputs])}

    return PureFunction(init, lambda theta, x: activation(x @ theta["w"] + theta["b"]))


MODEL = DannModel(
    feature_extractor=dense(4, 6, jnp.tanh),
    label_predictor=dense(6, 3),
    domain_classifier=dense(6, 1),
)
G_f, G_y, G_d = (
    part.apply for part in (MODEL.feature_extractor, MODEL.label_predictor, MODEL.domain_classifier)
)
APPLY = Apply(G_f, G_y, G_d)
BATCH = DomainBatch(
    source_image=jax.random.normal(jax.random.key(1), [8, 4]),
    source_label=jnp.arange(8) % 3,
    target_image=jax.random.normal(jax.random.key(2), [8, 4]) + 0.5,
)


@pytest.fixture(scope="module")
def theta():
    return init_state(MODEL, make_optimizer(MU), jax.random.key(0), BATCH.source_image).theta


def losses(theta_f, theta_y, theta_d, normalization):
    """L_y and L_d written out, with nothing between G_f and G_d."""
    f_s, f_t = G_f(theta_f, BATCH.source_image), G_f(theta_f, BATCH.target_image)
    L_y = label_loss(G_y(theta_y, f_s), BATCH.source_label)
    domains = jnp.concatenate([jnp.zeros(8), jnp.ones(8)])
    logits = jnp.concatenate([G_d(theta_d, f_s), G_d(theta_d, f_t)])
    return L_y, domain_loss(logits, domains, normalization=normalization)


@functools.partial(jax.jit, static_argnames="normalization")
def triple(theta, lam, normalization="mean"):
    """The directions of Eqs. (4), (5) and (6)."""
    L_y, L_d = (
        functools.partial(lambda i, *theta: losses(*theta, normalization)[i], i) for i in (0, 1)
    )
    at = theta["f"], theta["y"], theta["d"]
    dLy_df, dLd_df = jax.grad(L_y, argnums=0)(*at), jax.grad(L_d, argnums=0)(*at)
    return {
        "f": jax.tree.map(lambda y, d: y - lam * d, dLy_df, dLd_df),  # (4)
        "y": jax.grad(L_y, argnums=1)(*at),  # (5)
        "d": jax.grad(L_d, argnums=2)(*at),  # (6)
    }


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


@pytest.mark.parametrize("normalization", ["mean", "sum_of_means"])
@pytest.mark.parametrize("lam", [0.0, 0.1, 1.0, 6.0])
def test_eq9_gradient_is_the_triple_of_eqs_4_5_6(theta, lam, normalization):
    value = functools.partial(reversed_objective, normalization=normalization)
    gradient = jax.jit(jax.grad(lambda theta: value(theta, BATCH, lam, APPLY)[0]))(theta)
    want = triple(theta, lam, normalization)
    assert all(jnp.any(jnp.abs(w) > 1e-3) for w in jax.tree.leaves(want))
    close(gradient, want)


@pytest.mark.parametrize("lam", [0.0, 0.5, 2.0])
def test_eqs_4_5_6_one_update_is_theta_minus_mu_times_the_triple(theta, lam):
    optimizer = make_optimizer(MU, momentum=0.0)
    state = init_state(MODEL, optimizer, jax.random.key(0), BATCH.source_image)
    close(state.theta, theta)
    update = jax.jit(make_update_step(MODEL, optimizer, lambda step: lam))
    new, metrics = update(state, BATCH, jax.random.key(3))
    close(new.theta, jax.tree.map(lambda t, g: t - MU * g, theta, triple(theta, lam)))
    close((metrics.label_loss, metrics.domain_loss), losses(*theta.values(), "mean"))
    assert new.step == 1
    assert metrics.lam == np.float32(lam)


def test_momentum_sums_the_triples(theta):
    # Two updates at mu, momentum .9: v1 = g1, v2 = .9 v1 + g2; theta - mu (v1 + v2).
    optimizer = make_optimizer(MU, momentum=0.9)
    state = init_state(MODEL, optimizer, jax.random.key(0), BATCH.source_image)
    update = jax.jit(make_update_step(MODEL, optimizer, lambda step: 1.0))
    one, _ = update(state, BATCH, jax.random.key(3))
    two, _ = update(one, BATCH, jax.random.key(3))
    g1, g2 = triple(theta, 1.0), triple(one.theta, 1.0)
    close(two.theta, jax.tree.map(lambda t, a, b: t - MU * (1.9 * a + b), theta, g1, g2))


def test_eq1_gradient_is_that_of_the_oracle(theta):
    def explicit(theta):
        L_y, L_d = losses(theta["f"], theta["y"], theta["d"], "mean")
        return L_y - 0.7 * L_d

    close(
        jax.value_and_grad(lambda t: saddle_objective(t, BATCH, 0.7, APPLY)[0])(theta),
        jax.value_and_grad(explicit)(theta),
    )


def test_eq1_and_eq9_differ_in_theta_d_by_the_factor_minus_lambda(theta):
    lam = 0.3
    saddle = jax.grad(lambda t: saddle_objective(t, BATCH, lam, APPLY)[0])(theta)
    reversed_ = jax.grad(lambda t: reversed_objective(t, BATCH, lam, APPLY)[0])(theta)
    close({k: saddle[k] for k in "fy"}, {k: reversed_[k] for k in "fy"})
    close(saddle["d"], jax.tree.map(lambda g: -lam * g, reversed_["d"]))


@pytest.mark.parametrize("lam", [0.2, 1.0, 3.0])
def test_eq2_and_eq3_a_step_moves_each_player_its_own_way(theta, lam):
    """(theta_f, theta_y) go down on E with theta_d frozen; theta_d goes up on it."""

    @jax.jit
    def E(theta):
        value, terms = saddle_objective(theta, BATCH, lam, APPLY)
        return value, terms.domain_loss

    optimizer = make_optimizer(0.01, momentum=0.0)
    state = init_state(MODEL, optimizer, jax.random.key(0), BATCH.source_image)
    update = jax.jit(make_update_step(MODEL, optimizer, lambda step: lam))
    for _ in range(10):
        old = jax.tree.map(jnp.copy, state.theta)
        state, _ = update(state, BATCH, jax.random.key(3))
        new = state.theta
        e, l_d = E(old)
        e_min, _ = E({"f": new["f"], "y": new["y"], "d": old["d"]})
        e_max, l_d_after = E({"f": old["f"], "y": old["y"], "d": new["d"]})
        assert e_min < e  # Eq. (2)
        assert e_max > e
        assert l_d_after < l_d


def test_theta_f_alone_raises_the_domain_loss_where_only_it_counts(theta):
    """With a large lambda the step of theta_f makes the features less telling."""
    gradient = triple(theta, 100.0)["f"]
    moved = jax.tree.map(lambda t, g: t - 1e-4 * g, theta["f"], gradient)
    before = losses(theta["f"], theta["y"], theta["d"], "mean")[1]
    assert losses(moved, theta["y"], theta["d"], "mean")[1] > before


def test_any_optax_optimizer_takes_the_place_of_sgd(theta):
    optimizer = optax.adam(1e-2)
    state = init_state(MODEL, optimizer, jax.random.key(0), BATCH.source_image)
    update = jax.jit(make_update_step(MODEL, optimizer, lambda step: 0.0))
    first = last = None
    for _ in range(30):
        state, metrics = update(state, BATCH, jax.random.key(3))
        first = metrics.label_loss if first is None else first
        last = metrics.label_loss
    assert last < 0.5 * first


# --- each equation has one home ----------------------------------------------------------

HOMES = {
    1: objective.saddle_objective,
    2: objective,  # the saddle point: stated where the objective is
    3: objective,
    4: training.make_update_step,
    5: training.make_update_step,
    6: training.make_update_step,
    7: reversal.reverse_gradient,
    8: reversal.reverse_gradient,
    9: objective.reversed_objective,
}


SOURCES = pathlib.Path(dann_jax.__file__).parent


def cited(text):
    """The numbers in citations such as 'Eq. (7)', 'Eqs. (4)-(6)' or 'Eqs. (4)-(6) and (9)'."""
    numbers = set()
    for group in re.findall(r"Eqs?\.\s+((?:\(\d+\)(?:-|,\s*|\s+and\s+)?)+)", text):
        for first, last in re.findall(r"\((\d+)\)(?:-\((\d+)\))?", group):
            numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def test_citations_are_read_as_written():
    assert cited("Eqs. (4)-(6) and (9); Eq. (7) and Eq. (8)") == {4, 5, 6, 7, 8, 9}
    assert cited("Eqs. (2) and (3) ask") == {2, 3}
    assert cited("Sec. 3 (see (1))") == set()


@pytest.mark.parametrize("number", range(1, 10))
def test_each_equation_is_cited_at_its_home(number):
    assert number in cited(inspect.getdoc(HOMES[number]))


@pytest.mark.parametrize(
    ("number", "code", "module"),
    [
        (1, r"L_y - lam \* domain_weight \* L_d", objective),
        (7, r"# Eq\. \(7\)", reversal),
        (8, r"-lam\.astype\(c\.dtype\) \* c", reversal),
        (9, r"reverse_gradient\(f, lam\)", objective),
        (4, r'dE\["f"\],  # Eq\. \(4\)', training),
        (5, r'dE\["y"\],  # Eq\. \(5\)', training),
        (6, r'dE\["d"\],  # Eq\. \(6\)', training),
    ],
)
def test_each_equation_is_written_once(number, code, module):
    counts = {path: len(re.findall(code, path.read_text())) for path in SOURCES.rglob("*.py")}
    assert sum(counts.values()) == counts[pathlib.Path(module.__file__)] == 1


def test_the_schedules_cite_their_section():
    for function in (schedules.lambda_p, schedules.mu_p):
        assert "Sec. 4.1" in function.__doc__
