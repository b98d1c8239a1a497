"""Views are functions of (key, step, domain, position), the same on the host and the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax import DomainBatch, TrainState
from dann_jax.augmentation import (
    augmented,
    center_crop,
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
