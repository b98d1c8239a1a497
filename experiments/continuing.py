"""Trainings that begin with a finished one: --continue-from.

With the settings and data of the finished training but more updates, parameters, optimizer state
and step go on. With others, its parameters are a start, from step 0, where their shapes fit.
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dann_jax import checkpoints, model_files
from dann_jax.programs import Group
from experiments import domains, record
from experiments.methods import Method
from experiments.settings import Config, completed, differences, library_network
from experiments.studies import Study

__all__ = ["Start", "begun", "find", "lines", "places"]

OPTION = "--continue-from"
LENGTHS = {"steps", "baseline_steps"}
FREE = LENGTHS | {"continue_from", "evaluate_every", "select", "divergence"}  # of more updates
LAST = "logits"  # layer of G_y with an output for each class
_HEAD = f"y/{LAST}"


class Start(NamedTuple):
    """A finished training that another begins with."""

    folder: pathlib.Path  # its key_KEY
    step: int  # from which updates are counted on; 0 where only its parameters are taken
    sha256: str  # of parameters and batch statistics; at step 0 of the file of weights
    why: str = ""  # it is no more than its parameters, in words

    def entry(self) -> dict[str, Any]:
        """Returns what a record says of it."""
        return {"run": self.folder.as_posix(), "step": self.step, "sha256": self.sha256}


def places(run: pathlib.Path, method: str, key: int) -> list[pathlib.Path]:
    """Returns where the training of a key may lie: in a CONFIG, METHOD or key_KEY folder."""
    return [run / method / f"key_{key}", run / f"key_{key}", run]


def find(config: Config, method: Method, key: int, settings: dict[str, Any]) -> Start:
    """Returns what a key begins with; ``settings`` are those that ``plan.resolved`` gives.

    Raises:
      ValueError: There is none, or it is not finished, diverged, or does not fit.
    """
    run, files = pathlib.Path(config.continue_from).expanduser(), ("record.json", "model.json")
    every = places(run, method.name, key)
    folder = next((f for f in every if any((f / name).is_file() for name in files)), None)
    if folder is None:
        raise ValueError(
            f"{OPTION} {run}: expected a finished training for key {key} of {method.name} in "
            f"{every[0]}, {every[1]} or {run} itself, got none: name the folder of one"
        )
    done = _record(folder)
    changed = ["it has no record.json"]
    if done:
        lines = differences(completed(done["settings"]), settings)
        changed = [line for line in lines if line.split(":")[0] not in FREE]
        if not changed:
            return _more(folder, done, method, config)
    entries = model_files.describe(folder)
    expected = library_network(config, len(entries["classes"]))
    there = {name: entries["network"].get(name) for name in expected}
    if _without_dtype(there) != _without_dtype(expected):
        raise ValueError(
            f"{OPTION} {folder}: expected the network {_shown(expected)}, got {_shown(there)}: "
            "choose that --network, or another training"
        )
    return Start(folder, 0, entries["weights"]["sha256"], "; ".join(changed))


def _record(folder):
    """Returns the record of a finished training; None in a folder with its model alone."""
    if not (folder / "record.json").is_file():
        return None
    place = folder.resolve()
    named = re.fullmatch(r"key_([0-9]+)", place.name)
    if named is None:
        raise ValueError(
            f"{OPTION} {folder}: expected the folder key_KEY that its record.json is of, got "
            f"{place.name}: give it that name again, or take record.json out to start from the "
            "parameters alone"
        )
    done = record.read_record(place.parent, int(named[1]))
    if done is not None and not done["finished"]:
        raise ValueError(f"{OPTION} {folder}: expected a finished training, got one that is not")
    if done is not None and done["diverged"]:
        raise ValueError(
            f"{OPTION} {folder}: expected a finished training, got one that diverged at step "
            f"{done['diverged']['step']:,}: name another"
        )
    return done


def _more(folder, done, method, config):
    """Returns the start of more updates."""
    step, steps = done["curves"][-1]["step"], method.steps(config)
    if steps <= step:
        own = getattr(config, method.length) is not None
        name = (method.length if own else "steps").replace("_", "-")
        raise ValueError(
            f"{OPTION} {folder}: it has made {step:,} updates, and {method.name} is to make "
            f"{steps:,} in all: raise --{name}"
        )
    if not (folder / "state").exists() or not done["digests"]:
        raise ValueError(
            f"{OPTION} {folder}: expected the state of the optimizer in {folder / 'state'}, got "
            "none: it was not copied along, or an earlier version has trained"
        )
    return Start(folder, step, done["digests"]["parameters"])


def _without_dtype(network):
    return network | {"arguments": network["arguments"] | {"dtype": None}}


def _shown(network):
    backbone = f" above {network['backbone']}" if network["backbone"] else ""
    return f"{network['name']}{backbone}{', frozen' * bool(network['frozen'])}"


def lines(study: Study, keys: Sequence[int], settings: dict[str, Any]) -> list[str]:
    """Returns a sentence on what each key begins with; raises a ValueError where it does not fit.

    Nothing is trained: this is the last check before.
    """
    if study.config.continue_from is None:
        return []
    every = []
    for key in keys:
        start = find(study.config, study.method, key, settings)
        about = f"{study.method.name} key {key}"
        states, _ = study.start(Group((key,), 1))
        if start.step:
            _restored(study, states, start)
            every.append(f"{about} goes on from step {start.step:,} of {start.folder}")
            continue
        _, new = _taken(study, states, start)
        begin = " and ".join(new) + f" begin{'s' * (len(new) == 1)} anew"
        parts = f"; {begin}: {_why(study, start)}" if new else ""
        alone = f"starts from the parameters of {start.folder} alone ({start.why})"
        every.append(f"{about} {alone}{parts}")
    return every


def _why(study, start):
    there = model_files.describe(start.folder)["classes"]
    here = study.pair.class_names
    if list(there) == list(here):
        return "G_d takes something else"
    return f"the {len(there)} classes there are not the {len(here)} here"


def _check_data(study, start):
    done = _record(start.folder)
    if others := domains.differences(done["origin"]["data"], study.origin["data"]):
        raise ValueError(
            f"{OPTION} {start.folder}: more updates need the same data ({others}): choose those "
            "with --data-dir or --manual-dir, or change a setting to start from parameters alone"
        )


def begun(
    study: Study, group: Group, states: Any, settings: dict[str, Any]
) -> tuple[Any, list[dict[str, Any]]]:
    """Returns what a group of keys begins with, and what each key's record says of it.

    Args:
      study: Whose config may name a finished training.
      group: The keys.
      states: As ``study.start`` gives them, which those are that begin with nothing.
      settings: Those of ``plan.resolved``.
    """
    if study.config.continue_from is None:
        return states, [{} for _ in group.keys]
    starts = [find(study.config, study.method, key, settings) for key in group.keys]
    single = len(group.keys) == 1
    of_keys = []
    for i, start in enumerate(starts):
        state = states if single else jax.tree.map(lambda x, i=i: x[i], states)
        of_keys.append(
            _restored(study, state, start) if start.step else _taken(study, state, start)
        )
    every = [state for state, _ in of_keys]
    joined = every[0] if single else jax.tree.map(lambda *x: jnp.stack(x), *every)
    # A copy: programs give up the memory of their states, and leaves must not share any.
    joined = jax.tree.map(lambda x, old: jax.device_put(jnp.array(x), old.sharding), joined, states)
    entries = [
        {"continued": start.entry() | {"new": new}}
        for start, (_, new) in zip(starts, of_keys, strict=True)
    ]
    return joined, entries


def _restored(study, like, start):
    """Returns the state that goes on, and that nothing of it is new."""
    _check_data(study, start)
    why = "another"
    try:
        state = checkpoints.restore(start.folder / "state", like)
    except ValueError as error:
        state, why = None, f"none ({str(error).partition(':')[0]})"
    if state is None or record.parameters_digest(state) != start.sha256:
        raise ValueError(
            f"{OPTION} {start.folder}: expected the state of its record.json, got {why}: copy the "
            "whole folder anew, or train it again"
        )
    return state, []


def _taken(study, state, start):
    """Returns a state at step 0 with the parameters of a start, and the names of new layers."""
    loaded = model_files.load(start.folder)
    there = {"theta": loaded.state.theta, "batch_stats": loaded.state.batch_stats}
    here = {"theta": state.theta, "batch_stats": state.batch_stats}
    new = [_HEAD] if tuple(loaded.classes) != tuple(study.pair.class_names) else []
    if any(_shapes(there[kind].get("d")) != _shapes(here[kind].get("d")) for kind in here):
        new.append("d")
    taken = {kind: {name: dict(part) for name, part in there[kind].items()} for kind in there}
    for kind, parts in here.items():
        for name in new:
            part, _, layer = name.partition("/")
            if not layer and part in parts:
                taken[kind][part] = parts[part]
            elif layer and layer in parts.get(part, {}):
                taken[kind][part] = taken[kind][part] | {layer: parts[part][layer]}
    if _shapes(taken) != _shapes(here):
        expected, got = _shapes(here), _shapes(taken)
        name = next(n for n in sorted({*expected, *got}) if expected.get(n) != got.get(n))
        raise ValueError(
            f"{OPTION} {start.folder}: expected parameters of the same shapes but for the classes, "
            f"got {got.get(name, 'none')} for {expected.get(name, 'none')} in {name}: choose the "
            "size of images, and the network, that it was trained with"
        )
    theta = taken["theta"]
    opt_state = jax.jit(study.optimizer.init)(theta)
    return dataclasses.replace(
        state, theta=theta, batch_stats=taken["batch_stats"], opt_state=opt_state
    ), new


def _shapes(tree):
    """Returns the shapes of leaves by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}
