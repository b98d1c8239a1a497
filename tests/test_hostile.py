"""Damaged files are refused or read as another file, and planted faults are found."""

import os
import pickle
import random
import signal
import time
from collections import Counter

import numpy as np
import pytest
from test_together import network

from experiments import record, report, settings
from experiments.hostile import __main__, changes, corruptions, mutations, tables, workers
from experiments.hostile.outcomes import FAILURES, HARMLESS
from experiments.hostile.readers import READERS, Reader
from experiments.hostile.trials import Trials, fingerprint

TRIALS = 120  # of a reader that takes a millisecond
SEED = 1


def failures(reader, name, folder, count):
    trials = Trials(reader, folder)
    outcomes = {number: trials.run(f"{SEED} {name} {number}") for number in range(count)}
    assert {outcome.kind for outcome in outcomes.values()} <= {*HARMLESS, *FAILURES}
    return {number: o for number, o in outcomes.items() if o.kind in FAILURES}, outcomes


@pytest.mark.parametrize("name", READERS)
def test_no_damaged_file_gives_wrong_numbers_or_an_unknown_error(name, tmp_path):
    reader = READERS[name]
    failed, outcomes = failures(reader, name, tmp_path, int(TRIALS * reader.share**2) + 4)
    assert not failed
    assert not reader.checked or all(outcome.kind != "another" for outcome in outcomes.values())


# --- planted faults ------------------------------------------------------------------------


def write_number(folder):
    np.save(folder / "number.npy", np.array(7))


def read_number(folder):
    return np.load(folder / "number.npy")


def gone(chance, content):
    return None


def unchanged(chance, content):
    return content


def other_number(chance, content):
    return content[:-8] + bytes([8]) + content[-7:]


def raises(error):
    def read(folder):
        if "trial" in (folder / "number.npy").read_bytes().decode("latin-1"):
            raise error
        return 7

    return read


def damage(chance, content):
    return content + b"trial"


PLANTED = {
    "same": Reader(write_number, read_number, unchanged),
    "another": Reader(write_number, read_number, other_number),
    "wrong": Reader(write_number, read_number, other_number, checked=True),
    "undocumented": Reader(write_number, raises(KeyError("entry")), damage),
    "unclear": Reader(write_number, raises(ValueError("somewhere")), damage),
    "memory": Reader(write_number, raises(MemoryError()), damage),
    "refused": Reader(write_number, read_number, gone),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_each_outcome_is_recognised(kind, tmp_path):
    trials = Trials(PLANTED[kind], tmp_path)
    assert trials.run("0").kind == kind
    assert trials.run("1").kind == kind  # the file was restored in between


def test_an_error_of_several_lines_is_unclear(tmp_path):
    path = tmp_path / "trial" / "number.npy"
    reader = Reader(write_number, raises(ValueError(f"{path}: bad\nvery bad")), damage)
    assert Trials(reader, tmp_path).run("0").kind == "unclear"


def test_too_much_memory_behind_another_error_is_recognised(tmp_path):
    def read(folder):
        try:
            return raises(MemoryError())(folder)
        except MemoryError as error:
            raise ValueError(f"{folder / 'number.npy'} is damaged") from error

    assert Trials(Reader(write_number, read, damage), tmp_path).run("0").kind == "memory"


def write_pickle(folder):
    (folder / "content.pkl").write_bytes(pickle.dumps({"a": [1, 2, "three"]}, 2))


def read_pickle(folder):
    try:
        return pickle.loads((folder / "content.pkl").read_bytes())
    except Exception as error:
        raise ValueError(f"{folder / 'content.pkl'} is damaged") from error


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # open files
def test_what_a_pickle_runs_is_noticed(tmp_path):
    reader = Reader(write_pickle, read_pickle, changes.pickled)
    failed, _ = failures(reader, "planted", tmp_path, 200)
    assert Counter(outcome.kind for outcome in failed.values())["executed"] > 5


@pytest.mark.parametrize("gadget", changes.GADGETS)
def test_every_gadget_would_run(gadget, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(b"\x80\x04" + gadget + b".").close()
    assert (tmp_path / changes.CANARY).exists()


def one_of(chance, content):
    return chance.choices([b"fine", b"crash", b"hang", b"fill"], [6, 1, 1, 1])[0]


def read_word(folder):
    word = (folder / "number.npy").read_bytes()
    if word == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == b"hang":
        time.sleep(1000)
    return np.ones(1 << 28).sum() if word == b"fill" else 7  # 2 GiB


def words_of(job, numbers):
    """Returns what a trial of ``one_of`` finds in the one file, by the number of the trial."""
    words = {}
    for number in numbers:
        chance = random.Random(workers.seed_of(job, number))
        chance.choice([None])  # of the files
        words[number] = one_of(chance, b"")
    return words


@pytest.mark.slow  # about 10 s: two processes import JAX one after the other
def test_crashes_hangs_and_memory_end_their_trial_alone():
    job = workers.Job("planted", Reader(write_number, read_word, one_of), 0, ())
    words = words_of(job, range(30))
    kinds = {b"fill": "memory", b"crash": "crashed", b"fine": "same", b"hang": "hung"}
    numbers = [next(n for n in words if words[n] == word) for word in kinds]
    outcomes = {}

    def report(name, number, outcome):
        outcomes[number] = outcome.kind

    options = {"workers": 1, "timeout": 2.0, "memory": 1 << 30}
    workers.run_jobs([job._replace(numbers=numbers)], report, **options)
    assert list(outcomes.values()) == list(kinds.values())


# --- changes -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_a_change_is_a_function_of_its_seed(name):
    content = {"pickle": pickle.dumps([1, 2], 2)}.get(name.split()[-1], b'{"a": [1, {"b": 2}]}')
    for change in (changes.raw, changes.json_text):
        assert change(random.Random(name), content) == change(random.Random(name), content)


def test_values_and_entries_of_json_are_changed_as_a_whole():
    content = b'{"a": [1, 22], "b": {"c": "x, y"}}'
    changed = {changes.json_text(random.Random(seed), content) for seed in range(400)}
    for expected in (
        b'{"b": {"c": "x, y"}}',  # an entry is gone
        b'{"a": [1, 22]}',
        b'{"a": [1], "b": {"c": "x, y"}}',
        b'{"a": [1, 22], "b": {"c": "x, y"}, "b": {"c": "x, y"}}',  # one is there twice
        b'{"a": [1, 22], "b": {"c": NaN}}',  # a value is another
        b'{"a": [1, 22], "b": [{"c": "x, y"}]}',
        b"[]",
    ):
        assert expected in changed


def test_fingerprints_tell_types_shapes_and_bytes_apart():
    values = [0, 0.0, False, None, "0", [0], [[0]], {"a": 0}, {"b": 0}, np.zeros(2)]
    values += [np.zeros((2, 1)), np.zeros(2, np.float32), np.array([0.0, -0.0]), [np.zeros(2)]]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint({"a": np.arange(3)}) == fingerprint({"a": np.arange(3)})


# --- the program ---------------------------------------------------------------------------


def test_the_shares_are_all_of_the_trials():
    numbers = mutations.shares(100_000, tuple(READERS))
    assert sum(numbers.values()) == 100_000
    assert min(numbers.values()) > 100
    assert numbers["idx.gz"] > numbers["only checkpoint"]


def test_the_program_counts_and_writes(tmp_path, capsys):
    path = tmp_path / "counts.json"
    options = ["--count", "30", "--only", "idx.gz", "--workers", "1", "--output", str(path)]
    assert __main__.main(["mutations", *options]) == 0
    content = record.read(path)
    assert content["failed"] == 0
    assert content["failures"] == []
    assert content["cases"]["idx.gz"]["trials"] == content["count"] == 30
    assert sum(content["cases"]["idx.gz"].get(kind, 0) for kind in HARMLESS) == 30
    assert "idx.gz" in capsys.readouterr().out
    assert "| all |  | 30 |" in tables.tables(tmp_path)["mutations"]


def test_the_table_of_a_program_has_the_columns_that_it_counts(tmp_path):
    content = {"seconds": 7.2, "processor": "A CPU", "seed": 0, "versions": {"dann_jax": "1"}}
    kills = {"SIGKILL": {"trials": 4, "same": 3, "failed": 1, "statuses": {"137": 4}}}
    bits = {"state": {"checksum": True, "trials": 5, "same": 2, "refused": 2, "wrong": 1}}
    for program, cases in {"kills": kills, "corruptions": bits}.items():
        record.write_json(
            tmp_path / f"{program}.json", content | {"program": program, "cases": cases}
        )
    every = tables.tables(tmp_path)
    assert every["kills"].splitlines()[0] == "|  | trials | same | failed |"
    assert "| SIGKILL | 4 | 3 | 1 |" in every["kills"]
    assert "| all | 4 | 3 | 1 |" in every["kills"]
    assert "| state | yes | 5 | 2 | 2 | 1 |" in every["corruptions"]
    assert "7 s on A CPU, seed 0, dann_jax 1." in every["corruptions"]


def test_wrong_options_are_refused(capsys):
    assert __main__.main(["mutations", "--count", "0"]) == 2
    assert "--count" in capsys.readouterr().err
    assert __main__.main(["corruptions", "--count", "0"]) == 2


def test_the_committed_counts_have_no_failure():
    for path in report.HOSTILE.glob("*.json"):
        content = record.read(path)
        assert content["failed"] == 0, path
        assert sum(case["trials"] for case in content["cases"].values()) == content["count"]


@pytest.mark.slow  # about 20 s: a run is cut off, and goes on after each flipped bit
@pytest.mark.usefixtures("quick_compilation")
def test_a_run_goes_on_unharmed_from_a_flipped_bit_or_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setitem(settings.NETWORKS, "mnist_batch_norm", network)
    run = corruptions.Run(tmp_path)
    arrays = "prepared arrays", "prepared arrays of a new run"
    for name in ("last checkpoint", "record", *arrays, "state"):
        outcome, place = run.disturbed(name, f"{SEED} {name}"), corruptions.PLACES[name]
        assert outcome.kind in HARMLESS, (name, outcome)
        assert outcome.kind != "another" or not place.checked
