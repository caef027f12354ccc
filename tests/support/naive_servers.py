"""Small prediction servers with one fault each: what probes of controls have to find.

Without a fault a server keeps all its controls, in the simplest way that is right for one process.
"""

import asyncio
import contextlib
import gzip
import json
import math
import re
from collections import defaultdict

import numpy as np

KEYS = {"key-of-ann": "ann", "key-of-ben": "ben", "second-key-of-ann": "ann", "key-of-cy": "cy"}
PATH = "/v2/models/m/infer"
CLASSES = ["a", "b", "c"]
WIDTH = 4


class Reject(Exception):  # noqa: N818  # an answer
    """An answer other than 200."""

    def __init__(self, status, text, headers=()):
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers


def one_object(pairs):
    if len({name for name, _ in pairs}) < len(pairs):
        raise Reject(400, "a field stands twice")
    return dict(pairs)


class Server:
    """An ASGI application: three classes of four numbers behind the Open Inference Protocol.

    ``faults``: what it does wrong, by name. ``limit``: inputs an account in any ``window`` seconds.
    ``patience``: seconds for which it looks whether the client goes away, where it gives inputs back then.
    ``quota``: inputs of an account. ``detect``: unlikely inputs after which an account is suspended.
    """

    def __init__(
        self,
        *faults,
        clock,
        limit=20,
        window=60.0,
        quota=None,
        detect=None,
        largest=64,
        digits=3,
        patience=0.03,
    ):
        self.faults, self.clock = set(faults), clock
        self.limit, self.window, self.quota, self.detect = limit, window, quota, detect
        self.largest, self.digits, self.patience = largest, digits, patience
        self.passed = defaultdict(list)
        self.spent, self.flagged = defaultdict(int), defaultdict(int)
        self.answered = 0
        self.connections, self.turn = set(), 0
        self.noise = np.random.default_rng(1)

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        try:
            status, document, more = 200, await self.answer(scope, body), ()
        except Reject as reject:
            status, document, more = reject.status, {"error": reject.text}, reject.headers
        if "version header" in self.faults:
            more = (*more, ("server", "naive/1.2.3"))
        content = json.dumps(document).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(content))), *more]
        pairs = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        if "gives back" in self.faults and status == 200:
            await send({"type": "http.response.body", "body": content, "more_body": True})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(receive(), self.patience)  # the client is gone, so it shall not pay
                if "no limit" not in self.faults:
                    self.passed[scope["who"]].pop()
            content = b""
        await send({"type": "http.response.body", "body": content})

    async def answer(self, scope, body):
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        path = scope["raw_path"].decode()
        if "doors" in self.faults and path in {"/docs", "/metrics"}:
            return {"open": "door"}
        known = {PATH} | (
            {"/v2/models/%6d/infer", "/v2/models/m/generate"} if "aliases" in self.faults else set()
        )
        if path not in known or (scope["query_string"] and "key in address" not in self.faults):
            raise Reject(404, "there is no such path")
        if scope["method"] != "POST":
            raise Reject(405, "only POST")
        account = self.account(headers, scope)
        document, n = self.decoded(headers, body)
        who = scope["who"] = self.counted_by(headers, scope, account)
        if "connections" not in self.faults or scope["client"] not in self.connections:
            await self.count(who, n)
        self.connections.add(scope["client"])
        rows = self.rows(document)
        return self.shaped(rows, document, self.screened(rows, who))

    def account(self, headers, scope):
        key = headers.get("authorization", "").removeprefix("Bearer").strip()
        if "key in address" in self.faults and b"=" in scope["query_string"]:
            key = scope["query_string"].decode().partition("=")[2]
        if key in KEYS:
            return key if "quota per key" in self.faults else KEYS[key]
        if "open" in self.faults:
            return "anybody"
        if "empty key" in self.faults and not key and "authorization" in headers:
            return "empty"
        raise Reject(401, "no valid key")

    def counted_by(self, headers, scope, account):
        address = scope["client"][0]
        if "address" in self.faults:
            return headers.get("x-forwarded-for", headers.get("x_forwarded_for", address))
        if "per connection" in self.faults:
            return (account, scope["client"])
        if "two processes" in self.faults:
            self.turn = 1 - self.turn
            return (account, self.turn)
        return account

    def plain(self, headers, body):
        if headers.get("content-encoding"):
            if "gzip" not in self.faults:
                raise Reject(415, "only plain bodies")
            body = gzip.decompress(body)
        if headers.get("content-type") != "application/json":
            raise Reject(415, "only JSON")
        return body

    def decoded(self, headers, body):
        body = self.plain(headers, body)
        try:
            hook = None if "twice" in self.faults else one_object
            document = json.loads(body, object_pairs_hook=hook)
            (tensor,) = document["inputs"]
            shape = tensor["shape"]
            values = np.array(tensor["data"], dtype=float)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            if "echo" in self.faults:
                raise Reject(422, f"bad input: {body.decode()}") from None
            if "path in errors" in self.faults:
                raise Reject(500, f"{error!r} in /srv/app/models/server.py") from None
            raise Reject(400, "the request is not as the protocol says") from None
        n = shape[0]
        if "shape" not in self.faults:
            good = len(shape) == 2 and shape[1] == WIDTH and values.size == n * WIDTH and n > 0
            if not good or not np.isfinite(values).all():
                raise Reject(400, "the shape does not go with the values")
        if n > self.largest and "size" not in self.faults:
            raise Reject(413, "too many inputs")
        return document, 1 if "requests" in self.faults else n

    def rows(self, document):
        return np.array(document["inputs"][0]["data"], dtype=float).reshape(-1, WIDTH)

    async def count(self, who, n):
        now = self.clock()
        self.reserve(who, n, now)
        if self.quota is not None:
            await self.spend(who, n)

    def reserve(self, who, n, now):
        if "no limit" in self.faults:
            return
        start = now - self.window
        if "fixed window" in self.faults:
            start = math.floor(now / self.window) * self.window
        if "first-hit window" in self.faults:
            first = self.passed[who][0][0] if self.passed[who] else now
            if now >= first + self.window:
                self.passed[who].clear()
            start = -math.inf
        self.passed[who] = [each for each in self.passed[who] if each[0] > start]
        if sum(count for _, count in self.passed[who]) + n > self.limit:
            raise Reject(429, "too many inputs", (("retry-after", str(int(self.window))),))
        self.passed[who].append((now, n))

    async def spend(self, who, n):
        if "race" in self.faults:
            before = self.spent[who]
            await asyncio.sleep(0.01)
            if before + n > self.quota:
                raise Reject(429, "the quota is used up")
            self.spent[who] += n
            return
        if self.spent[who] + n > self.quota:
            raise Reject(429, "the quota is used up")
        self.spent[who] += n

    def screened(self, rows, who):
        if self.detect is not None:
            if self.flagged[who] >= self.detect:
                raise Reject(403, "the account is suspended")
            self.flagged[who] += len(rows)
        return who

    def shaped(self, rows, document, who):
        self.answered += len(rows)
        scores = np.stack([np.sin(rows.sum(axis=1)), np.cos(rows[:, 0]), 0 * rows[:, 0]], axis=1)
        if "noise" in self.faults:
            scores = scores + self.noise.normal(0, 0.1, scores.shape)
        values = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        names = [each.get("name") for each in document.get("outputs", [])]
        if "outputs" in self.faults and names and names[0] == "predict_proba":
            pass
        elif self.digits:
            values = values.round(self.digits)
        elif self.digits == 0:
            values = np.eye(3)[values.argmax(axis=1)]
        name = names[0] if names else "p"
        if name != "p" and "outputs" not in self.faults:
            raise Reject(400, "there is no such output")
        tensor = {
            "name": name,
            "shape": list(values.shape),
            "datatype": "FP32",
            "data": values.ravel().tolist(),
        }
        return {
            "model_name": "m",
            "id": re.sub(r"[^\w-]", "", str(document.get("id", ""))),
            "outputs": [tensor],
        }


class Login:
    """Asks for a one-time code beside a key. ``once``: whether a code is accepted once, as it should be."""

    def __init__(self, secret, *, clock, once):
        import pyotp

        self.totp, self.clock, self.once, self.last = pyotp.TOTP(secret), clock, once, 0

    async def __call__(self, scope, receive, send):
        body = (await receive()).get("body", b"")
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        code = json.loads(body)["code"] if body else headers.get("x-code", "")
        now = self.clock()
        good = self.totp.verify(code, for_time=now) and headers.get("authorization") == "Bearer key-of-ann"
        if self.once and int(now) // 30 <= self.last:
            good = False
        self.last = int(now) // 30 if good else self.last
        status = 200 if good else 401
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})
