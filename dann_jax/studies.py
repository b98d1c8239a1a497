"""Many trainings as one program: one for each key, and for each value of a setting.

A study over K keys runs under ``jax.vmap``: each key has its own initialisation, data order and
dropout, and all share the images on the device. On several devices the keys are spread over them
first, so that nothing has to be averaged; where there are too few keys for that, several devices
share the batches of each. The same axis can carry settings that vary:

    def make_update(settings, axis_name):
        mu = lambda step: mu_p(progress(step, steps), settings["mu0"])
        lam = lambda step: lambda_p(progress(step, steps), settings["gamma"])
        return make_update_step(model, make_optimizer(mu), lam, axis_name=axis_name)

    keys = jax.random.split(jax.random.key(0), 4)
    settings = {"mu0": jnp.full(4, 0.01), "gamma": jnp.array([5.0, 10.0, 15.0, 20.0])}
    states = init_states(model, make_optimizer(lambda step: 0.01), keys, image)
    train = make_study_steps(make_update, examples=..., batch=(64, 64), preprocess=...)
    states, metrics = train(states, replicate(arrays), keys, 100, settings)
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dann_jax import batches, compilation
from dann_jax.networks import DannModel
from dann_jax.training import AXIS, Metrics, Program, TrainState, init_state, scans

__all__ = ["StudySteps", "init_states", "make_study_steps"]


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


@dataclasses.dataclass(frozen=True)
class StudySteps:
    """A compiled program of many trainings.

    Attributes:
      program_of: Returns the program of K trainings, the same for the same K.
    """

    program_of: Callable[[int], Program]

    def __call__(
        self,
        states: TrainState,
        arrays: batches.DomainArrays,
        keys: chex.PRNGKey,
        steps: int,
        settings: Any = None,
    ) -> tuple[TrainState, Metrics]:
        """Returns the states after ``steps`` updates and their metrics, ``[K, steps]`` each.

        States, keys and settings may lie on any devices.
        """
        return self.program_of(len(keys))(states, arrays, keys, steps, settings)

    def lower(
        self,
        states: TrainState,
        arrays: batches.DomainArrays,
        keys: chex.PRNGKey,
        steps: int,
        settings: Any = None,
    ) -> jax.stages.Lowered:
        """Returns the lowering of the program of such a call, see ``TrainSteps.lower``."""
        return self.program_of(len(keys)).lower(states, arrays, keys, steps, settings)


def make_study_steps(
    make_update: Callable[..., Callable],
    *,
    examples: tuple[int, int],
    batch: tuple[int, int],
    preprocess: Callable[[batches.DomainBatch], batches.DomainBatch],
    labelled: tuple[int, int] | None = None,
    devices: list[jax.Device] | None = None,
    devices_per_training: int | None = None,
    fused: bool | None = None,
) -> StudySteps:
    """Returns a program that makes many updates of each of K trainings.

    Training i sees the batches, and draws the noise, of ``training.make_train_steps`` with
    ``keys[i]`` on as many devices as share it here. The states are donated: those passed in must
    not be used again.

    Args:
      make_update: ``(settings, axis_name) -> update``, where the update is that of
        ``make_update_step``, and ``settings`` those of one training, or None. It is called with
        ``axis_name`` as a keyword; None where no devices share a training.
      examples: Number of examples in (source, target).
      batch: Examples a step and training, over all devices, in (source, target).
      preprocess: Turns a batch as stored into one that G_f takes, inside the program.
      labelled: Number of labelled examples in the target, and a step and training; see
        ``batch_indices``.
      devices: Devices to spread the trainings over; None for all local ones.
      devices_per_training: How many devices share the batches of each training, and average its
        gradients. None for as few as keep all devices busy: one where the devices divide the
        number of trainings.
      fused: Whether to scan over the steps of a call; None for as ``training.scans`` says.

    Returns:
      ``train(states, arrays, keys, steps, settings=None) -> (states, metrics)``: states and
      settings are pytrees of arrays with a first axis of K, keys ``[K]``, metrics
      ``[K, steps]`` each. Put ``arrays`` on the devices with ``training.replicate`` first.

    Raises:
      ValueError: From the program: K trainings or their batches do not spread evenly over the
        devices, keys, states and settings differ in their number, or there are other numbers of
        examples.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    fused = scans(devices) if fused is None else fused

    @functools.cache
    def program_of(size):
        sharing = _sharing(size, batch, len(devices), devices_per_training)
        # jax.pmap, which is a jax.shard_map over one axis, has no place for the second.
        mesh = Mesh(np.reshape(devices, (-1, sharing)), ("training", AXIS))
        axis_name = AXIS if sharing > 1 else None

        def step(state, arrays, source, target, key, settings):
            _, noise_key = jax.random.split(key)
            update = make_update(settings, axis_name=axis_name)
            batch = batches.gather(arrays, source, target, labelled)
            return update(state, preprocess(batch), noise_key)

        many = jax.vmap(step, in_axes=(0, None, 0, 0, 0, 0))

        def steps_of(states, arrays, source, target, keys, settings):
            def body(states, indices):
                return many(states, arrays, *indices, keys, settings)

            states, metrics = jax.lax.scan(body, states, (source, target))
            return states, jax.tree.map(lambda m: m.swapaxes(0, 1), metrics)

        each, whole = PartitionSpec("training"), PartitionSpec()
        rows = PartitionSpec(*([None] if fused else []), "training", AXIS)
        in_specs = each, whole, rows, rows, each, each
        placed = functools.partial(NamedSharding, mesh)
        compiled = jax.jit(
            jax.shard_map(
                steps_of if fused else many,
                mesh=mesh,
                in_specs=in_specs,
                out_specs=each,
                check_vma=False,  # as in jax.pmap: loops in a network need not know of devices
            ),
            in_shardings=jax.tree.map(placed, in_specs),
            out_shardings=placed(each),
            donate_argnums=0,
            compiler_options=compilation.options(devices[0].platform),
        )

        @functools.partial(jax.jit, static_argnums=2, out_shardings=placed(rows) if fused else None)
        def draw(keys, first_step, steps):
            def of_one(key):
                order_key, _ = jax.random.split(key)
                return batches.batch_indices(
                    order_key,
                    jnp.ravel(first_step)[0],
                    steps=steps,
                    examples=examples,
                    batch=batch,
                    labelled=labelled,
                )

            return jax.vmap(of_one, out_axes=1)(keys)  # [steps, K, batch]

        host_rows = batches.in_blocks(draw)

        def prepared(states, arrays, keys, steps, settings):
            _check(states, keys, steps, settings)
            batches.check_arrays(arrays, examples, labelled)
            states, keys, settings = _moved((states, keys, settings), placed(each))
            return states, arrays, keys, steps, settings

        def inputs(states, arrays, keys, steps, settings):
            if fused:
                return [(*draw(keys, states.step, steps), keys, settings)]
            of_steps = zip(*host_rows(keys, int(states.step[0]), steps), strict=True)
            return [(*of_step, keys, settings) for of_step in of_steps]

        return _Spread(compiled, inputs, None if fused else 1, prepared)

    return StudySteps(program_of)


@dataclasses.dataclass(frozen=True)
class _Spread(Program):
    """A program of states, keys and settings that may lie on other devices than its own."""

    prepared: Callable[..., tuple[Any, ...]]

    def __call__(self, *args):
        return super().__call__(*self.prepared(*args))

    def lower(self, *args):
        return super().lower(*self.prepared(*args))


def _moved(tree, sharding):
    """Returns a tree with the arrays that are tied to other devices, as restored ones, moved."""

    def of(x):
        tied = isinstance(x, jax.Array) and x.committed
        if not tied or x.sharding.is_equivalent_to(sharding, x.ndim):
            return x  # jax.jit takes it as it is
        return jax.device_put(x, sharding, may_alias=False)  # a copy: states are donated

    return jax.tree.map(of, tree)


def _sharing(size, batch, count, wanted):
    """Returns how many of the devices share each training."""

    def fits(count):
        return [
            sharing
            for sharing in range(1, count + 1)
            if not (count % sharing or size % (count // sharing))
            and not any(n % sharing for n in batch)
        ]

    found = [sharing for sharing in fits(count) if wanted in (None, sharing)]
    if found:
        return found[0]
    what = f"{size} trainings with batches of {batch[0]} source and {batch[1]} target examples"
    if fits(count):
        raise ValueError(
            f"{what} cannot have {wanted} devices each of {count}: make devices_per_training "
            f"one of {', '.join(map(str, fits(count)))}, or None"
        )
    raise ValueError(
        f"{what} cannot be spread over {count} devices: use one of "
        f"{', '.join(str(n) for n in range(1, count) if fits(n))} devices"
    )


def _check(states, keys, steps, settings):
    size = len(keys)
    sizes = {len(x) if jnp.ndim(x) else None for x in jax.tree.leaves((states, settings))}
    if sizes != {size}:
        raise ValueError(
            f"expected states and settings of {size} trainings, as many as keys, got arrays with "
            f"a first axis of {', '.join(map(str, sorted(sizes, key=str)))}"
        )
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
