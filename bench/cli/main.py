"""The command line. Nothing heavy is imported here: ``--help`` must answer at once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import __version__
from bench.cli.backup import backup_app
from bench.cli.failures import guarded
from bench.cli.keys import keys_app
from bench.cli.log_messages import log_messages
from bench.cli.model_at_rest import model_app
from bench.cli.model_options import with_model_options
from bench.cli.report_options import Sells, with_report_options
from bench.cli.running import command_line, say_outcome, show_progress, stoppable
from bench.cli.serve import guard, serve_app
from bench.cli.shortfall import shortfall
from bench.cli.streams import output_error, standard_streams
from bench.cli.target import target_app
from bench.cli.watermark import watermark_app
from bench.exit_codes import ExitCode

app = typer.Typer(
    name="moatbench",
    help=(
        "How much does it cost to extract the model behind an API, "
        "and how much does a defense raise that cost?"
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes around the help would take as long as all else
)
data_app = typer.Typer(
    help="Download data sets, and list those that are present.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(data_app, name="data")
cache_app = typer.Typer(
    help="Show what moatbench keeps on the disk beside results, and free it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(cache_app, name="cache")
app.add_typer(target_app, name="target")
app.add_typer(serve_app, name="serve")
app.add_typer(model_app, name="model")
app.add_typer(backup_app, name="backup")
app.add_typer(keys_app, name="keys")
app.add_typer(watermark_app, name="watermark")

DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder of the data sets (default: MOATBENCH_DATA, else the user's cache folder)."),
]


MODEL = "file.py:NAME, package.module:NAME, or a .skops, .onnx or .pt2 file."
"""How a model of the user's own is named."""
RESULTS = Path("results")
"""Folder of the runs, in the working folder."""
MOST_JOBS = 1024
"""Worker processes that can be asked for. More would only exhaust the machine."""


class Kind(StrEnum):
    """Kinds of things that ``moatbench list`` lists."""

    attacks = "attacks"
    defenses = "defenses"
    victims = "victims"
    datasets = "datasets"
    matrices = "matrices"


class CacheKind(StrEnum):
    """Kinds of files that ``moatbench cache`` lists and clears."""

    victims = "victims"
    images = "images"
    lists = "lists"
    trainings = "trainings"


class Device(StrEnum):
    """Devices on which ``moatbench run`` can train surrogates."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def main() -> None:
    """Run the command line and exit with a code of :class:`ExitCode`; no error gives exit code 1."""
    with standard_streams(), log_messages():
        code = guarded(_command)
        if error := output_error():
            print(f"moatbench: the output is not complete: {error.strerror or error}", file=sys.stderr)
            code = code or ExitCode.USAGE
    sys.exit(code)


def _command() -> int:
    """Run the command that the arguments name; return its exit code."""
    # Not app(): that ends with exit code 1 after a broken pipe.
    command = _built()
    with command.make_context("moatbench", sys.argv[1:]) as context:
        command.invoke(context)
    return ExitCode.FINE


@cache
def _built() -> Any:
    """Return all commands, ready to parse arguments; to build them takes longer than most of them run."""
    return typer.main.get_command(app)


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"moatbench {__version__}")
        raise typer.Exit


@app.command()
def run(
    matrix: Annotated[str, typer.Argument(help="A shipped matrix, or a .toml file.")],
    store: Annotated[Path | None, typer.Option(help="Store (default: results/MATRIX/store.sqlite).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report (default: results/MATRIX).")] = None,
    jobs: Annotated[int, typer.Option(min=0, max=MOST_JOBS, help="Worker processes; 0: one per core.")] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only cells with this value on an axis: axis=value; may be repeated."),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Number of repeats, instead of that of the matrix.")
    ] = None,
    victim: Annotated[
        str | None, typer.Option(help="Your own victim: file.py:factory or package.module:factory.")
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on the workers of a Dask scheduler: tcp://host:8786."),
    ] = None,
    device: Annotated[
        Device,
        typer.Option(
            help="Device for surrogate training. Results from different devices are stored separately."
        ),
    ] = Device.cpu,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete earlier results of this store.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the cells and the time they will take; run nothing.")
    ] = False,
    data_root: DataRoot = None,
) -> None:
    """Run a matrix, or the rest of it, and write its report."""
    print(f"moatbench {__version__}: loading", file=sys.stderr)
    command = command_line(sys.argv[1:])
    try:
        with stoppable():
            from bench.cli.session import Session

            session = Session.of(
                matrix,
                store=store,
                out=out,
                only=only or [],
                repeats=repeats,
                victim=victim,
                data_root=data_root,
                device=device.value,
            )
            if plan:
                from bench.cli.plan_page import plan_text

                print(plan_text(session, jobs=jobs, fresh=fresh))
                return
            counts, last = session.run(
                jobs=jobs, fresh=fresh, command=command, cluster=dask, progress=show_progress
            )
    except KeyboardInterrupt:
        again = command_line(word for word in sys.argv[1:] if word != "--fresh")
        print(f"\ninterrupted; finished cells are stored\nresume with: {again}", file=sys.stderr)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    say_outcome(counts, last)


@app.command()
@with_model_options
def check(
    model: Annotated[str, typer.Argument(help=MODEL)],
    *,
    options: Mapping[str, Any],
) -> None:
    """Look at a model of your own and its data: what would make an assessment worthless, and what to know."""
    print(f"moatbench {__version__}: loading", file=sys.stderr)
    from bench.cli import checking
    from bench.cli.model_options import victim_options

    page, usable = checking.checked(victim_options(model, options))
    print(page)
    if not usable:
        raise typer.Exit(ExitCode.USAGE)


@app.command()
@with_model_options
def assess(
    model: Annotated[str, typer.Argument(help=MODEL)],
    sells: Annotated[Sells, typer.Option(help="What your users pay for.")] = Sells.probabilities,
    budget: Annotated[
        str | None,
        typer.Option(metavar="N,N,…", help="Queries that an attacker sends (default: by the size of DATA)."),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.5, max=10_000, help="How long the assessment may take.")
    ] = 10,
    out: Annotated[
        Path | None, typer.Option(help="Folder of matrix, store and report (default: results/NAME).")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, max=MOST_JOBS, help="Worker processes; 0: one per core.")] = 0,
    *,
    options: Mapping[str, Any],
) -> None:
    """Assess a model of your own: choose attacks and defenses that fit it and the time, run and report."""
    print(f"moatbench {__version__}: loading", file=sys.stderr)
    try:
        with stoppable():
            from bench.cli import assessing
            from bench.cli.model_options import assessed_name, parsed_budgets, victim_options

            request = assessing.Request(
                victim_options(model, options),
                assessed_name(model),
                minutes=minutes,
                sells=sells.value,
                budgets=parsed_budgets(budget),
            )
            counts, last = assessing.start(request, out=out, jobs=jobs).run(
                command_line(sys.argv[1:]), show_progress
            )
    except KeyboardInterrupt:
        again = command_line(sys.argv[1:])
        print(f"\ninterrupted; finished cells are stored\nresume with: {again}", file=sys.stderr)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    say_outcome(counts, last)


@app.command()
@with_report_options
def report(
    store: Annotated[Path, typer.Argument(help="A store written by moatbench run.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report (default: results/MATRIX, that of the store).")
    ] = None,
    *,
    options: Mapping[str, Any],
) -> None:
    """Write the report of a store."""
    from bench.cli.outputs import check_outputs
    from bench.cli.report_options import checked
    from bench.report import store_report

    options = checked(options)
    out = out or store_report.default_folder(store)
    check_outputs(folders={"--out": out}, files={"the report": out / "report.md"}, inputs={"STORE": store})
    print(store_report.write_store_report(store, out, options))


@app.command()
@with_report_options
def show(
    store: Annotated[Path, typer.Argument(help="A store written by moatbench run.")],
    *,
    options: Mapping[str, Any],
) -> None:
    """Print the first page of a store's report."""
    from bench.cli.report_options import checked
    from bench.report import store_report
    from bench.report.terminal_page import print_page

    print_page(store_report.first_page_of(store, checked(options)))


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A store, or a file written by moatbench baseline.")],
    after: Annotated[Path, typer.Argument(help="The same, of the later run.")],
    out: Annotated[Path | None, typer.Option(help="File for the comparison as Markdown.")] = None,
) -> None:
    """Show two runs side by side: what changed, with intervals. It decides nothing; moatbench gate does."""
    from bench.cli.outputs import check_outputs
    from bench.files import write_atomically
    from bench.gate.baseline import read
    from bench.gate.changes_page import changes_page
    from bench.report.terminal_page import print_page

    check_outputs(files={"--out": out}, inputs={"BEFORE": before, "AFTER": after})
    summary, page = changes_page(read(before), read(after), (str(before), str(after)))
    if out is not None:
        write_atomically(out, page + "\n")
    print_page(f"{summary}\n\nAll rows: " + (f"`{out}`" if out else "add `--out FILE`"))


@app.command()
def export(
    store: Annotated[Path, typer.Argument(help="A store written by moatbench run.")],
    file: Annotated[Path, typer.Argument(help="File to write: .parquet, .csv or .json.")],
) -> None:
    """Export all metrics of a store as one table, a row for each cell and metric."""
    from bench.cli.outputs import check_outputs
    from bench.report.export import require_suffix
    from bench.report.store_report import export_store

    require_suffix(file)
    check_outputs(files={"FILE": file}, inputs={"STORE": store})
    export_store(store, file)
    print(file)


@app.command()
def baseline(
    store: Annotated[Path, typer.Argument(help="A store written by moatbench run.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Export a run as the baseline of moatbench gate, small enough for git."""
    from bench.cli.outputs import check_outputs
    from bench.gate.baseline import export, read

    check_outputs(files={"--out": out}, inputs={"STORE": store})
    export(read(store), out, force=force)
    print(out)


@app.command()
def gate(
    baseline: Annotated[Path, typer.Argument(help="A store, or a file written by moatbench baseline.")],
    candidate: Annotated[Path, typer.Argument(help="The same, of the later run.")],
    tolerance: Annotated[
        float, typer.Option(min=0.1, max=50, help="Tolerated change in percentage points.")
    ] = 2.0,
    allow: Annotated[
        list[str] | None, typer.Option(help="What may differ: matrix, victim or versions; may be repeated.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on changed answers and on inconclusive comparisons too.")
    ] = False,
    summary: Annotated[Path | None, typer.Option(help="File for the outcome as Markdown.")] = None,
    json: Annotated[Path | None, typer.Option(help="File for all comparisons as JSON.")] = None,
) -> None:
    """Compare a run with a baseline: exit code 1 if a defense became weaker or costlier, or broke a claim."""
    from bench.cli.outputs import check_outputs
    from bench.gate import command

    check_outputs(
        files={"--summary": summary, "--json": json}, inputs={"BASELINE": baseline, "CANDIDATE": candidate}
    )
    raise typer.Exit(
        command.gate(
            baseline,
            candidate,
            tolerance=tolerance,
            allow=allow or [],
            strict=strict,
            summary=summary,
            json=json,
        )
    )


@app.command()
def claims(
    stores: Annotated[list[Path], typer.Argument(help="Stores written by moatbench run.", metavar="STORE…")],
    out: Annotated[Path, typer.Option(help="Folder for claims.md and claims.json.")] = Path("reports"),
) -> None:
    """Compare what papers claim of defenses with what runs measured: same recipe, best attacks."""
    from bench.analysis.published_claims import published_claims
    from bench.cli.outputs import check_outputs
    from bench.report.claims import claims_of, write_claims

    published = published_claims()
    table = claims_of(published, stores)  # first: a store that is none leaves no folder behind
    check_outputs(folders={"--out": out})
    print(write_claims(published, table, out))


@app.command("index")
def index_(
    folder: Annotated[Path, typer.Argument(help="Folder of the reports.")] = Path("reports"),
) -> None:
    """Write the index of a folder of reports and its page of claims; print the replications' headlines."""
    from bench.report import claims, index

    if (folder / claims.DATA).is_file():
        claims.rewrite_page(folder)
    index.write_index(folder)
    print(index.headline_table(folder, f"{folder.as_posix()}/"))


@app.command("list")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List the names that a matrix can use."""
    from bench.cli import listing_cache

    print(listing_cache.table(kind.value))


@data_app.command("list")
def data_list(data_root: DataRoot = None) -> None:
    """Show which splits are present."""
    from bench.cli import listing

    print(listing.data_table(data_root))


@data_app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Data sets, as in moatbench list datasets.")],
    data_root: DataRoot = None,
) -> None:
    """Download data sets, checksums verified."""
    from bench.data import data_files, datasets

    root = data_files.data_root(data_root)
    for name in names:
        datasets.info(name)
    for name in names:
        print(data_files.fetch(name, root))


@cache_app.command("list")
def cache_list() -> None:
    """Show what victims, images, lists and trainings take; trainings: below results/."""
    from bench.cli import caches

    print(caches.listing(RESULTS))


@cache_app.command("clear")
def cache_clear(
    kinds: Annotated[list[CacheKind] | None, typer.Argument(help="What to delete; without it, all.")] = None,
) -> None:
    """Delete cached files; they are made again when they are needed. Results are not touched."""
    from bench.cli import caches

    print(caches.clear([kind.value for kind in kinds or CacheKind], RESULTS))


app.command()(guard)
app.command()(shortfall)
