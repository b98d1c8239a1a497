"""Distances between the domains at evaluations, on a small version of the embedded data."""

import dataclasses

import jax
import numpy as np
import pytest

from dann_jax import evaluation
from dann_jax.divergence import alpha, generator, proxy_a_distance
from experiments import configs, distances, domains, record, run, studies
from experiments.methods import METHODS
from experiments.plan import Group

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUMBER = 3  # of the key


@pytest.fixture(scope="module")
def made(data_dir, quick_compilation):
    """The studies of two methods, and the states that their trainings start from."""
    config, _ = configs.find_config("digits_digits_m")
    pair = domains.load_pair(config, data_dir=data_dir)
    every = {}
    for name in ("source-only", "dann"):
        study = studies.prepare(config, METHODS[name], pair, jax.local_devices()[:1])
        every[name] = study, study.start(Group((NUMBER,), 1))[0]
    return every


def test_they_are_eq13_and_the_pad_of_images_that_the_key_draws(made, monkeypatch):
    monkeypatch.setattr(distances, "MOST", 15)  # of 20
    study, state = made["dann"]
    measured = distances.distances(study, state, NUMBER)
    key = jax.random.fold_in(jax.random.key(NUMBER), 2)  # as docs/keys.md says
    of_halves, *of_images = jax.random.split(key, 3)
    outputs = {"y/fc2": [], "d": []}  # G_y is linear from there on
    for domain, draw in enumerate(of_images):
        images, preprocess, _ = study.tests[("source", "target")[domain]]
        drawn = images.image[generator(draw).permutation(20)[:15]]
        for layer, each in outputs.items():
            options = {"layer": layer, "preprocess": preprocess, "domain": domain}
            each.append(evaluation.features(study.model, state, drawn, **options))
    assert measured["proxy_a_distance"] == proxy_a_distance(*outputs["y/fc2"], key=of_halves)
    of_target = np.repeat([0, 1], 15)
    bound = 2 * abs(1 - alpha(np.concatenate(outputs["d"]), of_target))
    assert measured["discriminator_bound"] == pytest.approx(float(bound))
    assert all(0 <= value <= 2 for value in measured.values())
    assert distances.distances(study, state, NUMBER) == measured


def test_a_method_without_g_d_has_no_bound(made):
    assert list(distances.distances(*made["source-only"], NUMBER)) == ["proxy_a_distance"]


def test_what_is_not_finite_has_no_distance(made):
    study, state = made["dann"]
    lost = dict(state.theta, d=jax.tree.map(lambda x: x + np.inf, state.theta["d"]))
    measured = distances.distances(study, dataclasses.replace(state, theta=lost), NUMBER)
    assert np.isnan(measured["discriminator_bound"])
    assert measured["proxy_a_distance"] >= 0


def test_a_domain_with_one_test_image_is_refused(made):
    pair = made["dann"][0].pair
    one = domains.chosen(pair.target_test, np.array([7]))
    distances.check_examples(pair)
    with pytest.raises(ValueError, match="--divergence: expected at least 2 .* got 20 of the sou"):
        distances.check_examples(pair._replace(target_test=one))


def test_a_result_has_them_where_they_are_asked_for(data_dir, tmp_path, capsys):
    where = ["--data-dir", str(data_dir), "--output", str(tmp_path), "--devices", "1"]
    few = ["--baseline-steps", "2", "--evaluate-every", "1", "--batch-size", "8", "--no-svm"]
    words = ["digits_digits_m", "--methods", "source-only", *few, *where]
    assert run.main([*words, "--divergence"]) == 0, capsys.readouterr().err
    result = record.read_result(tmp_path / "digits_digits_m" / "source-only.json")
    columns = result["curves"][0]["evaluations"]
    assert len(columns["proxy_a_distance"]) == len(columns["step"]) == 2
    assert "discriminator_bound" not in columns
    assert result["command"].endswith(" --divergence")
    assert run.main(words) == 2
    assert "divergence: True there, False asked for" in capsys.readouterr().err
