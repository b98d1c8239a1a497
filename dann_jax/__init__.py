"""Domain-adversarial training of neural networks in JAX (Ganin & Lempitsky, 2015)."""

from typing import TYPE_CHECKING

from dann_jax import extras
from dann_jax.batches import DomainArrays, DomainBatch, batch_indices, gather, split_key
from dann_jax.checks import check_labels
from dann_jax.evaluation import (
    accuracy_counts,
    evaluate,
    features,
    predict,
    predicted_classes,
)
from dann_jax.fitting import Diverged, Fit, Report, fit
from dann_jax.model_files import load
from dann_jax.networks import (
    DannModel,
    compact,
    gtsrb,
    mnist,
    mnist_batch_norm,
    office,
    office_batch_norm,
    svhn,
    svhn_batch_norm,
)
from dann_jax.objective import (
    SOURCE,
    TARGET,
    Apply,
    domain_loss,
    label_loss,
    label_objective,
    reversed_objective,
    saddle_objective,
)
from dann_jax.objectives import (
    cdan_objective,
    coral_objective,
    dan_objective,
    ddc_objective,
    entropy_objective,
    mean_teacher_objective,
    mmd,
    vada_objective,
)
from dann_jax.parts import PureFunction, equinox_part, nnx_part
from dann_jax.programs import (
    init_states,
    make_stream_steps,
    make_study_steps,
    make_train_steps,
    replicate,
)
from dann_jax.reversal import reverse_gradient
from dann_jax.schedules import lambda_p, mu_p, progress
from dann_jax.training import (
    TrainState,
    averaged,
    init_state,
    make_optimizer,
    make_update_step,
    with_average,
)

__version__ = "0.2.0"


if TYPE_CHECKING:
    from dann_jax.classifier import DannClassifier as DannClassifier
else:

    def __getattr__(name):
        """Returns what is imported when it is used first: it takes scikit-learn."""
        if name == "DannClassifier":
            with extras.needs("dann_jax.DannClassifier"):
                from dann_jax.classifier import DannClassifier

            return DannClassifier
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Apply",
    "DannModel",
    "Diverged",
    "DomainArrays",
    "DomainBatch",
    "Fit",
    "PureFunction",
    "Report",
    "SOURCE",
    "TARGET",
    "TrainState",
    "accuracy_counts",
    "averaged",
    "batch_indices",
    "cdan_objective",
    "check_labels",
    "compact",
    "coral_objective",
    "dan_objective",
    "ddc_objective",
    "domain_loss",
    "entropy_objective",
    "equinox_part",
    "evaluate",
    "features",
    "fit",
    "gather",
    "gtsrb",
    "init_state",
    "init_states",
    "label_loss",
    "label_objective",
    "lambda_p",
    "load",
    "make_optimizer",
    "make_stream_steps",
    "make_study_steps",
    "make_train_steps",
    "make_update_step",
    "mean_teacher_objective",
    "mmd",
    "mnist",
    "mnist_batch_norm",
    "mu_p",
    "nnx_part",
    "office",
    "office_batch_norm",
    "predict",
    "predicted_classes",
    "progress",
    "replicate",
    "reverse_gradient",
    "reversed_objective",
    "saddle_objective",
    "split_key",
    "svhn",
    "svhn_batch_norm",
    "vada_objective",
    "with_average",
]
