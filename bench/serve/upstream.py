"""The server behind a guard, as what answers queries: requests are written anew, answers are checked."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import httpx2
import numpy as np
from numpy.typing import NDArray

from bench.remote.addresses import Resolve, resolve
from bench.remote.client import wire_of
from bench.remote.connections import Deadline, open_client
from bench.remote.exchange import AttemptError, Inputs
from bench.remote.http_exchange import HttpExchange
from bench.remote.secrets import Secrets
from bench.remote.target import Target
from bench.remote.target_faults import split
from bench.serve.predictor import Answer, Outputs, Query, RejectedInputsError, UpstreamError

OWNER = "its owner runs the guard"
"""Who allows requests to the server."""
READY_SECONDS = 1.0
"""Seconds for which the server's word that it is ready holds."""


class Upstream:
    """Sends each query to the owner's server, once, in the words of its protocol.

    Nothing of a client's request but the numbers goes there, and nothing of the answer but the numbers comes
    back: no header, no id, no error text. A redirect is not followed.

    ``target``: where the server is and how it answers; ``shape``: of one input; ``columns``: of a table, ().
    ``environ``: holds the server's own key. ``transport``: instead of a network, for tests. Raises UsageError
    for a missing key, a host without address, or a file of certificates that is none.
    """

    def __init__(
        self,
        target: Target,
        *,
        name: str,
        version: str,
        shape: tuple[int, ...],
        columns: tuple[str, ...] = (),
        shows: Literal["probabilities", "labels"] = "probabilities",
        environ: Mapping[str, str] = os.environ,
        resolver: Resolve = resolve,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.name, self.version, self.classes = name, version, target.classes
        self.shape, self.columns, self.outputs = shape, columns, Outputs()
        self.shows: Literal["probabilities", "labels"] = "labels" if target.answers == "labels" else shows
        parts = split(target.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        deadline = Deadline(time.monotonic)
        client = open_client(
            resolver(parts.hostname or "", port),
            deadline,
            timeout=target.timeout,
            connections=target.connections,
            tls=parts.scheme == "https",
            ca_file=None if target.ca_file is None else Path(target.ca_file).expanduser(),
            transport=transport,
        )
        self._exchange = HttpExchange(
            target,
            wire_of(target),
            Secrets(target, environ),
            client,
            deadline,
            permission=OWNER,
            clock=time.monotonic,
        )
        self._threads = ThreadPoolExecutor(target.connections, thread_name_prefix="upstream")
        # Anybody may ask whether it is ready, and must take no thread from those who have a key.
        self._ready_thread = ThreadPoolExecutor(1, thread_name_prefix="ready")
        self._asking_ready: asyncio.Future[bool] | None = None
        self._asked_ready = 0.0

    def accepted(self, query: Query) -> Query:
        """Return the query as it is, if its numbers are of single precision."""
        as_numbers(query.rows)
        return query

    async def answer(self, query: Query, client: str, number: int | None = None) -> Answer:
        """Return what the server answers; raises UpstreamError, after which the inputs stay counted."""
        rows = query.rows
        inputs = Inputs(as_numbers(rows), rows, self.columns)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._asked, inputs)

    def _asked(self, inputs: Inputs) -> Answer:
        try:
            reply = self._exchange.attempt(inputs, account="", idempotency=secrets.token_hex(8))
        except AttemptError as error:
            raise UpstreamError(str(error)) from None
        answers = reply.answers
        if self.shows == "labels":
            answers = np.eye(len(self.classes))[answers.argmax(axis=1)]
        return Answer(answers, np.zeros(len(answers), dtype=bool))

    async def ready(self) -> bool:
        """Return whether the server says that it is ready, where its protocol can say so.

        It is asked at most once a second, however many ask here.
        """
        loop = asyncio.get_running_loop()
        asking = self._asking_ready
        if asking is None or (asking.done() and loop.time() - self._asked_ready >= READY_SECONDS):
            self._asked_ready = loop.time()
            asking = self._asking_ready = loop.run_in_executor(self._ready_thread, self._says_ready)
        return await asyncio.shield(asking)  # who goes away takes the answer from nobody else

    def _says_ready(self) -> bool:
        return self._exchange.metadata().get("ready", True) is not None

    def close(self) -> None:
        """Close all connections."""
        self._threads.shutdown()
        self._ready_thread.shutdown()
        self._exchange.close()


def as_numbers(rows: NDArray[Any] | Sequence[Sequence[Any]]) -> NDArray[np.float32]:
    """Return inputs as float32 (n, …), by which defenses tell them apart; a text becomes a number of its own.

    Raises RejectedInputsError for numbers beyond single precision, integers of more than 64 bits, and texts
    that are no Unicode: no request could hold them.
    """
    if isinstance(rows, np.ndarray):
        return np.ascontiguousarray(rows, dtype=np.float32)
    try:
        numbers = np.array([[_as_number(value) for value in row] for row in rows], dtype=np.float64)
    except UnicodeEncodeError:
        raise RejectedInputsError("texts have to be Unicode") from None
    except OverflowError:
        raise RejectedInputsError("integers have to have at most 64 bits") from None
    if (np.abs(numbers) > np.finfo(np.float32).max).any():  # a gap is NaN, and passes
        raise RejectedInputsError("inputs have to be numbers of single precision")
    return numbers.astype(np.float32)


def _as_number(value: Any) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, str):
        digest = hashlib.blake2b(value.encode("utf-8"), digest_size=3).digest()
        return float(int.from_bytes(digest, "big"))
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise OverflowError
    return float(value)
