"""Colour photographs to cut patches from: BSDS500's, and the two that scikit-learn bundles."""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from dann_jax.datasets import archives, source_files

__all__ = ["BSDS500", "BSDS500_COUNTS", "BSDS500_SHA256", "bsds500", "bundled"]

BSDS500 = source_files.PublishedFile(
    "BSR_bsds500.tgz",
    "bsds500",
    (
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",
        "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",
    ),
)
"""The archive of the Berkeley segmentation data set (Arbelaez et al. 2011)."""

BSDS500_COUNTS = {"train": 200, "val": 100, "test": 200}
"""How many photographs each part of BSDS500 has."""

BSDS500_SHA256 = "e72e5ae4e3fe42119b87f3dc2c9469aeb16cae633e991ed900847f9e836a2285"
"""Digest of the photographs alone; the rest of the archive (annotations, code) is not used."""

_MEMBER = re.compile(r"BSR/BSDS500/data/images/(train|val|test)/([0-9]+\.jpg)")
_BAND = 128  # pixels; both bundled photographs are 640 wide
_TEST_BAND = 2  # the middle one of five, which crosses pagoda, lake, trees, leaves and petals


def bsds500(
    find: Callable[[source_files.PublishedFile], Path],
    *,
    counts: Mapping[str, int] = BSDS500_COUNTS,
    sha256: str = BSDS500_SHA256,
) -> dict[str, tuple[np.ndarray, ...]]:
    """Returns the photographs of BSDS500, read in memory from the published archive.

    Members that are not regular files at the published paths are ignored and nothing is
    unpacked to disk. Pixels can differ by a grey level between versions of the JPEG decoder.

    Args:
        find: returns the path of the archive.
        counts: how many photographs each part must have.
        sha256: digest over the sorted photographs: for each its ``part/name`` and a newline,
            then the SHA-256 of its bytes.

    Returns:
        For each part (``train``, ``val``, ``test``) its photographs in order of file name,
        uint8 ``[height, width, 3]`` each.

    Raises:
        ValueError: the archive is damaged, incomplete or holds other photographs.
    """
    path = find(BSDS500)
    members = {
        match.groups(): content for match, content in archives.tar_members(BSDS500, path, _MEMBER)
    }
    for part, count in counts.items():
        got = sum(member_part == part for member_part, _ in members)
        if got != count:
            raise source_files.mismatch(
                BSDS500,
                path,
                expected=f"{count} photographs BSR/BSDS500/data/images/{part}/*.jpg",
                got=f"{got}",
            )
    digest = hashlib.sha256()
    for part, name in sorted(members):
        digest.update(f"{part}/{name}\n".encode())
        digest.update(hashlib.sha256(members[part, name]).digest())
    if digest.hexdigest() != sha256:
        raise source_files.mismatch(
            BSDS500,
            path,
            expected=f"photographs with SHA-256 {sha256}",
            got=f"photographs with SHA-256 {digest.hexdigest()}",
        )
    return {
        part: tuple(
            archives.rgb(BSDS500, path, name, members[part, name], format="JPEG")
            for member_part, name in sorted(members)
            if member_part == part
        )
        for part in counts
    }


def bundled() -> dict[str, tuple[np.ndarray, ...]]:
    """Returns pieces of scikit-learn's two photographs that train and test do not share.

    Each photograph is cut into upright bands of 128 pixels; the middle one is for test, what
    lies left and right of it is for train.

    Returns:
        ``{"train": four pieces, "test": two pieces}``, uint8 ``[427, width, 3]`` each.
    """
    from sklearn import datasets

    start, stop = _BAND * _TEST_BAND, _BAND * (_TEST_BAND + 1)
    whole = datasets.load_sample_images().images
    return {
        "train": tuple(piece for image in whole for piece in (image[:, :start], image[:, stop:])),
        "test": tuple(image[:, start:stop] for image in whole),
    }
