"""SYN SIGNS: the drawings, the arithmetic and the camera that make the images, the builder."""

import hashlib
import pickle
import xml.etree.ElementTree
from importlib import resources

import numpy as np
import pytest

from dann_jax.datasets import draws, image_builder
from dann_jax.datasets.chance import Chance
from dann_jax.datasets.syn_signs import (
    atlas,
    camera,
    planes,
    rendering,
    syn_signs_dataset_builder,
)

ROUND = atlas.CLASSES


class Calm(Chance):
    """Chance that strays from the middle by a part of what it may, and lets nothing happen."""

    part = 0.0

    def between(self, low, high):
        return (low + high) / 2 + self.part * (super().between(low, high) - (low + high) / 2)

    def happens(self, probability):
        return super().happens(probability) & False


class Mild(Calm):
    """The same with a third of the distortion."""

    part = 1 / 3


def chance(n=1, count=rendering._DRAWS, kind=Chance, stream="train"):
    return kind(draws.uniform(0, stream, 0, n, count=count))


def scene(n=2, size=8, level=None):
    if level is not None:
        return np.full((n, 3, size, size), level, np.float32)
    return np.random.default_rng(0).random((n, 3, size, size), np.float32)


# --- drawings -------------------------------------------------------------------------------


def svg_files():
    folder = resources.files(syn_signs_dataset_builder.__package__) / "drawings"
    return sorted(folder.iterdir(), key=lambda file: file.name)


def test_there_is_a_drawing_for_every_class_of_gtsrb_under_its_name():
    classes = syn_signs_dataset_builder.Builder.CLASS_NAMES
    expected = [f"{label:02d}_{name.replace(' ', '_')}" for label, name in enumerate(classes)]
    assert list(atlas.names()) == expected
    assert [file.name for file in svg_files()] == [f"{name}.svg" for name in expected]


def test_drawings_are_shapes_only_and_refer_to_nothing_outside():
    shapes = {"svg", "g", "use", "path", "circle", "ellipse", "rect"}
    for file in svg_files():
        text = file.read_text()
        assert not any(word in text for word in ("<!", "<?", "url(", "data:", "@import")), file.name
        for element in xml.etree.ElementTree.fromstring(text).iter():
            kind = element.tag.removeprefix("{http://www.w3.org/2000/svg}")
            assert kind in shapes, f"{file.name} has a {element.tag}"
            for name, value in element.attrib.items():
                assert not name.startswith("on"), f"{file.name}: {name}"
                assert name != "style", file.name
                assert not name.endswith("href") or value.startswith("#"), f"{file.name}: {value}"


def test_drawings_fill_their_square_and_are_transparent_outside_the_sign():
    for name in atlas.names():
        opacity = atlas.drawing(name, 128)[..., 3]
        assert opacity[64, 64] == 255, name
        assert not opacity[[0, 0, -1, -1], [0, -1, 0, -1]].any(), name
        rows, columns = (np.flatnonzero(opacity.any(axis=axis)) for axis in (1, 0))
        assert columns[0] <= 2, name
        assert columns[-1] >= 125, name
        assert 63 <= (rows[0] + rows[-1]) / 2 <= 65, name
        assert rows[-1] - rows[0] >= 106, name  # a triangle is lower than it is wide


def test_drawings_are_distinct():
    flat = atlas.atlas()[:3, :ROUND].transpose(1, 0, 2, 3).reshape(ROUND, -1)
    for label, one in enumerate(flat[:-1]):
        difference = np.sqrt(np.mean((flat[label + 1 :] - one) ** 2, axis=1))
        nearest = label + 1 + int(difference.argmin())
        assert difference.min() > 0.04, f"{atlas.names()[label]} and {atlas.names()[nearest]}"


@pytest.mark.parametrize(("left", "right"), [(19, 20), (33, 34), (36, 37), (38, 39)])
def test_drawings_of_left_and_right_are_mirrored(left, right):
    one, other = (atlas.atlas()[:, label] for label in (left, right))
    np.testing.assert_allclose(one, other[..., ::-1], atol=0.07)  # edges fall otherwise
    assert np.abs(one - other).max() > 0.9


def test_atlas_holds_colours_times_opacity_and_an_empty_drawing():
    all_of_them = atlas.atlas()
    assert all_of_them.shape == (4, ROUND + 1, 66, 66)
    assert all_of_them.dtype == np.float32
    assert all_of_them.min() == 0
    assert all_of_them.max() == 1
    assert np.all(all_of_them[:3] <= all_of_them[3])
    assert not all_of_them[:, -1].any()
    assert not all_of_them[..., [0, -1], :].any()
    assert not all_of_them[..., [0, -1]].any()
    # A red sign with a white bar (17): red at its top, white in the middle.
    np.testing.assert_allclose(all_of_them[:, 17, 12, 33], [0.757, 0.071, 0.11, 1], atol=0.002)
    np.testing.assert_array_equal(all_of_them[:, 17, 33, 33], [1, 1, 1, 1])


# --- arithmetic -----------------------------------------------------------------------------


def test_sample_gives_back_a_picture_at_its_own_pixels_and_means_between():
    pictures = np.random.default_rng(0).random((2, 3, 6, 6), np.float32)
    which = np.array([2, 0])[:, None, None, None]
    x, y = (np.broadcast_to(place, (2, 1, 6, 6)) for place in planes.screen(6))
    seen = planes.sample(pictures, which, x, y)
    np.testing.assert_allclose(seen, pictures[:, [2, 0]].swapaxes(0, 1), atol=1e-6)
    halfway = planes.sample(pictures, which, x + np.float32(1 / 6), y)[..., :-1]
    expected = (pictures[..., :-1] + pictures[..., 1:])[:, [2, 0]].swapaxes(0, 1) / 2
    np.testing.assert_allclose(halfway, expected, atol=1e-6)


def test_sample_goes_on_with_the_edge():
    pictures = np.random.default_rng(0).random((1, 1, 6, 6), np.float32)
    corner = np.full((1, 1, 1, 1), -7, np.float32)
    seen = planes.sample(pictures, np.zeros((1, 1, 1, 1), int), corner, -corner)
    assert seen.item() == pictures[0, 0, -1, 0]


def test_resize_keeps_what_is_linear():
    x, y = planes.screen(52)
    for size in (28, 40, 52):
        small_x, small_y = planes.screen(size)
        expected = (2 * small_x + small_y)[2:-2, 2:-2]
        got = planes.resize((2 * x + y)[None, None], size)[0, 0, 2:-2, 2:-2]
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_box_covers_its_area():
    # 0.5 x 0.8 of an image of 2 x 2: a tenth of it, also where edges lie within pixels.
    edges = (np.array([edge]) for edge in (-0.23, 0.27, -0.51, 0.29))
    covered = planes.box(40, *edges)
    np.testing.assert_allclose(covered.mean(), 0.1, atol=1e-4)
    assert covered[0, 0, 18, 20] == 1
    assert covered[0, 0, 0, 0] == 0


# --- camera ---------------------------------------------------------------------------------


def test_blur_keeps_a_plain_scene_and_spreads_a_point():
    plain = scene(4, 16, level=0.3)
    np.testing.assert_allclose(camera.blur(plain, chance(4)), plain, rtol=1e-5)
    point = scene(1, 17, level=0)
    point[..., 8, 8] = 1
    for direction in ((0, 1), (1, 0), (1, 1), (1, -1)):
        spread = camera._smear(point, np.array([1.2]), *direction)[0, 0]
        np.testing.assert_allclose(spread.sum(), 1, rtol=1e-5)
        at = np.array(np.nonzero(spread)) - 8
        distance = np.array(direction) @ at / np.dot(direction, direction)
        np.testing.assert_array_equal(np.outer(direction, distance), at)
        variance = (spread[spread > 0] * distance**2).sum()
        np.testing.assert_allclose(variance, 1.2**2, rtol=0.02)


def test_blur_leaves_its_argument_alone():
    before = scene(8, 16)
    after = before.copy()
    camera.blur(after, chance(8))
    np.testing.assert_array_equal(before, after)


def test_a_plain_scene_without_noise_passes_the_mosaic():
    plain = scene(3, 8) * 0 + np.array([0.2, 0.5, 0.7], np.float32)[:, None, None]
    sensed = camera.sense(plain, np.zeros((3, 8, 8), np.float32), chance(3))
    np.testing.assert_allclose(sensed, plain, atol=1e-6)


def test_mosaic_sees_one_colour_at_each_pixel():
    # Strength 1 of the mosaic, no noise: at (0, 0) red, at (0, 1) green, at (1, 1) blue.
    class Full(Calm):
        def between(self, low, high):
            return super().between(low, high) * 0 + 1

    light = scene(1, 8)
    sensed = camera.sense(light, np.zeros((1, 8, 8), np.float32), chance(1, kind=Full))
    for colour, rows, columns in ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)):
        at = (0, colour, slice(rows, None, 2), slice(columns, None, 2))
        np.testing.assert_allclose(sensed[at], light[at], atol=1e-6)
    red = light[0, 0]
    np.testing.assert_allclose(sensed[0, 0, 2, 3], (red[2, 2] + red[2, 4]) / 2, atol=1e-6)
    corners = red[2, 2] + red[2, 4] + red[4, 2] + red[4, 4]
    np.testing.assert_allclose(sensed[0, 0, 3, 3], corners / 4, atol=1e-6)


def test_sensor_clips():
    sensed = camera.sense(scene(2, 8, level=3), np.ones((2, 8, 8), np.float32), chance(2))
    np.testing.assert_array_equal(sensed, 1)


# --- images ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def some_images():
    """Four rounds and a bit: every class at every resolution."""
    return rendering.images(0, "train", 0, 4 * ROUND + 5)


def test_image_i_is_a_function_of_seed_stream_and_i(some_images):
    n = len(some_images)
    assert some_images.shape == (n, 40, 40, 3)
    assert some_images.dtype == np.uint8
    for size in (64, 17):
        parts = [rendering.images(0, "train", i, min(i + size, n)) for i in range(0, n, size)]
        np.testing.assert_array_equal(np.concatenate(parts), some_images)
    for i in (n - 1, 0, 42, 43):
        np.testing.assert_array_equal(rendering.images(0, "train", i, i + 1)[0], some_images[i])
    for other in ((1, "train"), (0, "test")):
        changed = rendering.images(*other, 0, 50) != some_images[:50]
        assert changed.any(axis=(1, 2, 3)).all()


def test_images_are_pinned():
    builder = syn_signs_dataset_builder.Builder
    if not image_builder.others(builder.DRAWN_WITH):
        images = rendering.images(0, "train", 0, 256)
        assert hashlib.sha256(images.tobytes()).hexdigest() == builder.SAMPLES["train"]


def test_images_are_made_by_a_function_that_other_processes_find():
    assert pickle.loads(pickle.dumps(rendering.images)) is rendering.images


def test_every_round_shows_every_class_once():
    labels = rendering.labels(0, 5 * ROUND)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels.reshape(5, ROUND), [np.arange(ROUND)] * 5)
    np.testing.assert_array_equal(rendering.labels(37, 60), labels[37:60])


def test_every_draw_of_an_image_is_used():
    class Counted(Chance):
        def __init__(self, table):
            super().__init__(table)
            tables.append(self._columns)

    tables = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "Chance", Counted)
        rendering.images(0, "train", 0, 2)
    assert list(tables[0]) == []


def test_no_images_and_impossible_ranges():
    assert rendering.images(0, "train", 7, 7).shape == (0, 40, 40, 3)
    with pytest.raises(ValueError, match="got start=7 and stop=5"):
        rendering.images(0, "train", 7, 5)
    with pytest.raises(ValueError, match="got start=-3"):
        rendering.images(0, "train", -3, 5)


def test_unknown_stream_is_refused():
    with pytest.raises(ValueError, match="stream of train, test, got 'validation'"):
        rendering.images(0, "validation", 0, 5)


def test_train_and_test_share_no_background():
    train, test = (
        {tile.tobytes() for tile in rendering._tiles(stream).swapaxes(0, 1)}
        for stream in ("train", "test")
    )
    assert len(train) == 24
    assert len(test) == 6
    assert not train & test


def test_calm_sign_is_its_drawing():
    # 44 pixels with a margin of 5 at either side, and the middle of the jitter in scale.
    label = np.arange(ROUND)
    seen, opacity = rendering._signs(label, 44, chance(ROUND, kind=Calm))
    half = (1 - 10 / 44) * 1.035
    x, y = planes.screen(44)
    inside = (np.abs(x) < half) & (np.abs(y) < half)
    for k in label:
        drawn = planes.sample(
            atlas.atlas(), np.full((1, 1, 1, 1), k), x[None, None] / half, y[None, None] / half
        )[0]
        assert np.corrcoef(drawn[:3, inside].ravel(), seen[k][:, inside].ravel())[0, 1] > 0.97
        assert np.abs(drawn[3, inside] - opacity[k, 0, inside]).mean() < 0.02


def seen_and_labels(kind, stream, rounds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "Chance", kind)
        images = rendering.images(0, stream, 0, rounds * ROUND)
    # What the eye does: look at the middle, disregard brightness and contrast.
    seen = images[:, 4:36, 4:36].reshape(len(images), -1).astype(np.float32)
    seen -= seen.mean(axis=1, keepdims=True)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True) + 1
    return seen, rendering.labels(0, len(images))


@pytest.mark.parametrize(("kind", "rounds", "share"), [(Mild, 12, 0.95), (Chance, 40, 0.75)])
def test_labels_are_visible(kind, rounds, share):
    from sklearn import linear_model

    classifier = linear_model.RidgeClassifier(0.3).fit(*seen_and_labels(kind, "train", rounds))
    assert classifier.score(*seen_and_labels(kind, "test", 12)) > share


# --- builder --------------------------------------------------------------------------------


class Builder(syn_signs_dataset_builder.Builder):
    """A hundred images."""

    name = "syn_signs"
    SIZES = {"train": 100, "test": 43}


def test_builder_has_the_sizes_of_the_paper():
    builder = syn_signs_dataset_builder.Builder(data_dir="unused")
    assert {split: sum(counts) for split, counts in builder.CLASS_COUNTS.items()} == {
        "train": 100_000,
        "test": 4_300,
    }
    assert all(max(counts) - min(counts) <= 1 for counts in builder.CLASS_COUNTS.values())


def test_builder_prepares_and_reads(tmp_path):
    builder = Builder(data_dir=tmp_path)
    builder.download_and_prepare()
    for split, size in Builder.SIZES.items():
        image, label = builder.read(split)
        np.testing.assert_array_equal(image, rendering.images(0, split, 0, size))
        np.testing.assert_array_equal(label, np.arange(size) % ROUND)
    assert builder.info.features["label"].names == list(Builder.CLASS_NAMES)
    for text in (builder.info.description, builder.info.citation, builder.info.homepage):
        assert text
    assert builder.info.redistribution_info.license
