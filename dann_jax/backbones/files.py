"""Named arrays read from weight files: PyTorch's ``.pth``, safetensors and npz, without PyTorch.

Nothing of a file is executed or imported. The pickle in a ``.pth`` file is read by a machine of its
own that knows the operations and the few names of which a state dict is made, gives them its own
meaning, and refuses all others.

Source: the formats as written by ``torch.save`` (since 1.6 a zip file, before it a chain of
pickles) and https://github.com/huggingface/safetensors#format.
"""

import io
import json
import math
import pathlib
import pickletools
import struct
import zipfile
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

__all__ = ["read_arrays"]

_TYPES = {"Float": "f4", "Half": "f2", "BFloat16": jnp.bfloat16, "Double": "f8", "Long": "i8"}
_STORAGES = {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _TYPES.items()}
_SAFETENSORS = {"F32": "f4", "F16": "f2", "BF16": jnp.bfloat16, "F64": "f8", "I64": "i8"}
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of PyTorch's format before 1.6
_VERSION = 1001  # the second
_MAGIC_PICKLE = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."
_ZIP = b"PK\x03\x04"  # two letters alone would be a length of safetensors, too
_LENGTH = struct.Struct("<Q")  # of a safetensors header, and of each storage before 1.6
_HEADER = 100_000_000  # bytes: what safetensors allows for a header
_DEPTH = 3  # of the dictionaries around the state dict of a checkpoint
_RANK = 64  # dimensions that NumPy allows
_COPIES = 4  # bytes of all arrays over those of the file, for tensors may share their numbers


def read_arrays(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a weight file by name, in the layout in which the file has them.

    The format is seen from the content. Of a ``.pth`` file with more than a state dict in it
    (epoch, optimizer) the entry ``state_dict`` or ``model`` is taken.

    Args:
      path: A ``.pth`` file (zip or older), a ``.safetensors`` or an ``.npz`` file.

    Returns:
      Arrays of float16, bfloat16, float32, float64 or int64, contiguous and native.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: It is of another format, damaged, or holds what a state dict does not need.
    """
    path = pathlib.Path(path)
    content = path.read_bytes()
    try:
        if content.startswith(_MAGIC_PICKLE):
            return _read_chain(content)
        if content.startswith(_ZIP):
            return _read_zip(content)
        if content[_LENGTH.size : _LENGTH.size + 1] == b"{":
            return _read_safetensors(content)
    except Exception as e:  # whatever a damaged file makes of the readers
        reason = str(e) if isinstance(e, ValueError | zipfile.BadZipFile) else repr(e)
        raise ValueError(f"{path} is damaged, or no file of weights: {reason}") from e
    raise ValueError(
        f"{path} begins with {content[:8]!r}: expected a .pth file of torch.save, .safetensors or "
        ".npz. Load other files with the program that wrote them, and save the state dict with "
        "torch.save(model.state_dict(), 'weights.pth')"
    )


def _array(data, dtype, little=True):
    """Returns a vector of raw numbers in native byte order."""
    dtype = np.dtype(dtype)
    order = "<" if little else ">"
    # By way of integers, for bfloat16 has no byte orders.
    return np.frombuffer(data, f"{order}u{dtype.itemsize}").astype(f"u{dtype.itemsize}").view(dtype)


# --- safetensors -------------------------------------------------------------------------


def _read_safetensors(content):
    (length,) = _LENGTH.unpack_from(content)
    start = _LENGTH.size + length
    if length > _HEADER or start > len(content):
        raise ValueError(f"a header of {length} bytes in a file of {len(content)}")
    header = json.loads(content[_LENGTH.size : start])
    arrays, taken = {}, 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _SAFETENSORS:
            raise ValueError(f"{name} is {entry['dtype']}: expected one of {list(_SAFETENSORS)}")
        dtype, shape = np.dtype(_SAFETENSORS[entry["dtype"]]), _naturals(entry["shape"])
        first, end = _naturals(entry["data_offsets"])
        size = math.prod(shape) * dtype.itemsize
        if end - first != size or start + end > len(content):
            raise ValueError(
                f"{name}, {dtype} {shape}, takes {size} bytes; the file gives it the bytes "
                f"{first} to {end} of {len(content) - start}"
            )
        taken += size
        _check_copies(taken, content)
        arrays[name] = _array(content[start + first : start + end], dtype).reshape(shape)
    return arrays


def _naturals(values):
    """Returns a tuple of numbers that are shapes, strides or positions."""
    if len(values) > _RANK or not all(type(value) is int and value >= 0 for value in values):
        raise ValueError(f"expected at most {_RANK} integers, not negative, as sizes")
    return tuple(values)


def _check_copies(taken, content):
    """Raises before memory is taken if arrays of some bytes are too many for a file."""
    if taken > _COPIES * len(content):
        raise ValueError(
            f"arrays of {taken} bytes or more in a file of {len(content)}: expected at most "
            f"{_COPIES} times as many"
        )


# --- zip: npz, and PyTorch since 1.6 -----------------------------------------------------


def _read_zip(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if names and all(name.endswith(".npy") for name in names):
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return {name: _of_npz(name, arrays[name]) for name in arrays}
        if len(pickles) != 1:
            raise ValueError(
                f"a zip file of {names[:3]} and so on: expected .npy files alone, or one "
                f"data.pkl, got {len(pickles)}"
            )
        root = pickles[0].removesuffix("data.pkl")
        order = _entry(archive, f"{root}byteorder") if f"{root}byteorder" in names else b"little"
        if order not in (b"little", b"big"):
            raise ValueError(f"unknown byte order {order!r}")

        def read(dtype, key, size):
            data = _entry(archive, f"{root}data/{key}")
            if len(data) != size * dtype.itemsize:
                raise ValueError(f"storage {key} has {len(data)} bytes for {size} of {dtype}")
            return _array(data, dtype, little=order == b"little")

        machine = _Machine(read, len(content))
        value = machine.run(io.BytesIO(_entry(archive, pickles[0])))
        return _state_dict(value, content)


def _of_npz(name, array):
    """Returns an array as the other formats have it: native and contiguous, of a known type."""
    dtype = array.dtype.newbyteorder("=")
    if dtype not in _STORAGES.values():
        raise ValueError(f"{name} is {dtype}: expected float16, float32, float64 or int64")
    return np.array(array, dtype, order="C")


def _entry(archive, name):
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, which torch.save does not do")
    return archive.read(name)


# --- PyTorch before 1.6 ------------------------------------------------------------------


def _read_chain(content):
    """Reads four pickles and a list of storage keys, then each storage: its size, its numbers."""
    stream = io.BytesIO(content)

    def room(dtype, key, size):
        return np.empty(size, dtype)  # the numbers come after the pickle that wants them

    _, version, _ = (_Machine(None).run(stream) for _ in range(3))
    if version != _VERSION:
        raise ValueError(f"another version than {_VERSION} of PyTorch's format before 1.6")
    machine = _Machine(room, len(content))
    value, vectors = machine.run(stream), machine.vectors
    for key in _Machine(None).run(stream):
        (size,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
        if type(key) is not str or key not in vectors:
            raise ValueError("the numbers of a storage that no tensor wants")
        vector = vectors[key]
        if size != len(vector):
            raise ValueError(f"storage {key} has {size} numbers, not {len(vector)}")
        vector[:] = _array(_exactly(stream, vector.nbytes), vector.dtype)
        del vectors[key]
    if vectors:
        raise ValueError(f"storages {sorted(vectors)} are missing")
    return _state_dict(value, content)


def _exactly(stream, size):
    data = stream.read(size)
    if len(data) != size:
        raise ValueError(f"the file ends {size - len(data)} bytes early")
    return data


# --- the pickle of a state dict ----------------------------------------------------------


class _Name(NamedTuple):
    """What a pickle calls an object of a module: never looked up."""

    name: str


class _Tensor(NamedTuple):
    """A tensor, as a view on a storage."""

    storage: np.ndarray  # [size]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self):
        """Returns the bytes of ``array()``."""
        return math.prod(self.shape) * self.storage.itemsize

    def array(self):
        """Returns the numbers ``[*shape]``, copied."""
        if not self.nbytes:
            return np.zeros(self.shape, self.storage.dtype)
        strides = [stride * self.storage.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(
            self.storage[self.offset :], self.shape, strides, writeable=False
        )
        return view.copy(order="C")


def _rebuild_tensor(storage, offset, shape, strides, grad=False, hooks=None, metadata=None):
    if not isinstance(storage, np.ndarray):
        raise ValueError(f"a tensor of {type(storage).__name__} in place of a storage")
    (offset,), shape, strides = map(_naturals, ([offset], shape, strides))
    size = math.prod(shape)
    reach = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if size and (size > len(storage) or offset + reach >= len(storage)):
        raise ValueError(
            f"a tensor of shape {shape}, strides {strides}, from {offset} on does not lie in a "
            f"storage of {len(storage)}"
        )
    return _Tensor(storage, offset, shape, strides)


# What a state dict calls, with as many arguments as are named here. A parameter is its tensor,
# followed by what training needs.
_CALLS = {
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_parameter": lambda tensor, grad, hooks: tensor,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch.nn.parameter.Parameter": lambda tensor, grad=True: tensor,
}
_NAMES = {*_CALLS, *_STORAGES}
_CONSTANTS = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NEWFALSE": lambda: False,
    "NEWTRUE": lambda: True,
    "NONE": lambda: None,
}
_VALUES = frozenset(  # whose argument is what is pushed
    "BINFLOAT BININT BININT1 BININT2 BINUNICODE LONG1 SHORT_BINUNICODE".split()
)
_MARK = object()


class _Machine:
    """Runs a pickle whose only calls are those of ``_CALLS``.

    A few bytes can make a tuple so deep, or of so many equal parts, that to hash or to print it
    ends the process or takes hours. So keys are numbers and strings, and errors name types.
    """

    def __init__(self, read, most=0):
        self.read = read  # (dtype, key, size) -> storage; None where there are none
        self.room = most  # bytes that storages may still take
        self.vectors = {}  # the storages
        self.stack = []
        self.memo = {}

    def run(self, stream):
        """Returns what the pickle at the stream's position makes; the stream is then behind it."""
        for operation, argument, _ in pickletools.genops(stream):
            name = operation.name
            if name == "STOP":
                return self.stack.pop()
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _VALUES:
                self.stack.append(argument)
            elif hasattr(self, f"do_{name}"):
                getattr(self, f"do_{name}")(argument)
            else:
                raise ValueError(f"{name} of a pickle is not for weights: nothing of it was run")
        raise ValueError("a pickle without an end")

    def since_mark(self):
        """Removes and returns what was pushed since the last mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def do_PROTO(self, _):
        pass

    do_FRAME = do_PROTO

    def do_MARK(self, _):
        self.stack.append(_MARK)

    def do_BINPUT(self, number):
        self.memo[number] = self.stack[-1]

    do_LONG_BINPUT = do_BINPUT

    def do_MEMOIZE(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def do_BINGET(self, number):
        self.stack.append(self.memo[number])

    do_LONG_BINGET = do_BINGET

    def do_TUPLE(self, _):
        self.stack.append(tuple(self.since_mark()))

    def do_TUPLE1(self, _, size=1):
        values = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.stack.append(values)

    def do_TUPLE2(self, _):
        self.do_TUPLE1(_, 2)

    def do_TUPLE3(self, _):
        self.do_TUPLE1(_, 3)

    def do_APPEND(self, _):
        value = self.stack.pop()
        self.stack[-1].append(value)

    def do_APPENDS(self, _):
        values = self.since_mark()
        self.stack[-1].extend(values)

    def do_SETITEM(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def do_SETITEMS(self, _):
        self.set_items(self.since_mark())

    def set_items(self, values):
        if type(self.stack[-1]) is not dict or not all(type(k) in (int, str) for k in values[::2]):
            raise ValueError("expected a dictionary whose keys are strings or integers")
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def do_GLOBAL(self, argument):
        self.push_name(argument.replace(" ", "."))

    def do_STACK_GLOBAL(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a name that is not made of strings")
        self.push_name(f"{module}.{name}")

    def push_name(self, name):
        if name not in _NAMES:
            raise ValueError(
                f"{name} is not for weights: nothing of it was imported or run. Where the file is "
                "trusted, load it in PyTorch and save its state dict by itself"
            )
        self.stack.append(_Name(name))

    def do_REDUCE(self, _):
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or function.name not in _CALLS:
            name = getattr(function, "name", type(function).__name__)
            raise ValueError(f"a call of {name} is not for weights")
        self.stack.append(_CALLS[function.name](*arguments))

    def do_BUILD(self, _):
        self.stack.pop()  # attributes of a state dict, such as the versions of its modules

    def do_BINPERSID(self, _):
        kind, name, key, _, size, *view = self.stack.pop()[:6]
        if kind != "storage" or name.name not in _STORAGES or view not in ([], [None]):
            raise ValueError("expected a storage of a known type")
        if self.read is None or type(key) is not str:
            raise ValueError("expected storages in the state dict alone, named by strings")
        if key not in self.vectors:
            dtype, (size,) = _STORAGES[name.name], _naturals([size])
            self.room -= size * dtype.itemsize
            if self.room < 0:
                raise ValueError(f"storage {key} of {size} {dtype} is longer than the file")
            self.vectors[key] = self.read(dtype, key, size)
        self.stack.append(self.vectors[key])


def _state_dict(value, content):
    """Returns the arrays of a state dict, or of the one in a checkpoint."""
    if not isinstance(value, dict):
        raise ValueError(f"expected a state dict, got {type(value).__name__}")
    for _ in range(_DEPTH):
        inner = next((value[k] for k in ("state_dict", "model") if k in value), None)
        if not isinstance(inner, dict):
            break
        value = inner
    others = [k for k, v in value.items() if not (isinstance(k, str) and isinstance(v, _Tensor))]
    if others:
        raise ValueError(f"expected tensors by name, got others: {others[:8]}")
    _check_copies(sum(tensor.nbytes for tensor in value.values()), content)
    return {name: tensor.array() for name, tensor in value.items()}
