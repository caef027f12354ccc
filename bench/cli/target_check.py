"""``moatbench target check``: what a target answers, how fast, and what a planned attack would cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.cli.live_progress import Waits
from bench.cli.outputs import check_outputs
from bench.cli.target_request import Request, buying, latency
from bench.data.sent_rows import on_the_wire
from bench.data.user_data import UserData, load_data
from bench.data.user_splits import row_groups
from bench.errors import UsageError
from bench.remote.accounts import account_of
from bench.remote.exchange import Inputs
from bench.remote.look import LARGEST, MOST_BOOKED, look
from bench.remote.target import Target, load_target

if TYPE_CHECKING:
    from bench.plan.live import Bill

PURPOSE = "check"
NOTHING_SENT = "no input was sent; --data FILE names some"


def checked(request: Request) -> tuple[list[str], str]:
    """Return what a look at the target found, a sentence each, and what makes an attack worthless, or "".

    Books no more than :data:`bench.remote.look.MOST_BOOKED` inputs, none without data; they stand in the
    ledger, and an attack that sends one of them does not pay it again. Raises UsageError as an attack would.
    """
    target = load_target(request.file)
    costs: Bill | None = None
    inputs: Inputs | None
    given = request.options.get("data")
    if given is None:
        if request.budgets or request.test or request.options:
            raise UsageError("the other options need inputs; name them by --data FILE")
        inputs = None
    elif bool(request.budgets) != bool(request.test):
        raise UsageError("--budget and --test belong together: give both, or neither")
    elif request.test:
        from bench.cli.target_attack import planned, planned_bill  # loads torch and ART

        plan = planned(request)
        costs = planned_bill(request, plan)
        inputs = plan.victim.on_the_wire(plan.victim.splits.pool.x[: LARGEST - 1])
    else:
        inputs = _first_inputs(request)
    check_outputs(folders={"--out": request.folder})
    with buying(request, canary=False, run_limit=MOST_BOOKED, on_progress=Waits()) as buyer:
        metadata = buyer.metadata()
        if inputs is None:
            silent = bool(metadata) and not any(metadata.values())
            fault = "it answers no question that costs nothing; check url, and whether it runs"
            return [*_stated(target, metadata), NOTHING_SENT], fault if silent else ""
        account = account_of(target, "attacker")
        seen: list[NDArray[np.float64]] = []

        def ask(part: Inputs) -> NDArray[np.float64]:
            answers = buyer.ask(part, session=PURPOSE, purpose=PURPOSE, account=account)
            seen.append(answers)
            return answers

        found = look(ask, buyer.facts, inputs, target, metadata)
        lines = list(found.findings)
        if costs is not None:
            lines += [f"the planned attack: {line}" for line in costs.lines(latency(buyer.facts()))]
    return lines, _fault(np.concatenate(seen))


def _stated(target: Target, metadata: Mapping[str, Any]) -> list[str]:
    """Return what the target says of itself for free."""
    lines = []
    for name, value in metadata.items():
        parts = [value.get("name"), value.get("version")] if isinstance(value, Mapping) else [value]
        words = " ".join(str(part) for part in parts if part not in (None, True, ""))
        lines.append(f"{name}: {words or ('it answers' if value else 'no answer')}"[:300])
    return lines or [f"the target says nothing of itself by protocol {target.protocol}"]


def _first_inputs(request: Request) -> Inputs:
    options = request.options
    data: UserData = load_data(options["data"], label=options.get("label"), columns=options.get("columns"))
    rows = np.unique(row_groups(data.x))[: LARGEST - 1]
    return on_the_wire(data, data.x[rows])


def _fault(answers: NDArray[np.float64]) -> str:
    """Return why an attack would learn nothing from such answers (n, classes), or an empty string."""
    answered = answers[np.isfinite(answers).all(axis=1)]
    if not len(answered):
        return "the target answers none of these inputs, so there is nothing to learn"
    if len(answered) > 2 and (answered == answered[0]).all():
        return "the target gives every one of these inputs the same answer, so there is nothing to learn"
    return ""
