"""``moatbench serve`` and ``moatbench guard``: a prediction server behind controls."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bench import __version__
from bench.cli.model_options import OPTIONS, Outputs
from bench.cli.serve_log import log_app
from bench.cli.shared_options import with_options
from bench.errors import UsageError

SERVER = "victim"
"""Name of the command that is meant where none is named."""
STATE = Path("results/serve")
"""Folder of accounts, counters and audit log, unless another is named."""


class _ServerByDefault(TyperGroup):
    """A group whose first word may also be the victim: ``moatbench serve digits/mlp``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the default command before words that name no command."""
        if not args or args[0] not in self.commands:
            args = [SERVER, *args]
        return super().parse_args(ctx, args)


serve_app = typer.Typer(
    cls=_ServerByDefault,
    help="Serve a victim behind access control, quotas and an audit log.",
    rich_markup_mode=None,
)
serve_app.add_typer(log_app, name="log")


class Shows(StrEnum):
    """What clients may see."""

    probabilities = "probabilities"
    labels = "labels"


CONTROLS: Mapping[str, tuple[Any, Any]] = {
    "controls": (
        Annotated[Path | None, typer.Option(metavar="FILE", help="A .toml file: which controls hold.")],
        None,
    ),
    "state": (
        Annotated[Path, typer.Option(metavar="FOLDER", help="Accounts, counters and audit log.")],
        STATE,
    ),
    "host": (Annotated[str, typer.Option(help="Address to listen on.")], "127.0.0.1"),
    "port": (Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")], 8080),
    "workers": (Annotated[int, typer.Option(min=1, max=64, help="Processes that answer.")], 1),
    "certificate": (
        Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate chain (PEM), for TLS.")],
        None,
    ),
    "key": (Annotated[Path | None, typer.Option(metavar="FILE", help="Key of the certificate.")], None),
    "shows": (Annotated[Shows, typer.Option(help="The most that clients see.")], Shows.probabilities),
    "defense": (
        Annotated[
            list[str] | None,
            typer.Option(metavar="NAME", help="A defense, with its parameters; may be repeated, in order."),
        ],
        None,
    ),
    "name": (Annotated[str | None, typer.Option(help="The model's name in URLs.")], None),
    "version": (Annotated[str, typer.Option(help="The model's version, as answers state it.")], "1"),
}
"""Options of both servers."""
_DATA = typer.Option(help="Of a model of your own: .csv, .parquet, .npz, .npy, or a folder by class.")
VICTIM: Mapping[str, tuple[Any, Any]] = {
    **{name: OPTIONS[name] for name in ("label", "train", "columns", "channels", "range", "trust")},
    "data": (Annotated[str | None, _DATA], None),
    "outputs": (
        Annotated[Outputs, typer.Option(help="What a model of your own returns.")],
        Outputs.probabilities,
    ),
}


@serve_app.command(SERVER)
@with_options({**CONTROLS, **VICTIM})
def serve(
    victim: Annotated[
        str,
        typer.Argument(
            metavar="VICTIM",
            help="DATA/NAME, as digits/mlp (see moatbench list victims), or a model of your own with --data.",
        ),
    ],
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder of the data sets (default: MOATBENCH_DATA, else the user's cache folder)."),
    ] = None,
    *,
    options: Mapping[str, Any],
) -> None:
    """Serve a victim behind controls: without a controls file, keys, quotas and limits of size hold."""
    print(f"moatbench {__version__}: loading", file=sys.stderr)
    from bench.cli import serving

    own = {name: value for name, value in options.items() if name in VICTIM}
    controls = {name: value for name, value in options.items() if name in CONTROLS}
    raise typer.Exit(serving.serve_victim(victim, own, data_root, serving.Request(**controls)))


def _text(words: str, metavar: str, default: Any = None) -> tuple[Any, Any]:
    annotation: Any = str if default is ... else str | None
    return Annotated[annotation, typer.Option(help=words, metavar=metavar)], default


class Protocol(StrEnum):
    """What the server behind a guard speaks."""

    oip = "oip"
    mlflow = "mlflow"
    tfserving = "tfserving"


UPSTREAM: Mapping[str, tuple[Any, Any]] = {
    "upstream": _text("Address of the server, as http://127.0.0.1:9000.", "URL", ...),
    "protocol": (Annotated[Protocol, typer.Option(help="What it speaks.")], Protocol.oip),
    "classes": _text("Names of the classes in order, or their number.", "NAME,NAME,…", ...),
    "shape": _text("Axes of one input.", "N,N,…"),
    "columns": _text("Of a table, instead of --shape: names of its columns.", "NAME,NAME,…"),
    "model": _text("The model's name there (oip, tfserving).", "NAME"),
    "upstream_version": _text("The model's version there.", "VERSION"),
    "output": _text("The output that is asked for there, as predict_proba.", "NAME"),
    "upstream_shows": (
        Annotated[Shows, typer.Option(help="What that output holds.")],
        Shows.probabilities,
    ),
    "input": _text("The input's name there (oip).", "NAME"),
    "datatype": _text("The input's type there (oip; default: FP32).", "TYPE"),
    "key_env": _text("Environment variable that holds the server's key.", "VARIABLE"),
    "key_header": _text("Header of that key (default: Authorization).", "NAME"),
    "ca_file": _text("Certificates that the server's must be signed by.", "FILE"),
    "timeout": (
        Annotated[float, typer.Option(min=0.1, max=600, help="Seconds until it has answered.")],
        30.0,
    ),
    "connections": (Annotated[int, typer.Option(min=1, max=64, help="Connections to it.")], 8),
}
"""Options that describe the server behind a guard."""


BENIGN: Mapping[str, tuple[Any, Any]] = {
    "benign": _text("Inputs like your users': .csv, .parquet, .npz, .npy, or a folder by class.", "FILE"),
    **{name: OPTIONS[name] for name in ("label", "channels", "range")},
    "benign_columns": _text("A TOML file that declares the columns of a table of --benign.", "FILE"),
}
"""Options on what a guard's detectors are fitted on."""


@with_options({**UPSTREAM, **CONTROLS, **BENIGN})
def guard(*, options: Mapping[str, Any]) -> None:
    """Stand in front of your own prediction server: the controls of serve, and defenses of its answers."""
    print(f"moatbench {__version__}: loading", file=sys.stderr)
    from bench.cli import guarding, serving

    upstream = {name: value for name, value in options.items() if name in UPSTREAM}
    controls = {name: value for name, value in options.items() if name in CONTROLS}
    about = {name.removeprefix("benign_"): options[name] for name in BENIGN if name in options}
    file = about.pop("benign", None)
    if about and file is None:
        raise UsageError("--label, --channels, --range and --benign-columns need --benign FILE")
    benign = None if file is None else guarding.BenignFile(file, **about)
    raise typer.Exit(guarding.serve_guard(upstream, serving.Request(**controls), benign))
