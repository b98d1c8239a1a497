"""L_y, L_d and the objectives, against values worked by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dann_jax import DomainBatch, label_objective, reversed_objective, saddle_objective
from dann_jax.objective import SOURCE, Apply, chance_domain_loss, domain_loss, label_loss

pytestmark = pytest.mark.usefixtures("quick_compilation")

LN2 = math.log(2)
APPLY = Apply(
    lambda theta, x: jnp.tanh(x @ theta), lambda theta, f: f @ theta, lambda theta, f: f @ theta
)


def problem(key=0, sources=3, targets=5):
    """Parameters and a batch: 4 inputs, 3 features, 2 classes."""
    keys = jax.random.split(jax.random.key(key), 5)
    theta = {
        "f": jax.random.normal(keys[0], [4, 3]),
        "y": jax.random.normal(keys[1], [3, 2]),
        "d": jax.random.normal(keys[2], [3, 1]),
    }
    batch = DomainBatch(
        source_image=jax.random.normal(keys[3], [sources, 4]),
        source_label=jnp.arange(sources) % 2,
        target_image=jax.random.normal(keys[4], [targets, 4]) + 1.0,
    )
    return theta, batch


def close(a, b, **tolerance):
    tolerance = {"rtol": 1e-5, "atol": 1e-6} | tolerance
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


# --- L_y ---------------------------------------------------------------------------------


def test_label_loss_worked_by_hand():
    # softmax(ln 3, 0) = (3/4, 1/4); of label 0: -ln 3/4 = 0.287682, of label 1: ln 4 = 1.386294
    logits = jnp.array([[math.log(3), 0.0], [math.log(3), 0.0]])
    np.testing.assert_allclose(label_loss(logits[:1], jnp.array([0])), 0.287682, rtol=1e-5)
    np.testing.assert_allclose(label_loss(logits[:1], jnp.array([1])), 1.386294, rtol=1e-5)
    # mean: (0.287682 + 1.386294) / 2 = 0.836988
    np.testing.assert_allclose(label_loss(logits, jnp.array([0, 1])), 0.836988, rtol=1e-5)
    # weights 3 and 1: (3 * 0.287682 + 1.386294) / 4 = 0.562335
    weighted = label_loss(logits, jnp.array([0, 1]), jnp.array([3.0, 1.0]))
    np.testing.assert_allclose(weighted, 0.562335, rtol=1e-5)


def test_label_loss_at_chance_is_ln_of_the_classes():
    np.testing.assert_allclose(
        label_loss(jnp.zeros([4, 10]), jnp.arange(4)), math.log(10), rtol=1e-6
    )


# --- L_d ---------------------------------------------------------------------------------

# s(ln 3) = 3/4. Source example with logit ln 3: -ln(1 - 3/4) = ln 4 = 1.386294.
# Target examples with logit ln 3: -ln 3/4 = 0.287682; with logit 0: ln 2 = 0.693147.
LOGITS = jnp.array([math.log(3), math.log(3), 0.0])
DOMAINS = jnp.array([0, 1, 1])


def test_domain_loss_mean_worked_by_hand():
    # (1.386294 + 0.287682 + 0.693147) / 3 = 0.789041
    np.testing.assert_allclose(domain_loss(LOGITS, DOMAINS), 0.789041, rtol=1e-5)


def test_domain_loss_sum_of_means_worked_by_hand():
    # 1.386294 + (0.287682 + 0.693147) / 2 = 1.876709
    value = domain_loss(LOGITS, DOMAINS, normalization="sum_of_means")
    np.testing.assert_allclose(value, 1.876709, rtol=1e-5)


@pytest.mark.parametrize(("normalization", "chance"), [("mean", LN2), ("sum_of_means", 2 * LN2)])
def test_domain_loss_at_chance(normalization, chance):
    value = domain_loss(jnp.zeros([5]), jnp.array([0, 0, 1, 1, 1]), normalization=normalization)
    np.testing.assert_allclose(value, chance, rtol=1e-6)
    assert chance_domain_loss(normalization) == pytest.approx(chance, abs=1e-12)


def test_domain_loss_of_a_column_of_logits_is_that_of_a_vector():
    for normalization in ("mean", "sum_of_means"):
        vector = domain_loss(LOGITS, DOMAINS, normalization=normalization)
        column = domain_loss(LOGITS[:, None], DOMAINS, normalization=normalization)
        np.testing.assert_array_equal(column, vector)


# --- weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32, bool])
def test_weight_zero_equals_leaving_the_example_out(dtype):
    logits = jax.random.normal(jax.random.key(0), [6, 3])
    labels, domains = jnp.array([0, 1, 2, 0, 1, 2]), jnp.array([0, 0, 0, 1, 1, 1])
    keep = np.array([0, 2, 3, 5])
    weights = jnp.array([1, 0, 1, 1, 0, 1]).astype(dtype)
    close(label_loss(logits, labels, weights), label_loss(logits[keep], labels[keep]))
    z = logits[:, 0]
    for normalization in ("mean", "sum_of_means"):
        loss = functools.partial(domain_loss, normalization=normalization)
        close(loss(z, domains, weights), loss(z[keep], domains[keep]))


def test_a_domain_without_weight_leaves_the_other_alone():
    # sum_of_means with no target: 1.386294 + 0
    weights = jnp.array([1.0, 0.0, 0.0])
    value = domain_loss(LOGITS, DOMAINS, weights, normalization="sum_of_means")
    np.testing.assert_allclose(value, 1.386294, rtol=1e-5)


@pytest.mark.parametrize("normalization", ["mean", "sum_of_means"])
def test_all_weights_zero_give_zero_and_finite_gradients(normalization):
    zeros = jnp.zeros(3)
    value, gradient = jax.value_and_grad(
        lambda z: domain_loss(z, DOMAINS, zeros, normalization=normalization)
    )(LOGITS)
    assert value == 0.0
    assert not jnp.any(gradient)
    value, gradient = jax.value_and_grad(lambda z: label_loss(z, jnp.arange(3), zeros))(jnp.eye(3))
    assert value == 0.0
    assert not jnp.any(gradient)


def test_objective_with_masks_equals_the_smaller_batch():
    theta, batch = problem()
    masked = batch._replace(
        source_weight=jnp.array([1.0, 0.0, 1.0]), target_weight=jnp.array([0.0, 1.0, 1.0, 0, 1])
    )
    s, t = np.array([0, 2]), np.array([1, 2, 4])
    smaller = DomainBatch(batch.source_image[s], batch.source_label[s], batch.target_image[t])
    for objective in (saddle_objective, reversed_objective):
        for normalization in ("mean", "sum_of_means"):
            f = functools.partial(objective, normalization=normalization)
            grad = jax.jit(jax.value_and_grad(lambda t, b, f=f: f(t, b, 0.7, APPLY)[0]))
            close(grad(theta, masked), grad(theta, smaller))


def test_one_sided_weights_equal_ones_on_the_other_side():
    theta, batch = problem()
    w = jnp.array([0.5, 2.0, 0.0])
    one = reversed_objective(theta, batch._replace(source_weight=w), 1.0, APPLY)[0]
    both = batch._replace(source_weight=w, target_weight=jnp.ones(5))
    close(one, reversed_objective(theta, both, 1.0, APPLY)[0])


# --- stability ---------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "size"), [(jnp.float32, 1e4), (jnp.bfloat16, 100.0)])
@pytest.mark.parametrize("normalization", ["mean", "sum_of_means"])
def test_extreme_logits_give_finite_values_and_gradients(dtype, size, normalization):
    z = jnp.array([size, -size, size, -size], dtype)
    d = jnp.array([0, 0, 1, 1])
    value, gradient = jax.value_and_grad(lambda z: domain_loss(z, d, normalization=normalization))(
        z
    )
    assert gradient.dtype == dtype
    assert value.dtype == jnp.float32
    assert jnp.isfinite(value)
    assert jnp.all(jnp.isfinite(gradient))
    # The two wrong examples cost `size` each, the two right ones nothing.
    want = size / 2 if normalization == "mean" else size
    np.testing.assert_allclose(value, want, rtol=1e-5)

    z = jnp.array([[size, -size, 0.0], [-size, size, 0.0]], dtype)
    for labels, want in (([0, 1], 0.0), ([1, 0], 2 * size)):
        value, gradient = jax.value_and_grad(label_loss)(z, jnp.array(labels))
        assert gradient.dtype == dtype
        assert jnp.all(jnp.isfinite(gradient))
        np.testing.assert_allclose(value, want, rtol=1e-5)


# --- gradients ---------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, jnp.array([0.5, 0.0, 2.0, 1.0])])
def test_losses_agree_with_numerical_gradients(weights):
    z = jax.random.normal(jax.random.key(1), [4, 3])
    labels, domains = jnp.array([0, 2, 1, 1]), jnp.array([0, 1, 0, 1])
    close_enough = {"order": 1, "modes": ["rev"], "atol": 2e-3, "rtol": 2e-3, "eps": 1e-2}
    check_grads(lambda z: label_loss(z, labels, weights), (z,), **close_enough)
    for normalization in ("mean", "sum_of_means"):
        loss = functools.partial(domain_loss, normalization=normalization)
        check_grads(lambda z, f=loss: f(z, domains, weights), (z[:, 0],), **close_enough)


# --- objectives --------------------------------------------------------------------------


def test_eq1_value_is_label_loss_minus_lambda_domain_loss():
    theta, batch = problem()
    value, terms = saddle_objective(theta, batch, 0.3, APPLY)
    f_s = jnp.tanh(batch.source_image @ theta["f"])
    f_t = jnp.tanh(batch.target_image @ theta["f"])
    L_y = label_loss(f_s @ theta["y"], batch.source_label)
    L_d = domain_loss(jnp.concatenate([f_s, f_t]) @ theta["d"], jnp.array([0, 0, 0, 1, 1, 1, 1, 1]))
    close((value, terms.label_loss, terms.domain_loss), (L_y - 0.3 * L_d, L_y, L_d))
    close(terms.features, jnp.concatenate([f_s, f_t]))
    np.testing.assert_array_equal(terms.domains, [0, 0, 0, 1, 1, 1, 1, 1])
    assert terms.domain_logits.shape == (8,)
    assert terms.label_logits.shape == (3, 2)


def test_eq9_value_is_label_loss_plus_domain_loss_whatever_lambda():
    theta, batch = problem()
    for lam in (0.0, 0.3, 6.0):
        value, terms = reversed_objective(theta, batch, lam, APPLY)
        close(value, terms.label_loss + terms.domain_loss)


def test_lambda_never_multiplies_the_domain_loss():
    """G_d trains with weight 1: neither L_d nor the gradient of theta_d depends on lambda."""
    theta, batch = problem()
    grad = jax.grad(lambda t, lam: reversed_objective(t, batch, lam, APPLY)[0])
    zero, six = grad(theta, 0.0), grad(theta, 6.0)
    assert jnp.any(zero["d"] != 0)
    np.testing.assert_array_equal(zero["d"], six["d"])
    np.testing.assert_array_equal(zero["y"], six["y"])
    assert jnp.any(zero["f"] != six["f"])


@pytest.mark.parametrize("objective", [saddle_objective, reversed_objective])
def test_domain_weight_multiplies_the_domain_loss_only(objective):
    theta, batch = problem()
    full, terms = objective(theta, batch, 0.5, APPLY)
    tenth, same = objective(theta, batch, 0.5, APPLY, domain_weight=0.1)
    close(same.domain_loss, terms.domain_loss)  # reported without its weight
    close(tenth - terms.label_loss, 0.1 * (full - terms.label_loss))


def test_labelled_target_examples_join_the_label_loss():
    theta, batch = problem()
    labels = jnp.array([1, 0, 1, 1, 0])
    joined, terms = reversed_objective(
        theta, batch._replace(target_label=labels), 1.0, APPLY, domain_weight=0.0
    )
    x = jnp.concatenate([batch.source_image, batch.target_image])
    y = jnp.concatenate([batch.source_label, labels])
    close(joined, label_loss(jnp.tanh(x @ theta["f"]) @ theta["y"], y))
    np.testing.assert_array_equal(terms.labels, y)


def test_label_loss_leaves_unknown_labels_out():
    logits = jax.random.normal(jax.random.key(3), [4, 3])
    labels, keep = jnp.array([2, -1, 0, -1]), jnp.array([0, 2])
    close(label_loss(logits, labels), label_loss(logits[keep], labels[keep]))
    assert label_loss(logits, jnp.full([4], -1)) == 0.0


def test_label_minus_one_means_unknown():
    theta, batch = problem()
    some = batch._replace(target_label=jnp.array([-1, 1, -1, 0, -1]))
    value, terms = reversed_objective(theta, some, 1.0, APPLY)
    keep = jnp.array([1, 3])
    x = jnp.concatenate([batch.source_image, batch.target_image[keep]])
    y = jnp.concatenate([batch.source_label, jnp.array([1, 0])])
    close(terms.label_loss, label_loss(jnp.tanh(x @ theta["f"]) @ theta["y"], y))
    none = batch._replace(target_label=jnp.full([5], -1))
    close(
        reversed_objective(theta, none, 1.0, APPLY)[0],
        reversed_objective(theta, batch, 1.0, APPLY)[0],
    )


def test_label_objective_does_not_look_at_the_target():
    theta, batch = problem()
    other = batch._replace(target_image=batch.target_image * jnp.nan)
    value, gradient = jax.value_and_grad(
        lambda t, b: label_objective(t, b, 1.0, APPLY)[0], argnums=0
    )(theta, other)
    f = jnp.tanh(batch.source_image @ theta["f"])
    close(value, label_loss(f @ theta["y"], batch.source_label))
    assert not jnp.any(gradient["d"])
    assert jnp.any(gradient["f"])
    _, terms = label_objective(theta, batch, 1.0, APPLY)
    assert terms.domain_loss is None
    assert terms.domain_logits is None


def domains_said(objective, batch, theta):
    """The domain that an objective says in its calls of G_f, G_y and G_d."""
    said = []

    def noting(function):
        def call(theta, x, *, domain=None):
            said.append(domain)
            return function(theta, x)

        return call

    objective(theta, batch, 1.0, Apply(*map(noting, APPLY)))
    return said


def test_objectives_say_of_which_domain_examples_are():
    theta, batch = problem()
    few = batch._replace(target_label=jnp.array([1, -1, -1, -1, -1]))
    assert domains_said(label_objective, batch, theta) == [SOURCE, SOURCE]
    for objective in (saddle_objective, reversed_objective):
        assert domains_said(objective, batch, theta) == [None, SOURCE, None]
        assert domains_said(objective, few, theta) == [None, None, None]


def test_features_may_be_a_pytree():
    theta, batch = problem()
    split = Apply(
        lambda theta, x: {"a": jnp.tanh(x @ theta), "b": x},
        lambda theta, f: f["a"] @ theta,
        lambda theta, f: f["a"] @ theta,
    )
    grad = jax.grad(lambda t, a: reversed_objective(t, batch, 0.5, a)[0])
    close(grad(theta, split), grad(theta, APPLY))


# --- normalizers over devices ------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["mean", "sum_of_means"])
def test_mean_of_device_losses_is_the_loss_of_the_batch_whatever_the_weights(normalization):
    z = jax.random.normal(jax.random.key(2), [8])
    d = jnp.array([0, 1, 0, 1, 0, 1, 0, 1])
    w = jnp.array([1.0, 0.0, 0.0, 2.0, 1.0, 1.0, 0.5, 0.0])
    loss = functools.partial(domain_loss, normalization=normalization)
    parts = jax.vmap(functools.partial(loss, axis_name="i"), axis_name="i")(
        z.reshape(4, 2), d.reshape(4, 2), w.reshape(4, 2)
    )
    close(jnp.mean(parts), loss(z, d, w))


# --- errors ------------------------------------------------------------------------------


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match=r"\[n, classes\].*got \[3\] and \[3\]"):
        label_loss(jnp.zeros(3), jnp.arange(3))
    with pytest.raises(ValueError, match=r"got \[3, 2\] and \[4\]"):
        label_loss(jnp.zeros([3, 2]), jnp.arange(4))
    with pytest.raises(TypeError, match="labels must be integers, got float32"):
        label_loss(jnp.zeros([3, 2]), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"got \[3, 2\] and \[3\].*one unit"):
        domain_loss(jnp.zeros([3, 2]), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"got \[3\] and \[2\]"):
        domain_loss(jnp.zeros(3), jnp.zeros(2))
    with pytest.raises(ValueError, match="unknown normalization 'sum'.*'sum_of_means'"):
        domain_loss(jnp.zeros(3), jnp.zeros(3), normalization="sum")
    with pytest.raises(ValueError, match="unknown normalization"):
        chance_domain_loss("means")
    with pytest.raises(ValueError, match=r"for each example \[3\], got weights \[3, 1\]"):
        domain_loss(jnp.zeros(3), jnp.zeros(3), jnp.ones([3, 1]))
