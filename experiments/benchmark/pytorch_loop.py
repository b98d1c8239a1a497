"""DANN in PyTorch as people write it: datasets with transforms, DataLoaders, eager updates."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from dann_jax import DannModel
from dann_jax.batches import DomainArrays
from dann_jax.objective import SOURCE, TARGET
from experiments.benchmark import pytorch_twin

__all__ = ["Images", "Loop", "Recipe", "accuracy", "initialize", "of_random_images"]

WORKERS = 2  # of each DataLoader
EVALUATED = 256  # images of a batch of an evaluation


class Images(Dataset):
    """Images and labels; each image goes through the transforms when it is asked for."""

    def __init__(self, image: np.ndarray, label: np.ndarray | None, mean: Any, scale: float):
        """Takes ``[n, height, width, 1 or 3]`` uint8, labels or None, and what standardizes."""
        self.image, self.label, self.scale = image, label, scale
        self.mean = torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1)

    def __len__(self):
        """Returns the number of images."""
        return len(self.image)

    def __getitem__(self, i):
        """Returns image i, ``[3, height, width]`` float32, and its label; -1 for none."""
        x = torch.from_numpy(np.array(self.image[i])).permute(2, 0, 1).float()
        x = (x.expand(3, -1, -1) - self.mean) / self.scale
        return x, -1 if self.label is None else int(self.label[i])


class Recipe(NamedTuple):
    """The settings of a training."""

    batch: int  # examples a step, half source and half target
    schedules: Callable[[int], tuple[float, float]]  # step -> lambda and mu
    domain_weight: float = 1.0
    momentum: float = 0.9
    max_norm: float | None = None


class Loop:
    """The training loop: one pass of each domain through the network a step."""

    def __init__(
        self, parts: dict[str, nn.Module], source: Dataset, target: Dataset, recipe: Recipe
    ):
        """Starts from the parameters that the parts have, on their device."""
        self.parts, self.recipe, self.step = parts, recipe, 0
        parameters = [p for part in parts.values() for p in part.parameters()]
        self.device = parameters[0].device
        lr = recipe.schedules(0)[1]
        self.optimizer = torch.optim.SGD(parameters, lr=lr, momentum=recipe.momentum)
        self.batches = [
            _endless(images, recipe.batch // 2, self.device) for images in (source, target)
        ]

    def __call__(self, steps: int) -> None:
        """Makes so many updates."""
        for _ in range(steps):
            (xs, labels), (xt, _) = (self._next(batches) for batches in self.batches)
            lam, mu = self.recipe.schedules(self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = mu
            self.optimizer.zero_grad()
            label_logits, domain_logits = self._forward(xs, lam, SOURCE)
            L_y = functional.cross_entropy(label_logits, labels)
            L_d = _domain_loss(domain_logits, SOURCE)
            _, domain_logits = self._forward(xt, lam, TARGET)
            L_d = (L_d + _domain_loss(domain_logits, TARGET)) / 2
            (L_y + self.recipe.domain_weight * L_d).backward()
            self.optimizer.step()
            pytorch_twin.bound_norms(self.parts, self.recipe.max_norm)
            self.step += 1
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _next(self, batches):
        return (each.to(self.device, non_blocking=True) for each in next(batches))

    def _forward(self, x, lam, domain):
        F, Y, D = (self.parts[name] for name in "fyd")
        pytorch_twin.set_domain(self.parts, domain)
        f = F(x)
        return Y(f), D(pytorch_twin.Reversal.apply(f, lam))


def _domain_loss(logits, domain):
    return functional.binary_cross_entropy_with_logits(
        logits[:, 0], torch.full_like(logits[:, 0], domain)
    )


def _endless(images: Dataset, batch: int, device: torch.device) -> Iterator[Any]:
    """Returns batches of all images in random order, again and again."""
    loader = DataLoader(
        images,
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )

    def batches():
        while True:
            yield from loader

    return batches()


@torch.no_grad()
def accuracy(parts: dict[str, nn.Module], images: Dataset, domain: int) -> float:
    """Returns the share of labels that are right, with the running averages of a domain."""
    for part in parts.values():
        part.eval()
    pytorch_twin.set_domain(parts, domain)
    device = next(parts["f"].parameters()).device
    correct = 0
    for x, labels in DataLoader(images, batch_size=EVALUATED, num_workers=WORKERS):
        logits = parts["y"](parts["f"](x.to(device)))
        correct += int((logits.argmax(1).cpu() == labels).sum())
    for part in parts.values():
        part.train()
    return correct / len(images)


def initialize(parts: dict[str, nn.Module]) -> None:
    """Draws weights as the networks' He-normal initialization does; biases are 0."""
    for part in parts.values():
        for module in part.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)


def of_random_images(
    model: DannModel, arrays: DomainArrays, *, batch: int, bfloat16: bool, platform: str
) -> Loop:
    """Returns the loop on the images that the benchmark trains with."""
    if bfloat16:
        raise ValueError("the loop is measured in float32 alone")
    device = pytorch_twin.place(platform)
    parts = pytorch_twin.translated(model, arrays.source_image.shape[1])
    parts = {name: part.to(device) for name, part in parts.items()}
    images = functools.partial(Images, mean=[127.5] * 3, scale=255.0)
    sets = images(arrays.source_image, arrays.source_label), images(arrays.target_image, None)
    return Loop(parts, *sets, Recipe(batch, pytorch_twin.schedules, max_norm=model.max_norm))
