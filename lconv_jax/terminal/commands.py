"""Parts that all commands share: flags, errors in one line, output that may be cut off.

Flags are defined when a command starts and not when its module is imported, so that importing it
adds nothing to another program's flags.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from rich import console
from rich.table import Table

from lconv_jax import config as config_lib
from lconv_jax.errors import ConfigError, first_line

# Characters of a message, which may quote an argument.
_LONGEST = 500
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")
# What absl says of a required flag that is not there.
_MISSING = re.compile(r"flag (--\w+)=None: Flag \1 must have a value other than None\.")


class OutputError(OSError):
    """The output of a command cannot be written to standard output."""


def launch(main: Callable[[list[str]], None], define_flags: Callable[[], None]) -> None:
    """Defines the flags of a command, parses its arguments and calls `main` with the rest."""
    before = set(flags.FLAGS)
    with _wrong_flags_in_a_line():
        define_flags()  # which looks at the arguments already
    for name in set(flags.FLAGS) - before:  # --help shows those of the program's own module
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    app.run(functools.partial(_call, main), flags_parser=parse_flags)


def _call(main: Callable[[list[str]], None], argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where there is no λ, \u03bb is shown
    if sys.stderr is not None:
        sys.stderr = _StandardError(sys.stderr)
    try:
        with errors_in_a_line():
            main(argv)
    finally:
        # From here on, Ctrl-C would meet the interpreter, which would print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def define_config() -> None:
    """Defines --config, required, and its overrides --config.group.key=value."""
    config_flags.DEFINE_config_file(
        "config", None, "Configuration file; override with --config.group.key=value."
    )
    flags.FLAGS["config"].parser = _ConfigFile()
    flags.mark_flag_as_required("config")


class _ConfigFile(flags.ArgumentParser[ConfigDict]):
    """From FILE or FILE:ARGUMENT to what `get_config` of the file returns for the argument."""

    def parse(self, argument: str) -> ConfigDict:
        file, colon, rest = argument.partition(":")
        if not os.path.exists(file) or os.path.isdir(file):
            raise ConfigError(f"there is no file {file!r}")
        try:
            config = runpy.run_path(file)["get_config"](*([rest] if colon else []))
            if isinstance(config, ConfigDict):
                config.lock()
        except SyntaxError as error:
            where = f"{error.filename or file}, line {error.lineno or 1}"
            raise ConfigError(f"{where}: {error.msg}") from error
        except Exception as error:  # the file is a program, and may raise any
            places = traceback.extract_tb(error.__traceback__)
            lines = [place.lineno for place in places if place.filename == file]
            if not lines and isinstance(error, KeyError):
                raise ConfigError(f"{file} has no function get_config") from error
            where = f"{file}, line {lines[-1]}" if lines else file
            raise ConfigError(f"{where}: {type(error).__name__}: {error}") from error
        if not isinstance(config, ConfigDict):
            raise ConfigError(
                f"get_config of {file} returns {type(config).__name__}, not a ConfigDict; start "
                "from lconv_jax.config.base_config"
            )
        return config

    def flag_type(self) -> str:
        return "configuration file"


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with a one-line message for wrong flags."""
    rest: list[str] = []
    with _wrong_flags_in_a_line():
        for argument in flags.FLAGS.read_flags_from_files(argv, force_gnu=False):
            if override := _OVERRIDE.match(argument):
                config_lib.check_name(override[1])
        rest = flags.FLAGS(argv)
    return rest


@contextlib.contextmanager
def _wrong_flags_in_a_line() -> Iterator[None]:
    try:
        yield
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        message = " ".join(str(error.args[0] if error.args else error).split())
        message = _MISSING.sub(r"\1 is needed", message)
        hint = "docs/config.md has the keys, and --help the flags"
        sys.exit(f"error: {message[:_LONGEST]} ({hint})")


@contextlib.contextmanager
def errors_in_a_line() -> Iterator[None]:
    """Turns errors that a user can correct into one line and a non-zero exit status."""
    try:
        yield
    except BrokenPipeError:
        _silence(sys.stdout)  # whoever reads has had enough
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(f"error: there is not enough memory ({first_line(error)})")
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)


def say(text: str) -> None:
    """Prints a text to standard output. If its reader has gone away, nothing is said from then on.

    Raises:
      OutputError: it cannot be written, as where a disk is full.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _silence(sys.stdout)
    except OSError as error:
        _silence(sys.stdout)
        raise OutputError(f"standard output cannot be written ({error.strerror})") from error


def show(table: Table, width: int) -> None:
    """Prints a table, as wide as the terminal, or as `width` where there is none."""
    terminal = console.Console()
    wide = terminal if terminal.is_terminal else console.Console(width=width)
    with wide.capture() as capture:
        wide.print(table)
    say(capture.get().rstrip("\n"))


class _StandardError:
    """Standard error that goes nowhere once its terminal or its reader has gone away."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            _silence(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            _silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _silence(stream: Any) -> None:
    """Lets a stream go nowhere: the rest of its buffer would fail again at the end."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of NumPy or JAX is that memory ran out."""
    words = ("RESOURCE_EXHAUSTED", "Out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)
