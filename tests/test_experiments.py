"""The command line end to end, on a small version of the embedded data."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from PIL import Image

from dann_jax import datasets
from experiments import configs, domains, execute, record, run, studies, train, trained
from experiments.figures import look
from experiments.methods import METHODS, gap_covered
from experiments.settings import Config

pytestmark = pytest.mark.usefixtures("quick_compilation")

FEW = ["--steps", "6", "--baseline-steps", "3", "--evaluate-every", "3", "--batch-size", "8"]
FEW += ["--no-svm"]  # see test_tables
SCHEMA = {
    "config", "method", "source", "target", "keys", "target_accuracy", "mean", "std",
    "source_accuracy", "selection", "steps", "batch_size", "domain_loss", "device",
    "device_count", "versions", "data", "wall_seconds", "steps_per_second", "curves",
    "resolved_config",
}  # fmt: skip


@pytest.fixture
def small(data_dir):
    config = dataclasses.replace(
        configs.find_config("digits_digits_m")[0], steps=6, batch_size=8, evaluate_every=2
    )
    return config, domains.load_pair(config, data_dir=data_dir)


def call(data_dir, output, *options):
    where = ["--data-dir", str(data_dir), "--output", str(output)]
    return run.main(["digits_digits_m", *FEW, *where, *options])


def test_a_run_writes_results_curves_and_a_table_and_keeps_them(data_dir, tmp_path, capsys):
    assert call(data_dir, tmp_path, "--keys", "2", "--devices", "1") == 0
    told = capsys.readouterr().out
    for word in ("source-only", "sa, oracle", "dann", "train-on-target", "gap", "L_d"):
        assert word in told
    folder = tmp_path / "digits_digits_m"
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    for method in ("source-only", "dann", "train-on-target"):
        result = json.loads((folder / f"{method}.json").read_text())
        assert set(result) >= SCHEMA
        assert result["method"] == method
        assert result["keys"] == [0, 1]
        assert len(result["target_accuracy"]) == len(result["source_accuracy"]) == 2
        assert result["mean"] == pytest.approx(np.mean(result["target_accuracy"]))
        assert result["std"] == pytest.approx(np.std(result["target_accuracy"], ddof=1))
        assert result["selection"] == "last step"
        assert result["steps"] == (6 if method == "dann" else 3)
        assert result["device_count"] == 1
        assert (result["domain_loss"] is not None) == (method == "dann")
        assert result["data"]["digits_m/test"]["examples"] == 20
        curve = result["curves"][1]
        assert curve["training"]["step"][-1] == result["steps"]
        assert curve["evaluations"]["target_accuracy"][-1] == pytest.approx(
            result["target_accuracy"][1], abs=1e-5
        )

    before = (folder / "dann.json").stat().st_mtime_ns
    assert call(data_dir, tmp_path, "--keys", "2", "--devices", "1") == 0
    assert "is there already" in capsys.readouterr().out
    assert call(data_dir, tmp_path, "--keys", "1") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert call(data_dir, tmp_path, "--keys", "2", "--mu0", "0.5") == 2
    assert (folder / "dann.json").stat().st_mtime_ns == before
    options = ("--methods", "dann", "--keys", "2", "--devices", "1", "--mu0", "0.001")
    assert call(data_dir, tmp_path, *options, "--overwrite") == 0
    result = json.loads((folder / "dann.json").read_text())
    assert result["resolved_config"]["mu0"] == 0.001
    assert "digits_digits_m --methods dann --keys 2" in result["command"]
    assert "--mu0 0.001" in result["command"]
    assert str(tmp_path) not in json.dumps(result)


def test_batches_that_devices_cannot_share_are_told_before_the_first_training(
    devices, data_dir, tmp_path, capsys
):
    few = ["--few-labels", "2", "--few-labels-in-batch", "6", "--batch-size", "16"]
    methods = ["--methods", "source-only", "source-and-few-labels"]
    assert call(data_dir, tmp_path, *few, *methods, "--devices", str(len(devices))) == 2
    assert "6 target examples cannot be split over 4 devices" in capsys.readouterr().err
    assert not (tmp_path / "digits_digits_m" / "source-only").exists()


def test_an_overwrite_that_is_interrupted_says_what_comes_of_the_rest(
    data_dir, tmp_path, monkeypatch, capsys
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "execute", interrupted)
    assert call(data_dir, tmp_path) == 130
    assert "finished is kept, and the same command does the rest" in capsys.readouterr().err
    assert call(data_dir, tmp_path, "--overwrite") == 130
    assert "retrains finished methods too" in capsys.readouterr().err


def test_a_run_that_was_cut_off_goes_on_with_the_same_numbers(small, tmp_path):
    config, pair = small
    config = dataclasses.replace(config, divergence=True)
    prepared = studies.prepare(config, METHODS["dann"], pair, jax.local_devices()[:1])

    def trained(folder, report=lambda r: None):
        return train.train(prepared, [3], folder, checkpoint_every=2, report=report)[0]

    class CutOff(Exception):
        pass

    def cut(told):
        if told.step > 4:
            raise CutOff

    whole = trained(tmp_path / "whole")
    with pytest.raises(CutOff):
        trained(tmp_path / "cut", cut)
    steps = []
    resumed = trained(tmp_path / "cut", lambda told: steps.append(told.step))
    assert min(steps) > 4, "it went on from the checkpoint"
    for name in ("curves", "evaluations", "target_accuracy", "source_accuracy"):
        assert resumed[name] == whole[name]
    assert {"proxy_a_distance", "discriminator_bound"} < resumed["evaluations"][0].keys()


def test_a_folder_with_other_settings_or_data_is_refused(small, tmp_path):
    config, pair = small
    config = dataclasses.replace(config, steps=2, baseline_steps=2)
    devices = jax.local_devices()[:1]
    prepared = studies.prepare(config, METHODS["source-only"], pair, devices)
    train.train(prepared, [0], tmp_path)
    other = dataclasses.replace(prepared, config=dataclasses.replace(config, mu0=0.5))
    with pytest.raises(ValueError, match=r"settings \(mu0: 0.03 there, 0.5 asked for\).*--output"):
        train.train(other, [0], tmp_path)

    def with_data(**entries):
        data = {name: {**each, **entries} for name, each in pair.provenance.items()}
        return dataclasses.replace(prepared, origin={**prepared.origin, "data": data})

    named = with_data(part="first 20")  # which records did not have from the beginning
    assert trained.restored(named, 0, tmp_path).step == 2
    train.train(named, [0], tmp_path)
    for function, keys in ((trained.restored, 0), (train.train, [0])):
        with pytest.raises(ValueError, match=r"other data \(digits/train: expected 40.*--data-dir"):
            function(with_data(sha256="0" * 64), keys, tmp_path)


def test_source_only_and_dann_see_no_target_label(small):
    _, pair = small
    for method in ("source-only", "dann"):
        arrays = domains.training_arrays(pair, METHODS[method])
        assert arrays.target_label is None
        assert arrays.source_label is pair.source_train.label
    lower = domains.training_arrays(pair, METHODS["source-only"])
    assert lower.target_image is pair.source_train.image
    upper = domains.training_arrays(pair, METHODS["train-on-target"])
    assert upper.source_image is pair.target_train.image
    assert upper.source_label is pair.target_train.label


def test_preprocessing_subtracts_the_mean_of_the_training_images(small):
    config, pair = small
    source = pair.source_train.image.astype(float)
    target = pair.target_train.image.astype(float)
    alone = domains.preprocessing(config, pair, METHODS["source-only"])
    np.testing.assert_allclose(alone.source_mean, [source.mean()] * 3)
    assert alone.target_mean == alone.source_mean
    upper = domains.preprocessing(config, pair, METHODS["train-on-target"])
    np.testing.assert_allclose(upper.source_mean, target.mean((0, 1, 2)))
    joint = domains.preprocessing(config, pair, METHODS["dann"])
    np.testing.assert_allclose(joint.source_mean, (source.mean() + target.mean((0, 1, 2))) / 2)
    per_domain = dataclasses.replace(config, mean="per_domain")
    each = domains.preprocessing(per_domain, pair, METHODS["dann"])
    assert (each.source_mean, each.target_mean) == (alone.source_mean, upper.target_mean)
    image = each.target(pair.target_train.image)
    assert image.dtype == np.float32
    np.testing.assert_allclose(np.mean(image, (0, 1, 2)), 0, atol=1e-5)
    assert each.source(pair.source_train.image).shape[-1] == 3


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["digits_digit_m"], "did you mean digits_digits_m"),
        (["digits_digits_m", "--kees", "3"], "--keys"),
        (["digits_digits_m", "--network", "minst"], "mnist"),
        (["digits_digits_m", "--methods", "dam"], "expected one of"),
        (["digits_digits_m", "--batch-size", "9"], "batch_size must be even"),
        (["digits_digits_m", "--mu0", "-1"], "mu0 must be positive"),
        (["digits_digits_m", "--keys", "0"], "at least 1"),
        (["digits_digits_m", "--devices", "99"], "this process has"),
        ([], "digits_digits_m"),
    ],
)
def test_wrong_arguments_are_told_before_anything_starts(arguments, hint, capsys, tmp_path):
    options = ["--output", str(tmp_path)] if arguments else []
    try:
        status = run.main(arguments + options)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    told = capsys.readouterr()
    assert hint in " ".join((told.err + told.out).split())
    assert list(tmp_path.iterdir()) == []


def test_list_tells_of_each_config_and_help_of_each_option(capsys):
    assert run.main(["--list"]) == 0
    told = capsys.readouterr().out
    for name in configs.config_names():
        assert name in told
    assert "Reproduces" in told
    assert "python -m experiments.run" in told
    with pytest.raises(SystemExit) as stop:
        run.main(["digits_digits_m", "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in told


def test_every_config_says_what_it_reproduces_and_how_long_it_takes():
    for name in configs.config_names():
        config, about = configs.find_config(name)
        for word in ("Reproduces:", "Takes:", "Expect:", f"experiments.run {name}"):
            assert word in about, (name, word)
        assert METHODS["dann"].steps(config) == config.steps


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "result.json"
    record.write_json(path, {"x": [1.0, math.nan]})
    assert record.read(path) == {"x": [1.0, None]}
    with pytest.raises(TypeError):
        record.write_json(path, {"x": object()})
    assert record.read(path) == {"x": [1.0, None]}
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        record.read(path)


def test_gap_covered_goes_from_source_only_to_train_on_target():
    assert gap_covered(0.7, 0.5, 0.9) == pytest.approx(0.5)  # .2 of .4
    assert gap_covered(0.7, 0.9, 0.9) is None
    assert gap_covered(0.7, 0.89, 0.9) is None  # the share of a point is noise


def test_a_streamed_training_has_the_numbers_of_one_in_memory(small, data_dir, tmp_path):
    config, pair = small
    config = dataclasses.replace(config, crop=24, mirror=True)
    streamed = domains.load_pair(config, data_dir=data_dir, streaming=True)
    assert streamed.provenance == pair.provenance
    records = {}
    for name, images in (("memory", pair), ("stream", streamed)):
        prepared = studies.prepare(config, METHODS["dann"], images, jax.local_devices()[:1])
        (records[name],) = train.train(prepared, [1], tmp_path / name)
    for name in ("curves", "evaluations", "origin"):
        assert records["stream"][name] == records["memory"][name]


def test_padding_of_streamed_images_is_that_in_memory(small, data_dir):
    config, _ = small
    config = dataclasses.replace(config, image_size=32)
    memory, stream = (
        domains.load_pair(config, data_dir=data_dir, streaming=streaming).source_train
        for streaming in (False, True)
    )
    np.testing.assert_array_equal(stream[3]["image"], memory.image[3])
    assert stream[3]["label"] == memory.label[3]


def test_domains_with_other_classes_are_refused(small, data_dir):
    config, _ = small
    with pytest.raises(ValueError, match="digits has 10 classes, but --classes is 12"):
        domains.load_pair(dataclasses.replace(config, classes=12), data_dir=data_dir)
    with pytest.raises(ValueError, match=r"same classes, got 10 \(0, 1.* 43 \(speed"):
        domains.load_pair(dataclasses.replace(config, target="gtsrb"), data_dir=data_dir)


def test_a_contact_sheet_shows_each_class_in_its_row(data_dir, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    assert look.main(["digits_digits_m", "--data-dir", str(data_dir), "--output", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "written" in capsys.readouterr().out
    shade = np.arange(4, dtype=np.uint8)
    images = np.broadcast_to(shade[:, None, None, None], (4, 2, 2, 3))
    sheet = look.sheet(datasets.ImageSet(images, shade.astype(np.int32) % 2), np.arange(2), 3, 0)
    assert sheet.shape == (2 * 3 - 1, 3 * 3 - 1, 3)  # a pixel between two
    assert set(np.unique(sheet[:2])) == {0, 2, 255}
    assert set(np.unique(sheet[3:])) == {1, 3, 255}


def test_a_sheet_shows_images_where_the_backbone_is_frozen(data_dir, tmp_path, monkeypatch):
    frozen = configs.Config(
        source="digits", target="digits", network="office", backbone="resnet50", frozen=True
    )
    monkeypatch.setattr(configs, "find_config", lambda name: (frozen, ""))
    path = tmp_path / "sheet.png"
    options = ["--target", "digits_m", "--rows", "1", "--columns", "2"]
    where = ["--data-dir", str(data_dir), "--output", str(path)]
    assert look.main(["any", *options, *where]) == 0
    with Image.open(path) as image:
        told = image.info["Description"]
    words = "any --target digits_m --rows 1 --columns 2 --key 0"
    assert told == f"python -m experiments.look {words}"


@pytest.mark.parametrize("wrong", [["nothing"], [], ["digits_digits_m", "--rows", "0"]])
def test_a_contact_sheet_of_nothing_is_refused(wrong, capsys):
    assert look.main(wrong) == 2
    assert capsys.readouterr().err
