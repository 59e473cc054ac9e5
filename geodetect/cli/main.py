"""The group of commands, and what becomes of errors and warnings on the way to the terminal."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from geodetect import __version__
from geodetect.addresses import redact
from geodetect.errors import GeodetectError

_COMMANDS = ("chips", "train", "detect", "evaluate", "export", "info", "demo", "view", "qgis")
_OURS = r"(geodetect|click)\b"  # a warning is blamed on whoever called geodetect, which may be click
_INTERRUPTED = 130  # what shells give for a program that Ctrl-C ended: 128 + SIGINT


class _Failed(click.ClickException):
    """A user's error: one sentence on stderr, exit code 1."""


class _Interrupted(click.ClickException):
    """Ctrl-C: one line on stderr, exit code 130."""

    exit_code = _INTERRUPTED


class _Commands(click.Group):
    """The commands, each loaded from its own file when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of work, from labels to map."""
        return [*_COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; None where there is none."""
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(f"geodetect.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names; an unknown one is refused with the name that is most like it."""
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            near = get_close_matches(args[0], self.list_commands(ctx), 1)
            ctx.fail(f"there is no command {args[0]!r}; {f'is {near[0]} meant?' if near else 'see geodetect --help'}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """What the command gives; its errors in one sentence, its warnings in one line."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # no name of a class or file is more than any terminal can show
                stream.reconfigure(errors="backslashreplace")
        try:
            with _plain_warnings():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # `geodetect info FILE | head`: click ends quietly
        except (GeodetectError, OSError, MemoryError) as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            raise _Failed(_in_options(_told(str(error) or "there is not enough memory", error), command)) from error
        except KeyboardInterrupt as error:
            raise _Interrupted(_told(f"stopped by {error.args[0] if error.args else 'Ctrl-C'}", error)) from error


def _told(message: str, error: BaseException) -> str:
    """An error in one line, with what was noted on its way."""
    return redact("; ".join([" ".join(message.split()), *getattr(error, "__notes__", [])]))


def _in_options(message: str, command: click.Command | None) -> str:
    """A message with options in place of keywords: `--overwrite` for `overwrite=True`, `--bands` for `bands=`."""
    options = {each.name: each.opts[0] for each in command.params if isinstance(each, click.Option)} if command else {}

    def named(found: re.Match[str]) -> str:
        keyword, several, value, more = found.groups()
        if keyword not in options:
            return found[0]
        if several is not None:
            parts = (part.strip(' "') for part in several.split(","))
            return f"{options[keyword]} {','.join(filter(None, parts))}"
        return " ".join(filter(None, [options[keyword], "" if value in ("True", "...") else value, more]))

    return re.sub(r'\b(\w+)=(?:\(([^()]*)\)|"?([\w.]*)"?([({]?))', named, message)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings of geodetect as one line on stderr; none of other packages, nor what GDAL writes to the log."""
    silent = logging.NullHandler()  # without any handler Python would write the log to stderr
    logging.getLogger().addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", category=UserWarning, module=_OURS)
            warnings.showwarning = _show_warning  # type: ignore[assignment]  # file and line are not looked at
            yield
    finally:
        logging.getLogger().removeHandler(silent)


def _show_warning(message: Warning | str, category: type[Warning], *_place: Any) -> None:
    """The warning in one line, without file and line."""
    if category is UserWarning:  # others derive from it, such as rasterio's of rasters without georeference
        context = click.get_current_context(silent=True)
        told = _in_options(" ".join(str(message).split()), context.command if context else None)
        click.echo(f"Warning: {told}", err=True)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100},
)
@click.version_option(__version__, prog_name="geodetect")
def main() -> None:
    """Object detection in aerial and satellite imagery, from labels to map."""
