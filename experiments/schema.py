"""What result files and records hold: typed models, published as docs/result.schema.json.

Accuracies are shares from 0 to 1, times are seconds. ``consistency`` checks what the entries of a
file say of each other.
"""

import dataclasses
import reprlib
import typing
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import pydantic
from pydantic import Field

from dann_jax.objective import NORMALIZATIONS
from dann_jax.selection import RULES
from experiments.methods import METHODS
from experiments.settings import Config

__all__ = [
    "FORMAT",
    "Alignment",
    "AlignmentResult",
    "Evaluations",
    "Fault",
    "Head",
    "Record",
    "Training",
    "TrainingResult",
    "json_schema",
    "shown",
    "typed",
]

FORMAT = 3  # of result files and records; a change of what they hold raises it

Key = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]
Distance = Annotated[float, Field(ge=0, le=2)]
Seconds = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(min_length=1)]  # a path may hold what is no Unicode: str
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MethodName = Annotated[str, Field(json_schema_extra={"enum": list(METHODS)})]
Rule = Literal[tuple(RULES)]
Accuracies = list[Share | None]


class Fault(NamedTuple):
    """An entry that a file of this kind cannot have."""

    entry: str
    expected: str
    got: str

    def __str__(self):
        """Says where, what was expected and what was got."""
        plain = self.entry.isprintable() and len(self.entry) < 200
        entry = self.entry if plain else shown(self.entry)
        return f"{entry}: expected {self.expected}, got {self.got}"


class _Entries(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


_Model = TypeVar("_Model", bound=_Entries)


class Weights(_Entries):
    """The file of a backbone's weights."""

    file: Name
    sha256: Sha256


def _settings():
    """Returns the model of ``plan.resolved``; a setting that is younger than a file may lack."""
    hints = typing.get_type_hints(Config) | {
        "weights": Weights | None,
        "select": list[Rule],
        "continue_from": str | None,
    }
    fields: dict[str, Any] = {"method": (MethodName, ...)}
    for field in dataclasses.fields(Config):
        kind = hints[field.name]
        if int in (kind, *typing.get_args(kind)):  # a program counts in int32
            kind = Annotated[kind, Field(gt=-(2**31), lt=2**31)]
        required = field.default is dataclasses.MISSING
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        fields[field.name] = kind, ... if required else default
    return pydantic.create_model("Settings", __base__=_Entries, **fields)


Settings: Any = _settings()


class Data(_Entries):
    """A split of a data set, as stored."""

    examples: Count
    sha256: Sha256
    part: Name = ""
    """Which part of the split, where it is not all of it."""


class Origin(_Entries):
    """What decides the numbers beside the settings and the key."""

    data: Annotated[dict[str, Data], Field(min_length=1)]
    """By NAME/SPLIT, of a folder DOMAIN:NAME/SPLIT; and the few labels. Of source:NAME/train the
    images of source:NAME/held out are not trained on."""
    versions: dict[Name, Name]
    """Of dann_jax, Python and the packages that the numbers depend on."""
    device: Name
    processor: Name | None = None
    """The model of the CPU, or several where a training went on elsewhere; null if not known."""
    device_count: Count
    process_count: Count
    plain_xla: bool
    """Whether the fast kernels for CPUs were off."""
    threads: Count | None
    """That the work of a CPU is split over."""


class Warned(_Entries):
    """A sign of a collapse."""

    step: Count
    warning: Name


class Divergence(_Entries):
    """The end of a training whose numbers are not finite any more."""

    step: Count
    """Whose value was not finite."""
    term: Annotated[str, Field(pattern="^[a-z_]+$")]
    """Which value, such as label_loss."""
    checkpoint: Count | None
    """The step of the last good checkpoint."""


class Digests(_Entries):
    """SHA-256 of what a training ended with."""

    parameters: Sha256
    losses: Sha256
    accuracies: Sha256


class Continued(_Entries):
    """The finished training that another began with."""

    run: Name
    """Its folder."""
    step: Annotated[int, Field(ge=0, lt=2**31)]
    """From which updates are counted on; 0 where only its parameters were taken."""
    sha256: Sha256
    """Of its parameters and batch statistics; at step 0 of its file of weights."""
    new: list[Name] = []
    """Layers, or whole parts, that began anew."""


class Group(_Entries):
    """Keys that were trained as one program."""

    keys: Annotated[list[Key], Field(min_length=1)]
    devices_per_key: Count


class DomainLoss(_Entries):
    """How L_d was averaged and weighted."""

    normalization: Literal[NORMALIZATIONS]
    weight: Annotated[float, Field(ge=0)]


# The curves, rows in a record and columns in a result file. What a method does not have, a domain
# branch say, is null or absent; a number that is not finite is null.
_ALWAYS = {"label_loss": float, "mu": float}
_IF_ANY = {
    "label_accuracy": Share,
    "domain_loss": float,
    "domain_accuracy": Share,
    "feature_norm": Annotated[float, Field(ge=0)],
    "lam": float,
}


def _curves(name, about, always, if_any, nested):
    """Returns models of a row and of columns; ``nested`` are entries of values by name."""
    row = {"step": (Count, ...)} | {n: (kind | None, ...) for n, kind in always.items()}
    columns = {n: (list[kind], ...) for n, (kind, _) in row.items()}
    row |= {n: (kind | None, None) for n, kind in if_any.items()}
    columns |= {n: (list[kind | None], []) for n, kind in if_any.items()}
    for entry, (key, kind) in nested.items():
        row[entry] = dict[key, kind], {}
        columns[entry] = dict[key, list[kind]], {}
    make = pydantic.create_model
    return (
        make(f"{name}Row", __base__=_Entries, __doc__=f"{about} at a step.", **row),
        make(name, __base__=_Entries, __doc__=f"{about}, as columns.", **columns),
    )


TrainingRow, Training = _curves(  # penalties: what an objective adds to L_y and L_d
    "Training", "Means over the last steps", _ALWAYS, _IF_ANY, {"penalties": (Name, float | None)}
)
_BOTH = {"source_accuracy": Share, "target_accuracy": Share}
_DISTANCES = {"proxy_a_distance": Distance, "discriminator_bound": Distance}  # with --divergence
_SURENESS = {  # of the predictions on a target without labels
    "target_confidence": Share,
    "target_entropy": Annotated[float, Field(ge=0)],
}
EvaluationsRow, Evaluations = _curves(
    "Evaluations",
    "Measured on test images",
    _BOTH,
    _DISTANCES | _SURENESS,
    {  # what the rules of --select say; the target's images by their predicted class
        "scores": (Rule, float | None),
        "predicted": (Name, Annotated[int, Field(ge=0)]),
    },
)


class Curves(_Entries):
    """The course of a key's training."""

    training: Training  # type: ignore[valid-type]
    evaluations: Evaluations  # type: ignore[valid-type]


class Svm(_Entries):
    """Linear SVMs; C and what follows it have an entry for each key."""

    solver: Name
    scaling: Name
    C_grid: list[float]
    C_selection: Name
    layer: Name = ""
    """Absent, with the next three, where all keys diverged."""
    features: Count | None = None
    examples: Count | None = None
    versions: dict[Name, Name] = {}
    C: list[float | None]
    validation_accuracy: Accuracies
    converged: list[bool | None]


class HeadSvm(Svm):
    """In place of a training's last layer."""

    source_accuracy: Accuracies


class AlignedSvm(Svm):
    """After a closed form; further lists are what that has fitted."""

    model_config = pydantic.ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, list[float | None]]


class Selected(_Entries):
    """The steps that a rule chooses among the evaluations, and the accuracies there."""

    step: list[Count | None]
    target_accuracy: Accuracies
    mean: Share | None
    std: Annotated[float, Field(ge=0)] | None


class _Result(Origin):
    format: Literal[FORMAT]  # type: ignore[valid-type]
    config: Name
    method: MethodName
    source: str
    target: str
    keys: Annotated[list[Key], Field(min_length=1)]
    """Numbers of the PRNG keys."""
    target_accuracy: Accuracies
    """Null without labels, and of a key that diverged."""
    mean: Share | None
    std: Annotated[float, Field(ge=0)] | None
    source_accuracy: Accuracies
    selection: Name
    """How the accuracy was chosen."""
    diverged: list[Divergence | None]
    """Where the training of a key diverged; null where it did not."""
    steps: Count
    batch_size: Count
    domain_loss: DomainLoss | None
    wall_seconds: Seconds
    resolved_config: Settings
    """All settings."""
    command: str
    """Makes the file again."""


class TrainingResult(_Result):
    """The result of a method that trains."""

    digests: list[Digests | None]
    """Null where not known, as in files of before format 3."""
    groups: Annotated[list[Group], Field(min_length=1)]
    continued: list[Continued] = []
    """What each key began with, where that was not its own initialization."""
    steps_per_second: Annotated[float, Field(ge=0)]
    compile_seconds: Seconds
    programs_compiled: Annotated[int, Field(ge=0)]
    programs_from_cache: Annotated[int, Field(ge=0)]
    peak_memory_bytes: Annotated[int, Field(ge=0)] = 0
    peak_resident_bytes: Annotated[int, Field(ge=0)] = 0
    warnings: list[list[Warned]]
    curves: list[Curves]
    selected: dict[Literal[Rule, "oracle"], Selected] = {}
    """By the rules of select; the oracle chooses by the target's test labels."""
    svm_accuracy: Accuracies = []
    svm_mean: Share | None = None
    svm_std: Annotated[float, Field(ge=0)] | None = None
    svm: HeadSvm | None = None


class ByComponents(_Entries):
    """Accuracies of a closed form by its number of components, of each key.

    Both are empty where nothing is chosen, and each key has its own number.
    """

    components: list[Count]
    target_accuracy: list[list[Share] | None]


class AlignmentResult(_Result):
    """The result of a closed form on the features of trainings."""

    components: list[Count | None]
    oracle_accuracy: Accuracies
    oracle_mean: Share | None
    oracle_std: Annotated[float, Field(ge=0)] | None
    oracle_components: list[Count | None]
    oracle_selection: Name
    by_components: ByComponents
    svm: AlignedSvm


class Record(_Entries):
    """The training of one key, finished or begun: ``key_KEY/record.json``."""

    format: Literal[FORMAT]  # type: ignore[valid-type]
    settings: Settings
    origin: Origin
    together: Annotated[list[Key], Field(min_length=1)]
    """The keys that are trained with it as one program, itself among them."""
    devices_per_key: Count
    finished: bool
    continued: Continued | None = None
    """What it began with, where that was not its own initialization."""
    curves: list[TrainingRow]  # type: ignore[valid-type]
    evaluations: list[EvaluationsRow]  # type: ignore[valid-type]
    warnings: list[Warned]
    unfinished: list[TrainingRow] = []  # type: ignore[valid-type]
    """Of each step since the last entry of the curves that a checkpoint lies within."""
    train_seconds: Seconds
    wall_seconds: Seconds
    source_accuracy: Share | None = None
    """Of the last evaluation."""
    target_accuracy: Share | None = None
    diverged: Divergence | None = None
    digests: Digests | None = None


class Head(_Entries):
    """A linear SVM on the features of a key's training: ``key_KEY/svm.json``."""

    key: Key
    parameters: Sha256 | None
    """The digest of the training's."""
    target_accuracy: Share | None
    source_accuracy: Share | None
    C: float
    validation_accuracy: Share
    converged: bool
    layer: Name
    features: Count
    examples: Count
    versions: dict[Name, Name]
    seconds: Seconds


class OfComponents(_Entries):
    """Accuracies of a closed form by its number of components."""

    components: Annotated[list[Count], Field(min_length=1)]
    target_accuracy: Annotated[list[Share], Field(min_length=1)]


class Alignment(Head):
    """A closed form on the features of a key's training: ``key_KEY/METHOD.json``."""

    target_accuracy: Share
    components: Count
    oracle_components: Count
    oracle_accuracy: Share
    by_components: OfComponents
    fitted: dict[Name, float]


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of result files and records."""
    every = pydantic.TypeAdapter(TrainingResult | AlignmentResult | Record).json_schema()
    about = f"A result file of dann_jax, or the record of a training, format {FORMAT}"
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": about} | every


def typed(kind: type[_Model], content: dict[str, Any]) -> tuple[_Model | None, list[Fault]]:
    """Returns the content of a file as a model, or None and what is not of the right kind."""
    if "format" in kind.model_fields and content.get("format") != FORMAT:
        return None, [Fault("format", str(FORMAT), shown(content.get("format")))]
    try:
        return kind.model_validate(content), []
    except pydantic.ValidationError as error:
        return None, [_fault(each) for each in error.errors(include_url=False)]


_EXPECTED = {  # by the type of an error
    "missing": "an entry",
    "extra_forbidden": "no such entry",
    "model_type": "an object",
    "dict_type": "an object",
    "list_type": "a list",
    "too_short": "at least {min_length} entry",
    "string_too_short": "text",
    "string_pattern_mismatch": "text of the form {pattern}",
}


def _fault(error):
    """Returns an error of pydantic as a fault."""
    entry = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error["loc"])
    usual = error["msg"].removeprefix("Input should be ")
    expected = _EXPECTED.get(error["type"], usual).format(**error.get("ctx", {}))
    got = "none" if error["type"] == "missing" else shown(error["input"])
    return Fault(entry.lstrip("."), expected, got)


def shown(value: Any) -> str:
    """Returns a value of JSON, or a model of one, as a short text on one line."""
    if isinstance(value, pydantic.BaseModel):
        value = value.model_dump()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 200, 40, 80
