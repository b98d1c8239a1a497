"""Domain-adversarial training of neural networks in JAX (Ganin & Lempitsky, 2015)."""

from dann_jax.batches import DomainArrays, DomainBatch, batch_indices, gather
from dann_jax.evaluation import evaluate, features, hits, predict
from dann_jax.networks import (
    DannModel,
    PureFunction,
    gtsrb,
    mnist,
    mnist_batch_norm,
    office,
    office_batch_norm,
    svhn,
    svhn_batch_norm,
    svhn_no_dropout,
)
from dann_jax.objective import (
    Apply,
    domain_loss,
    label_loss,
    label_objective,
    reversed_objective,
    saddle_objective,
)
from dann_jax.reversal import reverse_gradient
from dann_jax.schedules import lambda_p, mu_p, progress
from dann_jax.studies import init_states, make_study_steps
from dann_jax.training import (
    TrainState,
    init_state,
    make_optimizer,
    make_train_steps,
    make_update_step,
    replicate,
)

__version__ = "0.2.0"

__all__ = [
    "Apply",
    "DannModel",
    "DomainArrays",
    "DomainBatch",
    "PureFunction",
    "TrainState",
    "batch_indices",
    "domain_loss",
    "evaluate",
    "features",
    "gather",
    "gtsrb",
    "hits",
    "init_state",
    "init_states",
    "label_loss",
    "label_objective",
    "lambda_p",
    "make_optimizer",
    "make_study_steps",
    "make_train_steps",
    "make_update_step",
    "mnist",
    "mnist_batch_norm",
    "mu_p",
    "office",
    "office_batch_norm",
    "predict",
    "progress",
    "replicate",
    "reverse_gradient",
    "reversed_objective",
    "saddle_objective",
    "svhn",
    "svhn_batch_norm",
    "svhn_no_dropout",
]
