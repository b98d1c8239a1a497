"""The experiments by their names, and the tables whose rows they are.

A module here has a ``config``, or ``configs`` that it makes: a name and (settings, text) each. A
table has variants: ``office31_frozen`` has the rows of ``office31`` whose names end in ``_frozen``.
"""

import difflib
import functools
import importlib
import pkgutil

from experiments.arguments import either
from experiments.methods import DEFAULT_METHODS
from experiments.settings import Config

__all__ = ["config_names", "find_config", "find_methods", "find_rows", "table_names"]

_ROWS = {
    "table1": ("mnist_mnist_m", "syn_numbers_svhn", "svhn_mnist", "syn_signs_gtsrb"),
    "office31": ("office31_amazon_webcam", "office31_dslr_webcam", "office31_webcam_dslr"),
    "office31_others": ("office31_amazon_dslr", "office31_dslr_amazon", "office31_webcam_amazon"),
}
_VARIANTS = ("batch_norm", "compact", "frozen", "resnet50")


@functools.cache
def _experiments():
    """Returns (settings, text, methods) of each experiment."""
    experiments = {}
    for entry in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{entry.name}")
        if hasattr(module, "configs"):
            experiments |= {name: (*each, DEFAULT_METHODS) for name, each in module.configs.items()}
        else:
            methods = getattr(module, "methods", DEFAULT_METHODS)
            experiments[entry.name] = module.config, module.__doc__, methods
    return dict(sorted(experiments.items()))


def config_names() -> tuple[str, ...]:
    """Returns the names of the experiments."""
    return tuple(_experiments())


def find_config(name: str) -> tuple[Config, str]:
    """Returns an experiment's settings and its description."""
    if name not in config_names():
        near = difflib.get_close_matches(name, config_names(), n=3, cutoff=0.4)
        known = f"expected one of {', '.join((*config_names(), *table_names()))}"
        hint = f"did you mean {either(near)}?" if near else known
        raise ValueError(f"unknown config {name[:60]!r}: {hint}")
    return _experiments()[name][:2]


def find_methods(name: str) -> tuple[str, ...]:
    """Returns the methods that an experiment consists of: the default ones, or its own."""
    return _experiments()[name][2] if name in config_names() else DEFAULT_METHODS


def _tables():
    tables = dict(_ROWS)
    for table, rows in _ROWS.items():
        for variant in _VARIANTS:
            variants = tuple(f"{row}_{variant}" for row in rows)
            tables[f"{table}_{variant}"] = tuple(n for n in variants if n in config_names())
    return {table: rows for table, rows in tables.items() if rows}


def table_names() -> tuple[str, ...]:
    """Returns the names of the tables, the paper's own first."""
    return tuple(_tables())


def find_rows(name: str | None) -> tuple[str, ...]:
    """Returns the experiments of a table, in the paper's order; none for another name."""
    return _tables().get(name, ())
