"""The same training in PyTorch, for nothing but to compare speeds with. PyTorch is not needed
otherwise.

Networks are translated from ours, layer by layer, so that both sides compute the same function.
"""

import collections
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dann_jax import networks
from dann_jax.backbones import AlexNet
from dann_jax.batches import DomainArrays

__all__ = ["Mode", "Training", "modes", "parts", "set_precision"]

HORIZON = 10_000  # updates at which the schedules end


class Mode(NamedTuple):
    """One way in which PyTorch users run a training."""

    engine: str  # "eager", "compiled" (torch.compile of the loss) or "cuda_graphs" (whole step)
    channels_last: bool  # memory layout of images and convolutions; PyTorch's own is not


def modes(device: str) -> list[Mode]:
    """Returns the ways to compare with on a kind of device, ``'cpu'`` or ``'cuda'``."""
    engines = ("eager",) if device == "cpu" else ("eager", "compiled", "cuda_graphs")
    return [Mode(engine, last) for engine in engines for last in (False, True)]


def set_precision(tf32: bool) -> None:
    """Lets float32 products on a GPU be rounded to TF32, or not."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def parts(model: networks.DannModel, pixels: int) -> dict[str, nn.Sequential]:
    """Returns G_f, G_y and G_d as PyTorch modules, in training mode.

    Args:
      model: One of ours; those with batch normalisation are not translated.
      pixels: Height and width of the images.

    Returns:
      Modules ``'f'``, ``'y'`` and ``'d'``; images are ``[n, 3, pixels, pixels]``, and features are
      flattened from ``[n, channel, height, width]``.

    Raises:
      ValueError: There is no translation of the network.
    """
    f = nn.Sequential(_features(model.feature_extractor))
    with torch.no_grad():
        width = f.eval()(torch.zeros(1, 3, pixels, pixels)).shape[1]
    y = nn.Sequential(_fully_connected(model.label_predictor, width))
    d = nn.Sequential(_fully_connected(model.domain_classifier, width))
    return {"f": f.train(), "y": y.train(), "d": d.train()}


def _features(module):
    if isinstance(module, networks.OfficeFeatures) and isinstance(module.backbone, AlexNet):
        return _alexnet(module.backbone) | {"bottleneck": nn.Linear(4096, module.bottleneck)}
    if not isinstance(module, networks.ConvolutionalFeatures) or module.statistics is not None:
        raise ValueError(
            "no translation to PyTorch of this network: leave it out, or --against-pytorch"
        )
    layers = collections.OrderedDict(drop_input=nn.Dropout(module.input_dropout_rate))
    channels, same = 3, module.padding == "SAME"
    for i, layer in enumerate(module.layers, start=1):
        padding = layer.kernel // 2 if same else 0
        layers[f"conv{i}"] = nn.Conv2d(channels, layer.features, layer.kernel, padding=padding)
        layers[f"relu{i}"] = nn.ReLU()
        if layer.pool is not None:
            # A last window that sticks out is what SAME means for windows of 3 on even sizes.
            layers[f"pool{i}"] = nn.MaxPool2d(layer.pool, 2, ceil_mode=same)
        layers[f"drop{i}"] = nn.Dropout(layer.dropout_rate)
        channels = layer.features
    return _needed(layers) | {"flat": nn.Flatten()}


def _alexnet(module):
    layers, channels = collections.OrderedDict(), 3
    convolutions = (  # features, window, stride, padding, pooling after it
        (64, 11, 4, 2, True),
        (192, 5, 1, 2, True),
        (384, 3, 1, 1, False),
        (256, 3, 1, 1, False),
        (256, 3, 1, 1, True),
    )
    for i, (features, kernel, stride, padding, pooled) in enumerate(convolutions, start=1):
        layers[f"conv{i}"] = nn.Conv2d(channels, features, kernel, stride, padding)
        layers[f"relu{i}"] = nn.ReLU()
        if pooled:
            layers[f"pool{i}"] = nn.MaxPool2d(3, 2)
        channels = features
    layers["flat"] = nn.Flatten()
    for name, width in (("fc6", channels * 6 * 6), ("fc7", 4096)):
        layers[name] = nn.Linear(width, 4096)
        layers[f"relu_{name}"] = nn.ReLU()
        layers[f"drop_{name}"] = nn.Dropout(module.dropout_rate)
    return _needed(layers)


def _fully_connected(module, width):
    layers = collections.OrderedDict()
    for i, units in enumerate(module.hidden, start=1):
        layers[f"fc{i}"] = nn.Linear(width, units)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"drop{i}"] = nn.Dropout(module.dropout_rate)
        width = units
    layers["logits"] = nn.Linear(width, module.outputs)
    return _needed(layers)


def _needed(layers):
    """Leaves out dropout that drops nothing."""
    return collections.OrderedDict(
        (name, layer)
        for name, layer in layers.items()
        if not (isinstance(layer, nn.Dropout) and layer.p == 0)
    )


class _Reversal(torch.autograd.Function):
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
        model: networks.DannModel,
        arrays: DomainArrays,
        *,
        batch: int,
        mode: Mode,
        bfloat16: bool = False,
        device: str = "cpu",
    ):
        """Takes a model of ours, whole data sets as uint8, and how to run.

        Args:
          model: What to translate; the weights are PyTorch's own.
          arrays: Images and labels, ``[n, height, width, 3]`` uint8 and ``[n]``.
          batch: Examples a step, half source, half target.
          mode: Engine and layout.
          bfloat16: Whether to compute in bfloat16 (``torch.autocast``); parameters are float32.
          device: ``'cpu'`` or ``'cuda'``.
        """
        self.step, self.batch, self.mode = 0, batch, mode
        self.bfloat16, self.device, self.max_norm = bfloat16, torch.device(device), model.max_norm
        layout = torch.channels_last if mode.channels_last else torch.contiguous_format
        self.parts = {
            name: part.to(self.device, memory_format=layout)
            for name, part in parts(model, arrays.source_image.shape[1]).items()
        }
        self.images = [self._placed(a) for a in (arrays.source_image, arrays.target_image)]
        labels = np.asarray(arrays.source_label).astype(np.int64)
        self.labels = torch.from_numpy(labels).to(self.device)
        self.domains = torch.arange(batch, device=self.device).ge(batch // 2).float()
        # A graph reads lambda and mu from memory, where the host puts them before each replay.
        graph = mode.engine == "cuda_graphs"
        self.lam = torch.zeros([], device=self.device)
        self.mu = torch.full([], 0.01, device=self.device) if graph else 0.01
        parameters = [p for part in self.parts.values() for p in part.parameters()]
        self.optimizer = torch.optim.SGD(
            parameters, lr=self.mu, momentum=0.9, fused=True if graph else None
        )
        self.loss = torch.compile(self._loss) if mode.engine == "compiled" else self._loss
        self.replay = self._captured() if graph else None

    def __call__(self, steps: int) -> None:
        """Makes ``steps`` updates on random batches and waits for them."""
        for _ in range(steps):
            lam, mu = _schedules(self.step)
            self.step += 1
            if self.replay is None:
                self.update(*self._draw(), lam, mu)
            else:
                self.lam.fill_(lam)
                self.mu.fill_(mu)
                self.replay()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def update(
        self, source: torch.Tensor, target: torch.Tensor, lam: float, mu: float
    ) -> torch.Tensor:
        """Makes one update on the examples of the given indices, and returns its loss before it."""
        if self.mode.engine == "compiled":  # a number would be compiled in
            lam = self.lam.fill_(lam)
        self.optimizer.param_groups[0]["lr"] = mu
        return self._updated(source, target, lam)

    def _updated(self, source, target, lam):
        self.optimizer.zero_grad()
        loss = self.loss(source, target, lam)
        loss.backward()
        self.optimizer.step()
        if self.max_norm is not None:
            with torch.no_grad():
                for name in "fy":
                    for weight in self.parts[name].parameters():
                        if weight.ndim > 1:
                            weight.renorm_(2, 0, self.max_norm)
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
            domain_logits = D(_Reversal.apply(f, lam))
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
        """Returns what replays a whole step, its draw of a batch and its update, as a graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # what PyTorch allocates only in its first steps
                self._updated(*self._draw(), self.lam)
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._updated(*self._draw(), self.lam)
        return graph.replay


def _schedules(step):
    """Returns lambda_p and mu_p as numbers of the host."""
    p = min(step / HORIZON, 1.0)
    return 2 / (1 + math.exp(-10 * p)) - 1, 0.01 / (1 + 10 * p) ** 0.75
