"""Named arrays read from weight files: PyTorch's ``.pth``, safetensors and npz, without PyTorch.

Nothing in a file is executed or imported. The pickle in a ``.pth`` file goes through a restricted
``Unpickler``: it knows the operations and the few names of which a state dict is made, gives the
names meanings of its own, and refuses all others.

Source: the formats as written by ``torch.save`` (since 1.6 a zip file, before it a chain of
pickles) and https://github.com/huggingface/safetensors#format.
"""

import io
import math
import pathlib
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

__all__ = ["read_arrays"]

_TYPES = {"Float": "f4", "Half": "f2", "BFloat16": jnp.bfloat16, "Double": "f8", "Long": "i8"}
_STORAGES = {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _TYPES.items()}
_SAFETENSORS = {"F32": "f4", "F16": "f2", "BF16": jnp.bfloat16, "F64": "f8", "I64": "i8"}
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of PyTorch's format before 1.6
_VERSION = 1001  # the second
_MAGIC_PICKLE = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."
_ZIP = b"PK\x03\x04"  # two letters alone could be the length of a safetensors header
_ZIP_END, _ZIP_COUNT = b"PK\5\6", 10  # where the number of entries is, after these letters
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_LENGTH = struct.Struct("<Q")  # of a safetensors header, and of each storage before 1.6
_DEPTH = 3  # of the dictionaries around the state dict of a checkpoint
_RANK = 64  # dimensions that NumPy allows
_COPIES = 4  # bytes of all arrays over those of the file, because tensors may share a storage


def read_arrays(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a weight file by name, in the layout of the file.

    The content decides the format, not the name. A ``.pth`` file that holds more than a state dict
    (epoch, optimizer) is searched for the entry ``state_dict`` or ``model``.

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
    except Exception as e:  # a reader raises whatever a damaged byte leads it to
        own = ValueError, zipfile.BadZipFile, pickle.UnpicklingError, safetensors.SafetensorError
        reason = str(e) if isinstance(e, own) else repr(e)
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
    # By way of integers, because bfloat16 has no byte orders.
    return np.frombuffer(data, f"{order}u{dtype.itemsize}").astype(f"u{dtype.itemsize}").view(dtype)


def _read_safetensors(content):
    arrays = {}
    for name, entry in safetensors.deserialize(content):
        if entry["dtype"] not in _SAFETENSORS:
            raise ValueError(f"{name} is {entry['dtype']}: expected one of {list(_SAFETENSORS)}")
        arrays[name] = _array(entry["data"], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def _check_size(size, content):
    """Raises before memory is allocated if arrays of some bytes are too large for a file."""
    if size > _COPIES * len(content):
        raise ValueError(
            f"arrays of {size} bytes in a file of {len(content)}: expected at most {_COPIES} times "
            "as many"
        )


# --- zip: npz, and PyTorch since 1.6 -----------------------------------------------------


def _read_zip(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        _check_count(content, names)
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if names and all(name.endswith(".npy") for name in names):
            _check_size(sum(entry.file_size for entry in archive.infolist()), content)
            return {n.removesuffix(".npy"): _of_npy(n, archive.read(n)) for n in names}
        if len(pickles) != 1:
            raise ValueError(
                f"a zip file of {names[:3]} and so on: expected .npy files alone, or one "
                f"data.pkl, got {len(pickles)}"
            )
        root = pickles[0].removesuffix("data.pkl")
        order = _entry(archive, f"{root}byteorder") if f"{root}byteorder" in names else b"little"
        if order not in (b"little", b"big"):
            raise ValueError(f"unknown byte order {order!r}")

        def read_storage(dtype, key, size):
            data = _entry(archive, f"{root}data/{key}")
            if len(data) != size * dtype.itemsize:
                raise ValueError(f"storage {key} has {len(data)} bytes for {size} of {dtype}")
            return _array(data, dtype, little=order == b"little")

        stream = io.BytesIO(_entry(archive, pickles[0]))
        return _state_dict(_Unpickler(stream, read_storage, len(content)).load(), content)


def _check_count(content, names):
    """Raises unless a zip file's directory names as many entries as it says at its end.

    One wrong byte there can make an entry part of another, which zipfile does not notice.
    """
    (count,) = struct.unpack_from("<H", content, content.rfind(_ZIP_END) + _ZIP_COUNT)
    if count != len(set(names)):
        raise ValueError(f"its directory names {len(set(names))} entries and counts {count}")


def _of_npy(name, content):
    """Returns the array of a ``.npy`` file, native and contiguous, of a known type.

    ``np.load`` allocates what the header says before it looks for the numbers.
    """
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in _NPY_HEADERS:
        raise ValueError(f"{name} has version {version}: expected {list(_NPY_HEADERS)}")
    shape, is_fortran, stored = _NPY_HEADERS[version](stream)
    dtype = stored.newbyteorder("=")
    if dtype not in _STORAGES.values():
        raise ValueError(f"{name} is {dtype}: expected float16, float32, float64 or int64")
    numbers = _array(stream.read(), dtype, little=stored.str[0] != ">")
    if math.prod(_naturals(shape)) != len(numbers):
        raise ValueError(f"{name} has {len(numbers)} numbers for the shape {shape}")
    return np.array(numbers.reshape(shape, order="F" if is_fortran else "C"), order="C")


def _entry(archive, name):
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, which torch.save does not do")
    return archive.read(name)


# --- PyTorch before 1.6 ------------------------------------------------------------------


def _read_chain(content):
    """Reads four pickles and a list of storage keys, then each storage: its size, its numbers."""
    stream = io.BytesIO(content)

    def empty_storage(dtype, key, size):
        return np.empty(size, dtype)  # its numbers come after the pickle that refers to it

    _, version, _ = (_Unpickler(stream).load() for _ in range(3))
    if version != _VERSION:
        raise ValueError(f"another version than {_VERSION} of PyTorch's format before 1.6")
    unpickler = _Unpickler(stream, empty_storage, len(content))
    value, storages = unpickler.load(), unpickler.storages
    for key in _Unpickler(stream).load():
        (size,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
        if type(key) is not str or key not in storages:
            raise ValueError("the numbers of a storage to which no tensor refers")
        storage = storages.pop(key)
        if size != len(storage):
            raise ValueError(f"storage {key} has {size} numbers, not {len(storage)}")
        storage[:] = _array(_exactly(stream, storage.nbytes), storage.dtype)
    if storages:
        raise ValueError(f"storages {sorted(storages)} are missing")
    return _state_dict(value, content)


def _exactly(stream, size):
    data = stream.read(size)
    if len(data) != size:
        raise ValueError(f"the file ends {size - len(data)} bytes early")
    return data


# --- the pickle of a state dict ----------------------------------------------------------


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


def _naturals(values):
    """Returns a tuple of numbers that are shapes, strides or positions."""
    if len(values) > _RANK or not all(type(value) is int and value >= 0 for value in values):
        raise ValueError(f"expected at most {_RANK} integers, not negative, as sizes")
    return tuple(values)


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


# What the names of a state dict mean here. A parameter is its tensor, followed by what training
# needs.
_NAMES: dict[str, Any] = {
    **_STORAGES,
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_parameter": lambda tensor, grad, hooks: tensor,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch.nn.parameter.Parameter": lambda tensor, grad=True: tensor,
}
_OPERATIONS = (
    pickle.APPEND,
    pickle.APPENDS,
    pickle.BINFLOAT,
    pickle.BINGET,
    pickle.BININT,
    pickle.BININT1,
    pickle.BININT2,
    pickle.BINPERSID,
    pickle.BINPUT,
    pickle.BINUNICODE,
    pickle.BUILD,
    pickle.EMPTY_DICT,
    pickle.EMPTY_LIST,
    pickle.EMPTY_TUPLE,
    pickle.FRAME,
    pickle.GLOBAL,
    pickle.LONG1,
    pickle.LONG_BINGET,
    pickle.LONG_BINPUT,
    pickle.MARK,
    pickle.MEMOIZE,
    pickle.NEWFALSE,
    pickle.NEWTRUE,
    pickle.NONE,
    pickle.PROTO,
    pickle.REDUCE,
    pickle.SETITEM,
    pickle.SETITEMS,
    pickle.SHORT_BINUNICODE,
    pickle.STACK_GLOBAL,
    pickle.STOP,
    pickle.TUPLE,
    pickle.TUPLE1,
    pickle.TUPLE2,
    pickle.TUPLE3,
)


class _Dispatch(dict):
    """The operations of a pickle by their codes; others are refused by name."""

    def __missing__(self, code):
        operation = pickletools.code2op.get(chr(code))
        name = f"operation {code}" if operation is None else operation.name
        raise ValueError(f"{name} of a pickle does not belong to a state dict: nothing was run")


class _Unpickler(pickle._Unpickler):
    """Reads a pickle in which only ``_OPERATIONS`` and ``_NAMES`` may occur.

    This is the standard library's Unpickler in its Python form. The C form hashes the keys of a
    dictionary before anyone can look at them: a few bytes make a tuple so deep, or of so many equal
    parts, that its hash ends the process or takes hours. It also allocates gigabytes for a large
    number in a memo.

    Args:
      stream: Where the pickle begins. Afterwards the stream stands behind it.
      read_storage: (dtype, key, size) -> storage; None if there may be none.
      room: Bytes that all storages may take together.
    """

    def __init__(self, stream: io.BytesIO, read_storage: Callable | None = None, room: int = 0):
        super().__init__(stream)
        self.read_storage = read_storage
        self.room = room
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module, name):
        """Returns what a name means here: nothing is looked up or imported."""
        if f"{module}.{name}" not in _NAMES:
            raise ValueError(
                f"{module}.{name} does not belong to a state dict: nothing of it was imported or "
                "run. If you trust the file, load it in PyTorch and save its state dict by itself"
            )
        return _NAMES[f"{module}.{name}"]

    def persistent_load(self, pid):
        """Returns the storage that a tuple refers to."""
        kind, dtype, key, _, size, *view = pid[:6]
        if kind != "storage" or not isinstance(dtype, np.dtype) or view not in ([], [None]):
            raise ValueError("expected a storage of a known type")
        if self.read_storage is None or type(key) is not str:
            raise ValueError("expected storages in the state dict alone, named by strings")
        if key not in self.storages:
            (size,) = _naturals([size])
            self.room -= size * dtype.itemsize
            if self.room < 0:
                raise ValueError(f"storage {key} of {size} {dtype} is longer than the file")
            self.storages[key] = self.read_storage(dtype, key, size)
        return self.storages[key]

    def load_setitem(self):
        """Puts a value into a dictionary."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self):
        """Puts values into a dictionary."""
        self._set_items(self.pop_mark())

    def _set_items(self, items):
        target, keys = self.stack[-1], items[::2]
        if type(target) is not dict or not all(type(key) in (int, str) for key in keys):
            raise ValueError("expected a dictionary whose keys are strings or integers")
        target.update(zip(keys, items[1::2], strict=True))

    def load_build(self):
        """Leaves out attributes of a state dict, such as the versions of its modules."""
        self.stack.pop()

    dispatch = _Dispatch({code: pickle._Unpickler.dispatch[code] for (code,) in _OPERATIONS})
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.BUILD[0]] = load_build


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
    _check_size(sum(tensor.nbytes for tensor in value.values()), content)
    return {name: tensor.array() for name, tensor in value.items()}
