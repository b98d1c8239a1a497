"""Two folders of photographs, from the training to predictions on new ones."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import pathlib
import re
import warnings
from typing import NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image
from test_image_folder import fill
from test_office import SIDE, WIDTH, Tiny, write_weights
from test_together import PAIR

import dann_jax
from dann_jax.backbones import BACKBONES
from dann_jax.backbones.weights import Layer
from dann_jax.datasets import ImageSet
from experiments import (
    compare,
    configs,
    domains,
    execute,
    export,
    options,
    plan,
    predict,
    record,
    run,
    studies,
    unlabelled,
    verify,
)
from experiments.figures import curves, look, style
from experiments.methods import METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLASSES = ("cat", "dog", "[red] a$^{$b")  # as what would be marks in texts
CONFIG = "own_photos"
SHORT = f"--steps 4 --evaluate-every 2 --batch-size 8 --image-size {SIDE} --crop 10 --devices 1"
DOCUMENT = pathlib.Path(__file__).parents[1] / "docs" / "folders.md"


class Run(NamedTuple):
    """A training on two folders above a tiny backbone."""

    root: pathlib.Path
    command: list[str]
    shown: str  # what it printed

    @property
    def folder(self):
        return self.root / "runs" / CONFIG

    def result(self, method):
        return json.loads((self.folder / f"{method}.json").read_text())


def documented(program, **places):
    """Returns the words of the document's command for a program, with other paths in them."""
    block = re.search(r"^```bash\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)[1]
    (line,) = re.findall(rf"^python -m experiments\.{program} (.*)$", block, re.M)
    return [places.get(word.replace("/", "_"), word) for word in line.split()]


def called(main, words):
    """Returns the exit status of a program and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(word) for word in words])
    return status, out.getvalue() + err.getvalue()


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Puts a tiny backbone in the place of EfficientNet-Lite0."""
    name = configs.find_config(CONFIG)[0].backbone
    layers = [Layer(("conv",), "conv", "bn")]
    small = BACKBONES[name]._replace(
        make=Tiny, image_size=SIDE, features=WIDTH, layers=lambda: layers
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, name, small)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    source = fill(root / "a", classes=CLASSES)
    target = fill(root / "b", classes=CLASSES, labelled=False)
    command = documented("run", SOURCE=source, TARGET=target)
    command += ["--weights", write_weights(root / "tiny.npz"), "--data-dir", root / "data"]
    command += ["--output", root / "runs", *SHORT.split()]
    status, shown = called(run.main, command)
    assert status == 0, shown
    return Run(root, command, shown)


def test_without_target_labels_the_table_has_what_the_predictions_say(trained):
    table = trained.shown[trained.shown.index("own_photos: no target labels") :]
    cells = {row[0]: row[1:] for row in re.findall("│ (.*?) +│ +(.*?) │ +(.*?) │", table)}
    results = [trained.result(method) for method in ("source-only", "dann")]
    ends = [
        {n: c[-1] for n, c in each["curves"][0]["evaluations"].items() if isinstance(c, list)}
        for each in results
    ]
    for name, row in {
        "source accuracy": "source_accuracy",
        "confidence on the target": "target_confidence",
        "entropy on the target, nats": "target_entropy",
    }.items():
        assert cells[name] == tuple(f"{end[row]:.4f}" for end in ends)
    for rule in configs.find_config(CONFIG)[0].select:
        scores = [each["curves"][0]["evaluations"]["scores"][rule][-1] for each in results]
        assert cells[rule] == tuple(f"{score + 0.0:.4f}" for score in scores)
    for name in CLASSES:
        counts = [each["curves"][0]["evaluations"]["predicted"][name][-1] for each in results]
        assert cells[name] == tuple(map(str, counts))
    assert "—" not in trained.shown
    assert re.search(r"dann: the rules choose step [24] by ", trained.shown)
    assert re.search(
        r"step 4: target confidence 0\.\d+  entropy \d\.\d+  [123] of 3", trained.shown
    )


def test_what_diverged_has_no_numbers_in_the_table(trained):
    results = {method: trained.result(method) for method in ("source-only", "dann")}
    results["dann"]["diverged"] = [{"step": 3, "term": "logits", "checkpoint": None}]
    table = unlabelled.table("a", results)
    cells = list(zip(*(column.cells for column in table.columns), strict=True))
    assert cells[0] == ("source accuracy", cells[0][1], "diverged")
    assert cells[-1][2] == "—"
    assert cells[-1][1].isdigit()


def test_what_is_said_is_that_of_the_predictions(trained):
    for method in ("source-only", "dann"):
        with (trained.folder / method / "key_0" / "predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["file"] for row in rows] == sorted(
            path.name for path in (trained.root / "b").iterdir()
        )
        result = trained.result(method)
        assert set(result["data"]) == {"source:a/train", "source:a/held out", "target:b/train"}
        assert (result["target_accuracy"], result["mean"]) == ([None], None)
        assert result["source_accuracy"][0] * 3 in (0, 1, 2, 3)  # one of each class is held out
        evaluations = result["curves"][0]["evaluations"]
        p = np.array([[float(row[f"p({name})"]) for name in CLASSES] for row in rows])
        assert evaluations["target_confidence"][-1] == pytest.approx(p.max(1).mean(), abs=1e-5)
        entropy = -(p * np.log(np.maximum(p, 1e-9))).sum(1).mean()
        assert evaluations["target_entropy"][-1] == pytest.approx(entropy, abs=1e-4)
        for name in CLASSES:
            count = sum(row["class"] == name for row in rows)
            assert evaluations["predicted"][name][-1] == count


def test_the_curves_have_no_empty_panel(trained):
    assert (trained.folder / "curves.png").exists()
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "_draw_panel", lambda axis, panel, _: drawn.append(panel))
        curves.draw(curves.read(trained.folder), trained.root / "again.png")
    first, *rest = drawn
    assert (first, *rest[:3]) == (
        *("target-confidence", "target-entropy", "information_maximization", "predicted-classes"),
    )
    assert "target-error" not in drawn


def test_names_without_glyphs_are_numbers(trained):
    results = {"dann": trained.result("dann")}
    columns = results["dann"]["curves"][0]["evaluations"]
    columns["predicted"] = dict(zip("猫犬梟", columns["predicted"].values(), strict=True))
    with style.figure(trained.root / "names.png", "", shape=(1, 1), width=3, height=3) as (_, axis):
        curves._draw_classes(np.ravel(axis)[0], results)
        labels = [label.get_text() for label in np.ravel(axis)[0].get_yticklabels()]
    assert labels == ["0", "1", "2"]


def test_a_warning_is_a_sentence_without_lines_of_code(trained, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", None)
    assert called(run.main, trained.command)[0] == 0
    assert warnings.formatwarning("left out", UserWarning, "file.py", 1, "code") == (
        "warning: left out\n"
    )


def test_results_without_target_labels_are_compared_by_what_there_is(trained):
    files = [trained.folder / f"{method}.json" for method in ("source-only", "dann")]
    picture = trained.root / "compared.png"
    status, shown = called(compare.main, [*files, "--output", picture])
    assert status == 0
    assert "results: no target labels, last step" in shown
    assert "confidence on the target" in shown
    results = dict(zip("AB", map(record.read_result, files), strict=True))
    names = [name for _, name, _ in compare._panels(results)]
    assert names[:3] == ["source_accuracy", "target_confidence", "target_entropy"]
    assert picture.exists()


def test_a_result_of_other_classes_is_not_taken_for_theirs(trained):
    folder = trained.root / "a"
    (folder / "dog").rename(folder / "doe")
    try:
        status, shown = called(run.main, trained.command)
    finally:
        (folder / "doe").rename(folder / "dog")
    assert status == 2
    assert "(its classes are [red] a$^{$b, cat, doe, not [red] a$^{$b, cat, dog): " in shown


def test_the_same_command_says_what_is_there_and_shows_the_table(trained):
    status, shown = called(run.main, trained.command)
    assert status == 0
    assert shown.count("is there already") == 2
    folders = trained.root / "a", trained.root / "b"
    others = {str(folders[0]): f"{folders[0]}/", str(folders[1]): os.path.relpath(folders[1])}
    again = [others.get(str(word), word) for word in trained.command]
    assert again != trained.command
    assert called(run.main, again)[1].count("is there already") == 2
    assert (
        shown[shown.index("own_photos: ") :] == trained.shown[trained.shown.index("own_photos: ") :]
    )


def test_a_result_of_other_images_is_not_taken_for_theirs(trained):
    new = trained.root / "b" / "new.png"
    Image.new("RGB", (8, 8)).save(new)
    try:
        status, shown = called(run.main, trained.command)
    finally:
        new.unlink()
    assert status == 2
    assert "holds a result of other images (target:b/train: expected 18 examples" in shown
    assert "got 19 examples" in shown
    assert called(run.main, trained.command)[0] == 0


def test_a_result_of_files_with_other_names_is_not_taken_for_theirs(trained):
    old = sorted((trained.root / "b").iterdir())[-1]
    new = old.rename(old.with_stem(f"{old.stem}_"))
    try:
        status, shown = called(run.main, trained.command)
    finally:
        new.rename(old)
    assert status == 2
    assert "holds a result of other images (files of the target have other names)" in shown


def test_a_model_predicts_new_photographs_and_is_exported(trained):
    new = trained.root / "new.csv"
    kept = trained.folder / "dann"
    places = {"runs_own_photos_dann": kept, "NEW": trained.root / "b", "predictions.csv": new}
    status, shown = called(predict.main, documented("predict", **places))
    assert status == 0, shown
    with new.open() as ours, (kept / "key_0" / "predictions.csv").open() as theirs:
        for row, expected in zip(csv.DictReader(ours), csv.DictReader(theirs), strict=True):
            assert row["class"] == expected["class"]
            assert float(row["probability"]) == pytest.approx(
                float(expected["probability"]), abs=1e-4
            )
    assert called(export.main, documented("export", **places))[0] == 0
    model, state, classes, preprocess = dann_jax.load(kept)
    assert classes == tuple(sorted(CLASSES))
    exported = jax.export.deserialize(bytearray((kept / "key_0" / "model.jax_export").read_bytes()))
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    logits = dann_jax.predict(model, state, images, preprocess=preprocess)
    np.testing.assert_allclose(exported.call(images), jax.nn.softmax(logits), atol=1e-4)


def test_methods_that_need_target_labels_are_left_out(trained):
    for words in (["sa", "train-on-target"], ["dann", "train-on-target"]):
        status, shown = called(run.main, [*trained.command, "--methods", *words])
        assert status == 0
        assert "train-on-target is left out: the target has no labels to train on" in shown
    assert not (trained.folder / "train-on-target.json").exists()


def test_a_class_may_have_the_name_of_a_column(trained):
    curves_of = trained.result("dann")["curves"][0]
    columns = curves_of["evaluations"]
    columns["predicted"] = {"step": columns["predicted"]["dog"], "mu": columns["predicted"]["cat"]}
    found = verify.differences(0, curves_of, curves_of)
    assert {each.step for each in found if "predicted" in each.name} == {2, 4}
    assert not any(each.relative for each in found)


def test_a_contact_sheet_shows_the_pair(trained):
    sheet = trained.root / "sheet.png"
    words = [*trained.command[:5], "--data-dir", trained.root / "data", "--output", sheet]
    assert called(look.main, words)[0] == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_the_options_of_the_document_are_those_of_the_program():
    text = DOCUMENT.read_text()
    named = [words.split() for words in re.findall(r"`(--[a-z-]+[^`]*)`", text)]
    assert len(named) > 6
    for words in named:
        words = [word for word in words if word not in ("RULE", "...")]
        if words[-1] != "--select":
            options.parse(CONFIG, [*words, "--source", ".", "--target", "."], shown=CONFIG)


def test_one_flag_fine_tunes_the_backbone(trained):
    config = configs.find_config(CONFIG)[0]
    source, target = map(str, (trained.root / "a", trained.root / "b"))
    config = dataclasses.replace(
        *(config,),
        source=source,
        target=target,
        frozen=False,
        weights=trained.root / "tiny.npz",
        image_size=SIDE,
        crop=10,
    )
    pair = domains.load_pair(config, data_dir=trained.root / "data")
    study = studies.prepare(config, METHODS["dann"], pair, jax.local_devices()[:1])
    backbone = BACKBONES[config.backbone]
    assert study.preprocess.target_mean == study.preprocess.source_mean == backbone.mean
    assert study.preprocess.scale == backbone.scale
    state, _ = study.start(plan.Group((0,), 1))
    assert "backbone" in state.theta["f"]
    frozen = dataclasses.replace(config, frozen=True)
    outputs = domains.load_pair(frozen, data_dir=trained.root / "data")
    above = domains.preprocessing(frozen, outputs, METHODS["dann"])
    assert above.scale == 1
    images = np.concatenate([outputs.source_train.image, outputs.target_train.image])
    np.testing.assert_allclose(above.target_mean, images.mean((0, 1, 2)), rtol=1e-4)


def test_accuracies_on_images_that_are_trained_on_are_named():
    same = {"source:a/train": {"sha256": "1"}, "target:b/train": {"sha256": "1"}}
    other = same | {"target:b/train": {"sha256": "2"}, "few labels": {"sha256": "2"}}
    images = ImageSet(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, int))
    pair = PAIR._replace(source_test=images, source_train=images, provenance=same)
    assert [line.partition(":")[0] for line in execute._warnings(pair)] == [
        "the source accuracy is of images that are trained on",
        "source",
    ]
    apart = pair._replace(source_test=ImageSet(*images), provenance=other)
    assert list(execute._warnings(apart)) == []
