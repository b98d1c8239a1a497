"""Result files, whole or not, and the tables that are made of them."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from dann_jax import __version__
from experiments import configs, consistency, paper, record, report, result_tables, schema
from experiments.benchmark import tables as benchmark_tables
from experiments.methods import METHODS
from experiments.options import command_words

STEPS = configs.find_config("mnist_mnist_m")[0].steps
EXAMPLES = 10_000  # of each split
VERSIONS = dict.fromkeys(consistency.PACKAGES, "1.0") | {"dann_jax": __version__}


def as_file(content):
    """Returns the content as a file has it."""
    return json.loads(json.dumps(content, default=str))


def common_entries(config, method, accuracy, settings):
    """Returns the entries of trainings and closed forms, and the settings."""
    settings = dataclasses.replace(configs.find_config(config)[0], **settings)
    method = METHODS[method]
    keys = list(range(len(accuracy)))
    mean, std = consistency.mean_and_std([math.nan if a is None else a for a in accuracy])
    weighted = {"normalization": settings.normalization, "weight": settings.domain_weight}
    data = [
        f"{getattr(settings, domain)}/{getattr(settings, f'{domain}_{use}')}"
        for domain in ("source", "target")
        for use in ("train", "test")
    ]
    data += ["few labels"] * (settings.few_labels is not None)
    return settings, {
        "format": record.FORMAT, "config": config, "method": method.name, "keys": keys,
        "source": settings.source, "target": settings.target,
        "target_accuracy": list(accuracy), "selection": method.selection,
        "mean": None if math.isnan(mean) else mean, "std": None if math.isnan(mean) else std,
        "source_accuracy": [0.9] * len(keys), "diverged": [None] * len(keys),
        "steps": method.steps(settings), "batch_size": settings.batch_size,
        "domain_loss": weighted if method.adversarial else None, "wall_seconds": 120.0,
        "data": {name: {"examples": EXAMPLES, "sha256": "ab" * 32} for name in data},
        "versions": VERSIONS, "device": "cpu", "device_count": 1, "process_count": 1,
        "plain_xla": False, "threads": 2,
        "resolved_config": {"method": method.name, **dataclasses.asdict(settings)},
        "command": command_words(config, method.name, keys, settings),
    }  # fmt: skip


def scheduled(settings, length, steps):
    """Returns the learning rate and the mean lambda at entries of the curves."""
    p = np.arange(length, dtype=np.float32) / length
    mu = settings.mu0 / (1 + settings.alpha * p) ** settings.beta
    p = np.minimum(np.arange(length) / (settings.lambda_horizon or length), 1)
    lam = settings.lambda_max * (2 / (1 + np.exp(-settings.gamma * p)) - 1)
    pairs = itertools.pairwise([0, *steps])
    return {
        "mu": [float(mu[step - 1]) for step in steps],
        "lam": [float(lam[start:step].mean()) for start, step in pairs],
    }


def penalties_of(method, count):
    """Returns the entry of the curves for what a method adds to L_y and L_d, if there is any."""
    names = METHODS[method].penalties
    return {"penalties": {name: [0.1] * count for name in names}} if names else {}


def curves_of(settings, method, accuracy):
    """Returns curves with an entry at each evaluation, and one at step 5."""
    length, every = METHODS[method].steps(settings), settings.evaluate_every
    steps = [*range(every, length, every), length]
    of_domain = 0.6 if METHODS[method].adversarial else None
    return {
        "training": {
            "step": [5, *steps],
            "label_loss": [2.0, *(1.0 for _ in steps)],
            "domain_loss": [of_domain] * (len(steps) + 1),
            **penalties_of(method, len(steps) + 1),
            **scheduled(settings, length, [5, *steps]),
        },
        "evaluations": {
            "step": steps,
            "source_accuracy": [0.9] * len(steps),
            "target_accuracy": [accuracy] * len(steps),
        },
    }


def a_result(config="mnist_mnist_m", method="dann", accuracy=(0.75, 0.8), settings=(), **changes):
    """Returns a result with a key for each accuracy; ``settings`` differ from those of config."""
    settings, common = common_entries(config, method, accuracy, dict(settings))
    return as_file(
        common
        | {
            "digests": [{name: "cd" * 32 for name in DIGESTS}] * len(accuracy),
            "groups": [{"keys": common["keys"], "devices_per_key": 1}],
            "warnings": [[] for _ in accuracy],
            "steps_per_second": 100.0,
            "compile_seconds": 2.5,
            "programs_compiled": 9,
            "programs_from_cache": 8,
            "curves": [curves_of(settings, method, each) for each in accuracy],
        }
        | changes
    )


def svm_entries(accuracy):
    """Returns the entries of linear SVMs in place of the last layer."""
    mean, std = consistency.mean_and_std(accuracy)
    every = len(accuracy)
    about = {
        "C": [1.0] * every, "source_accuracy": [0.9] * every, "converged": [True] * every,
        "validation_accuracy": [0.9] * every,
    }  # fmt: skip
    return {
        "svm_accuracy": accuracy,
        "svm_mean": mean,
        "svm_std": std,
        "svm": SVM | about,
    }


SVM = {
    "solver": "a", "scaling": "b", "layer": "f", "features": 9, "examples": 50,
    "versions": VERSIONS, "C_grid": [0.1, 1.0], "C_selection": "c",
}  # fmt: skip
DIGESTS = ("parameters", "losses", "accuracies")


def lost(result, *places):
    """Returns a result whose keys in these places diverged at step 7."""
    for i in places:
        result["diverged"][i] = {"step": 7, "term": "label_loss", "checkpoint": None}
        result["target_accuracy"][i] = result["source_accuracy"][i] = None
        for columns in result["curves"][i].values():
            left = sum(step < 7 for step in columns["step"])
            of_penalties = columns.pop("penalties", {})
            columns.update({name: column[:left] for name, column in columns.items()})
            if of_penalties:
                columns["penalties"] = {n: column[:left] for n, column in of_penalties.items()}
    return result | {"mean": None, "std": None}


def an_alignment(**changes):
    """Returns the result of a closed form with two keys."""
    _, common = common_entries("mnist_mnist_m", "sa", (0.55, 0.57), {})
    svm = svm_entries([0.5, 0.6])["svm"]
    del svm["source_accuracy"]
    return as_file(
        common
        | {
            "components": [10, 12],
            "oracle_accuracy": [0.58, 0.6],
            "oracle_mean": 0.59,
            "oracle_std": consistency.mean_and_std([0.58, 0.6])[1],
            "oracle_components": [20, 24],
            "oracle_selection": "oracle",
            "by_components": {
                "components": [10, 12, 20, 24],
                "target_accuracy": [[0.55, 0.5, 0.58, 0.5], [0.5, 0.57, 0.5, 0.6]],
            },
            "svm": svm | {"stable_components": [3, 3]},
        }
        | changes
    )


def finished(method, config):
    """The entries of a record that are not where a training comes from."""
    columns = curves_of(config, method, 0.75)
    rows = {
        part: [dict(zip(every, row, strict=True)) for row in zip(*every.values(), strict=True)]
        for part, every in columns.items()
    }
    return {
        "format": record.FORMAT,
        "together": [0],
        "devices_per_key": 1,
        "finished": True,
        "curves": rows["training"],
        "evaluations": rows["evaluations"],
        "warnings": [],
        "train_seconds": 1.0,
        "wall_seconds": 2.0,
        "source_accuracy": 0.9,
        "target_accuracy": 0.75,
    }


def made(folder, *written):
    """Writes results into a folder and returns the tables, as lists of rows."""
    for result in written:
        record.write_json(folder / result["config"] / f"{result['method']}.json", result)
    tables = result_tables.tables(result_tables.read(folder))
    return {
        name: [line.strip("| ").replace("|  |", "| |").split(" | ") for line in text.splitlines()]
        for name, text in tables.items()
    }


def rows_of(table, config):
    """Returns the rows of a config by their method, the rest of each by the column."""
    head, _, *rows = table
    found, title = {}, None
    for row in rows:
        if len(row) == len(head):
            title = row[0] or title
        else:
            row = [title, *row]
        if title.split(" (")[0] == config:
            found[row[1].strip("| *")] = dict(zip(head[2:], row[2:], strict=True))
    return found


# --- what stands in the tables


def test_the_readme_agrees_with_the_result_files():
    assert report.main(["--check"]) == 0


def test_the_documents_have_all_tables():
    text = "".join(path.read_text() for path in report._documents())
    for name in (*result_tables.tables({}), *benchmark_tables.tables({})):
        assert text.count(f"<!-- {name}: begin -->") == text.count(f"<!-- {name}: end -->") == 1


def test_without_a_file_only_the_papers_figures_are_there(tmp_path):
    tables = made(tmp_path)
    rows = rows_of(tables["table1"], "mnist_mnist_m")
    assert set(rows) == {"source-only", "SA, oracle pick", "DANN", "train-on-target"}
    assert rows["DANN"]["published"] == ".7666"
    assert rows["DANN"]["preprint"] == ".8149"
    for row in rows.values():
        assert {row[name] for name in result_tables.COLUMNS[5:]} == {"—"}
    assert set(rows_of(tables["table1"], "mnist_svhn")) == {"—"}  # no figure is printed
    assert rows_of(tables["office31"], "office31_amazon_webcam")["DANN"]["published"] == ".730"
    assert set(rows_of(tables["table1"], "mnist_mnist_m_batch_norm")) == {"—"}  # a variant
    assert set(rows_of(tables["office31"], "office31_amazon_webcam_resnet50")) == {"—"}
    assert set(rows_of(tables["table1"], "syn_numbers_published_svhn")) == set(rows)
    own = ("digits_digits_m", "mnist_usps", "usps_mnist")
    assert {row[0] for row in tables["own"][2:]} == {*own, *(f"{name}_compact" for name in own)}
    assert {cell for row in tables["own"][2:] for cell in row[1:]} == {"—"}
    assert len(tables["commands"]) == 2  # heads alone
    assert {cell for row in tables["semi"][2:] for cell in row[2:]} == {"—"}


def test_the_published_gaps_follow_from_the_published_accuracies(tmp_path):
    # (.7666 - .5225) / (.9596 - .5225) = .558 and (.5690 - .5225) / .4371 = .106, not the printed
    # 52.9% and 4.1%; (.8644 - .8674) / (.9220 - .8674) = -.055.
    tables = made(tmp_path)
    rows = rows_of(tables["table1"], "mnist_mnist_m")
    assert rows["DANN"]["published gap"] == "55.8%"
    assert rows["SA, oracle pick"]["published gap"] == "10.6%"
    assert rows["source-only"]["published gap"] == "—"
    numbers = rows_of(tables["table1"], "syn_numbers_svhn")
    assert numbers["SA, oracle pick"]["published gap"] == "−5.5%"


def test_a_row_tells_all_of_its_file(tmp_path):
    dann = a_result(**svm_entries([0.7, 0.8]))
    bounds = [
        a_result(method=method, accuracy=[accuracy])
        for method, accuracy in (("source-only", 0.575), ("train-on-target", 0.975))
    ]
    tables = made(tmp_path, dann)
    assert rows_of(tables["table1"], "mnist_mnist_m")["DANN"]["our gap"] == "—"  # no bounds
    tables = made(tmp_path, *bounds)
    row = rows_of(tables["table1"], "mnist_mnist_m")["DANN"]
    assert row["ours, mean ± sd (keys)"] == ".7750 ± .0354 (2)"
    assert row["SVM head"] == ".7500 ± .0707"
    assert row["our gap"] == "50.0%"  # .2 of .4
    assert row["steps"] == f"{STEPS:,}"
    assert row["device"] == "cpu x1"
    assert row["file"] == "[json](experiments/results/mnist_mnist_m/dann.json)"
    (command,) = (line for line in tables["commands"] if "mnist_mnist_m/dann" in line[0])
    assert command[1:] == [__version__, "1.0", f"`{dann['command']}`"]


def test_both_picks_of_subspace_alignment_have_a_row(tmp_path):
    rows = rows_of(made(tmp_path, an_alignment())["table1"], "mnist_mnist_m")
    unsupervised, oracle = rows["SA, unsupervised pick"], rows["SA, oracle pick"]
    assert unsupervised["ours, mean ± sd (keys)"] == ".5600 ± .0141 (2)"
    assert unsupervised["published"] == "—"  # the paper has none
    assert oracle["ours, mean ± sd (keys)"] == ".5900 ± .0141 (2)"
    assert oracle["published"] == ".5690"
    assert oracle["file"].endswith("mnist_mnist_m/sa.json)")


def test_a_closed_form_without_a_choice_has_one_row(tmp_path):
    single = an_alignment(
        by_components={"components": [10], "target_accuracy": [[0.55], [0.57]]},
        oracle_accuracy=[0.55, 0.57],
        components=[10, 10],
        oracle_components=[10, 10],
    )
    single |= {f"oracle_{name}": single[name] for name in ("mean", "std")}
    rows = rows_of(made(tmp_path, single)["table1"], "mnist_mnist_m")
    assert rows["SA"]["ours, mean ± sd (keys)"] == ".5600 ± .0141 (2)"


def test_the_methods_above_a_frozen_backbone_stand_side_by_side():
    def of(*means):
        mean = None if None in means else float(np.mean(means))
        lost = [None if m is not None else {"step": 3} for m in means]
        return {"mean": mean, "std": 0.01, "keys": [0, 1], "diverged": lost}

    results = {
        "office31_amazon_webcam_frozen": {"sa": of(0.5, 0.6), "coral": of(0.5, 0.5)},
        "office31_dslr_webcam_frozen": {"coral": of(0.7, None), "train-on-target": of(1.0, 1.0)},
    }
    lines = result_tables.frozen(results).splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert head == ["method", "A→W", "D→W", "W→D", "A→D", "D→A", "W→A"]
    assert rows == [
        ["SA", "**.5500 ± .0100 (2)**", *"—————"],
        ["SA* in the paper's table", ".450", ".648", ".699", *"———"],
        ["CORAL", ".5000 ± .0100 (2)", "diverged (1 of 2)", *"————"],
        ["train-on-target", "—", "1.0000 ± .0100 (2)", *"————"],
    ]


def test_a_closed_form_with_one_number_of_components_for_each_key_has_one_row(tmp_path):
    each = an_alignment(
        by_components={"components": [], "target_accuracy": [[], []]},
        oracle_accuracy=[0.55, 0.57],
        components=[10, 14],
        oracle_components=[10, 14],
    )
    each |= {f"oracle_{name}": each[name] for name in ("mean", "std")}
    rows = rows_of(made(tmp_path, each)["table1"], "mnist_mnist_m")
    assert rows["SA"]["ours, mean ± sd (keys)"] == ".5600 ± .0141 (2)"
    with pytest.raises(ValueError, match="oracle_components.1.: expected one of by_components"):
        made(tmp_path, each | {"oracle_components": [10, 12]})


def test_a_setting_that_is_younger_than_a_file_has_its_default(tmp_path):
    result = a_result()
    name, value = "nesterov", result["resolved_config"].pop("nesterov")
    rows = rows_of(made(tmp_path, result)["table1"], "mnist_mnist_m")
    assert name not in rows["DANN"]["ours, mean ± sd (keys)"]
    assert value is False


def test_a_diverged_result_says_how_many_of_its_keys_are(tmp_path):
    tables = made(
        tmp_path,
        lost(a_result(accuracy=(0.75, 0.8, 0.7)), 0, 2),
        lost(a_result(method="source-only", accuracy=[0.5]), 0),
        a_result(method="train-on-target", accuracy=[0.9]),
    )
    rows = rows_of(tables["table1"], "mnist_mnist_m")
    assert rows["DANN"]["ours, mean ± sd (keys)"] == "diverged (2 of 3)"
    assert rows["DANN"]["our gap"] == "—"
    assert rows["source-only"]["ours, mean ± sd (keys)"] == "diverged (1 of 1)"
    shown = lines_of(tables)["MNIST → MNIST-M"]["ours, the paper's network"]
    assert shown == "diverged → diverged (2 of 3)"


def test_what_is_not_usual_is_told(tmp_path):
    short = a_result(
        settings={"network": "mnist_batch_norm", "steps": 100, "baseline_steps": None},
        versions=VERSIONS | {"dann_jax": "0.0.1"},
    )
    for name in ("mnist_m/test", "mnist/test"):  # the table's accuracies are of the first alone
        short["data"][name]["part"] = "first 5,000"
    row = rows_of(made(tmp_path, short)["table1"], "mnist_mnist_m")["DANN"]
    assert row["ours, mean ± sd (keys)"] == (
        ".7750 ± .0354 (2); mnist_m/test: first 5,000; network mnist_batch_norm"
    )
    assert row["steps"] == f"100 (not {STEPS:,})"
    assert row["file"].endswith(", by 0.0.1")


def test_a_variant_stands_under_the_row_that_it_varies(tmp_path, monkeypatch):
    find, names = configs.find_config, configs.config_names()
    variant = dataclasses.replace(find("mnist_mnist_m")[0], network="mnist_batch_norm")
    monkeypatch.setattr(
        configs,
        "find_config",
        lambda name: (variant, "") if name == "mnist_mnist_m_wider" else find(name),
    )
    monkeypatch.setattr(configs, "config_names", lambda: (*names, "mnist_mnist_m_wider"))
    tables = made(tmp_path, a_result("mnist_mnist_m_wider"), a_result("digits_digits_m"))
    titles = [row[0] for row in tables["table1"]]
    title = "mnist_mnist_m_wider (not the paper's network: mnist_batch_norm)"
    assert titles.index("mnist_mnist_m") < titles.index(title) < titles.index("syn_numbers_svhn")
    rows = rows_of(tables["table1"], "mnist_mnist_m_wider")
    assert set(rows) == {"DANN"}  # of a variant only what was run
    assert rows["DANN"]["published"] == ".7666"
    assert set(rows_of(tables["own"], "digits_digits_m")) == {"DANN"}
    assert not set(result_tables.PAPER) & set(tables["own"][0])


def test_the_semi_supervised_table_has_errors(tmp_path):
    table = made(tmp_path, a_result(result_tables.SEMI_SUPERVISED, "dann"))["semi"]
    rows = {row[0]: row for row in table[2:]}
    assert list(rows) == list(paper.SEMI_SUPERVISED.values())
    assert rows["Syn adapted"][1:3] == ["dann", ".2250 ± .0354 (2)"]
    assert rows["Syn only"][2:] == ["—"] * 4


# --- documents


def test_report_notices_a_figure_that_no_file_backs(tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table1: begin -->\n| .9999 |\n<!-- table1: end -->\n")
    assert report.main(["--check", str(readme)]) == 1
    assert ".9999" in readme.read_text()
    assert report.main([str(readme)]) == 0
    assert ".9999" not in readme.read_text()
    assert report.main(["--check", str(readme)]) == 0


def test_links_lead_from_the_document_to_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    texts = {}
    for path in (tmp_path / "README.md", tmp_path / "docs" / "results.md"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("<!-- commands: begin -->\n<!-- commands: end -->\n")
    (tmp_path / "docs" / "other.md").write_text("Without a table.\n")
    assert report.main([]) == 0
    for path in (tmp_path / "README.md", tmp_path / "docs" / "results.md"):
        texts[path.name] = path.read_text()
    assert "](experiments/results/" in texts["README.md"]
    assert texts["results.md"] == texts["README.md"].replace("](exp", "](../exp")


def test_a_file_that_is_not_whole_stops_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    path = tmp_path / "mnist_mnist_m" / "dann.json"
    record.write_json(path, a_result(mean=0.9))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table1: begin -->\n<!-- table1: end -->\n")
    for options in ([], ["--check"]):
        assert report.main([*options, str(readme)]) == 2
        assert f"{path}: mean: expected 0.775, that of target" in capsys.readouterr().err
    path.write_text("{")
    assert report.main([str(readme)]) == 2
    assert "not valid JSON" in capsys.readouterr().err
    assert "published" not in readme.read_text()


def test_the_schema_is_written_with_the_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "SCHEMA", tmp_path / "docs" / "result.schema.json")
    (tmp_path / "README.md").write_text("<!-- commands: begin -->\n<!-- commands: end -->\n")
    assert report.main(["--check"]) == 1
    assert report.main([]) == 0
    assert report.main(["--check"]) == 0
    assert record.read(report.SCHEMA) == json.loads(json.dumps(schema.json_schema()))


def test_a_benchmark_that_is_none_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "BENCHMARKS", tmp_path)
    case = {"network": "mnist", "measures": "step"}
    for content in ({}, {"simulated_devices": False, "cases": [case]}):
        record.write_json(tmp_path / "cpu.json", content)
        assert report.main(["--check"]) == 2
        assert "cpu.json is no benchmark" in capsys.readouterr().err


def test_files_are_where_their_names_say(tmp_path):
    record.write_json(tmp_path / "mnist_mnist_m" / "dann-longer.json", a_result())
    found = result_tables.read(tmp_path)
    assert list(found["mnist_mnist_m"]) == ["dann-longer"]
    record.write_json(tmp_path / "mnist_mnist_m" / "source-only.json", a_result())
    with pytest.raises(ValueError, match="source-only.json: it is of mnist_mnist_m, dann"):
        result_tables.read(tmp_path)
    record.write_json(tmp_path / "no_such_pair" / "dann.json", a_result())
    with pytest.raises(ValueError, match="there is no config no_such_pair"):
        result_tables.read(tmp_path)


# --- whole files


def test_committed_results_are_whole_and_name_their_settings():
    found = result_tables.read(report.FOLDER)
    assert "dann" in found["digits_digits_m"]
    for files in found.values():
        for result in files.values():
            assert result["selection"] == METHODS[result["method"]].selection
            assert all(set(origin) >= {"examples", "sha256"} for origin in result["data"].values())


# --- the line of each pair


def lines_of(tables):
    head, _, *rows = tables["pairs"]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def test_a_pair_is_one_line_with_the_papers_network_and_another(tmp_path):
    batch_norm = "mnist_mnist_m_batch_norm"
    tables = made(
        tmp_path,
        a_result(wall_seconds=60.0),
        a_result(method="source-only", accuracy=[0.5]),
        a_result(batch_norm, accuracy=[0.85], device="NVIDIA H200"),
        a_result("syn_signs_gtsrb_semi", accuracy=[0.9]),
    )
    line = lines_of(tables)["MNIST → MNIST-M"]
    assert line == {
        "paper": ".5225 → .7666",
        "ours, the paper's network": ".5000 → .7750 ± .0354 (2)",
        "ours, another network": "— → .8500 (1)",
        "minutes a key": "0.5; 2.0 (NVIDIA H200)",
        "config": f"mnist_mnist_m; {batch_norm}",
    }
    assert set(lines_of(tables)["SYN SIGNS → GTSRB"].values()) == {
        ".7900 → .8865", "—", "syn_signs_gtsrb",
    }  # fmt: skip
    assert lines_of(tables)["Amazon → Webcam"]["paper"] == ".642 → .730"
    assert "Amazon → DSLR" not in lines_of(tables)  # neither the paper nor we have a figure
    assert "SYN NUMBERS (published) → SVHN" not in lines_of(tables)  # the paper's line stands above


def test_a_short_training_is_called_so(tmp_path):
    short = a_result(accuracy=[0.1], settings={"steps": STEPS // 2})
    bounds = [a_result(method=m, accuracy=[a]) for m, a in (("source-only", 0.5),)]
    bounds.append(a_result(method="train-on-target", accuracy=[0.9]))
    tables = made(tmp_path, short, *bounds)
    shown = lines_of(tables)["MNIST → MNIST-M"]["ours, the paper's network"]
    assert shown == f".5000 → .1000 (1); {STEPS // 2:,} of {STEPS:,} updates"
    row = rows_of(tables["table1"], "mnist_mnist_m")["DANN"]
    assert row["our gap"] == "—"  # the bounds have another length


def test_trials_show_what_rules_say_and_the_value_that_the_first_prefers_in_bold():
    def trial(lambda_max, *scores):
        scores = {name: [9.0, x] for name, x in zip(result_tables.TRIED_RULES, scores, strict=True)}
        settings = {"lambda_max": lambda_max, "augment": "none"}
        result = {"method": "entropy", "resolved_config": settings, "steps": 1500, "mean": 0.5}
        return result | {"curves": [{"evaluations": {"scores": scores}}]}

    files = {"entropy-lambda-0.1": trial(0.1, 1, 2, 3), "entropy-lambda-1": trial(1.0, 2, 1, 1)}
    table = result_tables._trials({"svhn_mnist_compact": files | {"entropy": {}}})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert [row[2] for row in rows[2:]] == ["0.1", "**1**"]
    assert rows[3][4:9] == ["1,500", "2.0000", "1.0000", "1.0000", ".5000"]
    assert rows[2][-1] == "[json](experiments/results/svhn_mnist_compact/entropy-lambda-0.1.json)"
