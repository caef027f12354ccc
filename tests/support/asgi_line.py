"""Requests of probes to an ASGI application in this process, without a network."""

import asyncio
import threading

from bench.remote.probing.line import Reply


class AsgiLine:
    """As :class:`bench.remote.probing.line.SocketLine`; every request has a connection of its own."""

    def __init__(self, app, address="203.0.113.5"):
        self.app, self.address = app, address
        self.others, self.ports = {}, {}
        self.requests, self._port, self._lock = [], 1024, threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def send(self, requests, *, seconds, reset=False):
        with self._lock:
            self._port += 1
            port = self._port
        return [
            asyncio.run_coroutine_threadsafe(self._one(each, port, reset), self._loop).result(seconds + 20)
            for each in requests
        ]

    def to(self, port, *, tls):
        assert not tls
        return self.others[port]

    def other_port(self, offset, sent, *, seconds, tls=""):
        return self.ports.get((offset, tls), b"")

    async def _one(self, request, port, reset):
        self.requests.append(request)
        path, _, query = request.path.partition("?")
        headers = [(name.lower().encode(), value.encode()) for name, value in request.headers]
        headers += [(b"host", b"testserver"), (b"content-length", str(len(request.body)).encode())]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers,
            "client": (self.address, port),
            "server": ("testserver", 80),
            "state": {},
        }
        sent, parts = {}, [{"type": "http.request", "body": request.body, "more_body": False}]

        async def receive():
            if parts:
                return parts.pop()
            if not (reset and sent.get("body")):  # a reset comes once the answer is there
                await asyncio.sleep(30)
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                sent["status"] = message["status"]
                sent["headers"] = {
                    name.decode().lower(): value.decode() for name, value in message["headers"]
                }
            else:
                sent["body"] = sent.get("body", b"") + message.get("body", b"")

        await self.app(scope, receive, send)
        return Reply(sent["status"], sent["headers"], sent.get("body", b""), 0.001)

    def close(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


class Clock:
    """A clock that waits do not take any time of; every look takes a millisecond of it."""

    def __init__(self, start=1_800_000_007.0):
        self.now, self._lock = start, threading.Lock()

    def __call__(self):
        with self._lock:
            self.now += 0.001
            return self.now

    def sleep(self, seconds):
        with self._lock:
            self.now += seconds
