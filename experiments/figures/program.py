"""What the programs that draw figures have in common: options in, a picture out."""

import pathlib
import sys
from collections.abc import Callable
from typing import TypeVar

import tyro

__all__ = ["run"]

Options = TypeVar("Options")


def run(
    draw: Callable[[Options], pathlib.Path],
    options: type[Options],
    arguments: list[str] | None,
    *,
    program: str,
    description: str,
) -> int:
    """Runs a program that draws.

    Args:
      draw: Takes the options, and returns where the picture is. A ValueError or an OSError is
        printed without its trace.
      options: A dataclass: the command line.
      arguments: Of the command line; None for those of the process.
      program: How the program is called, for its help.
      description: What it does, for its help.

    Returns:
      The exit status: 0, or 2 if nothing was drawn.
    """
    try:
        path = draw(tyro.cli(options, args=arguments, prog=program, description=description))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {path}")
    return 0
