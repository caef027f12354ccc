"""A probe whose requests could not show a fault says so: it neither comforts nor alarms."""

import dataclasses
import json

import pytest
from asgi_line import AsgiLine, Clock
from naive_servers import Login, Reject, Server
from probing import KEYS, a_target, probing

from bench.remote.probing import catalogues, pages
from bench.remote.probing.base import Bounds, Finding, Verdict, holds
from bench.remote.probing.line import Reply
from bench.remote.probing.registry import chosen
from bench.remote.probing.run import INTERRUPTED, Outcome, run_probes
from bench.remote.target import Account, SecondFactor

TWO_KEYS = (Account(name="ann", key_env="ANN"), Account(name="ann again", key_env="ANN_2"))

BASE32 = "JBSWY3DPEHPK3PXP" * 2


def probed(name, app, clock, *, seconds=0.0, others=None, second=None, environ=KEYS, **fields):
    """Return the finding of a probe; every answer takes ``seconds`` of ``clock``."""
    line = AsgiLine(app)
    line.others.update({port: AsgiLine(each) for port, each in (others or {}).items()})
    send = line.send

    def slow(requests, **more):
        clock.sleep(seconds * len(requests))
        return [dataclasses.replace(each, seconds=seconds or each.seconds) for each in send(requests, **more)]

    line.send = slow
    try:
        with probing(line, clock, target=a_target(**fields), second=second, environ=environ) as opened:
            outcome = run_probes(chosen([name]), opened.context, opened.ledger, most=20_000)
            return outcome.findings[0]
    finally:
        for each in (line, *line.others.values()):
            each.close()


class Changed(Server):
    """A server that answers some requests in another way. ``change``: gets its number, scope and body."""

    def __init__(self, *faults, change, **settings):
        super().__init__(*faults, **settings)
        self.change, self.number = change, 0

    async def answer(self, scope, body):
        self.number += 1
        found = self.change(self.number, scope, body)
        return await super().answer(scope, body) if found is None else found


def keyless(scope):
    return not any(b"key-of-ann" in value for _, value in scope["headers"])


def refuses_everything_after(number, status):
    def change(place, *_):
        if place > number:
            raise Reject(status, "not now")

    return change


@pytest.mark.parametrize(
    "name", ["authentication", "other-doors", "smuggled-rows", "noise", "error-leaks", "size"]
)
@pytest.mark.parametrize("status", [429, 500])
def test_a_target_that_answers_nothing_any_more_shows_no_control(name, status):
    clock = Clock()
    answers = 1 if name == "authentication" else 2
    app = Changed("open", clock=clock, limit=10_000, change=refuses_everything_after(answers, status))
    finding = probed(name, app, clock, stated_rate=None)
    assert finding.verdict.result == "cannot be tested", finding.verdict


def test_success_without_an_answer_is_no_open_door():
    def change(_, scope, __):
        return {"error": "give a key"} if keyless(scope) else None

    clock = Clock()
    finding = probed("authentication", Changed(clock=clock, change=change), clock)
    assert finding.verdict.result == "holds", finding.verdict


def test_pages_are_asked_of_servers_that_answer_every_path_too():
    def change(_, scope, __):
        if scope["method"] == "GET":
            return {"paths": "all"} if scope["path"] == "/openapi.json" else {"welcome": "page"}
        return None

    clock = Clock()
    finding = probed("other-doors", Changed(clock=clock, change=change), clock)
    assert finding.verdict.result == "does not hold", finding.verdict
    assert "1 of " in finding.verdict.evidence[0]
    assert "/openapi.json" in finding.verdict.evidence[0]


def test_errors_that_are_sent_with_success_are_read_too():
    def change(_, __, body):
        try:
            app.decoded({"content-type": "application/json"}, body)
        except Reject:
            return {"error": "Traceback (most recent call last)"}
        return None

    clock = Clock()
    app = Changed(clock=clock, change=change)
    finding = probed("error-leaks", app, clock)
    assert finding.verdict.result == "does not hold", finding.verdict


@pytest.mark.parametrize("status", [0, 429, 500])
def test_a_code_that_was_not_judged_again_is_not_refused(status):
    clock = Clock()
    login, asked = Login(BASE32, clock=clock, once=False), []

    async def app(scope, receive, send):
        asked.append(1)
        if len(asked) == 1:
            await login(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    factor = {
        "url": "http://127.0.0.1:9001/login",
        "secret_env": "TOTP",
        "header": "X-Code",
        "account": "ann",
    }
    environ = {**KEYS, "TOTP": BASE32}
    server, others = Server(clock=clock), {9001: app}
    finding = probed(
        "second-factor", server, clock, others=others, environ=environ, second_factor=SecondFactor(**factor)
    )
    assert finding.verdict.result == "cannot be tested", finding.verdict


def test_headers_about_the_address_are_found_at_high_limits_of_a_slow_server():
    clock = Clock()
    app = Server("address", clock=clock, limit=60)
    finding = probed("spoofed-address", app, clock, seconds=0.4, stated_rate="60/minute")
    assert finding.verdict.result == "does not hold", finding.verdict


def test_one_header_about_the_address_is_enough():
    class OneHeader(Server):
        def counted_by(self, headers, scope, account):
            return headers.get("x-forwarded-for", account)

    clock = Clock()
    app = OneHeader(clock=clock, limit=60)
    finding = probed("spoofed-address", app, clock, seconds=0.1, stated_rate="60/minute")
    assert finding.verdict.result == "does not hold", finding.verdict


def test_a_limit_for_each_key_is_found_at_high_limits():
    clock = Clock()
    app = Server("quota per key", clock=clock, limit=120)
    finding = probed(
        "second-key", app, clock, seconds=0.2, second="ann again", stated_rate="120/minute", accounts=TWO_KEYS
    )
    assert finding.verdict.result == "does not hold", finding.verdict


def test_a_second_key_that_gets_no_answers_anyway_shows_no_common_limit():
    def change(_, scope, __):
        if any(b"second-key" in value for _, value in scope["headers"]):
            raise Reject(429, "its quota is used up")

    clock = Clock()
    finding = probed(
        "second-key", Changed(clock=clock, change=change), clock, second="ann again", accounts=TWO_KEYS
    )
    assert finding.verdict.result == "cannot be tested", finding.verdict


def test_a_server_too_slow_to_reach_its_limit_is_not_said_to_have_none():
    clock = Clock()
    finding = probed("rate-unit", Server(clock=clock, limit=20), clock, seconds=4.0)
    assert finding.verdict.result == "cannot be tested", finding.verdict


def test_a_fault_in_the_second_series_is_no_limit():
    def change(_, __, body):
        count = json.loads(body)["inputs"][0]["shape"][0]
        app.series += count > 1
        if app.series > 1:
            raise Reject(500, "a fault")

    clock = Clock()
    app = Changed("requests", clock=clock, change=change)
    app.series = 0
    finding = probed("rate-unit", app, clock)
    assert finding.verdict.result == "cannot be tested", finding.verdict


def test_processes_that_count_alone_are_found_or_not_denied_when_the_target_is_slow():
    clock = Clock()
    app = Server("two processes", clock=clock, limit=40)
    finding = probed("workers", app, clock, seconds=0.7, stated_rate="40/minute")
    assert finding.verdict.result == "cannot be tested", finding.verdict


def test_inputs_that_no_limit_refuses_are_not_said_to_be_given_back():
    clock = Clock()
    finding = probed("resets", Server("no limit", "gives back", clock=clock, patience=0.001), clock)
    assert finding.verdict.result == "cannot be tested", finding.verdict
    assert "there is no limit" in finding.verdict.evidence[0]


def test_a_race_on_a_limit_that_refills_faster_than_it_comes_is_not_denied():
    clock = Clock()
    finding = probed("race", Server("no limit", clock=clock), clock, seconds=0.1, stated_rate="1000/minute")
    assert finding.verdict.result == "cannot be tested", finding.verdict


@pytest.mark.parametrize("status", [429, 500])
def test_a_series_that_ends_for_another_reason_is_not_noticed(status):
    clock = Clock()
    app = Changed(clock=clock, limit=1000, change=refuses_everything_after(40, status))
    finding = probed("detection", app, clock, stated_rate="1000/minute")
    assert finding.verdict.result == "cannot be tested", finding.verdict


def test_a_series_starts_when_the_account_has_a_window_to_itself():
    clock = Clock()
    app = Server(clock=clock, limit=60, detect=500)
    line = AsgiLine(app)
    fields = {"stated_rate": "60/minute", "detected_after": 40}
    with probing(line, clock, target=a_target(**fields)) as opened:
        outcome = run_probes(chosen(["race", "detection"]), opened.context, opened.ledger, most=20_000)
    line.close()
    assert [each.verdict.result for each in outcome.findings] == ["holds", "does not hold"]


def test_numbers_rounded_before_they_were_written_as_32_bits_show_their_own_digits_alone():
    class Rounds(Server):
        def shaped(self, rows, document, who):
            import numpy as np

            found = super().shaped(rows, document, who)
            data = found["outputs"][0]["data"]
            found["outputs"][0]["data"] = np.float32(np.round(data, 2)).astype(float).tolist()
            return found

    clock = Clock()
    finding = probed("precision", Rounds(clock=clock, limit=1000), clock, stated_rate=None)
    assert finding.verdict.result == "holds", finding.verdict


def test_refused_answers_are_no_equal_answers():
    class Withholds(Server):
        def shaped(self, rows, document, who):
            found = super().shaped(rows, document, who)
            if self.answered > 3:
                found["outputs"][0]["data"] = [float("nan")] * len(found["outputs"][0]["data"])
            return found

    clock = Clock()
    finding = probed("noise", Withholds(clock=clock, limit=1000), clock, stated_rate=None)
    assert finding.verdict.result == "cannot be tested", finding.verdict


def test_a_limit_a_little_above_what_is_stated_holds_for_requests_in_one_write_too():
    clock = Clock()
    finding = probed("pipelining", Server(clock=clock, limit=84), clock, stated_rate="80/minute")
    assert finding.verdict.result == "holds", finding.verdict


def test_bursts_that_are_refused_before_the_edge_show_nothing_of_it():
    clock = Clock()
    app = Server("fixed window", clock=clock, limit=40)
    reserve = app.reserve

    def changed(who, n, now):
        if n > 1 and now % 60 > 40:
            raise Reject(429, "too fast")
        reserve(who, n, now)

    app.reserve = changed
    finding = probed("straddle", app, clock, stated_rate="40/minute")
    assert finding.verdict.result == "cannot be tested", finding.verdict


@pytest.mark.parametrize("connected", [True, False])
def test_a_target_that_goes_in_the_last_probe_stops_the_run(connected):
    clock = Clock()
    line = AsgiLine(Server(clock=clock))
    with probing(line, clock) as opened:
        send = line.send
        line.send = lambda requests, **more: (
            send(requests, **more)
            if len(line.requests) < 15
            else [Reply(0, connected=connected)] * len(requests)
        )
        outcome = run_probes(chosen(["rate-unit"]), opened.context, opened.ledger, most=200)
    line.close()
    assert outcome.stopped
    assert outcome.findings[0].verdict.result == "cannot be tested"


def test_an_interrupted_run_keeps_what_it_found():
    clock = Clock()
    line = AsgiLine(Server("open", clock=clock))
    with probing(line, clock) as opened:
        send = line.send

        def interrupted(requests, **more):
            if len(line.requests) >= 12:
                raise KeyboardInterrupt
            return send(requests, **more)

        line.send = interrupted
        names = ["authentication", "error-leaks", "noise"]
        outcome = run_probes(chosen(names), opened.context, opened.ledger, most=200)
        assert opened.ledger.held() == 0
    line.close()
    assert outcome.stopped == INTERRUPTED
    results = [each.verdict.result for each in outcome.findings]
    assert results == ["does not hold", "cannot be tested", "cannot be tested"]


def test_a_control_that_was_tested_in_part_says_what_was_not():
    findings = [
        Finding(probe, holds("a.") if place else Verdict("cannot be tested", ("b.",)))
        for place, probe in enumerate(chosen(["authentication", "other-doors"]))
    ]
    entry = next(each for each in catalogues.ml05(findings) if each.id == "ML05-2")
    assert entry.result == "holds"
    assert entry.note == "Not tested: authentication."
    assert any("not tested: authentication" in line for line in pages.terminal(Outcome(tuple(findings))))


def test_ids_that_a_target_makes_up_are_not_shown():
    clock = Clock()
    line = AsgiLine(Server(clock=clock))
    send = line.send
    line.send = lambda requests, **more: [
        dataclasses.replace(each, headers={**each.headers, "x-request-id": "![a](http://x.example/a.png)"})
        for each in send(requests, **more)
    ]
    with probing(line, clock) as opened:
        opened.context.begin("a", Bounds(1, 1))
        assert opened.context.ask(1).id.startswith("probe-")
    line.close()
