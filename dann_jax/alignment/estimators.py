"""Closed forms of domain adaptation as scikit-learn transformers.

Each is fitted to the features of both domains and then transforms those of either. In a pipeline
the target goes along as a parameter of the step, and predictions are for the target:

    pipeline = make_pipeline(SubspaceAlignment(n_components=20), LinearSVC())
    pipeline.fit(source_x, source_y, subspacealignment__target_x=target_x)
    pipeline.predict(new_target_x)
"""

import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, check_X_y

from dann_jax.alignment.subspace import Alignment, Subspace, align, principal_subspace
from dann_jax.checks import check_count
from dann_jax.objective import SOURCE, TARGET, check_domain

__all__ = [
    "DLID",
    "CorrelationAlignment",
    "DomainTransformer",
    "GeodesicFlowKernel",
    "SubspaceAlignment",
    "closed_form",
]

DISAGREEMENT = 1e-3  # of the measure from 1, where finite samples count as orthogonal
DICTIONARY_EPOCHS = 10


class DomainTransformer(TransformerMixin, BaseEstimator):
    """What the transformers share: checks of their inputs, and ``fit_transform`` for pipelines."""

    def fit(self, source_x: Any, target_x: Any, source_y: Any = None) -> Self:
        """Fits to features of both domains.

        Args:
          source_x: ``[n, D]``.
          target_x: ``[m, D]``.
          source_y: ``[n]`` labels of the source, where the form takes them.

        Returns:
          The transformer.

        Raises:
          ValueError: The features are not finite matrices with the same number of columns, or
            there are too few examples.
        """
        source_x, target_x = (self._checked(x) for x in (source_x, target_x))
        if source_x.shape[1] != target_x.shape[1]:
            raise ValueError(
                "expected as many features in both domains, got "
                f"{source_x.shape[1]} and {target_x.shape[1]}"
            )
        if source_y is not None:
            source_x, source_y = check_X_y(source_x, source_y, dtype=np.float64)
        self.n_features_in_ = source_x.shape[1]
        self._fit(source_x, target_x, source_y)
        return self

    def _checked(self, x):
        return check_array(x, dtype=np.float64, ensure_min_samples=2, estimator=self)

    def transform(self, x: Any, domain: int = TARGET) -> np.ndarray:
        """Returns transformed features.

        Args:
          x: ``[n, D]``.
          domain: Of all examples, 0 source or 1 target.

        Returns:
          ``[n, D']``.

        Raises:
          ValueError: The domain is another, or the features are not those that were fitted.
        """
        check_is_fitted(self)
        check_domain(domain, joint=False)
        x = check_array(x, dtype=np.float64, estimator=self)
        if x.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {x.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        return self._transform(x, domain)

    def fit_transform(self, X: Any, y: Any = None, *, target_x: Any) -> np.ndarray:
        """Returns the transformed source, after a fit: what a pipeline calls.

        Args:
          X: ``[n, D]`` of the source.
          y: ``[n]`` labels of the source.
          target_x: ``[m, D]``; a pipeline passes ``STEP__target_x`` on.
        """
        return self.fit(X, target_x, y).transform(X, SOURCE)


class SubspaceAlignment(DomainTransformer):
    """Subspace alignment: source and target in the components of the target's subspace.

    Features are z-scored in each domain. The source becomes ``S X_S M`` with M = X_Sᵀ X_T, the
    target ``T X_T``.

    Args:
      n_components: Number d of components, 1 to D.

    Attributes:
      alignment_: M, ``[d, d]``.

    Source: Fernando et al. (ICCV 2013), see ``subspace``.
    """

    def __init__(self, n_components: int = 20):
        self.n_components = n_components

    def _fit(self, source_x, target_x, source_y):
        check_count(self.n_components, "n_components", 0)
        self.subspaces_: tuple[Subspace, Subspace] = (
            principal_subspace(source_x),
            principal_subspace(target_x),
        )
        self.alignment_ = align(*self.subspaces_, self.n_components)
        _check_components(self.n_components, _least_rank(self.subspaces_))

    def _transform(self, x, domain):
        projected = self.subspaces_[domain].project(x, self.n_components)
        return projected @ self.alignment_ if domain == SOURCE else projected


def _least_rank(subspaces):
    return min(subspace.rank for subspace in subspaces)


def _check_components(count, most):
    """Raises where a domain does not vary in as many directions: others would be arbitrary."""
    if count > most:
        raise ValueError(
            f"expected 1 to {most} components, the directions that examples of both domains vary "
            f"in, got {count}: lower n_components, or give more examples"
        )


class CorrelationAlignment(DomainTransformer):
    """CORAL: the source whitened and coloured with the target's covariance; the target stays.

    ``x (C_S + εI)^(-1/2) (C_T + εI)^(1/2)``, after the mean of each domain is subtracted.

    Args:
      regularization: ε, in the units of the features' variances; 1 in the paper, whose features
        are z-scored.

    Attributes:
      coloring_: The product of both roots, ``[D, D]``.

    Source: Sun, Feng and Saenko, Return of Frustratingly Easy Domain Adaptation (AAAI 2016),
    Algorithm 1.
    """

    def __init__(self, regularization: float = 1.0):
        self.regularization = regularization

    def _fit(self, source_x, target_x, source_y):
        if not 0 < self.regularization < np.inf:
            raise ValueError(f"expected a finite regularization above 0, got {self.regularization}")
        self.means_ = source_x.mean(0), target_x.mean(0)
        covariances = (self._covariance(x) for x in (source_x, target_x))
        whitening, coloring = next(covariances), next(covariances)
        self.coloring_ = _power(whitening, -0.5) @ _power(coloring, 0.5)

    def _covariance(self, x):
        with np.errstate(over="ignore", invalid="ignore"):
            covariance = np.cov(x.T).reshape(x.shape[1], -1)
        if not np.isfinite(covariance).all():
            raise ValueError("expected features whose squares are numbers: scale the features")
        return covariance + self.regularization * np.eye(x.shape[1])

    def _transform(self, x, domain):
        x = x - self.means_[domain]
        return x @ self.coloring_ if domain == SOURCE else x


def _power(matrix, exponent):
    """Returns a power of a symmetric positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


class GeodesicFlowKernel(DomainTransformer):
    """GFK: features whose inner products are the kernel along the geodesic between subspaces.

    ``G = ∫₀¹ Φ(t) Φ(t)ᵀ dt``, Φ the geodesic on the Grassmannian from the source's subspace to the
    target's. Features are z-scored in each domain. ``transform`` gives ``z G^(1/2)`` in the 2d
    coordinates that G does not set to 0: their inner products are ``zᵀ G z'``, for 1-NN and linear
    SVMs.

    Args:
      n_components: Dimension d of both subspaces, at most D / 2. None for the smallest at which
        both domains' subspaces have a direction orthogonal to that of the joint data (the paper's
        subspace disagreement measure is 1), or D / 2.
      source_basis: ``'pca'``, or ``'pls'`` (partial least squares with the source's labels).

    Attributes:
      n_components_: d.
      angles_: Principal angles θ ``[d]``, radians, ascending.
      kernel_: G ``[D, D]``, positive semidefinite.

    Source: Gong, Shi, Sha and Grauman, Geodesic Flow Kernel for Unsupervised Domain Adaptation
    (CVPR 2012), Eqs. (1)-(7).
    """

    def __init__(self, n_components: int | None = 20, source_basis: str = "pca"):
        self.n_components = n_components
        self.source_basis = source_basis

    def _fit(self, source_x, target_x, source_y):
        self.subspaces_ = principal_subspace(source_x), principal_subspace(target_x)
        z = [s.standardize(x) for s, x in zip(self.subspaces_, (source_x, target_x), strict=True)]
        d = self.n_components_ = self._dimension(z)
        basis = self.subspaces_[SOURCE].basis[:, :d]
        if self.source_basis == "pls":
            basis = _pls_basis(z[SOURCE], source_y, d)
        elif self.source_basis != "pca":
            raise ValueError(f"expected source_basis 'pca' or 'pls', got {self.source_basis!r}")
        self.root_, self.angles_ = _geodesic_root(basis, self.subspaces_[TARGET].basis[:, :d])

    @property
    def kernel_(self) -> np.ndarray:
        """G, ``[D, D]``."""
        return self.root_ @ self.root_.T

    def _dimension(self, z):
        most, rank = z[SOURCE].shape[1] // 2, _least_rank(self.subspaces_)
        if self.n_components is None:
            joint = principal_subspace(np.concatenate(z))
            return _smallest_disagreeing(*self.subspaces_, joint, min(most, rank))
        if not 1 <= check_count(self.n_components, "n_components", 0) <= most:
            raise ValueError(
                f"expected 1 to {most} components, half of the {z[SOURCE].shape[1]} features, got "
                f"{self.n_components}: lower n_components"
            )
        _check_components(self.n_components, rank)
        return self.n_components

    def _transform(self, x, domain):
        return self.subspaces_[domain].standardize(x) @ self.root_


def _pls_basis(z, labels, d):
    """Returns an orthonormal basis of the directions that covary most with the classes."""
    if labels is None:
        raise ValueError("source_basis 'pls' needs labels: pass source_y, or choose 'pca'")
    check_classification_targets(labels)
    unknown = labels.dtype.kind in "if" and (labels < 0).any()
    if unknown or len(np.unique(labels)) < 2:
        raise ValueError(
            "source_basis 'pls' needs 2 classes or more and a label of each example, got "
            f"{np.unique(labels)[:5].tolist()}: leave out examples of unknown label"
        )
    one_hot = (labels[:, None] == np.unique(labels)).astype(np.float64)
    weights = PLSRegression(n_components=d, scale=False).fit(z, one_hot).x_weights_
    return np.linalg.qr(weights)[0]


def _geodesic_root(source, target):
    """Returns R with G = R Rᵀ, ``[D, 2d]``, and the principal angles, ``[d]``."""
    u, cosines, vt = np.linalg.svd(source.T @ target)
    a = source @ u  # Φ(t) = a cos(tθ) + b sin(tθ)
    beyond = target @ vt.T - a * cosines
    sines = np.linalg.norm(beyond, axis=0)
    b = beyond / np.where(sines > 0, sines, 1.0)
    angles = np.arctan2(sines, cosines)
    # Integrals over t of cos², sin cos and sin² of tθ; their limits where θ is 0.
    theta = np.where(angles > 0, angles, 1.0)
    cos2 = np.where(angles > 0, 0.5 + np.sin(2 * theta) / (4 * theta), 1.0)
    mixed = np.where(angles > 0, np.sin(theta) ** 2 / (2 * theta), 0.0)
    blocks = np.array([[cos2, mixed], [mixed, 1.0 - cos2]]).transpose(2, 0, 1)
    values, vectors = np.linalg.eigh(blocks)
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]  # [d, 2, 2]
    root = np.stack([a, b], -1).transpose(1, 0, 2) @ roots  # [d, D, 2]
    return root.transpose(1, 0, 2).reshape(len(source), -1), angles


def _smallest_disagreeing(source, target, joint, most):
    """Returns the smallest d whose disagreement ``(sin α_d + sin β_d) / 2`` is 1, at most ``most``.

    α and β are the largest principal angles of source and target with the joint data.
    """
    for d in range(1, most + 1):
        sines = [
            np.sqrt(1 - min(1.0, np.linalg.svd(s.basis[:, :d].T @ joint.basis[:, :d])[1][-1]) ** 2)
            for s in (source, target)
        ]
        if np.mean(sines) > 1 - DISAGREEMENT:
            return d
    return most


class DLID(DomainTransformer):
    """DLID: codes learned on data sets that lead from the source to the target, concatenated.

    Data set k of 0 to p has a share 1 - k/p of the source's examples and k/p of the target's. On
    each a dictionary for sparse codes is learned, and an encoder that predicts the codes without a
    solver: a network with one hidden layer of tanh. ``transform`` gives the outputs of all of them.

    The authors' code is not public. What their text leaves open is chosen here: features are
    z-scored over both domains, the dictionaries are scikit-learn's, the encoders are trained after
    them and not together with them, and features are vectors instead of patches of images.

    Args:
      n_steps: p, the number of steps from source to target.
      n_components: Atoms of each dictionary.
      alpha: Weight of the codes' L1 norm.
      random_state: Of the draws, dictionaries and encoders.

    Attributes:
      encoders_: One for each data set.
      shares_: Share of the target in each of them, ``[p + 1]``.

    Source: Chopra, Balakrishnan and Gopalan, DLID: Deep Learning for Domain Adaptation by
    Interpolating between Domains (ICML Workshops 2013); Kavukcuoglu, Ranzato and LeCun, Fast
    Inference in Sparse Coding Algorithms (2010).
    """

    def __init__(
        self,
        n_steps: int = 4,
        n_components: int = 64,
        alpha: float = 1.0,
        random_state: int | None = 0,
    ):
        self.n_steps = n_steps
        self.n_components = n_components
        self.alpha = alpha
        self.random_state = random_state

    def _fit(self, source_x, target_x, source_y):
        if self.n_steps < 1:
            raise ValueError(f"expected at least 1 step from source to target, got {self.n_steps}")
        self.scaler_ = StandardScaler().fit(np.concatenate([source_x, target_x]))
        z = [self.scaler_.transform(x) for x in (source_x, target_x)]
        random = check_random_state(self.random_state)
        self.shares_ = np.linspace(0.0, 1.0, self.n_steps + 1)
        self.encoders_ = [
            self._encoder(_mixture(*z, share, random), random) for share in self.shares_
        ]

    def _encoder(self, x, random):
        """Returns a network that predicts the sparse codes of examples."""
        dictionary = MiniBatchDictionaryLearning(
            self.n_components,
            alpha=self.alpha,
            fit_algorithm="cd",
            transform_algorithm="lasso_cd",
            transform_alpha=self.alpha,
            max_iter=DICTIONARY_EPOCHS,
            random_state=random,
        )
        codes = dictionary.fit(x).transform(x)
        network = MLPRegressor(
            hidden_layer_sizes=(self.n_components,),
            activation="tanh",
            early_stopping=True,
            random_state=random,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return network.fit(x, codes)

    def _transform(self, x, domain):
        z = self.scaler_.transform(x)
        return np.concatenate([encoder.predict(z) for encoder in self.encoders_], 1)


def _mixture(source, target, share, random):
    """Returns examples of both domains, a share of them of the target."""
    counts = round((1 - share) * len(source)), round(share * len(target))
    drawn = [
        x[random.permutation(len(x))[:n]] for x, n in zip((source, target), counts, strict=True)
    ]
    return random.permutation(np.concatenate(drawn))


def closed_form(
    transformer: DomainTransformer,
) -> Callable[[np.ndarray, np.ndarray | None, np.ndarray], Alignment]:
    """Returns a transformer as a function that is fitted to features, like ``subspace_alignment``.

    Args:
      transformer: Not fitted; there is nothing to choose in what it gives.
    """

    def fit(source, labels, target):
        fitted = clone(transformer).fit(source, target, labels)
        count = fitted.transform(source[:1], SOURCE).shape[1]

        def of(domain):
            def transformed(x, most):
                z = fitted.transform(x, domain)
                return lambda d: z

            return transformed

        return Alignment([count], [count], of(SOURCE), of(TARGET), {})

    return fit
