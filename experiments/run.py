"""Trains and measures an experiment: python -m experiments.run CONFIG [--keys N] [options].

For each method (source-only, dann, train-on-target, and those with few labels) and each key it
trains, evaluates, and writes OUTPUT/CONFIG/METHOD.json; the curves go to OUTPUT/CONFIG/curves.png.
Linear SVMs then take the place of the last layer, and closed forms such as subspace alignment (sa)
are measured on source-only's features. After an interruption the same command goes on. CONFIG may
also be a table, such as table1 or office31: all its experiments are run, with the same options.
--list shows all of them. With --sweep it trains one method with combinations of settings, and ranks
them without target labels.
"""

import sys

import jax
from rich.console import Console

from dann_jax import memory
from experiments import (
    configs,
    display,
    execute,
    interruption,
    options,
    plan,
    processes,
    record,
    sweep,
    unlabelled,
)
from experiments.arguments import end, sentence

__all__ = ["main"]

DIVERGED = 3  # exit status
DEFAULT = "digits_digits_m"  # whose settings --help shows where no config is named


@processes.together
def main(arguments: list[str] | None = None) -> int:
    """Runs the program and returns its exit status: see docs/running.md."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(highlight=False)
    swept = any(word.split("=")[0] == "--sweep" for word in arguments)
    if "--list" in arguments and not swept:
        _list(console)
        return 0
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if name is None and not {"-h", "--help"} & set(arguments):
        print(
            f"usage: {options.PROGRAM} CONFIG [--keys N] [options]\n"
            f"CONFIG is one of {', '.join(configs.config_names())}, or a table, "
            f"{', '.join(configs.table_names())}; --list describes each, --help the options",
            file=sys.stderr,
        )
        return 2
    try:
        with interruption.handled():
            every = _parse(name, arguments)
            if swept:
                return _sweep(name, every, console)
            return _run(name, every, console)
    except KeyboardInterrupt as stop:
        print(f"interrupted: {str(stop) or interruption.ELSEWHERE}", file=sys.stderr)
        if "--overwrite" in arguments:
            print(
                "with --overwrite the same command retrains finished methods too: leave them out "
                "by --methods, and run rows of a table by themselves",
                file=sys.stderr,
            )
        return getattr(stop, "status", 130)
    except (ValueError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2


def _list(console):
    for name in configs.table_names():
        rows = ", ".join(configs.find_rows(name))
        console.print(f"[bold]{name}[/bold]  (a table: {rows})", soft_wrap=True)
    console.print()
    for name in configs.config_names():
        config, about = configs.find_config(name)
        pair = f"{config.source} -> {config.target}, {config.steps:,} steps"
        console.print(f"[bold]{name}[/bold]  ({pair})", soft_wrap=True)
        text = "".join(f"  {line}".rstrip() + "\n" for line in about.strip().splitlines())
        console.print(text, soft_wrap=True, markup=False)


def _parse(name, arguments):
    """Returns the options of each experiment: of the one that is named, or of a table's rows."""
    rows, about = configs.find_rows(name), None
    if rows:
        about = (
            f"{__doc__}\nThe rows of {name} are {', '.join(rows)}. The defaults below are those of "
            "the first; an option on the command line is for all."
        )
    elif name is None:
        about = f"{__doc__}\nThe defaults below are those of {DEFAULT}."
    names = rows or (DEFAULT if name is None else name,)
    shown = {"shown": name or "CONFIG", "about": about}
    every = {row: options.parse(row, arguments, **shown) for row in names}
    if rows:
        options.check_shared(every)
    return every


def _sweep(name, every, console):
    """Trains all combinations of a sweep, or lists their commands; returns the exit status."""
    if name not in every:
        raise ValueError(f"--sweep is of one config: name a row of {name} ({', '.join(every)})")
    plan.check(every[name])
    combinations = sweep.combinations(name, every[name])
    if every[name].list:
        for each in combinations.values():
            print(options.complete_command(name, each, sweep.settings(every[name])))
        return 0
    status = _run(name, combinations, console, config=name)
    if status == 2:  # results that are there may be of other settings
        print("error: the combinations are not ranked, as not all have a result", file=sys.stderr)
        return status
    content = sweep.ranked(name, every[name], combinations)
    if content["combinations"]:
        display.show(sweep.table(content), console)
        if processes.is_first():
            path = sweep.path(name, every[name])
            record.write_json(path, content)
            console.print(f"written: {path}", soft_wrap=True, markup=False)
    return status


def _run(name, every, console, config=None):
    """Plans all experiments, runs those that can be run, and returns the exit status.

    ``every`` has the options by the name of an experiment, or of a combination for one ``config``.
    """
    failures, diverged = {}, []

    def attempt(row, function, *arguments):
        try:
            return function(*arguments)
        except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
            interruption.check()  # where a callback has made another error of a signal's
            alone = not processes.all_fail()
            failures[row] = sentence(error)  # an error itself would hold the arrays of its row
            text = failures[row] if row == name else f"{row}: {failures[row]}"
            print("error:", text, file=sys.stderr)
            if alone:
                processes.leave(2)

    plans = {row: attempt(row, plan.make_plan, config or row, each) for row, each in every.items()}
    first = next(iter(every.values()))
    if len(failures) < len(every):
        devices = execute.start(first, console)
    lacking = [row for row in every if row not in failures and plans[row].jobs]
    if config is not None and lacking:  # the data of all are the same
        execute.check_data(first, True, console)
    for row, each in every.items():  # missing weights and data are reported before training starts
        if row in lacking and config is None:
            attempt(row, execute.check_data, each, len(every) > 1, console)
    if len(failures) == len(every):
        return 2
    for row, each in every.items():
        if row not in failures:
            if row != name:
                console.print(f"[bold]{row}[/bold]")
            sentences = attempt(row, execute.execute, plans[row], each, devices, console)
            diverged += [text if row == name else f"{row}: {text}" for text in sentences or ()]
    if failures and name in every:
        return 2
    if config is None:
        results = {row: record.read_results(each.folder(row)) for row, each in every.items()}
        for row in list(results):
            if (shown := unlabelled.table(row, results[row])) is not None:
                display.show(shown, console)
                del results[row]
        if results:
            display.show(display.table(name, results), console)
    for row, error in failures.items():
        print(f"error: {row} is not complete: {error}", file=sys.stderr)
    for text in diverged if not console.quiet else ():
        print(f"error: {text}", file=sys.stderr)
    if failures:
        return 2
    return DIVERGED if diverged else 0


if __name__ == "__main__":
    memory.keep_freed_memory()
    end(main())
