"""Results made again, on a small version of the embedded data."""

import json
import math

import jax
import pytest
from test_report import an_alignment

from experiments import consistency, domains, record, run, studies, train, verify
from experiments.methods import METHODS
from experiments.plan import config_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

FEW = ["--steps", "6", "--evaluate-every", "3", "--batch-size", "8", "--network", "mnist"]
FEW += ["--divergence"]


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Lets all trainings of equal settings share their compiled programs."""
    kept, prepare = {}, studies.prepare

    def once(config, method, pair, devices):
        if (config, method) not in kept:
            kept[config, method] = prepare(config, method, pair, devices)
        return kept[config, method]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "prepare", once)
        yield


@pytest.fixture(scope="module")
def made(data_dir, tmp_path_factory, quick_compilation):
    """A result of two keys that were trained as one program, with an entry at steps 3 and 6."""
    output = tmp_path_factory.mktemp("runs")
    where = ["--data-dir", str(data_dir), "--output", str(output), "--compilation-cache", "none"]
    how = ["--methods", "dann", "--keys", "2", "--devices", "1", "--together", "2"]
    assert run.main(["digits_digits_m", *FEW, *where, *how]) == 0
    return record.read(output / "digits_digits_m" / "dann.json")


@pytest.fixture
def check(made, data_dir, tmp_path, capsys):
    """Verifies a changed copy of the result; returns the status and all that was told."""

    def check(change, *options):
        result = json.loads(json.dumps(made))
        change(result)
        path = tmp_path / "dann.json"
        record.write_json(path, result)
        status = verify.main([str(path), "--data-dir", str(data_dir), *options])
        told = capsys.readouterr()
        return status, told.out + told.err

    return check


@pytest.fixture
def one_training(monkeypatch):
    """Trains once for all calls of a test."""
    kept, real = {}, train.train

    def once(prepared, keys, *others, **options):
        if keys not in kept:
            kept[keys] = real(prepared, keys, *others, **options)
        return kept[keys]

    monkeypatch.setattr(train, "train", once)


@pytest.fixture
def no_training(monkeypatch):
    def started(*_, **__):
        raise AssertionError("a training was started")

    monkeypatch.setattr(train, "train", started)


def leave(result):
    """Changes nothing."""


def scaled(name, factor):
    """Returns a change of the last number in a curve of key 0."""

    def change(result):
        result["curves"][0]["training"][name][-1] *= factor

    return change


def another_accuracy(result):
    """Changes the first accuracy of key 1."""
    result["curves"][1]["evaluations"]["source_accuracy"][0] += 0.5


def lower_accuracy(result):
    """Changes the last accuracy of key 1 by one example of 20, and what follows from it."""
    accuracy = result["target_accuracy"][1]
    accuracy = (round(20 * accuracy) + (1 if accuracy < 0.5 else -1)) / 20
    result["curves"][1]["evaluations"]["target_accuracy"][-1] = accuracy
    result["target_accuracy"][1] = accuracy
    result["mean"], result["std"] = consistency.mean_and_std(result["target_accuracy"])


def test_keys_that_were_trained_together_are_made_again_bit_for_bit(check):
    status, told = check(leave, "--key", "1")
    assert status == 0
    assert "dann, key 0, 1: 6 of 6 steps on cpu x1" in told
    # 7 curves with 2 entries, and 2 accuracies and 2 distances with 2, for 2 keys each
    assert (
        "compared: discriminator_bound 4, domain_accuracy 4, domain_loss 4, feature_norm 4" in told
    )
    assert "proxy_a_distance 4, source_accuracy 4, target_accuracy 4; digests" in told
    assert "agrees bit for bit, in the six digits that a file keeps: 44 numbers" in told
    assert told.endswith("; the linear SVMs were not compared\n")


def test_first_steps_have_the_schedules_of_the_whole(check):
    status, told = check(leave, "--steps", "2")
    assert status == 0
    assert "step 2 has no entry in the curves: step 3 is the next" in told
    assert "file keeps: 22 numbers" in told


@pytest.mark.usefixtures("one_training")
def test_a_changed_number_is_noticed(check):
    for name in ("lam", "mu"):  # which the settings decide
        status, told = check(scaled(name, 1.3))
        assert (status, f"{name}[1]: expected " in told, "at step 6, got" in told) == (
            2,
            True,
            True,
        )
    for name in ("label_loss", "domain_loss", "feature_norm"):
        status, told = check(scaled(name, 1.3))
        assert status == 1
        assert f"differs at step 6: {name} of key 0" in told
    status, told = check(another_accuracy)
    assert (status, "differs at step 3: source_accuracy of key 1" in told) == (1, True)
    status, told = check(scaled("label_loss", 1.00001))  # bits are asked for
    assert (status, "differs at step 6: label_loss of key 0" in told) == (1, True)
    assert "tolerance 0); --tolerance 0.1 allows" in told
    status, told = check(scaled("label_loss", 1.00001), "--tolerance", "0.001")
    assert (status, "agrees within the tolerance, not bit for bit" in told) == (4, True)
    assert "the first that is not the same: label_loss of key 0 at step 6" in told


def elsewhere(entry, value):
    """Returns a change of what decides the last bits, and of one loss by a per cent."""

    def change(result):
        (result if entry in result else result["versions"])[entry] = value
        scaled("label_loss", 1.01)(result)

    return change


@pytest.mark.usefixtures("one_training")
@pytest.mark.parametrize(
    ("entry", "value", "named"),
    [
        ("processor", "A CPU (model 1)", "A CPU (model 1)"),
        ("processor", None, "not named"),
        ("threads", 99, "99"),
        ("jax", "0.0.1", "0.0.1"),
    ],
)
def test_elsewhere_numbers_may_differ_within_the_wide_tolerance(check, entry, value, named):
    status, told = check(elsewhere(entry, value))
    assert status == 4
    assert f"not the same: {entry} {named} in the file, " in told
    assert "agrees within the tolerance on another processor, or with other" in told
    assert "tolerance 0.1)" in told
    both = lambda result: (elsewhere(entry, value)(result), lower_accuracy(result))  # noqa: E731
    status, told = check(both, "--key", "1")
    assert (status, "accuracies differ by at most 0.0500: target_acc" in told) == (1, True)
    assert check(elsewhere(entry, value), "--tolerance", "0.001")[0] == 1


@pytest.mark.usefixtures("one_training")
def test_where_nothing_is_changed_bits_are_asked_for(check):
    status, told = check(lower_accuracy)
    assert (status, "tolerance 0)" in told) == (1, True)
    assert "accuracies differ by at most 0.0500: target_accuracy of key 1 at step 6 is" in told
    assert check(lower_accuracy, "--tolerance", "2")[0] == 4
    status, told = check(scaled("label_loss", 1.01))
    assert (status, "tolerance 0); --tolerance 0.1 allows" in told) == (1, True)


@pytest.mark.parametrize("tolerance", ["nan", "inf", "-1"])
def test_a_tolerance_that_is_none_is_refused(check, tolerance):
    status, told = check(leave, "--tolerance", tolerance)
    assert (status, "--tolerance must be a number from 0 on" in told) == (2, True)


def test_with_other_versions_the_same_bits_are_still_the_same(check):
    def older(result):
        result["versions"]["jax"] = "0.0.1"

    status, told = check(older, "--tolerance", "0.2")
    assert status in (0, 4)  # a key alone: the group decides no more than the last bits
    assert f"not the same: jax 0.0.1 in the file, {jax.__version__} here" in told
    assert "dann, key 0: 6 of 6" in told
    assert ("agrees bit for bit" in told) == (status == 0)
    assert ("agrees within the tolerance on another" in told) == (status == 4)


def test_a_setting_that_is_younger_than_the_file_has_its_default(check):
    status, told = check(lambda r: r["resolved_config"].pop("nesterov"))
    assert status == 0
    assert "agrees bit for bit" in told


SVHN = {"examples": 1, "sha256": "0" * 64}


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("change", "options", "hint"),
    [
        (
            lambda r: r["data"]["digits_m/test"].update(sha256="0" * 64),
            [],
            "(digits_m/test: expected 20 examples of sha256 000000000000, got 20 examples of",
        ),
        (lambda r: r["data"].update({"svhn/test": SVHN}), [], "only data that the settings name"),
        (lambda r: r.update(mean=0.9), [], "mean: expected 0."),
        (lambda r: r["resolved_config"].update(warp=9), [], "warp: expected no such entry, got 9"),
        (lambda r: r["resolved_config"].update(network="minst"), [], "got 'minst'"),
        (lambda r: r["resolved_config"].update(steps=7), [], "steps: expected 7, that of resolved"),
        (
            lambda r: r["curves"][1]["training"]["step"].pop(),
            [],
            "expected 1 entries, as many as steps, got 2",
        ),
        (lambda r: r.update(curves=[]), [], "curves: expected an entry for each of 2 keys, got 0"),
        (leave, ["--weights", "a.npz"], "weights and frozen are a backbone's"),
        (leave, ["--key", "7"], "--key 7: the file has 0, 1"),
        (leave, ["--steps", "7"], "--steps must be 1 to 6"),
        (leave, ["--devices", "99"], "this process has"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_a_training(check, change, options, hint):
    status, told = check(change, *options)
    assert status == 2
    assert hint in told


@pytest.mark.usefixtures("no_training")
def test_files_from_before_parts_had_a_name_are_of_the_same_data(check, monkeypatch):
    load = domains.load_pair

    def part(*arguments, **options):
        pair = load(*arguments, **options)
        named = {name: {**each, "part": "first 20"} for name, each in pair.provenance.items()}
        return pair._replace(provenance=named)

    monkeypatch.setattr(domains, "load_pair", part)
    with pytest.raises(AssertionError, match="a training was started"):
        check(leave)


@pytest.fixture
def trained(monkeypatch, one_training):
    """Lets a test change the records of the training."""
    change, once = {}, train.train

    def changed(*arguments, **options):
        records = json.loads(json.dumps(once(*arguments, **options)))
        change.get("by", lambda _: None)(records)
        return records

    monkeypatch.setattr(train, "train", changed)
    return lambda by: change.update(by=by)


def test_digests_are_compared(check, trained):
    digests = {name: name[:1] * 64 for name in ("parameters", "losses", "accuracies")}
    digests = {name: "0123"[i] * 64 for i, name in enumerate(digests)}

    def of_both(result):
        result["digests"] = [digests, None]

    def another(result):
        result["digests"] = [digests | {"losses": "f" * 64}, None]

    trained(lambda records: [each.update(digests=digests) for each in records])
    status, told = check(of_both)
    assert (status, "; digests 3" in told, "agrees bit for bit" in told) == (0, True, True)
    status, told = check(another)
    assert (status, "differs: the digests of losses of key 0" in told) == (1, True)
    assert check(another, "--tolerance", "0.001")[0] == 4
    trained(lambda records: [each.update(digests=None) for each in records])
    assert "; digests 0" in check(of_both)[1]


def diverge(records):
    """Ends the training of key 0 at step 5."""
    records[0]["diverged"] = {"step": 5, "term": "label_loss", "checkpoint": None}
    records[0]["curves"].pop()
    records[0]["evaluations"].pop()


def as_diverged(result):
    """Changes a result to that of such a training."""
    result["diverged"][0] = {"step": 5, "term": "label_loss", "checkpoint": None}
    result["target_accuracy"][0] = result["source_accuracy"][0] = None
    result["mean"] = result["std"] = None
    for columns in result["curves"][0].values():
        for column in columns.values():
            column.pop()
    for name in ("svm", "svm_accuracy", "svm_mean", "svm_std"):
        result.pop(name)


def as_known_by_an_entry(result):
    """Changes a result to one of before format 3, which has entries after the divergence."""
    as_diverged(result)
    result["diverged"][0]["step"] = 6
    training = result["curves"][0]["training"]
    for name, column in training.items():
        column.append({"step": 6, "lam": 0.5, "mu": 0.01}.get(name))


def test_a_diverged_training_has_to_diverge_again(check, trained):
    trained(diverge)
    status, told = check(as_diverged)
    # Of key 0, 7 curves, 2 accuracies and 2 distances at step 3, and where it diverged; 22 of
    # key 1.
    assert status == 0
    assert "the linear SVMs" not in told
    assert "file keeps: 33 numbers of the curves and evaluations and the step of div" in told
    assert "the step of divergence 1" in told
    status, told = check(lambda r: (as_diverged(r), r["diverged"][0].update(step=4)))
    assert (status, "is 4 in the file, 5 here" in told) == (1, True)
    status, told = check(as_known_by_an_entry)
    assert (status, "agrees within the tolerance, not" in told) == (4, True)
    assert "the step of divergence of key 0 at step 6 is 6 in the file, 5 here" in told
    status, told = check(leave)
    assert (status, "the step of divergence of key 0" in told) == (1, True)
    trained(lambda records: None)
    status, told = check(as_diverged)
    assert (status, "step of divergence of key 0 at step 5 is 5 in the file, None" in told) == (
        1, True,
    )  # fmt: skip


def test_an_entry_that_the_file_has_alone_is_a_difference(check, trained):
    trained(lambda records: [each["curves"].pop() for each in records])
    status, told = check(leave)
    assert status == 1
    assert "the number of training entries of key 0 at step 6 is 1 in the file, 0 here" in told


@pytest.mark.usefixtures("no_training")
def test_a_closed_form_is_verified_by_its_trainings(tmp_path, capsys):
    path = tmp_path / "sa.json"
    record.write_json(path, an_alignment())
    assert verify.main([str(path)]) == 2
    assert "verify source-only.json" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_told(tmp_path, capsys):
    assert verify.main([str(tmp_path / "dann.json")]) == 2
    assert "got no file" in capsys.readouterr().err


def test_a_training_that_stops_early_is_not_finished(made, data_dir, tmp_path):
    config = config_of(made["resolved_config"], None)
    pair = domains.load_pair(config, data_dir=data_dir)
    prepared = studies.prepare(config, METHODS["dann"], pair, jax.local_devices()[:1])
    (one,) = train.train(prepared, [0], tmp_path, stop=4)
    assert not one["finished"]
    assert [entry["step"] for entry in one["curves"]] == [3, 4]
    assert [entry["step"] for entry in one["evaluations"]] == [3]
    assert not list(tmp_path.rglob("state"))
    (one,) = train.train(prepared, [0], tmp_path, stop=60)
    assert one["finished"]
    assert one["curves"][-1]["step"] == 6


def test_differences_are_shares_of_the_largest_value_of_a_curve():
    expected = {
        "training": {"step": [50.0, 100.0], "label_loss": [2.0, 0.5], "domain_loss": [None, None]},
        "evaluations": {"step": [100.0], "target_accuracy": [0.5]},
    }
    got = {
        "training": {"step": [50], "label_loss": [1.5], "domain_loss": [math.nan]},
        "evaluations": {},
    }
    found = verify.differences(3, expected, got)
    assert found == [
        verify.Difference(3, 50, "label_loss", 2.0, 1.5, 0.25),
    ]
    got["training"] = {"step": [50, 100], "label_loss": [2.0, 1.0], "domain_loss": [None, 0.7]}
    shares = {
        (each.name, each.step): each.relative for each in verify.differences(3, expected, got)
    }
    assert shares["label_loss", 100] == 0.25  # of 2.0, not of 0.5
    assert shares["domain_loss", 100] == math.inf


def test_penalties_are_compared():
    columns = {"training": {"step": [50, 100], "mu": [0.1, 0.1], "penalties": {"mmd": [2.0, 1.0]}}}
    got = json.loads(json.dumps(columns))
    got["training"]["penalties"]["mmd"][1] = 1.5
    expected = [
        verify.Difference(3, 50, "mmd", 2.0, 2.0, 0.0),
        verify.Difference(3, 50, "mu", 0.1, 0.1, 0.0),
        verify.Difference(3, 100, "mmd", 1.0, 1.5, 0.25),
        verify.Difference(3, 100, "mu", 0.1, 0.1, 0.0),
    ]
    assert verify.differences(3, columns, got) == expected


def test_an_environment_differs_in_what_decides_the_last_bits():
    here = {
        "data": {}, "device": "cpu", "device_count": 1, "process_count": 1, "plain_xla": False,
        "threads": 2, "processor": "A", "versions": {"jax": "0.10.2", "grain": "0.2.18"},
    }  # fmt: skip
    there = here | {"versions": {"jax": "0.10.2"}}
    assert verify.environment(there, here) == {}
    assert verify.environment(there, here | {"plain_xla": True}) == {"plain_xla": (False, True)}
    assert verify.environment(there, here | {"threads": 8}) == {"threads": (2, 8)}
    other = verify.environment(there | {"device": "A GPU", "threads": None}, here)
    assert other == {"device": ("A GPU", "cpu"), "threads": (None, 2)}
    assert verify.environment(there | {"processor": "A; B"}, here) == {"processor": ("A; B", "A")}
    del there["processor"]
    assert verify.environment(there, here) == {"processor": (None, "A")}
    of_gpu = {"device": "A GPU", "threads": None}  # which computes alone
    assert verify.environment(there | of_gpu, here | of_gpu) == {}
