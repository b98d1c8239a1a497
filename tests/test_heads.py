"""Linear SVMs in place of the last layer, and subspace alignment of trained features."""

import math

import numpy as np
import pytest
from sklearn.svm import LinearSVC
from test_together import PAIR, small_config

from dann_jax.alignment import linear_svm
from experiments import domains, heads, run
from experiments.methods import METHODS

FORM = METHODS["sa"].fit


def blobs(count, seed=0, noise=0.3, width=6):
    """Examples of three classes around three far points."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = 4.0 * np.eye(3, width)[y] + noise * rng.normal(size=[count, width])
    return linear_svm.Examples(x.astype(np.float32), y)


def test_a_head_separates_what_can_be_separated():
    head = linear_svm.fit(blobs(90), 1.0)
    assert linear_svm.accuracy(head, blobs(60, seed=1)) == 1.0
    assert linear_svm.converged(head)


def test_a_head_does_not_depend_on_the_unit_or_the_origin_of_the_features():
    train, test = blobs(90, noise=2.0), blobs(200, seed=1, noise=2.0)
    moved = [
        linear_svm.Examples(1000 * each.x.astype(np.float64) - 7, each.y) for each in (train, test)
    ]
    accuracy = linear_svm.accuracy(linear_svm.fit(train, 0.1), test)
    assert 0.4 < accuracy < 1
    assert linear_svm.accuracy(linear_svm.fit(moved[0], 0.1), moved[1]) == accuracy


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_features_whose_squares_are_no_numbers_have_the_same_head(unit):
    x, y = blobs(90, noise=2.0)
    heads = [linear_svm.fit(linear_svm.Examples(s * x.astype(float), y), 0.1) for s in (1, unit)]
    np.testing.assert_allclose(heads[1]["svm"].coef_, heads[0]["svm"].coef_, rtol=1e-6)
    with pytest.raises(ValueError, match=r"features\[0, 0\] is nan"):
        linear_svm.accuracy(heads[0], linear_svm.Examples(x * np.nan, y))


def test_examples_of_one_class_are_nothing_to_choose_by():
    """C is fitted to all but the first fifth, a number of components to each half."""
    y = np.where(np.arange(30) < 6, 1, 0)
    with pytest.raises(ValueError, match=r"all but the first fifth of the 30 .* 24 of \[0\]: give"):
        linear_svm.choose(linear_svm.Examples(blobs(30).x, y))
    half = linear_svm.Examples(blobs(30).x, np.where(np.arange(30) < 14, np.arange(30) % 2, 1))
    assert linear_svm.choose(half)[1] >= 0
    with pytest.raises(ValueError, match=r"each half of the 30 .* got 15 of \[1\]: give"):
        linear_svm.aligned(FORM, half, half.x, source_test=half, target_test=half)


def test_accuracy_is_over_the_known_labels():
    head, test = linear_svm.fit(blobs(90), 1.0), blobs(10, seed=1)
    unknown = linear_svm.Examples(test.x, np.where(np.arange(10) < 4, (test.y + 1) % 3, -1))
    assert linear_svm.accuracy(head, unknown) == 0.0
    four = linear_svm.Examples(test.x, np.where(np.arange(10) < 4, test.y, -1))
    assert linear_svm.accuracy(head, four) == 1.0
    assert math.isnan(linear_svm.accuracy(head, linear_svm.Examples(test.x, np.full(10, -1))))


def test_c_is_the_smallest_of_the_best_on_the_first_fifth(monkeypatch):
    assert linear_svm.choose(blobs(100)) == (linear_svm.GRID[0], 1.0)
    train = blobs(100)
    wrong = np.where(np.arange(100) < 20, (train.y + 1) % 3, train.y)  # of the held-out fifth
    assert linear_svm.choose(linear_svm.Examples(train.x, wrong)) == (linear_svm.GRID[0], 0.0)
    accuracy = {0.01: 0.5, 0.1: 0.75, 1.0: 0.75, 10.0: 0.25}
    monkeypatch.setattr(LinearSVC, "score", lambda svm, x, y: accuracy[svm.C])
    assert linear_svm.choose(train) == (0.1, 0.75)


def test_a_solver_that_has_to_stop_is_told_of(monkeypatch):
    monkeypatch.setattr(linear_svm, "ITERATIONS", 1)
    assert not linear_svm.converged(linear_svm.fit(blobs(90, noise=2.0), 10.0))


def test_labels_that_no_svm_can_be_fitted_to_are_refused_before_training(tmp_path, capsys):
    one = PAIR._replace(source_train=PAIR.source_train._replace(label=np.zeros(24, np.int32)))
    words = ["digits_digits_m", "--output", str(tmp_path / "runs"), "--methods", "dann"]
    with small_config(pair=one) as patch:
        patch.setattr(domains, "prepare_pair", lambda *_, **__: None)
        assert run.main(words) == 2
        told = capsys.readouterr().err
        assert "dann, key 0: expected at least 2 classes in all but the first fifth" in told
        assert "random order, or pass --no-svm" in told
        assert run.main([*words, "--no-svm", "--methods", "sa"]) == 2
        assert "sa, key 0: expected at least 2 classes" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_labels_of_the_target_decide_only_what_is_named_oracle():
    source, test = blobs(200, noise=1.5, width=12), blobs(100, seed=2, noise=1.5, width=12)
    shifted = linear_svm.Examples(test.x + 1, test.y)
    target = blobs(150, seed=1, noise=1.5, width=12).x + 1
    found = linear_svm.aligned(FORM, source, target, source_test=test, target_test=shifted)
    assert found["by_components"]["components"] == list(range(2, 12))
    accuracy = found["by_components"]["target_accuracy"]
    assert found["oracle_accuracy"] == max(accuracy) > 0.6  # a shift is undone by the z-scores
    assert found["oracle_accuracy"] == accuracy[found["oracle_components"] - 2]
    assert found["target_accuracy"] == accuracy[found["components"] - 2]
    assert 2 <= found["components"] <= found["fitted"]["stable_components"]
    other = shifted._replace(y=np.random.default_rng(3).permutation(shifted.y))
    again = linear_svm.aligned(FORM, source, target, source_test=test, target_test=other)
    assert again["by_components"] != found["by_components"]
    for name in ("components", "C", "validation_accuracy", "fitted", "source_accuracy"):
        assert again[name] == found[name], name


def test_too_few_features_for_an_alignment_are_refused():
    few = blobs(50, width=3)._replace(x=np.zeros([50, 2]))
    with pytest.raises(ValueError, match="more features and examples than that, got 2"):
        linear_svm.aligned(FORM, few, few.x, source_test=few, target_test=few)


def test_closed_forms_with_a_number_of_components_for_each_key_have_no_table_of_them():
    about = {"layer": "f", "features": 8, "examples": 20, "versions": {}, "seconds": 0.1}
    both = [
        about
        | dict.fromkeys(("target_accuracy", "source_accuracy", "oracle_accuracy"), accuracy)
        | {"components": size, "oracle_components": size, "fitted": {}, "C": 1.0}
        | {"by_components": {"components": [size], "target_accuracy": [accuracy]}}
        | {"validation_accuracy": 0.5, "converged": True}
        for size, accuracy in ((3, 0.5), (5, 0.6))
    ]
    entries = heads.aligned_entries(METHODS["gfk"], both)
    assert entries["components"] == [3, 5]
    assert entries["by_components"] == {"components": [], "target_accuracy": [[], []]}
