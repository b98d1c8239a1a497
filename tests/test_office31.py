"""Office-31 from a tiny archive in the published format."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from dann_jax.datasets.office31 import office31_dataset_builder as office31

NAMES = office31.Builder.CLASS_NAMES
DOMAINS = ("amazon", "dslr", "webcam")
COUNTS = {domain: (2,) + (1,) * 30 for domain in DOMAINS}


def colour(domain, label, i):
    return 8 * label, 60 * DOMAINS.index(domain), 200 * i


def jpeg(colour, width=300, height=200):
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "JPEG", quality=100, subsampling=0)
    return file.getvalue()


def members(prefix=""):
    return {
        f"{prefix}{domain}/images/{name}/frame_{i + 1:04}.jpg": jpeg(colour(domain, label, i))
        for domain in DOMAINS
        for label, name in enumerate(NAMES)
        for i in reversed(range(COUNTS[domain][label]))
    }


def write(path, files, extra=()):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra:
            archive.addfile(member)


@pytest.fixture
def manual_dir(tmp_path, monkeypatch):
    """A folder for the archive, which the builder is told to expect to be tiny."""
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.setattr(office31.Builder, "DOMAIN_COUNTS", COUNTS)
    return folder


def prepared(tmp_path, manual_dir, domain="dslr"):
    options = {"data_dir": tmp_path, "config": domain}
    office31.Builder(manual_dir=manual_dir, **options).download_and_prepare()
    return office31.Builder(**options)


def refused(tmp_path, manual_dir, match):
    with pytest.raises(ValueError, match=match) as raised:
        prepared(tmp_path, manual_dir)
    message = str(raised.value)
    assert message.startswith(f"{manual_dir / office31.ARCHIVE.name}: expected ")
    assert "https://drive.google.com" in message
    assert "--manual-dir" in message
    assert "\n" not in message
    assert not [p for p in (tmp_path / "office31" / "dslr").glob("*") if p.name[0].isdigit()]


@pytest.mark.parametrize(
    ("domain", "prefix"),
    [("amazon", ""), ("dslr", "domain_adaptation_images/"), ("webcam", "./")],
)
def test_domain_holds_its_own_pictures_by_class_and_number(tmp_path, manual_dir, domain, prefix):
    write(manual_dir / office31.ARCHIVE.name, members(prefix))
    built = prepared(tmp_path, manual_dir, domain)
    assert list(built.info.splits) == ["train"]
    image, label = built.read("train")
    assert image.shape == (32, 256, 256, 3)
    assert label.tolist() == [0, *range(31)]
    expected = [colour(domain, 0, 1), *(colour(domain, n, 0) for n in range(31))]
    expected[:2] = colour(domain, 0, 0), colour(domain, 0, 1)
    assert np.abs(image - np.array(expected)[:, None, None]).max() <= 2  # JPEG


def test_images_cannot_become_a_class(tmp_path, manual_dir):
    trap = jpeg((255, 255, 255))
    # In place of the last class, for a count of the folders would come to 31.
    files = {name: c for name, c in members().items() if "trash_can" not in name}
    for name in (
        "dslr/images/frame_0001.jpg",
        "dslr/images/images/frame_0001.jpg",
        "images/dslr/trash_can/frame_0001.jpg",
        "dslr/trash_can/frame_0001.jpg",
        "dslr/images/trash_can/images/frame_0001.jpg",
    ):
        files[name] = trap
    write(manual_dir / office31.ARCHIVE.name, files)
    match = "expected 1 pictures dslr/images/trash_can/frame_.*.jpg, got 0"
    refused(tmp_path, manual_dir, match)
    assert "images" not in NAMES


def test_official_office31_is_what_is_expected_by_default():
    builder = office31.Builder
    assert len(NAMES) == len(set(NAMES)) == 31
    assert list(NAMES) == sorted(NAMES)
    assert tuple(config.name for config in builder.BUILDER_CONFIGS) == DOMAINS
    sizes = {domain: sum(counts) for domain, counts in builder.DOMAIN_COUNTS.items()}
    assert sizes == {"amazon": 2817, "dslr": 498, "webcam": 795}
    assert {len(counts) for counts in builder.DOMAIN_COUNTS.values()} == {31}
    built = builder(config="webcam", data_dir="unused")
    assert {"train": builder.DOMAIN_COUNTS["webcam"]} == built.CLASS_COUNTS
    for domain, per_class in {"amazon": 20, "dslr": 8, "webcam": 8}.items():
        subsets = builder(config=domain, data_dir="unused").SUBSETS
        assert subsets == {f"split_{key}": ("train", per_class, key, True) for key in range(5)}


def test_members_elsewhere_and_links_are_ignored(tmp_path):
    files = members()
    content = jpeg((255, 255, 255))
    for name in (
        "../dslr/images/mug/frame_0007.jpg",
        "/dslr/images/mug/frame_0007.jpg",
        "dslr/images/mug/../mug/frame_0007.jpg",
        "dslr/images/mug/frame_0007.jpg.txt",
        "dslr/images/Mug/frame_0007.jpg",
        "dslr/images/mug/Thumbs.db",
        "dslr/interest_points/mug/frame_0007.jpg",
    ):
        files[name] = content
    links = []
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        link = tarfile.TarInfo(f"dslr/images/mug/frame_010{len(links)}.jpg")
        link.type, link.linkname = kind, "dslr/images/mug/frame_0001.jpg"
        links.append(link)
    path = tmp_path / "inner" / "a.tar.gz"
    path.parent.mkdir()
    write(path, files, links)
    pictures = office31.read(path, "dslr", NAMES, COUNTS["dslr"])
    assert len(pictures) == 32
    assert {content for _, content in pictures} == {
        content for name, content in members().items() if name.startswith("dslr/")
    }
    assert list(tmp_path.rglob("*")) == [path.parent, path]


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (None, "1 pictures dslr/images/mug/frame_.*jpg, got 0"),
        (b"\0" * ((4 << 20) + 1), "at most 4,194,304 bytes, got dslr/.*_0001.jpg of 4,194,305"),
        (b"not a picture", "JPEG pictures .* got dslr/images/mug/frame_0001.jpg .cannot identify"),
        (jpeg((9, 9, 9))[:-200], "got dslr/images/mug/frame_0001.jpg .*truncated"),
        (jpeg((9, 9, 9), 3000, 1500), "4,194,304 pixels .* got .*_0001.jpg .3000x1500 pixels"),
    ],
)
def test_bad_picture_is_refused(tmp_path, manual_dir, content, got):
    files = members() | {"dslr/images/mug/frame_0001.jpg": content}
    write(manual_dir / office31.ARCHIVE.name, {n: c for n, c in files.items() if c is not None})
    refused(tmp_path, manual_dir, got)


def test_picture_of_another_format_is_not_decoded(tmp_path, manual_dir):
    file = io.BytesIO()
    Image.new("RGB", (20, 20)).save(file, "PNG")
    files = members() | {"dslr/images/mug/frame_0001.jpg": file.getvalue()}
    write(manual_dir / office31.ARCHIVE.name, files)
    refused(tmp_path, manual_dir, "JPEG pictures .* got dslr/images/mug/frame_0001.jpg")


@pytest.mark.parametrize("content", [b"", b"<html>sign in</html>", None])
def test_damaged_archive_is_refused(tmp_path, manual_dir, content):
    path = manual_dir / office31.ARCHIVE.name
    write(path, members())
    path.write_bytes(path.read_bytes()[:-2000] if content is None else content)
    match = "a complete gzipped tar archive, got a damaged or truncated file"
    refused(tmp_path, manual_dir, match)


def test_missing_archive_gives_one_sentence_with_the_cure(tmp_path, manual_dir):
    with pytest.raises(FileNotFoundError, match="no network in tests") as raised:
        prepared(tmp_path, manual_dir)
    message = str(raised.value)
    assert message.startswith(f"{office31.ARCHIVE.name} is not found as ")
    assert "--manual-dir" in message
    assert "\n" not in message
