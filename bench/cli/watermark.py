"""``moatbench watermark``: tests whether a model learned from the wrong answers that a client got."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.model_options import Outputs

watermark_app = typer.Typer(
    help="Recognise a model that learned from watermarked answers.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@watermark_app.command()
def export(
    client: Annotated[str, typer.Argument(help="The account whose watermarked answers are wanted.")],
    state: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the state of the server.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write them (.json).")],
    alone: Annotated[
        bool, typer.Option("--alone", help="Leave out answers that another account got too.")
    ] = False,
) -> None:
    """Write the watermarked answers that a client was given, as evidence; keep the file secret."""
    from bench.cli import watermark_export

    number = watermark_export.exported(client, state, out, alone=alone)
    print(f"{number:,} watermarked answers of {client}: {out}")


@watermark_app.command()
def verify(
    model: Annotated[
        str, typer.Argument(help="The suspected model: file.py:NAME, or a .skops, .onnx or .pt2 file.")
    ],
    against: Annotated[Path, typer.Option(metavar="FILE", help="What watermark export wrote.")],
    independent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="A model made without these answers, to compare with; may be repeated.",
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option(min=1e-12, max=0.1, help="Probability of a false accusation that is accepted.")
    ] = 0.001,
    outputs: Annotated[Outputs, typer.Option(help="What the model returns.")] = Outputs.probabilities,
    trust: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="A type that a skops file may hold; may be repeated."),
    ] = None,
) -> None:
    """Test whether a model learned from the wrong answers that a client was given, by a binomial test.

    It is a question, not a check: both answers end with exit code 0.
    """
    print("moatbench: loading", file=sys.stderr)
    from bench.cli import watermark_verify
    from bench.report.terminal_page import printable

    lines = watermark_verify.verdict(
        model,
        against,
        independent=tuple(independent or ()),
        alpha=alpha,
        outputs=outputs.value,
        trust=tuple(trust or ()),
    )
    print("\n".join(printable(line) for line in lines))
