"""Archives of pictures, read as streams: the wanted members only, none unpacked to disk."""

import functools
import gzip
import io
import re
import stat
import tarfile
import zipfile
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
        ValueError: a damaged archive, a member of more than 4 MiB, or two of one name.
    """
    yield from _checked(file, path, _tar(path, wanted), "gzipped tar")


def zip_members(
    file: source_files.PublishedFile, path: Path, wanted: re.Pattern[str]
) -> Iterator[tuple[re.Match[str], bytes]]:
    """Yields the wanted members of a zip archive; the same contract as ``tar_members``."""
    yield from _checked(file, path, _zip(path, wanted), "zip")


def _tar(path, wanted):
    """Yields match, name, size and a function that reads the content, of each wanted member."""
    # tarfile's own decoder does not look at the checksum.
    with gzip.open(path) as content, tarfile.open(fileobj=content, mode="r|") as archive:
        for member in archive:
            match = wanted.fullmatch(member.name.removeprefix("./"))
            if match and member.isreg() and (stream := archive.extractfile(member)):
                yield match, member.name, member.size, stream.read
        while content.read(1 << 20):  # past the end, where the checksum is
            pass


def _zip(path, wanted):
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            match = wanted.fullmatch(member.filename)
            # Archives made on Windows know no file types: 0.
            if match and stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG):
                read = functools.partial(archive.read, member)
                yield match, member.filename, member.file_size, read


def _checked(file, path, members, kind):
    seen = set()
    while True:
        try:
            match, name, size, read = next(members)
            content = read() if size <= _MEMBER_BYTES and match[0] not in seen else None
        except StopIteration:
            return
        # Encrypted or compressed in a way that is not known, cut off, no archive: the decoders
        # raise whatever a damaged byte leads them to.
        except Exception as error:
            raise source_files.mismatch(
                file,
                path,
                expected=f"a complete {kind} archive",
                got=f"a damaged or truncated file ({source_files.reason(error)})",
            ) from error
        if content is None:
            raise source_files.mismatch(
                file,
                path,
                expected=f"members, each once, of at most {_MEMBER_BYTES:,} bytes",
                got=f"{name} twice" if match[0] in seen else f"{name} of {size:,}",
            )
        seen.add(match[0])
        yield match, content


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
