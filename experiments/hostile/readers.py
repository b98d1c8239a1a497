"""The readers of the project, each with a small valid file of its format and how to change it."""

import gzip
import hashlib
import io
import pathlib
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from dann_jax import backbones, checkpoints, datasets
from dann_jax.datasets import archives, photographs, source_files
from dann_jax.datasets.mnist import idx
from experiments import configs, pretraining, record
from experiments.hostile import changes

__all__ = ["READERS", "Reader"]

Folder = pathlib.Path


class Reader(NamedTuple):
    """How one format is written, changed and read."""

    write: Callable[[Folder], None]  # puts valid files into an empty folder
    read: Callable[[Folder], Any]  # what the project reads from them: arrays, numbers and the like
    change: changes.Change = changes.raw
    files: str = "*"  # which of the files are changed
    checked: bool = False  # whether a checksum of the format covers what is changed
    names: str | None = None  # what an error names: the changed file, or this, within the folder
    share: float = 1.0  # of trials, beside the others: less where reading takes long
    remakes: bool = False  # whether reading writes, so that each trial needs the files anew


# --- weights -------------------------------------------------------------------------------

_WEIGHT = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
_BIAS = np.array([0.5, -1.5], np.float32)
_ARRAYS = {"conv.weight": _WEIGHT, "conv.bias": _BIAS}
_MAGIC = 0x1950A86A20F9469CFC6C  # torch.save before 1.6


def _text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _numbers(values):
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


def _tensor(key, array, view=b""):
    """Returns the operations by which torch.save writes a tensor."""
    storage = b"(%sctorch\nFloatStorage\n%s%sJ%s%stQ" % (
        *(_text("storage"), _text(key), _text("cpu"), struct.pack("<i", array.size)),
        view,
    )
    strides = [stride // array.itemsize for stride in array.strides]
    sizes = b"J\0\0\0\0" + _numbers(array.shape) + _numbers(strides)
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return rebuild + b"(" + storage + sizes + b"\x89ccollections\nOrderedDict\n)RtR"


def _state_dict(view=b""):
    tensors = (_text(name) + _tensor(name, array, view) for name, array in _ARRAYS.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + b"".join(tensors) + b"u."


def _write_pth(folder):
    with zipfile.ZipFile(folder / "weights.pth", "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), _state_dict())
        archive.writestr(zipfile.ZipInfo("archive/byteorder"), "little")
        for name, array in _ARRAYS.items():
            archive.writestr(zipfile.ZipInfo(f"archive/data/{name}"), array.tobytes())


def _old_pth_head():
    return b"".join(pickle.dumps(item, 2) for item in (_MAGIC, 1001, {"little_endian": True}))


def _write_old_pth(folder):
    data = [struct.pack("<q", array.size) + array.tobytes() for array in _ARRAYS.values()]
    keys = pickle.dumps(list(_ARRAYS), 2)
    content = [_old_pth_head(), _state_dict(b"N"), keys, *data]
    (folder / "weights.pth").write_bytes(b"".join(content))


def _write_safetensors(folder):
    from safetensors.numpy import save_file

    save_file(_ARRAYS, folder / "weights.safetensors")


def _write_npz(folder):
    np.savez(folder / "weights.npz", **_ARRAYS)


def _read_weights(folder):
    (path,) = folder.glob("weights.*")
    return backbones.read_arrays(path)


# --- published files -----------------------------------------------------------------------


def _random(*shape, seed=0, stop=256):
    return np.random.default_rng(seed).integers(0, stop, shape, np.uint8)


_IDX = b"\0\0\x08\3" + struct.pack(">3I", 3, 5, 4) + _random(3, 5, 4).tobytes()
_IDX_FILE = idx.IdxFile("images.gz", (3, 5, 4), hashlib.sha256(_IDX).hexdigest())


def _write_idx(folder):
    (folder / _IDX_FILE.name).write_bytes(gzip.compress(_IDX, mtime=0))


def _read_idx(folder):
    return idx.read(_IDX_FILE, lambda _: folder / _IDX_FILE.name)


def _write_mat(folder, *, compressed):
    import scipy.io

    content = {"X": _random(32, 32, 3, 3), "y": np.array([[3], [10], [4]], np.uint8)}
    stream = io.BytesIO()
    scipy.io.savemat(stream, content, do_compression=compressed)
    about = b"MATLAB 5.0 MAT-file".ljust(116)  # without the time at which it was written
    (folder / "train.mat").write_bytes(about + stream.getvalue()[116:])


def _read_mat(folder):
    from dann_jax.datasets.svhn import svhn_dataset_builder as svhn

    file = source_files.PublishedFile("train.mat", "svhn", ("http://example.org",))
    return svhn.read(file, folder / file.name, {"whole": (1, 0, 0, 1, 1, 0, 0, 0, 0, 0)})


def _encoded(format, seed=0, **options):
    """Returns a small picture as a file of some format."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(_random(10, 12, 3, seed=seed)).save(stream, format, **options)
    return stream.getvalue()


def _write_tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(4) + content[8:])  # without the time


_PHOTOGRAPHS = {"train/1.jpg": 1, "val/2.jpg": 2, "test/3.jpg": 3}  # and their seeds


def _write_bsds(folder):
    members = {
        f"BSR/BSDS500/data/images/{name}": _encoded("JPEG", seed)
        for name, seed in _PHOTOGRAPHS.items()
    }
    _write_tar(folder / photographs.BSDS500.name, members)


def _read_bsds(folder):
    digest = hashlib.sha256()
    for name, seed in sorted(_PHOTOGRAPHS.items()):
        digest.update(f"{name}\n".encode())
        digest.update(hashlib.sha256(_encoded("JPEG", seed)).digest())
    counts = {"train": 1, "val": 1, "test": 1}
    path = folder / photographs.BSDS500.name
    return photographs.bsds500(lambda _: path, counts=counts, sha256=digest.hexdigest())


_OFFICE = {"back_pack": 1, "mug": 2}  # class -> pictures


def _write_office(folder):
    members = {
        f"amazon/images/{name}/frame_{i:04}.jpg": _encoded("JPEG", i)
        for name, count in _OFFICE.items()
        for i in range(count)
    }
    _write_tar(folder / "office.tar.gz", members)


def _read_office(folder):
    from dann_jax.datasets.office31 import office31_dataset_builder as office31

    path = folder / "office.tar.gz"
    pictures = office31.read(path, "amazon", tuple(_OFFICE), tuple(_OFFICE.values()))
    options = {"format": "JPEG", "size": (8, 8)}
    return [
        archives.rgb(office31.ARCHIVE, path, name, content, **options) for name, content in pictures
    ]


def _write_gtsrb(folder):
    with zipfile.ZipFile(folder / "gtsrb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for label in range(3):
            names = [f"0000{label}_0000{i}.ppm" for i in range(2)]
            table = "".join(f"{name};12;10;5;5;6;6;{label}\n" for name in names)
            table = f"Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n{table}"
            contents = {name: _encoded("PPM", i) for i, name in enumerate(names)}
            for name, content in {**contents, f"GT-0000{label}.csv": table}.items():
                place = f"GTSRB/Final_Training/Images/0000{label}/{name}"
                archive.writestr(zipfile.ZipInfo(place), content)


def _read_gtsrb(folder):
    from dann_jax.datasets.gtsrb import gtsrb_dataset_builder as gtsrb

    counts = [2, 2, 2] + [0] * 40
    return gtsrb.read(folder / "gtsrb.zip", counts, size=(8, 8))


# --- folders of images, and what is prepared from them -------------------------------------

_SIDE = 8


def _write_images(folder, *, format, **options):
    for i, name in enumerate(("cat", "dog")):
        path = folder / "images" / name / f"picture.{format.lower()}"
        path.parent.mkdir(parents=True)
        path.write_bytes(_encoded(format, i, **options))


def _builder(folder):
    return datasets.from_folder(folder / "images", image_size=_SIDE, data_dir=folder / "data")


def _read_images(folder):
    (images, labels), *_ = _builder(folder)._image_sets(None).values()
    return list(images), labels


def _write_prepared(folder):
    _write_images(folder, format="PNG")
    datasets.arrays(_builder(folder), "train")


def _read_prepared(folder):
    return datasets.arrays(_builder(folder), "train")


def _read_records(folder):
    from dann_jax.datasets.image_records import ImageRecords

    records = ImageRecords(datasets.prepare(_builder(folder)), "train")
    return [(each["image"], each["label"]) for each in records]


def _read_features(folder):
    """Returns a backbone's outputs as they are kept on disk, or made anew."""
    config, _ = configs.find_config("office31_amazon_webcam_frozen")
    views, width = 1 + config.mirror, backbones.BACKBONES[config.backbone].features
    outputs = np.random.default_rng(0).normal(size=(2, 1, views, width)).astype(np.float32)
    images = datasets.ImageSet(np.zeros((2, _SIDE, _SIDE, 3), np.uint8), np.zeros(2, np.int32))
    instead = {"weights_origin": lambda _: {"sha256": ""}, "_computed": lambda *_: outputs}
    with mock.patch.multiple(pretraining, **instead):
        return pretraining.features(config, images, "", folder / "features").image


# --- checkpoints ---------------------------------------------------------------------------


def _tree(step):
    weights = np.random.default_rng(step).normal(size=(3, 4)).astype(np.float32)
    return {"step": np.int32(step), "theta": {"w": weights, "b": np.zeros(4, np.float32)}}


def _write_checkpoints(folder, *, steps):
    for step in steps:
        checkpoints.Checkpoints(folder / "checkpoint").save(step, _tree(step))


def _write_old_checkpoint(folder):
    """Writes a checkpoint as earlier versions did, without digests."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((folder / "checkpoint").absolute(), _tree(1))


def _read_checkpoints(folder):
    """Returns the step of the checkpoint that was restored, or its tree if it is not as saved."""
    restored = checkpoints.Checkpoints(folder / "checkpoint").restore(_tree(0))
    if restored is None or not 1 <= (step := int(restored["step"])) <= 2:
        return restored
    saved = _tree(step)
    same = all(np.array_equal(restored["theta"][name], saved["theta"][name]) for name in "wb")
    return "as saved" if same else restored


# --- result files and records --------------------------------------------------------------


def _write_result(folder):
    path = sorted(_RESULTS.glob("digits_digits_m/*-without-*.json"))[0]
    (folder / "result.json").write_bytes(path.read_bytes())


def _read_result(folder):
    return record.read_result(folder / "result.json")


def _write_record(folder):
    """Writes the record of a training that was cut off, from the result of a finished one."""
    (path,) = _RESULTS.glob("digits_digits_m/*-without-*.json")
    result = record.read(path)
    origin = {"data", "versions", "device", "device_count", "process_count", "plain_xla"}
    origin |= {"processor", "threads"}
    content = {
        "format": record.FORMAT,
        "settings": result["resolved_config"],
        "origin": {name: value for name, value in result.items() if name in origin},
        "together": [0],
        "devices_per_key": 1,
        "finished": False,
        "curves": [{"step": 50, "label_loss": 2.25, "domain_loss": None, "mu": 0.03}],
        "evaluations": [{"step": 50, "source_accuracy": 0.5, "target_accuracy": 0.25}],
        "warnings": [{"step": 50, "warning": "L_y is at its chance value"}],
        "train_seconds": 1.5,
        "wall_seconds": 2.5,
    }
    record.write_checked(folder / "key_0" / "record.json", content)


def _read_record(folder):
    return record.read_record(folder, 0)


_RESULTS = pathlib.Path(__file__).resolve().parent.parent / "results"

_WRITTEN_IN_TEXT = partial(changes.mixed, changes=(changes.raw, changes.json_text))
_MEMBERS = partial(changes.in_zip, change=changes.raw)
_IMAGES = {"read": _read_images, "files": "images/*/*"}
_PREPARED = {"write": _write_prepared, "names": "data", "remakes": True, "checked": True}
_LOSABLE = partial(changes.lost, change=_WRITTEN_IN_TEXT)

READERS: dict[str, Reader] = {
    "pth": Reader(_write_pth, _read_weights, checked=True),
    "pth, its pickle": Reader(
        _write_pth,
        _read_weights,
        partial(changes.in_zip, change=changes.pickled, names=r"data\.pkl"),
    ),
    "pth, its members": Reader(_write_pth, _read_weights, _MEMBERS),
    "old pth": Reader(_write_old_pth, _read_weights),
    "old pth, its pickle": Reader(
        _write_old_pth,
        _read_weights,
        partial(changes.pickled, start=len(_old_pth_head())),
    ),
    "safetensors": Reader(_write_safetensors, _read_weights),
    "safetensors, its header": Reader(
        _write_safetensors, _read_weights, changes.safetensors_header
    ),
    "npz": Reader(_write_npz, _read_weights, checked=True),
    "npz, its members": Reader(_write_npz, _read_weights, _MEMBERS),
    "idx.gz": Reader(_write_idx, _read_idx, checked=True),
    "idx": Reader(
        _write_idx, _read_idx, partial(changes.in_gzip, change=changes.raw), checked=True
    ),
    "mat": Reader(partial(_write_mat, compressed=True), _read_mat, checked=True),
    "mat, not compressed": Reader(partial(_write_mat, compressed=False), _read_mat),
    "tgz of photographs": Reader(_write_bsds, _read_bsds, checked=True),
    "tgz of photographs, its members": Reader(
        _write_bsds, _read_bsds, partial(changes.in_tar, change=changes.raw), checked=True
    ),
    "tar.gz of Office-31": Reader(_write_office, _read_office, checked=True),
    "tar.gz of Office-31, its tar": Reader(
        _write_office, _read_office, partial(changes.in_gzip, change=changes.raw)
    ),
    "tar.gz of Office-31, its members": Reader(
        _write_office, _read_office, partial(changes.in_tar, change=changes.raw)
    ),
    "zip of GTSRB": Reader(_write_gtsrb, _read_gtsrb, checked=True),
    "zip of GTSRB, its pictures": Reader(
        _write_gtsrb, _read_gtsrb, partial(changes.in_zip, change=changes.raw, names="ppm$")
    ),
    "zip of GTSRB, its tables": Reader(
        _write_gtsrb, _read_gtsrb, partial(changes.in_zip, change=changes.raw, names="csv$")
    ),
    "BMP": Reader(partial(_write_images, format="BMP"), **_IMAGES),
    "GIF": Reader(partial(_write_images, format="GIF"), **_IMAGES),
    "JPEG": Reader(partial(_write_images, format="JPEG"), **_IMAGES),
    "PNG": Reader(partial(_write_images, format="PNG"), **_IMAGES, checked=True),
    "PPM": Reader(partial(_write_images, format="PPM"), **_IMAGES),
    "TIFF": Reader(partial(_write_images, format="TIFF", compression="tiff_lzw"), **_IMAGES),
    "WebP": Reader(partial(_write_images, format="WEBP"), **_IMAGES),
    "prepared arrays": Reader(
        read=_read_prepared, change=changes.lost, files="data/**/*.npy", share=0.3, **_PREPARED
    ),
    "prepared information": Reader(
        read=_read_prepared, change=_LOSABLE, files="data/**/*.json", share=0.3, **_PREPARED
    ),
    "prepared records": Reader(
        read=_read_records,
        change=changes.lost,
        files="data/**/*array_record*",
        share=0.3,
        **_PREPARED,
    ),
    "features of a backbone": Reader(
        _read_features,
        _read_features,
        changes.lost,
        "features/*",
        checked=True,
        names="features",
        share=0.3,
        remakes=True,
    ),
    "last of two checkpoints": Reader(
        partial(_write_checkpoints, steps=(1, 2)),
        _read_checkpoints,
        _LOSABLE,
        "checkpoint/2/**/*",
        checked=True,
        names="checkpoint",
        share=0.2,
    ),
    "only checkpoint": Reader(
        partial(_write_checkpoints, steps=(1,)),
        _read_checkpoints,
        _LOSABLE,
        "checkpoint/**/*",
        checked=True,
        names="checkpoint",
        share=0.2,
    ),
    "checkpoint of an earlier version": Reader(
        _write_old_checkpoint,
        _read_checkpoints,
        _LOSABLE,
        "checkpoint/**/*",
        names="checkpoint",
        share=0.2,
    ),
    "result file": Reader(_write_result, _read_result, changes.json_text),
    "result file, its bytes": Reader(_write_result, _read_result),
    "record": Reader(
        _write_record, _read_record, _WRITTEN_IN_TEXT, "key_0/record.json", checked=True
    ),
}
"""The readers by name. Where checksums are made anew, or there are none, a file whose numbers
differ is another file; where the format has checksums it must be noticed."""
