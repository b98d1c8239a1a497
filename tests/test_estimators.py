"""Closed forms as scikit-learn transformers, against integration and worked values."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from dann_jax import SOURCE, TARGET
from dann_jax.alignment import (
    DLID,
    CorrelationAlignment,
    GeodesicFlowKernel,
    SubspaceAlignment,
    linear_svm,
    subspace_alignment,
)
from dann_jax.alignment.estimators import closed_form
from dann_jax.alignment.linear_svm import Examples

EVERY = [
    SubspaceAlignment(n_components=2),
    CorrelationAlignment(),
    GeodesicFlowKernel(n_components=2),
    GeodesicFlowKernel(n_components=2, source_basis="pls"),
    GeodesicFlowKernel(n_components=None),
    DLID(n_steps=2, n_components=4),
]
IDS = ["sa", "coral", "gfk", "gfk-pls", "gfk-sdm", "dlid"]


def domains(n=60, features=6, seed=0):
    """Returns two classes along two directions, and others turned by 30 degrees and shifted."""
    rng = np.random.default_rng(seed)

    def draw():
        y = rng.integers(0, 2, n)
        x = rng.normal(size=(n, features)) * np.linspace(1.2, 0.5, features)
        x[:, :2] += np.array([5, 3]) * y[:, None]
        return x, y

    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turn = np.eye(features)
    turn[np.ix_([0, 2], [0, 2])] = [[c, s], [-s, c]]
    (xs, ys), (xt, yt) = draw(), draw()
    return xs, ys, xt @ turn + 3.0, yt


@pytest.mark.parametrize("form", EVERY, ids=IDS)
def test_a_form_keeps_scikit_learns_manners(form):
    xs, ys, xt, _ = domains()
    before = form.get_params()
    fitted = clone(form)
    assert fitted.fit(xs, xt, ys) is fitted
    assert fitted.get_params() == before
    assert clone(fitted).get_params() == before
    assert fitted.n_features_in_ == 6
    first = fitted.transform(xs, SOURCE)
    assert first.shape[0] == 60
    np.testing.assert_array_equal(first, fitted.transform(xs, domain=SOURCE))
    np.testing.assert_array_equal(fitted.transform(xt), fitted.transform(xt, TARGET))
    np.testing.assert_array_equal(first, clone(form).fit(xs, xt, ys).transform(xs, SOURCE))
    assert xs.flags.writeable
    with pytest.raises(ValueError, match="X has 5 features, but .* is expecting 6 features"):
        fitted.transform(xs[:, :5])
    with pytest.raises(ValueError, match="unknown domain 2"):
        fitted.transform(xs, 2)
    with pytest.raises(ValueError, match="as many features in both domains, got 6 and 5"):
        clone(form).fit(xs, xt[:, :5])
    with pytest.raises(ValueError, match="NaN"):
        clone(form).fit(np.where(xs > 3, np.nan, xs), xt)
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        clone(form).fit(xs[:1], xt)
    with pytest.raises(Exception, match="not fitted"):
        clone(form).transform(xs)


@pytest.mark.parametrize("form", EVERY, ids=IDS)
def test_a_pipeline_predicts_the_target(form):
    xs, ys, xt, _ = domains()
    pipeline = make_pipeline(clone(form), LinearSVC(dual=False))
    name = pipeline.steps[0][0]
    pipeline.fit(xs, ys, **{f"{name}__target_x": xt})
    predicted = pipeline.predict(xt)
    by_hand = clone(form).fit(xs, xt, ys)
    head = LinearSVC(dual=False).fit(by_hand.transform(xs, SOURCE), ys)
    np.testing.assert_array_equal(predicted, head.predict(by_hand.transform(xt, TARGET)))


def test_sa_is_the_function_of_that_name():
    xs, _, xt, _ = domains()
    function = subspace_alignment(xs, None, xt, candidates=[3])
    form = SubspaceAlignment(n_components=3).fit(xs, xt)
    np.testing.assert_allclose(form.transform(xs, SOURCE), function.source(xs, 3)(3))
    np.testing.assert_allclose(form.transform(xt, TARGET), function.target(xt, 3)(3))


def test_coral_gives_the_source_the_covariance_of_the_target():
    xs, _, xt, _ = domains()
    form = CorrelationAlignment(regularization=1e-9).fit(xs, xt)
    source, target = form.transform(xs, SOURCE), form.transform(xt, TARGET)
    np.testing.assert_allclose(np.cov(source.T), np.cov(target.T), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([source.mean(0), target.mean(0)], 0, atol=1e-9)
    regular = CorrelationAlignment().fit(xs, xt)
    C_s, C_t = (np.cov(x.T) + np.eye(6) for x in (xs, xt))
    roots = [
        v * w**e @ v.T
        for (w, v), e in zip(map(np.linalg.eigh, (C_s, C_t)), (-0.5, 0.5), strict=True)
    ]
    np.testing.assert_allclose(regular.coloring_, roots[0] @ roots[1], rtol=1e-8)
    with pytest.raises(ValueError, match="a finite regularization above 0, got 0"):
        CorrelationAlignment(regularization=0).fit(xs, xt)


def geodesic(source, target, t):
    """Returns a basis of the point t, by the exponential map of the Grassmannian."""
    overlap = source.T @ target
    tangent = target @ np.linalg.inv(overlap) - source
    u, s, vt = np.linalg.svd(tangent, full_matrices=False)
    theta = np.arctan(s)
    return source @ vt.T @ np.diag(np.cos(t * theta)) + u @ np.diag(np.sin(t * theta))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_gfk_is_the_integral_along_the_geodesic(d):
    xs, _, xt, _ = domains()
    form = GeodesicFlowKernel(n_components=d).fit(xs, xt)
    bases = [s.basis[:, :d] for s in form.subspaces_]
    nodes, weights = np.polynomial.legendre.leggauss(40)
    expected = sum(
        0.5 * w * (phi := geodesic(*bases, (t + 1) / 2)) @ phi.T
        for t, w in zip(nodes, weights, strict=True)
    )
    np.testing.assert_allclose(form.kernel_, expected, atol=1e-10)
    z = form.subspaces_[TARGET].standardize(xt)
    x = form.transform(xt)
    assert x.shape == (60, 2 * d)
    np.testing.assert_allclose(x @ x.T, z @ expected @ z.T, atol=1e-8)


def test_gfk_between_equal_subspaces_is_their_projection():
    xs, *_ = domains()
    form = GeodesicFlowKernel(n_components=2).fit(xs, xs)
    basis = form.subspaces_[SOURCE].basis[:, :2]
    np.testing.assert_allclose(form.kernel_, basis @ basis.T, atol=1e-7)
    np.testing.assert_allclose(form.angles_, 0, atol=1e-7)


def test_gfk_between_orthogonal_lines_is_half_of_each_and_their_mixture():
    e = np.eye(2)
    source, target = e[:, :1], e[:, 1:]
    from dann_jax.alignment.estimators import _geodesic_root

    root, angles = _geodesic_root(source, target)
    np.testing.assert_allclose(angles, np.pi / 2)
    expected = [[0.5, 1 / np.pi], [1 / np.pi, 0.5]]  # up to the sign of the turn
    np.testing.assert_allclose(np.abs(root @ root.T), expected, atol=1e-12)


def test_gfk_says_which_dimensions_it_takes():
    xs, ys, xt, _ = domains()
    for d in (0, 4):
        with pytest.raises(ValueError, match=f"expected 1 to 3 components, half of .* got {d}"):
            GeodesicFlowKernel(n_components=d).fit(xs, xt)
    for form in (SubspaceAlignment, GeodesicFlowKernel):
        with pytest.raises(TypeError, match="n_components must be a whole number, got 2.5"):
            form(2.5).fit(xs, xt)
    with pytest.raises(ValueError, match="'pls' needs labels: pass source_y"):
        GeodesicFlowKernel(n_components=2, source_basis="pls").fit(xs, xt)
    with pytest.raises(ValueError, match="expected source_basis 'pca' or 'pls', got 'ica'"):
        GeodesicFlowKernel(n_components=2, source_basis="ica").fit(xs, xt, ys)
    assert 1 <= GeodesicFlowKernel(n_components=None).fit(xs, xt).n_components_ <= 3


@pytest.mark.parametrize("form", [SubspaceAlignment(5), GeodesicFlowKernel(5)])
def test_directions_in_which_nothing_varies_are_no_components(form):
    xs, _, xt, _ = domains(features=10)
    form.fit(xs[:6], xt)  # 6 examples vary in 5 directions
    for source, target in ((xs[:5], xt), (xs, xt * (np.arange(10) < 4))):
        with pytest.raises(ValueError, match="expected 1 to 4 components, .* got 5: lower"):
            clone(form).fit(source, target)
    assert GeodesicFlowKernel(None).fit(xs[:3], xt).n_components_ <= 2


def test_labels_that_are_no_classes_are_refused_where_they_are_used():
    xs, ys, xt, _ = domains()
    form = GeodesicFlowKernel(2, source_basis="pls")
    for labels, match in (
        (ys + np.linspace(0, 0.5, len(ys)), "Unknown label type: continuous"),
        (ys - 1, r"a label of each example, got \[-1, 0\]"),
        (ys * 0, r"2 classes or more .* got \[0\]"),
    ):
        with pytest.raises(ValueError, match=match):
            form.fit(xs, xt, labels)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_features_whose_squares_are_no_numbers_are_refused(scale):
    xs, _, xt, _ = domains()
    with pytest.raises(ValueError, match="features whose squares are numbers.*: scale"):
        SubspaceAlignment(2).fit(scale * xs, xt)
    if scale > 1:  # else covariances are 0 beside the regularization
        with pytest.raises(ValueError, match="features whose squares are numbers: scale"):
            CorrelationAlignment().fit(scale * xs, xt)
    with pytest.raises(ValueError, match="a finite regularization above 0, got inf"):
        CorrelationAlignment(regularization=np.inf).fit(xs, xt)


def test_gfk_and_the_nearest_neighbour_of_its_paper():
    xs, ys, xt, yt = domains()
    pipeline = make_pipeline(GeodesicFlowKernel(2), KNeighborsClassifier(1))
    pipeline.fit(xs, ys, geodesicflowkernel__target_x=xt)
    assert pipeline.score(xt, yt) > 0.85


def test_dlid_goes_from_the_source_to_the_target():
    xs, _, xt, _ = domains(200)
    form = DLID(n_steps=4, n_components=5).fit(xs, xt)
    np.testing.assert_allclose(form.shares_, [0, 0.25, 0.5, 0.75, 1])
    assert form.transform(xt).shape == (200, 5 * 5)
    other = DLID(n_steps=4, n_components=5, random_state=1).fit(xs, xt)
    assert np.abs(form.transform(xt) - other.transform(xt)).max() > 0
    with pytest.raises(ValueError, match="at least 1 step from source to target, got 0"):
        DLID(n_steps=0).fit(xs, xt)


def test_the_mixtures_hold_the_shares_of_each_domain():
    from dann_jax.alignment.estimators import _mixture

    random = np.random.RandomState(0)
    source, target = np.zeros([100, 1]), np.ones([40, 1])
    for share, counts in ((0.0, (100, 0)), (0.25, (75, 10)), (1.0, (0, 40))):
        mixed = _mixture(source, target, share, random)
        assert (int((mixed == 0).sum()), int((mixed == 1).sum())) == counts


@pytest.mark.parametrize("form", EVERY[1:], ids=IDS[1:])
def test_a_closed_form_is_measured_with_a_linear_svm(form):
    xs, ys, xt, yt = domains()
    tests = {"source_test": Examples(xs, ys), "target_test": Examples(xt, yt)}
    entries = linear_svm.aligned(closed_form(form), Examples(xs, ys), xt, **tests)
    fitted = clone(form).fit(xs, xt, ys)
    head = linear_svm.fit(Examples(fitted.transform(xs, SOURCE), ys), entries["C"])
    expected = linear_svm.accuracy(head, Examples(fitted.transform(xt, TARGET), yt))
    assert entries["target_accuracy"] == expected == entries["oracle_accuracy"]
    assert entries["components"] == fitted.transform(xt).shape[1]
