"""Images in memory and on disk give the same to those who read them."""

import doctest

import numpy as np
import pytest

from dann_jax.datasets import ImageSet, streamed, whole_files


class Records(list):
    """Records in memory, with many read at once."""

    def __getitems__(self, indices):
        return [self[i] for i in indices]


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return ImageSet(
        random.integers(0, 256, [7, 4, 4, 3], np.uint8), np.arange(7, dtype=np.int32) - 1
    )


@pytest.fixture
def on_disk(images):
    records = [{"image": i, "label": n} for i, n in zip(*images, strict=True)]
    return streamed.Streamed(Records(records), 6, "letters")


def test_what_is_on_disk_is_padded_with_black(images, on_disk):
    assert streamed.size(on_disk) == streamed.size(images) == 7
    expected = np.pad(images.image[2], [(1, 1), (1, 1), (0, 0)])
    np.testing.assert_array_equal(on_disk[2]["image"], expected)
    np.testing.assert_array_equal(streamed.padded(images.image, 6, "letters")[2], expected)
    np.testing.assert_allclose(on_disk.mean, images.image.mean((0, 1, 2)) * 16 / 36)
    with pytest.raises(ValueError, match="images of letters are 4x4 pixels: .* at least 4, got 3"):
        streamed.padded(images.image, 3, "letters")


def test_resized_images_are_those_of_the_bilinear_formula(images, on_disk):
    # The centre of new pixel j lies at (j + 1/2) 4/6 - 1/2: old pixels 0 to 3, held at the border.
    place = np.clip((np.arange(6) + 0.5) * 4 / 6 - 0.5, 0, 3)
    weight = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(4)))
    expected = np.einsum("ij,njkc,lk->nilc", weight, images.image, weight)
    actual = streamed.resized(images.image, 6)
    assert actual.dtype == np.uint8
    assert np.abs(actual - expected).max() < 1.01  # each direction rounds, by a half at most
    on_disk = streamed.Streamed(on_disk.records, 6, "letters", resize=True)
    np.testing.assert_array_equal(on_disk[3]["image"], actual[3])
    some = streamed.chosen(on_disk, np.array([4, 2]))
    np.testing.assert_array_equal(next(iter(streamed.blocks(some)))[0], actual[[4, 2]])
    assert streamed.resized(images.image, 3).shape == (7, 3, 3, 3)
    assert streamed.resized(images.image, 4) is images.image
    assert doctest.testmod(streamed).failed == 0


def test_chosen_images_are_the_same_in_memory_and_on_disk(images, on_disk, monkeypatch):
    monkeypatch.setattr(streamed, "BLOCK", 2)
    whole = images._replace(image=streamed.padded(images.image, 6, "letters"))
    positions = np.array([5, 0, 3])
    results = [
        streamed.over_blocks(streamed.chosen(each, positions), lambda image: image.sum((1, 2)))
        for each in (whole, on_disk)
    ]
    assert len(list(streamed.blocks(on_disk))) == 4
    for expected, actual in zip(*results, strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert results[0][1].tolist() == [4, -1, 2]


def write(path, text, fails=False, **options):
    with whole_files.whole(path, **options) as temporary:
        temporary.write_text(text)
        if fails:
            raise RuntimeError


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    with pytest.raises(RuntimeError):
        write(path, "half", fails=True)
    assert list(path.parent.iterdir()) == []
    write(path, "all", replace=False)
    with pytest.raises(FileExistsError):
        write(path, "again", replace=False)
    assert path.read_text() == "all"
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]
    write(path, "another")
    assert path.read_text() == "another"
