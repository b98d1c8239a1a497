"""Rules that choose without target labels: cases worked by hand, double loops, and their limits."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from dann_jax import divergence, selection

KEY = jax.random.key(0)
OF_LOGITS = (
    selection.entropy,
    selection.information_maximization,
    selection.batch_nuclear_norm,
    selection.soft_neighborhood_density,
)
SURE = 1e5 * np.eye(3)  # logits whose softmax is exactly one of three classes


def random_logits(n=30, classes=4, scale=2.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=[n, classes])


def softmax(row):
    e = [math.exp(z - max(row)) for z in row]
    return [each / sum(e) for each in e]


def of(p):
    return -sum(each * math.log(each) for each in p if each > 0)


def test_entropy_by_a_double_loop():
    z = random_logits()
    assert selection.entropy(z) == pytest.approx(-np.mean([of(softmax(row)) for row in z]))
    assert selection.entropy(np.zeros([5, 8])) == pytest.approx(-math.log(8))
    assert selection.entropy(SURE) == 0.0


def test_information_maximization_by_a_double_loop():
    z = random_logits()
    p = [softmax(row) for row in z]
    mean = [sum(column) / len(p) for column in zip(*p, strict=True)]
    expected = of(mean) - np.mean([of(each) for each in p])
    assert selection.information_maximization(z) == pytest.approx(expected)
    assert selection.information_maximization(SURE) == pytest.approx(math.log(3))
    assert selection.information_maximization(SURE[[0, 0, 0]]) == 0.0
    assert selection.information_maximization(np.zeros([5, 8])) == pytest.approx(0, abs=1e-12)


def test_batch_nuclear_norm_worked_by_hand():
    # P is two of e1 and one each of e2, e3: singular values √2, 1, 1 over 4 examples.
    assert selection.batch_nuclear_norm(SURE[[0, 1, 2, 0]]) == pytest.approx((math.sqrt(2) + 2) / 4)
    # All of one class, or all uniform, have rank 1: √n, or √(n / K), over n.
    assert selection.batch_nuclear_norm(SURE[[1] * 9]) == pytest.approx(1 / 3)
    assert selection.batch_nuclear_norm(np.zeros([9, 4])) == pytest.approx(1 / 6)
    # The sum of the roots of the eigenvalues of PᵀP.
    z = random_logits()
    p = np.array([softmax(row) for row in z])
    roots = np.sqrt(np.linalg.eigvalsh(p.T @ p))
    assert selection.batch_nuclear_norm(z) == pytest.approx(roots.sum() / 30)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_soft_neighborhood_density_by_a_double_loop(temperature, monkeypatch):
    z = random_logits()
    p = [np.array(softmax(row)) for row in z]
    entropies = []
    for i, mine in enumerate(p):
        cosines = [
            mine @ other / math.sqrt((mine @ mine) * (other @ other))
            for j, other in enumerate(p)
            if j != i
        ]
        entropies.append(of(softmax([c / temperature for c in cosines])))
    found = selection.soft_neighborhood_density(z, temperature=temperature)
    assert found == pytest.approx(np.mean(entropies))
    monkeypatch.setattr(selection, "ROWS", 7)  # 30 rows in parts
    again = selection.soft_neighborhood_density(z, temperature=temperature)
    assert again == pytest.approx(found, abs=1e-12)


def test_soft_neighborhood_density_of_two_clusters():
    """Each of 2 × 3 has 2 neighbours at cosine 1 and 3 at cosine 0, e^-20 of their weight."""
    value = selection.soft_neighborhood_density(SURE[[0, 0, 0, 1, 1, 1]])
    q = np.array([1, 1, *[math.exp(-20)] * 3]) / (2 + 3 * math.exp(-20))
    assert value == pytest.approx(of(q))
    assert value == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("rule", OF_LOGITS, ids=lambda rule: rule.__name__)
def test_rules_of_logits_are_invariant_and_take_any_size_of_logits(rule):
    z, rng = random_logits(), np.random.default_rng(1)
    value = rule(z)
    assert rule(z[rng.permutation(30)]) == pytest.approx(value)
    assert rule(z[:, rng.permutation(4)]) == pytest.approx(value)
    assert rule(z + 1e3 * rng.normal(size=[30, 1])) == pytest.approx(value)
    assert rule(jnp.asarray(z, jnp.float32)) == pytest.approx(value, abs=1e-5)
    for scale in (1e30, 1e300, 1e308 / np.abs(z).max() * 1.7):
        extreme = rule(scale * z)
        assert np.isfinite(extreme)
        assert extreme == pytest.approx(rule(1e6 * z))
    assert isinstance(value, float)


@pytest.mark.parametrize("rule", OF_LOGITS, ids=lambda rule: rule.__name__)
def test_rules_of_logits_prefer_confidence_that_is_spread(rule):
    sure = np.tile(SURE, [10, 1])
    assert rule(sure) > rule(random_logits(30, 3))


def test_a_network_with_one_answer_or_without_any_deceives_some_rules():
    spread, collapsed = np.tile(SURE, [10, 1]), SURE[[0] * 30]
    assert selection.entropy(collapsed) == selection.entropy(spread)
    density = selection.soft_neighborhood_density
    for answers in (collapsed, np.zeros([30, 3])):  # all are neighbours of all
        assert density(answers) == pytest.approx(math.log(29))
        assert density(answers) > density(spread)
    for rule in (selection.information_maximization, selection.batch_nuclear_norm):
        assert rule(collapsed) < rule(spread)


@pytest.mark.parametrize("rule", OF_LOGITS, ids=lambda rule: rule.__name__)
def test_logits_that_are_none_are_refused(rule):
    z = random_logits()
    z[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"target_logits\[3, 1\] is nan: expected finite"):
        rule(z)
    z[3, 1] = -np.inf
    with pytest.raises(ValueError, match=r"target_logits\[3, 1\] is -inf"):
        rule(z)
    for wrong in (np.zeros(4), np.zeros([4, 1]), np.zeros([0, 4])):
        with pytest.raises(ValueError, match="1 example and 2 classes, got"):
            rule(wrong)


def test_one_example_has_no_neighbours():
    with pytest.raises(ValueError, match="at least 2 examples"):
        selection.soft_neighborhood_density(SURE[:1])
    with pytest.raises(ValueError, match="positive temperature, got 0"):
        selection.soft_neighborhood_density(SURE, temperature=0)


# Four source examples; the second and the fourth are wrong.
FEATURES, TARGET_FEATURES = np.arange(8.0).reshape(4, 2), np.ones([3, 2])
LOGITS, LABELS = SURE[[0, 1, 2, 0]], np.array([0, 2, 2, 1])


def weighted(rule, w, labels=LABELS, **options):
    """A rule with given weights, which are not estimated."""

    def weights(source_features, target_features, *, key):
        assert (len(source_features), len(target_features)) == (4, 3)
        return np.array(w)

    return rule(FEATURES, LOGITS, labels, TARGET_FEATURES, key=KEY, weights=weights, **options)


def test_importance_weighted_validation_worked_by_hand():
    rule = selection.importance_weighted_validation
    assert weighted(rule, [1.0, 1.0, 1.0, 1.0]) == -0.5
    assert weighted(rule, [0.5, 2.0, 1.0, 0.1]) == pytest.approx(-(2.0 + 0.1) / 3.6)
    assert weighted(rule, [9.0, 0.0, 9.0, 0.0]) == 0.0
    assert weighted(rule, [5.0, 20.0, 10.0, 1.0]) == pytest.approx(-(2.0 + 0.1) / 3.6)
    # Without the label of the last there are three examples.
    known = np.array([0, 2, 2, -1])
    assert weighted(rule, [0.5, 2.0, 1.0, 0.1], known) == pytest.approx(-2 / 3.5)


def test_deep_embedded_validation_worked_by_hand():
    rule = selection.deep_embedded_validation
    assert weighted(rule, [1.0, 1.0, 1.0, 1.0]) == -0.5  # nothing to correct
    assert weighted(rule, [2.0, 2.0, 2.0, 2.0]) == -1.0
    # w = (1, 3, 1, 3), L = (0, 3, 0, 3): Cov = 3/2, Var = 1, eta = -3/2, and the risk is
    # 3/2 - 3/2 (2 - 1) = 0.
    assert weighted(rule, [1.0, 3.0, 1.0, 3.0]) == pytest.approx(0.0)
    # w = (0, 1, 2, 1), L = (0, 1, 0, 1): Cov = 0, so the weights tell nothing: mean L = 1/2.
    assert weighted(rule, [0.0, 1.0, 2.0, 1.0]) == pytest.approx(-0.5)


def test_losses_are_those_that_are_passed():
    z, y = random_logits(4, 3), np.array([0, 2, 2, 1])
    expected = [-math.log(softmax(row)[label]) for row, label in zip(z, y, strict=True)]
    np.testing.assert_allclose(selection.cross_entropy(z, y), expected)
    np.testing.assert_array_equal(selection.zero_one(LOGITS, LABELS), [0, 1, 0, 1])
    ones = np.ones(4)
    losses = selection.cross_entropy
    value = weighted(selection.importance_weighted_validation, ones, losses=losses)
    assert value == -5e4  # two of four examples miss by 1e5 nats
    beyond = np.array([[1.7e308, -1.7e308]] * 4)
    with pytest.raises(ValueError, match=r"losses\[1\] is inf"):
        selection.importance_weighted_validation(
            FEATURES, beyond, np.array([0, 1, 1, 0]), TARGET_FEATURES, key=KEY, losses=losses
        )
    with pytest.raises(ValueError, match="one loss for each of 4 examples"):
        weighted(selection.deep_embedded_validation, ones, losses=lambda *_: np.ones(2))


def test_the_control_variate_reduces_the_variance():
    """Over draws of weights and losses that go together, as where errors are in the target."""
    rng = np.random.default_rng(0)
    estimates = {"importance_weighted_validation": [], "deep_embedded_validation": []}
    for _ in range(200):
        x = rng.normal(size=100)
        w = np.exp(x - 0.5)  # N(1, 1) over N(0, 1)
        z = np.stack([0 * x, x - 1], 1)  # wrong where x > 1: half of the target
        for name, values in estimates.items():
            rule = getattr(selection, name)
            values.append(
                -rule(x[:, None], z, np.zeros(100, int), np.ones([2, 1]), key=KEY,
                      weights=lambda *_, w=w, key: w)
            )  # fmt: skip
    weighted_only, controlled = estimates.values()
    assert np.mean(weighted_only) == pytest.approx(0.5, abs=0.03)
    assert np.mean(controlled) == pytest.approx(0.5, abs=0.03)
    assert np.std(controlled) < 0.7 * np.std(weighted_only)


def shifted(count=2000, count_target=1000, shift=0.75):
    rng = np.random.default_rng(0)
    return rng.normal(size=[count, 1]), rng.normal(size=[count_target, 1]) + shift


def test_importance_weights_are_the_ratio_of_two_gaussians():
    """N(s, 1) over N(0, 1) is exp(s x - s²/2), for domains of any sizes."""
    source, target = shifted()
    w = selection.importance_weights(source, target, key=KEY)
    exact = np.exp(0.75 * source[:, 0] - 0.75**2 / 2)
    inner = np.abs(source[:, 0]) < 2
    np.testing.assert_allclose(w[inner], exact[inner], rtol=0.25)
    assert w.mean() == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(selection.importance_weights(source, target, key=KEY), w)
    same = selection.importance_weights(source, source[::-1], key=KEY)
    np.testing.assert_allclose(same, 1, atol=0.1)


@pytest.mark.parametrize(
    "rule", [selection.importance_weighted_validation, selection.deep_embedded_validation]
)
def test_the_target_risk_is_estimated_under_covariate_shift(rule):
    """A classifier errs where x > 1: on 1 - Φ(1) of the source and 1 - Φ(1/4) of the target."""
    source, target = shifted()
    z = np.concatenate([0 * source, source - 1], 1)
    value = rule(source, z, np.zeros(len(source), int), target, key=KEY)
    assert norm.sf(1) == pytest.approx(0.16, abs=0.01)
    assert -value == pytest.approx(norm.sf(0.25), abs=0.04)


def test_features_that_separate_the_domains_do_not_win_by_weights_of_0():
    source, target = shifted(300, 300, shift=30.0)
    assert selection.importance_weights(source, target, key=KEY).max() < 0.1
    wrong = np.tile([0.0, 1.0], [300, 1])
    for rule in (selection.importance_weighted_validation, selection.deep_embedded_validation):
        assert rule(source, wrong, np.zeros(300, int), target, key=KEY) == pytest.approx(-1)


def test_source_examples_that_do_not_fit_are_refused():
    rule = selection.importance_weighted_validation
    arguments = FEATURES, LOGITS, LABELS, TARGET_FEATURES
    for place, value, error, sentence in (
        (0, FEATURES[:3], ValueError, r"source_labels \[n\], got \[3, 2\], \[4, 3\] and \[4\]"),
        (1, LOGITS * np.nan, ValueError, r"source_logits\[0, 0\] is nan"),
        (2, LABELS[:3], ValueError, r"got \[4, 2\], \[4, 3\] and \[3\]"),
        (2, LABELS + 2, ValueError, r"source_labels\[1\] is 4: expected 0 to 2"),
        (2, LABELS * 0 - 1, ValueError, "known, got -1 for all"),
        (2, LABELS + 0.5, TypeError, "source_labels must be integers"),
        (
            3,
            TARGET_FEATURES[:, :1],
            ValueError,
            r"same features in both, got \[4, 2\] and \[3, 1\]",
        ),
        (3, TARGET_FEATURES * np.inf, ValueError, r"target_features\[0, 0\] is inf"),
        (3, TARGET_FEATURES[:2], ValueError, "at least 3 examples of each domain, got 4 and 2"),
    ):
        wrong = [*arguments[:place], value, *arguments[place + 1 :]]
        with pytest.raises(error, match=sentence):
            rule(*wrong, key=KEY)
    with pytest.raises(ValueError, match="one weight for each of 4 examples"):
        weighted(rule, [1.0])
    with pytest.raises(ValueError, match=r"weights\[2\] is inf"):
        weighted(rule, [1.0, 1.0, np.inf, 1.0])
    for wrong in ([0.0] * 4, [1.0, 1.0, -1.0, 1.0]):
        with pytest.raises(ValueError, match="not negative, nor all 0, got"):
            weighted(rule, wrong)


def test_a_ratio_that_is_no_number_is_refused():
    """One source example lies a billion times farther in the target's direction than any other."""
    source, target = np.linspace(-1, 0, 12)[:, None], np.full([12, 1], 2.0)
    source[5] = 1e9
    with pytest.raises(ValueError, match="density ratio of a source example is exp"):
        selection.importance_weights(source, target, key=KEY)


def test_domain_confusion_is_minus_pad():
    source, target = shifted(300, 300, shift=2.0)
    pad = divergence.proxy_a_distance(source, target, key=KEY)
    assert selection.domain_confusion(source, target, key=KEY) == -pad < -0.5
    # Features that are the same for all deceive it.
    assert selection.domain_confusion(0 * source, 0 * target, key=KEY) == 0.0


def nearest_mean(x, y, target_x):
    """A learner: linear discriminant analysis on the source, without a look at the target."""
    del target_x
    return LinearDiscriminantAnalysis().fit(x, y).predict


def centred(x, y, target_x):
    """A learner that adapts: it takes from each domain the mean of its own."""
    here, there = x.mean(0), target_x.mean(0)
    predict = nearest_mean(x - here, y, None)
    return lambda new: predict(new - min((here, there), key=lambda m: abs(new.mean(0) - m).sum()))


def blobs(shift, count=200):
    """Two classes at -2 and 2 of the first feature; the target's are moved."""
    rng = np.random.default_rng(0)
    label = np.arange(count) % 2
    source, target = (
        np.stack([4.0 * label - 2, 0 * label], 1) + rng.normal(size=[count, 2]) for _ in "st"
    )
    return source, label, target + [shift, 0.0]


def test_reverse_validation_prefers_the_learner_that_adapts():
    x, y, target = blobs(shift=4.0, count=1000)
    adapted = selection.reverse_validation(centred, x, y, target, key=KEY)
    plain = selection.reverse_validation(nearest_mean, x, y, target, key=KEY)
    accuracies = [np.mean(learn(x, y, target)(target) == y) for learn in (centred, nearest_mean)]
    assert accuracies[0] > 0.95 > 0.6 > accuracies[1]
    assert adapted > 0.95 > 0.7 > plain
    raw = jax.random.key_data(KEY)
    assert selection.reverse_validation(centred, x, y, target, key=raw) == adapted


def test_reverse_validation_step_by_step():
    """S' and T' hold nine tenths, η_r learns from η's classes of T', and S_V judges."""
    x, y = np.arange(20.0)[:, None], np.arange(20) % 2
    target = 100.0 + np.arange(30.0)[:, None]
    calls, judged = [], []

    def learn(x, labels, target_x):
        calls.append((x[:, 0], np.asarray(labels), target_x[:, 0]))

        def predict(new):
            judged.append(new[:, 0])
            return (new[:, 0] % 3 == 0).astype(int)

        return predict

    value = selection.reverse_validation(learn, x, y, target, key=KEY)
    (forward, backward), (of_target, of_validation) = calls, judged
    assert [len(part) for part in forward] == [18, 18, 27]
    np.testing.assert_array_equal(forward[1], forward[0] % 2)
    np.testing.assert_array_equal(backward[0], forward[2])
    np.testing.assert_array_equal(backward[1], forward[2] % 3 == 0)
    np.testing.assert_array_equal(backward[2], forward[0])
    np.testing.assert_array_equal(of_target, forward[2])
    assert sorted([*of_validation, *forward[0]]) == list(range(20))
    assert value == np.mean((of_validation % 3 == 0) == (of_validation % 2))


def test_the_reverse_learner_may_start_from_eta():
    x, y, target = blobs(shift=0.0)
    started = []

    def learn_back(eta):
        started.append(eta)
        return nearest_mean

    plain = selection.reverse_validation(nearest_mean, x, y, target, key=KEY)
    value = selection.reverse_validation(nearest_mean, x, y, target, key=KEY, learn_back=learn_back)
    assert value == plain > 0.9
    assert callable(*started)


def test_reverse_validation_is_deceived_by_classes_that_are_exchanged():
    """η gives each target example the other class, and η_r exchanges them back."""
    x, y, target = blobs(shift=0.0)
    mirrored = -target  # class 0 is where the source has class 1
    assert np.mean(nearest_mean(x, y, None)(mirrored) == y) < 0.1
    assert selection.reverse_validation(nearest_mean, x, y, mirrored, key=KEY) > 0.9


def test_reverse_validation_of_a_learner_with_one_answer_is_at_chance():
    x, y, target = blobs(shift=50.0)  # all of the target is beyond class 1
    assert selection.reverse_validation(
        nearest_mean, x, y, target, key=KEY, held_out=0.5
    ) == pytest.approx(0.5, abs=0.1)


def test_reverse_validation_refuses_what_it_cannot_split_or_count():
    x, y, target = blobs(shift=0.0, count=4)
    for arguments, options, error, sentence in (
        ((x, y[:3], target), {}, ValueError, r"got \[4, 2\], \[3\] and \[4, 2\]"),
        ((x, y, target[:, :1]), {}, ValueError, r"and \[4, 1\]"),
        ((x * np.nan, y, target), {}, ValueError, r"source_x\[0, 0\] is nan"),
        ((x, y + 0.5, target), {}, TypeError, "source_labels must be integers"),
        ((x, y - 1, target), {}, ValueError, "source_labels contain -1"),
        ((x[:1], y[:1], target), {}, ValueError, "more examples in source_x, got 1: 1 are held"),
        ((x, y, target), {"held_out": 1.0}, ValueError, r"held_out in \(0, 1\), got 1.0"),
    ):
        with pytest.raises(error, match=sentence):
            selection.reverse_validation(nearest_mean, *arguments, key=KEY, **options)
    for predictions, error, sentence in (
        (np.zeros(3), TypeError, "the learner's predictions for the target must be integers"),
        (np.zeros(2, int), ValueError, r"to have shape \[3\], got \[2\]"),
        (np.array([0, 1, -1]), ValueError, "predictions for the target contain -1"),
    ):
        with pytest.raises(error, match=sentence):
            selection.reverse_validation(
                lambda *_, p=predictions: lambda new: p, x, y, target, key=KEY
            )


def test_every_rule_scores_outputs_and_a_better_network_is_chosen():
    """The domains overlap in the first network's features, and it separates the classes."""
    rng = np.random.default_rng(0)
    label = np.arange(120) % 3
    confident = 6.0 * np.eye(3)[label]
    aligned, apart = (rng.normal(size=[120, 2]) + shift for shift in (0.1, 4.0))
    features = rng.normal(size=[120, 2])
    good = selection.Outputs(features, confident, label, aligned, confident)
    vague = random_logits(120, 3)
    bad = selection.Outputs(features, vague, label, apart, vague)
    for name, rule in selection.RULES.items():
        assert rule.__name__ == name
        scores = [selection.score(rule, outputs, key=KEY) for outputs in (bad, good)]
        assert all(isinstance(value, float) for value in scores)
        assert selection.choose(scores) == 1, name
    assert {*inspect.signature(rule).parameters} <= {
        *selection.Outputs._fields, "key", "losses", "weights", "temperature"
    }  # fmt: skip


def test_no_rule_takes_target_labels():
    for rule in (*selection.RULES.values(), selection.reverse_validation):
        assert not {"target_labels", "target_label"} & {*inspect.signature(rule).parameters}


def test_a_rule_is_given_what_it_names():
    only = selection.Outputs(None, None, None, None, SURE)
    assert selection.score(selection.entropy, only, key=KEY) == 0.0
    own = lambda target_logits, key: float(len(target_logits))  # noqa: E731
    assert selection.score(own, only, key=KEY) == 3.0


@pytest.mark.parametrize("loss", [selection.zero_one, selection.cross_entropy])
def test_a_loss_is_of_known_classes_alone(loss):
    logits = np.array([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]])
    assert loss(logits, np.array([2, 0])).shape == (2,)
    for labels, error, sentence in (
        (np.array([-1, 0]), ValueError, "labels contain -1"),  # of the last class in NumPy
        (np.array([3, 0]), ValueError, r"labels\[0\] is 3: expected 0 to 2"),
        (np.array([0.5, 0]), TypeError, "labels must be integers"),
        (np.array([0]), ValueError, r"shape \[2\], got \[1\]"),
    ):
        with pytest.raises(error, match=sentence):
            loss(logits, labels)
    with pytest.raises(ValueError, match=r"logits\[0, 0\] is nan"):
        loss(logits * np.nan, np.array([2, 0]))


def test_numbers_that_are_not_real_and_several_keys_are_refused():
    for wrong in (SURE + 1j, SURE.astype(str), SURE.astype(object)):
        with pytest.raises(TypeError, match="target_logits must be real numbers, got"):
            selection.entropy(wrong)
    for key in (jax.random.split(KEY, 2), 3):
        with pytest.raises(TypeError, match="key must be one PRNG key, got"):
            selection.domain_confusion(FEATURES, FEATURES, key=key)


def test_the_first_of_equal_scores_is_chosen_and_nan_never():
    assert selection.choose([0.1, np.nan, 0.7, 0.7]) == 2
    assert selection.choose([-np.inf, -3.0]) == 1
    assert selection.choose([0.1, np.inf, 0.7]) == 2
    for wrong in ([], [np.nan], [[1.0]], [np.inf, np.nan]):
        with pytest.raises(ValueError, match="one of them a finite number"):
            selection.choose(wrong)
