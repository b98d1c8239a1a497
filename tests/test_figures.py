"""Figures, from made-up results and from a small training."""

import contextlib
import re
import runpy
import shutil
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from test_report import a_result, finished, scheduled

from dann_jax import checkpoints, datasets
from experiments import configs, domains, studies
from experiments.figures import curves, embed, look, moons, style
from experiments.methods import METHODS
from experiments.plan import Group, resolved
from experiments.record import read, write_checked, write_json

pytestmark = pytest.mark.usefixtures("quick_compilation")

CHANCE = np.log(2)
SEMI = ("few-labels", "source-only", "dann", "source-and-few-labels", "dann-and-few-labels")


def result(method, accuracies):
    """A result file with the target accuracies ``[key][evaluation]``."""
    steps, adapted = np.arange(1, 101), METHODS[method].adversarial
    settings = {"steps": 1000, "baseline_steps": None, "evaluate_every": 500, "mu0": 0.02}
    if METHODS[method].few_labels:
        settings["few_labels"] = 5
    made = a_result("digits_digits_m", method, [each[-1] for each in accuracies], settings)
    training = {
        "step": (10 * steps).tolist(),
        "label_loss": (1 / steps).tolist(),
        "domain_loss": [0.5 if adapted else None] * len(steps),
        "domain_accuracy": [0.8 if adapted else None] * len(steps),
        **scheduled(SimpleNamespace(**made["resolved_config"]), 1000, (10 * steps).tolist()),
    }
    for curve, each in zip(made["curves"], accuracies, strict=True):
        curve["training"] = training
        curve["evaluations"]["source_accuracy"] = [0.95, 0.9]
        curve["evaluations"]["target_accuracy"] = each
    return made


def write(folder, methods):
    for i, method in enumerate(methods):
        each = [[0.5, 0.6 + 0.05 * i], [0.6, 0.7 + 0.05 * i]]
        write_json(folder / f"{method}.json", result(method, each))


@pytest.fixture
def kept(monkeypatch):
    """The figure that is drawn last, and its axes."""
    found, original = [], style.figure

    @contextlib.contextmanager
    def figure(*arguments, **options):
        with original(*arguments, **options) as (drawn, axes):
            yield drawn, axes
        found[:] = drawn, axes

    monkeypatch.setattr(style, "figure", figure)
    return found


def thick(axis):
    """The curves of means, by colour."""
    lines = (line for line in axis.lines if line.get_marker() != "None")
    return {line.get_color(): line.get_ydata() for line in lines}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_show_errors_losses_with_chance_and_schedules(tmp_path, kept, capsys):
    write(tmp_path, ("source-only", "dann", "train-on-target"))
    assert curves.main([str(tmp_path)]) == 0
    assert "written" in capsys.readouterr().out
    figure, axes = kept
    target, source, label, domain, domain_error, schedules = axes.flat
    assert all(axis.get_xlim() == (0, 1030) for axis in axes.flat)  # of 1,000 updates
    assert legend(figure) == ["source-only", "DANN", "train-on-target"]
    dann = METHODS["dann"].line.colour
    np.testing.assert_allclose(thick(target)[dann], [0.45, 0.3])  # 1 - means over both keys
    np.testing.assert_allclose(thick(source)[dann], [0.05, 0.1])
    assert len(thick(target)) == len(thick(label)) == 3
    assert label.get_yscale() == "log"
    for axis, chance, value in ((domain, CHANCE, 0.5), (domain_error, 0.5, 0.2)):
        assert list(thick(axis)) == [dann]  # the others have no G_d
        np.testing.assert_allclose(thick(axis)[dann], value)
        assert any(np.allclose(line.get_ydata(), chance) for line in axis.lines)
    mu, lam = schedules.lines
    training = read(tmp_path / "dann.json")["curves"][0]["training"]
    np.testing.assert_allclose(mu.get_ydata(), np.array(training["mu"]) / 0.02)  # of mu0
    np.testing.assert_allclose(lam.get_ydata(), training["lam"])


def test_the_semi_supervised_plot_has_the_papers_legend(tmp_path, kept):
    write(tmp_path, SEMI)
    path = tmp_path / "semi.png"
    assert curves.main([str(tmp_path), "--panels", "target-error", "--output", str(path)]) == 0
    figure, axes = kept
    names = ["Real only", "Syn only", "Syn + Real", "Syn adapted", "Syn + Real adapted"]
    assert legend(figure) == names
    assert axes.size == 1
    best = METHODS["dann-and-few-labels"].line.colour
    np.testing.assert_allclose(thick(axes[0, 0])[best], [0.45, 0.15])
    with Image.open(path) as image:
        told, dots = image.info["Description"], image.info["dpi"]
    assert told == "python -m experiments.curves RUNS/digits_digits_m --panels target-error"
    assert np.round(dots).tolist() == [200, 200]


def test_distances_are_drawn_beside_the_accuracy(tmp_path, kept, capsys):
    write(tmp_path, ("source-only", "dann"))  # which have none
    panels = ["proxy-a-distance", "discriminator-bound", "target-accuracy"]
    assert curves.main([str(tmp_path), "--panels", *panels]) == 2
    assert "none of the results (source-only, dann) has it: train" in capsys.readouterr().err
    for method in ("source-only", "dann"):
        content = read(tmp_path / f"{method}.json")
        content["resolved_config"]["divergence"] = True
        content["command"] += " --divergence"
        for key, curve in enumerate(content["curves"]):
            curve["evaluations"]["proxy_a_distance"] = [1.9, 1.7 + 0.1 * key]
            if method == "dann":
                curve["evaluations"]["discriminator_bound"] = [1.0, None]
        write_json(tmp_path / f"{method}-short.json", content)
    words = [str(tmp_path), "--panels", *panels, "--variant", "short"]
    assert curves.main(words) == 0, capsys.readouterr().err
    with Image.open(tmp_path / "curves-short.png") as image:
        assert image.info["Description"].endswith("target-accuracy --variant short")
    pad, bound, accuracy = kept[1].flat
    colours = {method: METHODS[method].line.colour for method in ("source-only", "dann")}
    for colour in colours.values():
        np.testing.assert_allclose(thick(pad)[colour], [1.9, 1.75])
    assert list(thick(bound)) == [colours["dann"]]
    np.testing.assert_allclose(thick(bound)[colours["dann"]], [1.0])  # null is not known
    np.testing.assert_allclose(thick(accuracy)[colours["dann"]], [0.55, 0.7])
    assert pad.get_ylim() == bound.get_ylim() == (0, 2.08)


@pytest.mark.parametrize("name", ["curves", "embed", "look", "moons"])
def test_figures_are_programs(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"experiments.{name}", run_name="__main__")
    assert end.value.code == 0
    assert f"python -m experiments.{name}" in capsys.readouterr().out


def test_methods_look_different_in_grey_print():
    markers = [method.line.marker for method in METHODS.values() if method.line]
    assert len(markers) > 1
    assert len(set(markers)) == len(markers)


def test_a_target_without_labels_has_no_error(tmp_path, kept):
    found = {"dann": result("dann", [[None, None]])}
    curves.draw(found, tmp_path / "curves.png")
    target, source = kept[1].flat[:2]
    assert not thick(target)
    assert len(thick(source)) == 1


def test_a_loss_that_is_not_finite_any_more_ends_its_curve(tmp_path, kept):
    found = {"source-only": result("source-only", [[0.5, 0.6], [0.5, 0.6]])}
    for curve, last in zip(found["source-only"]["curves"], (40, 60), strict=True):
        curve["training"]["label_loss"] = [2.0] * last + [None] * (100 - last)
    curves.draw(found, tmp_path / "curves.png", panels=("label-loss",))
    (axis,) = kept[1].flat
    np.testing.assert_allclose(thick(axis)[METHODS["source-only"].line.colour], [2.0] * 60)


def test_the_same_vector_figure_is_the_same_file(tmp_path):
    found = {"dann": result("dann", [[0.1, 0.2]])}
    paths = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in paths:
        curves.draw(found, path, panels=("target-error", "schedules"))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert "python -m experiments.curves RUNS/digits_digits_m" in paths[0].read_text()


@pytest.mark.parametrize("name", ["curves.pdf", "curves"])
def test_other_formats_are_refused(name, tmp_path, capsys):
    write(tmp_path, ["dann"])
    assert curves.main([str(tmp_path), "--output", str(tmp_path / name)]) == 2
    assert "ends in .png or .svg" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    assert curves.main([str(tmp_path)]) == 2
    assert "no results" in capsys.readouterr().err
    content = result("dann", [[0.5, 0.6]])
    for changed, message in (
        ({"steps": 7}, "steps: expected 1000"),
        ({"curves": [3]}, "an object"),
    ):
        write_json(tmp_path / "dann.json", content | changed)
        assert curves.main([str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


def test_the_chance_of_several_conventions_is_not_drawn(tmp_path, kept):
    found = {name: result(name, [[0.5, 0.6]]) for name in ("dann", "dann-and-few-labels")}
    curves.draw(found, tmp_path / "one.png", panels=("domain-loss",))
    assert [text.get_text() for text in kept[1][0, 0].texts] == ["chance"]
    found["dann"]["domain_loss"]["normalization"] = "sum_of_means"
    curves.draw(found, tmp_path / "two.png", panels=("domain-loss",))
    assert not kept[1][0, 0].texts


def test_running_means_have_fewer_values_at_the_ends():
    found = curves.running_mean(np.array([0.0, 3.0, 6.0, 9.0]), 3)
    np.testing.assert_allclose(found, [1.5, 3, 6, 7.5])


def test_moons_are_drawn(tmp_path, kept, monkeypatch, capsys):
    monkeypatch.setattr(moons, "STEPS", 2)
    monkeypatch.setattr(moons, "GRID", 9)
    path = tmp_path / "moons.png"
    assert moons.main(["--output", str(path)]) == 0
    assert "written" in capsys.readouterr().out
    figure, axes = kept
    assert axes.shape == (2, 4)
    assert path.exists()
    assert axes[0, 0].get_ylabel().startswith("plain net\ntarget error")
    assert axes[1, 0].get_ylabel().startswith("DANN\ntarget error")
    assert len(legend(figure)) == 4


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """Prepared data, and a folder of what trainings with it leave; they have not learnt much."""
    output = tmp_path_factory.mktemp("runs")
    config, _ = configs.find_config("digits_digits_m")
    pair = domains.load_pair(config, data_dir=data_dir)
    for method in ("source-only", "dann"):
        made = studies.prepare(config, METHODS[method], pair, jax.devices()[:1])
        folder = output / "digits_digits_m" / method / "key_0"
        checkpoints.save(folder / "state", made.start(Group((0,), 1))[0])
        record = {"settings": resolved(config, METHODS[method]), "origin": made.origin}
        write_checked(folder / "record.json", record | finished(method, config))
    return data_dir, output / "digits_digits_m"


@pytest.mark.slow  # t-SNE of all features
def test_features_of_both_methods_are_drawn_at_one_scale(trained, kept, capsys):
    data, folder = trained
    options = ["--layer", "hidden", "--images", "15", "--perplexity", "5", "--data-dir", str(data)]
    assert embed.main([str(folder), *options]) == 0, capsys.readouterr().err
    figure, axes = kept
    assert legend(figure) == ["source", "target"]
    assert [axis.get_title() for axis in axes[0]] == [
        "source-only (non-adapted)",
        "DANN (adapted)",
    ]
    assert all("target test error 25.0%" in axis.get_xlabel() for axis in axes[0])
    assert axes[0, 0].get_xlim() == axes[0, 1].get_xlim() == axes[0, 0].get_ylim()
    counts = [[len(c.get_offsets()) for c in axis.collections] for axis in axes[0]]
    assert counts == [[15, 15], [15, 15]]
    with Image.open(folder / "hidden.png") as image:
        told = image.info["Description"]
    assert "RUNS/digits_digits_m --methods source-only dann --key 0 --layer hidden" in told


def test_what_cannot_be_embedded_is_refused(trained, tmp_path, capsys):
    data, folder = trained
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    path = changed / "source-only" / "key_0" / "record.json"
    record = read(path)
    write_checked(path, record | {"settings": record["settings"] | {"warp": 9}})
    assert embed.main([str(changed), "--data-dir", str(data)]) == 2
    assert "settings.warp: expected no such entry, got 9" in capsys.readouterr().err
    for options, message in (
        (["--key", "7"], "no finished training in"),
        (["--images", "10", "--perplexity", "20"], "--perplexity must be between 1 and .* 20"),
        (["--images", "4", "--perplexity", "5"], "--images must be at least 5, got 4"),
        (["--seed", "-1"], "--seed must be 0 to .*, got -1"),
        (["--methods", "dann", "dann"], "each method at most once"),
        (["--methods", "dann", "few-labels"], "no finished training in .*few-labels"),
        (["--output", "/dev/null/a.png"], "/dev/null"),
        (["--output", str(tmp_path / "a.jpg")], "expected a name that ends in"),
    ):
        assert embed.main([str(folder), "--data-dir", str(data), *options]) == 2
        assert re.search(message, capsys.readouterr().err)


def test_which_images_are_drawn_is_a_function_of_the_seed():
    images = datasets.ImageSet(np.arange(40).reshape(10, 2, 2, 1), np.zeros(10, np.int32))
    first = embed.choose_images(images, 4, (0, 1))
    np.testing.assert_array_equal(embed.choose_images(images, 4, (0, 1)), first)
    assert first.shape == (4, 2, 2, 1)
    assert (embed.choose_images(images, 4, (1, 1)) != first).any()
    np.testing.assert_array_equal(embed.choose_images(images, 20, 0), images.image)


def test_domains_that_are_apart_are_told_apart():
    features = np.random.default_rng(0).normal(size=(1000, 3))
    is_target = np.arange(1000) % 2 == 1
    assert abs(embed.domain_error(features, is_target, 0) - 0.5) < 0.1
    assert embed.domain_error(features + 9 * is_target[:, None], is_target, 0) == 0


def test_several_pairs_are_drawn_beside_each_other(trained, kept, tmp_path, capsys):
    path, options = tmp_path / "pairs.png", ["--rows", "1", "--columns", "3"]
    pairs = ["digits_digits_m"] * 2
    folders = ["--data-dir", str(trained[0]), "--output", str(path)]
    assert look.main([*pairs, *options, *folders]) == 0, capsys.readouterr().err
    figure, axes = kept
    assert [[axis.get_title() for axis in row] for row in axes] == [
        ["digits"] * 2,
        ["digits_m"] * 2,
    ]
    assert axes[1, 0].images[0].get_array().shape[:2] == (28, 3 * 28 + 2 * 1)
    assert look.main([*pairs, "--source", "mnist", *folders]) == 2
    assert "need a single pair" in capsys.readouterr().err
