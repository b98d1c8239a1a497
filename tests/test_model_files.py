"""Trained models in folders: what is loaded is what was kept, and damage is refused."""

import csv
import dataclasses
import signal
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import dann_jax
from dann_jax import datasets, evaluation, model_files, training
from dann_jax.backbones import BACKBONES
from dann_jax.preprocessing import Preprocess
from experiments import configs, export, predict, predictions
from experiments.settings import NETWORKS, WITH_BACKBONE, library_network, make_model

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIDE, CLASSES = 16, ("cat", "dog, small", "µ")
MEAN, SCALE = (60.5, 61.0, 0.1 + 0.2), 255.0
DESCRIPTION = {
    "classes": CLASSES,
    "network": {
        "name": "mnist_batch_norm",
        "arguments": {"classes": len(CLASSES), "dtype": "float32"},
        "backbone": None,
        "frozen": False,
        "domain_input": "features",
    },
    "image": {"size": SIDE, "resize": True, "crop": SIDE, "mean": MEAN, "scale": SCALE},
    "features": None,
    "domain": "target",
    "versions": {"dann_jax": dann_jax.__version__},
}
IMAGES = jnp.zeros([2, SIDE, SIDE, 3])
MODEL = dann_jax.mnist_batch_norm(classes=len(CLASSES))


def state_of(model):
    """A state whose arrays are all different, as after a training."""
    start = jax.jit(lambda key: training.init_state(model, optax.sgd(0.1), key, IMAGES))
    state = start(jax.random.key(0))
    random = np.random.default_rng(0)
    theta, batch_stats = jax.tree.map(
        lambda a: jnp.asarray(a + random.uniform(0, 0.1, a.shape), a.dtype),
        (state.theta, state.batch_stats),
    )
    return dataclasses.replace(state, step=jnp.int32(7), theta=theta, batch_stats=batch_stats)


def keep(folder, state, description=DESCRIPTION, **options):
    folder.mkdir(parents=True)
    for name, content in model_files.contents(description, state, **options).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def state():
    return state_of(MODEL)


@pytest.fixture(scope="module")
def folder(state, tmp_path_factory):
    return keep(tmp_path_factory.mktemp("run") / "dann" / "key_0", state)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two images in a folder, one of them in a sub-folder, and one beside it."""
    root, random = tmp_path_factory.mktemp("new"), np.random.default_rng(1)
    for name, shape in {
        "in/a.png": (30, 20, 3),
        "in/deep/b.jpg": (9, 9),
        "c.png": (50, 50, 4),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(root / name)
    return root


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(2).integers(0, 256, [3, SIDE, SIDE, 3], np.uint8)


def test_what_is_loaded_predicts_the_same_bits(folder, state, images):
    model, loaded, classes, preprocess = dann_jax.load(folder.parent)
    assert (model, classes, loaded.opt_state, int(loaded.step)) == (MODEL, CLASSES, (), 7)
    expected = dann_jax.predict(
        MODEL, state, images, preprocess=Preprocess(MEAN, MEAN, SCALE, SIDE).target
    )
    logits = dann_jax.predict(model, loaded, images, preprocess=preprocess)
    np.testing.assert_array_equal(logits, expected)


def test_a_model_of_source_images_alone_predicts_by_their_statistics(tmp_path, state, images):
    kept = keep(tmp_path / "kept", state, DESCRIPTION | {"domain": "source"})
    model, loaded, _, preprocess = dann_jax.load(kept)
    logits = dann_jax.predict(model, loaded, images, preprocess=preprocess)
    expected = [
        dann_jax.predict(MODEL, state, images, preprocess=preprocess, domain=domain)
        for domain in (0, 1)
    ]
    np.testing.assert_array_equal(logits, expected[0])
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


@pytest.mark.parametrize("name", [model_files.DESCRIPTION, model_files.WEIGHTS])
@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.99, None])
def test_damage_is_refused(folder, tmp_path, name, where):
    for path in folder.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((folder / name).read_bytes())
    if where is None:
        del content[len(content) // 2 :]
    else:
        place = int(where * (len(content) - 2))
        while chr(content[place]).isspace():
            place += 1
        content[place] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged.*copy the folder anew"):
        dann_jax.load(tmp_path)


def test_what_is_missing_is_said_with_what_to_do(folder, tmp_path, state):
    (tmp_path / "dann" / "key_1").mkdir(parents=True)
    (tmp_path / "dann" / "key_1" / "record.json").write_text("{}")  # of an earlier version
    with pytest.raises(FileNotFoundError, match="got one without model.json.*--overwrite"):
        dann_jax.load(tmp_path / "dann" / "key_1")
    with pytest.raises(FileNotFoundError, match="got none"):
        dann_jax.load(tmp_path / "nothing")
    for key in (2, 3):
        keep(tmp_path / "dann" / f"key_{key}", state)
    with pytest.raises(ValueError, match="expected one trained model, got .*key_2.*key_3"):
        dann_jax.load(tmp_path)
    (tmp_path / "dann" / "key_3" / model_files.WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="expected the weights of model.json"):
        dann_jax.load(tmp_path / "dann" / "key_3")
    lost = dataclasses.replace(state, theta=jax.tree.map(lambda a: a * jnp.nan, state.theta))
    with pytest.raises(ValueError, match="expected finite weights"):
        model_files.contents(DESCRIPTION, lost)


def test_another_network_than_that_of_the_weights_is_refused(tmp_path, state):
    network = DESCRIPTION["network"] | {"name": "mnist"}
    kept = keep(tmp_path / "kept", state, DESCRIPTION | {"network": network})
    with pytest.raises(ValueError, match=r"arrays of the network of model.json, got \d+ others"):
        dann_jax.load(kept)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_of_the_experiments_are_the_librarys(name):
    backbone = "efficientnet_lite0" if name in WITH_BACKBONE else None
    config = dataclasses.replace(
        configs.find_config("own_pair")[0], network=name, backbone=backbone, frozen=bool(backbone)
    )
    side = 227 if name == "office_alexnet" else config.input_size
    channels = BACKBONES[backbone].features if backbone else 3
    network = library_network(config, 5) | {"domain_input": "features"}
    image = {"crop": side, "mean": MEAN, "scale": SCALE}
    model, shapes = model_files._model({"network": network, "image": image})
    expected = jax.eval_shape(
        lambda key, x: training.init_state(make_model(config, 5), optax.identity(), key, x),
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32),
    )
    assert (shapes["theta"], shapes["batch_stats"]) == (expected.theta, expected.batch_stats)
    assert bool(shapes["backbone"]) == bool(backbone)
    assert model.max_norm == make_model(config, 5).max_norm


@pytest.mark.parametrize("name", ["alexnet", "efficientnet_lite0", "resnet50"])
def test_backbones_take_batches_of_any_size(name):
    module, side = BACKBONES[name].make(), BACKBONES[name].image_size
    (n,) = jax.export.symbolic_shape("n")
    image = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    image = jax.ShapeDtypeStruct((n, side, side, 3), jnp.float32)
    outputs = jax.eval_shape(module.apply, variables, image)
    assert outputs.shape == (n, BACKBONES[name].features)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_predict_writes_a_line_for_each_image(folder, photographs, tmp_path, capsys, monkeypatch):
    paths, output = [str(photographs / "in"), str(photographs / "c.png")], tmp_path / "p.csv"
    assert predict.main([str(folder), *paths, "--output", str(output)]) == 0
    rows = rows_of(output)
    names = ["in/a.png", "in/deep/b.jpg", "c.png"]
    assert [row["file"] for row in rows] == [str(photographs / name) for name in names]
    model, state, classes, preprocess = dann_jax.load(folder)
    seen = [np.asarray(read(photographs / name)) for name in names]
    logits = dann_jax.predict(model, state, np.stack(seen), preprocess=preprocess)
    for row, expected in zip(rows, predictions.probabilities(logits), strict=True):
        numbers = [float(row[f"p({name})"]) for name in classes]
        np.testing.assert_allclose(numbers, expected, atol=2e-6)
        assert row["class"] == classes[expected.argmax()]
        assert float(row["probability"]) == max(numbers)
    capsys.readouterr()
    assert predict.main([str(folder), *paths]) == 0
    assert capsys.readouterr().out.splitlines() == output.read_text().splitlines()
    kept = output.read_bytes()
    assert predict.main([str(folder), *paths, "--output", str(output)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert output.read_bytes() == kept

    command = [sys.executable, "-m", "experiments.predict", str(folder), *paths]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        program.stdout.close()  # as head(1) does
        assert program.stderr.read() == b""
    assert program.returncode == 128 + signal.SIGPIPE

    def interrupted(path, **_):
        signal.raise_signal(signal.SIGINT)

    assert predict.main([str(folder), *paths, "--output", str(tmp_path), "--overwrite"]) == 2
    assert "expected the path of a file, got a folder" in capsys.readouterr().err
    monkeypatch.setattr(predict, "_read", interrupted)
    output = output.with_name("others.csv")
    assert predict.main([str(folder), *paths, "--output", str(output)]) == 130
    assert capsys.readouterr().err == "interrupted: nothing was written\n"
    assert not output.exists()


def read(path):
    """An image as a folder of photographs shows it to a training."""
    image = Image.open(path).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.resize((SIDE, SIDE), Image.BILINEAR)


def test_batches_do_not_change_predictions(folder, photographs, tmp_path, monkeypatch):
    outputs = tmp_path / "all.csv", tmp_path / "two.csv"
    for output, size in zip(outputs, (64, 2), strict=True):
        monkeypatch.setattr(predict, "BATCH", size)
        assert predict.main([str(folder), str(photographs), "--output", str(output)]) == 0
    one, other = map(rows_of, outputs)
    assert [row["class"] for row in one] == [row["class"] for row in other]
    assert [row["file"] for row in one] == [row["file"] for row in other]


def test_images_are_padded_where_those_of_the_training_were(tmp_path, photographs):
    image = {"size": 40, "resize": False}
    small = predict._read(photographs / "in" / "a.png", **image)  # 30 by 20
    assert small.shape == (40, 40, 3)
    assert not small[:5].any()
    assert not small[:, :10].any()
    np.testing.assert_array_equal(
        small[5:35, 10:30], np.asarray(Image.open(photographs / "in" / "a.png"))
    )
    assert predict._read(photographs / "c.png", **image).min() >= 0
    resized = (datasets.builder(n).RESIZES for n in ("gtsrb", "office31/amazon", "svhn", "usps"))
    assert list(resized) == [True, True, False, False]


def test_features_of_a_layer_go_into_an_npz_file(folder, photographs, tmp_path, capsys):
    output = tmp_path / "f.npz"
    call = [str(folder), str(photographs / "c.png"), "--features", "y/fc2"]
    assert predict.main([*call, "--output", str(output)]) == 0
    with np.load(output) as arrays:
        assert arrays["files"].tolist() == [str(photographs / "c.png")]
        model, state, _, preprocess = dann_jax.load(folder)
        expected = evaluation.features(
            model,
            state,
            np.asarray(read(photographs / "c.png"))[None],
            layer="y/fc2",
            preprocess=preprocess,
        )
        np.testing.assert_allclose(arrays["features"], expected, rtol=1e-5, atol=1e-6)
    call[-1] = "y/fc9"
    assert predict.main([*call, "--output", str(tmp_path / "g.npz")]) == 2
    assert "no layer 'y/fc9': expected one of" in capsys.readouterr().err
    assert not (tmp_path / "g.npz").exists()


def test_what_cannot_be_predicted_is_one_sentence(folder, photographs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes((photographs / "c.png").read_bytes()[:200])
    output = ["--output", str(tmp_path / "p.csv")]
    for images, expected in {
        (): "expected images after the run",
        (str(tmp_path / "none.png"),): "expected an image or a folder of images, got none",
        (str(tmp_path / "empty"),): "expected a folder with images, got none in it",
        (str(photographs), str(damaged)): "damaged.png: expected an image",
    }.items():
        assert predict.main([str(folder), *images, *output]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line
        assert not (tmp_path / "p.csv").exists()
    assert predict.main([str(tmp_path / "no"), str(photographs)]) == 2
    assert "expected the folder of a finished training" in capsys.readouterr().err


def test_what_is_loaded_takes_images_as_they_are_stored(folder, images):
    model, state, _, preprocess = dann_jax.load(folder)
    for wrong in (images / 255.0, images[..., 0]):
        with pytest.raises(TypeError, match=r"as stored, uint8 \[n, height, width, channel\]"):
            dann_jax.predict(model, state, wrong, preprocess=preprocess)


def test_an_export_has_preprocessing_inside_and_takes_any_batch(folder, images, tmp_path, capsys):
    path = tmp_path / "model.jax_export"
    assert export.main([str(folder), "--output", str(path)]) == 0
    said = capsys.readouterr().out
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    model, state, _, preprocess = dann_jax.load(folder)
    logits = dann_jax.predict(model, state, images, preprocess=preprocess)
    for count in (1, 3):
        np.testing.assert_allclose(
            exported.call(images[:count]),
            predictions.probabilities(logits[:count]),
            rtol=1e-4,
            atol=1e-5,
        )
    assert export.main([str(folder), "--output", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err
    Image.fromarray(images[0]).save(tmp_path / "new.png")
    about, program = said.split("\n\n")[1:]
    assert about == "To serve it without this package (pip install jax flatbuffers Pillow):"
    assert program.count("\n") == 5
    exec(program.replace("NEW.jpg", str(tmp_path / "new.png")), {})
    p = predictions.probabilities(logits[:1])[0]
    name, shown = capsys.readouterr().out.rsplit(maxsplit=1)
    assert name == CLASSES[p.argmax()]
    assert float(shown) == pytest.approx(p.max(), abs=1e-5)
