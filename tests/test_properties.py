"""What holds for any input, tried with many that hypothesis makes up.

The inputs are the same in each run. Shapes come from small sets, since each new one is compiled.
``HYPOTHESIS_PROFILE=thorough`` tries many more inputs, other ones in each run.
"""

import functools
import itertools
import os
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from dann_jax import (
    DannModel,
    DomainArrays,
    PureFunction,
    accuracy_counts,
    batch_indices,
    checkpoints,
    domain_loss,
    evaluate,
    features,
    gather,
    init_state,
    label_loss,
    lambda_p,
    make_optimizer,
    mu_p,
    predict,
    predicted_classes,
    progress,
    reverse_gradient,
    split_key,
    streaming,
)
from dann_jax.alignment import subspace
from dann_jax.datasets import blend, draws, subset
from dann_jax.datasets.digits_m import digits_m_dataset_builder
from dann_jax.datasets.syn_numbers import rendering as numbers
from dann_jax.datasets.syn_signs import rendering as signs
from dann_jax.digests import digest
from dann_jax.objective import NORMALIZATIONS
from dann_jax.programs import _sharing, group_keys

settings.register_profile(
    "default", derandomize=True, deadline=None, database=None, max_examples=25
)
settings.register_profile("thorough", deadline=None, database=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

pytestmark = pytest.mark.usefixtures("quick_compilation")

few_examples = settings(max_examples=settings().max_examples // 5)  # where each takes a while
key_numbers = st.integers(0, 2**32 - 1).map(np.uint32)
steps = st.integers(0, 2**31 - 100)


def floats(low, high):
    """Float32 numbers without subnormal ones, which processors may take for 0."""
    return st.floats(low, high, width=32, allow_subnormal=False)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


# --- Eqs. (7) and (8) --------------------------------------------------------------------

WHOLE = st.integers(-50, 50)  # whose products and sums are exact in float32
DTYPES = {"single": jnp.float32, "half": jnp.float16, "brain": jnp.bfloat16}


@jax.jit
def reversed_gradient(x, cotangent, lam):
    y, vjp = jax.vjp(lambda x: reverse_gradient(x, lam), x)
    return y, vjp(cotangent)[0]


@st.composite
def trees(draw, elements):
    """A pytree of three dtypes."""
    tree = {name: draw(arrays_of.arrays(np.float32, 3, elements=elements)) for name in DTYPES}
    return {name: jnp.asarray(a).astype(DTYPES[name]) for name, a in tree.items()}


@given(trees(st.floats(width=32)), trees(floats(-100, 100)), floats(-100, 100))
def test_eq7_and_eq8_are_exact_for_trees_and_dtypes(x, cotangent, lam):
    y, gradient = reversed_gradient(x, cotangent, lam)
    assert digest(y) == digest(x)  # NaN, infinities and -0 among them
    for name, c in cotangent.items():
        expected = -jnp.asarray(lam, c.dtype) * c
        assert gradient[name].dtype == c.dtype
        np.testing.assert_array_equal(gradient[name], expected)


@given(st.lists(WHOLE, min_size=3, max_size=3), WHOLE, WHOLE)
def test_two_reversals_scale_the_gradient_by_the_product(cotangent, a, b):
    cotangent = jnp.float32(cotangent)
    x = jnp.ones(3)
    _, inner = reversed_gradient(x, cotangent, float(a))
    _, both = reversed_gradient(x, inner, float(b))
    np.testing.assert_array_equal(both, a * b * cotangent)
    nested = _gradient_of_two(x, cotangent, float(a), float(b))
    np.testing.assert_array_equal(nested, a * b * cotangent)


@jax.jit
def _gradient_of_two(x, cotangent, a, b):
    return jax.grad(lambda x: jnp.vdot(reverse_gradient(reverse_gradient(x, b), a), cotangent))(x)


@given(*[st.lists(WHOLE, min_size=3, max_size=3)] * 2, WHOLE, WHOLE)
def test_a_reversal_is_linear_in_the_gradient(one, other, lam, factor):
    one, other, x = jnp.float32(one), jnp.float32(other), jnp.ones(3)

    def reversal(cotangent):
        return reversed_gradient(x, cotangent, float(lam))[1]

    equal(reversal(one + factor * other), reversal(one) + factor * reversal(other))


# --- the losses --------------------------------------------------------------------------

EXAMPLES, CLASSES = 4, 3
EXTREME = [sign * size for sign in (1, -1) for size in (0.0, 1e-30, 1.0, 88.0, 1e4, 1e30, 1e37)]
LOGITS = st.one_of(floats(-50, 50), st.sampled_from(np.float32(EXTREME).tolist()))
WEIGHTS = st.one_of(
    st.none(), arrays_of.arrays(np.float32, EXAMPLES, elements=st.sampled_from([0, 0.5, 1, 3]))
)


@jax.jit
def losses_and_gradients(z, y, w):
    return jax.value_and_grad(label_loss)(z, y, w)


def mean(values, weights):
    return 0.0 if weights.sum() == 0 else float(np.sum(weights * values) / weights.sum())


@given(
    arrays_of.arrays(np.float32, (EXAMPLES, CLASSES), elements=LOGITS),
    arrays_of.arrays(np.int32, EXAMPLES, elements=st.integers(-1, CLASSES - 1)),
    WEIGHTS,
)
@example(np.full((EXAMPLES, CLASSES), 1e4, np.float32), np.zeros(EXAMPLES, np.int32), None)
def test_label_loss_is_that_of_float64(z, y, w):
    loss, gradient = losses_and_gradients(z, y, w)
    weights = (y >= 0) * (np.ones(EXAMPLES) if w is None else w).astype(np.float64)
    shifted = z.astype(np.float64) - z.max(1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    expected = mean(-log_softmax[range(EXAMPLES), y], weights)
    rounding = mean(np.abs(z.astype(np.float64)).max(1), weights) * 2.0**-23
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6 + rounding)
    total = weights.sum() or 1.0
    expected = (np.exp(log_softmax) - np.eye(CLASSES)[y]) * weights[:, None] / total
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@functools.partial(jax.jit, static_argnames="normalization")
def domain_losses_and_gradients(z, d, w, normalization):
    return jax.value_and_grad(domain_loss)(z, d, w, normalization=normalization)


@given(
    arrays_of.arrays(np.float32, EXAMPLES, elements=LOGITS),
    arrays_of.arrays(np.int32, EXAMPLES, elements=st.integers(0, 1)),
    WEIGHTS,
    st.sampled_from(NORMALIZATIONS),
)
def test_domain_loss_is_that_of_float64(z, d, w, normalization):
    loss, gradient = domain_losses_and_gradients(z, d, w, normalization)
    weights = (np.ones(EXAMPLES) if w is None else w).astype(np.float64)
    z = z.astype(np.float64)
    losses = np.logaddexp(0.0, np.where(d == 1, -z, z))
    parts = [weights] if normalization == "mean" else [weights * (d == i) for i in (0, 1)]
    expected = sum(mean(losses, part) for part in parts)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
    slopes = np.exp(-np.logaddexp(0.0, -z)) - d
    expected = sum(slopes * part / (part.sum() or 1.0) for part in parts)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


# --- the schedules -----------------------------------------------------------------------

P = floats(-0.5, 1.5)


@given(P, P, floats(0, np.float32(1e30)))
@example(0.0, 1.0, 0.0)
def test_lambda_rises_within_0_and_1(p, other, gamma):
    first, last = np.float64(schedule_values(lambda_p, min(p, other), max(p, other), gamma))
    assert 0 <= first <= last + 1e-7
    assert last <= 1


@given(P, P, floats(np.float32(1e-30), 10), floats(0, 1000), floats(0, 10))
def test_mu_falls_within_0_and_mu0(p, other, mu0, alpha, beta):
    values = schedule_values(mu_p, min(p, other), max(p, other), mu0, alpha, beta)
    first, last = np.float64(values)
    slack = 1 + 1e-6
    assert 0 <= last <= first * slack
    assert first <= mu0 * slack


@functools.partial(jax.jit, static_argnums=0)
def schedule_values(schedule, first, last, *options):
    return jnp.stack([schedule(p, *options) for p in (first, last)])


@given(st.integers(-5, 2**31 - 1), st.integers(-5, 2**31 - 1), st.integers(1, 2**31 - 1))
def test_progress_rises_from_0_to_1(step, other, count):
    first, last = (float(progress(s, count)) for s in sorted((step, other)))
    assert 0 <= first <= last <= 1
    assert (progress(0, count), progress(count, count)) == (0, 1)


# --- batches -----------------------------------------------------------------------------

SIZES = st.sampled_from([(1, 1), (5, 3), (7, 8), (6, 3)])  # examples and those of a batch
STEPS = 12


@functools.partial(jax.jit, static_argnames=("steps", "examples", "batch", "labelled"))
def drawn(number, first, steps=STEPS, **sizes):
    order_key = split_key(jax.random.key(number)).order
    return batch_indices(order_key, first, steps=steps, **sizes)


@given(key_numbers, steps, SIZES)
@example(np.uint32(2**32 - 1), 2**31 - 100, (7, 8))
def test_each_epoch_has_each_example_once(number, first, size):
    examples, batch = size
    sizes = {"examples": (examples, 6), "batch": (batch, 3)}
    indices = drawn(number, first, **sizes)
    for rows, (count, each) in zip(indices, zip(*sizes.values(), strict=True), strict=True):
        into = -first * each % count  # where the first epoch begins that is seen from its start
        flat = np.ravel(rows)
        whole = flat[into : into + (len(flat) - into) // count * count].reshape(-1, count)
        equal(np.sort(whole), np.tile(np.arange(count), (len(whole), 1)))
        for part in (flat[:into], flat[into + whole.size :]):
            assert len(set(part.tolist())) == len(part)
    later = drawn(number, first + 5, **sizes)
    equal([rows[5:] for rows in indices], [rows[: STEPS - 5] for rows in later])


@given(key_numbers, steps)
def test_each_batch_has_its_few_labelled_examples(number, first):
    target = drawn(number, first, examples=(5, 9), batch=(3, 4), labelled=(4, 2)).target
    assert np.all(target[:, :2] < 4)
    assert np.all((target[:, 2:] >= 4) & (target[:, 2:] < 9))
    into = (first % 2) * 2  # two steps are an epoch of the four
    equal(np.sort(np.ravel(target[:, :2])[into : into + 4]), np.arange(4))


random = np.random.default_rng(0)
IMAGES = DomainArrays(
    random.integers(0, 256, [7, 2, 2, 1], np.uint8),
    random.integers(0, 3, 7, np.int32),
    random.integers(0, 256, [6, 2, 2, 1], np.uint8),
)


@few_examples
@given(key_numbers, steps, st.sampled_from([2, 3]))
def test_a_stream_has_the_batches_in_memory(number, first, workers):
    source = [{"image": i, "label": n} for i, n in zip(*IMAGES[:2], strict=True)]
    target = [{"image": i, "label": -1} for i in IMAGES.target_image]
    options = {"batch": (8, 3), "workers": workers, "first_step": first}
    stream = streaming.batch_stream(source, target, jax.random.key(number), **options)
    try:
        streamed = list(itertools.islice(stream, 4))
    finally:
        stream.close()
    rows = drawn(number, first, examples=(7, 6), batch=(8, 3))
    for batch, *of_step in zip(streamed, rows.source, rows.target, strict=False):
        equal(batch, jax.device_get(gather(IMAGES, *of_step)))


# --- evaluation --------------------------------------------------------------------------


def _init_f(key, x):
    return {"w": jax.random.normal(key, [2 * 3 + 4, 5])}


def _apply_f(theta, x):  # two inputs
    x = jnp.concatenate([x["image"].reshape(len(x["image"]), -1), x["numbers"]], 1)
    return jnp.tanh(x @ theta["w"])


def _linear(units):
    return PureFunction(
        lambda key, x: jax.random.normal(key, [5, units]), lambda theta, x: x @ theta
    )


MODEL = DannModel(
    feature_extractor=PureFunction(_init_f, _apply_f),
    label_predictor=_linear(3),
    domain_classifier=_linear(1),
)


@functools.cache
def a_state():
    sample = {"image": jnp.zeros([2, 2, 3]), "numbers": jnp.zeros([2, 4])}
    return init_state(MODEL, make_optimizer(0.1), jax.random.key(0), sample)


ROWS = 20


@jax.jit
def one_by_one(theta, x):
    rows = [jax.tree.map(lambda a, i=i: a[i : i + 1], x) for i in range(ROWS)]
    f = jnp.concatenate([_apply_f(theta["f"], row) for row in rows])
    return f, f @ theta["y"]


@given(st.integers(1, ROWS), st.sampled_from([1, 3, 8, 512]), key_numbers)
def test_evaluation_is_that_of_a_plain_loop(size, batch_size, seed):
    assume(batch_size < size or size in (1, 2, 7))  # a new size below the batch is compiled
    random = np.random.default_rng(seed)
    x = {
        "image": random.normal(size=[ROWS, 2, 3]).astype(np.float32),
        "numbers": random.normal(size=[ROWS, 4]).astype(np.float32),
    }
    expected = [a[:size] for a in one_by_one(a_state().theta, x)]
    some = jax.tree.map(lambda a: a[:size], x)
    outputs = [
        function(MODEL, a_state(), some, batch_size=batch_size) for function in (features, predict)
    ]
    for output, each in zip(outputs, expected, strict=True):
        assert output.shape == each.shape
        np.testing.assert_allclose(output, each, rtol=1e-5, atol=1e-6)


ANY_LOGITS = arrays_of.arrays(
    np.float32,
    (6, 3),
    elements=st.sampled_from([-np.inf, -1, 0, 1, 2, np.inf, np.nan] + [0, 1] * 9),
)


@given(ANY_LOGITS, arrays_of.arrays(np.int32, 6, elements=st.integers(-1, 2)))
def test_accuracy_is_that_of_a_plain_loop(logits, labels):
    correct = count = 0
    for z, y in zip(logits, labels, strict=True):
        best = max(range(3), key=lambda c: z[c])  # the first of equal ones
        assert predicted_classes(z) == (best if np.isfinite(z).all() else -1)
        correct += np.isfinite(z).all() and best == y
        count += y >= 0
    found = evaluate(logits, labels)
    if np.isfinite(logits).all() and count:
        assert found == correct / count
    else:
        assert np.isnan(found)
    halves = [accuracy_counts(logits[i], labels[i], labels[i] >= 0) for i in np.s_[:3, 3:]]
    assert [sum(map(int, each)) for each in zip(*halves, strict=True)][:2] == [correct, count]


# --- data sets ---------------------------------------------------------------------------


@given(key_numbers, st.text(max_size=5), st.integers(0, 50), st.integers(0, 9), st.integers(1, 9))
def test_draws_of_an_index_depend_on_nothing_else(seed, stream, start, size, count):
    table = draws.uniform(seed, stream, start, start + size, count=count)
    assert table.shape == (size, count)
    assert np.all((table >= 0) & (table < 1))
    alone = [
        draws.uniform(seed, stream, i, i + 1, count=count)[0] for i in range(start, start + size)
    ]
    equal(list(table), alone)


@given(floats(0, 1).filter(lambda u: u < 1), st.integers(1, 1000))
def test_a_choice_is_an_outcome(draw, size):
    assert 0 <= draws.choice(np.array(draw), size) < size


MOST = 90  # images of a generator: two rounds of signs and some


@functools.cache
def images_of(name):
    """The first images of a data set at once, and the function that makes some of them."""
    make = {
        "digits_m": lambda a, b: digits_m_dataset_builder.images("train", a, b, seed=2)[0],
        "mnist_m": lambda a, b: np.array(list(_blended(a, b))),
        "syn_numbers": lambda a, b: numbers.images(0, "train", a, b),
        "syn_signs": lambda a, b: signs.images(0, "train", a, b),
    }[name]
    return make(0, MOST), make


def _blended(start, stop):
    digits = draws.choice(draws.uniform(0, "digits", start, stop, count=28 * 28), 256)
    digits = digits.astype(np.uint8).reshape(-1, 28, 28)
    photographs = [np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)] * 2
    return blend.mnist_m_images(digits, photographs, seed=1, split="train", start=start)


@few_examples
@given(
    st.sampled_from(["digits_m", "mnist_m", "syn_numbers", "syn_signs"]),
    st.lists(st.tuples(st.integers(0, MOST - 3), st.integers(1, 3)), min_size=1, max_size=3),
)
@example("syn_signs", [(85, 3), (42, 2), (0, 1)])
@example("syn_numbers", [(85, 3), (0, 1)])
@example("digits_m", [(9, 3)])
def test_an_image_does_not_depend_on_the_others_nor_on_their_order(name, ranges):
    whole, make = images_of(name)
    for start, size in ranges:
        equal(make(start, start + size), whole[start : start + size])


LABELS = st.lists(st.integers(-1, 3), min_size=1, max_size=30).filter(lambda y: max(y) >= 0)


@given(LABELS, st.integers(1, 6), key_numbers)
def test_a_subset_has_as_many_of_each_class(labels, per_class, key):
    labels = np.array(labels)
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    rows = subset(labels, per_class, key, at_most=True)
    equal(rows, np.unique(rows))
    assert [np.sum(labels[rows] == c) for c in classes] == np.minimum(counts, per_class).tolist()
    assert np.all(labels[rows] >= 0)
    assert set(rows) <= set(subset(labels, per_class + 1, key, at_most=True))
    if per_class <= counts.min():
        equal(subset(labels, per_class, key), rows)
    else:
        with pytest.raises(ValueError, match="size of the smallest class"):
            subset(labels, per_class, key)


# --- keys, devices, checkpoints ----------------------------------------------------------


@given(st.integers(0, 20), st.integers(1, 8), st.integers(1, 9) | st.none(), st.data())
def test_groups_are_a_partition_of_the_keys_that_programs_take(count, devices, together, data):
    divisors = [n for n in range(1, devices + 1) if not devices % n]
    each = data.draw(st.none() | st.sampled_from(divisors))
    keys = list(range(5, 5 + count))
    groups = group_keys(keys, devices, together=together, devices_per_key=each)
    assert [key for group in groups for key in group.keys] == keys
    for group in groups:
        size, sharing = len(group.keys), group.devices_per_key
        assert 1 <= size <= (together or size)
        assert each in (None, sharing)
        used = min(size * sharing, devices)
        assert _sharing(size, (840, 840), used, sharing) == sharing
        assert used == devices or each is not None  # or some would be idle for no reason


KINDS = (
    *("float32", "float16", "bfloat16", "complex64", "bool"),
    *("int8", "int16", "int32", "uint8", "uint16", "uint32"),
)
SHAPES = [(), (1,), (3,), (2, 3)]


@st.composite
def any_array(draw):
    """An array of any bits, NaNs of any kind among them."""
    dtype, shape = jnp.dtype(draw(st.sampled_from(KINDS))), draw(st.sampled_from(SHAPES))
    size = int(np.prod(shape)) * dtype.itemsize
    content = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    content = content % 2 if dtype.kind == "b" else content
    array = content.copy().view(dtype).reshape(shape)
    return draw(st.sampled_from([np.asarray, jnp.asarray]))(array)


def containers(children):
    names = st.sampled_from(["a", "b", "kernel", "0", "c/d", "w.x", "ü"])
    lists = st.lists(children, max_size=3)
    return lists | lists.map(tuple) | st.dictionaries(names, children, max_size=3)


TREES = st.recursive(any_array() | st.none(), containers, max_leaves=5)


@few_examples
@given(st.dictionaries(st.sampled_from("xyz"), TREES, min_size=1))
def test_a_checkpoint_gives_back_the_bits_of_any_tree(tree):
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(folder, tree)
        restored = checkpoints.restore(folder, tree)
    assert jax.tree.structure(restored) == jax.tree.structure(tree)
    assert digest(restored) == digest(tree)


# --- subspace alignment ------------------------------------------------------------------

FEATURES = 4


@st.composite
def matrices(draw, examples=6):
    """Features as float32 gives them: equal, constant and huge columns among them."""
    elements = st.one_of(floats(-3, 3), st.sampled_from([0.0, 0.1, 1e-30, -1e30, 3e38]))
    x = draw(arrays_of.arrays(np.float32, (examples, FEATURES), elements=elements))
    return x.astype(np.float64)


@given(matrices())
@example(np.full((6, FEATURES), 0.1))
@example(np.tile(np.arange(6.0)[:, None], FEATURES))
def test_bases_are_orthonormal_with_falling_variance(x):
    found = subspace.principal_subspace(x)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(FEATURES), atol=1e-9)
    assert np.all(np.diff(found.variance) <= 1e-9)
    assert np.all(found.variance >= 0)
    assert np.all(found.deviation > 0)
    z = (x - found.mean) / found.deviation
    np.testing.assert_allclose(found.project(x, FEATURES) @ found.basis.T, z, atol=1e-8)
    np.testing.assert_allclose(found.variance, found.project(x, FEATURES).var(0, ddof=1), atol=1e-8)


@given(matrices(), matrices(), st.integers(1, FEATURES))
def test_an_alignment_only_turns(source, target, d):
    one, other = map(subspace.principal_subspace, (source, target))
    assert np.linalg.norm(subspace.align(one, other, d), 2) <= 1 + 1e-9
    np.testing.assert_allclose(subspace.align(one, one, d), np.eye(d), atol=1e-9)
    equal(subspace.align(one, other, d), subspace.align(other, one, d).T)


@given(
    arrays_of.arrays(np.float64, (6, FEATURES), elements=st.integers(-9, 9)),
    arrays_of.arrays(np.float64, FEATURES, elements=st.sampled_from([0.25, 1, 1024])),
    arrays_of.arrays(np.float64, FEATURES, elements=st.integers(-8, 8)),
    st.permutations(range(6)),
)
def test_units_shifts_and_the_order_of_examples_do_not_matter(x, scale, shift, order):
    one = subspace.principal_subspace(x)
    other = subspace.principal_subspace((x * scale + shift)[order])
    np.testing.assert_allclose(other.variance, one.variance, atol=1e-8)
    np.testing.assert_allclose(other.radius, one.radius, atol=1e-8)
