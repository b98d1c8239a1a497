"""What the benchmark trains: networks on random images, their memory and their operations."""

import functools
import math
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import DannModel, lambda_p, make_optimizer, make_update_step, memory, mu_p, progress
from dann_jax.batches import DomainArrays, DomainBatch
from dann_jax.programs import make_study_steps, make_train_steps, replicate
from dann_jax.training import init_state
from experiments.settings import NETWORKS

__all__ = [
    *("EXAMPLES", "HORIZON", "SIZES", "Subject", "Training", "flop_of_step"),
    *("make_model", "preprocess", "random_images"),
]

SIZES = {  # of the images that a network is measured with, pixels
    "mnist": (28, 32),
    "mnist_batch_norm": (32,),
    "svhn": (32,),
    "svhn_batch_norm": (32,),
    "gtsrb": (40,),
    "compact": (32,),
    "office_alexnet": (227,),
}
CLASSES = {"gtsrb": 43, "office_alexnet": 31}  # 10 for the others
EXAMPLES = 2048  # random images of each domain, on the device
HORIZON = 10_000  # updates at which the schedules end


def make_model(network: str, dtype: str) -> DannModel:
    """Returns one of ``settings.NETWORKS`` that computes in a dtype."""
    return NETWORKS[network](classes=CLASSES.get(network, 10), dtype=jnp.dtype(dtype))


def random_images(network: str, pixels: int) -> DomainArrays:
    """Returns random images of so many pixels a side, and labels, in NumPy."""
    draw = np.random.default_rng(0)
    shape = EXAMPLES, pixels, pixels, 3
    image = functools.partial(draw.integers, 256, size=shape, dtype=np.uint8)
    labels = draw.integers(CLASSES.get(network, 10), size=EXAMPLES, dtype=np.int32)
    return DomainArrays(image(), labels, image())


class Subject:
    """A network, and random images on the first device to train it on."""

    def __init__(self, network: str, pixels: int, dtype: str):
        """Makes both."""
        self.pixels, self.model = pixels, make_model(network, dtype)
        self.arrays = replicate(random_images(network, pixels), jax.local_devices()[:1])


def _lam(step):
    return lambda_p(progress(step, HORIZON))


_OPTIMIZER = make_optimizer(lambda step: mu_p(progress(step, HORIZON)))
# Compiled once for all programs of a network: the initialization is not what is measured.
_init_state = jax.jit(init_state, static_argnums=(0, 1))


class Training:
    """A program of ours and its state, which each call replaces."""

    def __init__(
        self,
        subject: Subject,
        batch: int,
        *,
        devices: list[jax.Device],
        keys: int | None = None,
    ):
        """Initializes the state; a MemoryError if it does not fit.

        Args:
          subject: The network and its images.
          batch: Examples a step and key, over all devices, half source and half target.
          devices: Where to train.
          keys: Number for ``make_study_steps``; None for one key and ``make_train_steps``.
        """
        self.devices, self.examples = devices, (keys or 1) * batch
        self.key = key = jax.random.key(0)
        if keys is not None:
            self.key = jax.random.split(key, keys)
        self.program = _program(subject.model, batch, devices, many=keys is not None)
        image = jnp.zeros([2, subject.pixels, subject.pixels, 3])
        state = _init_state(subject.model, _OPTIMIZER, key, image)
        _check_room((keys or 1) * sum(a.nbytes for a in jax.tree.leaves(state)), devices[0])
        if keys is not None:  # the same for each: initializing many takes longer to compile
            state = jax.tree.map(lambda a: jnp.stack([a] * keys), state)
        self.state = replicate(state, devices)
        self.arrays = subject.arrays if len(devices) == 1 else replicate(subject.arrays, devices)

    def __call__(self, steps: int) -> None:
        """Makes ``steps`` updates in one call of the program, and waits for them."""
        self.state, metrics = self.program(self.state, self.arrays, self.key, steps)
        jax.block_until_ready((self.state, metrics))

    def prepare(self, steps: int) -> dict[str, float | int | str]:
        """Compiles the program for calls of so many steps, makes the first call, returns costs.

        Raises a MemoryError if it does not fit. The peak of memory is that of the device if it
        counts and the peak is a new one; otherwise XLA's account of the arguments, outputs and
        temporaries of the program, donated arguments once.
        """
        device = self.devices[0]
        peak_before = _memory(device).get("peak_bytes_in_use", 0)
        begin = time.perf_counter()
        lowered = self.program.lower(self.state, self.arrays, self.key, steps)
        middle = time.perf_counter()
        compiled = lowered.compile()
        end = time.perf_counter()
        account = compiled.memory_analysis()
        added = account.output_size_in_bytes - account.alias_size_in_bytes
        added += account.temp_size_in_bytes
        _check_room(added, device)
        self(steps)
        peak, origin = account.argument_size_in_bytes + added, "XLA's account of the program"
        if (of_device := _memory(device).get("peak_bytes_in_use", 0)) > peak_before:
            peak, origin = of_device, "device"
        return {
            "lowering_seconds": middle - begin,
            "compile_seconds": end - middle,
            "peak_memory_bytes": peak,
            "peak_memory_from": origin,
        }


def _program(model, batch, devices, *, many):
    """Returns the compiled training of one key, or of many."""
    make_update = functools.partial(make_update_step, model, _OPTIMIZER, _lam)
    setting = {
        "examples": (EXAMPLES, EXAMPLES),
        "batch": (batch // 2, batch // 2),
        "preprocess": preprocess,
        "devices": devices,
    }
    if many:
        return make_study_steps(
            lambda settings, axis_name: make_update(axis_name=axis_name), **setting
        )
    return make_train_steps(make_update, **setting)


def preprocess(batch: DomainBatch) -> DomainBatch:
    """Returns a batch with images from -0.5 to 0.5, float32."""
    images = {name: getattr(batch, name) for name in ("source_image", "target_image")}
    scaled = {name: image.astype(jnp.float32) / 255 - 0.5 for name, image in images.items()}
    return batch._replace(**scaled)


def _check_room(needed, device):
    """Raises a MemoryError if a device has fewer free bytes.

    Without this check a process on a CPU would be killed without a message.
    """
    stats, free = _memory(device), memory.free_bytes()
    if "bytes_limit" in stats:
        free = stats["bytes_limit"] - stats["bytes_in_use"]
    if needed > free:
        raise MemoryError(f"needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free")


def _memory(device):
    return device.memory_stats() or {}


def flop_of_step(model: DannModel, pixels: int, batch: int) -> int:
    """Returns the floating-point operations of one update, from the shapes of the layers.

    Convolutions and fully connected layers make multiply-adds, of 2 operations each, three times:
    forward, for the gradient of their weights, and for that of their input, which the first layer
    of G_f does not need. G_y processes the source half. Biases, ReLU, pooling, losses and the
    optimizer are left out. Algorithms with fewer operations, such as Winograd's, count no less.
    """
    image = jax.ShapeDtypeStruct((batch, pixels, pixels, 3), jnp.float32)
    of_f, f = _multiply_adds(model.feature_extractor, image)
    half = jax.ShapeDtypeStruct((batch // 2, *f.shape[1:]), f.dtype)
    of_y, _ = _multiply_adds(model.label_predictor, half)
    of_d, _ = _multiply_adds(model.domain_classifier, f)
    return 2 * (3 * sum(of_f + of_y + of_d) - of_f[0])


def _multiply_adds(module, x):
    """Returns the multiply-adds of each layer in order, and the shape of the output."""
    counts = []

    def count(call, args, kwargs, context):
        y = call(*args, **kwargs)
        layer = context.module
        kernel = layer.variables.get("params", {}).get("kernel")
        if kernel is not None and context.method_name == "__call__":
            size = y.size
            if getattr(layer, "pool", None) is not None:  # y is pooled; the convolution's is not
                n, *sides, _ = args[0].shape
                if layer.padding == "VALID":
                    sides = [s - k + 1 for s, k in zip(sides, kernel.shape, strict=False)]
                size = n * math.prod(sides) * kernel.shape[-1]
            counts.append(kernel.size // kernel.shape[-1] * size)
        return y

    with nn.intercept_methods(count):
        y, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return counts, y
