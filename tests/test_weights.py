"""Weight files are read as PyTorch reads them, and nothing in them is run."""

import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from dann_jax.backbones import read_arrays, weight_files

STORAGES = {"Float": "f4", "Half": "f2", "BFloat16": jnp.bfloat16, "Double": "f8", "Long": "i8"}
MAGIC = 0x1950A86A20F9469CFC6C
W = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
B = np.array([0.5, -1.5], np.float32)


# --- a writer of the pickles of torch.save, so that no PyTorch is needed -------------------


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def whole(value):
    return b"J" + struct.pack("<i", value)


def together(*items):
    return b"(" + b"".join(items) + b"t"


def storage(key, size, kind="Float"):
    return text("storage"), name("torch", f"{kind}Storage"), text(key), text("cpu"), whole(size)


def tensor(storage, shape, strides, offset=0):
    sizes = (together(*map(whole, numbers)) for numbers in (shape, strides))
    no_hooks = name("collections", "OrderedDict") + b")R"
    arguments = together(together(*storage) + b"Q", whole(offset), *sizes, b"\x89", no_hooks)
    return name("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def contiguous(key, array, kind="Float"):
    strides = [stride // array.itemsize for stride in array.strides]
    return tensor(storage(key, array.size, kind), array.shape, strides)


def state_dict(**tensors):
    items = b"".join(text(key.replace("__", ".")) + value for key, value in tensors.items())
    return name("collections", "OrderedDict") + b")R(" + items + b"u"


def as_zip(path, value, arrays, order="little", compression=zipfile.ZIP_STORED):
    sign = {"little": "<", "big": ">"}[order]
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + value + b".")
        archive.writestr("archive/byteorder", order)
        archive.writestr("archive/version", "3\n")
        for key, array in arrays.items():
            # The numbers as integers of the same size, which have a byte order in every type.
            numbers = array.ravel().view(f"u{array.itemsize}").astype(f"{sign}u{array.itemsize}")
            archive.writestr(f"archive/data/{key}", numbers.tobytes())
    return path


def as_chain(path, value, arrays):
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    head = [pickle.dumps(item, 2) for item in (MAGIC, 1001, info)]
    value = b"\x80\x02" + storage_without_views(value) + b"."
    keys = pickle.dumps(sorted(arrays), 2)
    data = [struct.pack("<q", arrays[k].size) + arrays[k].tobytes() for k in sorted(arrays)]
    path.write_bytes(b"".join([*head, value, keys, *data]))
    return path


def storage_without_views(value):
    """The older format has a sixth item, None, in the name of a storage."""
    return value.replace(b"tQ", b"NtQ")


def as_safetensors(path, arrays, header=None):
    entries, data = {"__metadata__": {"format": "pt"}}, b""
    for key, array in arrays.items():
        start, data = len(data), data + array.tobytes()
        entries[key] = {"dtype": "F32", "shape": array.shape, "data_offsets": [start, len(data)]}
    head = json.dumps(entries if header is None else header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return path


def as_npz(path, arrays):
    np.savez(path, **arrays)
    return path


FORMATS = {
    "zip": lambda path: as_zip(path, TWO, {"0": W, "1": B}),
    "chain": lambda path: as_chain(path, TWO, {"0": W, "1": B}),
    "safetensors": lambda path: as_safetensors(path, {"conv.weight": W, "conv.bias": B}),
    "npz": lambda path: as_npz(path, {"conv.weight": W, "conv.bias": B}),
}
TWO = state_dict(conv__weight=contiguous("0", W), conv__bias=contiguous("1", B))


# --- what is read ------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_arrays(form, tmp_path):
    weights = read_arrays(FORMATS[form](tmp_path / "weights.npz"))
    assert set(weights) == {"conv.weight", "conv.bias"}
    np.testing.assert_array_equal(weights["conv.weight"], W)
    np.testing.assert_array_equal(weights["conv.bias"], B)
    assert all(array.flags.c_contiguous and array.dtype == np.float32 for array in weights.values())


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("kind", STORAGES)
def test_types_and_byte_orders_of_pth(kind, order, tmp_path):
    array = np.array([1.0, -2.5, 300.0, 0.0]).astype(STORAGES[kind])
    value = state_dict(w=contiguous("0", array, kind))
    weights = read_arrays(as_zip(tmp_path / "w.pth", value, {"0": array}, order))["w"]
    assert weights.dtype == array.dtype
    assert weights.dtype.isnative
    np.testing.assert_array_equal(weights, array)


def test_arrays_of_npz_are_native_contiguous_and_of_their_shape(tmp_path):
    arrays = {"big": W.astype(">f4"), "scalar": np.array(7), "turned": np.asfortranarray(W)}
    weights = read_arrays(as_npz(tmp_path / "w.npz", arrays))
    for key, array in arrays.items():
        np.testing.assert_array_equal(weights[key], array, strict=key != "big")
        assert weights[key].dtype.isnative
        assert weights[key].flags.c_contiguous
    assert weights["big"].dtype == np.float32


@pytest.mark.parametrize("dtype", ["U1", "u1", "c8", "?"])
def test_other_types_of_npz_are_refused(dtype, tmp_path):
    with pytest.raises(
        ValueError, match=r"w.npy is \S+: expected float16, float32, float64 or int64"
    ):
        read_arrays(as_npz(tmp_path / "w.npz", {"w": np.zeros(2, dtype)}))


def test_a_header_of_safetensors_may_be_as_long_as_pk_says(tmp_path):
    length = int.from_bytes(b"PK", "little")  # how zip files begin
    content = as_safetensors(tmp_path / "w", {"w": B}).read_bytes()
    (size,) = struct.unpack_from("<Q", content)
    head, data = content[8 : 8 + size], content[8 + size :]
    (tmp_path / "w").write_bytes(struct.pack("<Q", length) + head.ljust(length) + data)
    np.testing.assert_array_equal(read_arrays(tmp_path / "w")["w"], B)


def test_strides_offsets_and_shared_storages(tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    one = storage("0", 12)
    value = state_dict(
        transposed=tensor(one, (4, 3), (1, 4)),
        row=tensor(one, (4,), (1,), offset=8),
        scalar=tensor(one, (), (), offset=5),
        none=tensor(one, (0, 3), (3, 1), offset=12),
    )
    weights = read_arrays(as_zip(tmp_path / "w.pth", value, {"0": numbers}))
    np.testing.assert_array_equal(weights["transposed"], numbers.reshape(3, 4).T)
    np.testing.assert_array_equal(weights["row"], [8, 9, 10, 11])
    assert weights["scalar"] == 5
    assert weights["none"].shape == (0, 3)


def test_parameters_of_the_first_versions_are_tensors(tmp_path):
    parameter = name("torch.nn.parameter", "Parameter") + b"(" + contiguous("0", B) + b"tR"
    value = state_dict(bias=parameter + together(b"\x88", b"\x89", b"N") + b"b")
    np.testing.assert_array_equal(
        read_arrays(as_chain(tmp_path / "w.pth", value, {"0": B}))["bias"], B
    )


def test_the_state_dict_of_a_checkpoint_is_found(tmp_path):
    value = b"}(" + text("epoch") + whole(3) + text("state_dict") + TWO + b"u"
    weights = read_arrays(as_zip(tmp_path / "w.pth", value, {"0": W, "1": B}))
    np.testing.assert_array_equal(weights["conv.weight"], W)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_pytorch_are_read_as_pytorch_reads_them(zipped, tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).half()
    state = module.state_dict(keep_vars=True)
    state["view"] = torch.arange(20.0, dtype=torch.float64).reshape(4, 5).T[1:, ::2]
    state["b"] = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    weights = read_arrays(tmp_path / "w.pth")
    assert list(weights) == list(state)
    for key, array in weights.items():
        theirs = state[key].detach()
        assert str(theirs.dtype) == f"torch.{array.dtype}"
        np.testing.assert_array_equal(array.astype(np.float64), theirs.double().numpy())


# --- what is refused -----------------------------------------------------------------------


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", ["zip", "chain"])
def test_nothing_in_a_pickle_is_run(form, protocol, tmp_path):
    evidence = tmp_path / "evidence"
    evil = pickle.dumps({"w": Malice(evidence)}, protocol)
    pickle.loads(evil)  # it would
    evidence.rmdir()
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            archive.writestr("archive/data.pkl", evil)
    else:
        head = [pickle.dumps(item, 2) for item in (MAGIC, 1001, {})]
        (tmp_path / "w.pth").write_bytes(b"".join(head) + evil)
    with pytest.raises(ValueError, match=r"(posix|nt)\.mkdir does not belong to a state dict"):
        read_arrays(tmp_path / "w.pth")
    assert not evidence.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (name("builtins", "eval") + together(text("1")) + b"R", "builtins.eval does not belong"),
        (name("torch", "FloatStorage") + b")R", "Float32DType' object is not callable"),
        (text("a") + b")R", "'str' object is not callable"),
        (name("collections", "OrderedDict") + b"]\x85R", "damaged"),
        (name("collections", "OrderedDict") + b")\x81", "NEWOBJ"),
        (b"(ios\nsystem\n", "INST"),
        (b"\x82\x01", "EXT1"),
        (b"]", "a state dict, got list"),
        (b"}" + text("w") + whole(1) + b"s", r"others: \['w'\]"),
        (b"}" + text("w") + name("torch", "FloatStorage") + b"s", r"others: \['w'\]"),
        (state_dict(w=tensor(storage("9", 2), (2,), (1,))), "data/9"),
        (state_dict(w=tensor(storage("0", 9), (2,), (1,))), "storage 0 has 96 bytes for 9"),
        (state_dict(w=tensor(storage("0", 24), (25,), (1,))), "does not lie in"),
        (state_dict(w=tensor(storage("0", 24), (2,), (1,), offset=23)), "does not lie in"),
        (state_dict(w=tensor(storage("0", 24), (2, 2), (23, 1))), "does not lie in"),
        (state_dict(w=tensor(storage("0", 24), (10**6, 10**6), (0, 0))), "does not lie in"),
        (state_dict(w=tensor(storage("0", 24), (2,), (-1,), offset=3)), "not negative"),
        (state_dict(w=tensor(storage("0", 24), (2,), (1,), offset=-3)), "not negative"),
        (state_dict(w=tensor(storage("0", 24), (2,), (1, 1))), "damaged"),
        (
            state_dict(w=tensor(storage("0", 24, "Quint8"), (2,), (1,))),
            "torch.Quint8Storage does not belong",
        ),
    ],
)
def test_what_a_state_dict_does_not_need_is_refused(value, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_arrays(as_zip(tmp_path / "w.pth", value, {"0": W}))


DEEP = b")" + b"\x85" * 200_000  # a tuple in a tuple in a tuple; its hash ends the process
WIDE = b")" + b"q\0h\0\x86" * 26  # twice the same in a tuple, 2^26 times (); slow to go through


@pytest.mark.parametrize("endless", [DEEP, WIDE], ids=["deep", "wide"])
@pytest.mark.parametrize("items", [b"}%bK\1s", b"}(%bK\1u"])
def test_keys_of_a_dictionary_are_never_tuples(endless, items, tmp_path):
    with pytest.raises(ValueError, match="keys are strings"):
        read_arrays(as_zip(tmp_path / "w.pth", items % endless, {}))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"}" + text("w") + b"%bs", r"others: \['w'\]"),
        (together(*storage("0", 24)) + b"Q%bK\1s", "a dictionary"),
        (b"%b)R", "'tuple' object is not callable"),
        (name("collections", "OrderedDict") + b"](%bK\1ta\x85R", "damaged"),
        (text("torch") + b"%b\x93", "STACK_GLOBAL requires str"),
        (b"(" + b"".join(storage("0", 24)[:2]) + b"%bNK\1tQ", "named by strings"),
        (tensor(storage("0", 24), (), ()).replace(whole(0), b"%b"), "not negative"),
        (tensor(storage("0", 24), (), (), 5).replace(b"(t", b"%b", 1), "not negative"),
        (tensor(storage("0", 24), (1,) * 65, (1,) * 65), "at most 64 .* not negative"),
    ],
)
def test_values_without_end_are_refused_at_once(value, message, tmp_path):
    value = value.replace(b"%b", WIDE)
    started = time.process_time()
    with pytest.raises(ValueError, match=message):
        read_arrays(as_zip(tmp_path / "w.pth", value, {"0": W}))
    assert time.process_time() - started < 5


@pytest.mark.parametrize("at", [1, 4])  # the version, the keys of the storages
def test_values_without_end_are_refused_between_the_pickles_of_a_chain(at, tmp_path):
    pickles = [pickle.dumps(item, 2) for item in (MAGIC, 1001, {})]
    pickles += [b"\x80\x02}.", pickle.dumps(["0"], 2)]
    pickles[at] = b"\x80\x02" + WIDE + b"\x85."
    (tmp_path / "w.pth").write_bytes(b"".join([*pickles, bytes(8)]))
    with pytest.raises(ValueError, match="another version than 1001|to which no tensor refers"):
        read_arrays(tmp_path / "w.pth")


@pytest.mark.parametrize("form", ["zip", "chain", "safetensors"])
def test_tensors_that_share_numbers_are_refused_where_they_would_fill_the_memory(form, tmp_path):
    numbers, path = np.zeros(10_000, np.float32), tmp_path / "w"
    names = [f"w{i}" for i in range(20)]
    value = state_dict(**dict.fromkeys(names, contiguous("0", numbers)))
    entry = {"dtype": "F32", "shape": [10_000], "data_offsets": [0, 40_000]}
    if form == "safetensors":
        as_safetensors(path, {"w": numbers}, header=dict.fromkeys(names, entry))
    else:
        {"zip": as_zip, "chain": as_chain}[form](path, value, {"0": numbers})
    message = {"safetensors": "invalid offset for tensor"}.get(form, "arrays of .* at most 4 times")
    with pytest.raises(ValueError, match=message):
        read_arrays(path)


@pytest.mark.parametrize("form", ["zip", "chain"])
def test_storages_are_no_longer_than_the_file(form, tmp_path):
    tensors = {f"w{i}": tensor(storage(str(i), 10**9), (1,), (1,)) for i in range(2)}
    write = {"zip": as_zip, "chain": as_chain}[form]
    with pytest.raises(ValueError, match="storage 0 of 1000000000 float32 is longer than the file"):
        read_arrays(write(tmp_path / "w", state_dict(**tensors), {"0": B, "1": B}))


def peak(path, message):
    """Returns the bytes that are allocated at most while a file is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            read_arrays(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


NO_TENSOR = text("w") + whole(1) + b"s"
BOMBS = {
    "storage": (state_dict(w=tensor(storage("0", 2**31 - 1), (1,), (1,))), "longer than the file"),
    "memo": (b"}r\xff\xff\xff\x7f" + NO_TENSOR, "others|to which no tensor refers"),
    "text": (b"}X\xff\xff\xff\x7fw", "damaged"),
    "frame": (b"\x95" + struct.pack("<Q", 2**40) + b"}" + NO_TENSOR, "damaged"),
    "bytes": (b"}\x96" + struct.pack("<Q", 2**40), "BYTEARRAY8"),
    "integer": (b"}\x8b\xff\xff\xff\x7f", "LONG4"),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("form", ["zip", "chain"])
def test_bombs_in_a_pickle_take_no_memory(form, bomb, tmp_path):
    value, message = BOMBS[bomb]
    write = {"zip": as_zip, "chain": as_chain}[form]
    assert peak(write(tmp_path / "w.pth", value, {"0": B}), message) < 2**22


def test_bombs_in_npz_take_no_memory(tmp_path):
    np.savez_compressed(tmp_path / "w.npz", w=np.zeros(2**25, np.float32))  # 128 MiB in 128 KiB
    assert peak(tmp_path / "w.npz", "arrays of 134217856 bytes .* at most 4 times") < 2**22


def test_a_header_of_npy_that_is_too_large_takes_no_memory(tmp_path):
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**32,)}
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("w.npy", stream.getvalue() + bytes(96))
    assert peak(tmp_path / "w.npz", "w.npy has 24 numbers for the shape") < 2**22


def test_an_entry_that_a_damaged_directory_of_npz_hides_is_missed(tmp_path):
    path = as_npz(tmp_path / "w.npz", {"a": W, "b": B})
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\1\2") + 32] = 60  # the second entry becomes a comment on the first
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["a.npy"]
        assert archive.testzip() is None
    with pytest.raises(ValueError, match="its directory names 1 entries and counts 2"):
        read_arrays(path)


def test_a_pickle_cannot_change_the_functions_it_calls(tmp_path):
    function = name("torch._utils", "_rebuild_tensor_v2")
    state = together(b"N", b"}" + text("__defaults__") + together(whole(1)) + b"s")
    value = function + state + b"b0" + TWO
    before = weight_files._rebuild_tensor.__defaults__
    with pytest.raises(ValueError, match="POP"):
        read_arrays(as_zip(tmp_path / "w.pth", value, {"0": W, "1": B}))
    value = state_dict(w=contiguous("0", W)) + text("f") + function + state + b"bs"
    with pytest.raises(ValueError, match=r"others: \['f'\]"):
        read_arrays(as_zip(tmp_path / "w.pth", value, {"0": W}))
    assert weight_files._rebuild_tensor.__defaults__ == before


def test_compressed_entries_and_unknown_byte_orders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="data.pkl is compressed|byteorder is compressed"):
        read_arrays(as_zip(tmp_path / "w.pth", TWO, {}, compression=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("archive/data.pkl", TWO)
        archive.writestr("archive/byteorder", "middle")
    with pytest.raises(ValueError, match="unknown byte order b'middle'"):
        read_arrays(tmp_path / "w.pth")


@pytest.mark.parametrize("folders", [(), ("a", "b")])
def test_zip_files_of_none_or_two_pickles_are_refused(folders, tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("other/version", "3\n")
        for folder in folders:
            archive.writestr(f"{folder}/data.pkl", TWO)
    with pytest.raises(ValueError, match=rf"'other/version'.* one data.pkl, got {len(folders)}"):
        read_arrays(tmp_path / "w.pth")


def test_objects_in_npz_are_refused(tmp_path):
    np.savez(tmp_path / "w.npz", w=np.array([Malice(tmp_path / "evidence")], object))
    with pytest.raises(ValueError, match="w.npy is object: expected float16"):
        read_arrays(tmp_path / "w.npz")
    assert not (tmp_path / "evidence").exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [24], "data_offsets": [8, 104]}, "invalid offset"),
        (
            {"dtype": "F32", "shape": [25], "data_offsets": [0, 96]},
            "invalid shape, data type, or offset",
        ),
        ({"dtype": "F32", "shape": [-24], "data_offsets": [0, 96]}, "integer `-24`"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}, "integer `-8`"),
        ({"dtype": "Q4", "shape": [24], "data_offsets": [0, 96]}, "unknown variant `Q4`"),
        ({"dtype": "U8", "shape": [96], "data_offsets": [0, 96]}, "w is U8: expected one of"),
        ({"dtype": "F32", "shape": [24]}, "data_offsets"),
    ],
)
def test_safetensors_entries_that_do_not_fit_are_refused(entry, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_arrays(as_safetensors(tmp_path / "w", {"w": W}, header={"w": entry}))


def test_other_files_are_refused_with_what_to_do(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"begins with b'<html>.*torch.save"):
        read_arrays(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(struct.pack("<Q", 2**60) + b'{"w"')
    with pytest.raises(ValueError, match="header too large"):
        read_arrays(tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.pth")


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files_are_refused_or_read_never_worse(form, tmp_path):
    content = FORMATS[form](tmp_path / "w.npz").read_bytes()
    cut = tmp_path / "cut"
    for size in range(0, len(content), 7):
        cut.write_bytes(content[:size])
        with pytest.raises(ValueError, match="cut"):
            read_arrays(cut)
    draw = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for at in draw.integers(len(content), size=3):
            damaged[at] = draw.integers(256)
        cut.write_bytes(damaged)
        try:
            weights = read_arrays(cut)
        except ValueError:
            continue
        assert all(isinstance(array, np.ndarray) for array in weights.values())
