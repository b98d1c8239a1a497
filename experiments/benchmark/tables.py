"""The tables of docs/speed.md: benchmarks of several machines side by side."""

from typing import Any

from experiments.display import DASH

__all__ = ["SCALING", "step_time", "tables"]

SCALING = ("strong", "weak")  # cases of a benchmark that are on several devices


def tables(records: dict[str, dict]) -> dict[str, list[list[str]]]:
    """Returns the tables of benchmarks, machines side by side: for each a head and its rows.

    Args:
      records: Results of ``experiments.benchmark``, by the names of their files.
    """
    entries = [
        record | case | {"file": file}
        for file, record in records.items()
        for case in record["cases"]
        if "network" in case
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
    }


def step_time(case: dict[str, Any]) -> str:
    """Returns the median and quartiles of a step in ms, or the reason why there are none."""
    if "reason" in case:
        return case["reason"]
    times = case["step_seconds"]
    median, lower, upper = (
        f"{1e3 * t:.3g}" if t < 1 else f"{1e3 * t:,.0f}"
        for t in (times["median"], *times["quartiles"])
    )
    return f"{median} ({lower}–{upper})"


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


def _compile_time(entry):
    if "compile_seconds" not in entry:
        return DASH
    return f"{entry['lowering_seconds'] + entry['compile_seconds']:.1f}"


def _rate(entry):
    if "flop_per_second" not in entry:
        return DASH
    share = _number("share_of_product", "{:.0%}")(entry)
    return f"{entry['flop_per_second'] / 1e9:,.0f} ({share})"


def _against_pytorch(entry):
    """Returns how many times longer PyTorch takes, for each way to run it."""
    ratios = (
        f"{mode['engine'].replace('_', ' ')}{' channels last' * mode['channels_last']} "
        f"{_number('ratio', '{:.2f}')(mode)}"
        for mode in entry.get("pytorch", [])
    )
    return ", ".join(ratios) or DASH


_COLUMNS = {  # each a head, and what gives the cell of an entry
    "network": lambda e: f"{e['network']}, {e['pixels']} px",
    "arithmetic": _arithmetic,
    "device": _machine,
    "examples a step": _number("batch"),
    "steps a call": _number("steps_per_call"),
    "keys": _number("keys"),
    "scaling": _number("measures"),
    "devices": lambda e: f"{e['devices']}{' simulated' * e['simulated_devices']}",
    "ms a step (quartiles)": step_time,
    "ms a step of all (quartiles)": step_time,
    "times one key": _number("times_one_key", "{:.2f}"),
    "times one device's examples/s": _number("times_one_device", "{:.2f}"),
    "examples/s": _number("examples_per_second", "{:,.0f}"),
    "compile s": _compile_time,
    "GFLOP/s (share of product)": _rate,
    "peak MB": _number("peak_memory_bytes", "{:,.0f}", 1e-6),
    "PyTorch / ours": _against_pytorch,
    "file": lambda e: f"[json](experiments/results/benchmark/{e['file']})",
}
_FIRST = ("network", "arithmetic", "device", "examples a step")  # columns of all tables
_TABLES = {  # the cases of each, and its other columns
    "benchmark": (
        ["update"],
        *("ms a step (quartiles)", "examples/s", "compile s", "GFLOP/s (share of product)"),
        *("peak MB", "PyTorch / ours", "file"),
    ),
    "steps-per-call": (["steps_per_call"], "steps a call", "ms a step (quartiles)", "compile s"),
    "keys": (
        ["keys"],
        *("keys", "ms a step of all (quartiles)", "times one key"),
        *("examples/s", "compile s", "peak MB"),
    ),
    "devices": (
        SCALING,
        *("scaling", "devices", "ms a step (quartiles)", "times one device's examples/s"),
    ),
}
