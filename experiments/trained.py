"""What trainings leave in their folders: records, and the states at their ends."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from dann_jax import checkpoints
from dann_jax.programs import Group
from experiments import domains, record
from experiments.plan import resolved
from experiments.settings import completed, differences
from experiments.studies import Study

__all__ = ["check_same", "fits", "group_of", "new_record", "restored"]


def group_of(record: dict[str, Any]) -> Group:
    """Returns the group that a key was, or is being, trained in."""
    return Group(tuple(record["together"]), record["devices_per_key"])


def new_record(study: Study, group: Group) -> dict[str, Any]:
    """Returns the record of a key of a group before its first step."""
    return {
        "format": record.FORMAT,
        "settings": resolved(study.config, study.method),
        "origin": study.origin,
        "together": list(group.keys),
        "devices_per_key": group.devices_per_key,
        "finished": False,
        "diverged": None,
        "digests": None,
        "curves": [],
        "evaluations": [],
        "warnings": [],
        "unfinished": [],  # metrics of the steps of calls that checkpoints lie within
        "train_seconds": 0.0,  # each the key's share of those of its group
        "wall_seconds": 0.0,
    }


def restored(study: Study, key: int, folder: pathlib.Path) -> Any:
    """Returns the state at the end of a finished training with the study's settings and data.

    Other versions or devices may have made it, so that what follows from it may differ by rounding.
    """
    finished, folder = record.read_record(folder, key), folder / f"key_{key}"
    if finished is None or not finished["finished"]:
        raise ValueError(
            f"{folder} holds no finished training of {study.method.name}: train it first"
        )
    if finished.get("diverged"):
        raise ValueError(
            f"{folder} holds a training that diverged, and no state: lower mu0 and train again"
        )
    check_same(study, finished, folder)
    shapes = jax.eval_shape(lambda: study.start(Group((key,), 1))[0])
    place = jax.sharding.SingleDeviceSharding(study.home)
    like = jax.tree.map(lambda x: x.update(sharding=place), shapes)
    state = checkpoints.restore(folder / "state", like)
    if state is None:
        raise ValueError(f"{folder} has no state: it was not copied along, or has been removed")
    expected, digest = finished.get("digests"), record.parameters_digest(state)
    if expected and expected["parameters"] != digest:
        raise ValueError(
            f"{folder / 'state'} is of another training than {folder / 'record.json'} (expected "
            f"parameters with the digest {expected['parameters'][:12]}, got {digest[:12]}): copy "
            "the whole folder anew, or train again with --overwrite"
        )
    return state


_ANY_PROCESSOR = {"processor": None}  # a training goes on on another one, and its record says so


def fits(study: Study, keys: Sequence[int], folder: pathlib.Path) -> bool:
    """Returns whether all trainings in a folder are of this study, and of no other keys."""
    expected = resolved(study.config, study.method), study.origin | _ANY_PROCESSOR
    names = [path.parent.name for path in folder.glob("key_*/record.json")]
    try:
        records = [record.read_record(folder, int(name.removeprefix("key_"))) for name in names]
    except ValueError:  # damaged, or of another format
        return False
    return all(
        (completed(each["settings"]), each["origin"] | _ANY_PROCESSOR) == expected
        and (each["finished"] or set(each["together"]) <= set(keys))
        for each in records
    )


def check_same(study, begun, folder, entries=()):
    """Raises where a record was not made with the same settings, data and entries of its origin."""
    settings, origin = completed(begun["settings"]), begun["origin"]
    changed = differences(settings, resolved(study.config, study.method))
    names = [name for name in sorted(entries) if origin[name] != study.origin[name]]
    for name in names:
        there, here = origin[name], study.origin[name]
        pair = (there, here) if name == "versions" else ({name: there}, {name: here})
        changed += differences(*pair, whose="here")
    if changed:
        threads = f"set PJRT_NPROC and NPROC to {origin['threads']}, "
        first = threads if len(changed) == 1 and names == ["threads"] else ""
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}): {first}"
            "choose another --output, or --overwrite it"
        )
    others = domains.differences(origin["data"], study.origin["data"])
    if others:
        raise ValueError(
            f"{folder} holds a run with other data ({others}): choose those with --data-dir or "
            "--manual-dir, or another --output, or --overwrite it"
        )
