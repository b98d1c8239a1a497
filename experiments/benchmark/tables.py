"""The tables of docs/speed.md: benchmarks of several machines side by side."""

from typing import Any

from experiments.results import DASH

__all__ = ["SCALING", "step_time", "tables"]

SCALING = ("strong", "weak")  # cases of a benchmark that are on several devices


def tables(records: dict[str, dict]) -> dict[str, list[list[str]]]:
    """Returns the tables of benchmarks, machines side by side: for each a head and its rows.

    Args:
      records: Results of ``experiments.benchmark``, by the names of their files.

    Returns:
      Tables ``'benchmark'``, ``'steps-per-call'``, ``'keys'`` and ``'devices'``.
    """
    found = sorted(
        (
            (case["network"], case["pixels"], _arithmetic(record, case), name, record, case)
            for name, record in records.items()
            for case in record["cases"]
            if "network" in case
        ),
        key=lambda entry: entry[:4],
    )

    def rows(head, measures, cells):
        lines = [["network", "arithmetic", "device", "examples a step", *head]]
        for network, pixels, arithmetic, name, record, case in found:
            if case["measures"] in measures:
                lines.append(
                    [f"{network}, {pixels} px", arithmetic, _machine(record), str(case["batch"])]
                    + cells(name, record, case)
                )
        return lines

    return {
        "benchmark": rows(
            (
                *("ms a step (quartiles)", "examples/s", "compile s", "GFLOP/s (share of product)"),
                *("peak MB", "PyTorch / ours", "file"),
            ),
            ("update",),
            lambda name, record, case: [
                step_time(case),
                _number(case, "examples_per_second", "{:,.0f}"),
                _compile_time(case),
                _rate(case),
                _number(case, "peak_memory_bytes", "{:,.0f}", 1e-6),
                _against_pytorch(case),
                f"[json](experiments/results/benchmark/{name})",
            ],
        ),
        "steps-per-call": rows(
            ("steps a call", "ms a step (quartiles)", "compile s"),
            ("steps_per_call",),
            lambda name, record, case: [
                str(case["steps_per_call"]),
                step_time(case),
                _compile_time(case),
            ],
        ),
        "keys": rows(
            (
                *("keys", "ms a step of all (quartiles)", "times one key", "examples/s"),
                *("compile s", "peak MB"),
            ),
            ("keys",),
            lambda name, record, case: [
                str(case["keys"]),
                step_time(case),
                _number(case, "times_one_key", "{:.2f}"),
                _number(case, "examples_per_second", "{:,.0f}"),
                _compile_time(case),
                _number(case, "peak_memory_bytes", "{:,.0f}", 1e-6),
            ],
        ),
        "devices": rows(
            ("scaling", "devices", "ms a step (quartiles)", "times one device's examples/s"),
            SCALING,
            lambda name, record, case: [
                case["measures"],
                f"{case['devices']}{' simulated' if record['simulated_devices'] else ''}",
                step_time(case),
                _number(case, "times_one_device", "{:.2f}"),
            ],
        ),
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


def _arithmetic(record, case):
    """Returns how products are computed."""
    if record["dtype"] == "bfloat16":
        return "bfloat16"
    if case["precision"] == "tensorfloat32":
        return "TF32"
    exact = case["precision"] == "highest" or record["platform"] == "cpu"
    return "float32" if exact else "float32, default products"


def _machine(record):
    if record["platform"] == "cpu":
        return f"{record['processor']}, {record['cores']} cores"
    return record["device"]


def _number(case, name, form, factor=1.0):
    return form.format(case[name] * factor) if case.get(name) is not None else DASH


def _compile_time(case):
    if "compile_seconds" not in case:
        return DASH
    return f"{case['lowering_seconds'] + case['compile_seconds']:.1f}"


def _rate(case):
    if "flop_per_second" not in case:
        return DASH
    share = _number(case, "share_of_product", "{:.0%}")
    return f"{case['flop_per_second'] / 1e9:,.0f} ({share})"


def _against_pytorch(case):
    """Returns how many times longer PyTorch takes, for each way to run it."""
    return (
        ", ".join(
            f"{mode['engine'].replace('_', ' ')}{' channels last' * mode['channels_last']} "
            f"{_number(mode, 'ratio', '{:.2f}')}"
            for mode in case.get("pytorch", [])
        )
        or DASH
    )
