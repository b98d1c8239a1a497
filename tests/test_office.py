"""The two recipes of Office-31, backbones with weights from a file, and frozen ones."""

import contextlib
import dataclasses
import hashlib
import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import dann_jax
from dann_jax import datasets, evaluation, networks, schedules, training
from dann_jax.backbones import BACKBONES, load_weights
from dann_jax.backbones.normalized_convolution import NormalizedConvolution
from dann_jax.backbones.weights import Layer
from dann_jax.datasets.digits import digits_dataset_builder
from dann_jax.datasets.digits_m import digits_m_dataset_builder
from dann_jax.programs import Group
from experiments import (
    configs,
    domains,
    export,
    keeping,
    plan,
    predictions,
    pretraining,
    run,
    studies,
)
from experiments.configs import office31
from experiments.figures import embed
from experiments.methods import METHODS
from experiments.settings import Config, make_model

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIDE, WIDTH = 12, 6
NAME = "resnet50"  # the tiny one takes its place
DIRECTIONS = [
    (source, target)
    for source in ("amazon", "dslr", "webcam")
    for target in ("amazon", "dslr", "webcam")
    if source != target
]


class Tiny(nn.Module):
    """One convolution and the mean over all pixels."""

    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        layer = NormalizedConvolution(WIDTH, 3, dtype=self.dtype, name="conv")
        return jnp.mean(layer(x, train=train, axis_name=axis_name), (1, 2))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Puts a tiny backbone in the place of ResNet-50."""
    backbone = BACKBONES[NAME]._replace(
        make=Tiny,
        image_size=SIDE,
        features=WIDTH,
        layers=lambda: [Layer(("conv",), "conv", "bn")],
        scale=(50.0, 60.0, 70.0),
    )
    monkeypatch.setitem(BACKBONES, NAME, backbone)


def write_weights(path, seed=0):
    random = np.random.default_rng(seed)
    shapes = {"conv.weight": (WIDTH, 3, 3, 3)} | {
        f"bn.{name}": (WIDTH,) for name in ("weight", "bias", "running_mean", "running_var")
    }
    arrays = {n: random.uniform(0.1, 1, shape).astype(np.float32) for n, shape in shapes.items()}
    np.savez(path, **arrays)
    return path


@pytest.fixture
def weights(tmp_path):
    return write_weights(tmp_path / "tiny.npz")


@pytest.fixture
def config(weights):
    recipe = office31.batch_norm("amazon", "webcam")
    return dataclasses.replace(
        recipe, weights=weights, image_size=SIDE, crop=10, classes=3, steps=4, batch_size=8
    )


def above_frozen(config):
    return dataclasses.replace(
        config, frozen=True, mean="joint", input_scale=1.0, backbone_factor=1.0
    )


def image_set(seed, count=24):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, [count, SIDE, SIDE, 3], np.uint8)
    return datasets.ImageSet(images, random.integers(0, 3, count, np.int32))


SETS = image_set(0), image_set(1)


def pair_of(source, target):
    return domains.Pair(source, source, target, target, ("x", "y", "z"), True, None, {})


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def test_features_are_those_of_the_middle_and_of_its_mirror_image(config, tmp_path):
    made = pretraining.features(above_frozen(config), SETS[0], "digest", tmp_path)
    assert made.image.shape == (24, 1, 2, WIDTH)
    assert made.image.dtype == np.float32
    np.testing.assert_array_equal(made.label, SETS[0].label)
    middle = SETS[0].image[:, 1:11, 1:11].astype(np.float32)
    backbone = BACKBONES[NAME]
    seen = (middle - np.float32(backbone.mean)[None, None, None]) / np.float32(backbone.scale)[
        None, None, None
    ]
    variables = load_weights(NAME, config.weights)
    for i, view in enumerate((seen, seen[:, :, ::-1])):
        expected = backbone.make().apply(variables, view)
        np.testing.assert_allclose(made.image[:, 0, i], expected, rtol=1e-4, atol=1e-5)
    plain = dataclasses.replace(above_frozen(config), mirror=False)
    alone = pretraining.features(plain, SETS[0], "digest", tmp_path)
    np.testing.assert_allclose(alone.image[:, :, 0], made.image[:, :, 0], rtol=1e-5)


def test_features_are_computed_once_for_the_same_images_weights_and_crop(
    config, tmp_path, monkeypatch
):
    config, computed = above_frozen(config), []

    def computing(*args):
        computed.append(args)
        return real(*args)

    real = pretraining._computed
    monkeypatch.setattr(pretraining, "_computed", computing)
    folder = tmp_path / "features"
    first = pretraining.features(config, SETS[0], "a", folder)
    again = pretraining.features(config, SETS[0], "a", folder)
    np.testing.assert_array_equal(first.image, again.image)
    assert len(computed) == 1
    other = write_weights(tmp_path / "other.npz", seed=1)
    for changed, digest in (
        (config, "b"),
        (dataclasses.replace(config, crop=8), "a"),
        (dataclasses.replace(config, mirror=False), "a"),
        (dataclasses.replace(config, weights=other), "a"),
    ):
        pretraining.features(changed, SETS[0], digest, folder)
    assert len(computed) == 5
    assert len(list(folder.glob("*.npy"))) == len(list(folder.glob("*.sha256"))) == 5


def damaged(path, damage):
    content = path.read_bytes()
    if damage == "bit":
        content = content[:-1] + bytes([content[-1] ^ 1])
    elif damage == "truncated":
        content = content[:100]
    elif damage == "other shape":
        np.save(path, np.load(path)[:-1])
        return
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["bit", "truncated", "other shape", "digest", "no digest"])
def test_damaged_features_are_computed_anew(config, tmp_path, monkeypatch, damage):
    config = above_frozen(config)
    golden = np.random.default_rng(0).random((24, 1, 2, WIDTH), np.float32)
    monkeypatch.setattr(pretraining, "_computed", lambda *args: golden)
    pretraining.features(config, SETS[0], "a", tmp_path)
    (path,), (digest,) = tmp_path.glob("*.npy"), tmp_path.glob("*.sha256")
    whole = path.read_bytes(), digest.read_bytes()
    told = pytest.warns(UserWarning, match=f"{path} is damaged: the features are computed anew")
    if damage == "no digest":  # of an earlier version
        digest.unlink()
        told = contextlib.nullcontext()
    elif damage == "digest":
        damaged(digest, "bit")
    else:
        damaged(path, damage)
    with told:
        again = pretraining.features(config, SETS[0], "a", tmp_path)
    np.testing.assert_array_equal(again.image, golden)
    assert (path.read_bytes(), digest.read_bytes()) == whole


def test_features_need_no_folder_that_can_be_written_to(config, tmp_path):
    (tmp_path / "file").touch()
    made = pretraining.features(above_frozen(config), SETS[0], "a", tmp_path / "file" / "features")
    assert np.isfinite(made.image).all()


def test_what_is_trained_above_a_frozen_backbone_fits_on_top_of_it(config, tmp_path):
    frozen = above_frozen(config)
    pair = pair_of(
        *(pretraining.features(frozen, images, str(i), tmp_path) for i, images in enumerate(SETS))
    )
    prepared = studies.prepare(frozen, METHODS["dann"], pair, jax.local_devices()[:1])
    state, _ = prepared.start(Group((0,), 1))
    assert "backbone" not in state.theta["f"]
    preprocess = domains.preprocessing(frozen, pair, METHODS["dann"])
    logits = evaluation.predict(
        prepared.model, state, pair.target_test.image, preprocess=preprocess.target
    )

    variables = load_weights(NAME, config.weights)

    class Whole(nn.Module):
        """The backbone, and the subtraction that stands above it."""

        def __call__(self, x):
            made = Tiny(parent=None).apply(variables, x)
            return made - jnp.asarray(preprocess.target_mean, jnp.float32)[None]

    whole = networks.office_batch_norm(Whole(), classes=3)
    seen = domains.preprocessing(config, pair_of(*SETS), METHODS["dann"]).target
    expected = evaluation.predict(whole, state, SETS[1].image, preprocess=seen)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_model_is_kept_with_its_backbone(config, tmp_path, frozen):
    pair = pair_of(*SETS)
    if frozen:
        config = above_frozen(config)
        outputs = [pretraining.features(config, images, "", tmp_path / "f") for images in SETS[:1]]
        pair = pair_of(*outputs, *outputs)
    study = studies.prepare(config, METHODS["dann"], pair, jax.local_devices()[:1])
    state, _ = study.start(Group((0,), 1))
    keeping.keep(study, state, tmp_path / "kept")
    model, loaded, classes, preprocess = dann_jax.load(tmp_path / "kept")
    images = SETS[0 if frozen else 1].image
    logits = evaluation.predict(model, loaded, images, preprocess=preprocess)
    expected = study.outputs(evaluation.predict, state, "target")[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert classes == ("x", "y", "z")
    assert export.main([str(tmp_path / "kept")]) == 0
    content = (tmp_path / "kept" / "model.jax_export").read_bytes()
    probabilities = jax.export.deserialize(bytearray(content)).call(images[:5])
    np.testing.assert_allclose(
        probabilities, predictions.probabilities(expected)[:5], rtol=1e-4, atol=1e-5
    )


def test_trainings_start_from_the_weights_whether_alone_or_together(config):
    prepared = studies.prepare(config, METHODS["dann"], pair_of(*SETS), jax.local_devices()[:1])
    expected = leaves(load_weights(NAME, config.weights)["params"])
    alone, _ = prepared.start(Group((3,), 1))
    both, _ = prepared.start(Group((2, 3), 1))
    for name, value in leaves(alone.theta["f"]["backbone"]).items():
        np.testing.assert_array_equal(value, expected[name])
    for state in (alone, jax.tree.map(lambda x: x[1], both)):
        averages = state.batch_stats["f"]["batch_stats"]
        file = load_weights(NAME, config.weights)["batch_stats"]
        np.testing.assert_array_equal(
            averages["backbone"]["conv"]["norm"]["var"], file["conv"]["norm"]["var"]
        )
        assert (averages["norm"]["shared"]["var"] == 1).all()
    for name, value in leaves(alone.theta).items():
        np.testing.assert_array_equal(leaves(both.theta)[name][1], value)
    kernels = both.theta["f"]["bottleneck"]["kernel"]
    assert not np.array_equal(kernels[0], kernels[1])


def first_step(config, count=1):
    """Returns the step that the optimizer makes after some gradients of 1 at parameters of 1."""
    theta = {
        "f": {"backbone": {"kernel": jnp.ones([1, 1])}, "bottleneck": {"bias": jnp.ones([1])}},
        "y": {"logits": {"kernel": jnp.ones([1, 1]), "bias": jnp.ones([1])}},
    }
    optimizer = studies._optimizer(config, 1.0)
    state = optimizer.init(theta)
    for _ in range(count):
        step, state = optimizer.update(jax.tree.map(jnp.ones_like, theta), state, theta)
    return {name: -float(value.squeeze()) for name, value in leaves(step).items()}


def test_the_backbone_and_biases_have_learning_rates_of_their_own():
    config = Config(source="a", target="b", backbone_factor=0.25, bias_factor=2.0)
    assert first_step(config) == {
        "['f']['backbone']['kernel']": 0.25,
        "['f']['bottleneck']['bias']": 2.0,
        "['y']['logits']['bias']": 2.0,
        "['y']['logits']['kernel']": 1.0,
    }


def test_nesterov_and_weight_decay_reach_the_optimizer():
    config = Config(source="a", target="b", momentum=0.5, weight_decay=0.125)
    name = "['y']['logits']['kernel']"
    assert first_step(config, 2)[name] == 1.125 * 1.5
    assert first_step(dataclasses.replace(config, nesterov=True), 2)[name] == 1.125 * 1.75


def test_the_paper_recipe_is_that_of_the_authors_files():
    config = office31.paper("amazon", "webcam")
    assert (config.source_train, config.target_test) == ("train", "train")  # transductive
    for step in (0, 1_000, 10_000, 49_999):
        mu = schedules.mu_p(step / config.steps, config.mu0, config.alpha, config.beta)
        assert config.backbone_factor * mu == pytest.approx(0.001 * (1 + 0.001 * step) ** -0.75)
    step = first_step(config)
    of_backbone = step["['f']['backbone']['kernel']"]
    assert step["['y']['logits']['kernel']"] / of_backbone == pytest.approx(10)
    assert step["['f']['bottleneck']['bias']"] / of_backbone == pytest.approx(20)
    assert (config.steps, config.lambda_horizon, config.batch_size) == (50_000, 10_000, 128)
    assert (config.domain_weight, config.momentum, config.weight_decay) == (0.1, 0.9, 0.0)
    assert (config.crop, config.image_size, config.mirror) == (227, 256, True)
    model = make_model(config, 31)
    assert isinstance(model.feature_extractor.backbone, BACKBONES["alexnet"].make)
    assert model.feature_extractor.bottleneck == 256
    assert model.feature_extractor.statistics is None
    assert model.domain_classifier.hidden == (1024, 1024)
    assert model.domain_classifier.dropout_rate == 0.5


def test_the_modern_recipe_has_batch_norm_in_the_bottleneck_and_in_g_d():
    config = office31.batch_norm("amazon", "webcam")
    for step in (0, 1_000, 19_999):
        mu = schedules.mu_p(step / config.steps, config.mu0, config.alpha, config.beta)
        assert mu == pytest.approx(0.01 * (1 + 0.001 * step) ** -0.75)
        lam = schedules.lambda_p(min(1, step / config.lambda_horizon), config.gamma)
        assert lam == pytest.approx(2 / (1 + np.exp(-step / 1_000)) - 1, abs=1e-4)
    assert (config.steps, config.batch_size, config.nesterov) == (20_000, 64, True)
    assert (config.backbone_factor, config.weight_decay, config.crop) == (0.1, 1e-3, 224)
    model = make_model(config, 31)
    image = jax.ShapeDtypeStruct((2, SIDE, SIDE, 3), jnp.float32)
    state = jax.eval_shape(
        lambda x: training.init_state(
            model, training.make_optimizer(0.1), jax.random.key(0), jnp.zeros(x.shape)
        ),
        image,
    )
    assert set(state.theta["f"]) == {"backbone", "bottleneck", "norm"}
    assert set(state.theta["d"]["fc2"]) == {"dense", "norm"}
    assert set(state.batch_stats["d"]["batch_stats"]) == {"fc1", "fc2"}
    assert state.batch_stats["y"] == {}


def test_the_frozen_recipe_has_no_backbone_and_statistics_of_each_domain_in_the_bottleneck():
    config = office31.frozen("amazon", "webcam")
    assert (config.input_size, config.crop, config.mirror) == (1, 224, True)
    model = make_model(config, 31)
    assert model.feature_extractor.backbone is None
    assert model.feature_extractor.statistics == "per_domain"
    assert config.alpha / config.steps == pytest.approx(0.001)


def test_batch_norm_sees_the_joint_batch_in_g_d_and_changes_nothing_where_it_is_not_asked_for():
    plain, normed = networks.FullyConnected((4,), 1), networks.FullyConnected((4,), 1, batch_norm=1)
    x = np.random.default_rng(0).normal(3, 2, [6, 5]).astype(np.float32)
    variables = normed.init(jax.random.key(0), x)
    _, new = normed.apply(variables, x, train=True, mutable=["batch_stats"])
    hidden = x @ np.asarray(variables["params"]["fc1"]["dense"]["kernel"])
    mean = new["batch_stats"]["fc1"]["norm"]["shared"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * hidden.mean(0), rtol=1e-4)
    assert set(plain.init(jax.random.key(0), x)["params"]["fc1"]) == {"dense"}


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_each_direction_has_a_config_for_each_recipe(source, target):
    for suffix, recipe in (
        ("", office31.paper),
        ("_resnet50", office31.batch_norm),
        ("_frozen", office31.frozen),
    ):
        config, _ = configs.find_config(f"office31_{source}_{target}{suffix}")
        assert config == recipe(source, target)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"backbone": None, "weights": None, "mean": "joint"}, "expected a backbone"),
        ({"network": "mnist"}, "expected a backbone for .* got network mnist and backbone resnet"),
        ({"backbone": "vgg"}, "unknown backbone 'vgg': expected one of .*alexnet"),
        ({"network": "mnist", "backbone": None, "weights": None}, "mean backbone needs a backbone"),
        ({"backbone_factor": 0.0}, "backbone_factor must be positive"),
        ({"network": "mnist", "backbone": None}, "weights and frozen are a backbone's"),
    ],
)
def test_settings_of_backbones_that_do_not_fit_are_refused(config, changes, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(config, **changes)


def test_results_name_the_weights_by_file_name_and_digest(config, weights):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    settings = plan.resolved(config, METHODS["dann"])
    assert settings["weights"] == {"file": "tiny.npz", "sha256": digest}
    json.dumps(settings)
    write_weights(weights, seed=5)
    assert plan.resolved(config, METHODS["dann"])["weights"]["sha256"] != digest
    without = plan.resolved(Config(source="a", target="b"), METHODS["dann"])
    assert without["weights"] is None


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ([], "resnet50-0676ba61.pth"),
        (["--weights", "nowhere/resnet50.pth"], "no file nowhere/resnet50.pth"),
    ],
)
def test_missing_weights_are_told_before_anything_starts(options, hint, tmp_path, capsys):
    call = ["office31_amazon_webcam_resnet50", "--output", str(tmp_path / "runs"), *options]
    assert run.main([*call, "--data-dir", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert hint in told
    assert "--weights FILE" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["office31_amazon_webcam_resnet50", "office31_amazon_webcam_frozen"]
)
def test_a_file_of_other_weights_is_told_before_anything_starts(name, tmp_path, capsys):
    path = tmp_path / "other.npz"
    np.savez(path, **{"features.0.weight": np.zeros([4, 3, 3, 3], np.float32)})
    call = [name, "--weights", str(path), "--output", str(tmp_path / "runs")]
    assert run.main([*call, "--data-dir", str(tmp_path)]) == 2
    assert "unexpected: features.0.weight" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_settings_are_checked_before_devices_are_looked_for(weights):
    """As jax.distributed, which refuses to start once they have been."""
    program = f"""
import socket
import jax
from experiments import options, plan
name, words = "office31_amazon_webcam_frozen", ["--weights", {str(weights)!r}]
plan.make_plan(name, options.parse(name, words, shown=name))
with socket.create_server(("localhost", 0)) as server:
    port = server.getsockname()[1]
jax.distributed.initialize(f"localhost:{{port}}", 1, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_weights_of_another_network_are_refused(config, tmp_path):
    np.savez(tmp_path / "other.npz", **{"features.0.weight": np.zeros([4, 3, 3, 3], np.float32)})
    other = dataclasses.replace(config, weights=tmp_path / "other.npz")
    with pytest.raises(ValueError, match="missing: bn.bias, .*; unexpected: features.0.weight"):
        studies.prepare(other, METHODS["dann"], pair_of(*SETS), jax.local_devices()[:1])


def test_frozen_rows_run_from_the_command_line(weights, tmp_path, monkeypatch, capsys):
    for module in (digits_dataset_builder, digits_m_dataset_builder):
        monkeypatch.setattr(module.Builder, "CLASS_COUNTS", {"train": (2,) * 10, "test": (1,) * 10})
    words = "--backbone resnet50 --image-size 28 --crop 24 --classes 10 --source digits --target "
    words += "digits_m --steps 4 --evaluate-every 2 --batch-size 8 --methods dann --devices 1"
    where = ["--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "runs")]
    call = ["office31_amazon_webcam_frozen", "--weights", str(weights), *words.split(), *where]
    assert run.main([*call, "--streaming"]) == 2
    assert "no --streaming" in capsys.readouterr().err
    assert run.main(call) == 0
    assert len(list((tmp_path / "data" / "features").glob("resnet50-*.npy"))) == 2
    path = tmp_path / "runs" / "office31_amazon_webcam_frozen" / "dann.json"
    result = json.loads(path.read_text())
    assert result["resolved_config"]["weights"]["file"] == "tiny.npz"
    assert "--weights tiny.npz" in result["command"]
    assert str(tmp_path) not in json.dumps(result)
    before = path.stat().st_mtime_ns
    assert run.main(call) == 0
    assert path.stat().st_mtime_ns == before
    embedding = [str(path.parent), "--methods", "dann", *where[:2]]
    embedding += ["--images", "10", "--perplexity", "5"]
    assert embed.main([*embedding, "--weights", str(weights)]) == 0, capsys.readouterr().err
    assert (path.parent / "features.png").exists()
    assert embed.main([*embedding, "--weights", str(weights), "--layer", "hidden"]) == 2
    assert "this G_y has no hidden layer" in capsys.readouterr().err
    write_weights(weights, seed=9)
    assert embed.main([*embedding, "--weights", str(weights)]) == 2
    assert "the weights are not those of the file" in capsys.readouterr().err
    assert run.main(call) == 2
    assert "weights: {'file': 'tiny.npz'" in capsys.readouterr().err
