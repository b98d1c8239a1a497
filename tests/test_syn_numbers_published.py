"""The published SYN NUMBERS from tiny files in its format."""

import hashlib

import numpy as np
import pytest
import scipy.io

from dann_jax import datasets
from dann_jax.datasets.syn_numbers_published import syn_numbers_published_dataset_builder as syn
from experiments import configs

# As published: 10 is the digit 0.
LABELS = {"train": [3, 10, 4, 1, 5, 9], "test": [2, 10, 5]}
ADDRESS = (
    "https://media.githubusercontent.com/media/domainadaptation/datasets/"
    "91ff02225a73db330883843bc41ee3aca59a19d9/synth/"
)


def pixels(n):
    return np.random.default_rng(n).integers(0, 256, (32, 32, 3, n), np.uint8)


@pytest.fixture
def files(monkeypatch):
    """What the builder expects; ``write`` adds to it."""
    expected = {}
    monkeypatch.setattr(syn.Builder, "FILES", expected)
    return expected


@pytest.fixture
def manual_dir(tmp_path, files):
    folder = tmp_path / "files"
    folder.mkdir()
    for split in LABELS:
        write(folder, files, split)
    return folder


def write(folder, files, split, **changed):
    labels = LABELS[split]
    path = folder / syn.OFFICIAL[split].name
    content = {"X": pixels(len(labels)), "y": np.array(labels, np.uint8)[:, None]} | changed
    scipy.io.savemat(path, content, do_compression=True)
    written = path.read_bytes()
    sha256 = hashlib.sha256(written).hexdigest()
    files[split] = syn.MatFile(path.name, len(labels), len(written), sha256)


def load(tmp_path, manual_dir, split="train"):
    return datasets.load("syn_numbers_published", split, data_dir=tmp_path, manual_dir=manual_dir)


def refused(tmp_path, manual_dir, match):
    with pytest.raises(ValueError, match=match) as raised:
        load(tmp_path, manual_dir)
    message = str(raised.value)
    name = "synth_train_32x32.mat"
    assert message.startswith(f"{manual_dir / name}: expected ")
    assert "\n" not in message
    assert f"fetch {name} again from {ADDRESS}{name}" in message
    folder = tmp_path / "syn_numbers_published"
    assert not [p for p in folder.glob("*") if p.name[0].isdigit()]


def test_images_keep_their_order_and_ten_is_the_digit_zero(tmp_path, manual_dir):
    for split, labels in LABELS.items():
        loaded = load(tmp_path, manual_dir, split)
        np.testing.assert_array_equal(loaded.label, np.array(labels) % 10)
        for i in range(len(labels)):
            np.testing.assert_array_equal(loaded.image[i], pixels(len(labels))[..., i])


def test_labels_from_0_to_9_are_the_digits_too(tmp_path, files, manual_dir):
    write(manual_dir, files, "train", y=np.array([LABELS["train"]]) % 10)
    np.testing.assert_array_equal(load(tmp_path, manual_dir).label, [3, 0, 4, 1, 5, 9])


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "got 0: "),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:e0\n",
            "got a pointer of Git LFS",
        ),
        (None, r"expected SHA-256 \w{64}, got SHA-256 "),
    ],
)
def test_other_content_never_reaches_the_reader(tmp_path, manual_dir, monkeypatch, content, got):
    path = manual_dir / "synth_train_32x32.mat"
    last = path.read_bytes()[-1]
    changed = path.read_bytes()[:-1] + bytes([last ^ 1])
    path.write_bytes(changed if content is None else content)
    monkeypatch.setattr(scipy.io, "loadmat", None)
    refused(tmp_path, manual_dir, got)


@pytest.mark.parametrize(
    ("changed", "got"),
    [
        ({"X": pixels(5)}, r"uint8 \[32, 32, 3, 5\] and 6 labels from 1 to 10"),
        ({"X": pixels(6) / 255}, r"float64 \[32, 32, 3, 6\]"),
        ({"y": [LABELS["train"][1:]]}, "and 5 labels from 1 to 10"),
        ({"y": [[3, 11, 4, 1, 5, 9]]}, "6 labels from 1 to 11"),
        ({"y": [[3, 10, 4, 0, 5, 9]]}, "6 labels from 0 to 10"),
    ],
)
def test_another_layout_is_refused(tmp_path, files, manual_dir, changed, got):
    write(manual_dir, files, "train", **changed)
    refused(tmp_path, manual_dir, f"got .*{got}")


def test_a_missing_file_gives_one_sentence_with_the_cure(tmp_path, manual_dir):
    (manual_dir / "synth_test_32x32.mat").unlink()
    with pytest.raises(FileNotFoundError, match="no network in tests") as raised:
        load(tmp_path, manual_dir)
    message = str(raised.value)
    assert message.startswith("synth_test_32x32.mat is not found as ")
    assert "\n" not in message
    assert f"{ADDRESS}synth_test_32x32.mat" in message


def test_the_published_files_are_what_is_expected_by_default():
    counts = {split: sum(counts) for split, counts in syn.Builder.CLASS_COUNTS.items()}
    assert counts == {"train": 479_400, "test": 9_553}
    assert syn.Builder.FILES is syn.OFFICIAL
    assert syn.OFFICIAL["train"].size == 895_578_032
    assert syn.OFFICIAL["train"].sha256.startswith("e0e0924e")
    assert syn.OFFICIAL["test"].size == 17_851_156
    assert syn.OFFICIAL["test"].sha256.startswith("6285fe9a")


def test_the_pair_differs_from_the_drawn_one_in_its_source_alone():
    published, drawn = (
        configs.find_config(name)[0] for name in ("syn_numbers_published_svhn", "syn_numbers_svhn")
    )
    changed = {name for name in vars(drawn) if vars(drawn)[name] != vars(published)[name]}
    assert changed == {"source"}
