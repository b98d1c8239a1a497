"""Keys that are trained as one program have the numbers of keys trained one by one."""

import contextlib
import dataclasses
import json
import types

import flax.linen as nn
import jax
import numpy as np
import pytest

from dann_jax import DannModel, checkpoints, datasets
from dann_jax.networks import FullyConnected
from dann_jax.programs import Group, group_keys
from experiments import configs, domains, plan, record, run, settings, studies, train, trained
from experiments.methods import METHODS
from experiments.options import Options

pytestmark = pytest.mark.usefixtures("quick_compilation")

STEPS = 6


class Features(nn.Module):
    """Dense features."""

    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(8)(x.reshape(len(x), -1)))


def network(*, classes, **_):
    return DannModel(
        feature_extractor=Features(),
        label_predictor=FullyConnected((), classes),
        domain_classifier=FullyConnected((4,), 1),
    )


def image_set(seed):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, [24, 8, 8, 3], np.uint8)
    return datasets.ImageSet(images, random.integers(0, 3, 24, np.int32))


CONFIG = settings.Config(
    source="a", target="b", classes=3, image_size=8, steps=STEPS, batch_size=8, evaluate_every=2
)
DATA = {
    f"{name}/{split}": {"examples": 24, "sha256": "0" * 64}
    for name in "ab"
    for split in ("train", "test")
}
PAIR = domains.Pair(*map(image_set, range(4)), ("x", "y", "z"), True, None, DATA)


@contextlib.contextmanager
def small_config(config=CONFIG, pair=PAIR):
    """Makes a small pair the experiment of every name, for ``run.main``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(settings.NETWORKS, "mnist", network)
        patch.setattr(configs, "find_config", lambda name: (config, "A small pair."))
        patch.setattr(domains, "load_pair", lambda *_, **__: pair)
        yield patch


def prepared(devices):
    with small_config():
        return studies.prepare(CONFIG, METHODS["dann"], PAIR, jax.local_devices()[:devices])


@pytest.fixture(scope="module")
def ready(quick_compilation):
    """A study on one device; its programs, of one key and of three, are compiled once."""
    return prepared(1)


@pytest.fixture(scope="module")
def alone(ready, tmp_path_factory):
    """The record of each of some keys, trained one by one."""
    keys = [7, 2**32 - 1, 0]
    return dict(zip(keys, train.train(ready, keys, tmp_path_factory.mktemp("one")), strict=True))


def assert_near(one, other):
    for name in ("curves", "evaluations"):
        for entry, expected in zip(one[name], other[name], strict=True):
            assert entry == pytest.approx(expected, abs=1e-4), name


def test_keys_trained_together_have_the_numbers_of_each_alone(ready, alone, tmp_path):
    many = train.train(ready, list(alone), tmp_path, together=None)
    for (key, one), each in zip(alone.items(), many, strict=True):
        assert_near(each, one)
        assert trained.group_of(each) == Group(tuple(alone), 1)
        assert trained.group_of(one) == Group((key,), 1)
        assert each == record.read_record(tmp_path, key)
    assert many[0]["curves"] != many[1]["curves"]


def test_devices_share_the_batches_of_keys_that_are_too_few(alone, tmp_path, devices):
    keys = [7, 0]
    records = train.train(prepared(4), keys, tmp_path, together=None)
    for key, each in zip(keys, records, strict=True):
        assert trained.group_of(each) == Group((7, 0), 2)
        assert_near(each, alone[key])


class CutOff(Exception):
    pass


def cut(told):
    if told.step > 4:
        raise CutOff


def test_a_group_that_was_cut_off_goes_on_with_the_same_bits(ready, tmp_path):
    options = {"together": None, "checkpoint_every": 2}
    whole = train.train(ready, [0, 1, 2], tmp_path / "whole", **options)
    with pytest.raises(CutOff):
        train.train(ready, [0, 1, 2], tmp_path / "cut", **options, report=cut)
    with pytest.raises(ValueError, match=r"key 0 .* begun together with other keys \(0, 1, 2\)"):
        train.train(ready, [0, 1], tmp_path / "cut", **options)
    told = []
    resumed = train.train(ready, [0, 1, 2, 3], tmp_path / "cut", **options, report=told.append)
    assert min(report.step for report in told if report.key < 3) > 4, "from the checkpoint"
    assert [each["together"] for each in resumed] == [[0, 1, 2]] * 3 + [[3]]
    for each, expected in zip(resumed, whole, strict=False):
        for name in ("curves", "evaluations", "target_accuracy", "source_accuracy", "warnings"):
            assert each[name] == expected[name]


def test_a_group_on_many_devices_that_was_cut_off_goes_on(tmp_path, devices):
    spread = prepared(4)
    options = {"together": None, "checkpoint_every": 2}
    whole = train.train(spread, [0, 1], tmp_path / "whole", **options)
    with pytest.raises(CutOff):
        train.train(spread, [0, 1], tmp_path / "cut", **options, report=cut)
    resumed = train.train(spread, [0, 1], tmp_path / "cut", **options)
    assert [each["curves"] for each in resumed] == [each["curves"] for each in whole]


def test_a_group_cut_off_between_its_last_records_stays_together(ready, tmp_path):
    write = record.write_json

    def full(path, content, **options):
        if content["finished"] and path.parent.name == "key_1":
            raise OSError("no space left on device")
        write(path, content, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "write_json", full)
        with pytest.raises(OSError, match="no space left"):
            train.train(ready, [0, 1, 2], tmp_path, together=None)
    records = train.train(ready, [0, 1, 2], tmp_path, together=None)
    assert [each["together"] for each in records] == [[0, 1, 2]] * 3
    assert all(each["finished"] for each in records)


def test_a_finished_key_is_not_trained_again(ready, tmp_path):
    (first,) = train.train(ready, [1], tmp_path)
    told = []
    records = train.train(ready, [0, 1, 2, 3], tmp_path, together=None, report=told.append)
    assert {report.key for report in told} == {0, 2, 3}
    assert records[1] == first
    assert records[0]["together"] == [0, 2, 3]


def test_each_key_has_its_predictions(ready, tmp_path):
    ready = dataclasses.replace(
        ready, pair=PAIR._replace(target_files=[f"{i}.png" for i in range(24)])
    )
    train.train(ready, [0, 1, 2], tmp_path, together=None)
    texts = [(tmp_path / f"key_{key}" / "predictions.csv").read_text() for key in (0, 1, 2)]
    assert [len(text.splitlines()) for text in texts] == [25] * 3
    assert len(set(texts)) == 3


def test_batches_that_do_not_split_are_refused_before_anything_is_moved(tmp_path, devices, capsys):
    def call(*options):
        where = ["--output", str(tmp_path), "--methods", "dann", "--batch-size", "6"]
        with small_config():
            return run.main(["small", *where, "--devices", "2", "--keys", "2", *options])

    (tmp_path / "small" / "dann").mkdir(parents=True)
    for options in (["--together", "1"], ["--together", "2", "--devices-per-key", "2"]):
        assert call(*options, "--overwrite") == 2
        assert "batch" in capsys.readouterr().err
    assert (tmp_path / "small" / "dann").exists()


def test_the_command_line_trains_keys_together_and_says_so(ready, tmp_path, capsys):
    def call(*options):
        where = ["--output", str(tmp_path), "--methods", "dann", "--devices", "1"]
        with small_config() as patch:
            patch.setattr(studies, "prepare", lambda *_: ready)
            assert run.main(["small", *where, *options]) == 0
        return json.loads((tmp_path / "small" / "dann.json").read_text())

    result = call("--keys", "3", "--together", "3")
    assert result["groups"] == [{"keys": [0, 1, 2], "devices_per_key": 1}]
    assert "--together 3" in result["command"]
    assert result["compile_seconds"] >= 0
    assert result["programs_from_cache"] == 0
    assert result["peak_resident_bytes"] > 2**20
    told = capsys.readouterr().out
    assert "dann key 1 step 6" in told
    assert "programs compiled in" in told
    result = call("--keys", "4")
    assert result["groups"] == [
        {"keys": [0, 1, 2], "devices_per_key": 1},
        {"keys": [3], "devices_per_key": 1},
    ]
    assert result["command"].endswith("--keys 4 --together 3")


def a_job(keys, together, **options):
    return plan.Job(
        name="small",
        method=METHODS["dann"],
        options=Options(**{"config": CONFIG, "keys": keys, "together": together} | options),
        trains=True,
        head=False,
    )


@pytest.mark.parametrize(
    ("sizes", "devices_per_key", "words"),
    [
        ([1, 1, 1], 1, ""),
        ([3], 1, " --together 3"),
        ([2, 1], 1, " --together 2"),
        ([1, 2], 1, "  # in several calls, for other keys each: see groups"),
    ],
)
def test_a_command_makes_the_groups_of_its_result(sizes, devices_per_key, words):
    left = iter(range(sum(sizes)))
    groups = [Group(tuple(next(left) for _ in range(n)), devices_per_key) for n in sizes]
    for asked in ("auto", 1) if max(sizes) > 1 else ("auto",):
        assert plan.grouping(a_job(sum(sizes), asked), groups, jax.local_devices()[:1]) == words


@pytest.mark.parametrize(
    ("platform", "network", "expected"),
    [("cpu", "mnist", 1), ("gpu", "mnist", None), ("gpu", "svhn", 2)],
)
def test_keys_are_trained_together_where_that_pays(platform, network, expected):
    config = dataclasses.replace(CONFIG, network=network)
    devices = [types.SimpleNamespace(platform=platform)] * 2
    assert a_job(3, "auto", config=config).most_together(devices) == expected
    assert a_job(3, 3, config=config).most_together(devices) == 3
    for one_by_one in ("streaming", "distributed"):
        job = a_job(3, "auto", config=config, **{one_by_one: True})
        assert job.most_together(devices) == 1


def test_an_option_that_makes_the_groups_is_kept():
    job = a_job(3, 2, devices_per_key=1)
    words = plan.grouping(
        job, group_keys([0, 1, 2], 1, together=2, devices_per_key=1), jax.local_devices()[:1]
    )
    assert words == " --together 2 --devices-per-key 1"


def test_an_overwrite_that_was_cut_off_does_not_bind_the_next(ready, tmp_path):
    def call(*options):
        where = ["--output", str(tmp_path), "--methods", "dann", "--devices", "1"]
        with small_config() as patch:
            patch.setattr(studies, "prepare", lambda *_: ready)
            return run.main(["small", *where, *options])

    def interrupted(*_):
        raise KeyboardInterrupt

    assert call("--keys", "1") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", interrupted)  # when the records are written
        options = ("--keys", "3", "--together", "3", "--checkpoint-every", "2")
        assert call(*options, "--overwrite") == 130
    assert record.read(tmp_path / "small" / "dann" / "key_2" / "record.json")
    assert call("--keys", "1", "--overwrite") == 0
    assert record.read(tmp_path / "small" / "dann.json")["keys"] == [0]
    assert not (tmp_path / "small" / "dann" / "key_2").exists()


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--together", "0"], "--together must be auto or at least 1, got 0"),
        (["--together", "2", "--streaming"], "one key at a time"),
        (["--devices", "1", "--devices-per-key", "2"], "divisor of the number of devices, 1"),
        (["--distributed", "--together", "2"], "one key at a time on all devices"),
        (["--distributed", "--coordinator", "localhost:1"], "or none of them, got localhost:1"),
        (["--coordinator", "localhost:1"], "need --distributed: add it"),
    ],
)
def test_impossible_groups_are_told_before_anything_starts(options, hint, tmp_path, capsys):
    assert run.main(["digits_digits_m", "--output", str(tmp_path), *options]) == 2
    assert hint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
