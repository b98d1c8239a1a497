"""Mean subtraction, scaling and the crop of stored images."""

import numpy as np
import pytest

from dann_jax import DomainBatch
from dann_jax.preprocessing import Preprocess, image_mean


def images(count, channels=3, size=6):
    return np.random.default_rng(0).integers(0, 256, [count, size, size, channels], np.uint8)


def test_each_domain_has_its_mean_and_an_evaluation_the_middle():
    preprocess = Preprocess((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), (10.0, 20.0, 40.0), crop=4)
    stored = images(5)
    middle = stored[:, 1:5, 1:5].astype(np.float32)
    for shown, mean in ((preprocess.source, [1, 2, 3]), (preprocess.target, [4, 5, 6])):
        expected = (middle - np.float32(mean)) / np.float32([10, 20, 40])
        np.testing.assert_allclose(shown(stored), expected, rtol=1e-6)


def test_a_batch_is_whole_and_grey_becomes_colour():
    preprocess = Preprocess((2.0,) * 3, (3.0,) * 3, 255.0, crop=4)
    grey, colour = images(4, channels=1), images(3)
    batch = preprocess.batch(DomainBatch(grey, np.arange(4), colour))
    assert batch.source_image.shape == (4, 6, 6, 3)
    assert batch.target_image.shape == (3, 6, 6, 3)
    np.testing.assert_allclose(batch.source_image[..., 2:], (grey - np.float32(2)) / 255, rtol=1e-6)
    np.testing.assert_allclose(batch.target_image, (colour - np.float32(3)) / 255, rtol=1e-6)


def test_a_crop_larger_than_the_images_is_refused():
    with pytest.raises(ValueError, match="expected a crop of 1 to 6 pixels"):
        Preprocess((0.0,) * 3, (0.0,) * 3, 1.0, crop=7).source(images(1))


def test_the_mean_is_over_all_pixels_of_all_images():
    stored = images(9000, size=2)
    np.testing.assert_allclose(image_mean(stored), stored.mean((0, 1, 2)), rtol=1e-12)


def test_each_channel_of_each_image_is_standardized_as_numpy_does():
    stored = images(5)
    expected = stored.astype(np.float64)
    expected -= expected.mean((1, 2), keepdims=True)
    expected /= expected.std((1, 2), keepdims=True)
    preprocess = Preprocess((9.0,) * 3, (5.0,) * 3, 255.0, crop=6, each_image=True)
    np.testing.assert_allclose(preprocess.source(stored), expected, atol=2e-6)
    batch = preprocess.batch(DomainBatch(stored, np.arange(5), stored[:2]))
    for shown in (batch.source_image, preprocess.target(stored)):
        np.testing.assert_array_equal(shown, preprocess.source(stored))
    np.testing.assert_array_equal(batch.target_image, batch.source_image[:2])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float32, bool])
def test_standardized_images_are_float32_and_constant_ones_are_0(dtype):
    stored = (images(3, channels=1) % 2).astype(dtype)
    stored[0] = 77  # whose mean over 36 pixels need not be exactly 77
    preprocess = Preprocess((9.0,) * 3, (5.0,) * 3, 255.0, crop=6, each_image=True)
    shown = np.asarray(preprocess.target(stored))
    assert shown.dtype == np.float32
    np.testing.assert_array_equal(shown[0], np.zeros([6, 6, 3]))
    np.testing.assert_allclose(shown[1:].std((1, 2)), 1.0, atol=1e-5)
