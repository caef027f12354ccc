"""Whether the model, or what is known of it, can be reached in ways outside the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from bench.remote.probing.base import Bounds, Probe, Verdict, fails, holds
from bench.remote.probing.context import Context
from bench.remote.probing.shots import Shot
from bench.remote.target import Target

ABSENT = "/moatbench-probe-of-a-path-that-is-not-there"
"""A path that no server has: what comes back for it is no page."""
DOCUMENTS = ("/docs", "/redoc", "/openapi.json", "/docs.json", "/v2/docs", "/metrics")
"""Pages that describe a server, or its use by everybody."""
INDEX = "/v2/repository/index"
"""Lists a server's models; nothing is loaded or unloaded."""
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""What a client of HTTP/2, as of gRPC, sends first: its preface and empty settings."""
SETTINGS = 4
"""The type of the frame that a server of HTTP/2 answers with."""
SECONDS = 3.0
"""Seconds for a neighbouring port."""


def bounds(_: Target) -> Bounds:
    """Return what a dozen paths of one input each, and ten pages, need."""
    return Bounds(inputs=14, requests=30)


def run(context: Context) -> Verdict:
    """Ask for predictions at other spellings of the path, and for pages and lists without a key."""
    open_: dict[str, str] = {}
    tried = 0
    limited = False
    for what, shot in _aliases(context):
        seen = context.send(shot)
        tried += 1
        if context.answered_rows(seen):
            open_[what] = seen.id
        if limited := seen.limited:
            break
    absent = None if limited else context.send(context.get(ABSENT))
    nothing = absent.reply.body.strip() if absent is not None and absent.answered else b""
    for what, shot in _pages(context) if absent is not None else ():
        seen = context.send(shot)
        tried += 1
        # A server that answers every path answers those that it does not have alike.
        if seen.answered and seen.reply.body.strip() not in {b"", nothing}:
            open_[what] = seen.id
        if seen.limited:
            break
    for what, offset, sent, tls in _ports():
        answer = context.line.other_port(offset, sent, seconds=SECONDS, tls=tls)
        tried += 1
        if (offset == 1 and answer[3:4] == bytes([SETTINGS])) or b"# TYPE" in answer:
            open_[what] = ""
    if open_:
        ids = tuple(each for each in open_.values() if each)
        return fails(
            f"{len(open_)} of {tried} ways outside the protocol are open: {', '.join(open_)}.", requests=ids
        )
    context.require_answer()
    return holds(
        f"{tried} ways outside the protocol are closed: other spellings of the path, pages, lists, ports."
    )


def _aliases(context: Context) -> Iterator[tuple[str, Shot]]:
    path, _, query = context.path.partition("?")
    for alias in dict.fromkeys(_spellings(path, context.target)):
        if alias != path:
            sent = f"{alias}?{query}" if query and "?" not in alias else alias
            yield f"{alias} (answers)", context.shot(1, path=sent)


def _spellings(path: str, target: Target) -> Iterator[str]:
    """Yield paths that some servers take for the same."""
    head, _, tail = path.rpartition("/")
    yield f"{path}/"
    yield f"{path}?x=1"
    yield f"/{path}"
    yield f"{head}/x/../{tail}"
    if tail:
        yield f"{head}/%{ord(tail[0]):02x}{tail[1:]}"
    if target.protocol == "oip":
        model = quote(target.model or "", safe="")
        start = path.partition("/v2/models/")[0] + "/v2/models/"
        versions = f"{start}{model}/versions"
        yield f"{start}%{ord((target.model or 'x')[0]):02x}{(target.model or 'x')[1:]}/{tail}"
        yield f"{start}x/../{model}/{tail}"
        yield from (f"{start}{model}/{name}" for name in ("generate", "infer_stream"))
        yield from (f"{versions}/{name}/infer" for name in ("1", "v1"))
    if target.protocol == "tfserving":
        before = path.rpartition(":")[0]
        yield from (f"{before}:{name}" for name in ("classify", "regress"))


def _pages(context: Context) -> Iterator[tuple[str, Shot]]:
    for path in DOCUMENTS:
        yield path, context.get(path)
    if context.target.protocol == "oip":
        yield f"{INDEX} without a key", context.get(INDEX, method="POST", body=b"{}")
        yield INDEX, context.get(INDEX, method="POST", key=True, body=b"{}")


def _ports() -> Iterator[tuple[str, int, bytes, str]]:
    """Yield a name, how far above the target's a port is, what is sent there, and the protocol inside TLS."""
    metrics = b"GET /metrics HTTP/1.0\r\n\r\n"
    yield "gRPC on the next port", 1, HTTP2, ""
    yield "gRPC by TLS on the next port", 1, HTTP2, "h2"
    yield "metrics on the port after that", 2, metrics, ""
    yield "metrics by TLS on the port after that", 2, metrics, "http/1.1"


PROBE = Probe(
    name="other-doors",
    asks="Is the model reached by its one path alone, and are pages, lists and other ports closed?",
    controls=(2,),
    atlas=("AML.M0019",),
    exchange=("#MODEL ACCESS CONTROL",),
    bounds=bounds,
    run=run,
)
