"""One schema for result files and records: whatever contradicts itself is refused in a sentence."""

import json
import pathlib
import re

import pytest
from test_report import a_result, an_alignment, finished, lost, svm_entries

from dann_jax import __version__
from experiments import configs, consistency, record, report, run, schema, settings, verify
from experiments.methods import METHODS
from experiments.options import OTHER_CALLS
from experiments.plan import resolved

ABSENT = object()
SHA = "0" * 64
CONFIG, _ = configs.find_config("mnist_mnist_m")


def a_record(**changes):
    """Returns the record of a finished training of key 0."""
    made = {
        "settings": json.loads(json.dumps(resolved(CONFIG, METHODS["dann"]))),
        "origin": {
            name: a_result()[name] for name in schema.Origin.model_fields if name in a_result()
        },
    }
    return made | {"diverged": None, "digests": None} | finished("dann", CONFIG) | changes


def own_pair(name, **more):
    """Returns a result for two folders, with more entries of its data."""
    folders = {"source": f"/a/{name}", "target": "b"}
    made = a_result("own_pair", settings=folders)
    data = {f"source:{name}/train": None, "target:b/train": None}
    return made | {"data": dict.fromkeys(data, {"examples": 7, "sha256": SHA}) | more}


def unlabelled():
    """Returns a result on a target without labels, with what its predictions say."""
    made = a_result(target_accuracy=[None, None], mean=None, std=None)
    for curves in made["curves"]:
        columns = curves["evaluations"]
        every = len(columns["step"])
        columns |= {
            "target_accuracy": [None] * every,
            "target_confidence": [0.5] * every,
            "target_entropy": [1.5] * every,
            "predicted": {"cat": [3] * every, "dog": [4] * every},
        }
    return made


def measured(method):
    """Returns a result with the distances of --divergence."""
    made = a_result(method=method, settings={"divergence": True})
    for curves in made["curves"]:
        count = len(curves["evaluations"]["step"])
        curves["evaluations"]["proxy_a_distance"] = [1.5] * count
        if METHODS[method].adversarial:
            curves["evaluations"]["discriminator_bound"] = [0.5, *[None] * (count - 1)]
    return made


WHOLE = {
    "a training": a_result(),
    "with SVMs": a_result(**svm_entries([0.7, 0.8])),
    "one key, which has no deviation": a_result(accuracy=[0.5]),
    "a baseline": a_result(method="source-only"),
    "a closed form": an_alignment(),
    "a method with penalties": a_result(method="vada", settings={"lambda_max": 0.01}),
    "one key of it diverged": lost(a_result(method="vada"), 1),
    "with distances": measured("dann"),
    "with distances, of a baseline": measured("source-only"),
    "with distances, one key diverged": lost(measured("dann"), 0),
    "other settings": a_result(settings={"steps": 7, "mu0": 0.5, "mirror": True}),
    "one key diverged": lost(a_result(), 1),
    "all diverged": lost(a_result(), 0, 1),
    "few labels": a_result("syn_signs_gtsrb_semi", "few-labels"),
    "a folder whose name is not UTF-8": own_pair("caf\udce9"),
    "without digests": a_result(digests=[None, None]),
    "without target labels": unlabelled(),
    "with a held-out part": own_pair("c", **{"source:c/held out": {"examples": 10, "sha256": SHA}}),
    "groups of other calls": a_result(
        groups=[{"keys": [0, 1, 7], "devices_per_key": 1}],
        command=a_result()["command"] + OTHER_CALLS,
    ),
    "an option that makes the groups": a_result(command=a_result()["command"] + " --together 3"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_results_have_no_fault(name):
    assert consistency.result_faults(WHOLE[name]) == []


def test_a_setting_that_is_younger_than_a_file_has_its_default():
    result = a_result()
    del result["resolved_config"]["nesterov"]
    assert consistency.result_faults(result) == []


def test_a_result_without_target_labels_is_whole():
    unlabelled = a_result(target_accuracy=[None, None], mean=None, std=None)
    for curves in unlabelled["curves"]:
        columns = curves["evaluations"]
        columns["target_accuracy"] = [None] * len(columns["step"])
    assert consistency.result_faults(unlabelled) == []
    unlabelled["curves"][0]["evaluations"]["target_accuracy"][0] = 0.5
    assert consistency.result_faults(unlabelled)


# --- forgeries: one entry of a valid result each

FORGERIES = [  # entry, forged value, the entry that is told if it is another one
    ("format", 2),
    ("format", "3"),
    ("config", "mnist_svhn", "command"),
    ("config", "no_such_config"),
    ("method", "train-on-target"),
    ("method", "dan"),
    ("method", "dam"),
    ("method", ["dann"]),
    ("source", "svhn"),
    ("target", "mnist"),
    ("keys", [0, 0]),
    ("keys", [0, 2**70], "keys[1]"),
    ("keys", [-1, 0], "keys[0]"),
    ("keys", [0, 1, 2], "target_accuracy"),
    ("keys", [0, 5]),
    ("keys", [1, 2], "command"),
    ("keys", []),
    ("keys", 5),
    ("keys", [0, True], "keys[1]"),
    ("target_accuracy", [0.99, 0.99], "target_accuracy[0]"),
    ("target_accuracy", [75.0, 0.8], "target_accuracy[0]"),
    ("target_accuracy", [0.75, None], "target_accuracy[1]"),
    ("target_accuracy", ["x", "y"], "target_accuracy[0]"),
    ("target_accuracy", {}),
    ("mean", 0.7751),
    ("mean", None),
    ("std", None),
    ("std", 0.01),
    ("source_accuracy", [0.91, 0.9], "source_accuracy[0]"),
    ("source_accuracy", [0.9]),
    ("diverged", [{"step": 7, "term": "logits", "checkpoint": None}, None], "target_accuracy[0]"),
    ("diverged", [None]),
    ("diverged", [{"step": 7}, None], "diverged[0].term"),
    ("digests", [None]),
    ("digests", [{"parameters": SHA, "losses": SHA, "accuracies": "0" * 63}, None],
     "digests[0].accuracies"),
    ("digests", [{"parameters": SHA}, None], "digests[0].losses"),
    ("steps", 7),
    ("steps", 10**20),
    ("steps", "7"),
    ("steps", 20_000.0),
    ("batch_size", 64),
    ("domain_loss", None),
    ("domain_loss.weight", 0.5, "domain_loss"),
    ("domain_loss.normalization", "sum_of_means", "domain_loss"),
    ("data", None),
    ("data", {}),
    ("data.mnist_m/test", 3),
    ("data.mnist_m/test", ABSENT),
    ("data.mnist_m/test.sha256", "ab"),
    ("data.mnist_m/test.examples", 9001, "curves[0].evaluations.target_accuracy[0]"),
    ("data.svhn/test", {"examples": 1, "sha256": SHA}),
    ("versions", {}, "versions.dann_jax"),
    ("versions.jax", 3),
    ("versions.jax", ABSENT),
    ("versions.numpy", ABSENT),
    ("selection", "best step"),
    ("process_count", 2),
    ("curves[0].training.mu[0]", 0.01001),
    ("curves[1].training.mu[15]", 0.00166),
    ("curves[1].training.lam[1]", 0.33),
    ("curves[1].training.lam", ABSENT, "curves[1].training.lam[0]"),
    ("device_count", 0),
    ("threads", 1.5),
    ("plain_xla", 0),
    ("groups", []),
    ("groups", [{"keys": [0], "devices_per_key": 1}]),
    ("groups", [{"keys": [0, 1, 2], "devices_per_key": 1}]),
    ("groups", [{"keys": [0, 1], "devices_per_key": 1}, {"keys": [1], "devices_per_key": 1}]),
    ("groups[0].devices_per_key", 2),
    ("wall_seconds", -1),
    ("programs_from_cache", 10),
    ("warnings", [[]]),
    ("warnings", [[{"step": 10**6, "warning": "late"}], []], "warnings[0][0].step"),
    ("curves", []),
    ("curves", [{}, {}], "curves[0].training"),
    ("curves[1].training.label_loss", [1.0]),
    ("curves[1].training.label_loss[2]", None),
    ("curves[0].training.domain_loss", ABSENT, "curves[0].training.domain_loss[0]"),
    ("curves[0].training.mu[0]", "0.01"),
    ("curves[0].training.label_accuracy", [2.0], "curves[0].training.label_accuracy[0]"),
    ("curves[0].training.penalties", {"mmd": [0.1]}, "curves[0].training.penalties.mmd"),
    ("curves[0].training.penalties", {"mmd": [0.1] * 16}),
    ("curves[0].training.step[1]", 5),
    ("curves[0].training.step[2]", 4_001, "curves[0].training.step"),
    ("curves[0].training.step[-1]", 30_001, "curves[0].training.step"),
    ("curves[0].evaluations.step[0]", 1_999),
    ("curves[0].evaluations.step[-1]", 29_999, "curves[0].evaluations.step"),
    ("curves[1].evaluations.target_accuracy[-1]", 0.81, "target_accuracy[1]"),
    ("curves[1].evaluations.target_accuracy[0]", 0.12345),
    ("curves[1].evaluations.source_accuracy[0]", None),
    ("curves[1].evaluations.proxy_a_distance", [1.0] * 15),
    ("resolved_config.divergence", True, "command"),
    ("svm_accuracy", [0.7, 0.7], "svm"),
    ("resolved_config", {}, "resolved_config.method"),
    ("resolved_config.method", "source-only", "method"),
    ("resolved_config.steps", 7, "steps"),
    ("resolved_config.steps", 0, "resolved_config"),
    ("resolved_config.mu0", "0.01"),
    ("resolved_config.mu0", 0.02, "command"),
    ("resolved_config.gamma", 2**70, "command"),
    ("resolved_config.lambda_horizon", 2**70),
    ("resolved_config.evaluate_every", 500, "command"),
    ("resolved_config.network", "minst"),
    ("resolved_config.warp", 9),
    ("resolved_config.target", "svhn", "data.svhn/train"),
    ("resolved_config.weights", {"file": "a.npz", "sha256": SHA}),
    ("command", "python -m experiments.run mnist_mnist_m --methods dann --keys 1"),
    ("command", "python -m experiments.run mnist_mnist_m --methods source-only --keys 2"),
    ("command", "python -m experiments.run mnist_svhn --methods dann --keys 2"),
    ("command", "python -m experiments.run mnist_mnist_m --methods dann --keys 2 --mu0 0.02"),
    ("command", "python -m experiments.run mnist_mnist_m --methods dann --keys 2 --together 1"),
    ("command", "rm -r /"),
    ("surprise", 3),
]  # fmt: skip

OF_CLOSED_FORMS = [
    ("target_accuracy", [0.55, 0.5], "target_accuracy[1]"),
    ("components", [11, 12], "components[0]"),
    ("components", [12, 12], "target_accuracy[0]"),
    ("oracle_accuracy", [0.55, 0.6], "oracle_accuracy[0]"),
    ("oracle_components", [10, 24], "oracle_accuracy[0]"),
    ("oracle_mean", 0.6),
    ("oracle_mean", ABSENT),
    ("oracle_std", None),
    ("by_components.target_accuracy[0][1]", 0.99, "oracle_accuracy[0]"),
    ("by_components.target_accuracy[0]", [0.55]),
    ("by_components.target_accuracy", [[0.55, 0.5, 0.58, 0.5]]),
    ("svm.C", [1.0]),
    ("source_accuracy[0]", None),
    ("selection", "the best of all"),
    ("svm.stable_components", [3]),
    ("curves", []),
]


OF_PENALTIES = [
    ("curves[0].training.penalties", ABSENT),
    ("curves[1].training.penalties.entropy", ABSENT, "curves[1].training.penalties"),
    ("curves[1].training.penalties.mmd", [0.1] * 16, "curves[1].training.penalties"),
    ("curves[0].training.penalties.entropy[3]", None),
    ("curves[0].training.penalties.vat_source", [0.1]),
    ("curves[0].training.penalties.vat_target[0]", "0.1"),
    ("curves[0].training.lam[0]", 0.1),
    ("resolved_config.lambda_max", 0.02, "command"),
]

OF_DISTANCES = [
    ("curves[0].evaluations.proxy_a_distance", ABSENT),
    ("curves[1].evaluations.discriminator_bound", ABSENT),
    ("curves[0].evaluations.proxy_a_distance", [1.5]),
    ("curves[0].evaluations.proxy_a_distance[0]", 2.01),
    ("curves[0].evaluations.discriminator_bound[0]", -0.01),
    ("resolved_config.divergence", False, "command"),
]

OF_PREDICTIONS = [
    ("curves[0].evaluations.target_confidence", ABSENT),
    ("curves[0].evaluations.target_entropy", ABSENT),
    ("curves[1].evaluations.predicted", ABSENT),
    ("curves[0].evaluations.target_confidence[0]", 1.01),
    ("curves[0].evaluations.target_entropy[0]", -0.01),
    ("curves[0].evaluations.predicted.cat[1]", -1),
    ("curves[0].evaluations.predicted.cat[1]", 0.5),
    ("curves[0].evaluations.predicted.cat[1]", 4, "curves[0].evaluations.predicted"),
    ("curves[0].evaluations.predicted.cat", [3]),
]

OF_SVMS = [
    ("svm_accuracy", [0.7, 0.7], "svm_mean"),
    ("svm_accuracy", [0.7], "svm_accuracy"),
    ("svm_accuracy", [0.7, None], "svm_accuracy[1]"),
    ("svm_mean", 0.7),
    ("svm_std", ABSENT),
    ("svm", None),
    ("svm", ABSENT),
    ("svm.C", []),
    ("svm.C[0]", 0.3),
    ("svm.C[0]", None),
    ("svm.converged[1]", None),
    ("svm.validation_accuracy[1]", None),
    ("svm.source_accuracy", ABSENT),
    ("svm.source_accuracy", [0.91234, 0.9], "svm.source_accuracy[0]"),
    ("svm.stable_components", [3, 3]),
]


def places(entry):
    """Returns the names and numbers that lead to an entry."""
    for part in entry.replace("[", ".[").split("."):
        yield int(part[1:-1]) if part.startswith("[") else part


def forged(content, entry, value):
    """Returns the content with another value of one entry."""
    content = json.loads(json.dumps(content))
    *way, last = places(entry)
    inner = content
    for place in way:
        inner = inner[place]
    if value is ABSENT:
        del inner[last]
    else:
        inner[last] = value
    return content


def case(forgery):
    entry, value, told = (*forgery, forgery[0])[:3]
    return entry, value, told


def test_there_are_many_forgeries():
    assert len(FORGERIES) + len(OF_CLOSED_FORMS) + len(OF_SVMS) >= 100


@pytest.mark.parametrize(("entry", "value", "told"), [*map(case, FORGERIES)])
def test_a_forged_entry_is_refused_and_named(entry, value, told):
    faults = consistency.result_faults(forged(a_result(), entry, value))
    assert told in [fault.entry for fault in faults], list(map(str, faults))
    for text in map(str, faults):
        assert ": expected " in text
        assert ", got " in text
        assert text.isprintable()


@pytest.mark.parametrize(
    ("name", "entry", "value", "told"),
    [
        *(("a closed form", *case(each)) for each in OF_CLOSED_FORMS),
        *(("with SVMs", *case(each)) for each in OF_SVMS),
        *(("with distances", *case(each)) for each in OF_DISTANCES),
        *(("without target labels", *case(each)) for each in OF_PREDICTIONS),
        (
            "a training",
            *("curves[0].evaluations.target_confidence", [0.5] * 15),
            "curves[0].evaluations.target_confidence",
        ),
        (
            "with a held-out part",
            *("source_accuracy", [0.85, 0.9]),
            "source_accuracy[0]",
        ),
        (
            "with distances, of a baseline",
            *("curves[0].evaluations.discriminator_bound", [0.5] * 15),
            "curves[0].evaluations.discriminator_bound",
        ),
        *(("a method with penalties", *case(each)) for each in OF_PENALTIES),
    ],
)
def test_a_forged_entry_of_another_kind_of_result_is_refused(name, entry, value, told):
    faults = consistency.result_faults(forged(WHOLE[name], entry, value))
    assert told in [fault.entry for fault in faults], list(map(str, faults))


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        ("mean", 0.5, "mean"),
        ("target_accuracy[1]", 0.8, "target_accuracy[1]"),
        ("diverged[1].step", 10**6, "curves[1].evaluations.step"),
        ("diverged[1].step", 4000, "curves[1].evaluations.step"),
    ],
)
def test_a_forged_entry_of_a_diverged_result_is_refused(entry, value, told):
    faults = consistency.result_faults(forged(lost(a_result(), 1), entry, value))
    assert told in [fault.entry for fault in faults], list(map(str, faults))


def test_the_command_of_another_version_may_name_other_settings():
    """The defaults of its configs are not known."""
    versions = a_result()["versions"] | {"dann_jax": "0.0.1"}
    older = a_result(versions=versions, command=a_result()["command"] + " --mu0 0.02")
    assert __version__ not in older["versions"].values()
    assert consistency.result_faults(older) == []
    for words in ("--keys 20", "--keys 1", ""):
        command = older["command"].replace("--keys 2", words)
        (fault,) = consistency.result_faults(older | {"command": command})
        assert fault.entry == "command"


# --- any JSON

ODD = [None, True, -1, 0, 1.5, 2**70, -(2**70), 10**400, "", "\ud800", "x" * 10_000, [], [[]], {}]


def entries(content, way=()):
    """Yields the way to each entry; of a list, to its first two and its last."""
    if isinstance(content, dict):
        parts = list(content.items())
    elif isinstance(content, list):
        numbers = sorted({0, 1, len(content) - 1} & set(range(len(content))))
        parts = [(number, content[number]) for number in numbers]
    else:
        return
    for place, inner in parts:
        yield (*way, place)
        yield from entries(inner, (*way, place))


def set_at(content, way, value):
    """Replaces an entry, and returns what it was."""
    for place in way[:-1]:
        content = content[place]
    before, content[way[-1]] = content[way[-1]], value
    return before


@pytest.mark.parametrize("name", ["a training", "with SVMs", "a closed form", "one key diverged"])
def test_no_value_of_an_entry_is_an_error_of_ours(name):
    content = json.loads(json.dumps(WHOLE[name]))
    for way in entries(content):
        for value in ODD:
            before = set_at(content, way, value)
            for fault in consistency.result_faults(content):
                assert str(fault).isprintable()
                assert len(str(fault)) < 1_000
            set_at(content, way, before)
    assert consistency.result_faults(content) == []


def test_no_value_of_a_record_is_an_error_of_ours():
    content = json.loads(json.dumps(a_record()))
    assert consistency.record_faults(content, 0) == []
    for way in entries(content):
        for value in ODD:
            before = set_at(content, way, value)
            consistency.record_faults(content, 0)
            set_at(content, way, before)
    assert consistency.record_faults(content, 0) == []


JSONS = {  # name -> the text of a file, or bytes, and what is told of it
    "an object without entries": ("{}", "format: expected 3, got null"),
    "a list": ("[]", "expected a JSON object with entries, got []"),
    "null": ("null", "expected a JSON object with entries, got null"),
    "nothing": ("", "is not valid JSON"),
    "a cut-off file": ('{"format": 3, "keys": [', "is not valid JSON"),
    "bytes": (b"\x80\x81\xff\x00", "is not valid JSON"),
    "10,000 levels": ('{"format": 3, "a": ' + "[" * 10_000 + "]" * 10_000 + "}", "not valid JSON"),
    "NaN": ('{"format": 3, "mean": NaN}', "expected finite numbers, got NaN"),
    "a huge float": ('{"format": 3, "mean": 1e999}', "expected finite numbers, got 1e999"),
    "a huge integer": ('{"format": 3, "mean": ' + "9" * 5_000 + "}", "is not valid JSON"),
    "a name twice": ('{"format": 3, "format": 3}', "got 'format' again"),
    "keys of 2^70": (json.dumps(a_result(keys=[0, 2**70])), "keys[1]: expected less than 4294"),
    "no curves": (json.dumps(a_result(curves=[])), "curves: expected an entry for each of 2 keys"),
    "settings that are none": (json.dumps(a_result(resolved_config=[3])), "resolved_config: exp"),
    "a forged file": (
        json.dumps(
            forged(a_result(target_accuracy=[0.99, 0.99], mean=0.99), "resolved_config.steps", 7)
        ),
        "steps: expected 7, that of resolved_config, got 30000",
    ),
    "a folder": (None, "expected a JSON file, got a folder"),
}


@pytest.fixture(params=JSONS)
def file_and_text(request, tmp_path):
    """A file, or folder, RUNS/mnist_mnist_m/dann.json, and what is to be told of it."""
    content, text = JSONS[request.param]
    path = tmp_path / "mnist_mnist_m" / "dann.json"
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path, text


def test_any_file_is_one_sentence_of_verify_run_and_report(file_and_text, monkeypatch, capsys):
    path, text = file_and_text
    monkeypatch.setattr(report, "FOLDER", path.parent.parent)
    where = ["--output", str(path.parent.parent), "--compilation-cache", "none"]
    for program, arguments in (
        (verify.main, [str(path)]),
        (report.main, ["--check"]),
        (run.main, ["mnist_mnist_m", "--methods", "dann", "--keys", "2", *where]),
    ):
        assert program(arguments) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: {path}")
        assert text in told
        assert told.count("\n") == 1
        assert len(told) < 2_000


# --- records


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        ("format", 2, "format"),
        ("together", [1], "together"),
        ("together", [0, 0], "together"),
        ("together", [2**70], "together[0]"),
        ("settings.method", "dam", "settings.method"),
        ("curves[3].penalties", {"mmd": 0.1}, "curves[3].penalties"),
        ("settings.crop", 99, "settings"),
        ("settings.warp", 9, "settings.warp"),
        ("origin.data.mnist/test", ABSENT, "origin.data.mnist/test"),
        ("curves[-1].step", 29_999, "curves[-1].step"),
        ("curves[1].step", 5, "curves[1].step"),
        ("evaluations[-1].step", 30_001, "evaluations[-1].step"),
        ("evaluations", [], "evaluations[-1].step"),
        ("target_accuracy", 0.76, "target_accuracy"),
        ("source_accuracy", None, "source_accuracy"),
        ("diverged", {"step": 3}, "diverged.term"),
        ("digests", {"losses": "0"}, "digests.parameters"),
        ("finished", 1, "finished"),
        ("curves[0].label_loss", [], "curves[0].label_loss"),
    ],
)
def test_a_forged_record_is_refused(entry, value, told, tmp_path):
    content = forged(a_record(), entry, value)
    record.write_checked(tmp_path / "key_0" / "record.json", content)
    assert told in [fault.entry for fault in consistency.record_faults(content, 0)]
    with pytest.raises(ValueError, match=r"record.json: .*: expected .*, got .*--overwrite"):
        record.read_record(tmp_path, 0)


def test_a_record_with_a_flipped_digit_is_refused(tmp_path):
    path = tmp_path / "key_0" / "record.json"
    record.write_checked(path, a_record())
    text = path.read_text()
    assert record.read_record(tmp_path, 0) == a_record()
    flipped = re.sub(r'("wall_seconds": \d*)(\d)', lambda m: m[1] + str(int(m[2]) ^ 1), text)
    assert flipped != text
    path.write_text(flipped)
    with pytest.raises(ValueError, match="is damaged .*choose another --output, or --overwrite"):
        record.read_record(tmp_path, 0)


def test_a_record_that_is_not_finished_may_end_anywhere(tmp_path):
    begun = a_record(finished=False, curves=[], evaluations=[])
    del begun["target_accuracy"], begun["source_accuracy"]
    record.write_checked(tmp_path / "key_0" / "record.json", begun)
    assert record.read_record(tmp_path, 0) == begun
    assert record.read_record(tmp_path, 1) is None


def test_a_result_has_what_its_records_say():
    diverged = {"step": 7, "term": "label_loss", "checkpoint": None}
    digests = dict.fromkeys(("parameters", "losses", "accuracies"), SHA)
    kept = a_record(digests=digests)
    ended = a_record(diverged=diverged, curves=[], evaluations=[], together=[1])
    made = record.training_entries([kept, ended])
    assert made["diverged"] == [None, diverged]
    assert made["digests"] == [digests, None]
    assert made["curves"][1]["evaluations"] == {
        "step": [], "source_accuracy": [], "target_accuracy": [],
    }  # fmt: skip
    result = a_result(accuracy=[0.75, None], **made)
    assert consistency.result_faults(json.loads(record.as_text(result))) == []


@pytest.mark.parametrize(("entry", "value"), [("C", None), ("C", ABSENT), ("fitted", 3), ("x", 1)])
def test_what_was_measured_on_a_training_is_checked(entry, value, tmp_path):
    of = {"key": 0, "parameters": SHA}
    head = of | {
        "target_accuracy": 0.5, "source_accuracy": 0.9, "C": 1.0, "validation_accuracy": 0.8,
        "converged": True, "layer": "f", "features": 9, "examples": 50, "seconds": 0.1,
        "versions": {"dann_jax": __version__},
    }  # fmt: skip
    form = head | {
        "components": 10, "oracle_components": 12, "oracle_accuracy": 0.6, "fitted": {"stable": 9},
        "by_components": {"components": [10, 12], "target_accuracy": [0.5, 0.6]},
    }  # fmt: skip
    path = tmp_path / "svm.json"
    for aligned, content in ((False, head), (True, form)):
        record.write_checked(path, content)
        assert record.read_measured(path, aligned=aligned, **of) == content
        for other in ({"key": 1}, {"parameters": "1" * 64}):
            with pytest.raises(ValueError, match=f"{next(iter(other))}: expected .*delete the"):
                record.read_measured(path, aligned=aligned, **of | other)
        record.write_checked(path, forged(content, entry, value))
        with pytest.raises(ValueError, match=f"{entry}.*: expected .*delete the file"):
            record.read_measured(path, aligned=aligned, **of)


# --- what differs, and the published schema


def test_differences_name_both_values():
    old = {"mu0": 0.01, "steps": 9, "crop": None}
    assert settings.differences(old, old) == []
    assert settings.differences(old, old | {"mu0": 0.02, "crop": 8}) == [
        "mu0: 0.01 there, 0.02 asked for",
        "crop: None there, 8 asked for",
    ]
    assert settings.differences({}, {"mu0": 0.02}, whose="here") == ["mu0: None there, 0.02 here"]


def test_a_refused_run_names_what_differs(tmp_path, capsys):
    record.write_json(tmp_path / "mnist_mnist_m" / "dann.json", a_result(accuracy=[0.5] * 5))
    where = ["--output", str(tmp_path), "--methods", "dann", "--compilation-cache", "none"]
    assert run.main(["mnist_mnist_m", *where, "--keys", "3", "--mu0", "0.02"]) == 2
    told = capsys.readouterr().err
    assert "(mu0: 0.01 there, 0.02 asked for; keys 0-4 there, 0-2 asked for)" in told


def test_the_published_schema_is_that_of_the_models():
    published = json.loads(report.SCHEMA.read_text())
    assert published == json.loads(json.dumps(schema.json_schema()))
    assert f"format {schema.FORMAT}" in published["title"]
    for entry in ("diverged", "digests", "resolved_config"):
        assert entry in published["$defs"]["TrainingResult"]["properties"]
    assert pathlib.Path("docs/result.schema.json").name == report.SCHEMA.name
