"""Writes a pair of domains as arrays: python -m experiments.benchmark.arrays CONFIG FOLDER.

A machine without tensorflow-datasets trains from this folder, which is one file a split. --most
keeps the first images of each split alone, where all of them are too large to be carried.
"""

import pathlib
import zipfile

import numpy as np

from dann_jax import datasets
from dann_jax.datasets.image_sets import ImageSet
from dann_jax.datasets.whole_files import whole
from experiments import configs
from experiments.arguments import Parser, check_folder, end, ended, sentence
from experiments.domains import Pair, load_pair
from experiments.settings import Config

__all__ = ["PARTS", "check", "main", "read_pair", "write_pair"]

ENTRIES = "image", "label", "class_names", "of", "name"
PARTS = ("source_train", "source_test", "target_train", "target_test")


def write_pair(config: Config, pair: Pair, folder: pathlib.Path, most: int | None = None) -> None:
    """Writes the images and labels of each split, or the first ``most`` of them."""
    for name in PARTS:
        domain, _ = name.split("_")
        images = getattr(pair, name)
        with whole(folder / f"{name}.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                image=images.image[:most],
                label=images.label[:most],
                class_names=np.array(pair.class_names),
                name=f"{getattr(config, domain)}/{getattr(config, name)}",
                of=len(images.image),
            )


def check(folder: pathlib.Path) -> None:
    """Raises a ValueError unless a folder has the files of ``write_pair``."""
    for name in PARTS:
        _read(folder, name, "of")


def _read(folder, name, *entries):
    """Returns entries of the file of a split."""
    path = folder / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            if lacking := set(ENTRIES) - set(file.files):
                raise ValueError(f"no {', '.join(sorted(lacking))} in it")
            return [file[entry] for entry in entries]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"--data-dir {folder}: expected {path.name}, got {sentence(error)}: write the folder "
            "with python -m experiments.benchmark.arrays"
        ) from error


def read_pair(folder: pathlib.Path) -> Pair:
    """Returns the pair that ``write_pair`` has written; a ValueError if it is none."""
    parts, provenance, names = {}, {}, ()
    for name in PARTS:
        image, label, classes, of, origin = _read(folder, name, *ENTRIES)
        parts[name], names = ImageSet(image, label), tuple(map(str, classes))
        about = {"examples": len(image), "sha256": datasets.digest(parts[name])}
        if int(of) != len(image):
            about["part"] = f"the first of {of}"
        provenance[str(origin)] = about
    return Pair(
        **parts, class_names=names, target_labelled=True, target_files=None, provenance=provenance
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; returns 0, or 2 for an error."""
    parser = Parser(prog="python -m experiments.benchmark.arrays", description=__doc__)
    parser.add_argument("config", help="whose data these are")
    parser.add_argument("folder", type=pathlib.Path, help="where the files go")
    parser.add_argument("--most", type=int, help="images of each split; all by default")
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder of prepared data")
    parser.add_argument("--manual-dir", type=pathlib.Path, help="folder of published files")
    options = parser.parse_args(arguments)
    return ended(lambda: _write(options))


def _write(options):
    if options.most is not None and options.most < 1:
        raise ValueError(f"--most must be at least 1, got {options.most}")
    check_folder(options.folder, "FOLDER")
    config, _ = configs.find_config(options.config)
    folders = {"data_dir": options.data_dir, "manual_dir": options.manual_dir}
    write_pair(config, load_pair(config, **folders), options.folder, options.most)
    size = sum((options.folder / f"{name}.npz").stat().st_size for name in PARTS)
    print(f"written: {options.folder}, {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    end(main())
