"""The command line: one file per command, each over functions of the library.

Exit codes: 0 all done, 1 some structures could not be used, 2 an error (one line on stderr, or a traceback after a
bug), 130 Ctrl-C, 143 SIGTERM.

Nothing that takes long to import is imported before a command runs, so that help comes at once.
"""

from __future__ import annotations

import signal
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from crystalformers.cli.benchmark import benchmark_command
from crystalformers.cli.convert import convert_command
from crystalformers.cli.crossval import crossval_command
from crystalformers.cli.data import data_app
from crystalformers.cli.elements import elements_app
from crystalformers.cli.embed import embed_command
from crystalformers.cli.evaluate import evaluate_command
from crystalformers.cli.explain import explain_command
from crystalformers.cli.join import join_command
from crystalformers.cli.learning_curve import learning_curve_command
from crystalformers.cli.models import models_command
from crystalformers.cli.predict import predict_command
from crystalformers.cli.reproduce import reproduce_command
from crystalformers.cli.screen import screen_command
from crystalformers.cli.search import search_app
from crystalformers.cli.serve import mcp_command, serve_command
from crystalformers.cli.train import train_command
from crystalformers.errors import CrystalformersError
from crystalformers.signals import raise_on_sigterm


class Commands(TyperGroup):
    """Turns an error that a user can act on into one line and an exit code; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # typer ends quietly when the reader of a pipe has left
        except (CrystalformersError, OSError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as stop:
            typer.echo(f"interrupted{': ' if stop.args else ''}{stop}", err=True)
            raise typer.Exit(128 + getattr(stop, "signal", signal.SIGINT)) from stop

    def get_help_option(self, ctx: Any) -> Any:
        """The option --help, false by default: to read no value as a boolean, typer would import pydantic."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option


app = typer.Typer(
    cls=Commands,
    name="crystalformers",
    help="Predict properties of crystals, train on your own data, reuse atom vectors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("predict")(predict_command)
app.command("screen")(screen_command)
app.add_typer(search_app, name="search")
app.command("train")(train_command)
app.command("crossval")(crossval_command)
app.command("join")(join_command)
app.command("learning-curve")(learning_curve_command)
app.command("benchmark")(benchmark_command)
app.command("evaluate")(evaluate_command)
app.command("embed")(embed_command)
app.command("explain")(explain_command)
app.add_typer(elements_app, name="elements")
app.add_typer(data_app, name="data")
app.command("reproduce")(reproduce_command)
app.command("convert")(convert_command)
app.command("models")(models_command)
app.command("serve")(serve_command)
app.command("mcp")(mcp_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from crystalformers import __version__

        typer.echo(f"crystalformers {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the command `crystalformers`."""
    raise_on_sigterm()
    try:
        app()
    except Exception:  # a bug, for which Python would exit with 1: "some structures could not be used"
        traceback.print_exc()
        sys.exit(2)
