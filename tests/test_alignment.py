"""Subspace alignment: closed forms, and the bound that its number of components obeys."""

import math

import numpy as np
import pytest

from dann_jax import alignment

# Independent features of falling variance: the basis of all of them is the identity.
SPREAD = np.array([5.0, 4.0, 3.0, 2.0, 1.0])


def correlated(n=400, seed=0):
    """Features with factors of several strengths, so that no two variances are equal."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=[n, 5]) * SPREAD) @ rng.normal(size=[5, 5])


def of_basis(basis, variance=SPREAD, radius=1.0, count=100):
    size = len(basis)
    return alignment.Subspace(np.zeros(size), np.ones(size), basis, variance, radius, count)


def test_components_are_orthonormal_of_falling_variance_and_standardized():
    x = correlated() + 100.0
    found = alignment.principal_subspace(x)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(5), atol=1e-12)
    projected = found.project(x, 5)
    np.testing.assert_allclose(np.cov(projected.T), np.diag(found.variance), atol=1e-9)
    assert np.all(np.diff(found.variance) < 0)
    assert found.variance.sum() == pytest.approx(5 * 400 / 399)  # of z-scores
    assert found.radius == pytest.approx(np.linalg.norm(projected, axis=1).max())
    np.testing.assert_array_equal(found.project(x, 2), projected[:, :2])


def test_a_feature_that_never_changes_stays_zero():
    x = np.concatenate([correlated(), np.full([400, 1], 0.1)], 1)
    found = alignment.principal_subspace(x)
    assert found.deviation[-1] == 1.0
    np.testing.assert_allclose(found.variance[-1], 0, atol=1e-12)
    assert np.isfinite(found.project(x, 6)).all()


@pytest.mark.parametrize("d", [1, 3, 5])
def test_equal_subspaces_need_no_alignment(d):
    x = correlated()
    subspace = alignment.principal_subspace(x)
    np.testing.assert_allclose(alignment.align(subspace, subspace, d), np.eye(d), atol=1e-12)


@pytest.mark.parametrize("d", [2, 3])
def test_a_rotation_inside_the_subspace_is_recovered(d):
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=[d, d]))
    rotated = np.eye(5)
    rotated[:d, :d] = rotation
    source, target = of_basis(np.eye(5)), of_basis(rotated)
    np.testing.assert_allclose(alignment.align(source, target, d), rotation, atol=1e-12)
    x = np.random.default_rng(2).normal(size=[7, 5])
    np.testing.assert_allclose(source.project(x, d) @ rotation, target.project(x, d), atol=1e-12)


def test_orthogonal_subspaces_have_nothing_to_align():
    exchanged = np.eye(5)[:, [3, 4, 0, 1, 2]]
    assert not alignment.align(of_basis(np.eye(5)), of_basis(exchanged), 2).any()


def test_the_alignment_is_the_least_squares_solution():
    source, target = (alignment.principal_subspace(correlated(seed=seed)) for seed in (0, 1))
    best, *_ = np.linalg.lstsq(source.basis[:, :3], target.basis[:, :3])
    np.testing.assert_allclose(alignment.align(source, target, 3), best, atol=1e-12)


def test_the_bound_worked_by_hand():
    # All gaps are 1, B = 2 and n = 100 or 400: 8 d^1.5 2 (1 + sqrt(ln(20)/2)) (1/10 + 1/20).
    source, target = of_basis(np.eye(5)), of_basis(np.eye(5), radius=2.0, count=400)
    found = alignment.deviation_bounds(source, target)
    each = 16 * (1 + math.sqrt(math.log(20) / 2)) * 0.15
    np.testing.assert_allclose(found, [each * d**1.5 for d in (1, 2, 3, 4)])
    assert alignment.stable_components(source, target, gamma=each * 3**1.5 + 1e-9) == 3
    assert alignment.stable_components(source, target, gamma=each / 2) == 0


def test_components_of_equal_variance_are_not_stable():
    level = np.array([5.0, 4.0, 4.0, 2.0, 1.0])
    subspace = of_basis(np.eye(5), variance=level)
    found = alignment.deviation_bounds(subspace, subspace)
    assert found[1] == np.inf
    assert np.isfinite(found[[0, 2, 3]]).all()
    assert alignment.stable_components(subspace, subspace, gamma=1e-3) == 0
    # A tie in one domain is enough.
    one = alignment.deviation_bounds(subspace, of_basis(np.eye(5)))
    assert one[1] == np.inf
    assert np.isfinite(one[[0, 2, 3]]).all()


@pytest.mark.parametrize("count", [400, 20])  # fewer examples than features, too
def test_features_that_never_change_add_no_stable_components(count):
    padded = [np.pad(correlated(count, seed), [(0, 0), (0, 30)]) for seed in (0, 1)]
    assert 1 <= alignment.stable_components(*map(alignment.principal_subspace, padded)) <= 5
    nothing = alignment.principal_subspace(np.ones([count, 3]))
    np.testing.assert_array_equal(alignment.deviation_bounds(nothing, nothing), np.inf)


@pytest.mark.parametrize("d", [0, 6, -1])
def test_numbers_of_components_that_there_are_not_are_refused(d):
    subspace = of_basis(np.eye(5))
    with pytest.raises(ValueError, match=f"1 to 5 components, got {d}"):
        alignment.align(subspace, subspace, d)


def test_wrong_features_are_refused():
    with pytest.raises(ValueError, match=r"at least 2 examples, got \[1, 3\]"):
        alignment.principal_subspace(np.zeros([1, 3]))
    with pytest.raises(ValueError, match=r"got \[3\]"):
        alignment.principal_subspace(np.zeros(3))
    with pytest.raises(ValueError, match="both domains, got 5 and 4"):
        alignment.align(of_basis(np.eye(5)), of_basis(np.eye(4)), 2)
