"""The networks of JMLR Fig. 4: widths, feature counts, pooling, dropout, norms, dtypes."""

import functools

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import (
    Apply,
    DomainBatch,
    compact,
    gtsrb,
    init_state,
    make_optimizer,
    make_update_step,
    mnist,
    mnist_batch_norm,
    networks,
    office,
    svhn,
    svhn_batch_norm,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)


def shapes(model, side, channels=3, dtype=jnp.float32):
    """Shapes of the model's state and of its three outputs; nothing is computed."""
    images = jax.ShapeDtypeStruct([2, side, side, channels], dtype)
    state = jax.eval_shape(lambda x: init_state(model, make_optimizer(0.1), KEY, x), images)

    def outputs(state, x):
        G_f = model.feature_extractor
        variables = {"params": state.theta["f"]} | state.batch_stats["f"]
        f = G_f.apply(variables, x, **networks.accepted(G_f, {"domain": 0}))
        y = model.label_predictor.apply({"params": state.theta["y"]}, f)
        return Apply(f, y, model.domain_classifier.apply({"params": state.theta["d"]}, f))

    return state, jax.eval_shape(outputs, state, images)


def kernels(theta, part):
    """Kernel shapes of a part, in the order of its layers."""
    leaves = jax.tree_util.tree_leaves_with_path(theta[part])
    shapes = {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
    return [shape for name, shape in shapes.items() if "kernel" in name]


@pytest.mark.parametrize(
    ("model", "side", "f", "y", "d"),
    [
        (
            mnist,
            32,
            [(5, 5, 3, 32), (5, 5, 32, 48)],
            [(1200, 100), (100, 100), (100, 10)],
            [(1200, 100), (100, 1)],
        ),
        (
            mnist,
            28,
            [(5, 5, 3, 32), (5, 5, 32, 48)],
            [(768, 100), (100, 100), (100, 10)],
            [(768, 100), (100, 1)],
        ),
        (
            svhn,
            32,
            [(5, 5, 3, 64), (5, 5, 64, 64), (5, 5, 64, 128)],
            [(8192, 3072), (3072, 2048), (2048, 10)],
            [(8192, 1024), (1024, 1024), (1024, 1)],
        ),
        (
            gtsrb,
            40,
            [(5, 5, 3, 96), (3, 3, 96, 144), (5, 5, 144, 256)],
            [(1024, 512), (512, 43)],
            [(1024, 1024), (1024, 1024), (1024, 1)],
        ),
    ],
)
def test_layer_widths_are_those_of_fig_4(model, side, f, y, d):
    state, outputs = shapes(model(), side)
    assert kernels(state.theta, "f") == f
    assert kernels(state.theta, "y") == y
    assert kernels(state.theta, "d") == d
    assert outputs.feature_extractor.shape == (2, y[0][0])
    assert outputs.label_predictor.shape == (2, y[-1][1])
    assert outputs.domain_classifier.shape == (2, 1)
    assert not jax.tree.leaves(state.batch_stats)  # no batch norm in the paper's nets


class Backbone(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(7)(x.reshape(len(x), -1)))


def test_office_has_a_linear_bottleneck_of_256_units():
    state, outputs = shapes(office(Backbone()), 6)
    assert state.theta["f"]["bottleneck"]["kernel"].shape == (7, 256)
    assert kernels(state.theta, "y") == [(256, 31)]
    assert kernels(state.theta, "d") == [(256, 1024), (1024, 1024), (1024, 1)]
    assert outputs.feature_extractor.shape == (2, 256)
    model = office(Backbone())
    images = jax.random.normal(KEY, [4, 6, 6, 3])
    f, _ = model.feature_extractor.init_with_output(KEY, images)
    assert jnp.any(f < 0)  # no ReLU after the bottleneck


def test_the_batch_norm_variant_differs_from_the_papers_net_where_it_says():
    paper, _ = shapes(mnist(), 28)
    variant, _ = shapes(mnist_batch_norm(), 28)
    assert kernels(variant.theta, "f") == kernels(paper.theta, "f")
    assert kernels(variant.theta, "y") == kernels(paper.theta, "y")
    assert kernels(variant.theta, "d") == [(768, 512), (512, 1)]
    assert variant.theta["f"]["norm1"]["scale"].shape == (32,)
    assert set(variant.batch_stats["f"]["batch_stats"]["norm2"]) == {"source", "target"}
    shared, _ = shapes(mnist_batch_norm(statistics="shared"), 28)
    assert set(shared.batch_stats["f"]["batch_stats"]["norm2"]) == {"shared"}


@pytest.mark.parametrize(("side", "flat"), [(28, 2048), (32, 2048), (40, 3200)])
@pytest.mark.parametrize("bottleneck", [True, False])
def test_the_compact_net_takes_all_sizes_and_its_domain_classifier_one_of_two_places(
    side, flat, bottleneck
):
    classes = 43 if side == 40 else 10
    model = compact(classes=classes, bottleneck=bottleneck)
    state, _ = jax.eval_shape(
        lambda x: (init_state(model, make_optimizer(0.1), KEY, x), 0),
        jax.ShapeDtypeStruct([2, side, side, 3], jnp.float32),
    )
    convolutions, fully = [(3, 3, 64, 128), (5, 5, 3, 32), (5, 5, 32, 64)], [(flat, 256)]
    assert sorted(kernels(state.theta, "f")) == sorted(convolutions + fully * bottleneck)
    assert kernels(state.theta, "y") == fully * (not bottleneck) + [(256, classes)]
    seen = 256 if bottleneck else flat
    assert kernels(state.theta, "d") == [(seen, 500), (500, 500), (500, 1)]
    norms = jax.tree_util.tree_leaves_with_path(state.batch_stats)
    names = [networks.parameter_names(path) for path, _ in norms]
    assert len(names) == 4 * 2 * 2  # four layers, two domains, mean and variance
    assert all({"source", "target"} & set(name) for name in names)


def test_the_compact_net_lets_a_tenth_through_below_0():
    for model in (compact(), compact(bottleneck=False)):
        for part in (model.feature_extractor, model.label_predictor, model.domain_classifier):
            np.testing.assert_allclose(part.activation(jnp.array([-2.0, 3.0])), [-0.2, 3.0])
    rates = [layer.dropout_rate for layer in compact().feature_extractor.layers]
    assert rates == [0.0, 0.5, 0.5]


@pytest.mark.parametrize("model", [mnist, mnist_batch_norm, svhn, gtsrb])
def test_bfloat16_computes_in_bfloat16_with_float32_parameters(model):
    state, outputs = shapes(model(dtype=jnp.bfloat16), 40)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.theta)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.batch_stats)} <= {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in outputs} == {jnp.dtype("bfloat16")}
    _, outputs = shapes(model(), 40)
    assert {leaf.dtype for leaf in outputs} == {jnp.dtype("float32")}


# --- dropout and max-norm ----------------------------------------------------------------


def needs_noise(module, x):
    """Whether the module asks for random numbers in training."""
    options = networks.accepted(module, {"train": True, "domain": 0})
    try:
        jax.eval_shape(
            lambda x: module.apply(
                module.init(KEY, x, **networks.accepted(module, {"domain": 0})),
                x,
                mutable=["batch_stats"],
                **options,
            ),
            x,
        )
    except flax.errors.InvalidRngError:
        return True
    return False


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (mnist, ""),
        (mnist_batch_norm, ""),
        (gtsrb, ""),
        (svhn_batch_norm, "y"),
        (svhn, "fy"),
    ],
)
def test_dropout_is_in_the_svhn_net_only_and_not_in_its_domain_classifier(model, parts):
    model = model()
    images = jax.ShapeDtypeStruct([2, 40, 40, 3], jnp.float32)
    features = jax.ShapeDtypeStruct([2, 5], jnp.float32)
    assert needs_noise(model.feature_extractor, images) == ("f" in parts)
    assert needs_noise(model.label_predictor, features) == ("y" in parts)
    assert needs_noise(model.domain_classifier, features) == ("d" in parts)
    assert model.max_norm == (4.0 if parts == "fy" else None)


def test_the_variant_of_the_svhn_net_has_the_shapes_of_the_papers_network():
    normed, paper = (
        jax.tree.map(jnp.shape, shapes(model(), 32)[0].theta) for model in (svhn_batch_norm, svhn)
    )
    for i in (1, 2, 3):
        assert set(normed["f"].pop(f"norm{i}")) == {"scale", "bias"}
    assert normed == paper


def test_svhn_dropout_rates_are_1_minus_the_probabilities_of_srivastava():
    f, y = svhn().feature_extractor, svhn().label_predictor
    rates = f.input_dropout_rate, *(layer.dropout_rate for layer in f.layers)
    assert rates == (1 - 0.9, 1 - 0.75, 1 - 0.75, 1 - 0.5)
    assert y.dropout_rate == 0.5


def test_networks_built_twice_are_equal_so_that_programs_are_compiled_once():
    for network in (mnist, mnist_batch_norm, svhn, svhn_batch_norm, gtsrb, compact):
        assert network() == network()
        assert hash(network()) == hash(network())
    assert svhn() != svhn(kernel_init=nn.initializers.he_normal())


@pytest.mark.parametrize(
    "network",
    [mnist, mnist_batch_norm, svhn, svhn_batch_norm, gtsrb, compact]
    + [functools.partial(make, None) for make in (office, networks.office_batch_norm)],
)
def test_every_network_passes_the_options_of_its_layers_on(network):
    kernel_init = nn.initializers.constant(0.5)
    model = network(classes=7, kernel_init=kernel_init, dtype=jnp.bfloat16)
    assert model.label_predictor.outputs == 7
    assert model.domain_classifier.outputs == 1
    for part in (model.feature_extractor, model.label_predictor, model.domain_classifier):
        assert part.kernel_init is kernel_init
        assert part.dtype == jnp.bfloat16
    with pytest.raises(TypeError, match="initializer"):
        network(initializer=kernel_init)


def test_dropout_keeps_the_stated_share_and_the_mean():
    module = networks.FullyConnected((4000,), 2, dropout_rate=0.25)
    x = jnp.ones([1, 3])
    theta = module.init(KEY, x)

    def hidden(train):
        _, captured = module.apply(
            theta, x, train=train, rngs={"dropout": KEY}, capture_intermediates=True
        )
        return captured["intermediates"]["fc1"]["__call__"][0]

    still, noisy = hidden(False), hidden(True)
    kept = np.asarray(noisy[still > 0] > 0)
    assert abs(kept.mean() - 0.75) < 0.04
    on = (still > 0) & (noisy > 0)
    np.testing.assert_allclose(noisy[on], still[on] / 0.75, rtol=1e-5)


def test_max_norm_bounds_the_incoming_weights_of_each_unit():
    theta = {
        "dense": {"kernel": jnp.array([[3.0, 0.3], [4.0, 0.4]]), "bias": jnp.array([9.0, 9.0])},
        "conv": {"kernel": jnp.full([2, 2, 4, 1], 3.0)},  # norm 3 * sqrt(16) = 12
        "zero": {"kernel": jnp.zeros([2, 2])},
    }
    new = networks.project_max_norm(theta, 4.0)
    # Column 1 has norm 5 and shrinks to 4, column 2 has norm .5 and stays.
    np.testing.assert_allclose(new["dense"]["kernel"], [[2.4, 0.3], [3.2, 0.4]], rtol=1e-6)
    np.testing.assert_array_equal(new["dense"]["bias"], [9.0, 9.0])
    np.testing.assert_allclose(new["conv"]["kernel"], np.ones([2, 2, 4, 1]), rtol=1e-6)
    np.testing.assert_array_equal(new["zero"]["kernel"], np.zeros([2, 2]))


def test_max_norm_is_restored_after_each_update_in_f_and_y_only():
    big = functools.partial(networks.FullyConnected, kernel_init=nn.initializers.constant(5.0))
    model = networks.DannModel(
        feature_extractor=big((), 4),
        label_predictor=big((), 3),
        domain_classifier=big((), 1),
        max_norm=2.0,
    )
    x = jax.random.normal(KEY, [4, 6])
    optimizer = make_optimizer(0.01)
    state = init_state(model, optimizer, KEY, x)
    update = jax.jit(make_update_step(model, optimizer, lambda step: 1.0))
    state, _ = update(state, DomainBatch(x, jnp.arange(4) % 3, x), KEY)
    norms = {k: jnp.linalg.norm(t["logits"]["kernel"], axis=0) for k, t in state.theta.items()}
    np.testing.assert_allclose(norms["f"], 2.0, rtol=1e-5)
    np.testing.assert_allclose(norms["y"], 2.0, rtol=1e-5)
    assert norms["d"] > 2.0


# --- batch norm --------------------------------------------------------------------------


def normalized(x):
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)


@pytest.fixture(params=[(8, 5), (6, 3, 3, 5)], ids=["dense", "images"])
def two_domains(request):
    x = np.array(jax.random.normal(KEY, request.param))
    x[len(x) // 2 :] = 3.0 * x[len(x) // 2 :] + 7.0
    return x


def test_per_domain_batch_norm_uses_the_statistics_of_each_domain(two_domains):
    x, half = two_domains, len(two_domains) // 2
    norm = networks.DomainBatchNorm("per_domain")
    variables = norm.init(KEY, x)
    joint, new = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    want = np.concatenate([normalized(x[:half]), normalized(x[half:])])
    np.testing.assert_allclose(joint, want, rtol=1e-3, atol=1e-4)
    axes = tuple(range(x.ndim - 1))
    for name, part in (("source", x[:half]), ("target", x[half:])):
        # Running averages start at mean 0 and variance 1 and keep a share of .9.
        averages = new["batch_stats"][name]
        np.testing.assert_allclose(averages["mean"], 0.1 * part.mean(axes), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(averages["var"], 0.9 + 0.1 * part.var(axes), rtol=1e-3)


def test_shared_batch_norm_uses_the_statistics_of_the_joint_batch(two_domains):
    norm = networks.DomainBatchNorm("shared")
    joint, _ = norm.apply(
        norm.init(KEY, two_domains), two_domains, train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(joint, normalized(two_domains), rtol=1e-3, atol=1e-4)


def test_outside_training_the_domain_chooses_the_running_averages(two_domains):
    x, half = two_domains, len(two_domains) // 2
    norm = networks.DomainBatchNorm("per_domain", momentum=0.0)  # keeps the last batch alone
    variables = norm.init(KEY, x)
    _, new = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    variables = variables | new
    axes = tuple(range(x.ndim - 1))
    for domain, part in ((0, x[:half]), (1, x[half:])):
        y, after = norm.apply(variables, x[:3], domain=domain, mutable=["batch_stats"])
        want = (x[:3] - part.mean(axes)) / np.sqrt(part.var(axes) + 1e-5)
        np.testing.assert_allclose(y, want, rtol=1e-3, atol=1e-3)
        jax.tree.map(np.testing.assert_array_equal, after, new)  # they do not move
    one = norm.apply(variables, x[half:], train=True, domain=1, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(one, normalized(x[half:]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("statistics", ["shared", "per_domain"])
def test_batch_norm_over_four_devices_equals_one(statistics, devices):
    source = np.array(jax.random.normal(KEY, [8, 5]))
    target = 2.0 * np.array(jax.random.normal(jax.random.key(1), [8, 5])) - 3.0
    norm = networks.DomainBatchNorm(statistics)
    variables = norm.init(KEY, source)
    train = functools.partial(norm.apply, train=True, mutable=["batch_stats"])
    whole, new = train(variables, np.concatenate([source, target]))
    shares = np.concatenate([source.reshape(4, 2, 5), target.reshape(4, 2, 5)], axis=1)
    split, new_split = jax.pmap(
        functools.partial(train, axis_name="i"), axis_name="i", in_axes=(None, 0)
    )(variables, shares)
    split = np.asarray(split)
    rows = np.concatenate([split[:, :2].reshape(8, 5), split[:, 2:].reshape(8, 5)])
    np.testing.assert_allclose(rows, whole, rtol=1e-4, atol=1e-5)
    for device in range(4):
        jax.tree.map(
            lambda a, b, device=device: np.testing.assert_allclose(a[device], b, rtol=1e-4),
            new_split,
            new,
        )


def test_a_model_with_per_domain_statistics_starts_from_one_example():
    state, _ = shapes(mnist_batch_norm(), 28)
    one = jax.eval_shape(
        lambda x: init_state(mnist_batch_norm(), make_optimizer(0.1), KEY, x),
        jax.ShapeDtypeStruct([1, 28, 28, 3], jnp.float32),
    )
    assert jax.tree.map(jnp.shape, one) == jax.tree.map(jnp.shape, state)


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="'domain': expected 'shared' or 'per_domain'"):
        networks.DomainBatchNorm("domain").init(KEY, jnp.ones([2, 3]))
    norm = networks.DomainBatchNorm("per_domain")
    variables = norm.init(KEY, jnp.ones([2, 3]))
    with pytest.raises(ValueError, match="joint batch of 3 examples.*as many source as target"):
        norm.apply(variables, jnp.ones([3, 3]), train=True, mutable=["batch_stats"])
    for statistics in ("shared", "per_domain"):
        with pytest.raises(ValueError, match=r"unknown domain 2: expected 0 \(source\) or 1"):
            networks.DomainBatchNorm(statistics).init(KEY, jnp.ones([2, 3]), domain=2)


def test_parts_of_another_kind_are_refused():
    fitting = {"label_predictor": mnist().label_predictor, "domain_classifier": lambda x: x}
    with pytest.raises(TypeError, match="Linen module or a PureFunction as domain_classifier, got"):
        networks.DannModel(feature_extractor=mnist().feature_extractor, **fitting)
