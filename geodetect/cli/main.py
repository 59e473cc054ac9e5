"""The group of commands, and how errors and warnings are shown."""

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
_OURS = r"(geodetect|click)\b"  # modules that warnings are attributed to: click calls geodetect
_INTERRUPTED = 130  # exit code of shells after Ctrl-C: 128 + SIGINT


class _Failed(click.ClickException):
    """A user's error: one sentence on stderr, exit code 1."""


class _Interrupted(click.ClickException):
    """Ctrl-C: one line on stderr, exit code 130."""

    exit_code = _INTERRUPTED


class _Commands(click.Group):
    """The commands, each imported from its own module on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of work, from labels to map."""
        return [*_COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name; None for an unknown one."""
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(f"geodetect.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names; the error for an unknown one suggests the nearest name."""
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            near = get_close_matches(args[0], self.list_commands(ctx), 1)
            ctx.fail(f"there is no command {args[0]!r}; {f'is {near[0]} meant?' if near else 'see geodetect --help'}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; show an error as one sentence, and a warning as one line."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # names may hold characters that the terminal cannot show
                stream.reconfigure(errors="backslashreplace")
        try:
            with _show_warnings():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # `geodetect info FILE | head`: click ends quietly
        except (GeodetectError, OSError, MemoryError) as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            raise _Failed(
                _name_options(_to_line(str(error) or "there is not enough memory", error), command)
            ) from error
        except KeyboardInterrupt as error:
            raise _Interrupted(_to_line(f"stopped by {error.args[0] if error.args else 'Ctrl-C'}", error)) from error


def _to_line(message: str, error: BaseException) -> str:
    """Return the message of an error with its notes, in one line."""
    return redact("; ".join([" ".join(message.split()), *getattr(error, "__notes__", [])]))


def _name_options(message: str, command: click.Command | None) -> str:
    """Return a message with keywords replaced by options: `overwrite=True` by `--overwrite`, `bands=` by `--bands`."""
    options = {each.name: each.opts[0] for each in command.params if isinstance(each, click.Option)} if command else {}

    def replace(found: re.Match[str]) -> str:
        """Return the option for a keyword, with its value; unchanged if the command has no such option."""
        keyword, several, value, more = found.groups()
        if keyword not in options:
            return found[0]
        if several is not None:
            parts = (part.strip(' "') for part in several.split(","))
            return f"{options[keyword]} {','.join(filter(None, parts))}"
        return " ".join(filter(None, [options[keyword], "" if value in ("True", "...") else value, more]))

    return re.sub(r'\b(\w+)=(?:\(([^()]*)\)|"?([\w.]*)"?([({]?))', replace, message)


@contextmanager
def _show_warnings() -> Iterator[None]:
    """Show geodetect's warnings as one line on stderr, and hide those of other packages and GDAL's log."""

    def show(message: Warning | str, category: type[Warning], *_place: Any) -> None:
        """Write a warning to stderr; stands in for `warnings.showwarning`."""
        if category is UserWarning:  # not its subclasses, such as rasterio's NotGeoreferencedWarning
            context = click.get_current_context(silent=True)
            text = _name_options(" ".join(str(message).split()), context.command if context else None)
            click.echo(f"Warning: {text}", err=True)

    silent = logging.NullHandler()  # without any handler Python would write the log to stderr
    logging.getLogger().addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", category=UserWarning, module=_OURS)
            warnings.showwarning = show  # type: ignore[assignment]  # takes file and line as `_place`
            yield
    finally:
        logging.getLogger().removeHandler(silent)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100},
)
@click.version_option(__version__, prog_name="geodetect")
def main() -> None:
    """Object detection in aerial and satellite imagery, from labels to map."""
