"""A study: one method on one pair of domains, ready to be trained with any keys."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dann_jax import augmentation, backbones, kernels, networks, programs, schedules, training
from dann_jax.datasets.streamed import Streamed, over_blocks
from dann_jax.preprocessing import Preprocess
from dann_jax.programs import Group
from experiments import domains, pretraining, runtime
from experiments.methods import Method, check_settings
from experiments.settings import AUGMENTATIONS, Config, make_model

__all__ = ["Study", "prepare"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """One method on one pair of domains: all that trainings with different keys share."""

    config: Config
    method: Method
    pair: domains.Pair
    devices: list[jax.Device]
    model: networks.DannModel
    optimizer: optax.GradientTransformation
    start: Callable[[Group], tuple[Any, jax.Array]]  # -> states and keys to train with
    program: Callable[[Group], Callable]  # -> (states, data, keys, steps) -> (states, metrics)
    opened: Callable[..., Any]  # (group, keys, first step) -> context manager of the data
    preprocess: Preprocess
    mu: Callable[[Any], jax.Array]  # learning rate as a function of the step
    tests: dict[str, tuple]  # images, preprocessing and domain of each accuracy
    origin: dict[str, Any]  # what else decides the numbers: data, versions, devices

    @property
    def home(self) -> jax.Device:
        """The device of this process that evaluates."""
        return next(d for d in self.devices if d.process_index == jax.process_index())

    @property
    def steps(self) -> int:
        """The length of the trainings, updates."""
        return self.method.steps(self.config)

    @property
    def loops(self) -> bool:
        """Whether calls of any number of steps are one program: their loop runs in Python."""
        streams = isinstance(self.pair.source_train, Streamed)
        return streams or self.devices[0].platform == "cpu"

    def evaluated(self, state: Any) -> Any:
        """Returns what is evaluated of a state: the averaged parameters where there are any."""
        averages = self.config.average_decay is not None and state.opt_state != ()
        state = training.averaged(state) if averages else state
        return dataclasses.replace(state, opt_state=())

    def outputs(self, function: Callable, state: Any, name: str, images=None, **options):
        """Returns what a function of ``evaluation`` gives for images (to test on), and labels."""
        state = self.evaluated(state)
        test, preprocess, domain = self.tests[name]
        options |= {"preprocess": preprocess, "domain": domain}
        of_block = functools.partial(function, self.model, state, **options)
        return over_blocks(test if images is None else images, of_block)


def prepare(config: Config, method: Method, pair: domains.Pair, devices: list[jax.Device]) -> Study:
    """Returns all that trainings of a method on a pair of domains share."""
    check_settings(config, [method])
    model, steps = make_model(config, len(pair.class_names)), method.steps(config)
    if method.model is not None:
        model = method.model(model)

    def mu(step):
        p = schedules.progress(step, steps)
        annealed = schedules.mu_p(p, config.mu0, config.alpha, config.beta)
        return annealed * schedules.drop(p, config.drop_at, config.drop_factor)

    def lam(step):
        p = schedules.progress(step, config.lambda_horizon or steps)
        return config.lambda_max * schedules.lambda_p(p, config.gamma)

    optimizer = _optimizer(config, mu)
    make_update = functools.partial(
        training.make_update_step, model, optimizer, lam, objective=method.objective(config)
    )
    if config.augment != "none":
        make_update = augmentation.distorted(make_update, AUGMENTATIONS[config.augment])
    preprocess = domains.preprocessing(config, pair, method)
    batch, labelled = domains.batch_sizes(config, pair, method)
    sizes = {"batch": batch, "labelled": labelled, "preprocess": preprocess.batch}
    if isinstance(pair.source_train, Streamed):
        sets = domains.training_sets(pair, method)
        opened, program = _streamed(config, sets, make_update, devices, sizes)
    else:
        arrays = domains.training_arrays(pair, method)
        opened, program = _in_memory(config, arrays, make_update, devices, sizes)
    shape = 2, config.input_size, config.input_size, len(preprocess.source_mean)
    return Study(
        config=config,
        method=method,
        pair=pair,
        devices=devices,
        model=model,
        optimizer=optimizer,
        start=_start(model, optimizer, shape, pretraining.variables(config)),
        program=program,
        opened=opened,
        preprocess=preprocess,
        mu=mu,
        tests={
            "source": (pair.source_test, preprocess.source, 0),
            "target": (pair.target_test, preprocess.target, int(method.adapts)),
        },
        origin={
            "data": pair.provenance,
            "versions": runtime.versions(),
            "device": runtime.device_kind(devices),
            "processor": runtime.model_of_processor(),
            "device_count": len(devices),
            "process_count": jax.process_count(),
            "plain_xla": kernels.plain_xla(),
            "threads": runtime.threads() if devices[0].platform == "cpu" else None,
        },
    )


def _optimizer(config, mu):
    def factor(path):
        of_part = config.backbone_factor if path[:2] == ("f", "backbone") else 1.0
        return of_part * (config.bias_factor if path[-1] == "bias" else 1.0)

    adam = config.optimizer == "adam"
    optimizer = training.make_optimizer(
        mu,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        descent=functools.partial(optax.adam, b1=config.adam_b1) if adam else None,
        factors=None if config.backbone_factor == config.bias_factor == 1.0 else factor,
    )
    if config.average_decay is None:
        return optimizer
    return training.with_average(optimizer, config.average_decay)


def _start(model, optimizer, shape, backbone):
    def one(number, backbone):
        init_key, train_key = jax.random.split(jax.random.key(number))
        state = training.init_state(model, optimizer, init_key, jnp.zeros(shape))
        return backbones.with_weights(state, backbone) if backbone else state, train_key

    single, many = jax.jit(one), jax.jit(jax.vmap(one, in_axes=(0, None)))

    def start(group):
        numbers = np.array(group.keys, np.uint32)
        return many(numbers, backbone) if len(numbers) > 1 else single(numbers[0], backbone)

    return start


def _in_memory(config, arrays, make_update, devices, sizes):
    """Returns ``Study.opened`` and ``Study.program`` of arrays that lie on the devices."""
    if config.crop or config.mirror:
        make_update = augmentation.augmented(
            make_update, size=config.input_size, mirror=config.mirror
        )
    options = {"examples": (len(arrays.source_image), len(arrays.target_image)), **sizes}

    @functools.cache
    def placed(count):
        """Returns the arrays on devices, one that is named twice only once."""
        each = {id(a): programs.replicate(a, devices[:count]) for a in arrays if a is not None}
        return type(arrays)(*(each.get(id(a)) for a in arrays))

    @functools.cache  # compiled once
    def program(size, devices_per_key):
        shared = devices[: size * devices_per_key]
        if size == 1:
            return programs.make_train_steps(make_update, devices=shared, **options)
        steps = programs.make_study_steps(
            lambda settings, axis_name: make_update(axis_name=axis_name),
            devices=shared,
            devices_per_training=devices_per_key,
            **options,
        )
        steps.program_of(size)  # raises before anything starts
        return steps

    def opened(group, keys, first_step):
        count = min(len(group.keys) * group.devices_per_key, len(devices))
        return contextlib.nullcontext(placed(count))

    return opened, lambda group: program(len(group.keys), group.devices_per_key)


def _streamed(config, sets, make_update, devices, sizes):
    """Returns ``Study.opened`` and ``Study.program`` of images that stay on disk."""
    from dann_jax import streaming  # Grain is not needed otherwise

    preprocess = sizes.pop("preprocess")
    program = programs.make_stream_steps(make_update, preprocess=preprocess, devices=devices)

    def opened(group, key, first_step):
        crop = config.input_size if config.crop or config.mirror else None
        options = {"crop": crop, "mirror": config.mirror, "first_step": first_step}
        return contextlib.closing(streaming.batch_stream(*sets, key, **sizes, **options))

    def only(group):
        if group != Group(group.keys[:1], len(devices)):
            raise ValueError(
                f"expected one key at a time on all {len(devices)} devices, as batches are read "
                f"for it alone, got {len(group.keys)} on {group.devices_per_key} each: leave out "
                "--together and --devices-per-key, or --streaming"
            )
        return program

    return opened, only
