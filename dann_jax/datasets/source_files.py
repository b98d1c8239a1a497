"""Published files: their paths on disk, their addresses, and what they must hold."""

import gzip
import hashlib
import http.client
import shutil
import urllib.request
import zlib
from pathlib import Path
from typing import NamedTuple

from dann_jax.datasets.whole_files import whole

__all__ = ["PublishedFile", "fetch", "find", "mismatch", "reason", "unzip"]


_TIMEOUT = 30.0  # seconds without an answer or further bytes


class PublishedFile(NamedTuple):
    """A file of a published data set."""

    name: str  # file name, as published
    folder: str  # sub-folder of manual_dir that is searched after manual_dir itself
    urls: tuple[str, ...]  # public addresses, tried in this order
    md5: str = ""  # that a download must have; "" where the content is checked otherwise
    aliases: tuple[str, ...] = ()  # other names that the user's own copy may have


def find(file: PublishedFile, *, manual_dir: Path | None, download_dir: Path) -> Path:
    """Returns the path of a file: the user's own copy if there is one, else a download.

    Args:
        file: which file.
        manual_dir: folder with files already on disk, or None.
        download_dir: where downloads are kept.

    Returns:
        A path that exists. A download has the published MD5, if one is known; the user's own
        copy may be encoded anew. What either holds is for the caller to check.

    Raises:
        NotADirectoryError: ``manual_dir`` is not None and not a folder.
        FileNotFoundError: the file is not on disk and no address delivers it.
    """
    searched = []
    if manual_dir is not None:
        if not manual_dir.is_dir():
            raise NotADirectoryError(
                f"manual_dir (--manual-dir) must be a folder that holds {file.name}, got "
                f"{manual_dir}, which is not a folder"
            )
        searched = [
            folder / name
            for name in (file.name, *file.aliases)
            for folder in (manual_dir, manual_dir / file.folder)
        ]
    for path in searched:
        if path.is_file():
            return path
    downloaded = download_dir / file.folder / file.name
    if _is_intact(file, downloaded):
        return downloaded
    reasons = []
    for url in file.urls:
        try:
            fetch(url, downloaded)
        # No network, no such host or page, not HTTP, disk full: the next address is worth a
        # try, and after the last one the user needs all the reasons.
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"{url} ({reason(error)})")
        else:
            if _is_intact(file, downloaded):
                return downloaded
            reasons.append(f"{url} (it delivers something whose MD5 is not {file.md5})")
    where = f"not found as {' or '.join(map(str, searched))}" if searched else "not on disk"
    raise FileNotFoundError(
        f"{file.name} is {where} and could not be downloaded from {' or '.join(reasons)}: "
        f"put the file in a folder and pass that folder as manual_dir (--manual-dir)"
    )


def fetch(url: str, path: Path) -> None:
    """Downloads a file, which appears under its name only when it is complete.

    Args:
        url: an address.
        path: where to put the file; its folder is created.

    Raises:
        OSError: the address does not answer within half a minute, refuses, or stops early.
    """
    with whole(path) as temporary:
        with (
            temporary.open("wb") as file,
            urllib.request.urlopen(url, timeout=_TIMEOUT) as answer,
        ):
            shutil.copyfileobj(answer, file)
            length, got = answer.headers.get("Content-Length"), file.tell()
        if length is not None and int(length) != got:
            raise OSError(f"expected {int(length):,} bytes, got {got:,}")


def mismatch(file: PublishedFile, path: Path, *, expected: str, got: str) -> ValueError:
    """Returns the error for a file that does not hold what its publisher published.

    Args:
        file: which file was wanted.
        path: what was read.
        expected: what it should have held, as a noun phrase.
        got: what it held, as a noun phrase.

    Returns:
        An error of one sentence, for the caller to raise.
    """
    return ValueError(
        f"{path}: expected {expected}, got {got}: delete it, or fetch {file.name} again from "
        f"{file.urls[0]} into a folder and pass that folder as manual_dir (--manual-dir)"
    )


def unzip(file: PublishedFile, path: Path, *, size: int) -> bytes:
    """Returns the unzipped content of a gzip file.

    Args:
        file: which file.
        path: its path.
        size: the number of bytes that the content must have; no more than that is unzipped.

    Returns:
        ``size`` bytes.

    Raises:
        ValueError: not a gzip file, truncated, or content of another size.
    """
    expected = f"a gzip file of {size:,} bytes unzipped"
    try:
        with gzip.open(path) as stream:
            content = stream.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        got = f"a damaged or truncated file ({reason(error)})"
        raise mismatch(file, path, expected=expected, got=got) from error
    if len(content) != size:
        got = f"more than {size:,}" if len(content) > size else f"{len(content):,}"
        raise mismatch(file, path, expected=expected, got=f"{got} bytes")
    return content


def reason(error: BaseException) -> str:
    """Returns what an error says in one line: its first one, or else its type."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _is_intact(file: PublishedFile, path: Path) -> bool:
    """Returns whether a download is there and is what was published, as far as that is known."""
    if not path.is_file():
        return False
    if not file.md5:
        return True
    with path.open("rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest() == file.md5
