"""USPS from tiny files in its published formats, and its pair with MNIST."""

import gzip
import hashlib
import json
import sys

import numpy as np
import pytest
from test_datasets import idx_bytes

from dann_jax import datasets
from dann_jax.datasets.mnist import idx, mnist_dataset_builder
from dann_jax.datasets.usps import usps_dataset_builder as usps
from experiments import configs, domains, run

LABELS = {"train": [6, 0, 4, 1, 5, 9], "test": [9, 6, 3]}
# (v + 1) * 127.5 worked by hand: 0; 47.0475; 127.5 and 178.5, whose even neighbours are 128 and
# 178; 237.405; 255.
GREY = {-1.0: 0, -0.631: 47, 0.0: 128, 0.4: 178, 0.862: 237, 1.0: 255}


def values(split):
    choice = np.random.default_rng(len(split)).integers(0, len(GREY), (len(LABELS[split]), 256))
    return np.array(list(GREY))[choice]


def images(split):
    grey = np.vectorize(GREY.get, otypes=[np.uint8])(values(split))
    return grey.reshape(-1, 16, 16, 1)


def lines(split):
    """The lines of a text file: the training part is printed in another way than the test part."""
    shown = "{:.4f}".format if split == "train" else "{:g}".format
    rows = zip(LABELS[split], values(split), strict=True)
    return [" ".join(map(shown, [label, *row])) for label, row in rows]


def write_text(folder, split, some):
    content = "".join(f"{line} \n" for line in some).encode()
    (folder / f"zip.{split}.gz").write_bytes(gzip.compress(content))


def write_h5(path, **changed):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for split, labels in LABELS.items():
            parts = {"data": np.float32((values(split) + 1) / 2), "target": np.array(labels)}
            for name, array in (parts | changed).items():
                file[f"{split}/{name}"] = array


@pytest.fixture
def manual_dir(tmp_path, monkeypatch):
    """A folder with a tiny USPS as text, which the builder is told to expect."""
    folder = tmp_path / "files"
    folder.mkdir()
    for split in LABELS:
        write_text(folder, split, lines(split))
    counts = {split: np.bincount(some, minlength=10).tolist() for split, some in LABELS.items()}
    digests = {
        split: datasets.digest(datasets.ImageSet(images(split), np.array(some, np.int32)))
        for split, some in LABELS.items()
    }
    monkeypatch.setattr(usps.Builder, "CLASS_COUNTS", counts)
    monkeypatch.setattr(usps.Builder, "SHA256", digests)
    return folder


def refused(tmp_path, manual_dir, match, name="zip.train.gz"):
    with pytest.raises(ValueError, match=match) as raised:
        datasets.load("usps", "train", data_dir=tmp_path, manual_dir=manual_dir)
    message = str(raised.value)
    assert message.startswith(f"{manual_dir / name}: expected ")
    assert "\n" not in message
    assert "zip.train.gz" in message.split(": expected ")[1]  # what to get instead
    assert "https://hastie.su.domains/ElemStatLearn/datasets/zip.train.gz" in message
    assert not [p for p in (tmp_path / "usps").glob("*") if p.name[0].isdigit()]


def test_grey_values_are_rounded_and_images_keep_their_order(tmp_path, manual_dir):
    for split, labels in LABELS.items():
        loaded = datasets.load("usps", split, data_dir=tmp_path, manual_dir=manual_dir)
        np.testing.assert_array_equal(loaded.label, labels)
        np.testing.assert_array_equal(loaded.image, images(split))
        assert datasets.digest(loaded) == usps.Builder.SHA256[split]


def test_of_both_formats_the_text_is_read_and_of_one_that_one(tmp_path, manual_dir):
    (manual_dir / "usps.h5").write_bytes(b"not read")
    datasets.prepare("usps", data_dir=tmp_path, manual_dir=manual_dir)
    for split in LABELS:
        (manual_dir / f"zip.{split}.gz").unlink()
    (manual_dir / "usps").mkdir()
    (manual_dir / "usps.h5").unlink()
    write_h5(manual_dir / "usps" / "usps.h5")
    for split, labels in LABELS.items():
        loaded = datasets.load("usps", split, data_dir=tmp_path / "h5", manual_dir=manual_dir)
        np.testing.assert_array_equal(loaded.label, labels)
        # float32 has rounded 0.7: a half of a grey level may have gone the other way.
        far = np.abs(loaded.image.astype(int) - images(split))
        assert far.max() <= 1
        assert not far[np.isin(images(split), [0, 47, 237, 255])].any()


@pytest.mark.parametrize(
    ("changed", "got"),
    [
        ({"data": np.zeros((6, 255))}, r"\(data \[6, 255\] and target"),
        ({"data": np.full((6, 256), 1.5)}, r"\(values from 1.5 to 1.5\)"),
        ({"data": np.full((6, 256), -0.1)}, r"\(values from -0.1 to -0.1\)"),
        ({"target": np.full(6, 10)}, r"\(labels from 10 to 10\)"),
        ({"target": np.zeros(6, int)}, r"got \[6, 0, 0"),
    ],
)
def test_another_layout_of_h5_is_refused(tmp_path, manual_dir, changed, got):
    (manual_dir / "zip.train.gz").unlink()
    write_h5(manual_dir / "usps.h5", **changed)
    refused(tmp_path, manual_dir, got, "usps.h5")


def test_a_damaged_h5_and_a_missing_h5py_are_told(tmp_path, manual_dir, monkeypatch):
    (manual_dir / "zip.train.gz").unlink()
    (manual_dir / "usps.h5").write_bytes(b"<html>moved</html>")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "h5py", None)
        refused(tmp_path, manual_dir, "pip install h5py, or put zip.train.gz", "usps.h5")
    pytest.importorskip("h5py")
    refused(tmp_path, manual_dir, "got a damaged, truncated or other file", "usps.h5")


def changed_line(i, value, at=0):
    some = lines("train")
    row = some[i].split()
    row[at : at + 1] = value
    return [*some[:i], " ".join(row), *some[i + 1 :]]


@pytest.mark.parametrize(
    ("some", "got"),
    [
        ([], "0 lines"),
        (lines("train")[:-1], "5 lines"),
        ([*lines("train"), "1"], "7 lines"),
        (changed_line(2, [], at=9), "256 values in line 3"),
        (changed_line(1, ["0.5", "0.5"], at=256), "258 values in line 2"),
        (changed_line(0, ["10"]), "labels from 0 to 10"),
        (changed_line(0, ["2.5"]), "labels from 0 to 9"),
        (changed_line(0, ["1.0001"], at=5), "values from -1 to 1.0001"),
        (changed_line(0, ["-1.5"], at=256), "values from -1.5 to 1"),
        (changed_line(0, ["nan"], at=5), "values from nan to nan"),
        (changed_line(0, ["x"], at=5), "could not convert string to float"),
        (changed_line(0, ["7"]), r"digit 0 to 9 as \[1, 1, .*, got \[1, 1, 0, 0, 1, 1, 0, 1"),
        (changed_line(0, ["0.5"], at=5), "SHA-256 .*, got others with SHA-256"),
    ],
)
def test_another_text_is_refused(tmp_path, manual_dir, some, got):
    write_text(manual_dir, "train", some)
    refused(tmp_path, manual_dir, got)


@pytest.mark.parametrize("content", [b"", b"<html>moved</html>", None])
def test_a_damaged_file_is_refused(tmp_path, manual_dir, content):
    path = manual_dir / "zip.train.gz"
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    refused(tmp_path, manual_dir, r"got a damaged, truncated or other file \(")


def test_a_file_that_never_ends_is_refused(tmp_path, manual_dir, monkeypatch):
    monkeypatch.setattr(usps, "_LINE_BYTES", 100)
    refused(tmp_path, manual_dir, "more than 600 bytes")


def test_a_missing_file_gives_one_sentence_with_the_cure(tmp_path, manual_dir):
    (manual_dir / "zip.test.gz").unlink()
    with pytest.raises(FileNotFoundError, match="no network in tests") as raised:
        datasets.prepare("usps", data_dir=tmp_path, manual_dir=manual_dir)
    message = str(raised.value)
    assert message.startswith("zip.test.gz is not found as ")
    assert "usps.h5" in message
    assert "\n" not in message
    assert "https://hastie.su.domains/ElemStatLearn/datasets/zip.test.gz" in message


def test_published_usps_is_what_is_expected_by_default():
    counts = usps.Builder.CLASS_COUNTS
    assert {split: sum(n) for split, n in counts.items()} == {"train": 7291, "test": 2007}


# --- the pair with MNIST --------------------------------------------------------------------


@pytest.fixture
def both(manual_dir, monkeypatch):
    """The folder with a tiny MNIST too."""
    files, counts = {}, {}
    for split, official in idx.OFFICIAL.items():
        labels = np.arange(12 if split == "train" else 4, dtype=np.uint8) % 10
        pictures = np.random.default_rng(7).integers(0, 256, (len(labels), 28, 28), np.uint8)
        counts[split] = np.bincount(labels, minlength=10).tolist()
        files[split] = []
        for file, array in zip(official, (pictures, labels), strict=True):
            content = idx_bytes(array)
            (manual_dir / file.name).write_bytes(gzip.compress(content))
            sha256 = hashlib.sha256(content).hexdigest()
            files[split].append(file._replace(shape=array.shape, sha256=sha256))
    monkeypatch.setattr(mnist_dataset_builder.Builder, "FILES", files)
    monkeypatch.setattr(mnist_dataset_builder.Builder, "CLASS_COUNTS", counts)
    return manual_dir


def test_usps_is_resized_to_mnist_in_memory_and_on_disk(tmp_path, both):
    for name in ("mnist_usps", "usps_mnist"):
        config, _ = configs.find_config(name)
        where = {"data_dir": tmp_path, "manual_dir": both}
        pair, stream = (
            domains.load_pair(config, streaming=streaming, **where) for streaming in (False, True)
        )
        assert pair.provenance == stream.provenance
        assert {len(pair.source_train.label), len(pair.target_train.label)} == {12, 6}
        for part in ("source_train", "source_test", "target_train", "target_test"):
            image = getattr(pair, part).image
            assert image.shape[1:] == (28, 28, 1)
            np.testing.assert_array_equal(image[2], getattr(stream, part)[2]["image"])


@pytest.mark.slow  # the command line is tested with other data; this takes 15 seconds
def test_mnist_to_usps_runs_from_the_command_line(tmp_path, both, quick_compilation, capsys):
    options = ["--steps", "2", "--evaluate-every", "2", "--batch-size", "4", "--no-svm"]
    where = ["--data-dir", tmp_path, "--manual-dir", both, "--output", tmp_path / "runs"]
    only = ["--methods", "dann", "--devices", "1"]
    assert run.main(["mnist_usps", *only, *options, *map(str, where)]) == 0
    result = json.loads((tmp_path / "runs" / "mnist_usps" / "dann.json").read_text())
    assert {name: part["examples"] for name, part in result["data"].items()} == {
        "mnist/train": 12, "mnist/test": 4, "usps/train": 6, "usps/test": 3,
    }  # fmt: skip
    assert result["data"]["usps/test"]["sha256"] == usps.Builder.SHA256["test"]
    assert result["resolved_config"]["resize"] is True
    assert len(result["target_accuracy"]) == 1
