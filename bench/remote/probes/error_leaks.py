"""Whether answers to bad inputs tell about the server, or repeat what they were sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from bench.remote.probing.base import Bounds, CannotTestError, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.probing.shots import Seen, Shot
from bench.remote.target import Target

ECHO = 100
"""Bytes of ours from which on a repetition is one."""
MARK = "moatbench-probe-" + "abcdefghij" * 20
"""A text that an answer has only if it repeats it."""
LEAKS = {
    "a path": re.compile(r"(?:/(?:[\w.-]+)){3,}|[A-Za-z]:\\\\?[\w.-]+\\"),
    "a traceback": re.compile(
        r"Traceback \(most recent|File \\?\"[^\"]+\\?\", line \d+|\bat [\w.$]+\([\w.]+:\d+\)"
    ),
    "a class name": re.compile(r"\b(?:[a-z_]\w*\.)+[A-Z]\w+|\b[A-Z][a-z]\w*(?:Error|Exception)\b"),
    "a version": re.compile(r"\b\d{1,3}\.\d{1,4}\.\d{1,4}\b"),
}
"""What tells about the software behind a target, by what it is."""
_TELLING_HEADERS = ("server", "x-powered-by", "via")


def bounds(_: Target) -> Bounds:
    """Return what nine bad requests, and a good one, need."""
    return Bounds(inputs=10, requests=10)


def run(context: Context) -> Verdict:
    """Send bad inputs, one a request, and look for paths, class names, versions and repetitions."""
    found: list[tuple[str, str, Seen]] = []
    sent, answered = 0, 0
    for what, shot in _bad(context):
        seen = context.send(shot)
        sent += 1
        answered += bool(seen.status)
        if seen.limited:
            break
        if not context.answered_rows(seen):
            found += [(what, leak, seen) for leak in _leaks(seen, context.path)]
    if not answered:
        raise CannotTestError("none of the bad inputs was answered")
    if found:
        said = "; ".join(dict.fromkeys(f"{what}: {leak}" for what, leak, _ in found))
        ids = dict.fromkeys(seen.id for _, _, seen in found)
        return fails(f"Answers to {sent} bad inputs tell what they should not ({said}).", requests=tuple(ids))
    context.require_answer()
    return holds(f"{sent} bad inputs got answers with no path, class name, version or repetition.")


def _bad(context: Context) -> Iterator[tuple[str, Shot]]:
    good = context.body(context.inputs(1))
    document = json.loads(good)
    yield "broken JSON", context.shot(1, body=good[:-2] + json.dumps(MARK).encode())
    yield "no object", context.shot(1, body=json.dumps([MARK]).encode())
    yield "an unknown field alone", context.shot(1, body=json.dumps({MARK: MARK}).encode())
    yield "texts for numbers", context.shot(1, body=_replaced(document, MARK))
    yield "gaps for numbers", context.shot(1, body=_replaced(document, None))
    yield "not a number", context.shot(1, body=_replaced(document, float("nan")))
    yield "one number", context.shot(1, body=_narrow(document))
    yield "another content type", context.shot(1, content_type="text/moatbench-probe")
    yield "an unknown path", context.shot(1, path=context.path.partition("?")[0] + "-moatbench-probe")


def _replaced(value: object, by: object) -> bytes:
    def changed(each: object) -> object:
        if isinstance(each, dict):
            return {name: changed(inner) if name != "shape" else inner for name, inner in each.items()}
        if isinstance(each, list):
            return [changed(inner) for inner in each]
        return by if isinstance(each, int | float) and not isinstance(each, bool) else each

    return json.dumps(changed(value)).encode()


def _narrow(value: object) -> bytes:
    """Return a body whose lists of numbers have one number."""

    def changed(each: object) -> object:
        if isinstance(each, dict):
            return {name: changed(inner) if name != "shape" else inner for name, inner in each.items()}
        if isinstance(each, list):
            plain = all(isinstance(inner, int | float) for inner in each)
            return each[:1] if plain else [changed(inner) for inner in each]
        return each

    return json.dumps(changed(value)).encode()


def _leaks(seen: Seen, path: str) -> Iterator[str]:
    text = seen.reply.body.decode("utf-8", errors="replace")
    if any(MARK[start : start + ECHO] in text for start in range(0, len(MARK) - ECHO, 10)):
        yield f"more than {ECHO} bytes of the request"
    own = text.replace(path, "").replace(seen.shot.request.path, "").replace(MARK, "")
    for leak, pattern in LEAKS.items():
        if pattern.search(own):
            yield leak
    for header in _TELLING_HEADERS:
        if re.search(r"\d+\.\d+", seen.reply.headers.get(header, "")):
            yield f"a version in the header {header}"


PROBE = Probe(
    name="error-leaks",
    asks="Do answers to bad inputs keep paths, class names, versions and the inputs to themselves?",
    controls=(4,),
    atlas=("AML.M0002",),
    exchange=("#OBSCURE CONFIDENCE",),
    bounds=bounds,
    run=run,
)
