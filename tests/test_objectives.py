"""The objectives of other methods, against double loops and worked values."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import (
    DannModel,
    DomainBatch,
    init_state,
    label_loss,
    make_optimizer,
    make_update_step,
    objectives,
    reversed_objective,
    with_average,
)
from dann_jax.networks import DomainBatchNorm, FullyConnected
from dann_jax.objective import Apply, domain_loss
from dann_jax.objectives.discrepancy import median_heuristic

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(6, 3)).astype(np.float32), RNG.normal(1, 2, (4, 3)).astype(np.float32)
KEY = jax.random.key(3)


class Features(nn.Module):
    """Dense features with dropout and the batch norm of each domain, if asked."""

    dropout_rate: float = 0.0
    statistics: str | None = None

    @nn.compact
    def __call__(self, x, *, train=False, domain=None, axis_name=None):
        x = nn.Dense(5, name="dense")(x)
        if self.statistics is not None:
            norm = DomainBatchNorm(self.statistics, name="norm")
            x = norm(x, train=train, domain=domain, axis_name=axis_name)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(jnp.tanh(x))


MODEL = DannModel(
    feature_extractor=Features(),
    label_predictor=FullyConnected((4,), 3),
    domain_classifier=FullyConnected((4,), 1),
)
CONDITIONED = objectives.conditioned(MODEL)
VADA = functools.partial(objectives.vada_objective, radius=0.5)
ALL = {
    "ddc": (MODEL, objectives.ddc_objective),
    "dan": (MODEL, objectives.dan_objective),
    "coral": (MODEL, functools.partial(objectives.coral_objective, features=True)),
    "cdan": (CONDITIONED, objectives.cdan_objective),
    "cdan-e": (
        CONDITIONED,
        functools.partial(objectives.cdan_objective, entropy_conditioning=True),
    ),
    "entropy": (MODEL, objectives.entropy_objective),
    "vada": (MODEL, VADA),
    "mean-teacher": (
        MODEL,
        functools.partial(objectives.mean_teacher_objective, weight=3.0, confidence=0.35),
    ),
}
OPTIMIZER = with_average(make_optimizer(0.1), 0.5)


def batch_of(n=8, seed=0):
    rng = np.random.default_rng(seed)
    return DomainBatch(
        jnp.asarray(rng.normal(size=(n, 6)), jnp.float32),
        jnp.asarray(rng.integers(0, 3, n), jnp.int32),
        jnp.asarray(rng.normal(0.7, 1.3, (n, 6)), jnp.float32),
    )


def state_of(model):
    return init_state(model, make_optimizer(0.1), KEY, batch_of().source_image)


def apply_of(model, state):
    """Returns the parts as functions outside of an update."""

    def function(name):
        part = model.parts[name]

        def call(theta, x, *, layers=None):
            return part.apply(theta, state.batch_stats[name], x, layers=layers)[0]

        return call

    return Apply(*map(function, "fyd"))


def gaussian(a, b, variance, powers):
    return np.mean([np.exp(-np.sum((a - b) ** 2) / (2.0**p * variance)) for p in powers])


def mmd_by_loops(x, y, k, estimator):
    if estimator == "linear":
        terms = [
            k(x[i], x[i + 1]) + k(y[i], y[i + 1]) - k(x[i], y[i + 1]) - k(x[i + 1], y[i])
            for i in range(0, len(x) - 1, 2)
        ]
        return np.mean(terms)

    def within(a):
        pairs = [
            k(a[i], a[j])
            for i in range(len(a))
            for j in range(len(a))
            if estimator == "biased" or i != j
        ]
        return np.mean(pairs)

    return within(x) + within(y) - 2 * np.mean([k(a, b) for a in x for b in y])


@pytest.mark.parametrize("estimator", ["biased", "unbiased", "linear"])
@pytest.mark.parametrize("powers", [None, (0,), (-1, 0, 2)])
def test_mmd_is_that_of_double_loops(estimator, powers):
    x, y = (X[:4], Y) if estimator == "linear" else (X, Y)
    if powers is None:
        kernel, k = objectives.linear_kernel, np.dot
    else:
        kernel = functools.partial(objectives.gaussian_kernel, variance=2.5, powers=powers)
        k = functools.partial(gaussian, variance=2.5, powers=powers)
    expected = mmd_by_loops(x.astype(np.float64), y.astype(np.float64), k, estimator)
    actual = objectives.mmd(x, y, kernel=kernel, estimator=estimator)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6)


def test_the_unbiased_estimates_of_one_distribution_have_mean_zero():
    kernel = functools.partial(objectives.gaussian_kernel, variance=2.0)
    samples = np.random.default_rng(1).normal(size=(400, 2, 10, 2)).astype(np.float32)
    for estimator, sign in (("biased", 1), ("unbiased", 0), ("linear", 0)):
        of_one = functools.partial(objectives.mmd, kernel=kernel, estimator=estimator)
        values = np.asarray(jax.vmap(of_one)(samples[:, 0], samples[:, 1]))
        error = values.std() / np.sqrt(len(values))
        assert (abs(values.mean()) < 4 * error) if not sign else (values.min() >= -1e-6)


def test_the_median_heuristic_is_the_median_of_all_pairs():
    joint = np.concatenate([X, Y]).astype(np.float64)
    pairs = [np.sum((a - b) ** 2) for i, a in enumerate(joint) for b in joint[i + 1 :]]
    np.testing.assert_allclose(median_heuristic(X, Y), np.median(pairs), rtol=1e-5)
    assert float(median_heuristic(jnp.ones([3, 2]), jnp.ones([2, 2]))) == 1.0
    grad = jax.grad(lambda x: median_heuristic(x, Y))(X)
    assert not np.any(grad)


@pytest.mark.parametrize(
    ("x", "y", "estimator", "message"),
    [
        (X, Y, "best", "unknown estimator 'best': expected one of biased, unbiased, linear"),
        (X[0], Y, "biased", r"expected two samples \[n, D\] and \[m, D\], got \[3\] and \[4, 3\]"),
        (X[:, :2], Y, "biased", r"got \[6, 2\] and \[4, 3\]: flatten"),
        (X[:1], Y, "unbiased", "unbiased estimate needs 2 or more examples in each sample, got 1"),
        (X, Y, "linear", "pairs examples of two samples of one size, got 6 and 4"),
        (X[:0], Y, "biased", "needs 1 or more examples in each sample, got 0 and 4"),
    ],
)
def test_mmd_refuses_samples_that_it_cannot_take(x, y, estimator, message):
    with pytest.raises(ValueError, match=message):
        objectives.mmd(x, y, kernel=objectives.linear_kernel, estimator=estimator)


def test_ddc_is_the_label_loss_and_mmd_with_a_linear_kernel():
    state, batch = state_of(MODEL), batch_of()
    apply = apply_of(MODEL, state)
    value, terms = objectives.ddc_objective(state.theta, batch, 0.5, apply, weight=3.0)
    f_s, f_t = (apply[0](state.theta["f"], x) for x in (batch.source_image, batch.target_image))
    expected = objectives.mmd(f_s, f_t, kernel=objectives.linear_kernel, estimator="biased")
    np.testing.assert_allclose(terms.penalties["mmd"], expected, rtol=1e-4)
    L_y = label_loss(apply[1](state.theta["y"], f_s), batch.source_label)
    np.testing.assert_allclose(value, L_y + 0.5 * 3.0 * expected, rtol=1e-5)
    assert terms.domain_loss is None
    assert terms.domains is None


def test_dan_adds_mmd_over_the_fully_connected_layers():
    state, batch = state_of(MODEL), batch_of()
    apply, layers = apply_of(MODEL, state), ({}, {})
    value, terms = objectives.dan_objective(state.theta, batch, 0.5, apply, weight=2.0)
    of_layers = []
    for image, inside in zip((batch.source_image, batch.target_image), layers, strict=True):
        f = apply[0](state.theta["f"], image)
        apply[1](state.theta["y"], f, layers=inside)
        of_layers.append([f, inside["fc1"], inside["logits"]])
    powers = (-2, -1, 0, 1, 2)
    expected = []
    for x, y in zip(*of_layers, strict=True):
        x, y = (np.asarray(a, np.float64) for a in (x, y))
        joint = np.concatenate([x, y])
        pairs = [np.sum((a - b) ** 2) for i, a in enumerate(joint) for b in joint[i + 1 :]]
        k = functools.partial(gaussian, variance=np.median(pairs), powers=powers)
        expected.append(mmd_by_loops(x, y, k, "unbiased"))
    np.testing.assert_allclose(terms.penalties["mmd"], sum(expected), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(value, terms.label_loss + terms.penalties["mmd"], rtol=1e-6)
    _, alone = objectives.dan_objective(state.theta, batch, 0.5, apply, features=False)
    np.testing.assert_allclose(alone.penalties["mmd"], sum(expected[1:]), rtol=1e-3, atol=1e-5)


def test_coral_is_the_distance_of_numpys_covariances():
    expected = np.sum((np.cov(X.T) - np.cov(Y.T)) ** 2) / (4 * 3**2)
    np.testing.assert_allclose(objectives.coral_loss(X, Y), expected, rtol=1e-5)
    state, batch = state_of(MODEL), batch_of()
    apply = apply_of(MODEL, state)
    z = [
        apply[1](state.theta["y"], apply[0](state.theta["f"], x))
        for x in (batch.source_image, batch.target_image)
    ]
    value, terms = objectives.coral_objective(state.theta, batch, 0.5, apply, weight=4.0)
    np.testing.assert_allclose(terms.penalties["coral"], objectives.coral_loss(*z), rtol=1e-4)
    np.testing.assert_allclose(value, terms.label_loss + 2.0 * terms.penalties["coral"], rtol=1e-6)
    with pytest.raises(ValueError, match=r"2 examples or more, got \[1, 3\] and \[4, 3\]"):
        objectives.coral_loss(X[:1], Y)


def test_the_multilinear_map_is_the_outer_product():
    z = RNG.normal(size=(6, 4)).astype(np.float32)
    g = np.asarray(jax.nn.softmax(z))
    expected = [np.outer(f, p).ravel() for f, p in zip(X, g, strict=True)]
    np.testing.assert_allclose(objectives.multilinear_map(X, z), expected, rtol=1e-5)


def test_the_randomized_map_keeps_inner_products():
    rng = np.random.default_rng(5)
    f = rng.normal(size=(2, 600)).astype(np.float32) + 1.0
    z = rng.normal(size=(2, 10)).astype(np.float32)
    g = np.asarray(jax.nn.softmax(z))
    T = np.asarray(objectives.multilinear_map(f, z))
    assert T.shape == (2, 1024)
    expected = (f @ f.T) * (g @ g.T)
    np.testing.assert_allclose(T @ T.T, expected, rtol=0.25)
    np.testing.assert_array_equal(T, objectives.multilinear_map(f, z))  # fixed matrices


@pytest.mark.parametrize("conditioning", [False, True])
def test_cdan_takes_the_steps_of_a_saddle_point(conditioning):
    state, batch, lam = state_of(CONDITIONED), batch_of(), 0.3
    apply = apply_of(CONDITIONED, state)
    objective = functools.partial(
        objectives.cdan_objective, entropy_conditioning=conditioning, domain_weight=0.5
    )
    actual = jax.grad(lambda t: objective(t, batch, lam, apply)[0])(state.theta)

    def losses(theta):
        x = jnp.concatenate([batch.source_image, batch.target_image])
        f = apply[0](theta["f"], x)
        z = apply[1](theta["y"], f)
        fixed = jax.lax.stop_gradient(z)
        p = jax.nn.softmax(fixed)
        w = 1 + jnp.exp(jnp.sum(p * jnp.log(p), -1)) if conditioning else None
        z_d = apply[2](theta["d"], objectives.multilinear_map(f, fixed))
        d = jnp.arange(16) >= 8
        return label_loss(z[:8], batch.source_label), domain_loss(z_d, d.astype(int), w)

    L_y = jax.grad(lambda t: losses(t)[0])(state.theta)
    L_d = jax.grad(lambda t: losses(t)[1])(state.theta)
    expected = {
        "f": jax.tree.map(lambda a, b: a - lam * 0.5 * b, L_y["f"], L_d["f"]),
        "y": L_y["y"],
        "d": jax.tree.map(lambda b: 0.5 * b, L_d["d"]),
    }
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), actual, expected
    )


def test_entropy_is_that_of_numpy_and_its_gradient_is_finite():
    z = np.array([[0.0, 1.0, -2.0], [1e4, -1e4, 0.0], [5.0, 5.0, 5.0]], np.float32)
    p = np.exp(z.astype(np.float64) - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    expected = -np.sum(p * np.log(np.maximum(p, 1e-300)), -1)
    np.testing.assert_allclose(objectives.conditional_entropy(z), expected, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda z: jnp.sum(objectives.conditional_entropy(z)))(z)
    assert np.isfinite(gradient).all()


def test_entropy_is_added_to_eq9():
    state, batch = state_of(MODEL), batch_of()
    apply = apply_of(MODEL, state)
    value, terms = objectives.entropy_objective(state.theta, batch, 0.5, apply, entropy_weight=0.25)
    plain, _ = reversed_objective(state.theta, batch, 0.5, apply)
    z_t = apply[1](state.theta["y"], apply[0](state.theta["f"], batch.target_image))
    expected = jnp.mean(objectives.conditional_entropy(z_t))
    np.testing.assert_allclose(terms.penalties["entropy"], expected, rtol=1e-5)
    np.testing.assert_allclose(value, plain + 0.25 * expected, rtol=1e-5)


def test_the_adversarial_direction_of_a_linear_classifier_is_its_weights():
    w, x = np.array([3.0, -4.0], np.float32), np.array([[0.2, 0.1], [0.0, 0.3]], np.float32)

    def logits_of(x):
        z = x @ w
        return jnp.stack([z, jnp.zeros_like(z)], -1)

    actual = objectives.virtual_adversarial_loss(logits_of, x, logits_of(x), KEY, radius=0.1)

    def divergence(r):
        p, q = (np.asarray(jax.nn.softmax(logits_of(a)), np.float64) for a in (x, x + r))
        return np.sum(p * np.log(p / q), -1)

    r = 0.1 * w / 5.0
    for example in range(2):  # along the weights, to one side or the other
        either = divergence(r)[example], divergence(-r)[example]
        assert np.isclose(actual[example], either, rtol=1e-3).any()


def test_the_perturbation_has_the_radius_whatever_the_scale():
    seen = []

    def logits_of(x):
        seen.append(x["a"])
        return 1e-3 * jnp.stack([x["a"][:, 0], -x["a"][:, 1]], -1)

    x = {"a": jnp.zeros([3, 2])}
    objectives.virtual_adversarial_loss(logits_of, x, logits_of(x), KEY, radius=2.0)
    np.testing.assert_allclose(np.linalg.norm(seen[-1], axis=-1), 2.0, rtol=1e-5)


def test_perturbed_examples_share_dropout_masks_and_leave_statistics_alone():
    model = dataclasses.replace(
        MODEL, feature_extractor=Features(dropout_rate=0.5, statistics="per_domain")
    )
    optimizer, batch = make_optimizer(0.1), batch_of()
    state = init_state(model, optimizer, KEY, batch.source_image)
    still = functools.partial(objectives.vada_objective, radius=0.0, target_weight=0.0)
    options = {"source_weight": 5.0}
    update = make_update_step(model, optimizer, 0.5, objective=functools.partial(still, **options))
    after, metrics = jax.jit(update)(state, batch, KEY)
    assert abs(float(metrics.penalties["vat_source"])) < 1e-6  # the masks are the same
    plain = make_update_step(
        model, optimizer, 0.5, objective=functools.partial(objectives.entropy_objective)
    )
    expected, _ = jax.jit(plain)(state, batch, KEY)
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, expected.batch_stats)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def linear(theta, x, **_):
    return x @ theta


def test_the_mean_teacher_of_a_linear_model_by_hand():
    rng = np.random.default_rng(4)
    W, V = rng.normal(size=(2, 6, 3))
    batch = batch_of(5)._replace(target_view=jnp.asarray(rng.normal(size=(5, 6)), jnp.float32))
    zero = Apply(lambda theta, x, **_: x, linear, lambda theta, f: 0 * f[:, 0])
    theta = {"f": {}, "y": jnp.asarray(W, jnp.float32), "d": {}}
    average = theta | {"y": jnp.asarray(V, jnp.float32)}
    confidence, w, b, K, n = 0.6, 2.0, 0.5, 3, 5

    x, view = (np.asarray(a, np.float64) for a in (batch.target_image, batch.target_view))
    p, q = softmax(x @ W), softmax(view @ V)
    m = (q.max(-1) > confidence).astype(float)
    assert 0 < m.sum() < n
    mean = p.mean(0)
    C = np.mean(m * np.sum((p - q) ** 2, -1))
    B = m.mean() * -np.sum(np.log(mean) / K + (1 - 1 / K) * np.log(1 - mean))
    # dp_k/dz_j = p_k (1[k = j] - p_j), so that dz is p (g - sum_k p_k g_k) for g = d./dp.
    g = 2 * m[:, None] * (p - q) - b * m.mean() * (1 / K / mean - (1 - 1 / K) / (1 - mean))
    dz = p * (g - np.sum(p * g, -1, keepdims=True)) / n
    from_target = w * x.T @ dz

    def value(theta):
        return objectives.mean_teacher_objective(
            theta,
            batch,
            1.0,
            zero,
            average=average,
            weight=w,
            confidence=confidence,
            balance=b,
            domain_weight=0.0,
        )

    (actual, terms), gradient = jax.value_and_grad(value, has_aux=True)(theta)
    L_y, of_label = jax.value_and_grad(
        lambda y: label_loss(batch.source_image @ y, batch.source_label)
    )(theta["y"])
    np.testing.assert_allclose(terms.penalties["consistency"], C, rtol=1e-4)
    np.testing.assert_allclose(terms.penalties["balance"], B, rtol=1e-4)
    np.testing.assert_allclose(actual, L_y + w * (C + b * B), rtol=1e-4)
    np.testing.assert_allclose(gradient["y"], of_label + from_target, rtol=1e-3, atol=1e-5)
    # Without another view the teacher sees the same images; no one is certain of a class.
    batch = batch._replace(target_view=None)
    np.testing.assert_allclose(
        value(theta)[1].penalties["consistency"],
        np.mean((softmax(x @ V).max(-1) > confidence) * np.sum((p - softmax(x @ V)) ** 2, -1)),
        rtol=1e-4,
    )


def test_classes_are_balanced_where_they_have_equal_shares():
    equal = objectives.class_balance_loss(jnp.full(4, 0.25))
    np.testing.assert_allclose(equal, -(np.log(0.25) + 3 * np.log(0.75)), rtol=1e-4)
    for p in ([0.4, 0.2, 0.2, 0.2], [1.0, 0.0, 0.0, 0.0]):
        value, gradient = jax.value_and_grad(objectives.class_balance_loss)(jnp.array(p))
        assert equal < value < np.inf
        assert np.isfinite(gradient).all()


def test_the_teacher_leaves_the_batch_statistics_alone():
    model = dataclasses.replace(
        MODEL, feature_extractor=Features(dropout_rate=0.5, statistics="per_domain")
    )
    batch = batch_of()
    state = init_state(model, OPTIMIZER, KEY, batch.source_image)
    of_teacher, of_entropy = (
        make_update_step(model, OPTIMIZER, 0.5, objective=objective)(state, batch, KEY)[0]
        for objective in (objectives.mean_teacher_objective, objectives.entropy_objective)
    )
    jax.tree.map(np.testing.assert_array_equal, of_teacher.batch_stats, of_entropy.batch_stats)


@pytest.mark.parametrize("name", ALL)
def test_an_update_trains_what_the_method_has(name):
    model, objective = ALL[name]
    optimizer, batch = OPTIMIZER, batch_of()
    state = init_state(model, optimizer, KEY, batch.source_image)
    update = jax.jit(make_update_step(model, optimizer, 1.0, objective=objective))
    after, metrics = update(state, batch, KEY)
    moved = {
        part: any(
            jax.tree.leaves(
                jax.tree.map(lambda a, b: bool((a != b).any()), after.theta[part], theta)
            )
        )
        for part, theta in state.theta.items()
    }
    adversarial = name in ("cdan", "cdan-e", "entropy", "vada", "mean-teacher")
    assert moved == {"f": True, "y": True, "d": adversarial}
    assert np.isnan(float(metrics.domain_loss)) != adversarial
    assert all(np.isfinite(value) for value in metrics.penalties.values())


@pytest.mark.parametrize("name", [name for name in ALL if name != "vada"])  # its noise differs
def test_one_device_equals_a_mapped_axis(name):
    model, objective = ALL[name]
    optimizer, batch = OPTIMIZER, batch_of()
    state = init_state(model, optimizer, KEY, batch.source_image)
    update = jax.jit(make_update_step(model, optimizer, 1.0, objective=objective))
    single = update(state, batch, KEY)
    mapped = jax.vmap(
        make_update_step(model, optimizer, 1.0, objective=objective, axis_name="device"),
        in_axes=(None, 0, None),
        axis_name="device",
        out_axes=None,
    )
    shares = jax.tree.map(lambda a: a.reshape(2, -1, *a.shape[1:]), batch)
    actual = jax.jit(mapped)(state, shares, KEY)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6),
        (actual[0].theta, actual[1].penalties),
        (single[0].theta, single[1].penalties),
    )


@pytest.mark.parametrize("value", [np.nan, -1.0, np.inf, "1"])
def test_options_that_are_no_weights_are_refused_by_name(value):
    """A negative weight would drive the domains apart in silence."""
    batch = batch_of()
    apply = Apply(*(lambda theta, x: x for _ in "fyd"))
    for objective, names in (
        (objectives.ddc_objective, ("weight",)),
        (objectives.dan_objective, ("weight",)),
        (objectives.coral_objective, ("weight",)),
        (objectives.cdan_objective, ("domain_weight",)),
        (objectives.entropy_objective, ("entropy_weight", "domain_weight")),
        (
            functools.partial(objectives.vada_objective, key=KEY),
            ("target_weight", "source_weight", "domain_weight"),
        ),
    ):
        for name in names:
            with pytest.raises((TypeError, ValueError), match=f"^{name} must be a number, 0 or"):
                objective(None, batch, 1.0, apply, **{name: value})
    with pytest.raises((TypeError, ValueError), match="^variance must be a number, positive"):
        objectives.gaussian_kernel(X, X, variance=value)
    with pytest.raises((TypeError, ValueError), match="^radius must be a number, 0 or more"):
        objectives.virtual_adversarial_loss(lambda x: x, X, X, KEY, radius=value)


def test_outputs_and_examples_that_do_not_fit_are_refused():
    theta, batch = dict.fromkeys("fyd"), batch_of()
    twice = Apply(
        lambda theta, x: jnp.concatenate([x, x]), lambda theta, f: f, lambda theta, f: f[:, :1]
    )
    count = 2 * len(batch.source_image)
    with pytest.raises(ValueError, match=f"outputs of G_f for each of {count} .*, got {2 * count}"):
        objectives.ddc_objective(theta, batch, 1.0, twice)
    for distance in (objectives.coral_loss, functools.partial(objectives.mmd, kernel=jnp.inner)):
        with pytest.raises(TypeError, match="y must be real numbers, got complex128"):
            distance(np.ones([4, 3]), np.ones([4, 3]) + 1j)
    with pytest.raises(ValueError, match="powers of one kernel or more, got none"):
        objectives.gaussian_kernel(X, X, variance=1.0, powers=())
    with pytest.raises(ValueError, match="features and label_logits must be arrays with one first"):
        objectives.multilinear_map(X, X[:1])
    with pytest.raises(ValueError, match="x and label_logits must be arrays with one first axis"):
        objectives.virtual_adversarial_loss(lambda x: x, X, X[:1], KEY, radius=1.0)
    with pytest.raises(ValueError, match=r"label logits \[n, classes\], got \[3\]"):
        objectives.conditional_entropy(jnp.zeros(3))
