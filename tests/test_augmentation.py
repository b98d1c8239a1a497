"""Views are functions of (key, step, domain, position), the same on the host and the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import DomainBatch, TrainState
from dann_jax.augmentation import (
    Distortion,
    augmented,
    center_crop,
    distort,
    distorted,
    draw_views,
    take_view,
    take_views,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(11)
IMAGES = np.random.default_rng(0).integers(0, 256, [8, 7, 9, 3], np.uint8)
SIZE = 5  # spares 2 rows and 4 columns


@functools.partial(jax.jit, static_argnames=("first", "count", "domain", "mirror"))
def draw(step, first=0, count=8, domain=0, key=KEY, mirror=True):
    return draw_views(
        key,
        step,
        domain=domain,
        positions=first + jnp.arange(count),
        shape=IMAGES.shape,
        size=SIZE,
        mirror=mirror,
    )


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_view_depends_on_its_position_and_not_on_the_others():
    whole = draw(3)
    parts = draw(3, 0, 2), draw(3, 2, 6)
    equal(whole, jax.tree.map(lambda *x: np.concatenate(x), *parts))


def test_keys_steps_and_domains_have_views_of_their_own():
    for other in (draw(4), draw(3, domain=1), draw(3, key=jax.random.key(12))):
        assert np.any(draw(3).corner != other.corner)
        assert np.any(draw(3).mirrored != other.mirrored)


def test_every_corner_is_equally_likely_and_half_are_mirrored():
    corner, mirrored = draw(0, count=6000)
    cells, counts = np.unique(corner, axis=0, return_counts=True)
    np.testing.assert_array_equal(cells, [(top, left) for top in range(3) for left in range(5)])
    # 6000 views in 15 cells: 400 each, standard deviation below 20.
    assert counts.min() > 300
    assert counts.max() < 500
    assert 2800 < mirrored.sum() < 3200
    assert not draw(0, count=6000, mirror=False).mirrored.any()


def test_views_by_hand():
    image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4, 1)
    # Rows 4..7 and 8..11 from the second column on: 5 6 and 9 10.
    for mirrored, want in ((False, [[5, 6], [9, 10]]), (True, [[6, 5], [10, 9]])):
        corner = np.array([[1, 1]])
        view = take_views(image, (corner, np.array([mirrored])), 2)
        np.testing.assert_array_equal(view[0, ..., 0], want)
        np.testing.assert_array_equal(take_view(image[0], corner[0], mirrored, 2)[..., 0], want)


def test_host_and_device_take_the_same_pixels():
    for step in range(3):
        views = draw(step)
        device = jax.jit(take_views, static_argnums=2)(IMAGES, views, SIZE)
        host = [take_view(*one, SIZE) for one in zip(IMAGES, *map(np.asarray, views), strict=True)]
        assert device.dtype == np.uint8
        assert device.shape == (8, SIZE, SIZE, 3)
        np.testing.assert_array_equal(device, np.stack(host))


@pytest.mark.parametrize("axis_name", [None, "device"])
def test_augmented_updates_see_the_views_of_the_global_batch(axis_name):
    def make_update(*, axis_name):
        return lambda state, batch, key: (state, batch)

    update = augmented(make_update, size=SIZE, mirror=True)(axis_name=axis_name)
    batch = DomainBatch(IMAGES, np.arange(8), IMAGES[::-1])
    state = TrainState(jnp.int32(6), {}, {}, {})
    if axis_name is None:
        _, views = update(state, batch, KEY)
    else:  # four devices with two images each
        batch = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), batch)
        update = jax.vmap(update, in_axes=(None, 0, None), out_axes=(None, 0), axis_name=axis_name)
        _, views = update(state, batch, KEY)
        views = jax.tree.map(lambda x: x.reshape(8, *x.shape[2:]), views)
    want = take_views(IMAGES, draw(6), SIZE), take_views(IMAGES[::-1], draw(6, domain=1), SIZE)
    equal((views.source_image, views.target_image), want)
    equal(views.source_label, np.arange(8))


def test_views_and_preprocessing_commute():
    views = draw(0)
    scaled = (IMAGES.astype(np.float32) - 99.0) / 128.0
    equal(
        take_views(scaled, views, SIZE),
        (np.asarray(take_views(IMAGES, views, SIZE), np.float32) - 99.0) / 128.0,
    )


def test_center_crop_is_the_middle():
    image = np.arange(20).reshape(1, 4, 5, 1)
    np.testing.assert_array_equal(center_crop(image, 2)[0, ..., 0], [[6, 7], [11, 12]])
    np.testing.assert_array_equal(center_crop(image, 3)[0, ..., 0], image[0, :3, 1:4, 0])
    np.testing.assert_array_equal(center_crop(jnp.asarray(image), 4), image[:, :, :4])


@pytest.mark.parametrize("size", [0, 8])
def test_a_crop_that_does_not_fit_is_refused(size):
    with pytest.raises(ValueError, match=f"1 to 7 pixels for images of 7x9, got {size}"):
        center_crop(IMAGES, size)


# --- distortions -------------------------------------------------------------------------

FLOATS = np.random.default_rng(1).normal(size=(8, 7, 9, 3)).astype(np.float32)
STRONG = Distortion(shift=2, affine=0.1, scale=(0.25, 1.5), inversion=True, noise=0.1)


def distort_all(distortion, images=FLOATS, step=3, first=0, **options):
    options = {"domain": 0, "positions": first + jnp.arange(len(images))} | options
    return np.asarray(distort(images, distortion, KEY, step, **options))


def test_a_distortion_of_nothing_changes_nothing():
    equal(distort_all(Distortion()), FLOATS)
    # Interpolation at the pixels themselves is exact.
    tiny = distort_all(Distortion(affine=1e-30))
    equal(tiny, FLOATS)


def test_a_distortion_depends_on_its_position_and_not_on_the_others():
    whole = distort_all(STRONG)
    equal(whole, distort_all(STRONG))
    parts = distort_all(STRONG, FLOATS[:3]), distort_all(STRONG, FLOATS[3:], first=3)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)
    for other in (dict(step=4), dict(domain=1), dict(view=1)):
        assert np.all(np.any(distort_all(STRONG, **other) != whole, (1, 2, 3)))


def test_shifts_are_whole_pixels_up_to_the_largest_and_mirror_the_border():
    shifted, seen = distort_all(Distortion(shift=2)), set()
    padded = np.pad(FLOATS, [(0, 0), (2, 2), (2, 2), (0, 0)], mode="reflect")
    for i, image in enumerate(shifted):
        shifts = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if np.array_equal(image, padded[i, top : top + 7, left : left + 9])
        ]
        assert len(shifts) == 1
        seen |= set(shifts)
    assert len(seen) > 4


def test_intensities_are_scaled_inverted_and_noisy_as_asked():
    ones = np.ones([400, 2, 3, 1], np.float32)
    scaled = distort_all(Distortion(scale=(0.25, 1.5)), ones)
    equal(scaled, np.broadcast_to(scaled[:, :1, :1], scaled.shape))  # one factor an image
    assert scaled.min() < 0.3
    assert scaled.max() > 1.45
    assert np.all((scaled >= 0.25) & (scaled <= 1.5))
    inverted = distort_all(Distortion(inversion=True), ones)
    assert set(np.unique(inverted)) == {-1.0, 1.0}
    assert 150 < (inverted[:, 0, 0, 0] < 0).sum() < 250
    noise = distort_all(Distortion(noise=0.5), ones) - 1
    assert abs(noise.std() - 0.5) < 0.03
    assert abs(noise.mean()) < 0.03


@pytest.mark.parametrize("count", [1, 4])
def test_distorted_updates_see_the_images_of_the_global_batch(count):
    def make_update(*, axis_name):
        return lambda state, batch, key: (state, batch)

    axis_name = "device" if count > 1 else None
    update = distorted(make_update, STRONG)(axis_name=axis_name)
    batch = DomainBatch(FLOATS, np.arange(8), FLOATS[::-1])
    state = TrainState(jnp.int32(6), {}, {}, {})
    if count > 1:
        batch = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
        update = jax.vmap(update, in_axes=(None, 0, None), out_axes=(None, 0), axis_name=axis_name)
    _, seen = update(state, batch, KEY)
    if count > 1:
        seen = jax.tree.map(lambda x: x.reshape(8, *x.shape[2:]), seen)
    want = {
        "source_image": distort_all(STRONG, step=6),
        "target_image": distort_all(STRONG, FLOATS[::-1], step=6, domain=1),
        "target_view": distort_all(STRONG, FLOATS[::-1], step=6, domain=1, view=1),
    }
    for name, images in want.items():
        np.testing.assert_allclose(getattr(seen, name), images, atol=1e-5)
    assert np.any(want["target_image"] != want["target_view"])
