"""``moatbench target``: what a live target answers, and what it costs to extract the model behind it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import __version__
from bench.cli.shared_options import with_options
from bench.exit_codes import ExitCode

target_app = typer.Typer(
    help="Test a prediction server behind a URL, within a hard budget.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

File = Annotated[
    Path, typer.Argument(metavar="TARGET", help="A .toml file: where the target is, and what may be spent.")
]
Budgets = Annotated[str | None, typer.Option(metavar="N,N,…", help="Inputs that an attack may send.")]
Attacks = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="An attack, with its parameters; may be repeated (default: copycat and labels)."
    ),
]
Allowed = Annotated[
    str | None,
    typer.Option(
        "--i-am-allowed-to-test",
        metavar="HOST",
        help="The host of the URL, where that is not this machine; the file states the permission too.",
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="Folder of store, ledger and report (default: results/TARGET).")
]


def _text(words: str, metavar: str) -> Any:
    return Annotated[str | None, typer.Option(help=words, metavar=metavar)]


INPUTS = typer.Option(help="Inputs: .csv, .parquet, .npz, .npy, or a folder of images by class.")
DATA: Mapping[str, tuple[Any, Any]] = {
    "data": (Annotated[str, INPUTS], ...),
    "label": (_text("Column, or array, of the true classes.", "COLUMN"), None),
    "pool": (_text("Inputs that an attacker has (default: the rest of DATA).", "FILE"), None),
    "public": (_text("Inputs that anyone can get; an attacker without POOL has these alone.", "FILE"), None),
    "columns": (_text("A TOML file that declares the columns of a table.", "FILE"), None),
}
"""Options that say where inputs are."""


@target_app.command()
@with_options({**DATA, "data": (Annotated[str | None, INPUTS], None)})
def check(
    target: File,
    budget: Budgets = None,
    test: Annotated[int, typer.Option(min=0, help="Inputs of DATA for the evaluation.")] = 0,
    attack: Attacks = None,
    allowed: Allowed = None,
    out: Out = None,
    *,
    options: Mapping[str, Any],
) -> None:
    """Look at a target in at most 50 inputs: what it answers, how fast, what an attack would cost."""
    print(f"moatbench {__version__}: loading", file=sys.stderr)
    from bench.cli import target_check
    from bench.cli.model_options import parsed_budgets
    from bench.cli.target_request import Request
    from bench.report.terminal_page import printable

    lines, fault = target_check.checked(
        Request(
            file=target,
            options=options,
            test=test,
            budgets=parsed_budgets(budget),
            attacks=tuple(attack or ()),
            allowed_host=allowed,
            out=out,
        )
    )
    print("\n".join(printable(line) for line in lines))
    if fault:
        print(printable(f"not worth an attack: {fault}"))
        raise typer.Exit(ExitCode.USAGE)


@target_app.command()
@with_options(DATA)
def attack(
    target: File,
    budget: Annotated[str, typer.Option(metavar="N,N,…", help="Inputs that an attack may send.")],
    test: Annotated[int, typer.Option(min=1, help="Inputs of DATA for the evaluation, bought first.")],
    attack: Attacks = None,
    surrogate: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="What an attacker trains; may be repeated (default: mlp)."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Repeats of every attack.")] = 5,
    buy_repeats: Annotated[
        int, typer.Option(min=1, help="Repeats that buy inputs; the others learn from what was bought.")
    ] = 1,
    allowed: Allowed = None,
    out: Out = None,
    *,
    options: Mapping[str, Any],
) -> None:
    """Extract the model behind a URL: buys answers within the budget, trains surrogates, reports the cost."""
    print(f"moatbench {__version__}: loading", file=sys.stderr)
    from bench.cli.running import command_line, say_outcome, show_progress, stoppable

    command = command_line(sys.argv[1:])
    try:
        with stoppable():
            from bench.cli import target_attack
            from bench.cli.model_options import parsed_budgets
            from bench.cli.target_request import Request

            request = Request(
                file=target,
                options=options,
                test=test,
                budgets=parsed_budgets(budget),
                attacks=tuple(attack or ()),
                surrogates=tuple(surrogate or ()),
                repeats=repeats,
                buy_repeats=buy_repeats,
                allowed_host=allowed,
                out=out,
            )
            counts, last = target_attack.run(request, command, show_progress)
    except KeyboardInterrupt:
        print(f"\ninterrupted; what was bought is kept\nresume with: {command}", file=sys.stderr)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    say_outcome(counts, last)


@target_app.command()
@with_options(
    {name: DATA[name] for name in ("label", "columns")} | {"data": (Annotated[str | None, INPUTS], None)}
)
def controls(
    target: File,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,…", help="Probes to run; may be repeated (default: all)."),
    ] = None,
    second_account: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="An account of the file: a further key of the first one's customer."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Most inputs of this run.")] = None,
    triggers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of the owner: what moatbench watermark export wrote."),
    ] = None,
    allowed: Allowed = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of ledger and results (default: results/TARGET).")
    ] = None,
    *,
    options: Mapping[str, Any],
) -> None:
    """Probe which controls a target enforces: access, limits, what answers show. Results by OWASP ML05."""
    from bench.cli.target_controls import Asked, controls

    names = tuple(name.strip() for text in only or () for name in text.split(","))
    asked = Asked(
        file=target,
        only=tuple(name for name in names if name) or names[:1],
        second_account=second_account,
        triggers=triggers,
        limit=limit,
        allowed_host=allowed,
        out=out,
        options=options,
    )
    raise typer.Exit(controls(asked))
