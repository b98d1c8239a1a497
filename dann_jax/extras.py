"""Which extra of this package installs a package that is missing."""

import contextlib
from collections.abc import Iterator

__all__ = ["needs"]


@contextlib.contextmanager
def needs(what: str, extra: str = "data") -> Iterator[None]:
    """Says which extra to install where an import fails inside.

    Args:
        what: what needs the import, for the message.
        extra: which extra has it.

    Raises:
        ModuleNotFoundError: a package is not installed; one sentence has the command that does it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", __package__):
            raise
        raise ModuleNotFoundError(
            f"{what} needs the package {package}, which is not installed: "
            f"pip install 'dann_jax[{extra}]'",
            name=error.name,
        ) from error
