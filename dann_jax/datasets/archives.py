"""Archives of pictures, read as streams: the wanted members only, none unpacked to disk."""

import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dann_jax.datasets import source_files

__all__ = ["rgb", "tar_members", "zip_members"]

# The largest picture of any data set here has a tenth of either; a crafted file must not fill
# the memory.
_MEMBER_BYTES = 4 << 20
_PIXELS = 1 << 22


def tar_members(
    file: source_files.PublishedFile, path: Path, wanted: re.Pattern[str]
) -> Iterator[tuple[re.Match[str], bytes]]:
    """Yields the wanted members of a gzipped tar archive, in one pass over it.

    Args:
        file: which published file it is.
        path: its path.
        wanted: what the whole name of a member must match. Members of other names, and those
            that are not regular files, are passed over.

    Yields:
        The match and the content of each.

    Raises:
        ValueError: a damaged archive, or a member of more than 4 MiB.
    """
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                match = wanted.fullmatch(member.name.removeprefix("./"))
                if match and member.isreg() and (stream := archive.extractfile(member)):
                    _check_size(file, path, member.name, member.size)
                    yield match, stream.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise _damaged(file, path, "gzipped tar", error) from error


def zip_members(
    file: source_files.PublishedFile, path: Path, wanted: re.Pattern[str]
) -> Iterator[tuple[re.Match[str], bytes]]:
    """Yields the wanted members of a zip archive; the same contract as ``tar_members``."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                match = wanted.fullmatch(member.filename)
                # Archives made on Windows know no file types: 0.
                kind = stat.S_IFMT(member.external_attr >> 16)
                if match and kind in (0, stat.S_IFREG):
                    _check_size(file, path, member.filename, member.file_size)
                    yield match, archive.read(member)
    # RuntimeError: encrypted, or compressed in a way that zipfile does not know; lzma.LZMAError and
    # others from inside the decoders, which share no base.
    except (
        OSError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise _damaged(file, path, "zip", error) from error


def rgb(
    file: source_files.PublishedFile,
    path: Path,
    name: str,
    content: bytes,
    *,
    format: str,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Returns a picture's pixels.

    Args:
        file: which published file it comes from.
        path: the path of that file.
        name: of the picture, for the error.
        content: the encoded picture.
        format: its format, as Pillow calls it; no other is tried.
        size: (width, height) to bring it to, by a bilinear filter that is as wide as the
            reduction is large; None to leave it as it is.

    Returns:
        uint8 ``[height, width, 3]``. JPEG pixels can differ by a grey level between versions of
        the decoder.

    Raises:
        ValueError: not of that format, damaged, or of more than 4,194,304 pixels.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=[format]) as image:
            if image.width * image.height > _PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels")
            colour = image.convert("RGB")
            if size is not None:
                colour = colour.resize(size, Image.Resampling.BILINEAR)
            return np.asarray(colour)
    except Exception as error:  # a decoder raises whatever a damaged byte leads it to
        raise source_files.mismatch(
            file,
            path,
            expected=f"{format} pictures of at most {_PIXELS:,} pixels that can be decoded",
            got=f"{name} ({source_files.reason(error)})",
        ) from error


def _check_size(file: source_files.PublishedFile, path: Path, name: str, size: int) -> None:
    if size > _MEMBER_BYTES:
        raise source_files.mismatch(
            file,
            path,
            expected=f"members of at most {_MEMBER_BYTES:,} bytes",
            got=f"{name} of {size:,}",
        )


def _damaged(
    file: source_files.PublishedFile, path: Path, kind: str, error: BaseException
) -> ValueError:
    return source_files.mismatch(
        file,
        path,
        expected=f"a complete {kind} archive",
        got=f"a damaged or truncated file ({source_files.reason(error)})",
    )
