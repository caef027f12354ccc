"""``moatbench target attack``: plan, purchase, cells, report."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import plugins
from bench.cli import provenance
from bench.cli.failures import described
from bench.cli.live_progress import Purchases, outcome
from bench.cli.outputs import check_outputs
from bench.cli.session import Progress, stored_if_stopped
from bench.cli.target_request import Request, buying, latency
from bench.data import data_files
from bench.errors import StoreError, UsageError
from bench.models.plugin_guard import guarded_import
from bench.models.remote_victim import LiveData, RemoteVictim, remote_victim
from bench.plan.feasibility import PlannedVictim
from bench.plan.live import CANARY, Bill, LiveScope, default_attacks, live_cells, require_repeats
from bench.remote.target import Target, load_target
from bench.report.store_report import write_store_report
from bench.report.terminal_page import printable
from bench.run_facts import CampaignFacts, Meta, ReportOptions
from bench.runner.live import LiveContext
from bench.runner.live_campaign import Campaign, training_cache
from bench.runner.live_plan import bill
from bench.store import Store
from bench.tasks import Cell


@dataclass(frozen=True)
class Planned:
    """A campaign before anything was sent: its cells, and the context that they will run in."""

    target: Target
    victim: RemoteVictim
    cells: list[Cell]
    attacks: Mapping[str, Any]
    context: LiveContext


def scope_of(request: Request) -> LiveScope:
    """Return what is to be run."""
    brought = request.options.keys() & {"pool", "public"}
    pools = ["public"] if "public" in brought else []
    if brought != {"public"}:
        pools = ["in-distribution", *pools]
    return LiveScope(
        request.budgets,
        request.attacks,
        request.surrogates,
        tuple(pools),
        request.repeats,
        request.buy_repeats,
    )


def planned(request: Request) -> Planned:
    """Return what a request comes to; raises UsageError for whatever is wrong with file, data or attacks."""
    target, scope = load_target(request.file), scope_of(request)
    require_repeats(scope)
    with guarded_import("an installed plugin"):
        # Written out, so that two spellings of one attack are one.
        texts = [plugins.attacks.canonical(text) for text in scope.attacks or default_attacks(target)]
        built = {text: plugins.attacks.build(text) for text in texts}
    victim = remote_victim(target, LiveData(test=request.test, **request.options), name=request.name)
    splits = victim.splits
    sizes = {"train": 0, "calibration": 0, "pool": len(splits.pool), "test": len(splits.test)}
    sizes |= {} if splits.public is None else {"public": len(splits.public)}
    cells = live_cells(request.name, target, scope, PlannedVictim(victim.shape, sizes), built)
    context = LiveContext(
        data_files.data_root(None),
        training_cache(request.folder / "store.sqlite"),
        largest=max(request.budgets),
        buy_repeats=request.buy_repeats,
    )
    context.serve(cells[0].victim, victim)
    return Planned(target, victim, cells, built, context)


def planned_bill(request: Request, plan: Planned) -> Bill:
    """Return what a campaign comes to; raises UsageError where the target file does not allow it."""
    found = bill(
        plan.cells,
        plan.attacks,
        plan.context,
        plan.target,
        canary=CANARY,
        buy_repeats=request.buy_repeats,
    )
    found.require_allowed()
    return found


def run(request: Request, command: str, progress: Progress) -> tuple[Counter[str], list[str]]:
    """Run a campaign, or the rest of it; return the number of cells by status, and what to say at the end."""
    plan = planned(request)
    costs = planned_bill(request, plan)
    folder, store_file = request.folder, request.folder / "store.sqlite"
    check_outputs(
        files={"the store": store_file, "the report": folder / "report.md"}, folders={"--out": folder}
    )
    _require_own(store_file)
    purchases = Purchases(costs)
    with buying(request, planned=costs.inputs, on_progress=purchases) as buyer:
        before = buyer.facts()
        earlier, purchases.others = _paid_before(before, costs)
        lines = [
            *costs.lines(latency(before)),
            *_of_the_ledger(plan.target, costs, earlier, purchases.others),
        ]
        for line in lines:
            print(printable(line), file=sys.stderr)
        plan.context.buyer = buyer
        campaign = Campaign(plan.victim, plan.cells, buyer, plan.context)
        with Store(store_file, create=True) as store, stored_if_stopped(progress) as watched:
            store.set_meta(_meta(request, plan, command, before))
            counts = campaign.run(store, watched)
        said = outcome(buyer.facts(), before)
    try:
        report = write_store_report(store_file, folder)
    except OSError as error:
        raise UsageError(
            f"the results are stored, but the report cannot be written ({described(error)}); "
            f"moatbench report {shlex.quote(str(store_file))} --out DIR writes it to another folder"
        ) from error
    return counts, [said, str(report)]


def _paid_before(facts: CampaignFacts, costs: Bill) -> tuple[int, int]:
    """Return the inputs that were paid for what is planned, and those for anything else."""
    planned_for = {"test", "canary", *costs.attacks}
    earlier = sum(each.paid for name, each in facts.purposes.items() if name in planned_for)
    return earlier, sum(each.paid for each in facts.purposes.values()) - earlier


def _of_the_ledger(target: Target, costs: Bill, earlier: int, others: int) -> list[str]:
    """Return what the ledger says of a plan; whether its inputs are bought already, the purchase shows."""
    lines = []
    if earlier:
        lines.append(f"{earlier:,} inputs were paid before; what they answer is not bought again")
    if others and target.budget is not None and others + costs.inputs > target.budget:
        lines.append(
            f"{others:,} inputs were paid for other purposes: budget = {target.budget} may not be enough"
        )
    return lines


def _require_own(path: Path) -> None:
    """Raise UsageError for a store of something else than a live target."""
    if not path.exists():
        return
    with Store(path) as store, suppress(StoreError):  # what is damaged is written anew
        if store.meta().matrix_text is not None:
            raise UsageError(f"{path} holds the results of a matrix; name another folder with --out")


def _meta(request: Request, plan: Planned, command: str, before: CampaignFacts) -> Meta:
    target = plan.target
    return Meta(
        matrix=request.name,
        description=f"a live target: {target.protocol}, {target.answers}",
        reference_budget={plan.cells[0].victim.data: max(request.budgets)},
        sentinels=[],
        report=ReportOptions(
            confirm=0, price=target.price_per_1000, rate=target.rate_per_hour, quota=target.quota
        ),
        command=command,
        machine=provenance.machine(),
        packages=provenance.installed_versions(),
        attacks=sorted(plugins.attacks.names()),
        defenses=sorted(plugins.defenses.names()),
        campaign=before,
        **provenance.commit(),
    )
