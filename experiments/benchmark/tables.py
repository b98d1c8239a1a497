"""The tables of docs/speed.md: benchmarks and races of several machines side by side."""

import statistics
from typing import Any

from experiments.benchmark import contents
from experiments.display import DASH

__all__ = ["outcome", "step_time", "tables", "words"]

SCALING = ("strong", "weak")  # cases of a benchmark that are on several devices
_OF_PRODUCT = "product"


def tables(records: dict[str, dict], *, simulated: bool = True) -> dict[str, list[list[str]]]:
    """Returns the tables of benchmarks, machines side by side: for each a head and its rows.

    Args:
      records: Files of ``experiments.benchmark`` and of its races, by their names.
      simulated: Whether to take more of files with simulated devices than their scaling.
    """
    benchmarks = {name: r for name, r in records.items() if not contents.is_race(r)}
    races = {name: r for name, r in records.items() if contents.is_race(r)}
    entries = [
        {"file": file} | entry
        for file, record in benchmarks.items()
        for entry in (_of_new(record) if "benchmark_format" in record else _of_old(record))
        if simulated or not record["simulated_devices"] or entry["measures"] in SCALING
    ]
    entries.sort(key=lambda e: (e["network"], e["pixels"], _arithmetic(e), e["file"]))
    return {
        title: [[*_FIRST, *columns]]
        + [
            [_COLUMNS[name](entry) for name in (*_FIRST, *columns)]
            for entry in entries
            if entry["measures"] in measures
        ]
        for title, (measures, *columns) in _TABLES.items()
    } | {"time-to-accuracy": _race_rows(races)}


def _of_old(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the cases of a file of before format 2, which names what each of them measures."""
    about = {k: v for k, v in record.items() if k != "cases"}
    return [about | case | {"note": "one process"} for case in record["cases"] if "network" in case]


def _of_new(record):
    """Returns the cases of a file, each as what it measures: speed, keys, calls or devices."""
    about = {k: v for k, v in record.items() if k != "cases"}
    of_networks: dict[tuple, list[dict]] = {}
    rates = {}
    for case in record["cases"]:
        arithmetic = case["dtype"], case["precision"]
        if case["engine"] == _OF_PRODUCT:
            rates[arithmetic] = case.get("flop_per_second") if _reported(case) else None
        else:
            of_networks.setdefault((case["network"], case["pixels"], *arithmetic), []).append(case)
    entries = []
    for (_, _, *arithmetic), cases in of_networks.items():
        every = _of_network(cases, rates.get(tuple(arithmetic)))
        entries += [about | {"note": f"{record['rounds']} rounds"} | entry for entry in every]
    return entries


def _of_network(cases, rate):
    """Returns the entries of one network in one arithmetic."""
    of_ours = [c for c in cases if c["engine"] == "ours"]
    single = [c for c in of_ours if c["keys"] == c["devices"] == 1]
    # Of the calls that were measured, those of the most steps.
    update = max(single, key=lambda c: ("step_seconds" in c, c["steps_per_call"]))
    entries = [c | {"measures": "steps_per_call"} for c in single]
    share = None
    if rate and _reported(update):
        share = update["flop_per_second"] / rate
    pytorch = [c for c in cases if c["engine"] != "ours"]
    entries.append(
        update
        | {"measures": "update", "share_of_product": share}
        | {"pytorch": [c | _ratio(c, update) for c in pytorch]}
    )
    for case in of_ours:
        ratio = _ratio(case, update)["ratio"]
        if case["keys"] > 1:
            entries.append(case | {"measures": "keys", "times_one_key": ratio})
        elif case["devices"] > 1:
            weak = case["batch"] != update["batch"]
            times = ratio and case["batch"] / update["batch"] / ratio
            entries.append(case | {"measures": SCALING[weak], "times_one_device": times})
    return entries


def _reported(case):
    """Returns whether the rounds of a case agree well enough for a number."""
    return "step_seconds" in case and case["step_seconds"].get("spread", 0) < contents.LIMIT


def _ratio(case, to):
    """Returns the time of a case over another's, round by round, and the spread of that."""
    if "step_seconds" not in case or "step_seconds" not in to:
        return {"ratio": None}
    pairs = zip(case["step_seconds"]["rounds"], to["step_seconds"]["rounds"], strict=False)
    ratios = [a / b for a, b in pairs]
    spread = contents.spread(ratios)
    ratio = statistics.median(ratios) if spread < contents.LIMIT else None
    return {"ratio": ratio, "spread": spread}


def words(case: dict[str, Any]) -> str:
    """Returns what a case is, in words."""
    layout = " channels last" * bool(case["channels_last"])
    name = "ours" if case["engine"] == "ours" else f"{_engine(case)}{layout}"
    if case["engine"] == _OF_PRODUCT:
        return f"matrix product, {case['dtype']}, {case['precision']}"
    parts = [f"{case['network']} {case['pixels']} px", _kind(case), name]
    for what in ("keys", "devices", "steps_per_call"):
        if case[what] > 1 or what == "steps_per_call":
            parts.append(f"{what.replace('_', ' ')} {case[what]}")
    return ", ".join([*parts, f"batch {case['batch']}"])


def _kind(case):
    return case["dtype"] if case["dtype"] != "float32" else f"float32 ({case['precision']})"


def _engine(case):
    names = {"loop": "PyTorch's usual loop", "cuda_graphs": "CUDA graphs"}
    return names.get(case["engine"], case["engine"].replace("_", " "))


def outcome(case: dict[str, Any]) -> str:
    """Returns the time of a case in words, or why there is none."""
    if case["engine"] == _OF_PRODUCT and _reported(case):
        return f"{case['flop_per_second'] / 1e9:,.0f} GFLOP/s"
    if "reason" in case:
        return f"not measured: {case['reason']}"
    return step_time(case) + " ms a step" * _reported(case)


def step_time(case: dict[str, Any]) -> str:
    """Returns the median of a step in ms and its spread; or why there is none."""
    if "reason" in case:
        return case["reason"]
    times = case["step_seconds"]
    if "quartiles" in times:
        median, lower, upper = map(_milliseconds, (times["median"], *times["quartiles"]))
        return f"{median} (quartiles {lower}–{upper})"
    if not _reported(case):
        return f"rounds differ by {times['spread']:.0%}"
    spread = f"±{times['spread'] / 2:.1%}" if len(times["rounds"]) > 1 else "one round"
    return f"{_milliseconds(times['median'])} ({spread})"


def _milliseconds(seconds):
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def _arithmetic(entry):
    """Returns how products are computed."""
    if entry["dtype"] == "bfloat16":
        return "bfloat16"
    if entry["precision"] == "tensorfloat32":
        return "TF32"
    exact = entry["precision"] == "highest" or entry["platform"] == "cpu"
    return "float32" if exact else "float32, default products"


def _machine(entry):
    on_cpu = entry["platform"] == "cpu"
    return f"{entry['processor']}, {entry['cores']} cores" if on_cpu else entry["device"]


def _number(name, form="{}", factor=1):
    """Returns the cells of a number; a dash where a case has none."""
    return lambda e: DASH if e.get(name) is None else form.format(e[name] * factor)


def _if_reported(name, form, factor=1):
    """Returns the cells of a number that follows from the time of a step."""
    number = _number(name, form, factor)
    return lambda e: number(e) if _reported(e) else DASH


def _compile_time(entry):
    if entry.get("compile_seconds") is None:
        return DASH
    return f"{entry['lowering_seconds'] + entry['compile_seconds']:.1f}"


def _rate(entry):
    if "flop_per_second" not in entry or not _reported(entry):
        return DASH
    share = _number("share_of_product", "{:.0%}")(entry)
    return f"{entry['flop_per_second'] / 1e9:,.0f} ({share})"


def _against_pytorch(entry):
    """Returns how many times longer PyTorch takes, for each way to run it."""
    ratios = (
        f"{_engine(mode)}{' channels last' * bool(mode['channels_last'])} "
        f"{_number('ratio', '{:.2f}')(mode)}"
        for mode in entry.get("pytorch", [])
    )
    return ", ".join(ratios) or DASH


def _race_rows(races: dict[str, dict]) -> list[list[str]]:
    """Returns the table of races to an accuracy: a head and its rows."""
    head = ["training", "target accuracy", "device", "program", "minutes", "updates", "file"]
    rows = [head]
    for file, race in races.items():
        for runner in race["runners"]:
            last = runner["evaluations"][-1] if runner["evaluations"] else None
            reached = runner["seconds"] is not None
            minutes = f"{runner['seconds'] / 60:.1f}" if reached else DASH
            if runner["restarts"]:
                minutes += f" ({runner['restarts']} restarts)"
            rows.append(
                [
                    *(race["config"], f"{race['accuracy']:.2f}", _machine(race)),
                    *(runner["about"], minutes),
                    f"{last['step']:,}" if last and reached else DASH,
                    f"[json](experiments/results/benchmark/{file})",
                ]
            )
    return rows


_COLUMNS = {  # each a head, and what gives the cell of an entry
    "network": lambda e: f"{e['network']}, {e['pixels']} px",
    "arithmetic": _arithmetic,
    "device": _machine,
    "examples a step": _number("batch"),
    "steps a call": _number("steps_per_call"),
    "keys": _number("keys"),
    "scaling": _number("measures"),
    "devices": lambda e: f"{e['devices']}{' simulated' * e['simulated_devices']}",
    "ms a step": step_time,
    "ms a step of all": step_time,
    "times one key": _number("times_one_key", "{:.2f}"),
    "times one device's examples/s": _number("times_one_device", "{:.2f}"),
    "examples/s": _if_reported("examples_per_second", "{:,.0f}"),
    "compile s": _compile_time,
    "GFLOP/s (share of product)": _rate,
    "peak MB": _number("peak_memory_bytes", "{:,.0f}", 1e-6),
    "PyTorch / ours": _against_pytorch,
    "measured in": _number("note"),
    "file": lambda e: f"[json](experiments/results/benchmark/{e['file']})",
}
_FIRST = ("network", "arithmetic", "device", "examples a step")  # columns of all tables
_TABLES = {  # the cases of each, and its other columns
    "benchmark": (
        ["update"],
        *("ms a step", "examples/s", "compile s", "GFLOP/s (share of product)"),
        *("peak MB", "PyTorch / ours", "measured in", "file"),
    ),
    "steps-per-call": (
        ["steps_per_call"],
        *("steps a call", "ms a step", "compile s", "measured in"),
    ),
    "keys": (
        ["keys"],
        *("keys", "ms a step of all", "times one key"),
        *("examples/s", "compile s", "peak MB", "measured in"),
    ),
    "devices": (
        SCALING,
        *("scaling", "devices", "ms a step", "times one device's examples/s", "measured in"),
    ),
}
