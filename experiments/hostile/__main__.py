"""Tries to break the project: python -m experiments.hostile COMMAND [options].

mutations changes small valid files of every format at random and reads them; corruptions flips bits
in the folder of a run, which then goes on; kills ends runs at random moments and lets them go on.
Exit status: 0 where all outcomes are harmless or documented errors, 1 where one is not, 2 for wrong
options, 130 if interrupted.
"""

import tyro
from rich.console import Console

from experiments.arguments import end, ended
from experiments.hostile.corruptions import Corruptions
from experiments.hostile.kills import Kills
from experiments.hostile.mutations import Mutations

__all__ = ["main"]

PROGRAM = "python -m experiments.hostile"
COMMANDS = {"mutations": Mutations, "corruptions": Corruptions, "kills": Kills}


def main(arguments: list[str] | None = None) -> int:
    """Runs the program with these arguments, or those of the process, and returns its status."""
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, args=arguments, prog=PROGRAM, description=__doc__
    )
    return ended(lambda: command.run(Console(highlight=False)), RuntimeError)


if __name__ == "__main__":
    end(main())
