"""Random changes of images, as pure functions of (key, step, domain, position in the batch).

Crops and mirror images: ``draw_views`` chooses the part of each image, and it alone is random.
``take_views`` takes these parts on the device, inside the compiled step; a loader takes them with
``take_view`` before the images go to the device, which leaves less to copy. Both give the same
pixels. ``distort`` shifts, bends, scales, inverts and adds noise to what the network gets, inside
the compiled step alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax.objective import SOURCE, TARGET, check_domain

__all__ = [
    "Distortion",
    "Views",
    "augmented",
    "center_crop",
    "distort",
    "distorted",
    "draw_views",
    "take_view",
    "take_views",
]

# Folded into a key that is otherwise used with steps, which end at 2^31 - 1.
_VIEWS, _DISTORTIONS = np.uint32(2**32 - 1), np.uint32(2**32 - 2)


class Views(NamedTuple):
    """Which part of each image to take, and whether to mirror it."""

    corner: chex.Array  # [n, 2] int32, top and left of the part, pixels
    mirrored: chex.Array  # [n] bool, whether left and right are exchanged


def draw_views(
    key: chex.PRNGKey,
    step: int | chex.Array,
    *,
    domain: int,
    positions: chex.Array,
    shape: tuple[int, ...],
    size: int,
    mirror: bool = False,
) -> Views:
    """Returns a view for each position in the batch of a step.

    The view at a position depends on (key, step, domain, position) alone: on neither the
    number of devices or processes nor where a run was resumed.

    Args:
      key: PRNG key of the noise, ``batches.split_key(key).noise``: the one that the update gets.
      step: Number of updates done; may be traced.
      domain: 0 source, 1 target.
      positions: Positions in the global batch of the domain, int ``[n]``.
      shape: (..., height, width, channel) of the images, pixels.
      size: Height and width of a view, pixels.
      mirror: Whether to mirror one half of the images, at random.

    Returns:
      The views; all corners are equally likely.

    Raises:
      ValueError: A view is larger than the images, or empty, or the domain is another.
    """
    check_domain(domain, joint=False)
    spare = jnp.asarray(_spare(shape, size), jnp.int32)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, _VIEWS), domain), step)

    def draw(position):
        corner_key, mirror_key = jax.random.split(jax.random.fold_in(key, position))
        corner = jax.random.randint(corner_key, [2], 0, spare + 1)
        return Views(corner, jax.random.bernoulli(mirror_key) & mirror)

    return jax.vmap(draw)(positions)


def take_views(images: chex.Array, views: Views, size: int) -> chex.Array:
    """Returns the views of a batch of images, on the device.

    Args:
      images: ``[n, height, width, channel]``, any dtype.
      views: One for each image.
      size: Height and width of a view, pixels, static.

    Returns:
      ``[n, size, size, channel]`` of the same dtype.
    """

    def take(image, corner, mirrored):
        view = jax.lax.dynamic_slice(image, (*corner, 0), (size, size, image.shape[-1]))
        return jnp.where(mirrored, view[:, ::-1], view)

    return jax.vmap(take)(images, *views)


def take_view(image: np.ndarray, corner: np.ndarray, mirrored: bool, size: int) -> np.ndarray:
    """Returns the view of one image, on the host, without copying it.

    Args:
      image: ``[height, width, ...]``.
      corner: Top and left, ``[2]``.
      mirrored: Whether left and right are exchanged.
      size: Height and width of the view, pixels.

    Returns:
      ``[size, size, ...]``, a view of the image's memory.
    """
    top, left = corner
    view = image[top : top + size, left : left + size]
    return view[:, ::-1] if mirrored else view


def center_crop(images: chex.Array, size: int) -> chex.Array:
    """Returns the middle of images, the part that an evaluation uses.

    >>> center_crop(np.arange(5).reshape(1, 5, 1), 1)
    array([[[2]]])

    Args:
      images: ``[..., height, width, channel]``, NumPy or JAX.
      size: Height and width of the crop, pixels.

    Returns:
      ``[..., size, size, channel]``.

    Raises:
      ValueError: The crop is larger than the images, or empty.
    """
    top, left = (pixels // 2 for pixels in _spare(images.shape, size))
    return images[..., top : top + size, left : left + size, :]


def _spare(shape, size):
    """Returns how many pixels of the height and of the width a crop leaves out."""
    if len(shape) < 3:
        raise ValueError(f"expected images [..., height, width, channel], got {list(shape)}")
    height, width = shape[-3:-1]
    if not 1 <= size <= min(height, width):
        raise ValueError(
            f"expected a crop of 1 to {min(height, width)} pixels for images of {height}x{width}, "
            f"got {size}: change the crop, or the size of the stored images"
        )
    return height - size, width - size


def augmented(
    make_update: Callable[..., Callable], *, size: int, mirror: bool = False
) -> Callable[..., Callable]:
    """Returns ``make_update`` for updates on a random view of each image.

        make_train_steps(augmented(make_update, size=227, mirror=True), ...)

    Args:
      make_update: ``axis_name -> update``, as ``make_train_steps`` takes it.
      size: Height and width of a view, pixels.
      mirror: Whether to mirror one half of the images.

    Returns:
      ``axis_name -> update``. The update takes batches of whole images, as stored or
      preprocessed, and raises where these are smaller than ``size``.
    """

    def make_augmented(*, axis_name=None):
        update = make_update(axis_name=axis_name)

        def views_of(images, key, step, domain):
            views = draw_views(
                key,
                step,
                domain=domain,
                positions=_positions(len(images), axis_name),
                shape=images.shape,
                size=size,
                mirror=mirror,
            )
            return take_views(images, views, size)

        def augmented_update(state, batch, key):
            batch = batch._replace(
                source_image=views_of(batch.source_image, key, state.step, SOURCE),
                target_image=views_of(batch.target_image, key, state.step, TARGET),
            )
            return update(state, batch, key)

        return augmented_update

    return make_augmented


def _positions(count, axis_name):
    """Returns where a device's examples stand in the global batch of their domain."""
    device = 0 if axis_name is None else jax.lax.axis_index(axis_name)
    return device * count + jnp.arange(count)


class Distortion(NamedTuple):
    """How much images are changed at random, each by itself; by default not at all."""

    shift: int = 0  # the most pixels up or down, and left or right
    affine: float = 0.0  # standard deviation of each entry of the 2x2 matrix about the identity
    scale: tuple[float, float] = (1.0, 1.0)  # range of the factor of the intensity
    inversion: bool = False  # whether one half of the images change their sign
    noise: float = 0.0  # standard deviation of Gaussian noise, in units of the network's input


def distort(
    images: chex.Array,
    distortion: Distortion,
    key: chex.PRNGKey,
    step: int | chex.Array,
    *,
    domain: int,
    positions: chex.Array,
    view: int = 0,
) -> chex.Array:
    """Returns images as they are distorted at a step.

    What happens to an image depends on (key, step, domain, position, view) alone, as in
    ``draw_views``. Values between pixels are interpolated bilinearly, and what is beyond a border
    is mirrored at it.

    Args:
      images: ``[n, height, width, channel]`` as the network gets them, about 0.
      distortion: How much.
      key: PRNG key of the noise, ``batches.split_key(key).noise``.
      step: Number of updates done; may be traced.
      domain: 0 source, 1 target.
      positions: Positions in the global batch of the domain, int ``[n]``.
      view: Number of the view, for several of the same image.

    Returns:
      Images like those given.
    """
    check_domain(domain, joint=False)
    key = jax.random.fold_in(jax.random.fold_in(key, _DISTORTIONS), 2 * view + domain)
    key = jax.random.fold_in(key, step)

    def one(image, position):
        of_image = jax.random.fold_in(key, position)
        keys = [jax.random.fold_in(of_image, draw) for draw in range(5)]
        if distortion.shift or distortion.affine:
            image = _moved(image, distortion, *keys[:2])
        low, high = distortion.scale
        if low != high or low != 1:
            image = image * jax.random.uniform(keys[2], minval=low, maxval=high)
        if distortion.inversion:
            image = image * jnp.where(jax.random.bernoulli(keys[3]), -1.0, 1.0)
        if distortion.noise:
            image = image + distortion.noise * jax.random.normal(keys[4], image.shape)
        return image

    return jax.vmap(one)(images, positions).astype(images.dtype)


def _moved(image, distortion, shift_key, affine_key):
    shift = jax.random.randint(shift_key, [2, 1], -distortion.shift, distortion.shift + 1)
    matrix = jnp.eye(2) + distortion.affine * jax.random.normal(affine_key, [2, 2])
    sides = np.array(image.shape[:2])
    grid = np.indices(sides).reshape(2, -1) - (sides[:, None] - 1) / 2
    places = jnp.dot(matrix, grid, precision="highest") + shift + (sides[:, None] - 1) / 2

    def interpolated(channel):
        return jax.scipy.ndimage.map_coordinates(channel, places, order=1, mode="mirror")

    return jax.vmap(interpolated, 2, 1)(image).reshape(image.shape)


def distorted(
    make_update: Callable[..., Callable], distortion: Distortion
) -> Callable[..., Callable]:
    """Returns ``make_update`` for updates on distorted images of both domains.

    The batch has a ``target_view`` too, the target's images distorted once more.

    Args:
      make_update: ``axis_name -> update``, as ``make_train_steps`` takes it.
      distortion: How much.

    Returns:
      ``axis_name -> update``. The update takes preprocessed batches.
    """

    def make_distorted(*, axis_name=None):
        update = make_update(axis_name=axis_name)

        def distorted_update(state, batch, key):
            def of(images, **options):
                options["positions"] = _positions(len(images), axis_name)
                return distort(images, distortion, key, state.step, **options)

            batch = batch._replace(
                source_image=of(batch.source_image, domain=SOURCE),
                target_image=of(batch.target_image, domain=TARGET),
                target_view=of(batch.target_image, domain=TARGET, view=1),
            )
            return update(state, batch, key)

        return distorted_update

    return make_distorted
