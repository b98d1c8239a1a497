"""The paper's tables, and which experiments their rows are.

A variant of a table has the variants of its rows, whose names end in its own: of ``office31``,
``office31_frozen`` has ``office31_amazon_webcam_frozen`` and so on, as far as there are any.
"""

from experiments import config as configs

__all__ = ["find_rows", "table_names"]

_ROWS = {
    "table1": ("mnist_mnist_m", "syn_numbers_svhn", "svhn_mnist", "syn_signs_gtsrb"),
    "office31": ("office31_amazon_webcam", "office31_dslr_webcam", "office31_webcam_dslr"),
    "office31_others": ("office31_amazon_dslr", "office31_dslr_amazon", "office31_webcam_amazon"),
}
_VARIANTS = {
    "table1": ("batch_norm",),
    "office31": ("frozen", "resnet50"),
    "office31_others": ("frozen", "resnet50"),
}


def _tables():
    there = configs.config_names()
    found = dict(_ROWS)
    for table, variants in _VARIANTS.items():
        for variant in variants:
            rows = tuple(f"{row}_{variant}" for row in _ROWS[table])
            found[f"{table}_{variant}"] = tuple(row for row in rows if row in there)
    return {table: rows for table, rows in found.items() if rows}


def table_names() -> tuple[str, ...]:
    """Returns the names of the tables, those of the paper's own first."""
    return tuple(_tables())


def find_rows(name: str) -> tuple[str, ...]:
    """Returns the names of a table's experiments, in the paper's order; none for another name."""
    return _tables().get(name, ())
