"""A user's own pair: two folders of images."""

import copy
import csv
import dataclasses
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from dann_jax import datasets
from dann_jax.datasets import streamed
from experiments import configs, domains, run
from experiments.figures import look

BRIGHT = {"cat": 250, "dog": 60}


def fill(folder, *, labelled=True, count=6, classes=("cat", "dog")):
    """Writes images whose classes differ in brightness."""
    generator = np.random.default_rng(0)
    for name in classes:
        for i in range(count):
            path = folder / (name if labelled else "") / f"{name}{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.random((30, 20, 3)) * BRIGHT.get(name, 128)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def read(folder, tmp_path, **options):
    built = datasets.from_folder(folder, image_size=16, data_dir=tmp_path / "data", **options)
    return built, datasets.arrays(built, "train")


def test_sub_folders_are_the_classes_in_alphabetical_order(tmp_path):
    built, images = read(fill(tmp_path / "own"), tmp_path)
    assert built.CLASS_NAMES == ("cat", "dog")
    assert images.image.shape == (12, 16, 16, 3)
    assert images.label.tolist() == [0] * 6 + [1] * 6
    bright = images.image.mean((1, 2, 3))
    assert bright[:6].min() > bright[6:].max()
    assert built.files("train")[0] == "cat/cat0.png"


def test_images_without_sub_folders_have_no_labels(tmp_path):
    _, images = read(fill(tmp_path / "own", labelled=False), tmp_path, class_names=("cat", "dog"))
    assert images.label.tolist() == [-1] * 12


def test_train_and_test_folders_are_splits(tmp_path):
    fill(tmp_path / "own" / "train")
    fill(tmp_path / "own" / "test", count=2)
    built, images = read(tmp_path / "own", tmp_path)
    assert len(images.label) == 12
    assert len(datasets.arrays(built, "test").label) == 4


def test_a_folder_that_changed_is_read_anew(tmp_path):
    own = fill(tmp_path / "own")
    _, before = read(own, tmp_path)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(own / "dog" / "new.png")
    _, after = read(own, tmp_path)
    assert (len(before.label), len(after.label)) == (12, 13)


def test_builders_of_folders_are_copied_and_pickled(tmp_path):
    built, _ = read(fill(tmp_path / "own"), tmp_path)
    for again in (copy.copy(built), pickle.loads(pickle.dumps(built))):
        assert again.is_prepared()
        assert again.data_dir == built.data_dir


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(NotADirectoryError, match="nowhere"):
        datasets.from_folder(tmp_path / "nowhere", image_size=16)


@pytest.mark.parametrize("layout", ["images", "train"])
def test_a_folder_around_the_classes_is_not_a_class(tmp_path, layout):
    fill(tmp_path / "own" / layout)
    with pytest.raises(ValueError, match=rf"got {layout}/, which holds folders \(cat/\)"):
        datasets.from_folder(tmp_path / "own", image_size=16)


def test_every_suffix_of_jpeg_is_read(tmp_path):
    own = fill(tmp_path / "own")
    for i, suffix in enumerate((".jfif", ".jpe", ".JPG")):
        Image.new("RGB", (8, 8), (1, 2, 3)).save(own / "dog" / f"more{i}{suffix}", format="JPEG")
    assert len(read(own, tmp_path)[1].label) == 15


@pytest.mark.parametrize("suffix", [".heic", ".AVIF"])
def test_images_that_cannot_be_read_are_named(tmp_path, suffix):
    own = fill(tmp_path / "own")
    (own / "dog" / f"phone{suffix}").write_bytes(b"an image")
    with pytest.raises(ValueError, match=f"got 1 others, the first of which is phone{suffix}"):
        datasets.from_folder(own, image_size=16)


def test_a_single_class_is_refused_before_training(tmp_path, capsys):
    pair = ["--source", str(fill(tmp_path / "a", classes=("cat",)))]
    pair += ["--target", str(fill(tmp_path / "b", classes=("cat",)))]
    where = ["--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "runs")]
    assert run.main(["own_pair", *pair, *where]) == 2
    assert "expected at least two classes to tell apart, got one (cat)" in capsys.readouterr().err


def test_hidden_files_and_folders_are_left_out(tmp_path):
    own = fill(tmp_path / "own")
    (own / "cat" / "._cat0.png").write_bytes(b"no image")
    (own / "cat" / ".ipynb_checkpoints").mkdir()
    (own / ".trash").mkdir()
    _, images = read(own, tmp_path)
    assert len(images.label) == 12


def one(tmp_path, image, name="one.png", **options):
    folder = tmp_path / "one" / "cat"
    folder.mkdir(parents=True)
    image.save(folder / name, **options)
    return read(tmp_path / "one", tmp_path)[1].image[0]


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 8:] = 200  # dark left, bright right; turned by 90 degrees: dark top
    orientation = Image.Exif()
    orientation[0x0112] = 6
    seen = one(tmp_path, Image.fromarray(pixels), "one.jpg", exif=orientation, quality=95)
    assert seen[:6].mean() < 20
    assert seen[10:].mean() > 180


def test_what_is_transparent_is_white(tmp_path):
    assert (one(tmp_path, Image.new("RGBA", (16, 16), (0, 255, 0, 0))) == 255).all()


def test_sixteen_bits_become_eight(tmp_path):
    grey = np.full((16, 16), 100 * 256, np.uint16)
    assert (one(tmp_path, Image.fromarray(grey)) == 100).all()


def test_numbers_without_a_white_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one\.tiff.*whose white is not known"):
        one(tmp_path, Image.fromarray(np.zeros((16, 16), np.float32)), "one.tiff")


def test_labels_are_looked_for_among_the_images_trained_on(tmp_path):
    source, target = fill(tmp_path / "source"), tmp_path / "target"
    fill(target / "train", labelled=False)
    fill(target / "test")
    config = configs.find_config("own_pair")[0]
    config = dataclasses.replace(config, source=str(source), target=str(target), image_size=16)
    pair = domains.load_pair(config, data_dir=tmp_path / "data")
    assert not pair.target_labelled
    assert pair.target_test.label.tolist() == [0] * 6 + [1] * 6
    turned = dataclasses.replace(config, source=str(target), target=str(source))
    with pytest.raises(ValueError, match="labels of all images to train on, got 12 images"):
        domains.load_pair(turned, data_dir=tmp_path / "data")
    with pytest.raises(ValueError, match=r"same classes, got 2 \(cat, dog\)"):
        domains.load_pair(dataclasses.replace(config, target="digits"), data_dir=tmp_path)
    with pytest.raises(ValueError, match="expected a split of image_folder"):
        domains.load_pair(dataclasses.replace(config, target_test="tset"), data_dir=tmp_path)


def test_a_folder_is_streamed_for_the_evaluation_too(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "BLOCK", 5)
    config = configs.find_config("own_pair")[0]
    config = dataclasses.replace(
        config, source=str(fill(tmp_path / "a")), target=str(fill(tmp_path / "b")), image_size=16
    )
    memory, stream = (
        domains.load_pair(config, data_dir=tmp_path / "data", streaming=streaming)
        for streaming in (False, True)
    )
    assert isinstance(stream.target_test, streamed.Streamed)
    images, labels = (
        np.concatenate(c) for c in zip(*streamed.blocks(stream.target_test), strict=True)
    )
    np.testing.assert_array_equal(images, memory.target_test.image)
    np.testing.assert_array_equal(labels, memory.target_test.label)
    assert stream.provenance == memory.provenance


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected images"):
        datasets.from_folder(tmp_path, image_size=16)


def test_images_beside_class_folders_are_refused(tmp_path):
    fill(tmp_path / "own")
    fill(tmp_path / "own", labelled=False, count=1)
    with pytest.raises(ValueError, match="got both"):
        datasets.from_folder(tmp_path / "own", image_size=16)


def test_a_class_that_the_source_lacks_is_refused(tmp_path):
    own = fill(tmp_path / "own", classes=("cat", "bird"))
    with pytest.raises(ValueError, match="got 'bird'"):
        datasets.from_folder(own, image_size=16, class_names=("cat", "dog"))


def test_a_damaged_image_is_named_and_leaves_nothing_prepared(tmp_path):
    own = fill(tmp_path / "own")
    (own / "dog" / "bad.png").write_bytes(b"no image")
    built = datasets.from_folder(own, image_size=16, data_dir=tmp_path / "data")
    with pytest.raises(ValueError, match=r"bad\.png.*replace it"):
        datasets.arrays(built, "train")
    assert not copy.copy(built).is_prepared()


@pytest.mark.usefixtures("quick_compilation")
def test_dann_runs_on_two_folders_and_predicts_the_target(tmp_path, capsys):
    source = fill(tmp_path / "source")
    target = fill(tmp_path / "target", labelled=False)
    where = ["--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "runs")]
    pair = ["--source", str(source), "--target", str(target)]
    few = ["--steps", "4", "--evaluate-every", "4", "--batch-size", "8", "--image-size", "16"]
    assert run.main(["own_pair", *pair, *few, *where, "--devices", "1", "--keys", "2"]) == 0
    assert "the target has no labels" in capsys.readouterr().out
    again = ["own_pair", *pair, *few, *where, "--devices", "1", "--keys", "2"]
    assert run.main([*again, "--methods", "source-only", "train-on-target"]) == 0
    assert "train-on-target is left out" in capsys.readouterr().out
    folder = tmp_path / "runs" / "own_pair"
    assert not (folder / "train-on-target.json").exists()
    for method in ("source-only", "dann"):
        result = json.loads((folder / f"{method}.json").read_text())
        assert result["target_accuracy"] == [None, None]
        assert set(result["data"]) == {"source:source/train", "target:target/train"}
        assert result["mean"] is None
        assert result["source_accuracy"][0] is not None
        with (folder / method / "key_0" / "predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["file"] for row in rows] == sorted(path.name for path in target.iterdir())
        assert {row["class"] for row in rows} <= {"cat", "dog"}
        assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)

    sheet = tmp_path / "sheet.png"
    options = ["--data-dir", str(tmp_path / "data"), "--output", str(sheet)]
    assert look.main(["own_pair", *pair, *options]) == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_an_unlabelled_source_is_refused_before_anything_is_trained(tmp_path, capsys):
    target = fill(tmp_path / "target", labelled=False)
    pair = ["--source", str(target), "--target", str(target)]
    where = ["--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "runs")]
    assert run.main(["own_pair", *pair, *where]) == 2
    assert "the source must have labels" in capsys.readouterr().err


def test_a_pair_without_folders_says_what_to_give(tmp_path, capsys):
    assert run.main(["own_pair", "--output", str(tmp_path)]) == 2
    assert "a folder of images is given by its path" in capsys.readouterr().err
