"""``moatbench shortfall``: whether the attack that claims to match all others does so, over several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def shortfall(
    stores: Annotated[list[Path], typer.Argument(help="Stores written by moatbench run.", metavar="STORE…")],
    out: Annotated[Path, typer.Option(help="Folder for auto.md.")] = Path("reports"),
) -> None:
    """Show how far the attack auto is below the best other attack, chosen on other repeats."""
    from bench.cli.outputs import check_outputs
    from bench.report.shortfall import shortfall_of, write_shortfall
    from bench.report.stored_runs import stored_runs

    runs = stored_runs(stores)
    found = shortfall_of(runs)  # first: stores without the attack leave no folder behind
    check_outputs(folders={"--out": out})
    print(write_shortfall(found, runs, out))
