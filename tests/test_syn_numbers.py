"""SYN NUMBERS: the fonts, the images and what can be read on them, and the builder."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage

from dann_jax import datasets, kernels
from dann_jax.datasets import blocks, image_builder
from dann_jax.datasets.syn_numbers import fonts, rendering, syn_numbers_dataset_builder, textures

# --- fonts ----------------------------------------------------------------------------------


def test_there_are_thirty_faces_with_ten_different_digits_each():
    glyphs = fonts.glyphs()
    assert len(fonts.FACES) == len({fonts.find(face).read_bytes() for face in fonts.FACES}) >= 30
    assert glyphs.distance.shape == (len(fonts.FACES), 10, fonts.CELL, fonts.CELL)
    inside = glyphs.distance > 0
    for face, digits in zip(fonts.FACES, inside, strict=True):
        # What two digits of a face share is less than what they do not.
        ink = digits.reshape(10, -1).astype(int)
        union = ink.sum(1)[:, None] + ink.sum(1) - ink @ ink.T
        overlap = ink @ ink.T / union - np.eye(10)
        assert overlap.max() < 0.85, face.path
        assert 0.03 < ink.mean() < 0.25, face.path


def test_glyphs_are_centred_as_high_as_promised_and_within_their_cell():
    glyphs = fonts.glyphs()
    place = np.arange(fonts.CELL) - (fonts.CELL - 1) / 2
    for face, distances, widths in zip(fonts.FACES, glyphs.distance, glyphs.width, strict=True):
        for distance, width in zip(distances, widths, strict=True):
            rows, columns = place[(distance > 0).any(1)], place[(distance > 0).any(0)]
            assert abs(columns[0] + columns[-1]) <= 2, face.path
            assert abs(columns[-1] - columns[0] + 1 - width * fonts.DIGIT_HEIGHT) <= 2, face.path
            assert 0.85 < (rows[-1] - rows[0] + 1) / fonts.DIGIT_HEIGHT < 1.15, face.path
            border = np.concatenate([distance[[0, -1]].ravel(), distance[:, [0, -1]].ravel()])
            assert border.max() < -0.1, face.path


def test_missing_font_gives_one_sentence_with_the_cure():
    face = fonts.Face("font-nowhere==1.0", "font_nowhere/files/Nowhere.ttf")
    with pytest.raises(FileNotFoundError) as raised:
        fonts.find(face)
    expected = "expected the font font_nowhere/files/Nowhere.ttf, found none: "
    assert str(raised.value) == expected + "pip install font-nowhere==1.0"


def test_a_file_that_is_no_font_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(fonts, "find", lambda face: tmp_path / "no.ttf")
    (tmp_path / "no.ttf").write_bytes(b"no font")
    with pytest.raises(ValueError, match=r"no.ttf: expected a font, .* rendercv-fonts==0.5.1$"):
        fonts._draw(fonts.FACES[0], "0")


# --- images ---------------------------------------------------------------------------------


def test_images_do_not_depend_on_the_range_in_which_they_are_made():
    whole = rendering.images(3, "train", 0, 150)
    assert whole.shape == (150, 32, 32, 3)
    assert whole.dtype == np.uint8
    for start, stop in ((0, 1), (1, 70), (64, 128), (149, 150)):
        np.testing.assert_array_equal(rendering.images(3, "train", start, stop), whole[start:stop])


def test_images_do_not_depend_on_the_number_of_processes():
    size = 600  # three blocks, the last one short
    alone, shared = (
        np.array(list(blocks.generate(rendering.images, 0, "train", size, processes=processes)))
        for processes in (1, 2)
    )
    np.testing.assert_array_equal(shared, alone)


def test_images_differ_between_seeds_streams_and_indices():
    images = [
        rendering.images(seed, stream, start, start + 20)
        for seed, stream, start in (
            (0, "train", 0),
            (1, "train", 0),
            (0, "test", 0),
            (0, "train", 20),
        )
    ]
    assert len({image.tobytes() for image in np.concatenate(images)}) == 80


def test_images_are_pinned(monkeypatch):
    """The outlines are filled by the FreeType inside Pillow; each face is in the sample."""
    builder, faces, glyph = syn_numbers_dataset_builder.Builder, set(), rendering._glyph
    monkeypatch.setattr(rendering, "_glyph", lambda f, *a: faces.update(f) or glyph(f, *a))
    images = rendering.images(0, "train", 0, 256)
    assert len(faces) == len(fonts.FACES)
    if not image_builder.others(builder.DRAWN_WITH):
        assert hashlib.sha256(images.tobytes()).hexdigest() == builder.SAMPLES["train"]


def test_labels_are_balanced():
    assert rendering.labels(7, 13).tolist() == [7, 8, 9, 0, 1, 2]
    for size in (479400, 9553):
        counts = np.bincount(rendering.labels(0, size))
        assert counts.max() - counts.min() <= 1


def test_textures_repeat_without_a_seam_and_have_unit_contrast():
    for bank in (textures.walls(), textures.clouds()):
        assert bank.shape[1:] == (textures.SIDE + 1, textures.SIDE + 1)
        np.testing.assert_array_equal(bank[:, -1], bank[:, 0])
        np.testing.assert_array_equal(bank[:, :, -1], bank[:, :, 0])
        np.testing.assert_allclose(bank.std((1, 2)), 1, atol=0.03)
    np.testing.assert_allclose(textures.grain().std((1, 2)), 1, atol=0.01)


def test_digits_are_lighter_or_darker_from_faint_to_strong():
    grey = rendering.images(0, "train", 0, 1000).mean(-1) / 255
    shape = rendering.shapes(0, "train", 0, 1000)
    ground = 1 - np.clip(ndimage.gaussian_filter(shape, (0, 1, 1)) * 4, 0, 1)
    contrast = np.array(
        [
            np.average(g, weights=s) - np.average(g, weights=b + 1e-6)
            for g, s, b in zip(grey, shape, ground, strict=True)
        ]
    )
    assert 0.35 < (contrast > 0).mean() < 0.65
    faint, strong = np.quantile(np.abs(contrast), (0.1, 0.9))
    assert faint < 0.12
    assert strong > 0.3


# --- what can be read -----------------------------------------------------------------------


def _locally_normalised(grey):
    """Returns images less their local mean, over their local contrast: ground and light go."""
    detail = grey - ndimage.gaussian_filter(grey, (0, 2.5, 2.5))
    power = ndimage.gaussian_filter(detail * detail, (0, 3.75, 3.75))
    floor = 0.3 * detail.std((1, 2), keepdims=True)
    return detail / np.sqrt(power + floor * floor)


def _logits(weights, image):
    *kernels, hidden, last = weights
    x = image[..., None]
    # The absolute value, and no biases: dark digits are read as light ones are.
    for kernel, nonlinearity in zip(kernels, (jnp.abs, jax.nn.relu, jax.nn.relu), strict=True):
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=layout)
        x = nonlinearity(x)
    return jax.nn.relu(x.reshape(len(x), -1) @ hidden) @ last


def _trained(images, labels, *, steps, batch):
    """Returns the weights of a small convolutional classifier."""
    shapes = ((5, 5, 1, 16), (3, 3, 16, 32), (3, 3, 32, 64), (4 * 4 * 64, 64), (64, 10))
    generator = np.random.default_rng(0)
    weights = [
        jnp.asarray(generator.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape), jnp.float32)
        for shape in shapes
    ]
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, steps))
    state = optimizer.init(weights)

    def loss(weights, image, label):
        logits = _logits(weights, image)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    @functools.partial(jax.jit, compiler_options=kernels.compiler_options("cpu"))
    def step(weights, state, image, label):
        updates, state = optimizer.update(jax.grad(loss)(weights, image, label), state)
        return optax.apply_updates(weights, updates), state

    for _ in range(steps):
        some = generator.integers(0, len(images), batch)
        weights, state = step(weights, state, images[some], labels[some])
    return weights


@pytest.mark.slow
def test_classifier_trained_on_clean_digits_reads_the_central_labels():
    # Clean: shapes of other images, each at one of three sharpnesses; no colour, no ground.
    count = 30000
    clean, labels = rendering.shapes(1, "train", 0, count), rendering.labels(0, count)
    for first, sigma in enumerate((0.6, 1.0, 1.7)):
        clean[first::3] = ndimage.gaussian_filter(clean[first::3], (0, sigma, sigma))
    weights = _trained(_locally_normalised(clean), labels, steps=1500, batch=64)
    grey = rendering.images(0, "test", 0, 2000) @ np.float32([0.3, 0.59, 0.11])
    seen = _locally_normalised(grey)
    logits = sum(
        jax.nn.log_softmax(_logits(weights, np.roll(seen, move, (1, 2))))
        for move in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
    )
    read = np.argmax(logits, axis=1) == rendering.labels(0, 2000)
    assert read.mean() >= 0.9


# --- the builder ----------------------------------------------------------------------------


def test_builder_has_the_published_sizes():
    counts = datasets.builder("syn_numbers", data_dir="unused").CLASS_COUNTS
    assert counts["train"] == (47940,) * 10
    assert counts["test"] == (956,) * 3 + (955,) * 7


def test_builder_prepares_and_loads_the_images_in_order(tmp_path, monkeypatch):
    sizes = {"train": 25, "test": 12}
    monkeypatch.setattr(syn_numbers_dataset_builder.Builder, "SIZES", sizes)
    for split, size in sizes.items():
        loaded = datasets.load("syn_numbers", split, data_dir=tmp_path)
        np.testing.assert_array_equal(loaded.image, rendering.images(0, split, 0, size))
        np.testing.assert_array_equal(loaded.label, np.arange(size) % 10)


def test_missing_font_stops_the_preparation_before_anything_is_written(tmp_path, monkeypatch):
    missing = fonts.Face("rendercv-fonts==0.5.1", "rendercv_fonts/Lato/Lato-Missing.ttf")
    monkeypatch.setattr(fonts, "FACES", (missing, *fonts.FACES[1:]))
    fonts.glyphs.cache_clear()
    try:
        with pytest.raises(FileNotFoundError, match="pip install rendercv-fonts==0.5.1"):
            datasets.prepare("syn_numbers", data_dir=tmp_path)
    finally:
        fonts.glyphs.cache_clear()
    assert not [path for path in tmp_path.glob("syn_numbers/*") if path.name[0].isdigit()]
