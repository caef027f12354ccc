"""One request over HTTP: sent once, read within limits of time and size, and judged."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from bench.remote import answers, verdicts
from bench.remote.connections import Deadline
from bench.remote.exchange import AttemptError, Inputs, Reply
from bench.remote.protocols.base import Wire, decoded, shaped, unreadable, unsendable
from bench.remote.secrets import Secrets
from bench.remote.target import Target

SPACE, OF_A_NUMBER = 1 << 20, 128
"""Bytes that an answer may have: so many, and so many for each class of each input."""
SHORT = 2_000
"""Most bytes that are read of an answer that is none."""
_NUMBERS = re.compile(r"\d[\"']?\s*[.,]\s*[\"']?[-+]?\d|\d(\s+[-+]?\d+){2}|\d{7}")
"""Numbers with a fraction, several in a row, and a long one: what inputs look like."""
EXCERPT = 120
"""Most characters that a message repeats of what a target says."""


class HttpExchange:
    """Sends requests of one target through one client; safe to use from several threads.

    ``permission``: who allows the test, as :class:`bench.run_facts.CampaignFacts` has it.
    """

    def __init__(
        self,
        target: Target,
        wire: Wire,
        secrets: Secrets,
        client: httpx2.Client,
        deadline: Deadline,
        *,
        permission: str,
        clock: Callable[[], float],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._target, self._wire, self._secrets, self._client = target, wire, secrets, client
        self._deadline, self._clock, self._now = deadline, clock, now
        self.permission = permission

    def attempt(self, inputs: Inputs, *, account: str, idempotency: str) -> Reply:
        """Send one request, once, see :class:`bench.remote.exchange.Exchange`."""
        outcome = self._outcome(inputs, account, idempotency)
        # Raised here, outside of the handlers, so that no chain leads to a header or to the inputs.
        if isinstance(outcome, AttemptError):
            raise outcome
        return outcome

    def _outcome(self, inputs: Inputs, account: str, idempotency: str) -> Reply | AttemptError:
        try:
            return self._attempt(inputs, account, idempotency)
        except AttemptError as error:
            found = error
        except httpx2.HTTPError as error:  # whose text may show headers, among them the key
            found = verdicts.of_exception(error)
        except Exception as error:  # noqa: BLE001  # one request must not end the process that buys
            fault = f"the request failed inside moatbench ({type(error).__name__}); please report it"
            found = AttemptError(fault, billed="unknown", action="stop")
        message = self._secrets.hide(str(found))
        return AttemptError(message, billed=found.billed, action=found.action, wait=found.wait)

    def _attempt(self, inputs: Inputs, account: str, idempotency: str) -> Reply:
        headers = self._headers(account, idempotency)
        body = self._wire.body(shaped(inputs, self._target), idempotency)
        most = SPACE + OF_A_NUMBER * len(inputs) * len(self._target.classes)
        started = self._clock()
        content = self._exchanged("POST", self._wire.address, headers, body, most, inputs)
        seconds = self._clock() - started
        document = decoded(content, self._secrets.cleaned)
        if isinstance(document, dict) and "error" in document and len(document) == 1:
            said = _excerpt(document, inputs)
            raise unreadable(
                "the target answers with an error under status 200" + (f" ({said})" if said else "")
            )
        rows, identity = self._wire.rows(document, len(inputs), idempotency)
        values, digits = answers.table(rows, len(inputs), self._target)
        return Reply(values, identity, digits, seconds)

    def _headers(self, account: str, idempotency: str) -> dict[str, str]:
        try:
            key = self._secrets.headers(account)
        except KeyError:
            key = None
        if key is None:
            raise unsendable(f"the target file has no account {account!r}; add it to accounts")
        once = self._target.idempotency_header
        own = {name.lower() for name in self._target.headers}
        return {
            **({} if "content-type" in own else {"Content-Type": "application/json"}),
            **self._target.headers,
            **key,
            **({once: idempotency} if once else {}),
        }

    def _exchanged(
        self,
        method: str,
        address: str,
        headers: Mapping[str, str],
        body: bytes,
        most: int,
        inputs: Inputs | None,
    ) -> bytes:
        """Return the content of a good answer; raises AttemptError, or what httpx2 raises."""
        self._deadline.start(self._target.timeout)
        end = self._clock() + self._target.timeout
        with self._client.stream(method, address, headers=headers, content=body) as answer:
            if answer.status_code >= 500:
                # Not read, so that the connection is closed, as many servers do after a failure: the next
                # request would meet a connection that is being closed, and nobody could say if it was billed.
                content = b""
            elif answer.is_success:
                return self._content(answer, most, end)
            else:
                content = self._beginning(answer)
        raise verdicts.of_status(
            answer.status_code,
            answer.headers,
            bills_rejected=self._target.bills_rejected,
            now=self._now(),
            excerpt=_excerpt(self._parsed(content), inputs),
        )

    def _content(self, answer: httpx2.Response, most: int, end: float) -> bytes:
        """Return what came, decompressed; raises AttemptError for more than ``most`` bytes or seconds."""
        content = bytearray()
        for part in answer.iter_bytes():
            content += part
            if len(content) > most:
                raise unreadable(
                    f"the answer has more than {most:,} bytes, and no more are read; check output"
                )
            if self._clock() > end:
                raise httpx2.ReadTimeout("the answer takes too long")
        return bytes(content)

    def _beginning(self, answer: httpx2.Response) -> bytes:
        content = b""
        try:
            for part in answer.iter_bytes():
                content += part
                if len(content) > SHORT:
                    return b""
        except httpx2.HTTPError:
            return b""
        return content

    def metadata(self) -> dict[str, Any]:
        """Return what the target says of itself for free, by name, see :class:`Wire`; none raises an error.

        JSON where it is JSON, a text where it is a short text, True for an empty answer, None for any
        failure.
        """
        found: dict[str, Any] = {}
        for name, address in self._wire.metadata.items():
            try:
                headers = {**self._target.headers, **self._secrets.headers("")}
                content = self._exchanged("GET", address, headers, b"", SPACE, None)
            except Exception:  # noqa: BLE001  # a server without metadata is none the worse
                found[name] = None
                continue
            said = content.decode("utf-8", errors="replace").strip()
            found[name] = self._parsed(content) if said else True
            if found[name] is None:
                found[name] = self._secrets.hide(said)[:200]
        return found

    def _parsed(self, content: bytes) -> Any:
        """Return JSON without keys, None for anything else."""
        try:
            return self._secrets.cleaned(json.loads(content))
        except (ValueError, RecursionError):
            return None

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


def _excerpt(document: Any, inputs: Inputs | None) -> str:
    """Return what a target says of an error in few words, "" if it may repeat the inputs.

    Servers are known to repeat them: so nothing with a fraction, several numbers in a row or a long
    number is shown, and no text that stands in a table.
    """
    while isinstance(document, dict):
        document = next(
            (document[name] for name in ("error", "message", "detail", "msg") if name in document), None
        )
    if not isinstance(document, str) or not document.strip():
        return ""
    text = " ".join(document.split())
    cells = inputs.rows if inputs is not None and isinstance(inputs.rows, list | tuple) else ()
    repeated = any(isinstance(cell, str) and len(cell) > 2 and cell in text for row in cells for cell in row)
    if repeated or not text.isprintable() or _NUMBERS.search(text[:EXCERPT]):
        return "its own words are not shown, as they may repeat the inputs"
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…"
