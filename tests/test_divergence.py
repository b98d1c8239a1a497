"""Eqs. (10)-(13) on populations whose divergences are known, and against double loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from dann_jax import divergence, objective

KEY = jax.random.key(0)


def random_predictions(hypotheses=6, n=40, n_target=25, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(0, classes, [hypotheses, size]) for size in (n, n_target))


def normal(count, mean=0.0):
    """The quantiles of a normal distribution, which stand for its population."""
    return norm.ppf((np.arange(count) + 0.5) / count) + mean


def thresholds(x):
    """The hypotheses x > t for t on a grid, whose first is 1 for all and last 0 for all."""
    return (x > np.linspace(-9, 9, 361)[:, None]).astype(int)


def bernoulli(ones, count=100):
    return np.arange(count) < ones


def test_h_divergence_is_the_form_of_the_paper_over_the_class_and_its_complements():
    source, target = random_predictions()
    sums = [
        np.mean([h == 0 for h in hs]) + np.mean([h == 1 for h in ht])
        for hs, ht in (
            *zip(source, target, strict=True),
            *zip(1 - source, 1 - target, strict=True),
        )
    ]
    value = divergence.empirical_h_divergence(source, target)
    assert value == pytest.approx(2 * (1 - min(sums)), abs=1e-15)
    largest = max(abs(s.mean() - t.mean()) for s, t in zip(source, target, strict=True))
    assert value == pytest.approx(2 * largest, abs=1e-15)
    closed = np.vstack([source, 1 - source]), np.vstack([target, 1 - target])
    assert divergence.empirical_h_divergence(*closed) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(("p", "q"), [(20, 70), (70, 20), (50, 50), (0, 100)])
def test_two_bernoullis(p, q):
    """The total variation of Bernoulli(p) and Bernoulli(q) is |p - q|."""
    x = bernoulli(p)[None], bernoulli(q)[None]
    assert divergence.empirical_h_divergence(*x) == pytest.approx(2 * abs(p - q) / 100)
    # HΔH has 0, x, 1 - x and 1 where H has 0, x and 1.
    every = [np.vstack([0 * b, b, 0 * b + 1]) for b in x]
    assert divergence.hdh_divergence(*every) == pytest.approx(2 * abs(p - q) / 100)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0, 14.0])
def test_shifted_gaussians_have_twice_their_total_variation(shift):
    """Of N(0, 1) and N(shift, 1) it is 2 Φ(shift/2) - 1, at the threshold in their middle."""
    source, target = normal(2000), normal(2000, shift)
    predictions = thresholds(source), thresholds(target)
    expected = 2 * (2 * norm.cdf(shift / 2) - 1)
    assert divergence.empirical_h_divergence(*predictions) == pytest.approx(expected, abs=3e-3)
    # An interval up to the last threshold is a threshold, and no other interval does better.
    assert divergence.hdh_divergence(*predictions) == pytest.approx(expected, abs=3e-3)


@pytest.mark.parametrize("classes", [2, 4])
def test_eq10_is_the_maximum_over_all_pairs(classes):
    source, target = random_predictions(classes=classes)
    expected = max(
        2 * abs(np.mean(source[i] != source[j]) - np.mean(target[i] != target[j]))
        for i, j in itertools.product(range(len(source)), repeat=2)
    )
    assert divergence.hdh_divergence(source, target) == pytest.approx(expected, abs=1e-15)


def test_eq12_hdh_is_the_h_divergence_of_the_symmetric_difference_class():
    pairs = list(itertools.product(range(6), repeat=2))
    source, target = random_predictions()
    differences = ([x[i] ^ x[j] for i, j in pairs] for x in (source, target))
    assert divergence.hdh_divergence(source, target) == pytest.approx(
        divergence.empirical_h_divergence(*map(np.array, differences)), abs=1e-15
    )


@pytest.mark.parametrize("name", ["empirical_h_divergence", "hdh_divergence"])
def test_divergences_are_zero_for_equal_samples_and_invariant(name):
    function = getattr(divergence, name)
    source, target = random_predictions()
    assert function(source, source) == pytest.approx(0, abs=1e-15)
    order = np.random.default_rng(1).permutation(6)
    value = function(source, target)
    assert function(target, source) == pytest.approx(value)  # symmetric in the domains
    assert function(source[order][:, ::-1], target[order]) == pytest.approx(value)
    assert function(1 - source, 1 - target) == pytest.approx(value)  # the names of the classes
    assert function(source.astype(bool), jnp.asarray(target)) == pytest.approx(value)
    assert 0 < value <= 2


def test_a_single_hypothesis_has_no_pair_that_disagrees():
    assert divergence.hdh_divergence([[0, 1]], [[1, 1]]) == 0


def test_eq11_holds_with_the_constant_of_the_best_hypothesis():
    """For each h of a finite set, on samples taken as populations with labels."""
    (source, target), (y, y_target) = random_predictions(seed=2), random_predictions(1, seed=3)
    risk, target_risk = (np.mean(source != y, 1), np.mean(target != y_target, 1))
    constant = (risk + target_risk).min()
    d = divergence.hdh_divergence(source, target)
    for mine, theirs in zip(risk, target_risk, strict=True):
        bound = divergence.target_risk_bound(mine, d, constant)
        assert bound == pytest.approx(mine + d / 2 + constant)
        assert theirs <= bound + 1e-12


def test_eq11_promises_nothing_without_the_constant():
    """The domains look alike and all labels differ: no hypothesis is good on both."""
    h, y = np.eye(2, 40, dtype=int), np.zeros(40)
    risk, target_risk = np.mean(h[0] != y), np.mean(h[0] != 1 - y)
    d = divergence.hdh_divergence(h, h)
    assert divergence.target_risk_bound(risk, d, 0.0) == risk < target_risk
    assert target_risk <= divergence.target_risk_bound(risk, d, 1.0)


def test_eq11_refuses_values_outside_of_their_ranges():
    with pytest.raises(ValueError, match=r"source_risk in \[0, 1\], got 1.5"):
        divergence.target_risk_bound(1.5, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"divergence in \[0, 2\], got -1"):
        divergence.target_risk_bound(0.1, -1, 0.0)
    with pytest.raises(ValueError, match="constant is nan"):
        divergence.target_risk_bound(0.1, 1.0, np.nan)


def test_eq13_alpha_is_the_sum_of_both_shares():
    z, d = jnp.array([-1.0, -2.0, 3.0, 0.0, 5.0]), jnp.array([0, 0, 0, 1, 1])
    value = divergence.alpha(z, d)  # 2/3 + 1/2: a logit of 0 is "source"
    assert value == pytest.approx(2 / 3 + 1 / 2)
    assert divergence.discriminator_bound(value) == pytest.approx(2 * (1 / 6))
    assert divergence.alpha(z[:, None], d) == value
    assert jax.jit(divergence.alpha)(z, d) == value
    assert divergence.alpha(-z, d) == pytest.approx(1 / 3)
    assert divergence.alpha(z[::-1], d[::-1]) == pytest.approx(float(value))


def test_eq13_is_the_form_of_the_paper_for_one_hypothesis():
    """2 |1 - α(h)| is the H-divergence of {h, 1 - h}, for domains of any sizes."""
    source, target = random_predictions(1, seed=5)
    d = np.repeat([0, 1], [40, 25])
    h = np.concatenate([source[0], target[0]])
    bound = divergence.discriminator_bound(divergence.alpha(h - 0.5, d))
    assert bound == pytest.approx(divergence.empirical_h_divergence(source, target), abs=1e-6)
    assert bound == pytest.approx(divergence.hdh_divergence(*(
        np.vstack([x, np.zeros_like(x)]) for x in (source, target)
    )), abs=1e-6)  # fmt: skip


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_eq13_of_the_best_classifier_of_two_gaussians(shift):
    x = np.concatenate([normal(3000), normal(1000, shift)])
    d = np.repeat([0, 1], [3000, 1000])
    bound = divergence.discriminator_bound(divergence.alpha(x - shift / 2, d))
    assert bound == pytest.approx(2 * (2 * norm.cdf(shift / 2) - 1), abs=5e-3)


def test_eq13_works_in_a_compiled_step_and_over_hypotheses():
    z, d = jax.random.normal(KEY, [3, 8]), jnp.arange(8) % 2
    bound = jax.jit(lambda z: divergence.discriminator_bound(divergence.alpha(z, d)))
    each = jax.vmap(bound)(z)
    np.testing.assert_allclose(each, [bound(row) for row in z])
    np.testing.assert_allclose(divergence.discriminator_bound(jnp.array([0.0, 1.5])), [2.0, 1.0])
    assert jnp.isnan(bound(z[0].at[2].set(jnp.nan)))
    assert jnp.isnan(jax.jit(divergence.alpha)(z[0], 0 * d))


def test_a_discriminator_at_chance_has_the_loss_of_chance_and_alpha_1():
    z, d = jnp.zeros(8), jnp.arange(8) % 2
    assert divergence.alpha(z, d) == 1.0
    assert objective.domain_loss(z, d) == pytest.approx(objective.chance_domain_loss())


def test_alpha_refuses_what_it_cannot_tell():
    z, d = jnp.zeros(4), jnp.array([0, 0, 1, 1])
    for logits, domains, sentence in (
        (z.at[1].set(jnp.inf), d, r"domain_logits\[1\] is inf: expected finite"),
        (z, d + 1, r"domains\[2\] is 2: expected 0 \(source\) or 1"),
        (z, 0 * d, "both domains, got 4 of the source and 0 of the target"),
        (jnp.zeros([4, 2]), d, r"one domain logit .* got \[4, 2\] and \[4\]"),
    ):
        with pytest.raises(ValueError, match=sentence):
            divergence.alpha(logits, domains)
    with pytest.raises(ValueError, match=r"alpha in \[0, 2\], got 2.5"):
        divergence.discriminator_bound(2.5)


@pytest.mark.parametrize("name", ["empirical_h_divergence", "hdh_divergence"])
def test_predictions_that_are_none_are_refused(name):
    function = getattr(divergence, name)
    good = np.zeros([2, 3], int)
    for source, target, sentence in (
        (good[0], good, r"\[hypotheses, n\] .* got \[3\] and \[2, 3\]"),
        (good, good[:1], r"same hypotheses, got \[2, 3\] and \[1, 3\]"),
        (good[:, :0], good, r"got \[2, 0\]"),
        (good, good - [[0], [1]], r"target_predictions\[1, 0\] is -1: expected"),
        (good + 0.5, good, r"source_predictions\[0, 0\] is 0.5: expected"),
        (good + np.nan, good, r"source_predictions\[0, 0\] is nan: expected finite"),
    ):
        with pytest.raises(ValueError, match=sentence):
            function(source, target)
    with pytest.raises(ValueError, match=r"is 2: expected 0 or 1"):
        divergence.empirical_h_divergence(good + 2, good)


def gaussians(count, shift, features=2, target_count=None, seed=0):
    rng = np.random.default_rng(seed)
    sizes = count, target_count or count
    source, target = (rng.normal(size=[size, features]) for size in sizes)
    target[:, 0] += shift
    return source, target


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_pad_of_shifted_gaussians(shift):
    """The best hyperplane errs on Φ(-shift/2), so PAD is 2 (1 - 2 Φ(-shift/2))."""
    value = divergence.proxy_a_distance(*gaussians(2000, shift), key=KEY)
    assert value == pytest.approx(2 * (1 - 2 * norm.cdf(-shift / 2)), abs=0.1)


def test_pad_of_equal_samples_is_about_0_and_of_separable_ones_2():
    x, other = gaussians(600, 0.0)
    assert divergence.proxy_a_distance(x, x, key=KEY) == pytest.approx(0, abs=0.1)
    assert divergence.proxy_a_distance(x, other, key=KEY) == pytest.approx(0, abs=0.15)
    assert divergence.proxy_a_distance(x, other + [100.0, 0.0], key=KEY) == 2.0
    assert divergence.proxy_a_distance(0 * x, 0 * other, key=KEY) == 0.0


def test_pad_at_chance_is_0_whatever_the_sizes_of_the_domains():
    """A classifier that says "source" of all is right for 10 of 11 examples, and PAD is no 1.6."""
    x = gaussians(2000, 0.0, target_count=200)
    assert divergence.proxy_a_distance(*x, key=KEY) == pytest.approx(0, abs=0.25)


def test_pad_depends_on_the_key_alone_and_not_on_scale_or_shape():
    x, other = gaussians(300, 1.0, features=4)
    value = divergence.proxy_a_distance(x, other, key=KEY)
    assert divergence.proxy_a_distance(x, other, key=KEY) == value
    assert divergence.proxy_a_distance(x, other, key=jax.random.key(1)) != value
    maps = (each.reshape(-1, 2, 1, 2) for each in (1e6 * x, 1e6 * other))
    assert divergence.proxy_a_distance(*maps, key=KEY) == pytest.approx(value, abs=1e-9)
    assert 0 <= value <= 2


def test_pad_refuses_features_that_do_not_fit():
    x = np.ones([4, 3])
    for source, target, sentence in (
        (x, np.ones([4, 2]), r"same features in both, got \[4, 3\] and \[4, 2\]"),
        (x[:, 0], x[:, 0], r"got \[4\] and \[4\]"),
        (x[:0], x, r"got \[0, 3\]"),
        (x[:1], x, "at least 2 examples of each domain, got 1"),
        (x, np.where(np.eye(4, 3) > 0, np.nan, 1.0), r"target_features\[0, 0\] is nan"),
    ):
        with pytest.raises(ValueError, match=sentence):
            divergence.proxy_a_distance(source, target, key=KEY)
