"""The tables of docs/speed.md: benchmarks of several machines side by side."""

from typing import Any, NamedTuple

from experiments.display import DASH

__all__ = ["SCALING", "step_time", "tables"]

SCALING = ("strong", "weak")  # cases of a benchmark that are on several devices


class _Entry(NamedTuple):
    file: str  # name
    record: dict[str, Any]
    case: dict[str, Any]


def tables(records: dict[str, dict]) -> dict[str, list[list[str]]]:
    """Returns the tables of benchmarks, machines side by side: for each a head and its rows.

    Args:
      records: Results of ``experiments.benchmark``, by the names of their files.

    Returns:
      Tables ``'benchmark'``, ``'steps-per-call'``, ``'keys'`` and ``'devices'``.
    """
    entries = [
        _Entry(file, record, case)
        for file, record in records.items()
        for case in record["cases"]
        if "network" in case
    ]
    entries.sort(key=lambda e: (e.case["network"], e.case["pixels"], _arithmetic(e), e.file))
    return {
        title: [list(columns := _SUBJECT | more)]
        + [
            [cell(entry) for cell in columns.values()]
            for entry in entries
            if entry.case["measures"] in measures
        ]
        for title, (measures, more) in _TABLES.items()
    }


def step_time(case: dict[str, Any]) -> str:
    """Returns the median and quartiles of a step in ms, or the reason why there are none."""
    if "reason" in case:
        return case["reason"]
    times = case["step_seconds"]
    median, lower, upper = (
        f"{t:.3g}" if t < 1e3 else f"{t:,.0f}"
        for t in (1e3 * times["median"], *(1e3 * t for t in times["quartiles"]))
    )
    return f"{median} ({lower}–{upper})"


def _arithmetic(entry):
    """Returns how products are computed."""
    record, precision = entry.record, entry.case["precision"]
    if record["dtype"] == "bfloat16":
        return "bfloat16"
    if precision == "tensorfloat32":
        return "TF32"
    exact = precision == "highest" or record["platform"] == "cpu"
    return "float32" if exact else "float32, default products"


def _machine(entry):
    record = entry.record
    if record["platform"] == "cpu":
        return f"{record['processor']}, {record['cores']} cores"
    return record["device"]


def _number(values, name, form, factor=1.0):
    return form.format(values[name] * factor) if values.get(name) is not None else DASH


def _column(name, form, factor=1.0):
    """Returns the cells of a number of a case; a dash where it has none."""
    return lambda entry: _number(entry.case, name, form, factor)


def _compile_time(entry):
    case = entry.case
    if "compile_seconds" not in case:
        return DASH
    return f"{case['lowering_seconds'] + case['compile_seconds']:.1f}"


def _rate(entry):
    if "flop_per_second" not in entry.case:
        return DASH
    share = _number(entry.case, "share_of_product", "{:.0%}")
    return f"{entry.case['flop_per_second'] / 1e9:,.0f} ({share})"


def _against_pytorch(entry):
    """Returns how many times longer PyTorch takes, for each way to run it."""
    ratios = (
        f"{mode['engine'].replace('_', ' ')}{' channels last' * mode['channels_last']} "
        f"{_number(mode, 'ratio', '{:.2f}')}"
        for mode in entry.case.get("pytorch", [])
    )
    return ", ".join(ratios) or DASH


def _devices(entry):
    return f"{entry.case['devices']}{' simulated' * entry.record['simulated_devices']}"


_SUBJECT = {  # the first columns of all tables: each a head, and what gives the cell of an entry
    "network": lambda e: f"{e.case['network']}, {e.case['pixels']} px",
    "arithmetic": _arithmetic,
    "device": _machine,
    "examples a step": _column("batch", "{}", 1),
}
_STEP = {"ms a step (quartiles)": lambda e: step_time(e.case)}
_COMPILATION = {"compile s": _compile_time}
_PACE = {"examples/s": _column("examples_per_second", "{:,.0f}")}
_MEMORY = {"peak MB": _column("peak_memory_bytes", "{:,.0f}", 1e-6)}

_TABLES = {  # the cases of each, and its other columns
    "benchmark": (
        ("update",),
        {
            **(_STEP | _PACE | _COMPILATION),
            "GFLOP/s (share of product)": _rate,
            **_MEMORY,
            "PyTorch / ours": _against_pytorch,
            "file": lambda e: f"[json](experiments/results/benchmark/{e.file})",
        },
    ),
    "steps-per-call": (
        ("steps_per_call",),
        {"steps a call": _column("steps_per_call", "{}", 1)} | _STEP | _COMPILATION,
    ),
    "keys": (
        ("keys",),
        {
            "keys": _column("keys", "{}", 1),
            "ms a step of all (quartiles)": _STEP["ms a step (quartiles)"],
            "times one key": _column("times_one_key", "{:.2f}"),
            **(_PACE | _COMPILATION | _MEMORY),
        },
    ),
    "devices": (
        SCALING,
        {
            "scaling": lambda e: e.case["measures"],
            "devices": _devices,
            **_STEP,
            "times one device's examples/s": _column("times_one_device", "{:.2f}"),
        },
    ),
}
