"""SVHN from tiny files in the published format, and downloads with a known MD5."""

import hashlib

import numpy as np
import pytest
import scipy.io

from dann_jax.datasets import source_files
from dann_jax.datasets.svhn import mat
from dann_jax.datasets.svhn import svhn_dataset_builder as svhn

# As published: 10 is the digit 0.
LABELS = {"train": [3, 10, 4, 1, 5, 9], "test": [2, 10, 10, 5]}
EXTRACT = LABELS["test"][:3]


def class_counts(labels):
    return tuple(np.bincount(np.array(labels) % 10, minlength=10).tolist())


def pixels(n):
    return np.random.default_rng(n).integers(0, 256, (32, 32, 3, n), np.uint8)


def write(path, labels, **changed):
    content = {"X": pixels(len(labels)), "y": np.array(labels, np.uint8)[:, None]} | changed
    scipy.io.savemat(path, content, do_compression=True)


@pytest.fixture
def manual_dir(tmp_path, monkeypatch):
    """A folder with a tiny SVHN, which the builder is told to expect."""
    folder = tmp_path / "files"
    folder.mkdir()
    for split, labels in LABELS.items():
        write(folder / f"{split}_32x32.mat", labels)
    counts = {split: class_counts(labels) for split, labels in LABELS.items()}
    monkeypatch.setattr(svhn.Builder, "CLASS_COUNTS", counts)
    monkeypatch.setattr(svhn.Builder, "EXTRACT_COUNTS", class_counts(EXTRACT))
    return folder


def prepared(tmp_path, manual_dir):
    svhn.Builder(data_dir=tmp_path, manual_dir=manual_dir).download_and_prepare()
    return svhn.Builder(data_dir=tmp_path)


def refused(tmp_path, manual_dir, match, name="train_32x32.mat"):
    with pytest.raises(ValueError, match=match) as raised:
        prepared(tmp_path, manual_dir)
    message = str(raised.value)
    assert message.startswith(f"{manual_dir / name}: expected ")
    assert "\n" not in message
    assert f"fetch {name} again from http://ufldl" in message
    assert "--manual-dir" in message
    assert not [p for p in (tmp_path / "svhn").glob("*") if p.name[0].isdigit()]


def test_images_keep_their_order_and_ten_is_the_digit_zero(tmp_path, manual_dir):
    built = prepared(tmp_path, manual_dir)
    for split, labels in LABELS.items():
        image, label = built.read(split)
        np.testing.assert_array_equal(label, np.array(labels) % 10)
        for i in range(len(labels)):
            np.testing.assert_array_equal(image[i], pixels(len(labels))[..., i])
    assert dict(built.info.metadata.items()) == {"train": "whole", "test": "whole"}


def test_the_first_5000_test_images_are_accepted_and_named(tmp_path, manual_dir):
    write(manual_dir / "test_32x32.mat", EXTRACT)
    built = prepared(tmp_path, manual_dir)
    np.testing.assert_array_equal(built.read("test")[1], np.array(EXTRACT) % 10)
    assert built.info.splits["test"].num_examples == len(EXTRACT)
    assert built.info.metadata["test"] == "first 5,000 images"
    assert built.info.metadata["train"] == "whole"


def test_another_part_of_the_test_images_is_refused(tmp_path, manual_dir):
    write(manual_dir / "test_32x32.mat", LABELS["test"][1:])  # as many as the extract
    whole, extract, got = (r"\[2, 0, 1, 0, 0, 1,", r"\[2, 0, 1, 0, 0, 0,", r"\[2, 0, 0, 0, 0, 1,")
    match = rf"the whole \({whole}.*\) or the first 5,000 images \({extract}.*\), got {got}"
    refused(tmp_path, manual_dir, match, "test_32x32.mat")


def test_the_train_images_have_no_extract(tmp_path, manual_dir):
    write(manual_dir / "train_32x32.mat", EXTRACT)
    refused(tmp_path, manual_dir, r"n 6, got .*\(32, 32, 3, 3\)")


def test_a_file_of_another_size_is_refused_before_it_is_read(tmp_path, manual_dir, monkeypatch):
    write(manual_dir / "train_32x32.mat", LABELS["train"] * 2)
    monkeypatch.setattr(scipy.io, "loadmat", None)
    refused(tmp_path, manual_dir, r"n 6, got .*\(32, 32, 3, 12\)")


@pytest.mark.parametrize(
    ("changed", "got"),
    [
        ({"X": pixels(6).transpose(3, 0, 1, 2)}, r"holds .*\(6, 32, 32, 3\)"),
        ({"X": pixels(5)}, r"holds .*\(32, 32, 3, 5\)"),
        ({"y": np.array([LABELS["train"]], np.uint8)}, r"holds .*\(1, 6\)"),
        ({"X": pixels(6) / 255}, r"\(32, 32, 3, 6\), 'float64'"),
        ({"y": np.array([[3], [0], [4], [1], [5], [9]])}, "labels from 0 to 9"),
        ({"y": np.array([[3], [10], [4], [1], [5], [8]])}, r"got \[1, 1, 0, 1, 1, 1, 0, 0, 1, 0\]"),
    ],
)
def test_another_layout_is_refused(tmp_path, manual_dir, changed, got):
    write(manual_dir / "train_32x32.mat", LABELS["train"], **changed)
    refused(tmp_path, manual_dir, got)


@pytest.mark.parametrize("content", [b"", b"<html>moved</html>" * 20, None])
def test_a_damaged_file_is_refused(tmp_path, manual_dir, content):
    path = manual_dir / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:-3000] if content is None else content)
    refused(tmp_path, manual_dir, r"got a damaged, truncated or other file \(")


def test_a_missing_file_gives_one_sentence_with_the_cure(tmp_path, manual_dir):
    (manual_dir / "test_32x32.mat").unlink()
    with pytest.raises(FileNotFoundError, match="no network in tests") as raised:
        prepared(tmp_path, manual_dir)
    message = str(raised.value)
    assert message.startswith("test_32x32.mat is not found as ")
    assert "\n" not in message
    assert "http://ufldl.stanford.edu/housenumbers/test_32x32.mat" in message


def test_official_svhn_is_what_is_expected_by_default():
    counts = svhn.Builder.CLASS_COUNTS
    assert {split: sum(n) for split, n in counts.items()} == {"train": 73257, "test": 26032}
    assert sum(svhn.Builder.EXTRACT_COUNTS) == 5000
    pairs = zip(svhn.Builder.EXTRACT_COUNTS, counts["test"], strict=True)
    assert all(part < whole for part, whole in pairs)


# --- downloads ------------------------------------------------------------------------------


@pytest.fixture
def delivered(monkeypatch):
    """What each address delivers; a download writes it."""
    contents = {}
    monkeypatch.setattr(source_files, "fetch", lambda url, path: path.write_bytes(contents[url]))
    return contents


MD5 = hashlib.md5(b"content").hexdigest()
FILE = source_files.PublishedFile("a", "", ("https://1.org/a", "https://2.org/a"), MD5, ("b",))


def test_a_download_with_another_md5_is_not_used(tmp_path, delivered):
    delivered.update({"https://1.org/a": b"<html>", "https://2.org/a": b"content"})
    path = source_files.find(FILE, manual_dir=None, download_dir=tmp_path)
    assert path.read_bytes() == b"content"
    delivered["https://2.org/a"] = b"other"
    path.write_bytes(b"damaged later")
    with pytest.raises(FileNotFoundError, match=f"2.org/a .it delivers .* MD5 is not {MD5}"):
        source_files.find(FILE, manual_dir=None, download_dir=tmp_path)


def test_the_users_own_copy_may_have_another_name_and_encoding(tmp_path):
    (tmp_path / "b").write_bytes(b"encoded anew")
    found = source_files.find(FILE, manual_dir=tmp_path, download_dir=tmp_path / "none")
    assert found == tmp_path / "b"
    (tmp_path / "a").touch()
    found = source_files.find(FILE, manual_dir=tmp_path, download_dir=tmp_path / "none")
    assert found == tmp_path / "a"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint32, np.int64, np.float32, float])
def test_arrays_of_every_type_are_those_that_scipy_reads(kind, compressed, tmp_path):
    arrays = {"X": np.arange(24).reshape(2, 3, 4).astype(kind), "y": np.array([[7]], kind)}
    scipy.io.savemat(tmp_path / "a.mat", arrays, do_compression=compressed)
    theirs = scipy.io.loadmat(tmp_path / "a.mat")
    ours = mat.parse((tmp_path / "a.mat").read_bytes(), 10_000)
    assert list(ours) == ["X", "y"]
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], strict=True)


def test_a_type_that_ends_scipy_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"X": np.arange(24, dtype=np.uint8)})
    content = bytearray((tmp_path / "a.mat").read_bytes())
    tag = content.find(bytes([2, 0, 0, 0, 24, 0, 0, 0]))  # uint8, 24 bytes
    content[tag] = 0
    with pytest.raises(ValueError, match="an array of class 9 stored as 0"):
        mat.parse(bytes(content), 10_000)


def test_a_compressed_array_takes_no_more_memory_than_it_may(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"X": np.zeros(10**6, np.uint8)}, do_compression=True)
    with pytest.raises(ValueError, match="does not end within 10,000 bytes"):
        mat.parse((tmp_path / "a.mat").read_bytes(), 10_000)
