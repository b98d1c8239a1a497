"""One trial: a file is changed and read, and the outcome named."""

import contextlib
import hashlib
import pathlib
import random
import shutil
import warnings
from typing import Any

import numpy as np

from experiments.hostile.changes import CANARY
from experiments.hostile.outcomes import Outcome
from experiments.hostile.readers import Reader

__all__ = ["Trials", "fingerprint"]

_MOST = 300  # letters of an error that are kept


def fingerprint(value: Any) -> str:
    """Returns a digest of arrays, numbers and containers of them: of types, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    _add(digest, value)
    return digest.hexdigest()


def _add(digest, value):
    digest.update(type(value).__name__.encode())
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    elif isinstance(value, dict):
        for name, each in value.items():
            digest.update(repr(name).encode("utf-8", "surrogatepass"))
            _add(digest, each)
    elif isinstance(value, list | tuple):
        digest.update(str(len(value)).encode())
        for each in value:
            _add(digest, each)
    else:
        digest.update(repr(value).encode("utf-8", "surrogatepass"))


class Trials:
    """The trials of a reader in a folder of its own, which is the working folder meanwhile.

    Args:
      reader: Which one.
      folder: An empty folder.
    """

    def __init__(self, reader: Reader, folder: pathlib.Path):
        self.reader, self.folder = reader, folder / "trial"
        self.folder.mkdir()
        reader.write(self.folder)
        self.expected = fingerprint(reader.read(self.folder))
        self.files = sorted(path for path in self.folder.glob(reader.files) if path.is_file())
        self.contents = {path: path.read_bytes() for path in self.files}
        self.valid = folder / "valid"  # all that reading may write anew
        if reader.remakes:
            shutil.copytree(self.folder / reader.names, self.valid)

    def changed(self, seed: str) -> tuple[pathlib.Path, bytes | None]:
        """Returns one of the files and its changed content, a function of the seed alone."""
        chance = random.Random(seed)
        path = chance.choice(self.files)
        return path, self.reader.change(chance, self.contents[path])

    def run(self, seed: str) -> Outcome:
        """Changes a file, reads, restores the file and returns the outcome."""
        path, content = self.changed(seed)
        try:
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            with contextlib.chdir(self.folder):
                outcome = self._read(path)
        finally:
            self._restore(path)
        return outcome

    def _restore(self, path):
        (self.folder / CANARY).unlink(missing_ok=True)
        if self.reader.remakes:
            shutil.rmtree(self.folder / self.reader.names)
            shutil.copytree(self.valid, self.folder / self.reader.names)
        else:
            path.write_bytes(self.contents[path])

    def _read(self, path):
        names = path if self.reader.names is None else self.folder / self.reader.names
        outcome = self._outcome(str(names))
        return Outcome("executed", outcome.error) if pathlib.Path(CANARY).exists() else outcome

    def _outcome(self, name):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a decoder may warn before it refuses
                value = self.reader.read(self.folder)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:_MOST]
            if any(isinstance(each, MemoryError) for each in _chain(error)):
                return Outcome("memory", text)
            if not isinstance(error, ValueError | OSError):
                return Outcome("undocumented", text)
            clear = name in str(error) and "\n" not in str(error)
            return Outcome("refused" if clear else "unclear", text)
        if fingerprint(value) == self.expected:
            return Outcome("same")
        return Outcome("wrong" if self.reader.checked else "another")


def _chain(error):
    """Yields an error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
