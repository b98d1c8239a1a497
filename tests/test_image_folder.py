"""A user's own pair: two folders of images."""

import copy
import dataclasses
import io
import os
import pathlib
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dann_jax import datasets
from dann_jax.datasets import streamed
from dann_jax.datasets.image_folder.image_folder_dataset_builder import read_image
from experiments import configs, domains, run

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


def png_file(header, rows):
    """Returns a PNG file with this header and these rows of pixels."""
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c))
        for kind, c in chunks
    )


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


def test_a_folder_whose_files_took_each_others_place_is_read_anew(tmp_path):
    own = fill(tmp_path / "own")
    for path in own.rglob("*.png"):  # all of one size and one time
        path.with_name(f"{path.stem[3:]}.bmp").write_bytes(encoded("BMP"))
        path.unlink()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(own / "dog" / "0.bmp")
    Image.new("RGB", (8, 8), (1, 1, 1)).save(own / "cat" / "0.bmp")
    for path in own.rglob("*.bmp"):
        os.utime(path, (1, 1))
    _, before = read(own, tmp_path)
    for old, new in (("cat", "other"), ("dog", "cat"), ("other", "dog")):
        (own / old).rename(own / new)
    _, renamed = read(own, tmp_path)
    assert before.image[:, 0, 0, 0].tolist() != renamed.image[:, 0, 0, 0].tolist()
    content = (own / "cat" / "0.bmp").read_bytes(), (own / "dog" / "0.bmp").read_bytes()
    for name, each in zip(("dog", "cat"), content, strict=True):
        (own / name / "0.bmp").write_bytes(each)
        os.utime(own / name / "0.bmp", (1, 1))
    _, written = read(own, tmp_path)
    np.testing.assert_array_equal(written.image, before.image)


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


def put(*names, content=b"an image", inside="dog"):
    """Returns a function that writes files into a class of a folder."""

    def write(own):
        for name in names:
            path = own / inside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    return write


def link(name, target):
    return lambda own: (own / "dog" / name).symlink_to(target)


def folders(*names):
    return lambda own: [put("a.png", inside=name)(own) for name in names]


NOT_UTF_8 = os.fsdecode(b"caf\xe9")
UNREADABLE = (".heic", ".AVIF", ".heif", ".jxl", ".JP2", ".dng", ".psd", ".svg", ".ico", ".tga")

FOLDERS = [  # what is done to a folder with the classes cat and dog -> what is said of it
    *((put(f"phone{s}"), f"got 1 others, the first of which is phone{s}") for s in UNREADABLE),
    (lambda own: (own / "owl").mkdir(), r"got owl/ with nothing, or hidden files: put images"),
    (put("notes.txt", inside="owl"), r"got owl/ with 1 other files: put images"),
    (put(".a.png", inside="owl"), r"got owl/ with nothing, or hidden files"),
    (put("a.png", inside="owl/young"), r"got owl/, which holds folders \(young/\): give the"),
    (put("a.png", inside="dog/young"), r"got dog/, which holds folders \(young/\): move the"),
    (link("a.png", "nowhere.png"), r"a\.png: expected an image, got a link to a file that is not"),
    (link("a.png", "a.png"), r"a\.png: expected an image, got a link to a file that is not"),
    (link("self", ".."), r"got dog/, which holds folders \(self/\)"),
    (lambda own: os.mkfifo(own / "dog" / "a.png"), "expected an image, got .* or no file: mend it"),
    (put(f"{NOT_UTF_8}.png"), r"expected names in UTF-8, got 'caf\\udce9\.png': rename it"),
    (put("a.png", inside=NOT_UTF_8), r"expected names in UTF-8, got 'caf\\udce9': rename it"),
    (folders("Cat"), "one spelling of a class, got 'Cat' and 'cat': rename one"),
    (folders("red  bus", "red bus"), "one spelling of a class, got 'red  bus' and 'red bus'"),
    (folders("caf\u00e9", "cafe\u0301"), "one spelling of a class, got 'cafe\u0301' and"),
    (folders("bus "), "without white space around them .* got 'bus '"),
    (folders("a\nbus"), r"characters that cannot be printed, got 'a\\nbus'"),
    (folders("train", "test"), r"expected train/ and test/, .* got cat beside them: take it out"),
]


@pytest.mark.parametrize(("change", "sentence"), FOLDERS)
def test_nothing_of_a_folder_is_left_out_in_silence(tmp_path, change, sentence):
    own = fill(tmp_path / "own", count=1)
    change(own)
    with pytest.raises(ValueError, match=sentence) as raised:
        datasets.from_folder(own, image_size=16)
    assert str(own) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_are_no_images_are_warned_of(tmp_path):
    own = fill(tmp_path / "own", count=1)
    put("notes.txt", "Thumbs.db", "desktop.ini")(own)
    with pytest.warns(
        UserWarning,
        match=r"left out 1 file not of an image by name .* the first of which is dog/notes\.txt",
    ):
        built = datasets.from_folder(own, image_size=16)
    assert built.CLASS_COUNTS == {"train": (1, 1)}


def test_a_folder_that_must_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    own = fill(tmp_path / "own", count=1)
    monkeypatch.setattr(pathlib.Path, "iterdir", refuse)
    with pytest.raises(
        ValueError, match=f"{own}: .* got Permission denied: change its permissions"
    ):
        datasets.from_folder(own, image_size=16)


@pytest.mark.parametrize("kind", ["file", "loop", "user"])
def test_what_is_no_folder_is_named(tmp_path, kind):
    path = tmp_path / "own"
    path.touch() if kind == "file" else path.symlink_to("own")
    given = path if kind != "user" else "~nobody-of-this-name/own"
    with pytest.raises(NotADirectoryError, match=r"own, which is not a folder"):
        datasets.from_folder(given, image_size=16)


def test_a_folder_whose_own_name_is_not_utf_8_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"names in UTF-8, got 'caf\\udce9'"):
        datasets.from_folder(fill(tmp_path / NOT_UTF_8, count=1), image_size=16)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"image_size": 0}, "image_size from 1 to 8,944 pixels, got 0"),
        ({"image_size": -3}, "image_size from 1 to 8,944 pixels, got -3"),
        ({"image_size": 10**5}, "image_size from 1 to 8,944 pixels, got 100,000"),
        ({"image_size": 2.5}, "'float' object cannot be interpreted as an integer"),
        ({"image_size": "32"}, "'str' object cannot be interpreted as an integer"),
        ({"class_names": "cat"}, "expected a list of different class_names, got 'cat'"),
        ({"class_names": ["cat", "cat"]}, "expected a list of different class_names"),
        ({"class_names": ["CAT", "dog"]}, "one spelling of a class, got 'CAT' and 'cat'"),
        ({"class_names": ["cat"]}, r"classes cat, got 'dog' \(nearest: cat\): .* take out what"),
        ({"class_names": ["bus"]}, "classes bus, got 'cat', 'dog' .* the methods know no other"),
    ],
)
def test_options_of_a_folder_are_checked(tmp_path, options, sentence):
    own = fill(tmp_path / "own", count=1)
    with pytest.raises((ValueError, TypeError), match=sentence):
        datasets.from_folder(own, **{"image_size": 16} | options)


def test_a_target_may_lack_classes_of_the_source(tmp_path):
    config = own_config(fill(tmp_path / "a"), fill(tmp_path / "b", classes=("dog",)))
    pair = domains.load_pair(config, data_dir=tmp_path / "data")
    assert pair.class_names == ("cat", "dog")
    assert set(pair.target_train.label) == {1}


def test_a_source_without_labels_is_refused_before_the_target_is_read(tmp_path):
    config = own_config(fill(tmp_path / "a", labelled=False), fill(tmp_path / "b"))
    for start in (domains.load_pair, domains.prepare_pair):
        with pytest.raises(ValueError, match="the source must have labels"):
            start(config, data_dir=tmp_path / "data")


def test_a_folder_may_be_source_and_target(tmp_path):
    own = fill(tmp_path / "own", count=1)
    pair = domains.load_pair(own_config(own, own), data_dir=tmp_path / "data")
    np.testing.assert_array_equal(pair.source_train.image, pair.target_train.image)


def test_what_is_prepared_beforehand_is_what_is_loaded(tmp_path):
    config = own_config(fill(tmp_path / "a"), fill(tmp_path / "b", labelled=False))
    domains.prepare_pair(config, data_dir=tmp_path / "data")
    prepared = sorted((tmp_path / "data" / "image_folder").iterdir())
    domains.load_pair(config, data_dir=tmp_path / "data")
    assert sorted((tmp_path / "data" / "image_folder").iterdir()) == prepared
    assert len(prepared) == 2


def test_images_that_do_not_fit_in_memory_are_refused_before_they_are_prepared(
    tmp_path, monkeypatch
):
    built = datasets.from_folder(
        fill(tmp_path / "own"), image_size=1000, data_dir=tmp_path / "data"
    )
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)
    with pytest.raises(
        ValueError, match=r"12 images .* take 0\.0 GB .*: make image_size .* smaller"
    ):
        datasets.arrays(built, "train")
    assert not (tmp_path / "data").exists()


def own_config(source, target):
    config = configs.find_config("own_pair")[0]
    return dataclasses.replace(config, source=str(source), target=str(target), image_size=16)


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


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_camera_says(tmp_path, orientation, suffix):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8, :8], pixels[:8, 8:], pixels[8:, :8] = 240, 160, 80  # each corner another grey
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 95}, "webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(pixels).save(tmp_path / f"one.{suffix}", exif=exif, **options)
    shown = read_image(tmp_path / f"one.{suffix}", (16, 16))
    mirrored, turns = orientation in (2, 4, 5, 7), {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}
    expected = np.rot90(pixels[:, ::-1] if mirrored else pixels, turns.get(orientation, 0))
    assert abs(shown.astype(int) - expected).mean() < 5


def deep_png(colour, *pixel):
    """Returns a PNG file of one colour with 16 bits a channel, which Pillow does not write."""
    row = b"\0" + struct.pack(f">{len(pixel)}H", *pixel) * 16
    return png_file(struct.pack(">IIBBBBB", 16, 16, 16, colour, 0, 0, 0), row * 16)


def cmyk_jpeg():
    file = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(file, "JPEG", quality=95)
    return file.getvalue()


ENCODED = [  # the name and the content of an image of one colour -> its pixel
    ("grey.png", deep_png(0, 100 << 8), (100, 100, 100)),
    ("colour.png", deep_png(2, 10 << 8, 20 << 8, 30 << 8), (10, 20, 30)),
    ("clear.png", deep_png(4, 7 << 8, 0), (255, 255, 255)),
    ("seen.png", deep_png(6, 10 << 8, 20 << 8, 30 << 8, 0xFFFF), (10, 20, 30)),
    ("print.jpg", cmyk_jpeg(), (255, 0, 0)),
]


@pytest.mark.parametrize(("name", "content", "pixel"), ENCODED, ids=[row[0] for row in ENCODED])
def test_16_bits_a_channel_and_printers_colours_become_those_that_are_shown(
    tmp_path, name, content, pixel
):
    (tmp_path / name).write_bytes(content)
    shown = read_image(tmp_path / name, (16, 16))
    assert abs(shown.astype(int) - pixel).max() <= 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2000, 3000)])
def test_images_of_any_shape_become_squares(tmp_path, shape):
    Image.new("RGB", shape, (1, 2, 3)).save(tmp_path / "one.jpg", quality=95)
    shown = read_image(tmp_path / "one.jpg", (16, 16))
    assert shown.shape == (16, 16, 3)
    assert abs(shown.astype(int) - (1, 2, 3)).max() <= 2


def grey(kind, value):
    return Image.fromarray(np.full((16, 16), value, kind))


def palette(**options):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image, "one.png", options


COLOURS = [  # an image of one colour -> its pixel
    ((Image.new("RGB", (16, 16), (1, 2, 3)), "one.PNG"), (1, 2, 3)),
    ((Image.new("RGB", (16, 16), (1, 2, 3)), "one.TIFF"), (1, 2, 3)),
    ((Image.new("RGB", (16, 16), (1, 2, 3)), "one.Bmp"), (1, 2, 3)),
    ((Image.new("RGB", (16, 16), (1, 2, 3)), "one.ppm"), (1, 2, 3)),
    ((Image.new("L", (16, 16), 7), "one.png"), (7, 7, 7)),
    ((Image.new("1", (16, 16), 1), "one.png"), (255, 255, 255)),
    ((grey(np.uint16, 100 * 256), "one.png"), (100, 100, 100)),
    ((grey(np.uint16, 100 * 256), "one.tif"), (100, 100, 100)),
    ((grey(">u2", 100 * 256), "one.tif"), (100, 100, 100)),
    (palette(), (10, 20, 30)),
    (palette(transparency=1), (255, 255, 255)),
    (palette(transparency=bytes([255, 0])), (255, 255, 255)),
    ((Image.new("L", (16, 16), 7), "one.png", {"transparency": 7}), (255, 255, 255)),
    ((Image.new("LA", (16, 16), (7, 255)), "one.png"), (7, 7, 7)),
    ((Image.new("LA", (16, 16), (7, 0)), "one.png"), (255, 255, 255)),
    ((Image.new("RGBA", (16, 16), (0, 255, 0, 0)), "one.png"), (255, 255, 255)),
    ((Image.new("RGBA", (16, 16), (0, 200, 0, 255)), "one.png"), (0, 200, 0)),
    ((Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "one.tif"), (255, 0, 0)),
    ((Image.new("RGBA", (16, 16), (0, 200, 0, 255)), "one.webp", {"lossless": True}), (0, 200, 0)),
]


@pytest.mark.parametrize(("saved", "pixel"), COLOURS)
def test_every_kind_of_pixel_becomes_the_colour_that_is_shown(tmp_path, saved, pixel):
    image, name, *options = saved
    shown = one(tmp_path, image, name, **(options[0] if options else {}))
    assert (shown == pixel).all()


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
    np.testing.assert_array_equal(
        stream.source_train.mean, memory.source_train.image.mean((0, 1, 2))
    )
    for images in (memory.source_test, stream.source_test):
        held_out, labels = next(streamed.blocks(images))
        np.testing.assert_array_equal(held_out, memory.source_test.image)
        assert labels.tolist() == [0, 1]
    assert stream.provenance == memory.provenance


def test_a_share_of_each_class_of_the_source_is_held_out(tmp_path):
    own, target = fill(tmp_path / "a"), fill(tmp_path / "b", labelled=False)
    whole = datasets.arrays(
        datasets.from_folder(own, image_size=16, data_dir=tmp_path / "data"), "train"
    )
    some = {}
    for share in (0.0, 0.2, 0.9):
        config = dataclasses.replace(own_config(own, target), held_out=share)
        some[share] = domains.load_pair(config, data_dir=tmp_path / "data")
    assert some[0.0].source_train is some[0.0].source_test
    assert set(some[0.0].provenance) == {"source:a/train", "target:b/train"}
    for share, count in {0.2: 1, 0.9: 5}.items():  # of 6 images; the class keeps one
        pair = some[share]
        assert np.bincount(pair.source_test.label).tolist() == [count] * 2
        assert np.bincount(pair.source_train.label).tolist() == [6 - count] * 2
        parts = np.concatenate([pair.source_train.image, pair.source_test.image])
        assert sorted(map(bytes, parts)) == sorted(map(bytes, whole.image))
        positions = datasets.held_out(whole.label, share)
        np.testing.assert_array_equal(whole.image[positions], pair.source_test.image)
        assert pair.provenance["source:a/held out"] == {
            "examples": 2 * count,
            "sha256": datasets.digest([positions]),
        }
        assert pair.provenance["source:a/train"] == some[0.0].provenance["source:a/train"]
        assert len(pair.target_train.label) == 12


def test_a_class_of_which_nothing_can_be_held_out_is_named(tmp_path):
    own, target = fill(tmp_path / "a"), fill(tmp_path / "b", labelled=False)
    for path in sorted((own / "dog").iterdir())[1:]:
        path.unlink()
    config = dataclasses.replace(own_config(own, target), held_out=0.2)
    with pytest.warns(UserWarning, match=r"says nothing of 1 \(dog\) of the classes"):
        pair = domains.load_pair(config, data_dir=tmp_path / "data")
    assert np.bincount(pair.source_test.label).tolist() == [1]


def test_what_is_held_out_follows_from_the_labels_alone():
    label = np.array([0, 1, 0, 1, 0, 1, 2, 0, 0, 1])
    assert datasets.held_out(label, 0.4).tolist() == [1, 2, 8, 9]
    assert datasets.held_out(label, 0).tolist() == []
    assert datasets.held_out(np.arange(4), 0.5).tolist() == []  # a class keeps its only image


def test_nothing_is_held_out_of_a_source_with_a_test_part(tmp_path):
    fill(tmp_path / "own" / "train")
    fill(tmp_path / "own" / "test", count=2)
    config = own_config(tmp_path / "own", tmp_path / "own")
    pair = domains.load_pair(config, data_dir=tmp_path / "data")
    assert config.held_out
    assert (len(pair.source_train.label), len(pair.source_test.label)) == (12, 4)
    assert set(pair.provenance) == {
        f"{domain}:own/{split}" for domain in ("source", "target") for split in ("train", "test")
    }


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


def encoded(format, size=(40, 30), **options):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def png_of(width, height):
    """Returns a PNG file that says that it has this size, and has almost no content."""
    return png_file(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"")


HALF = {"PNG": "png", "JPEG": "JPG", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "PPM": "ppm"}

DAMAGED = [  # the name of an image and its content -> what is said of it
    *((f"half.{s}", encoded(f)[: len(encoded(f)) // 2], "replace it") for f, s in HALF.items()),
    ("half.webp", encoded("WEBP")[:60], "replace it"),
    ("empty.png", b"", "cannot identify image file"),
    ("text.jpg", b"no image", "cannot identify image file"),
    ("page.png", b"<html>moved</html>", "cannot identify image file"),
    ("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "cannot identify image file"),
    ("flipped.png", encoded("PNG")[:99] + b"?" + encoded("PNG")[100:], "replace it"),
    ("nothing.png", png_of(0, 0), "replace it"),
    ("line.png", png_of(0, 5), "replace it"),
    ("large.png", png_of(9000, 9000), ".9000x9000 pixels."),
    ("larger.png", png_of(10_000, 10_000), ".Image size .100000000 pixels. exceeds limit"),
    ("largest.png", png_of(60_000, 60_000), ".Image size .3600000000 pixels. exceeds limit"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), DAMAGED, ids=[row[0] for row in DAMAGED])
def test_a_damaged_image_is_named_and_leaves_nothing_prepared(tmp_path, name, content, sentence):
    own = fill(tmp_path / "own", count=1)
    (own / "dog" / name).write_bytes(content)
    built = datasets.from_folder(own, image_size=16, data_dir=tmp_path / "data")
    with pytest.raises(ValueError, match=sentence) as raised:
        datasets.arrays(built, "train")
    assert str(raised.value).startswith(f"{own / 'dog' / name}: expected an image")
    assert "\n" not in str(raised.value)
    assert not copy.copy(built).is_prepared()


def test_an_unlabelled_source_is_refused_before_anything_is_trained(tmp_path, capsys):
    target = fill(tmp_path / "target", labelled=False)
    pair = ["--source", str(target), "--target", str(target)]
    where = ["--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "runs")]
    assert run.main(["own_pair", *pair, *where]) == 2
    assert "the source must have labels" in capsys.readouterr().err


def test_a_pair_without_folders_says_what_to_give(tmp_path, capsys):
    assert run.main(["own_pair", "--output", str(tmp_path)]) == 2
    assert "a folder of images is given by its path" in capsys.readouterr().err
