"""Files that appear whole or not at all, and what a killed process left of them."""

import contextlib
import fcntl
import glob
import os
import pathlib
import tempfile
from collections.abc import Iterator

__all__ = ["alone", "whole"]


@contextlib.contextmanager
def whole(path: pathlib.Path, *, replace: bool = True) -> Iterator[pathlib.Path]:
    """Gives the path of a temporary file that takes the place of ``path`` when it is complete.

    Its name belongs to this process alone. Folders are created; others may read the file. The
    temporary files of ``path`` that killed processes left behind are removed.

    Args:
        path: the file.
        replace: whether it may take the place of another file.

    Raises:
        FileExistsError: there is a file, and ``replace`` is False.
        OSError: it cannot be written; nothing is left of it, and the error names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    try:
        handle, temporary = _temporary(path)
        try:
            yield temporary
            os.fsync(handle)
            os.chmod(temporary, 0o644)
            if replace:
                os.replace(temporary, path)
            else:
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)
    except OSError as error:
        if os.path.basename(str(error.filename)).startswith(f".{path.stem}-"):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[bool]:
    """Waits until no other process is in the block for this folder.

    Gives True then, or False where the file system cannot tell (some network file systems). A
    process that ends in any way, killed ones too, is in no block any more.

    Args:
        folder: it exists.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _locked(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


def _locked(handle, how) -> bool:
    try:
        fcntl.flock(handle, how)
    except OSError:  # another process has it, or the file system has no locks
        return False
    return True


def _temporary(path):
    """Returns the handle and the path of a new file, locked for as long as this process lives."""
    while True:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
        )
        _locked(handle, fcntl.LOCK_EX)
        if os.path.exists(name):
            return handle, pathlib.Path(name)
        os.close(handle)  # before it was locked, another process took it for a leftover


def _remove_leftovers(path):
    """Removes the temporary files of ``path`` that no living process has locked."""
    pattern = f".{glob.escape(path.stem)}-????????{glob.escape(path.suffix)}"
    for leftover in path.parent.glob(pattern):
        with contextlib.suppress(OSError):  # another process removes it too
            handle = os.open(leftover, os.O_RDWR)
            try:
                if _locked(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    leftover.unlink()
            finally:
                os.close(handle)
