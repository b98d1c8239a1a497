"""The data sets: formats, draws, blending, preparation and the cache. Needs no real data."""

import contextlib
import errno
import functools
import gzip
import hashlib
import io
import json
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from dann_jax import datasets
from dann_jax.datasets import (
    archives,
    blend,
    draws,
    handwriting,
    image_builder,
    image_records,
    photographs,
    source_files,
    whole_files,
)
from dann_jax.datasets.digits import digits_dataset_builder
from dann_jax.datasets.digits_m import digits_m_dataset_builder
from dann_jax.datasets.mnist import idx, mnist_dataset_builder
from dann_jax.datasets.mnist_m import mnist_m_dataset_builder

LABELS = {"train": [3, 1, 4, 1, 5, 9], "test": [2, 6, 5]}
PARTS = {"train": 2, "val": 1, "test": 2}


def class_counts(labels):
    return {split: np.bincount(some, minlength=10).tolist() for split, some in labels.items()}


def idx_bytes(array):
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def digit_images(split):
    generator = np.random.default_rng(len(split))
    images = generator.integers(0, 256, (len(LABELS[split]), 28, 28), np.uint8)
    images[:, :4] = 0
    return images


def jpeg(width=40, height=36, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def photograph_files():
    return {
        f"BSR/BSDS500/data/images/{part}/{100 + n}.jpg": jpeg(seed=10 * len(part) + n)
        for part, count in PARTS.items()
        for n in range(count)
    }


def photograph_digest(files):
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update("/".join(name.split("/")[-2:]).encode() + b"\n")
        digest.update(hashlib.sha256(files[name]).digest())
    return digest.hexdigest()


def write_archive(path, files, extra=()):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member, content in extra:
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def manual_dir(tmp_path, monkeypatch):
    """A folder with a tiny MNIST and a tiny BSDS500, which the builders are set to expect."""
    folder = tmp_path / "files"
    (folder / "mnist").mkdir(parents=True)
    files = {}
    for split, official in idx.OFFICIAL.items():
        arrays = (digit_images(split), np.array(LABELS[split], np.uint8))
        contents = [idx_bytes(array) for array in arrays]
        files[split] = tuple(
            idx.IdxFile(file.name, array.shape, hashlib.sha256(content).hexdigest())
            for file, array, content in zip(official, arrays, contents, strict=True)
        )
        for file, content in zip(official, contents, strict=True):
            (folder / "mnist" / file.name).write_bytes(gzip.compress(content))
    write_archive(folder / photographs.BSDS500.name, photograph_files())
    mnist = mnist_dataset_builder.Builder
    monkeypatch.setattr(mnist, "FILES", files)
    monkeypatch.setattr(mnist, "CLASS_COUNTS", class_counts(LABELS))
    mnist_m = mnist_m_dataset_builder.Builder
    monkeypatch.setattr(mnist_m, "FILES", files)
    monkeypatch.setattr(mnist_m, "SIZES", {"train": 5, "test": 2})
    first = {"train": LABELS["train"][:5], "test": LABELS["test"][:2]}
    monkeypatch.setattr(mnist_m, "CLASS_COUNTS", class_counts(first))
    monkeypatch.setattr(mnist_m, "PHOTOGRAPH_COUNTS", PARTS)
    monkeypatch.setattr(mnist_m, "PHOTOGRAPH_SHA256", photograph_digest(photograph_files()))
    return folder


@pytest.fixture
def small_digits(monkeypatch):
    """The two embedded data sets with 20 train and 10 test images."""
    for builder in (digits_dataset_builder.Builder, digits_m_dataset_builder.Builder):
        monkeypatch.setattr(builder, "CLASS_COUNTS", {"train": (2,) * 10, "test": (1,) * 10})


def finished_versions(data_dir, name):
    """Folders that TFDS would take for a prepared version."""
    return [path.name for path in (data_dir / name).glob("*") if path.name[0].isdigit()]


# --- names and folders ----------------------------------------------------------------------


def test_names_are_those_of_the_builders():
    for name in datasets.names():
        built = datasets.builder(name, data_dir="unused")
        config = f"/{built.builder_config.name}" if built.builder_config else ""
        assert built.name + config == name


@pytest.mark.parametrize(("wrong", "near"), [("mnst", "mnist"), ("digits-m", "digits_m")])
def test_unknown_name_is_answered_with_the_nearest(wrong, near):
    with pytest.raises(ValueError, match=rf"got '{wrong}': did you mean {near}"):
        datasets.builder(wrong)


def test_unknown_split_is_answered_with_the_splits(tmp_path):
    with pytest.raises(ValueError, match=r"split of digits \(train, test\), got 'tset'"):
        datasets.load("digits", "tset", data_dir=tmp_path)


def test_data_dir_is_the_environment_variable_or_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DANN_JAX_DATA", raising=False)
    assert datasets.default_data_dir() == tmp_path / ".cache" / "dann_jax"
    monkeypatch.setenv("DANN_JAX_DATA", "~/elsewhere")
    assert datasets.default_data_dir() == tmp_path / "elsewhere"
    assert datasets.builder("digits").data_path.parent.parent == tmp_path / "elsewhere"


def test_importing_the_package_imports_neither_tfds_nor_sklearn_nor_tensorflow():
    heavy = "{'tensorflow_datasets', 'sklearn', 'tensorflow', 'PIL'} & set(sys.modules)"
    script = f"import sys, dann_jax.datasets; print(sorted({heavy}))"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert process.stdout.strip() == b"[]"


def test_builders_stay_out_of_the_tfds_registry():
    from tensorflow_datasets.core import registered

    assert not set(datasets.names()) & set(registered._DATASET_REGISTRY)


# --- draws ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4, 5])
def test_draws_of_an_index_do_not_depend_on_the_range(count):
    table = draws.uniform(7, "train", 0, 50, count=count)
    alone = [draws.uniform(7, "train", i, i + 1, count=count)[0] for i in reversed(range(50))]
    np.testing.assert_array_equal(table, alone[::-1])
    assert table.min() >= 0
    assert table.max() < 1
    assert len(np.unique(table)) == 50 * count


def test_draws_differ_between_seeds_and_streams():
    table = draws.uniform(7, "train", 0, 50, count=2)
    assert not np.any(table == draws.uniform(8, "train", 0, 50, count=2))
    assert not np.any(table == draws.uniform(7, "test", 0, 50, count=2))


def test_draws_are_pinned():
    golden = [
        [0.4267320518404427, 0.6671739954038505],
        [0.6813624423957951, 0.6545768945304907],
    ]
    np.testing.assert_array_equal(draws.uniform(0, "train", 0, 2, count=2), golden)


def test_draws_refuse_a_backward_range():
    with pytest.raises(ValueError, match="got start=2 and stop=1"):
        draws.uniform(0, "train", 2, 1, count=1)


# --- blending -------------------------------------------------------------------------------


def test_blend_is_the_absolute_difference_of_each_channel():
    # One row of three pixels: digit 0, 255 and 100 over the colour (30, 100, 255).
    patch = np.array([[[30, 100, 255]] * 3], np.uint8)
    digit = np.array([[0, 255, 100]], np.uint8)
    golden = [[[30, 100, 255], [225, 155, 0], [70, 0, 155]]]
    np.testing.assert_array_equal(blend.blend(patch, digit), np.array(golden, np.uint8))


def test_binarise_makes_white_of_every_pixel_above_zero():
    digit = np.array([0, 1, 128, 255], np.uint8)
    np.testing.assert_array_equal(blend.binarise(digit), [0, 255, 255, 255])
    np.testing.assert_array_equal(blend.binarise(digit, threshold=128), [0, 0, 0, 255])


def test_mnist_m_image_is_the_padded_binarised_digit_over_a_patch():
    # A photograph of exactly 32x32 has one patch: the whole of it.
    photograph = np.full((32, 32, 3), (10, 20, 30), np.uint8)
    digit = np.zeros((28, 28), np.uint8)
    digit[0, 0] = 1
    (image,) = blend.mnist_m_images(digit[None], [photograph], seed=0, split="train")
    golden = photograph.copy()
    golden[2, 2] = (245, 235, 225)
    np.testing.assert_array_equal(image, golden)


def test_patches_reach_every_photograph_and_every_corner():
    photograph = np.zeros((3, 4, 3), np.uint8)
    photograph[..., 0], photograph[..., 1] = np.mgrid[:3, :4]
    other = photograph.copy()
    other[..., 2] = 1
    almost_one = 1 - 2.0**-53
    for draw, golden in [
        ((0, 0, 0), (0, 0, 0)),
        ((almost_one, 0, 0), (0, 0, 1)),
        ((0, almost_one, almost_one), (1, 2, 0)),
    ]:
        patch = blend.patch([photograph, other], np.array(draw, float), 2)
        assert patch.shape == (2, 2, 3)
        assert tuple(patch[0, 0]) == golden


# --- MNIST ----------------------------------------------------------------------------------


def test_mnist_is_prepared_in_the_order_of_the_files(tmp_path, manual_dir):
    for split, labels in LABELS.items():
        loaded = datasets.load("mnist", split, data_dir=tmp_path, manual_dir=manual_dir)
        assert loaded.image.dtype == np.uint8
        assert loaded.label.dtype == np.int32
        np.testing.assert_array_equal(loaded.image[..., 0], digit_images(split))
        np.testing.assert_array_equal(loaded.label, labels)


def test_official_mnist_is_what_is_expected_by_default():
    counts = mnist_dataset_builder.Builder.CLASS_COUNTS
    assert mnist_dataset_builder.Builder.FILES is idx.OFFICIAL
    for split, size in (("train", 60000), ("test", 10000)):
        assert sum(counts[split]) == size
        images, labels = idx.OFFICIAL[split]
        assert images.shape == (size, 28, 28)
        assert labels.shape == (size,)


@pytest.mark.parametrize("folder", ["", "mnist"])
def test_files_are_found_in_manual_dir_and_its_named_folder(tmp_path, folder):
    file = source_files.PublishedFile("a.gz", "mnist", ("https://example.org/a.gz",))
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "a.gz").touch()
    path = source_files.find(file, manual_dir=tmp_path, download_dir=tmp_path / "none")
    assert path == tmp_path / folder / "a.gz"


def test_second_address_is_tried_and_the_download_kept(tmp_path, monkeypatch):
    asked = []

    def fetch(url, path):
        asked.append(url)
        if "first" in url:
            raise OSError("gone")
        path.parent.mkdir()
        path.write_bytes(b"content")

    monkeypatch.setattr(source_files, "fetch", fetch)
    file = source_files.PublishedFile("a", "f", ("https://first.org/a", "https://second.org/a"))
    for _ in range(2):
        path = source_files.find(file, manual_dir=None, download_dir=tmp_path)
        assert path == tmp_path / "f" / "a"
        assert path.read_bytes() == b"content"
    assert asked == list(file.urls)


class Answer(io.BytesIO):
    def __init__(self, content, length):
        super().__init__(content)
        self.headers = {"Content-Length": str(length)}


FETCH = source_files.fetch


@pytest.mark.parametrize(("length", "complete"), [(7, True), (8, False)])
def test_download_appears_only_when_complete(tmp_path, monkeypatch, length, complete):
    answer = Answer(b"content", length)
    monkeypatch.setattr(source_files.urllib.request, "urlopen", lambda url, timeout: answer)
    path = tmp_path / "folder" / "a"
    with contextlib.nullcontext() if complete else pytest.raises(OSError, match="expected 8"):
        FETCH("https://example.org/a", path)
    assert [p.name for p in path.parent.iterdir()] == (["a"] if complete else [])


def damage_truncate(content):
    return content[:-20]


def damage_not_gzip(content):
    return b"<html>moved</html>"


def damage_magic(content):
    return gzip.compress(b"\1" + gzip.decompress(content)[1:])


def damage_shape(content):
    # 28 x 28 becomes 49 x 16: the length fits, the shape does not.
    content = gzip.decompress(content)
    return gzip.compress(content[:8] + struct.pack(">2I", 49, 16) + content[16:])


def damage_pixel(content):
    content = gzip.decompress(content)
    return gzip.compress(content[:-1] + bytes([content[-1] ^ 1]))


def damage_longer(content):
    return gzip.compress(gzip.decompress(content) + b"\0")


def damage_shorter(content):
    return gzip.compress(gzip.decompress(content)[:-1])


@pytest.mark.parametrize(
    ("damage", "got"),
    [
        (damage_truncate, "damaged or truncated"),
        (damage_not_gzip, "damaged or truncated"),
        (damage_magic, "starts with the bytes 01000803"),
        (damage_shape, r"got shape \(6, 49, 16\)"),
        (damage_pixel, "got content with SHA-256"),
        (damage_longer, "got more than 4,720 bytes"),
        (damage_shorter, "got 4,719 bytes"),
    ],
)
def test_wrong_file_gives_one_sentence_with_the_cure(tmp_path, manual_dir, damage, got):
    path = manual_dir / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=got) as raised:
        datasets.prepare("mnist", data_dir=tmp_path, manual_dir=manual_dir)
    message = str(raised.value)
    assert message.startswith(f"{path}: expected ")
    assert "\n" not in message
    assert "https://" in message
    assert "--manual-dir" in message
    assert not finished_versions(tmp_path, "mnist")


def test_missing_file_gives_one_sentence_with_the_cure(tmp_path, manual_dir):
    path = manual_dir / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no network in tests") as raised:
        datasets.prepare("mnist", data_dir=tmp_path, manual_dir=manual_dir)
    message = str(raised.value)
    assert message.startswith(path.name)
    assert str(path) in message
    assert "\n" not in message
    assert "https://" in message
    assert "--manual-dir" in message


def test_manual_dir_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(NotADirectoryError, match="manual_dir .* must be a folder"):
        datasets.prepare("mnist", data_dir=tmp_path, manual_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"\0\0", b"\0\0\x08\x03\0\0\0\x01", b"\0\0\x0d\x01"])
def test_idx_refuses_what_is_not_whole_or_not_bytes(content):
    with pytest.raises(ValueError, match="starts with the bytes|cut off at"):
        idx.parse(content)


def test_wrong_class_counts_fail_the_preparation(tmp_path, manual_dir, monkeypatch):
    counts = class_counts({"train": [3, 1, 4, 1, 5, 8], "test": LABELS["test"]})
    monkeypatch.setattr(mnist_dataset_builder.Builder, "CLASS_COUNTS", counts)
    with pytest.raises(ValueError, match="mnist: expected 6 train examples .* per label, got 6"):
        datasets.prepare("mnist", data_dir=tmp_path, manual_dir=manual_dir)
    assert not finished_versions(tmp_path, "mnist")


# --- MNIST-M --------------------------------------------------------------------------------


def test_mnist_m_blends_the_first_digits_over_the_photographs(tmp_path, manual_dir):
    datasets.prepare("mnist_m", data_dir=tmp_path, manual_dir=manual_dir)
    test = datasets.load("mnist_m", "test", data_dir=tmp_path)
    train = datasets.load("mnist_m", "train", data_dir=tmp_path)
    np.testing.assert_array_equal(train.label, LABELS["train"][:5])
    np.testing.assert_array_equal(test.label, LABELS["test"][:2])
    pictures = photographs.bsds500(
        lambda file: manual_dir / file.name,
        counts=PARTS,
        sha256=photograph_digest(photograph_files()),
    )
    assert {part: len(some) for part, some in pictures.items()} == PARTS
    for i in reversed(range(2)):
        (golden,) = blend.mnist_m_images(
            digit_images("test")[i : i + 1], pictures["test"], seed=0, split="test", start=i
        )
        np.testing.assert_array_equal(test.image[i], golden)
    pictures = pictures["train"] + pictures["val"]
    for i in reversed(range(5)):
        (golden,) = blend.mnist_m_images(
            digit_images("train")[i : i + 1], pictures, seed=0, split="train", start=i
        )
        np.testing.assert_array_equal(train.image[i], golden)


def test_official_mnist_m_has_the_published_sizes():
    builder = mnist_m_dataset_builder.Builder
    assert builder.SIZES == {"train": 59001, "test": 9001}
    assert {split: sum(n) for split, n in builder.CLASS_COUNTS.items()} == builder.SIZES


def test_archive_members_elsewhere_and_links_are_ignored(tmp_path):
    files = photograph_files()
    picture = jpeg(seed=99)
    extra = []
    for name in (
        "../../BSR/BSDS500/data/images/train/1.jpg",
        "/BSR/BSDS500/data/images/train/2.jpg",
        "BSR/BSDS500/data/images/train/../train/3.jpg",
        "BSR/BSDS500/data/images/train/Thumbs.db",
        "BSR/BSDS500/data/groundTruth/train/100.jpg",
    ):
        member = tarfile.TarInfo(name)
        member.size = len(picture)
        extra.append((member, picture))
    link = tarfile.TarInfo("BSR/BSDS500/data/images/train/4.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    extra.append((link, b""))
    path = tmp_path / "inner" / "BSR_bsds500.tgz"
    path.parent.mkdir()
    write_archive(path, files, extra)
    pictures = photographs.bsds500(lambda file: path, counts=PARTS, sha256=photograph_digest(files))
    assert {part: len(some) for part, some in pictures.items()} == PARTS
    assert list(tmp_path.rglob("*")) == [path.parent, path]


@pytest.mark.parametrize("case", ["missing", "other", "truncated", "empty", "not a picture"])
def test_wrong_archive_gives_one_sentence_with_the_cure(tmp_path, case):
    files = photograph_files()
    sha256 = photograph_digest(files)
    path = tmp_path / "BSR_bsds500.tgz"
    last = "BSR/BSDS500/data/images/test/101.jpg"
    if case == "missing":
        del files[last]
    elif case == "other":
        files[last] = jpeg(seed=1234)
    elif case == "not a picture":
        files[last] = b"none"
        sha256 = photograph_digest(files)
    write_archive(path, files)
    if case == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    elif case == "empty":
        path.write_bytes(b"")
    got = {
        "missing": r"expected 2 photographs BSR/BSDS500/data/images/test/\*\.jpg, got 1",
        "other": "got photographs with SHA-256",
        "truncated": "damaged or truncated",
        "empty": "damaged or truncated",
        "not a picture": "can be decoded",
    }[case]
    with pytest.raises(ValueError, match=got) as raised:
        photographs.bsds500(lambda file: path, counts=PARTS, sha256=sha256)
    message = str(raised.value)
    assert str(path) in message
    assert "\n" not in message
    assert "--manual-dir" in message


ONE = source_files.PublishedFile("a", "", ("https://example.org/a",))


def archive(kind, names):
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as content, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of two members of one name
            for name in names:
                content.writestr(name, b"some content")
    else:
        with tarfile.open(fileobj=file, mode="w:gz") as content:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 12
                content.addfile(member, io.BytesIO(b"some content"))
    return bytearray(file.getvalue())


def damage_archive(content, damage):
    if damage == "truncated":
        return content[: len(content) // 2]
    if damage == "checksum":
        content[-8] ^= 1  # of gzip; of zip a size in the end of its table
    elif damage == "content":
        position = content.find(b"some content")
        content[position if position >= 0 else len(content) // 2] ^= 1
    elif damage == "other":
        return b"<html>moved</html>" * 40
    return content


READERS = {"tar": archives.tar_members, "zip": archives.zip_members}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("names", "damage", "got"),
    [
        (["a.png", "b.png"], "truncated", "got a damaged or truncated file"),
        (["a.png", "b.png"], "checksum", "got a damaged or truncated file"),
        (["a.png", "b.png"], "content", "got a damaged or truncated file"),
        (["a.png", "b.png"], "other", "got a damaged or truncated file"),
        (["a.png", "b.png", "a.png"], None, "got a.png twice"),
    ],
)
def test_a_damaged_archive_is_named(tmp_path, kind, names, damage, got):
    path = tmp_path / "a"
    path.write_bytes(damage_archive(archive(kind, names), damage))
    with pytest.raises(ValueError, match=f"^{path}: expected .*, {got}.*: delete it") as raised:
        list(READERS[kind](ONE, path, re.compile(r"[ab]\.png")))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", READERS)
def test_members_of_other_names_are_passed_over(tmp_path, kind):
    path = tmp_path / "a"
    names = ["a.png", "../a.png", "/a.png", "b/../a.png", "a.png/", "A.PNG", "b\\a.png"]
    path.write_bytes(archive(kind, names))
    members = READERS[kind](ONE, path, re.compile(r"[ab]\.png"))
    assert [match[0] for match, _ in members] == ["a.png"]
    assert list(tmp_path.iterdir()) == [path]


def test_oversized_photograph_is_refused_before_decoding(tmp_path):
    files = {"BSR/BSDS500/data/images/train/1.jpg": jpeg(width=3000, height=1500)}
    path = tmp_path / "BSR_bsds500.tgz"
    write_archive(path, files)
    with pytest.raises(ValueError, match="4,194,304 pixels .* got "):
        photographs.bsds500(lambda file: path, counts={"train": 1}, sha256=photograph_digest(files))


# --- digits and digits-m --------------------------------------------------------------------


def test_train_and_test_share_no_original():
    train, test = handwriting.originals("train"), handwriting.originals("test")
    assert not set(train.position) & set(test.position)
    assert set(train.position) | set(test.position) == set(range(1797))
    share = np.bincount(test.label) / (np.bincount(test.label) + np.bincount(train.label))
    assert np.all(np.abs(share - 0.25) < 0.005)


def test_originals_refuse_another_split():
    with pytest.raises(ValueError, match="got 'validation'"):
        handwriting.originals("validation")


def test_every_ten_copies_hold_every_label_once():
    labels = handwriting.draw_labels(seed=1, split="train", start=0, stop=200)
    np.testing.assert_array_equal(np.sort(labels.reshape(20, 10)), [np.arange(10)] * 20)
    assert len(np.unique(labels.reshape(20, 10), axis=0)) > 15
    part = handwriting.draw_labels(seed=1, split="train", start=37, stop=64)
    np.testing.assert_array_equal(part, labels[37:64])


@pytest.mark.parametrize("module", [digits_dataset_builder, digits_m_dataset_builder])
def test_image_i_is_a_function_of_seed_split_and_i(module):
    image, label = module.images("train", 0, 30, seed=5)
    for i in (29, 0, 13):
        one, one_label = module.images("train", i, i + 1, seed=5)
        np.testing.assert_array_equal(one[0], image[i])
        assert one_label[0] == label[i]
    assert np.any(module.images("train", 0, 30, seed=6)[0] != image)
    assert np.any(module.images("test", 0, 30, seed=5)[0] != image)


def test_unmoved_copy_shows_the_original():
    source = handwriting.originals("test")
    draw = np.full((4, 4), 0.5)  # angle 0, scale 1, shift 0
    copies = handwriting._transform(handwriting._enlarge(source.image), np.arange(4), draw)
    assert copies.shape == (4, 28, 28)
    # 23 of 28 pixels for 8 of the original: original pixel k lies at 2.5 + 23/8 (k + 1/2) - 1/2.
    at = np.round(2.5 + 23 / 8 * (np.arange(8) + 0.5) - 0.5).astype(int)
    shown = copies[:, at][:, :, at].reshape(4, -1)
    # Sharpened: grey level 96 of 255 becomes 128, and a step of one becomes a step of four.
    sharp = np.clip(128 + 4 * (source.image[:4].reshape(4, -1) * 255 / 16 - 96), 0, 255)
    for one, expected in zip(shown, sharp, strict=True):
        assert np.corrcoef(one, expected)[0, 1] > 0.9
    for edge in (copies[:, :2], copies[:, -2:], copies[:, :, :2], copies[:, :, -2:]):
        assert edge.max() <= 2  # the tail of the cubic kernel


def test_copy_is_turned_and_shifted_as_the_formula_says():
    # A bar of one bright column, in the upsampled frame a thin line through the centre.
    bar = np.zeros((1, 8, 8))
    bar[0, :, 3:5] = 16
    enlarged = handwriting._enlarge(bar)

    def centroid(rows, draw):
        copy = handwriting._transform(enlarged, np.zeros(1, int), np.array([draw]))[0, rows]
        return (copy.sum(0) * np.arange(28)).sum() / copy.sum()

    middle, upper, lower = slice(10, 18), slice(6, 10), slice(18, 22)
    np.testing.assert_allclose(centroid(middle, [0.5, 0.5, 0.5, 0.5]), 13.5, atol=0.01)
    np.testing.assert_allclose(centroid(middle, [0.5, 0.5, 0.5, 1.0]), 15.0, atol=0.01)
    turned = [1.0, 0.5, 0.5, 0.5]  # 12 degrees over the 12 rows between the two bands
    lean = centroid(upper, turned) - centroid(lower, turned)
    np.testing.assert_allclose(abs(lean), 12 * np.tan(np.deg2rad(12)), atol=0.25)


def test_photograph_pieces_of_train_and_test_are_disjoint():
    from sklearn.datasets import load_sample_images

    pieces = photographs.bundled()
    whole = load_sample_images().images
    assert [piece.shape[1] for piece in pieces["train"]] == [256, 256, 256, 256]
    assert [piece.shape[1] for piece in pieces["test"]] == [128, 128]
    for n, image in enumerate(whole):
        left, right = pieces["train"][2 * n : 2 * n + 2]
        joined = np.concatenate([left, pieces["test"][n], right], axis=1)
        np.testing.assert_array_equal(joined, image)


def test_a_patch_keeps_its_content_under_another_exposure_and_order_of_colours():
    patches = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    # Exposure .3 + .7 u of u = 1 and 0; orders 0 (as it was) and 5 (reversed) of the six.
    varied = digits_m_dataset_builder._vary(patches, np.array([[1.0, 0.0], [0.0, 0.99]]))
    np.testing.assert_array_equal(varied[0], patches[0])
    np.testing.assert_array_equal(varied[1], np.round(patches[1] * 0.3)[..., ::-1])


def test_digits_m_is_a_binary_digit_over_a_photograph():
    # A digit of 0 and 255 leaves either the photograph or its negative: blended with itself,
    # every pixel of the same patch is all 0 or all 255 in the three channels together.
    source = handwriting.originals("train")
    digit, label = handwriting.copies(source, seed=2, split="train", start=0, stop=8)
    image, image_label = digits_m_dataset_builder.images("train", 0, 8, seed=2)
    np.testing.assert_array_equal(label, image_label)
    draw = draws.uniform(2, "train patches", 0, 8, count=5)
    pictures = photographs.bundled()["train"]
    patches = np.stack([blend.patch(pictures, d[:3], 28) for d in draw])
    varied = digits_m_dataset_builder._vary(patches, draw[:, 3:])
    for i, patch in enumerate(varied):
        mask = blend.blend(image[i], np.zeros((28, 28), np.uint8)).astype(int) != patch
        stroke = digit[i] > digits_m_dataset_builder._THRESHOLD
        np.testing.assert_array_equal(mask.any(axis=-1), stroke)
        np.testing.assert_array_equal(image[i][stroke], 255 - patch[stroke])


def test_digits_and_digits_m_use_different_copies():
    seeds = {b.Builder.SEED for b in (digits_dataset_builder, digits_m_dataset_builder)}
    assert len(seeds) == 2


@pytest.mark.parametrize(
    ("name", "split", "golden"),
    [
        ("digits", "train", "7e800fc1bfaaf0e8"),
        ("digits", "test", "3aa0c1372305ece3"),
        ("digits_m", "train", "57778d2c9988211f"),
        ("digits_m", "test", "6c6fe15dbf9bc30d"),
    ],
)
def test_digest_of_small_samples_is_pinned(name, split, golden, small_digits, tmp_path):
    loaded = datasets.load(name, split, data_dir=tmp_path)
    assert datasets.digest(loaded)[:16] == golden


def test_other_bytes_than_those_of_the_results_are_warned_of(monkeypatch, tmp_path):
    """In one sentence with the versions, and the images are there all the same."""
    builder = digits_dataset_builder.Builder
    monkeypatch.setattr(builder, "CLASS_COUNTS", {"train": (26,) * 10, "test": (25,) * 10})
    datasets.prepare("digits", data_dir=tmp_path / "the same")  # where warnings are errors
    monkeypatch.setattr(builder, "SAMPLES", {"train": "0" * 64, "test": "0" * 64})
    here = f"numpy=={np.__version__}"
    for pin, sentence in ((here, "here are the same$"), ("numpy==1.0", f"here is {here}: .*1.0$")):
        monkeypatch.setattr(builder, "DRAWN_WITH", (pin,))
        with pytest.warns(UserWarning, match=f"digits: .* with {pin}; {sentence}") as seen:
            loaded = datasets.load("digits", "train", data_dir=tmp_path / pin)
        assert (len(seen), len(loaded.label)) == (1, 260)  # test has fewer than the sample


# --- preparation and cache ------------------------------------------------------------------


def test_tfds_reads_what_was_prepared_with_and_without_our_builder(small_digits, tmp_path):
    import tensorflow_datasets as tfds

    built = datasets.prepare("digits_m", data_dir=tmp_path)
    loaded = datasets.load("digits_m", "test", data_dir=tmp_path)
    own = built.as_data_source("test")
    foreign = tfds.data_source("digits_m:1.0.0", split="test", data_dir=tmp_path)
    for examples in (own, foreign):
        assert len(examples) == 10
        for i in (9, 0):
            np.testing.assert_array_equal(examples[i]["image"], loaded.image[i])
            assert examples[i]["label"] == loaded.label[i]
    for text in (built.info.description, built.info.citation, built.info.homepage):
        assert text
    assert built.info.redistribution_info.license


def test_preparation_is_silent_and_leaves_the_progress_bars_as_they_were(
    small_digits, tmp_path, capfd
):
    from tensorflow_datasets.core.utils import tqdm_utils

    before = tqdm_utils._active
    datasets.load("digits", "test", data_dir=tmp_path)
    assert tqdm_utils._active is before
    assert capfd.readouterr() == ("", "")


def test_interrupted_preparation_leaves_nothing_that_looks_finished(
    small_digits, tmp_path, monkeypatch
):
    png, calls = image_builder.png, []

    def interrupted(image):
        calls.append(image)
        if len(calls) == 25:  # within the second split
            raise KeyboardInterrupt
        return png(image)

    monkeypatch.setattr(image_builder, "png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        datasets.prepare("digits", data_dir=tmp_path)
    assert not finished_versions(tmp_path, "digits")
    assert not datasets.builder("digits", data_dir=tmp_path).is_prepared()
    monkeypatch.setattr(image_builder, "png", png)
    assert len(datasets.load("digits", "train", data_dir=tmp_path).label) == 20


def test_what_a_killed_preparation_left_is_removed_by_the_next(small_digits, tmp_path):
    killed = tmp_path / "digits" / "incomplete.ABCDEF_1.0.0"
    killed.mkdir(parents=True)
    (killed / "digits-train.array_record-00000-of-00001").write_bytes(b"half")
    (tmp_path / "digits" / "incomplete.ABCDEF_0.9.0").mkdir()  # not of this version
    arrays = tmp_path / "digits" / "1.0.0" / "arrays"
    assert not datasets.builder("digits", data_dir=tmp_path).is_prepared()
    built = datasets.prepare("digits", data_dir=tmp_path)
    arrays.mkdir()
    (arrays / ".test-image-abc_1234.npy").write_bytes(b"half")
    assert len(datasets.arrays(built, "test").label) == 10
    assert sorted(path.name for path in arrays.iterdir()) == ["test-image.npy", "test-label.npy"]
    left = {path.name for path in (tmp_path / "digits").iterdir()}
    assert left == {"1.0.0", "incomplete.ABCDEF_0.9.0"}


def test_an_error_of_a_file_names_it_and_not_its_temporary_file(tmp_path):
    folder = tmp_path / "a.json"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as raised, whole_files.whole(folder):
        pass
    assert raised.value.filename == str(folder)
    with pytest.raises(FileNotFoundError) as raised, whole_files.whole(tmp_path / "b") as temporary:
        (tmp_path / "other").read_text()
    assert raised.value.filename == str(tmp_path / "other")
    assert not temporary.exists()


def test_what_a_living_process_writes_is_no_leftover(tmp_path):
    path = tmp_path / "a.[0].json"
    with whole_files.whole(path) as first:
        first.write_text("first")
        with whole_files.whole(path) as second:
            second.write_text("second")
        assert first.exists()
        killed = tmp_path / ".a.[0]-01234567.json"
        killed.touch()
        with whole_files.whole(path):
            assert not killed.exists()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "first"


def test_a_second_process_waits_for_the_first_and_prepares_nothing(small_digits, tmp_path):
    prepared = []
    threads = [
        threading.Thread(
            target=lambda: prepared.append(datasets.prepare("digits", data_dir=tmp_path))
        )
        for _ in range(2)
    ]
    (tmp_path / "digits").mkdir()
    with whole_files.alone(tmp_path / "digits") as alone:
        assert alone
        threads[0].start()
        threads[0].join(0.3)
        assert threads[0].is_alive()
    threads[1].start()
    for thread in threads:
        thread.join(60)
    for built in prepared:
        assert len(datasets.arrays(built, "test").label) == 10
    assert len(prepared) == 2
    assert finished_versions(tmp_path, "digits") == ["1.0.0"]


def test_a_killed_process_holds_up_nobody(tmp_path):
    script = (
        "import pathlib, runpy, sys, time; files = runpy.run_path(sys.argv[1])\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "with files['alone'](folder), files['whole'](folder / 'a.json'):\n"
        "    print('writing', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, whole_files.__file__, tmp_path], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"writing\n"
    (left,) = tmp_path.iterdir()
    with whole_files.whole(tmp_path / "a.json"):
        assert left.exists()  # its process lives
    process.kill()
    process.wait()
    process.stdout.close()
    with whole_files.alone(tmp_path) as alone:
        assert alone
    with whole_files.whole(tmp_path / "a.json"):
        assert not left.exists()


@pytest.mark.parametrize("when", ["before", "between"])
def test_two_builders_made_before_a_data_set_is_prepared_both_work(small_digits, tmp_path, when):
    first, second, third = (datasets.builder("digits", data_dir=tmp_path) for _ in range(3))
    if when == "between":
        datasets.load("digits", "test", data_dir=tmp_path)
    golden = datasets.digest(datasets.arrays(first, "train"))
    assert datasets.digest(datasets.arrays(second, "train")) == golden
    third.download_and_prepare()
    assert image_records.ImageRecords(datasets.prepare(third), "train").digest() == golden


def test_the_first_start_knows_what_the_second_reads(small_digits, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    sets = digits_dataset_builder.Builder._image_sets

    def described(self, find):
        tfds.core.MetadataDict({"test": "first 5,000 images"}).save_metadata(self.data_path)
        return sets(self, find)

    monkeypatch.setattr(digits_dataset_builder.Builder, "_image_sets", described)
    for _ in range(2):
        built = datasets.prepare("digits", data_dir=tmp_path)
        assert dict(built.info.metadata.items()) == {"test": "first 5,000 images"}


@pytest.mark.parametrize("kind", ["records", "description", "folder"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(small_digits, tmp_path, monkeypatch, kind):
    from tensorflow_datasets.core import writer

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    def torn(self, path, examples):
        next(iter(examples))
        path.write_bytes(b"half")
        raise RuntimeError("write() failed: No space left on device; writing to somewhere; at 9")

    if kind == "records":
        monkeypatch.setattr(writer.ExampleWriter, "write", torn)
    elif kind == "description":
        monkeypatch.setattr(image_builder.ImageBuilder, "_keep_digests", full)
    else:
        (tmp_path / "digits").touch()
    with pytest.raises(OSError, match=r"digits cannot be written there \(.*\): free ") as raised:
        datasets.load("digits", "train", data_dir=tmp_path)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}: ")
    assert message.endswith("choose another folder with data_dir (--data-dir)")
    assert "somewhere" not in message
    assert not (tmp_path / "digits").is_dir() or not list((tmp_path / "digits").iterdir())


def test_arrays_that_fill_the_disk_leave_nothing_half_written(digits, monkeypatch):
    data_dir, folder, golden = digits
    shutil.rmtree(folder / "arrays")

    def full(path, array, **kwargs):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert datasets.digest(datasets.load("digits", "train", data_dir=data_dir)) == golden
    assert not list((folder / "arrays").iterdir())


def test_losing_the_race_to_another_process_is_no_error(small_digits, tmp_path, monkeypatch):
    first = datasets.builder("digits", data_dir=tmp_path)
    late = datasets.builder("digits", data_dir=tmp_path)
    monkeypatch.setattr(whole_files, "_locked", lambda handle, how: False)  # no one waits
    monkeypatch.setattr(type(late), "_check_counts", lambda self: win())

    def win():
        monkeypatch.undo()
        monkeypatch.setattr(whole_files, "_locked", lambda handle, how: False)
        counts = {"train": (2,) * 10, "test": (1,) * 10}
        monkeypatch.setattr(digits_dataset_builder.Builder, "CLASS_COUNTS", counts)
        first.download_and_prepare()

    assert datasets.prepare("digits", data_dir=tmp_path).is_prepared()
    assert finished_versions(tmp_path, "digits") == ["1.0.0"]


def test_cache_gives_back_the_same_arrays_without_the_records(small_digits, tmp_path, monkeypatch):
    first = datasets.load("digits", "train", data_dir=tmp_path)
    folder = tmp_path / "digits" / "1.0.0" / "arrays"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["train-image.npy", "train-label.npy"]
    monkeypatch.setattr(image_builder.ImageBuilder, "read", None)
    second = datasets.load("digits", "train", data_dir=tmp_path)
    assert datasets.digest(first) == datasets.digest(second)
    assert second.image.dtype == np.uint8
    assert second.label.dtype == np.int32


def flip(path, position):
    """Changes one bit of a file."""
    whole = bytearray(path.read_bytes())
    whole[position] ^= 4
    path.write_bytes(whole)


def save_with(change):
    """Returns a function that writes something else for the array in a file."""
    return lambda path: np.save(path, change(np.load(path)), allow_pickle=True)


def npz(array):
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


DAMAGES = {  # what is done to an array on disk
    "bit of the header": lambda path: flip(path, 30),
    "bit of the magic": lambda path: flip(path, 1),
    "bit of the first number": lambda path: flip(path, 128),
    "bit of the last number": lambda path: flip(path, -1),
    "all 200": save_with(lambda array: np.full_like(array, 200)),
    "other order": save_with(lambda array: array[::-1]),
    "Fortran's order": save_with(lambda array: np.asfortranarray(array[::-1].T).T),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "one too few": save_with(lambda array: array[:-1]),
    "one too many": save_with(lambda array: array[[*range(len(array)), 0]]),
    "other type": save_with(lambda array: array.astype(np.int64)),
    "other bytes": save_with(lambda array: array.astype(array.dtype.newbyteorder(">")) + 1),
    "floats": save_with(lambda array: array.astype(np.float32) * np.nan),
    "pickled": save_with(lambda array: np.array([{}], object)),
    "archive": lambda path: path.write_bytes(npz(np.load(path))),
    "other file": lambda path: path.write_bytes(path.with_name("test-image.npy").read_bytes()),
}


@pytest.fixture(scope="module")
def whole_digits(tmp_path_factory):
    """A prepared folder of small digits, with the arrays of both splits, and its digest."""
    with pytest.MonkeyPatch.context() as patch:
        counts = {"train": (2,) * 10, "test": (1,) * 10}
        patch.setattr(digits_dataset_builder.Builder, "CLASS_COUNTS", counts)
        folder = tmp_path_factory.mktemp("whole")
        datasets.load("digits", "test", data_dir=folder)
        return folder, datasets.digest(datasets.load("digits", "train", data_dir=folder))


@pytest.fixture
def digits(small_digits, whole_digits, tmp_path):
    """A copy of ``whole_digits`` to damage: data_dir, the folder in it, and the digest."""
    shutil.copytree(whole_digits[0], tmp_path, dirs_exist_ok=True)
    return tmp_path, tmp_path / "digits" / "1.0.0", whole_digits[1]


@pytest.mark.parametrize("name", ["train-image.npy", "train-label.npy"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("known", [True, False])
def test_a_damaged_array_is_made_anew_with_a_warning(digits, name, damage, known):
    data_dir, folder, golden = digits
    path = folder / "arrays" / name
    whole = path.read_bytes()
    DAMAGES[damage](path)
    assert path.read_bytes() != whole
    if not known:  # as prepared by an earlier version
        (folder / "digests.json").unlink()
    with pytest.warns(UserWarning, match=r"train-image\.npy or .* damaged, .* made anew"):
        loaded = datasets.load("digits", "train", data_dir=data_dir)
    assert datasets.digest(loaded) == golden
    assert path.read_bytes() == whole
    assert datasets.digest(datasets.load("digits", "train", data_dir=data_dir)) == golden


@pytest.mark.parametrize("name", ["train-image.npy", "train-label.npy"])
def test_an_array_that_an_interruption_left_out_is_written(digits, name):
    data_dir, folder, golden = digits
    (folder / "arrays" / name).unlink()
    assert datasets.digest(datasets.load("digits", "train", data_dir=data_dir)) == golden
    assert (folder / "arrays" / name).exists()


def test_arrays_of_an_earlier_version_are_compared_with_the_records_once(digits, monkeypatch):
    data_dir, folder, golden = digits
    written = (folder / "digests.json").read_bytes()
    (folder / "digests.json").unlink()
    for split in ("test", "train"):
        datasets.load("digits", split, data_dir=data_dir)
    assert json.loads((folder / "digests.json").read_text()) == json.loads(written)
    monkeypatch.setattr(image_builder.ImageBuilder, "read", None)
    assert datasets.digest(datasets.load("digits", "train", data_dir=data_dir)) == golden


def damage_record(path, kind):
    whole = path.read_bytes()
    if kind == "bit":
        flip(path, 400)
    elif kind == "truncated":
        path.write_bytes(whole[:-1000])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "absent":
        path.unlink()
    elif kind == "other records":
        path.write_bytes(path.with_name(path.name.replace("train", "test")).read_bytes())


@pytest.mark.parametrize("kind", ["bit", "truncated", "empty", "absent", "other records"])
@pytest.mark.parametrize("streaming", [False, True])
def test_damaged_records_are_named(digits, kind, streaming):
    data_dir, folder, golden = digits
    (record,) = folder.glob("digits-train*")
    damage_record(record, kind)
    # As long as the arrays are whole, nobody asks the records.
    assert datasets.digest(datasets.load("digits", "train", data_dir=data_dir)) == golden
    flip(folder / "arrays" / "train-label.npy", -1)
    built = datasets.builder("digits", data_dir=data_dir)
    read = functools.partial(datasets.arrays, built, "train")
    if streaming:
        read = image_records.ImageRecords(built, "train").digest
    with pytest.raises(ValueError, match=f"^{record}: expected the records .* got ") as raised:
        read()
    assert str(raised.value).endswith(f"delete {folder}, which the next start prepares anew")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"null", b"\xff", b'{"a": '])
def test_a_damaged_description_is_named(digits, name, content):
    data_dir, folder, _ = digits
    path = folder / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path}: .* missing or damaged") as raised:
        datasets.load("digits", "train", data_dir=data_dir)
    assert str(raised.value).endswith(f"delete {folder}, which the next start prepares anew")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("other", ["array_rey_record", "tfrecord", "parquet", ""])
def test_another_file_format_is_named(digits, other):
    data_dir, folder, _ = digits
    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace('"array_record"', f'"{other}"'))
    with pytest.raises(ValueError, match=f"^{path}: .* missing or damaged"):
        datasets.load("digits", "train", data_dir=data_dir)


def test_another_number_of_records_is_noticed_without_a_digest(digits):
    data_dir, folder, golden = digits
    (folder / "digests.json").unlink()  # as prepared by an earlier version
    path = folder / "dataset_info.json"
    described = json.loads(path.read_text())
    (train,) = (split for split in described["splits"] if split["name"] == "train")
    assert train["shardLengths"] == ["20"]
    for length in ("12", "21"):
        train["shardLengths"] = [length]
        path.write_text(json.dumps(described))
        with pytest.raises(ValueError, match=r"digits-train.*got .*: delete"):
            datasets.load("digits", "train", data_dir=data_dir)


def test_a_bit_of_a_description_changes_no_number_in_silence(digits):
    data_dir, folder, golden = digits
    for name in ("dataset_info.json", "digests.json"):
        whole = (folder / name).read_bytes()
        for position in range(0, len(whole), max(1, len(whole) // 40)):
            flip(folder / name, position)
            try:
                result = datasets.digest(datasets.load("digits", "train", data_dir=data_dir))
            except ValueError as error:
                result = str(error)
            assert result == golden or str(folder / name) in result
            (folder / name).write_bytes(whole)


def test_new_version_does_not_read_the_old_cache(small_digits, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    old = datasets.load("digits", "test", data_dir=tmp_path)
    builder = digits_dataset_builder.Builder
    monkeypatch.setattr(builder, "VERSION", tfds.core.Version("1.0.1"))
    monkeypatch.setattr(builder, "SEED", 77)
    new = datasets.load("digits", "test", data_dir=tmp_path)
    assert datasets.digest(old) != datasets.digest(new)
    assert sorted(finished_versions(tmp_path, "digits")) == ["1.0.0", "1.0.1"]


def test_cache_that_cannot_be_written_is_no_error(small_digits, tmp_path):
    datasets.prepare("digits", data_dir=tmp_path)
    (tmp_path / "digits" / "1.0.0" / "arrays").touch()  # a file where the folder should be
    assert len(datasets.load("digits", "test", data_dir=tmp_path).label) == 10


def test_digest_depends_on_shape_type_and_every_byte():
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    label = np.array([1], np.int32)
    golden = datasets.digest(datasets.ImageSet(image, label))
    assert re.fullmatch("[0-9a-f]{64}", golden)
    assert golden == datasets.digest(datasets.ImageSet(image[:, ::-1][:, ::-1], label))
    for other in (
        datasets.ImageSet(image.reshape(1, 2, 3, 2), label),
        datasets.ImageSet(image, label.astype(np.int64)),
        datasets.ImageSet(image, label + 1),
        datasets.ImageSet(image ^ 1, label),
    ):
        assert datasets.digest(other) != golden


# --- PNG ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 7, 3)])
def test_png_gives_back_every_pixel(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    decoded = image_builder.pixels(image_builder.png(image))
    np.testing.assert_array_equal(decoded.reshape(shape), image)


def test_image_of_another_shape_fails_the_preparation(small_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(digits_dataset_builder.Builder, "IMAGE_SHAPE", (32, 32, 1))
    with pytest.raises(ValueError, match=r"expected image 0 of \w+ as uint8 \(32, 32, 1\)"):
        datasets.prepare("digits", data_dir=tmp_path)


# --- parts of a data set --------------------------------------------------------------------


def test_a_subset_has_as_many_of_each_class_and_is_a_function_of_the_key():
    label = np.array([0, 1, 2, -1] * 20)
    chosen = datasets.subset(label, 5, key=0)
    assert np.bincount(label[chosen]).tolist() == [5, 5, 5]
    assert chosen.tolist() == sorted(set(chosen))
    np.testing.assert_array_equal(chosen, datasets.subset(label, 5, key=0))
    assert chosen.tolist() != datasets.subset(label, 5, key=1).tolist()
    # A class's draw does not depend on what the other classes hold.
    alone = np.where(label == 1, 1, -1)
    np.testing.assert_array_equal(chosen[label[chosen] == 1], datasets.subset(alone, 5, key=0))


def test_a_subset_of_more_than_there_is_needs_leave():
    label = np.array([0] * 8 + [1] * 3)
    with pytest.raises(ValueError, match="per_class from 1 to 3.*got 4"):
        datasets.subset(label, 4, key=0)
    chosen = datasets.subset(label, 4, key=0, at_most=True)
    assert np.bincount(label[chosen]).tolist() == [4, 3]
    with pytest.raises(ValueError, match="got 0"):
        datasets.subset(label, 0, key=0, at_most=True)


@pytest.mark.parametrize(
    ("label", "per_class", "key", "sentence"),
    [
        ([0.0, 1.0], 1, 0, r"whole numbers \[n\], .* got float64 \[2\]"),
        ([np.nan, 1.0], 1, 0, "got float64"),
        ([True, False], 1, 0, "got bool"),
        ([[0], [1]], 1, 0, r"got int64 \[2, 1\]"),
        ([0, -2], 1, 0, "-1 where not known, got int64 .* from -2"),
        (["0", "1"], 1, 0, "got <U1"),
        ([], 1, 0, "expected labels as whole numbers|got none with a label"),
        ([-1, -1], 1, 0, "got none with a label"),
        ([0, 1], 1.5, 0, "'float' object cannot be interpreted as an integer"),
        ([0, 1], 1, "0", "'str' object cannot be interpreted as an integer"),
        ([0, 1], -1, 0, "per_class from 1 to 1, .* got -1"),
        ([0, 1], 1, -1, r"a key from 0 to 2\^64 - 1, got -1"),
        ([0, 1], 1, 2**64, r"a key from 0 to 2\^64 - 1"),
    ],
)
def test_what_are_no_labels_is_refused(label, per_class, key, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        datasets.subset(np.array(label), per_class, key)


def test_part_of_a_split_is_loaded_by_class_and_key(small_digits, tmp_path):
    whole = datasets.load("digits", "train", data_dir=tmp_path)
    part = datasets.load("digits", "train", per_class=1, key=4, data_dir=tmp_path)
    chosen = datasets.subset(whole.label, 1, key=4)
    np.testing.assert_array_equal(part.image, whole.image[chosen])
    assert sorted(part.label) == list(range(10))


def test_records_have_the_digest_of_the_arrays(small_digits, tmp_path):
    built = datasets.prepare("digits_m", data_dir=tmp_path)
    stored = image_records.ImageRecords(built, "test")
    assert stored.digest() == datasets.digest(datasets.arrays(built, "test"))
    with pytest.raises(ValueError, match=r"stored split of digits_m \(train, test\), got 'some'"):
        image_records.ImageRecords(built, "some")


def test_a_large_split_is_written_in_several_files(small_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(image_builder, "_SHARD_BYTES", 7 * 28 * 28)
    built = datasets.prepare("digits", data_dir=tmp_path)
    assert built.info.splits["train"].shard_lengths == [7, 7, 6]
    labels = digits_dataset_builder.Builder(data_dir=tmp_path / "other")
    np.testing.assert_array_equal(
        datasets.arrays(built, "train").image, datasets.arrays(labels, "train").image
    )


def test_too_few_or_too_many_images_are_noticed(small_digits, tmp_path, monkeypatch):
    sets = digits_dataset_builder.Builder._image_sets
    for cut in (slice(None, -1), slice(None)):

        def wrong(self, find, cut=cut):
            splits = sets(self, find)
            image, label = splits["test"]
            extra = image[:1] if cut == slice(None) else image[:0]
            return splits | {"test": (np.concatenate([image[cut], extra]), label)}

        monkeypatch.setattr(digits_dataset_builder.Builder, "_image_sets", wrong)
        with pytest.raises(ValueError, match="argument"):
            datasets.prepare("digits", data_dir=tmp_path)
        assert not finished_versions(tmp_path, "digits")


def test_a_progress_bar_says_how_far_a_preparation_is(small_digits, tmp_path, capfd):
    datasets.prepare("digits", data_dir=tmp_path, progress=True)
    output = capfd.readouterr().err
    assert "digits/train: 100%" in output
    assert "20/20" in output
