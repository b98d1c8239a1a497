"""The same training in PyTorch, to compare speeds with; nothing else needs PyTorch."""

import math
from typing import NamedTuple

import flax.linen
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dann_jax import DannModel, networks
from dann_jax.backbones import AlexNet
from dann_jax.batches import DomainArrays
from dann_jax.objective import SOURCE, TARGET
from experiments import runtime
from experiments.benchmark import workload
from experiments.benchmark.isolated import Work

__all__ = [
    *("DomainNorm", "Mode", "Reversal", "Training"),
    *("bound_norms", "place", "schedules", "set_domain", "set_precision", "start", "translated"),
]


class Mode(NamedTuple):
    """One way in which PyTorch users run a training."""

    engine: str  # "eager", "compiled" (torch.compile of the loss) or "cuda_graphs" (whole step)
    channels_last: (
        bool | None
    )  # memory layout of images and convolutions; PyTorch's default is False


def set_precision(tf32: bool) -> None:
    """Sets whether float32 products on a GPU may be rounded to TF32."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def start(work: Work):
    """Returns a training in PyTorch: a function of a number of steps."""
    if work.platform == "gpu" and not torch.cuda.is_available():
        raise ValueError("JAX has a GPU, torch has none: install torch for CUDA")
    torch.set_num_threads(runtime.cores())
    set_precision(tf32=work.precision == "tensorfloat32")
    model = workload.make_model(work.network, work.dtype)
    arrays = workload.random_images(work.network, work.pixels)
    options = {"batch": work.batch, "bfloat16": work.dtype == "bfloat16"}
    options["platform"] = work.platform
    if work.engine == "loop":
        from experiments.benchmark import pytorch_loop

        return pytorch_loop.of_random_images(model, arrays, **options)
    return Training(model, arrays, mode=Mode(work.engine, work.channels_last), **options)


def place(platform: str) -> torch.device:
    """Returns where PyTorch computes while JAX has this platform."""
    return torch.device("cuda" if platform == "gpu" else platform)


class Reversal(torch.autograd.Function):
    """R_lambda, Eqs. (7) and (8)."""

    @staticmethod
    def forward(ctx, x, lam):
        ctx.lam = lam
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.lam * gradient, None


class Training:
    """Eqs. (4)-(6) with SGD in PyTorch, its state inside."""

    def __init__(
        self,
        model: DannModel,
        arrays: DomainArrays,
        *,
        batch: int,
        mode: Mode,
        bfloat16: bool = False,
        platform: str = "cpu",
    ):
        """Initializes weights of PyTorch's own and the optimizer.

        A step has ``batch`` examples, half source, half target. With ``bfloat16`` it computes in
        bfloat16 (``torch.autocast``); parameters are float32. The platform is that of JAX.
        """
        self.step, self.batch, self.mode = 0, batch, mode
        self.bfloat16, self.max_norm = bfloat16, model.max_norm
        self.device = place(platform)
        layout = torch.channels_last if mode.channels_last else torch.contiguous_format
        self.parts = {
            name: part.to(self.device, memory_format=layout)
            for name, part in translated(model, arrays.source_image.shape[1]).items()
        }
        self.images = [self._placed(a) for a in (arrays.source_image, arrays.target_image)]
        labels = np.asarray(arrays.source_label).astype(np.int64)
        self.labels = torch.from_numpy(labels).to(self.device)
        self.domains = torch.arange(batch, device=self.device).ge(batch // 2).float()
        # A graph reads lambda and mu from memory; the host writes them before each replay.
        graph = mode.engine == "cuda_graphs"
        self.lam = torch.zeros([], device=self.device)
        self.mu = torch.full([], 0.01, device=self.device) if graph else 0.01
        parameters = [p for part in self.parts.values() for p in part.parameters()]
        fused = True if graph else None
        self.optimizer = torch.optim.SGD(parameters, lr=self.mu, momentum=0.9, fused=fused)
        self.loss = torch.compile(self._loss) if mode.engine == "compiled" else self._loss
        self.replay = self._captured() if graph else None

    def __call__(self, steps: int) -> None:
        """Makes ``steps`` updates on random batches and waits for them."""
        for _ in range(steps):
            lam, mu = schedules(self.step)
            self.step += 1
            if self.replay is None:
                self.update(*self._draw(), lam, mu)
            else:
                self.lam.fill_(lam)
                self.mu.fill_(mu)
                self.replay()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def update(self, source, target, lam: float, mu: float) -> torch.Tensor:
        """Makes one update on the examples of these indices; returns the loss before it."""
        if self.mode.engine == "compiled":  # a Python number would become a constant
            lam = self.lam.fill_(lam)
        self.optimizer.param_groups[0]["lr"] = mu
        return self._updated(source, target, lam)

    def _updated(self, source, target, lam):
        self.optimizer.zero_grad()
        loss = self.loss(source, target, lam)
        loss.backward()
        self.optimizer.step()
        bound_norms(self.parts, self.max_norm)
        return loss

    def _loss(self, source, target, lam):
        F, Y, D = (self.parts[name] for name in "fyd")
        x = torch.cat([self.images[0][source], self.images[1][target]])
        if self.mode.channels_last:
            x = x.permute(0, 3, 1, 2)
        x = x.float() / 255 - 0.5
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            f = F(x)
            label_logits = Y(f[: len(source)])
            domain_logits = D(Reversal.apply(f, lam))
        L_y = functional.cross_entropy(label_logits.float(), self.labels[source])
        L_d = functional.binary_cross_entropy_with_logits(domain_logits.float()[:, 0], self.domains)
        return L_y + L_d

    def _draw(self):
        return [
            torch.randint(len(images), (self.batch // 2,), device=self.device)
            for images in self.images
        ]

    def _placed(self, images):
        """Returns images on the device, channels last or first in memory."""
        images = torch.from_numpy(np.array(images)).to(self.device)
        return images if self.mode.channels_last else images.permute(0, 3, 1, 2).contiguous()

    def _captured(self):
        """Returns a function that replays a whole step as a graph: draw of a batch and update."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # PyTorch allocates some memory in its first steps only
                self._updated(*self._draw(), self.lam)
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._updated(*self._draw(), self.lam)
        return graph.replay


def schedules(step: int) -> tuple[float, float]:
    """Returns lambda_p and mu_p as Python numbers."""
    p = min(step / workload.HORIZON, 1.0)
    return 2 / (1 + math.exp(-10 * p)) - 1, 0.01 / (1 + 10 * p) ** 0.75


def bound_norms(parts: dict[str, nn.Module], bound: float | None) -> None:
    """Restores the bound on the norm of the incoming weights of each unit of G_f and G_y."""
    if bound is None:
        return
    with torch.no_grad():
        for name in "fy":
            for weight in parts[name].parameters():
                if weight.ndim > 1:
                    weight.renorm_(2, 0, bound)


class DomainNorm(nn.Module):
    """Batch normalization with statistics of each domain, one scale and one bias.

    ``domain`` says whose examples come: 0, 1, or None for a joint batch, half and half.
    """

    def __init__(self, features: int):
        """Makes scale, bias and both sets of running averages."""
        super().__init__()
        self.domain: int | None = None
        self.weight, self.bias = (nn.Parameter(f([features])) for f in (torch.ones, torch.zeros))
        for name in ("source", "target"):
            self.register_buffer(f"{name}_mean", torch.zeros(features))
            self.register_buffer(f"{name}_var", torch.ones(features))

    def forward(self, x):
        """Returns ``x`` normalized over all but its second axis."""
        if self.domain is not None:
            return self._normalized(x, "target" if self.domain == TARGET else "source")
        source, target = x.chunk(2)
        halves = self._normalized(source, "source"), self._normalized(target, "target")
        return torch.cat(halves)

    def _normalized(self, x, name):
        mean, var = getattr(self, f"{name}_mean"), getattr(self, f"{name}_var")
        return functional.batch_norm(x, mean, var, self.weight, self.bias, self.training)


def set_domain(parts: dict[str, nn.Module], domain: int | None) -> None:
    """Tells all layers whose examples come."""
    for part in parts.values():
        for module in part.modules():
            if isinstance(module, DomainNorm):
                module.domain = domain


def translated(model: DannModel, pixels: int) -> dict[str, nn.Sequential]:
    """Returns G_f, G_y and G_d as modules, in training mode, that compute the same functions.

    Images are ``[n, 3, pixels, pixels]``, and features are flattened from ``[n, channel, height,
    width]``. A ValueError is raised if the network has no translation.
    """
    f = nn.Sequential(*_features(model.feature_extractor))
    width = _width(f, pixels)
    f.extend(_bottleneck(model.feature_extractor, width))
    width = _width(f, pixels)
    y = nn.Sequential(*_fully_connected(model.label_predictor, width))
    d = nn.Sequential(*_fully_connected(model.domain_classifier, width))
    return {"f": f.train(), "y": y.train(), "d": d.train()}


def _width(f, pixels):
    """Returns the number of features of an image."""
    set_domain({"f": f.eval()}, SOURCE)
    with torch.no_grad():
        width = f(torch.zeros(1, 3, pixels, pixels)).shape[1]
    set_domain({"f": f}, None)
    return width


def _dropout(rate):
    """Returns a layer of dropout, or none where nothing is dropped."""
    return [nn.Dropout(rate)] if rate else []


def _norm(module, features):
    """Returns a layer of batch norm, or none where there is none."""
    if module.statistics == "shared":
        raise ValueError(_NO_TRANSLATION)
    return [] if module.statistics is None else [DomainNorm(features)]


def _activation(module):
    if module.activation is flax.linen.relu:
        return nn.ReLU()
    slope = getattr(module.activation, "keywords", {}).get("negative_slope")
    if slope is None:
        raise ValueError(_NO_TRANSLATION)
    return nn.LeakyReLU(slope)


_NO_TRANSLATION = "this network has no translation to PyTorch: leave it out, or --against-pytorch"


def _features(module):
    if isinstance(module, networks.OfficeFeatures) and isinstance(module.backbone, AlexNet):
        return [*_alexnet(module.backbone), nn.Linear(4096, module.bottleneck)]
    if not isinstance(module, networks.ConvolutionalFeatures):
        raise ValueError(_NO_TRANSLATION)
    layers = _dropout(module.input_dropout_rate)
    channels, same = 3, module.padding == "SAME"
    for layer in module.layers:
        padding = layer.kernel // 2 if same else 0
        layers.append(nn.Conv2d(channels, layer.features, layer.kernel, padding=padding))
        layers += [*_norm(module, layer.features), _activation(module)]
        if layer.pool is not None:
            # SAME lets the last window of 3 stick out of an even size.
            layers.append(nn.MaxPool2d(layer.pool, 2, ceil_mode=same))
        layers += _dropout(layer.dropout_rate)
        channels = layer.features
    return [*layers, nn.Flatten()]


def _bottleneck(module, width):
    """Returns the fully connected layer on top of convolutions, where there is one."""
    if not isinstance(module, networks.ConvolutionalFeatures) or module.bottleneck is None:
        return []
    units = module.bottleneck
    return [nn.Linear(width, units), *_norm(module, units), _activation(module)]


def _alexnet(module):
    layers, channels = [], 3
    for features, kernel, stride, padding, pooled in (
        (64, 11, 4, 2, True),
        (192, 5, 1, 2, True),
        (384, 3, 1, 1, False),
        (256, 3, 1, 1, False),
        (256, 3, 1, 1, True),
    ):
        layers += [nn.Conv2d(channels, features, kernel, stride, padding), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if pooled else []
        channels = features
    layers.append(nn.Flatten())
    for width in (channels * 6 * 6, 4096):
        layers += [nn.Linear(width, 4096), nn.ReLU(), *_dropout(module.dropout_rate)]
    return layers


def _fully_connected(module, width):
    if module.hidden and module.batch_norm:
        raise ValueError(_NO_TRANSLATION)
    layers = []
    for units in module.hidden:
        layers += [nn.Linear(width, units), _activation(module), *_dropout(module.dropout_rate)]
        width = units
    return [*layers, nn.Linear(width, module.outputs)]
