"""Parses the command line of each program: an error is one sentence, with exit status 2."""

import argparse
import contextlib
import dataclasses
import difflib
import errno
import os
import pathlib
import re
import signal
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import tyro
from tyro import _errors  # the events of errors; tyro has no public form of them

from experiments import interruption

__all__ = [
    "Parser",
    "check_file",
    "check_folder",
    "check_published",
    "either",
    "end",
    "ended",
    "parse",
    "sentence",
]

NUMBERS = {"INT": "a whole number", "FLOAT": "a number"}
SHOWN = 60  # characters of a value
FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG  # a disk that takes no more


class Parser(argparse.ArgumentParser):
    """An ``argparse.ArgumentParser`` whose errors are one sentence."""

    def parse_args(self, args=None, namespace=None):
        """Returns the options; an empty word is refused."""
        args = sys.argv[1:] if args is None else args
        _say_warnings_plainly()
        _refuse_empty(args)
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Prints the sentence, and ends the program."""
        _leave(f"{message}: see python -m {self.prog.rpartition(' ')[2]} --help")


def _say_warnings_plainly():
    """Leaves where a warning comes from, which is of no use to who typed a command, out of it."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


def parse(
    options: Any,
    arguments: Sequence[str] | None,
    *,
    program: str,
    description: str | None,
    default: Any = None,
) -> Any:
    """Returns the options, a dataclass or one with annotations, that a command line gives.

    Args:
      options: The type.
      arguments: The words; None for those of the process.
      program: What the user calls.
      description: For ``--help``.
      default: An instance with the defaults; None for those of the type.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _say_warnings_plainly()
    _refuse_empty(arguments)
    with _errors.on_parse_error(lambda event: _leave(_sentence(event, options, program))):
        return tyro.cli(
            options,
            args=arguments,
            prog=program,
            description=description,
            **({} if default is None else {"default": default}),
        )


def ended(
    program: Callable[[], int | None],
    *errors: type[Exception],
    interrupted: str = "nothing was written",
) -> int:
    """Runs a program and returns its exit status, with a sentence in place of a traceback.

    Args:
      program: Returns its status; None for 0.
      *errors: What the program explains by its text, besides ``ValueError`` and ``OSError``.
      interrupted: What there is after a signal.

    Returns:
      The program's own status; 2 after an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    try:
        with interruption.handled():
            return program() or 0
    except KeyboardInterrupt as stop:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        return getattr(stop, "status", 130)
    except BrokenPipeError:  # who reads, as head(1), has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, OSError, *errors) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2


def end(status: int) -> NoReturn:
    """Ends the process with a status; after a signal at once, as threads of JAX may still run."""
    if status > 128:  # as shells have it
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # it is closed
                stream.flush()
        os._exit(status)
    sys.exit(status)


def sentence(error: BaseException) -> str:
    """Returns what an error says: the file and why, and what to do where the system does not."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    text = f"{error.filename}: {error.strerror.lower()}" if error.filename else str(error)
    if error.errno in FULL:
        text += ": free some space, and the same command goes on from what is saved"
    return text


def either(names: Sequence[str]) -> str:
    """Returns names in words.

    >>> either(["a", "b", "c"])
    'a, b or c'
    """
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _leave(sentence):
    print("error:", " ".join(sentence.split()), file=sys.stderr)
    raise SystemExit(2)


def _refuse_empty(arguments):
    """Ends the program at an empty word, which would be a path to the current folder."""
    for before, word in zip(["the program's name", *arguments], arguments, strict=False):
        if not word.strip():
            _leave(
                f"expected a value after {before}, got {word!r}: is a variable of the shell unset?"
            )


def _sentence(event, options, program):
    """Returns what is wrong: what was expected, what was got, and what to change."""
    argument = getattr(event, "argument", None)
    name = argument.display_name() if argument is not None else ""
    match event:
        case _errors.InvalidChoice(value=value, choices=choices):
            near = difflib.get_close_matches(value, choices, n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            known = sorted(choices) if "None" in choices else choices  # of a union, in any order
            return f"{name}: expected one of {', '.join(known)}, got {value[:SHOWN]!r}{hint}"
        case _errors.BadValue():
            metavar = argument.lowered.metavar or "no value"
            got = event.offending_value
            got = "none" if got is None else repr(got[:SHOWN])
            return f"{name}: expected {_kind(metavar)}, got {got}"
        case _errors.UnrecognizedArgs(tokens=tokens):
            flags = [f"--{name.replace('_', '-')}" for name in _fields(options)]
            near = difflib.get_close_matches(tokens[0], flags, n=1)
            hint = f"did you mean {near[0]}?" if near else f"see {program} --help"
            words = " ".join(tokens)[:SHOWN]
            return f"unknown {'option' if words.startswith('-') else 'argument'} {words}: {hint}"
        case _errors.MissingArgs():
            names = [each.arg.display_name() for each in event.missing_arguments]
            return f"expected {', '.join(names)}, got none: see {program} --help"
        case _errors.InstantiationFailure(message=message) if argument is not None:
            got = re.search(r"'([^']*)'", message)
            got = repr(got[1][:SHOWN]) if got else "a number with too many digits"
            return f"{name}: expected {_kind(argument.lowered.metavar)}, got {got}"
        case _errors.InstantiationFailure(message=message):
            return str(message)
    return f"the arguments cannot be understood ({type(event).__name__}): see {program} --help"


def _kind(metavar):
    """Returns what a value of an option should be, in words."""
    words = re.findall(r"[^{}|\[\] ]+", metavar.replace("...", ""))
    return either(list(dict.fromkeys(NUMBERS.get(word, word) for word in words)))


def _fields(options):
    """Returns the names of the fields of a dataclass, and of those in it."""
    options = typing.get_args(options)[0] if typing.get_args(options) else options
    for field in dataclasses.fields(options):
        kind = typing.get_args(field.type)[0] if typing.get_args(field.type) else field.type
        if dataclasses.is_dataclass(kind):
            yield from _fields(kind)
        else:
            yield field.name


def check_folder(path: pathlib.Path | None, option: str, *, written: bool = True) -> None:
    """Raises unless a folder can be written to, or made.

    Args:
      path: The folder; None for none.
      option: That names it.
      written: Whether it will be written to, or may be read only.

    Raises:
      ValueError: It is a file or in one, or may not be written to, or its name is none.
    """
    if path is None:
        return
    try:
        path = path.expanduser()
        place = next(each for each in (path, *path.parents, pathlib.Path()) if each.exists())
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        got = repr(str(path)[:SHOWN])
        raise ValueError(f"{option}: expected the path of a folder, got {got} ({why})") from None
    if not place.is_dir():
        raise ValueError(
            f"{option} {path}: expected a folder, but {place} is a file: choose another"
        )
    if written and not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"{option} {path}: {place} may not be written to: choose another folder")


def check_file(path: pathlib.Path, option: str, *, overwrite: bool) -> None:
    """Raises unless a file can be written.

    Args:
      path: The file.
      option: That names it.
      overwrite: Whether it may take the place of another.

    Raises:
      ValueError: There is one, or a folder, or its folder cannot be written to.
    """
    check_folder(path.parent, option)
    if path.is_dir():
        raise ValueError(f"{option} {path}: expected the path of a file, got a folder")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} is there already: name another {option}, or --overwrite it")


def check_published(path: pathlib.Path | None) -> None:
    """Raises a ValueError unless the folder of published files, if one is named, is one."""
    if path is not None and not path.expanduser().is_dir():
        raise ValueError(
            f"--manual-dir {path}: expected a folder of data files, got none: name the folder that "
            "holds them"
        )
