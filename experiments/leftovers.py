"""Removes what runs that were killed have left behind."""

import pathlib
import re
import shutil

__all__ = ["remove"]

# Of datasets.whole_files.whole.
TEMPORARY = re.compile(r"\..+-[a-z0-9_]{8}\.(jsonl?|png|csv|safetensors|jax_export)")
SAVING = "*.orbax-checkpoint-tmp*"
EARLIER = {  # of earlier versions: what was being written, and what it would have replaced
    ".new": False,
    ".old": True,
}


def remove(folder: pathlib.Path) -> None:
    """Removes unfinished files from the folder of an experiment, which its caller holds.

    Where an earlier version was killed between two renames, its checkpoint gets its name back.
    """
    for path in sorted(folder.rglob(".*")):
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink()
    for path in sorted(folder.rglob(SAVING)):
        shutil.rmtree(path, ignore_errors=True)  # one may have lain inside of another
    for suffix, is_whole in EARLIER.items():
        for path in sorted(folder.glob(f"*/key_*/*{suffix}")):
            if is_whole and not path.with_suffix("").exists():
                path.rename(path.with_suffix(""))
            else:
                shutil.rmtree(path)
