"""TFDS builder of Office-31 from its published archive."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from dann_jax.datasets import archives, image_builder, image_sets, source_files

__all__ = ["ARCHIVE", "Builder", "read"]

ARCHIVE = source_files.PublishedFile(
    "domain_adaptation_images.tar.gz",
    "office31",
    (
        "https://drive.google.com/u/0/uc?id=0B4IapRTv9pJ1WGZVd1VDMmhwdlE&export=download&confirm=y",
        "http://www.cs.uml.edu/~saenko/data/domain_adaptation_images.tar.gz",
    ),
    "1b536d114869a5a8aa4580b89e9758fb",
)
"""The pictures of all three domains.

The first address, to which the publishers' page leads, may answer with a page to click on; the
file then has to be fetched with a browser and given in manual_dir.
"""


class Builder(image_builder.ImageBuilder):
    """One domain of Office-31, 256x256x3, ordered by class and number.

    A picture of another size is resized, its shape not kept, as the usual preparation for
    AlexNet does. All pictures are in the one split ``train``: the protocols of this data set
    adapt to and test on the same target pictures.

    Attributes:
        DOMAIN_COUNTS: for each domain how many pictures each label must have.
        SOURCE_PER_CLASS: how many pictures of each class the protocol of five random splits
            takes from a source domain. One class of dslr, ruler, has only 7.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The published pictures, brought to 256x256."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name="amazon", description="Pictures of goods in a web shop: 2,817, mostly on white."
        ),
        tfds.core.BuilderConfig(
            name="dslr", description="Photographs by a reflex camera in offices: 498."
        ),
        tfds.core.BuilderConfig(
            name="webcam", description="Photographs by a webcam in the same offices: 795."
        ),
    ]

    IMAGE_SHAPE = (256, 256, 3)
    RESIZES = True
    CLASS_NAMES = (
        "back_pack",
        "bike",
        "bike_helmet",
        "bookcase",
        "bottle",
        "calculator",
        "desk_chair",
        "desk_lamp",
        "desktop_computer",
        "file_cabinet",
        "headphones",
        "keyboard",
        "laptop_computer",
        "letter_tray",
        "mobile_phone",
        "monitor",
        "mouse",
        "mug",
        "paper_notebook",
        "pen",
        "phone",
        "printer",
        "projector",
        "punchers",
        "ring_binder",
        "ruler",
        "scissors",
        "speaker",
        "stapler",
        "tape_dispenser",
        "trash_can",
    )
    # fmt: off
    DOMAIN_COUNTS: Mapping[str, Sequence[int]] = {
        "amazon": (
            92, 82, 72, 82, 36, 94, 91, 97, 97, 81, 99, 100, 100, 98, 100, 99,
            100, 94, 96, 95, 93, 100, 98, 98, 90, 75, 100, 99, 99, 96, 64,
        ),
        "dslr": (
            12, 21, 24, 12, 16, 12, 13, 14, 15, 15, 13, 10, 24, 16, 31, 22,
            12, 8, 10, 10, 13, 15, 23, 18, 10, 7, 18, 26, 21, 22, 15,
        ),
        "webcam": (
            29, 21, 28, 12, 16, 31, 40, 18, 21, 19, 27, 27, 30, 19, 30, 43,
            30, 27, 28, 32, 16, 20, 30, 27, 40, 11, 25, 30, 24, 23, 21,
        ),
    }
    # fmt: on
    SOURCE_PER_CLASS = {"amazon": 20, "dslr": 8, "webcam": 8}

    DESCRIPTION = (
        "Pictures of objects of 31 kinds that offices have, 256x256 pixels, from one of three "
        "domains: goods in a web shop (amazon: 2,817), photographs by a reflex camera (dslr: "
        "498) and by a webcam (webcam: 795)."
    )
    CITATION = """\
@inproceedings{saenko2010adapting,
  author = {Saenko, Kate and Kulis, Brian and Fritz, Mario and Darrell, Trevor},
  title = {Adapting Visual Category Models to New Domains},
  booktitle = {European Conference on Computer Vision},
  pages = {213--226},
  year = {2010}
}"""
    HOMEPAGE = "https://faculty.cc.gatech.edu/~judy/domainadapt/"
    LICENSE = "Published for research by its authors. No licence is known to this project."

    @property
    def CLASS_COUNTS(self) -> Mapping[str, Sequence[int]]:  # type: ignore[override]
        """For each split, how many examples each label must have."""
        return {"train": self.DOMAIN_COUNTS[self.builder_config.name]}

    @property
    def SUBSETS(self) -> Mapping[str, image_sets.Subset]:  # type: ignore[override]
        """The source pictures of the protocol's five random splits."""
        per_class = self.SOURCE_PER_CLASS[self.builder_config.name]
        return {
            f"split_{key}": image_sets.Subset("train", per_class, key, at_most=True)
            for key in range(5)
        }

    def _image_sets(self, find):
        path = find(ARCHIVE)
        pictures = read(
            path, self.builder_config.name, self.CLASS_NAMES, self.CLASS_COUNTS["train"]
        )
        height, width, _ = self.IMAGE_SHAPE
        images = (
            archives.rgb(ARCHIVE, path, name, content, format="JPEG", size=(width, height))
            for name, content in pictures
        )
        labels = np.repeat(np.arange(len(self.CLASS_NAMES)), self.CLASS_COUNTS["train"])
        return {"train": (images, labels)}


def read(
    path: Path, domain: str, class_names: Sequence[str], counts: Sequence[int]
) -> list[tuple[str, bytes]]:
    """Returns the encoded pictures of one domain, ordered by class and number.

    Pictures lie in ``<domain>/images/<class>/``. Only folders with the name of a class are
    looked into, so that ``images`` cannot become one.

    Args:
        path: the archive.
        domain: which folder of it.
        class_names: the names of the classes' folders.
        counts: how many pictures each of them must have.

    Returns:
        The path of each picture within the archive and its content.

    Raises:
        ValueError: a damaged archive or other numbers of pictures.
    """
    member = re.compile(
        rf"(?:domain_adaptation_images/)?{domain}/images/"
        rf"(?P<class_name>{'|'.join(class_names)})/(?P<name>frame_[0-9]{{4}}\.jpg)"
    )
    pictures: dict[str, dict[str, bytes]] = {name: {} for name in class_names}
    for match, content in archives.tar_members(ARCHIVE, path, member):
        pictures[match["class_name"]][match["name"]] = content
    for name, count in zip(class_names, counts, strict=True):
        if len(pictures[name]) != count:
            raise source_files.mismatch(
                ARCHIVE,
                path,
                expected=f"{count} pictures {domain}/images/{name}/frame_*.jpg",
                got=f"{len(pictures[name])}",
            )
    return [
        (f"{domain}/images/{class_name}/{name}", some[name])
        for class_name, some in pictures.items()
        for name in sorted(some)
    ]
