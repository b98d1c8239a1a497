"""Files that appear whole or not at all."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

__all__ = ["whole"]


@contextlib.contextmanager
def whole(path: pathlib.Path, *, replace: bool = True) -> Iterator[pathlib.Path]:
    """Gives the path of a temporary file that takes the place of ``path`` when it is complete.

    Its name belongs to this process alone. Folders are created; others may read the file.

    Args:
        path: the file.
        replace: whether it may take the place of another file.

    Raises:
        FileExistsError: there is a file, and ``replace`` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        os.fsync(handle)
        os.chmod(temporary, 0o644)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)
