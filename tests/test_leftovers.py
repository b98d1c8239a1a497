"""What killed runs leave is removed, and nothing else."""

import pytest

from experiments import leftovers, record


def test_leftovers_are_removed_and_what_is_whole_stays(tmp_path):
    key = tmp_path / "dann" / "key_0"
    left = [
        tmp_path / ".dann-a1b2c3d_.json",
        tmp_path / ".curves-a1b2c3d4.png",
        key / ".record-a1b2c3d4.json",
        key / ".predictions-a1b2c3d4.csv",
        key / "checkpoint" / "100.orbax-checkpoint-tmp-7" / "state",
        key / "state.orbax-checkpoint-tmp" / "1.orbax-checkpoint-tmp" / "a",
        key / "checkpoint.old" / "a",
        key / "state.new" / "a",
    ]
    stays = [
        tmp_path / ".lock",
        tmp_path / "dann.json",
        tmp_path / ".notes-of-mine.json",
        key / "record.json",
        key / "checkpoint" / "50" / "state",
        key / "state" / "a",
    ]
    for path in (*left, *stays):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    leftovers.remove(tmp_path)
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert files == set(stays)
    assert not list(tmp_path.rglob("*.orbax-checkpoint-tmp*"))


def test_the_only_copy_of_a_checkpoint_gets_its_name_back(tmp_path):
    key = tmp_path / "dann" / "key_0"
    for name in ("checkpoint.old", "checkpoint.new"):
        (key / name).mkdir(parents=True)
        (key / name / "a").write_text(name)
    leftovers.remove(tmp_path)
    assert [path.name for path in key.iterdir()] == ["checkpoint"]
    assert (key / "checkpoint" / "a").read_text() == "checkpoint.old"


def test_a_new_folder_in_which_nothing_came_about_is_removed(tmp_path):
    def hold(folder, *names):
        with record.alone(folder):
            (folder / "dann" / "key_0").mkdir(parents=True)
            for name in names:
                (folder / name).write_text("{}")
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        hold(tmp_path / "runs" / "pair")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="refused"):
        hold(tmp_path / "runs" / "pair", "dann.json")
    assert (tmp_path / "runs" / "pair" / "dann.json").exists()
    with pytest.raises(ValueError, match="refused"):
        hold(tmp_path)
    assert tmp_path.exists()
