"""GTSRB from a tiny archive in the published format."""

import io
import re
import stat
import zipfile

import numpy as np
import pytest
from PIL import Image

from dann_jax.datasets import image_sets
from dann_jax.datasets.gtsrb import gtsrb_dataset_builder as gtsrb

CLASSES = 43
EACH = 3  # pictures a class
TOTAL = CLASSES * EACH
TRAIN = 100
NAMES = [f"00000_{i:05}.ppm" for i in range(EACH)]
ROOT = "GTSRB/Final_Training/Images"


def colour(label, i):
    return label * 5, i * 60, 7


def ppm(colour, width=31, height=29):
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PPM")
    return file.getvalue()


def table(label, class_id=None, names=NAMES):
    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    class_id = label if class_id is None else class_id
    return head + "".join(f"{name};31;29;5;5;26;24;{class_id}\n" for name in names)


def members(root=ROOT):
    files = {}
    for label in range(CLASSES):
        for i in reversed(range(EACH)):
            files[f"{root}/{label:05}/00000_{i:05}.ppm"] = ppm(colour(label, i))
        files[f"{root}/{label:05}/GT-{label:05}.csv"] = table(label)
    return files


def write(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.fixture
def manual_dir(tmp_path, monkeypatch):
    """A folder for the archive, which the builder is told to expect to be tiny."""
    folder = tmp_path / "files"
    folder.mkdir()
    labels = gtsrb.permutation(TOTAL, seed=0) // EACH
    counts = {
        split: np.bincount(some, minlength=CLASSES).tolist()
        for split, some in {"train": labels[:TRAIN], "test": labels[TRAIN:]}.items()
    }
    monkeypatch.setattr(gtsrb.Builder, "CLASS_COUNTS", counts)
    return folder


def prepared(tmp_path, manual_dir):
    gtsrb.Builder(data_dir=tmp_path, manual_dir=manual_dir).download_and_prepare()
    return gtsrb.Builder(data_dir=tmp_path)


def refused(tmp_path, manual_dir, match):
    with pytest.raises(ValueError, match=match) as raised:
        prepared(tmp_path, manual_dir)
    message = str(raised.value)
    assert message.startswith(f"{manual_dir / gtsrb.ARCHIVE.name}: expected ")
    assert "https://sid.erda.dk" in message
    assert "--manual-dir" in message
    assert "\n" not in message
    assert not [p for p in (tmp_path / "gtsrb").glob("*") if p.name[0].isdigit()]


@pytest.mark.parametrize(
    ("name", "root"),
    [(gtsrb.ARCHIVE.name, ROOT), ("GTSRB-Training_fixed.zip", "GTSRB/Training")],
)
def test_every_picture_is_in_one_split_under_its_label(tmp_path, manual_dir, name, root):
    write(manual_dir / name, members(root))
    built = prepared(tmp_path, manual_dir)
    got = []
    for split, size in {"train": TRAIN, "test": TOTAL - TRAIN}.items():
        image, label = built.read(split)
        assert image.shape == (size, 40, 40, 3)
        # Each picture is of one colour, which names its class and its place in it.
        assert (image == image[:, :1, :1]).all()
        np.testing.assert_array_equal(image[:, 0, 0, 0], label * 5)
        got += map(tuple, image[:, 0, 0].tolist())
    order = gtsrb.permutation(TOTAL, seed=0)
    assert got == [colour(*divmod(number, EACH)) for number in order.tolist()]


def test_split_is_a_fixed_random_permutation():
    order = gtsrb.permutation(39209, seed=0)
    np.testing.assert_array_equal(np.sort(order), np.arange(39209))
    assert order[:5].tolist() == [17283, 10058, 6017, 25266, 30220]
    assert np.any(gtsrb.permutation(39209, seed=1) != order)
    counts = gtsrb.Builder.CLASS_COUNTS
    assert sum(counts["train"]) == 31367
    assert sum(counts["test"]) == 7842
    totals = np.array(list(counts.values())).sum(axis=0)
    labels = np.repeat(np.arange(CLASSES), totals)[order]
    np.testing.assert_array_equal(np.bincount(labels[:31367]), counts["train"])


def test_whole_picture_is_resized_without_keeping_its_shape(tmp_path):
    # 80 wide, 20 high: the upper half red, the right quarter blue.
    pixels = np.zeros((20, 80, 3), np.uint8)
    pixels[:10, :, 0] = 200
    pixels[:, 60:, 2] = 200
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PPM")
    path = tmp_path / "a.zip"
    listed = table(0, names=["00000_00000.ppm"])
    folder = f"{ROOT}/00000"
    write(path, {f"{folder}/00000_00000.ppm": file.getvalue(), f"{folder}/GT-00000.csv": listed})
    image, label = gtsrb.read(path, [1], size=(40, 40))
    assert image.shape == (1, 40, 40, 3)
    assert label.tolist() == [0]
    red = np.round(image[0, :, :28, 0].mean(axis=1) / 200)
    assert red.tolist() == [1] * 20 + [0] * 20
    blue = np.round(image[0, :, :, 2].mean(axis=0) / 200)
    assert blue.tolist() == [0] * 30 + [1] * 10


def test_there_are_43_classes_and_10_labelled_images_of_each():
    assert len(set(gtsrb.Builder.CLASS_NAMES)) == CLASSES
    assert {"labelled": image_sets.Subset("train", 10, 0)} == gtsrb.Builder.SUBSETS
    assert {len(counts) for counts in gtsrb.Builder.CLASS_COUNTS.values()} == {CLASSES}


@pytest.mark.parametrize(
    ("change", "count", "in_table"),
    [
        ({"00000_00001.ppm": None}, 2, 2),
        ({"00000_00009.ppm": ppm(colour(7, 1))}, 4, 3),
        ({"GT-00007.csv": None}, 3, 0),
        ({"GT-00007.csv": b"\xff;\x00\n;;;\n"}, 3, 0),
        ({"GT-00007.csv": table(7, class_id=8)}, 3, 0),
        ({"GT-00007.csv": table(7, names=["00000_00000.ppm", "b.ppm", "c.ppm"])}, 3, 1),
        ({name: None for name in ("GT-00007.csv", *NAMES)}, 0, 0),
    ],
)
def test_class_that_is_not_whole_is_refused(tmp_path, manual_dir, change, count, in_table):
    files = members() | {f"{ROOT}/00007/{name}": content for name, content in change.items()}
    write(manual_dir / gtsrb.ARCHIVE.name, {n: c for n, c in files.items() if c is not None})
    expected = "3 pictures in the folder 00007, all in its table"
    got = f"{count}, of which {in_table} are in the table as class 7"
    refused(tmp_path, manual_dir, f"expected {expected}, got {got}:")


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"not a picture", r"00000_00000.ppm \(cannot identify"),
        (ppm((1, 2, 3))[:-50], "00000_00000.ppm .*trunc"),
        (b"P6 30000 30000 255\n", r"4,194,304 pixels .*00000_00000.ppm \(.*900000000 pixels"),
        (b"P6 3000 1500 255\n", r"00000_00000.ppm \(3000x1500 pixels\)"),
        (b"\0" * ((4 << 20) + 1), "at most 4,194,304 bytes, got .*00000_00000.ppm of 4,194,305"),
    ],
)
def test_bad_picture_is_refused(tmp_path, manual_dir, content, got):
    write(manual_dir / gtsrb.ARCHIVE.name, members() | {f"{ROOT}/00000/00000_00000.ppm": content})
    refused(tmp_path, manual_dir, got)


@pytest.mark.parametrize("damage", ["truncated", "empty", "a page", "a flipped byte"])
def test_damaged_archive_is_refused(tmp_path, manual_dir, damage):
    path = manual_dir / gtsrb.ARCHIVE.name
    write(path, members())
    whole = path.read_bytes()
    at = whole.index(b".ppm") + 10
    path.write_bytes(
        {
            "truncated": whole[:-2000],
            "empty": b"",
            "a page": b"<html>",
            "a flipped byte": whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :],
        }[damage]
    )
    refused(tmp_path, manual_dir, "a complete zip archive, got a damaged or truncated file")


def test_members_elsewhere_and_links_are_ignored(tmp_path):
    files = {
        f"../{ROOT}/00000/00000_00007.ppm": ppm((1, 1, 1)),
        f"/{ROOT}/00000/00000_00007.ppm": ppm((1, 1, 1)),
        f"{ROOT}/00000/../00000/00000_00007.ppm": ppm((1, 1, 1)),
        f"{ROOT}/00043/00000_00007.ppm": ppm((1, 1, 1)),
        f"{ROOT}/00001/GT-00000.csv": "other",
        f"{ROOT}/Readme.txt": "text",
    } | members()
    path = tmp_path / "inner" / "a.zip"
    path.parent.mkdir()
    write(path, files)
    link = zipfile.ZipInfo(f"{ROOT}/00000/00000_00008.ppm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    image, label = gtsrb.read(path, [EACH] * CLASSES, size=(40, 40))
    assert [tuple(c) for c in image[:, 0, 0].tolist()] == [
        colour(label, i) for label in range(CLASSES) for i in range(EACH)
    ]
    assert list(tmp_path.rglob("*")) == [path.parent, path]


def test_missing_archive_gives_one_sentence_with_the_cure(tmp_path, manual_dir):
    with pytest.raises(FileNotFoundError, match="no network in tests") as raised:
        prepared(tmp_path, manual_dir)
    message = str(raised.value)
    assert re.match(r"GTSRB_Final_Training_Images.zip is not found as ", message)
    assert "GTSRB-Training_fixed.zip" in message
    assert "\n" not in message
