"""Changes of the bytes of a file, drawn at random: raw ones, and ones that know a format.

Every function takes a ``random.Random`` and the content, and returns a changed content, or None for
a file that is gone.
"""

import gzip
import io
import pickletools
import random
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable

__all__ = [
    "CANARY",
    "GADGETS",
    "Change",
    "in_gzip",
    "in_tar",
    "in_zip",
    "json_text",
    "lost",
    "mixed",
    "pickled",
    "raw",
    "safetensors_header",
]

Change = Callable[[random.Random, bytes], bytes | None]

CANARY = "executed"  # the file that a pickle would write into the working folder if it were run

_HEADER = 128  # bytes in which most formats keep their sizes
_EXTREMES = (0, 1, 2, *(2**n - one for n in (7, 8, 15, 16, 31, 32, 63, 64) for one in (0, 1)))
_NUMBERS = b"0 1 -1 9 127 65536 99999999 2147483647 4294967296 18446744073709551616".split()


# --- raw bytes -----------------------------------------------------------------------------


def raw(chance: random.Random, content: bytes) -> bytes:
    """Changes bits, bytes, numbers or blocks, or cuts the file off: mostly once, up to four times.

    >>> raw(random.Random(0), bytes(8)) == raw(random.Random(0), bytes(8))
    True
    """
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        content = chance.choice(_RAW)(chance, content)
    return content


def _flip(chance, content):
    return _over(content, *_bit(chance, content)) if content else content


def _bit(chance, content):
    at = chance.randrange(len(content))
    return at, bytes([content[at] ^ 1 << chance.randrange(8)])


def _set_byte(chance, content):
    value = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return _over(content, chance.randrange(len(content) + 1), bytes([value]))


def _set_field(chance, content):
    """Sets a number in the header, or anywhere, to an extreme."""
    size = chance.choice((1, 2, 4, 8))
    value = chance.choice(_EXTREMES) % 256**size
    end = chance.choice((min(_HEADER, len(content)), len(content)))
    order = chance.choice(("little", "big"))
    return _over(content, chance.randrange(end + 1), value.to_bytes(size, order))


def _set_digits(chance, content):
    """Sets a number that is written in digits."""
    numbers = list(re.finditer(rb"[0-9]+", content[: 1 << 14]))
    if not numbers:
        return _flip(chance, content)
    start, end = chance.choice(numbers).span()
    return content[:start] + chance.choice(_NUMBERS) + content[end:]


def _truncate(chance, content):
    return content[: chance.randrange(len(content) + 1)]


def _insert(chance, content):
    at, size = chance.randrange(len(content) + 1), chance.choice((1, 4, 64, 1000))
    return content[:at] + chance.choice((bytes(size), chance.randbytes(size))) + content[at:]


def _block(chance, content):
    """Returns the two ends of a short piece."""
    start = chance.randrange(len(content) + 1)
    return start, min(len(content), start + chance.choice((1, 4, 16, 256)))


def _delete(chance, content):
    start, end = _block(chance, content)
    return content[:start] + content[end:]


def _repeat(chance, content):
    start, end = _block(chance, content)
    return content[:end] + content[start:end] * chance.choice((1, 3)) + content[end:]


def _swap(chance, content):
    (a, b), (c, d) = sorted((_block(chance, content), _block(chance, content)))
    if b > c:
        return _delete(chance, content)
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _zero(chance, content):
    start, end = _block(chance, content)
    return _over(content, start, bytes(end - start))


def _over(content, at, data):
    """Writes over the content, which keeps its length."""
    return (content[:at] + data + content[at + len(data) :])[: len(content)]


_RAW = (
    *(_flip, _flip, _set_byte, _set_field, _set_field, _set_digits, _truncate),
    *(_insert, _delete, _repeat, _swap, _zero),
)


def mixed(chance: random.Random, content: bytes, *, changes: tuple[Change, ...]) -> bytes | None:
    """Makes one of several changes."""
    return chance.choice(changes)(chance, content)


def lost(chance: random.Random, content: bytes, *, change: Change = raw) -> bytes | None:
    """Changes a file, or in one of ten cases removes it."""
    return change(chance, content) if chance.random() < 0.9 else None


# --- JSON ----------------------------------------------------------------------------------

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')
_VALUES = (
    "null true false 0 1 -1 0.5 -1e308 1e400 NaN -Infinity 1180591620717411303424 "
    '"" "x" "1" "NaN" "\\ud800" "\\u0000" [] {} [[]] [null] [1,2] {"a":null} {"":[]}'
)
_ENDLESS = ("1" * 5000, "[" * 100_000, "[" * 3000 + "]" * 3000, '{"a":' * 100_000)


def json_text(chance: random.Random, content: bytes) -> bytes:
    """Changes values or entries of a JSON text: their kinds, numbers, names and places.

    >>> json_text(random.Random(1), b'{"a": [1, 2]}')
    b'{"a": [2147483647, 2]}'
    """
    for _ in range(chance.choice((1, 1, 1, 3))):
        text = content.decode("utf-8", "surrogateescape")
        values, entries = _spans(text)
        if not values:
            return raw(chance, content)
        content = _restructured(chance, text, values, entries).encode("utf-8", "surrogateescape")
    return content


def _spans(text):
    """Returns the ends of all values by depth, and of all entries of lists and objects."""
    tokens = list(_TOKEN.finditer(text))
    ends, opened, by_depth = {}, [], {}
    for token in tokens:
        start, end = token.span()
        if token[0] in "[{":
            opened.append(start)
            continue
        if token[0] in ",:" or (token[0] in "]}" and not opened):
            continue
        if token[0] in "]}":
            start = opened.pop()
        ends[start] = end
        by_depth.setdefault(len(opened), []).append((start, end))
    entries = []
    for before, token in zip(tokens, tokens[1:], strict=False):
        end = ends.get(token.start())
        if end is not None and before[0] in "[{,":
            match = re.compile(r"\s*:\s*").match(text, end)  # of an object
            entries.append((token.start(), ends.get(match.end(), end) if match else end))
    return list(by_depth.values()), entries


def _restructured(chance, text, values, entries):
    start, end = chance.choice(chance.choice(values))  # as often near the root as in a long list
    kind = chance.choice(("value", "value", "digits", "copy", "delete", "repeat", "wrap"))
    if kind == "value":
        endless = chance.random() < 0.05
        return text[:start] + chance.choice(_ENDLESS if endless else _VALUES.split()) + text[end:]
    if kind == "digits":
        changed = _set_digits(chance, text[start:end].encode("utf-8", "surrogateescape"))
        return text[:start] + changed.decode("utf-8", "surrogateescape") + text[end:]
    if kind == "copy":
        a, b = chance.choice(chance.choice(values))
        return text[:start] + text[a:b] + text[end:]
    if kind == "wrap" or not entries:
        return f"{text[:start]}[{text[start:end]}]{text[end:]}"
    start, end = chance.choice(entries)
    if kind == "repeat":
        return f"{text[:end]}, {text[start:]}"
    after = re.compile(r"\s*,\s*").match(text, end)
    head = text[:start] if after else re.sub(r",\s*$", "", text[:start])
    return head + text[after.end() if after else end :]


# --- pickles -------------------------------------------------------------------------------

_ARGUMENTS = b"X\x08\0\0\0%sX\x01\0\0\0w" % CANARY.encode()
GADGETS = (  # each opens the canary for writing if a pickle is run as such
    b"cbuiltins\nopen\n(" + _ARGUMENTS + b"tR",
    b"cio\nopen\n" + _ARGUMENTS + b"\x86R",
    b"(" + _ARGUMENTS + b"ibuiltins\nopen\n",
    b"(cbuiltins\nopen\n" + _ARGUMENTS + b"o",
    b"\x8c\x08builtins\x8c\x04open\x93" + _ARGUMENTS + b"\x86R",
    b"cbuiltins\neval\nX\x15\0\0\0open('executed', 'w')\x85R",
)
"""What makes a pickle run something, by each of the operations that can."""


def pickled(chance: random.Random, content: bytes, *, start: int = 0) -> bytes:
    """Changes operations of a pickle, or puts in others that would run something.

    Args:
      chance: Draws the change.
      content: A file that is a chain of pickles, followed by anything.
      start: Where the first of them begins.
    """
    stops = [at for _, _, at in pickletools.genops(content[start:])]
    places = [start + at for at in stops] + [start + stops[-1] + 1]
    i = chance.randrange(len(places) - 1)
    at, after = places[i], places[i + 1]
    kind = chance.choice(("gadget", "delete", "repeat", "swap", "argument", "code", "raw"))
    if kind == "gadget":
        return content[:at] + chance.choice(GADGETS) + content[at:]
    if kind == "delete":
        return content[:at] + content[after:]
    if kind == "repeat":
        return content[:after] + content[at:after] * chance.choice((1, 100)) + content[after:]
    if kind == "swap":
        j = chance.randrange(len(places) - 1)
        return content[:at] + content[places[j] : places[j + 1]] + content[after:]
    if kind == "argument":
        return content[: at + 1] + raw(chance, content[at + 1 : after]) + content[after:]
    if kind == "code":
        return _over(content, at, bytes([chance.randrange(256)]))
    return raw(chance, content)


# --- containers ----------------------------------------------------------------------------


def in_zip(chance: random.Random, content: bytes, *, change: Change, names: str = "") -> bytes:
    """Changes one member of a zip file, whose checksums are made anew."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(stream, "w") as after:
        members = before.infolist()
        chosen = chance.choice([m for m in members if re.search(names, m.filename)])
        for member in members:
            data = before.read(member)
            after.writestr(member, change(chance, data) if member is chosen else data)
    return stream.getvalue()


def in_gzip(chance: random.Random, content: bytes, *, change: Change) -> bytes:
    """Changes what a gzip file holds, whose checksum is made anew."""
    return gzip.compress(change(chance, gzip.decompress(content)), mtime=0)


def in_tar(chance: random.Random, content: bytes, *, change: Change) -> bytes:
    """Changes one member of a gzipped tar archive, whose checksums are made anew."""
    stream = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as before,
        tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as after,
    ):
        members = [member for member in before if member.isreg()]
        chosen = chance.choice(members)
        for member in members:
            data = before.extractfile(member).read()
            data = change(chance, data) if member is chosen else data
            member.size = len(data)
            after.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def safetensors_header(chance: random.Random, content: bytes) -> bytes:
    """Changes the JSON at the beginning of a safetensors file, whose length fits again."""
    (size,) = struct.unpack_from("<Q", content)
    header = json_text(chance, content[8 : 8 + size])
    return struct.pack("<Q", len(header)) + header + content[8 + size :]
