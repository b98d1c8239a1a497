"""A training that can be stopped at any evaluation: ours, and PyTorch's usual loop beside it."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from dann_jax.datasets.whole_files import whole
from experiments import configs, domains, runtime, studies
from experiments import train as trainings
from experiments.benchmark import arrays
from experiments.methods import DEFAULT_METHODS, METHODS
from experiments.settings import Config

__all__ = ["Course", "LoopCourse", "Task", "check_loop", "schedules", "stops"]

METHOD = next(METHODS[name] for name in DEFAULT_METHODS if METHODS[name].adversarial)
_OF_LOOP = {  # settings that PyTorch's loop does without
    **{"optimizer": "sgd", "nesterov": False, "weight_decay": 0.0, "mean": "joint"},
    **{"normalize_images": False, "augment": "none", "crop": None, "mirror": False},
    **{"normalization": "mean", "average_decay": None, "drop_at": 1.0, "lambda_horizon": None},
    **{"bias_factor": 1.0, "initialization": "default", "dtype": "float32", "backbone": None},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained on which images, and where checkpoints go."""

    config: str
    changes: dict[str, Any]
    """Settings that are not those of the config."""
    keys: tuple[int, ...]
    """Trained as one program."""
    folder: pathlib.Path
    """Of checkpoints."""
    carried: pathlib.Path | None = None
    """Folder of ``arrays.write_pair``; None for prepared data."""
    data_dir: pathlib.Path | None = None
    manual_dir: pathlib.Path | None = None

    def settings(self) -> Config:
        """Returns the settings of the training."""
        config, _ = configs.find_config(self.config)
        return dataclasses.replace(config, **self.changes)

    def pair(self) -> domains.Pair:
        """Returns the images."""
        if self.carried is not None:
            return arrays.read_pair(self.carried)
        return domains.load_pair(
            self.settings(), data_dir=self.data_dir, manual_dir=self.manual_dir
        )


def check_loop(config: Config) -> None:
    """Raises a ValueError unless PyTorch's loop can have the same recipe."""
    differ = [name for name, value in _OF_LOOP.items() if getattr(config, name) != value]
    if differ:
        raise ValueError(
            f"expected a config that leaves {', '.join(_OF_LOOP)} at their defaults, as PyTorch's "
            f"loop has no others, got other values of {', '.join(differ)}: name another config"
        )


def schedules(config: Config, step: int) -> tuple[float, float]:
    """Returns lambda and mu of an update as Python numbers."""
    p = min(step / config.steps, 1.0)
    lam = config.lambda_max * (2 / (1 + math.exp(-config.gamma * p)) - 1)
    return lam, config.mu0 / (1 + config.alpha * p) ** config.beta


class Course:
    """Our training, with the checkpoints of ``experiments.run``."""

    def __init__(self, task: Task):
        """Loads the images; nothing is compiled yet."""
        self.task, config = task, task.settings()
        self.pair = task.pair()
        self.study = studies.prepare(config, METHOD, self.pair, jax.local_devices()[:1])

    def about(self) -> dict[str, Any]:
        """Returns the numbers of updates and of images."""
        parts = {name: len(getattr(self.pair, name).image) for name in arrays.PARTS}
        return {"steps": self.study.steps, "examples": parts}

    def advance(self, stop: int) -> list[dict[str, Any]]:
        """Trains until a number of updates; returns all evaluations up to there."""
        every = self.study.config.evaluate_every
        records = trainings.train(
            self.study,
            self.task.keys,
            self.task.folder,
            together=len(self.task.keys),
            checkpoint_every=every,
            checkpoint_minutes=1e6,
            stop=stop,
        )
        names = "step", "source_accuracy", "target_accuracy"
        return [
            {name: row[name] for name in names} | {"key": key}
            for key, each in zip(self.task.keys, records, strict=True)
            for row in each["evaluations"]
        ]


class LoopCourse:
    """The same training in PyTorch's usual loop."""

    keeps_freed_memory = False  # nobody does who writes it

    def __init__(self, task: Task):
        """Loads images and the last checkpoint."""
        import torch  # nothing else here needs it

        from experiments.benchmark import pytorch_loop, pytorch_twin
        from experiments.settings import make_model

        self.torch, self.accuracy = torch, pytorch_loop.accuracy
        config = task.settings()
        check_loop(config)
        pair = task.pair()
        torch.manual_seed(task.keys[0])
        mean = domains.preprocessing(config, pair, METHOD).source_mean
        image = {
            name: pytorch_loop.Images(*getattr(pair, name), mean, config.input_scale)
            for name in arrays.PARTS
        }
        self.tests = image["source_test"], image["target_test"]
        torch.set_num_threads(runtime.cores())
        device = pytorch_twin.place("gpu" if torch.cuda.is_available() else "cpu")
        model = make_model(config, len(pair.class_names))
        parts = pytorch_twin.translated(model, config.input_size)
        pytorch_loop.initialize(parts)
        self.parts = {name: part.to(device) for name, part in parts.items()}
        self.loop = pytorch_loop.Loop(
            self.parts,
            image["source_train"],
            image["target_train"],
            pytorch_loop.Recipe(
                config.batch_size,
                lambda step: schedules(config, step),
                config.domain_weight,
                config.momentum,
                model.max_norm,
            ),
        )
        self.config, self.evaluations = config, []
        self.path = task.folder / "checkpoint.pt"
        if self.path.exists():
            saved = torch.load(self.path, weights_only=True)
            for name, part in self.parts.items():
                part.load_state_dict(saved["parts"][name])
            self.loop.optimizer.load_state_dict(saved["optimizer"])
            self.loop.step, self.evaluations = saved["step"], saved["evaluations"]

    def about(self) -> dict[str, Any]:
        """Returns the number of updates."""
        return {"steps": self.config.steps}

    def advance(self, stop: int) -> list[dict[str, Any]]:
        """Trains until a number of updates; returns all evaluations up to there."""
        every = self.config.evaluate_every
        while self.loop.step < stop:
            self.loop(min(every - self.loop.step % every, stop - self.loop.step))
            if self.loop.step % every == 0:
                source, target = (self.accuracy(self.parts, t, i) for i, t in enumerate(self.tests))
                row = {"step": self.loop.step, "source_accuracy": source}
                self.evaluations.append(row | {"target_accuracy": target, "key": 0})
                self._save()
        return self.evaluations

    def _save(self):
        content = {
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "optimizer": self.loop.optimizer.state_dict(),
            "step": self.loop.step,
            "evaluations": self.evaluations,
        }
        with whole(self.path) as temporary:
            self.torch.save(content, temporary)


def stops(every: int, steps: int) -> Sequence[int]:
    """Returns the updates at which a training is evaluated."""
    return [*range(every, steps, every), steps]
