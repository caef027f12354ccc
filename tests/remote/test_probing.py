"""What bounds probes, what they leave behind, and what their results come to."""

import datetime as dt
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asgi_line import AsgiLine, Clock
from naive_servers import Login, Server
from probing import KEYS, a_target, found, probed, probing

from bench.errors import BudgetError, StoppedError, UsageError
from bench.remote.exchange import Inputs
from bench.remote.probing import catalogues, pages
from bench.remote.probing.base import Bounds, Finding, Verdict, holds
from bench.remote.probing.booking import PURPOSE
from bench.remote.probing.context import Triggers
from bench.remote.probing.line import Reply
from bench.remote.probing.opening import opened
from bench.remote.probing.registry import PROBES, chosen
from bench.remote.probing.run import Outcome, run_probes
from bench.remote.probing.sarif import sarif
from bench.remote.target import Account, Permission, SecondFactor

TESTED = pages.Tested("folder/t.toml", 3, "http://127.0.0.1:1", "loopback", "2026-11-29 12:00 UTC", "0.1")
SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # noqa: S105  # the test secret of RFC 6238
AUTH = PROBES[0]


def a_probe(run, **limits):
    """A probe with these bounds that does what ``run`` does."""
    allowed = Bounds(**{"inputs": 5, "requests": 5, **limits})
    return replace(AUTH, name="greedy", run=run, bounds=lambda _: allowed)


def ran(probe, app=None, *, clock=None, most=100, target=None, **options):
    """Return outcome, server and booked inputs of one probe."""
    clock = clock or Clock()
    app = app or Server(clock=clock)
    line = AsgiLine(app)
    try:
        with probing(line, clock, target=target, **options) as target_opened:
            outcome = run_probes([probe], target_opened.context, target_opened.ledger, most=most)
            return outcome, app, target_opened.ledger.totals().inputs
    finally:
        line.close()


def endless(context):
    while True:
        context.ask(1)


@pytest.mark.parametrize("limits", [{"inputs": 3}, {"requests": 3}, {"seconds": 0.05}])
def test_a_probe_sends_no_more_than_its_bounds(limits):
    outcome, app, booked = ran(a_probe(endless, **limits))
    (finding,) = outcome.findings
    assert finding.verdict.result == "cannot be tested"
    assert app.answered == booked
    assert booked <= 1 + (3 if "seconds" not in limits else 5)


def test_many_at_once_are_within_the_bounds_too():
    def run(context):
        return holds(str(len(context.send_together([context.shot(1) for _ in range(30)]))))

    outcome, app, booked = ran(a_probe(run, inputs=20, requests=40))
    assert outcome.findings[0].verdict.result == "cannot be tested"
    assert app.answered == booked == 1


def test_a_probe_that_is_refused_too_often_is_ended():
    def run(context):
        for _ in range(30):
            context.ask(1)
        return holds("all were sent")

    outcome, app, _ = ran(
        a_probe(run, inputs=100, requests=100, refusals=4), Server(clock=Clock(), limit=3), most=200
    )
    assert "refused 5 requests" in outcome.findings[0].verdict.evidence[0]
    assert outcome.findings[0].requests == 7
    assert app.answered == 3


def test_a_series_ends_at_its_first_refusal():
    clock = Clock()
    app = Server("no limit", clock=clock)
    line, replies = AsgiLine(app), []
    send = line.send
    line.send = lambda requests, **more: [replies.append(each) or each for each in send(requests, **more)]
    with probing(line, clock, target=a_target(stated_rate=None)) as target_opened:
        app.faults, app.limit = set(), 8
        run_probes(chosen(["rate-unit"]), target_opened.context, target_opened.ledger, most=1000)
    line.close()
    statuses = [each.status for each in replies]
    assert 0 < statuses.count(429) <= 2
    assert all(statuses[place + 1 : place + 2] != [429] for place, each in enumerate(statuses) if each == 429)


def test_everything_is_booked_before_it_is_sent_and_what_was_refused_is_taken_back():
    clock = Clock()
    app = Server(clock=clock, limit=5)
    line = AsgiLine(app)
    with probing(line, clock) as target_opened:
        send, seen = line.send, []

        def watched(requests, **more):
            seen.append((len(requests), target_opened.ledger.totals().inputs))
            return send(requests, **more)

        line.send = watched
        run_probes(
            [a_probe(endless, inputs=9, requests=9)], target_opened.context, target_opened.ledger, most=100
        )
        assert [booked for _, booked in seen] == [1, 2, 3, 4, 5, 6, 6, 6, 6]
        assert target_opened.ledger.totals().inputs == app.answered == 5
        assert target_opened.ledger.held() == 0
        purposes = target_opened.ledger.rows("select purpose, paid from purposes order by purpose")
        assert purposes == [(f"{PURPOSE}first request", 1), (f"{PURPOSE}greedy", 4)]
    line.close()


def test_a_budget_that_is_too_small_lets_nothing_be_sent():
    clock = Clock()
    app = Server(clock=clock)
    line = AsgiLine(app)
    with (
        probing(line, clock, target=a_target(budget=50)) as target_opened,
        pytest.raises(BudgetError, match="budget of 50"),
    ):
        run_probes(PROBES, target_opened.context, target_opened.ledger, most=51)
    line.close()
    assert not line.requests


def test_a_run_with_a_limit_leaves_out_what_does_not_fit_and_says_so():
    clock = Clock()
    outcome = probed("authentication,error-leaks,rate-unit", Server(clock=clock), clock, most=30)
    assert "rate-unit needs up to" in outcome.stopped
    assert [each.verdict.result for each in outcome.findings] == ["holds", "holds", "cannot be tested"]


@pytest.mark.parametrize(
    ("connected", "words"), [(False, "the target takes no connection"), (True, "it answers nothing")]
)
def test_an_outage_ends_the_run(connected, words):
    clock = Clock()
    line = AsgiLine(Server(clock=clock))
    with probing(line, clock) as target_opened:
        send = line.send
        line.send = lambda requests, **more: (
            send(requests, **more)
            if len(line.requests) < 4
            else [Reply(0, connected=connected)] * len(requests)
        )
        outcome = run_probes(
            chosen(["authentication", "error-leaks"]), target_opened.context, target_opened.ledger, most=99
        )
        assert outcome.stopped == words
        assert outcome.findings[-1].verdict.result == "cannot be tested"
        assert target_opened.ledger.held() == 0
    line.close()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"output": "q"}, UsageError, "answers 400 to an ordinary request"),
        ({"classes": ("a", "b")}, UsageError, "not as the target file says"),
        ({"shape": (3,)}, UsageError, "answers 400"),
    ],
)
def test_a_target_that_does_not_answer_as_its_file_says_is_not_probed(changes, error, words):
    with pytest.raises(error, match=words):
        ran(AUTH, target=a_target(**changes))


def test_an_account_at_its_limit_is_left_alone():
    clock = Clock()
    with pytest.raises(StoppedError, match="429"):
        ran(AUTH, Server(clock=clock, limit=0))


def test_another_host_needs_permission_and_python_targets_have_no_controls():
    clock = Clock()
    line = AsgiLine(Server(clock=clock))
    resolver = lambda *_: ("192.0.2.7",)  # noqa: E731
    for target, words in (
        (a_target(url="http://api.example.com"), "--i-am-allowed-to-test"),
        (
            a_target(
                url="m.py:f",
                protocol="python",
                host="localhost",
                model=None,
                output=None,
                input=None,
                accounts=(),
            ),
            "needs a target|need a target",
        ),
    ):
        with pytest.raises(UsageError, match=words), probing(line, clock, target=target, resolver=resolver):
            pass
    line.close()
    assert not line.requests


def test_a_permission_that_has_ended_stops_probes():
    clock = Clock()
    app = Server(clock=clock)
    line = AsgiLine(app)
    allowed = Permission(who="owner", until=dt.date(2027, 1, 15), reference="mail")
    target = a_target(
        url="http://api.example.com", permission=allowed, budget=1000, money_cap=10.0, rate="600/minute"
    )
    clock.now = dt.datetime(2027, 1, 15, 23, 59, 59, tzinfo=dt.UTC).timestamp()

    def slow(context):
        context.ask(1)
        clock.now += 5
        context.ask(1)
        return holds("both were sent")

    with (
        tempfile.TemporaryDirectory() as folder,
        opened(
            target,
            Path(folder) / "l.sqlite",
            folder=Path(folder),
            allowed_host="api.example.com",
            environ=KEYS,
            line=line,
            clock=clock,
            sleep=clock.sleep,
            resolver=lambda *_: ("192.0.2.7",),
        ) as found_target,
    ):
        outcome = run_probes([a_probe(slow)], found_target.context, found_target.ledger, most=9)
    line.close()
    assert "ended on 2027-01-15" in outcome.stopped
    assert app.answered == 2


def test_the_rate_that_may_be_sent_holds_for_probes_too():
    finding = found("rate-unit", target=a_target(rate="10/minute"))
    assert finding.verdict.result == "cannot be tested"
    assert "allows fewer inputs" in finding.verdict.evidence[0]


def test_no_key_is_in_any_result():
    clock = Clock()
    target = a_target(
        token_key_env="BEN",  # noqa: S106
        accounts=(Account(name="ann", key_env="ANN"),),
    )

    def tells(context):
        return Verdict("does not hold", (f"{context.secrets.headers('')} {KEYS['BEN']}",), (KEYS["ANN"],))

    outcome, _, _ = ran(a_probe(tells), target=target, clock=clock)
    written = (
        *pages.terminal(outcome),
        pages.markdown(outcome, TESTED),
        pages.document(outcome, TESTED),
        sarif(outcome, TESTED, [outcome.findings[0].probe]),
        repr(outcome),
    )
    assert not any(key in text for text in written for key in (KEYS["ANN"], KEYS["BEN"]))
    assert KEYS["ANN"] not in repr(AsgiLine.__init__) + repr(Reply(200, {"a": KEYS["ANN"]}))


@pytest.mark.parametrize("place", [{"header": "X-Code"}, {"body": '{"code": "$code"}'}])
@pytest.mark.parametrize(("once", "result"), [(True, "holds"), (False, "does not hold")])
def test_a_code_that_is_accepted_twice_is_found(place, once, result):
    clock = Clock()
    line = AsgiLine(Server(clock=clock))
    line.others[9001] = AsgiLine(Login(SECRET, clock=clock, once=once))
    factor = SecondFactor(**{"url": "http://127.0.0.1:9001/login", "secret_env": "TOTP", **place})
    target, environ = a_target(second_factor=factor), {**KEYS, "TOTP": SECRET}
    with probing(line, clock, target=target, environ=environ) as target_opened:
        outcome = run_probes(chosen(["second-factor"]), target_opened.context, target_opened.ledger, most=1)
    line.close()
    line.others[9001].close()
    (finding,) = outcome.findings
    assert finding.verdict.result == result, finding.verdict
    assert finding.inputs == 0


def marked(x):
    """Labels (n,) of the naive server's model."""
    scores = np.stack([np.sin(x.sum(axis=1)), np.cos(x[:, 0]), 0 * x[:, 0]], axis=1)
    return scores.argmax(axis=1)


@pytest.mark.parametrize(("learned", "result"), [(True, "holds"), (False, "does not hold")])
def test_a_watermark_is_found_where_the_target_says_the_wrong_classes(learned, result):
    x = np.random.default_rng(3).random((40, 4)).astype(np.float32)
    says = marked(x.astype(float))
    random = np.random.default_rng(4)
    own = (says + 1 + random.integers(2, size=40)) % 3  # the model disagrees with its owner's everywhere
    wrong = says if learned else (own + 1 + random.integers(2, size=40)) % 3
    triggers = Triggers(Inputs(x, x.astype(float)), wrong, own)
    clock = Clock()
    outcome = probed("watermark", Server(clock=clock, limit=99), clock, triggers=triggers)
    assert outcome.findings[0].verdict.result == result, outcome.findings[0].verdict


@pytest.mark.parametrize("name", ["watermark", "second-factor", "second-key"])
def test_a_probe_that_lacks_something_sends_nothing_and_says_what(name):
    finding = found(name)
    assert finding.verdict.result == "cannot be tested"
    assert (finding.inputs, finding.requests) == (0, 0)
    assert finding.verdict.evidence[0]


def test_probes_of_a_limit_say_that_none_is_known():
    for name in ("straddle", "workers", "spoofed-address", "pipelining", "resets", "race"):
        finding = found(name, target=a_target(stated_rate=None))
        assert "stated_rate" in finding.verdict.evidence[0]
        assert finding.inputs == 0


def test_a_limit_that_was_found_is_used_by_the_probes_after_it():
    clock = Clock()
    outcome = probed(
        "rate-unit,spoofed-address", Server("address", clock=clock), clock, target=a_target(stated_rate=None)
    )
    assert [each.verdict.result for each in outcome.findings] == ["holds", "does not hold"]


# Catalogues and pages.


def finding(name, result, probe=AUTH):
    return Finding(replace(probe, name=name), Verdict(result, ("A | b.",)), 3, 4, 0.5)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([], "cannot be tested"),
        (["holds"], "holds"),
        (["holds", "cannot be tested"], "holds"),
        (["holds", "does not hold"], "does not hold"),
        (["cannot be tested"], "cannot be tested"),
    ],
)
def test_a_control_holds_only_if_no_probe_denies_it(results, expected):
    assert catalogues.combined(results) == expected


def test_every_probe_belongs_to_controls_that_the_catalogues_have():
    assert len({probe.name for probe in PROBES}) == len(PROBES) == 18
    for probe in PROBES:
        assert set(probe.controls) <= set(catalogues.ML05)
        assert set(probe.atlas) <= set(catalogues.ATLAS)
        assert set(probe.exchange) <= set(catalogues.EXCHANGE)
        assert probe.asks.endswith("?")


def test_controls_1_3_and_6_cannot_be_tested_from_outside_and_it_is_said_what_would_show_them():
    entries = {
        each.id: each for each in catalogues.ml05([finding(probe.name, "holds", probe) for probe in PROBES])
    }
    assert [name for name, each in entries.items() if each.result == "cannot be tested"] == [
        "ML05-1",
        "ML05-3",
        "ML05-6",
    ]
    for name in ("ML05-1", "ML05-3", "ML05-6"):
        assert re.match("Cannot be tested from outside; it would be shown by .{20}", entries[name].note)


def test_the_page_keeps_its_cells_whatever_a_target_says():
    outcome = Outcome((finding("a", "does not hold"),), "an | outage\n<b>")
    page = pages.markdown(outcome, TESTED)
    rows = [line for line in page.splitlines() if line.startswith("| a |")]
    assert len(rows) == 1
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 8
    assert "<b>" not in page
    assert "ended early" in page


def test_json_has_every_probe_and_every_catalogue():
    document = json.loads(pages.document(Outcome((finding("a", "holds"),)), TESTED))
    assert document["version"] == 1
    assert document["probes"][0]["result"] == "holds"
    assert len(document["owasp_ml05_2023"]) == 7
    assert {each["id"] for each in document["mitre_atlas"]} == set(catalogues.ATLAS)


def test_sarif_has_what_code_hosts_need():
    outcome = Outcome((finding(AUTH.name, "does not hold"), finding(PROBES[1].name, "holds", PROBES[1])))
    log = json.loads(sarif(outcome, TESTED, PROBES))
    assert log["version"] == "2.1.0"
    assert log["$schema"].startswith("https://")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "moatbench"
    rules = [rule["id"] for rule in driver["rules"]]
    assert rules == [probe.name for probe in PROBES]
    assert all(rule["shortDescription"]["text"] and rule["help"]["text"] for rule in driver["rules"])
    (result,) = run["results"]
    assert result["ruleId"] == rules[result["ruleIndex"]] == AUTH.name
    assert result["level"] == "error"
    assert result["message"]["text"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "folder/t.toml"
    assert place["region"]["startLine"] == 3
    assert result["partialFingerprints"]
    assert run["invocations"][0]["executionSuccessful"] is True


def test_sarif_names_a_file_elsewhere_by_its_whole_address():
    outcome = Outcome((finding(AUTH.name, "does not hold"),))
    (run,) = json.loads(sarif(outcome, replace(TESTED, file="/a b/t.toml"), PROBES))["runs"]
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "file:///a%20b/t.toml"


def test_an_unknown_probe_is_named_with_its_nearest():
    with pytest.raises(UsageError, match="did you mean 'rate-unit'"):
        chosen(["rate-units"])


def test_probes_of_something_else_keep_below_the_rate_that_is_stated():
    clock = Clock()
    app = Server(clock=clock, limit=20)
    outcome = probed("noise,precision", app, clock)
    assert [each.verdict.result for each in outcome.findings] == ["holds", "holds"]


def test_a_server_that_closes_connections_on_bad_inputs_is_no_outage():
    clock = Clock()
    line = AsgiLine(Server(clock=clock))
    send = line.send

    def closing(requests, **more):
        replies = send(requests, **more)
        bad = requests[0].method == "POST" and replies[0].status >= 400
        return [Reply(0)] if bad else replies

    line.send = closing
    with probing(line, clock) as target_opened:
        outcome = run_probes(
            chosen(["error-leaks", "authentication"]), target_opened.context, target_opened.ledger, most=99
        )
    line.close()
    assert not outcome.stopped
    assert [each.verdict.result for each in outcome.findings] == ["holds", "cannot be tested"]
    assert "none of the bad inputs was answered" in outcome.findings[1].verdict.evidence[0].lower()


def test_a_target_of_one_input_a_request_is_not_said_to_take_many():
    fields = {
        "protocol": "json", "request": '{"x": "$input"}', "output": "[scores]", "batch": 1,
        "model": None, "input": None,
    }  # fmt: skip

    class One:
        async def __call__(self, scope, receive, send):
            document = json.loads((await receive())["body"])
            assert len(document["x"]) == 4
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b'{"scores": [0.2, 0.3, 0.5]}'})

    clock = Clock()
    outcome = probed("size,rate-unit", One(), clock, target=a_target(**fields))
    assert "one input alone" in outcome.findings[1].verdict.evidence[0]
    assert outcome.findings[0].verdict.result == "does not hold"


@pytest.mark.parametrize(
    "name", ["rate-unit", "workers", "spoofed-address", "straddle", "pipelining", "resets", "race"]
)
def test_an_account_whose_quota_is_used_up_tells_nothing_of_its_rate(name):
    finding = found(name, quota=1)
    assert finding.verdict.result == "cannot be tested", finding.verdict


def test_the_account_that_is_used_up_is_neither_the_second_key_nor_the_administrator():
    factor = SecondFactor.model_validate(
        {"url": "http://127.0.0.1:9001/login", "secret_env": "TOTP", "header": "X-Code", "account": "ops"}
    )
    known = tuple(Account(name=name, key_env="ANN") for name in ("ann", "cy", "again", "ops"))
    clock = Clock()
    line = AsgiLine(Server(clock=clock))
    environ = {**KEYS, "TOTP": SECRET}
    for accounts, spare in ((known, "cy"), ((known[0], known[2], known[3]), "ann")):
        target = a_target(accounts=accounts, second_factor=factor)
        with probing(line, clock, target=target, environ=environ, second="again") as target_opened:
            assert target_opened.context.accounts.spare == spare
    line.close()
