"""Many trainings as one program: one for each key, and for each value of a setting.

A study over K keys runs under ``jax.vmap``: each key has its own initialisation, data order and
dropout, and all share the images on the device. On several devices the keys are spread over them
first, so that nothing has to be averaged. The same axis can carry settings that vary:

    def make_update(settings):
        mu = lambda step: mu_p(progress(step, steps), settings["mu0"])
        lam = lambda step: lambda_p(progress(step, steps), settings["gamma"])
        return make_update_step(model, make_optimizer(mu), lam)

    keys = jax.random.split(jax.random.key(0), 4)
    settings = {"mu0": jnp.full(4, 0.01), "gamma": jnp.array([5.0, 10.0, 15.0, 20.0])}
    states = init_states(model, make_optimizer(lambda step: 0.01), keys, image)
    train = make_study_steps(make_update, examples=..., batch=(64, 64), preprocess=...)
    states, metrics = train(states, arrays, keys, 100, settings)
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dann_jax import batches, compilation
from dann_jax.networks import DannModel
from dann_jax.training import Metrics, TrainState, init_state

__all__ = ["init_states", "make_study_steps"]


def init_states(
    model: DannModel,
    optimizer: optax.GradientTransformation,
    keys: chex.PRNGKey,
    image: chex.Array,
) -> TrainState:
    """Returns the states of many trainings before the first update.

    Args:
      model: G_f, G_y and G_d.
      optimizer: The optimiser whose state to start. The learning rate does not matter here, but
        that it is a function of the step, or is not, does.
      keys: PRNG keys of the initialisations, ``[K]``.
      image: An example batch ``[n, height, width, channel]`` as G_f gets it (values unused).

    Returns:
      A state whose arrays have a first axis of K; entry i is ``init_state`` of ``keys[i]``.
    """
    return jax.vmap(lambda key: init_state(model, optimizer, key, image))(keys)


def make_study_steps(
    make_update: Callable[[Any], Callable],
    *,
    examples: tuple[int, int],
    batch: tuple[int, int],
    preprocess: Callable[[batches.DomainBatch], batches.DomainBatch],
    devices: list[jax.Device] | None = None,
    fused: bool | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns a program that makes many updates of each of K trainings.

    Training i sees the batches, and draws the noise, of ``training.make_train_steps`` with
    ``keys[i]``. The states are donated: those passed in must not be used again.

    Args:
      make_update: ``settings -> update``, where the update is that of ``make_update_step`` for one
        device, and ``settings`` those of one training, or None.
      examples: Number of examples in (source, target).
      batch: Examples a step and training, in (source, target).
      preprocess: Turns a batch as stored into one that G_f takes, inside the program.
      devices: Devices to spread the trainings over; None for all local ones.
      fused: Whether to scan over the steps of a call; None for everywhere but on a CPU, where XLA
        runs convolutions inside a loop many times slower.

    Returns:
      ``train(states, arrays, keys, steps, settings=None) -> (states, metrics)``: states and
      settings are pytrees of arrays with a first axis of K, keys ``[K]``, metrics
      ``[K, steps]`` each.

    Raises:
      ValueError: From the program: K trainings do not spread evenly over the devices, keys,
        states and settings differ in their number, or there are other numbers of examples.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    count = len(devices)
    on_cpu = devices[0].platform == "cpu"
    fused = not on_cpu if fused is None else fused

    def step(state, arrays, source, target, key, settings):
        update = make_update(settings)
        return update(state, preprocess(batches.gather(arrays, source, target)), key)

    many = jax.vmap(step, in_axes=(0, None, 0, 0, 0, 0))

    def steps_of(states, arrays, source, target, keys, settings):
        def body(states, indices):
            return many(states, arrays, *indices, keys, settings)

        return jax.lax.scan(body, states, (source, target))

    program = steps_of if fused else many
    axis = 1 if fused else 0  # of the trainings among the indices, after that of the steps
    if count == 1:
        options = compilation.options(devices[0].platform)
        compiled = jax.jit(program, donate_argnums=0, compiler_options=options)
    else:
        compiled = jax.pmap(
            program,
            in_axes=(0, None, axis, axis, 0, 0),
            out_axes=(0, axis),
            donate_argnums=0,
            devices=devices,
        )

    @jax.jit(static_argnames="steps")
    def draw(keys, first_step, steps):
        def of_one(key):
            return batches.batch_indices(
                key, first_step, steps=steps, examples=examples, batch=batch
            )

        return jax.vmap(of_one, out_axes=1)(keys)  # [steps, K, batch]

    def spread(tree, axis=0):
        """Splits the axis of the trainings in two: devices, and trainings of each."""
        if count == 1:
            return tree
        return jax.tree.map(
            lambda x: x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :]), tree
        )

    def gathered(tree, axis=0):
        if count == 1:
            return tree
        return jax.tree.map(lambda x: x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :]), tree)

    def train(states, arrays, keys, steps, settings=None):
        _check(states, arrays, keys, steps, settings, examples, count)
        order_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        indices = draw(order_keys, states.step[0], steps)
        states, noise_keys, settings = map(spread, (states, noise_keys, settings))
        if fused:
            states, metrics = compiled(
                states, arrays, *spread(tuple(indices), 1), noise_keys, settings
            )
            metrics = jax.tree.map(lambda m: jnp.moveaxis(m, 0, 1), gathered(metrics, 1))
            return gathered(states), metrics
        seen = []
        source, target = map(np.asarray, indices)
        for s in range(steps):
            states, metrics = compiled(
                states, arrays, spread(source[s]), spread(target[s]), noise_keys, settings
            )
            seen.append(gathered(metrics))
        return gathered(states), jax.tree.map(lambda *m: jnp.stack(m, 1), *seen)

    return train


def _check(states, arrays, keys, steps, settings, examples, count):
    size = len(keys)
    if size % count:
        raise ValueError(
            f"{size} trainings cannot be spread over {count} devices: make their number a "
            f"multiple of {count}, or use fewer devices"
        )
    sizes = {len(x) if jnp.ndim(x) else None for x in jax.tree.leaves((states, settings))}
    if sizes != {size}:
        raise ValueError(
            f"expected states and settings of {size} trainings, as many as keys, got arrays with "
            f"a first axis of {', '.join(map(str, sorted(sizes, key=str)))}"
        )
    found = len(arrays.source_image), len(arrays.target_image)
    if found != tuple(examples):
        raise ValueError(f"expected arrays of {examples} examples, got {found}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
