"""Terms of use: no answer before the account has accepted their version."""

from __future__ import annotations

from bench.serve import terms as accepted_terms
from bench.serve.asgi import App, Receive, Scope, Send, send_json
from bench.serve.call import Refused, call_of
from bench.serve.middleware.body import whole_body
from bench.serve.state import State
from bench.serve.terms import Terms
from bench.serve.wire import strict_json

SHOW, ACCEPT = "terms", "accept terms"
"""Names of the routes: ``GET /terms``, and ``POST /terms/accept`` with ``{"accept": VERSION}``."""
_MOST = 1_000
"""Bytes of the body that accepts."""


class AcceptedTerms:
    """Answers the routes of the terms, and lets other requests of accounts that accepted them pass.

    Each acceptance has its row in the audit log, with the version and the SHA-256 of its text.
    """

    def __init__(self, app: App, state: State, terms: Terms) -> None:
        self._app, self._state, self._terms = app, state, terms
        with state.transaction() as connection:
            accepted_terms.prepare(connection, terms)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises Refused."""
        call = call_of(scope)
        if call.route == SHOW:
            terms = self._terms
            await send_json(send, 200, {"version": terms.version, "sha256": terms.digest, "text": terms.text})
        elif call.route == ACCEPT:
            self._check(await whole_body(receive, "terms", most=_MOST))
            with self._state.transaction() as connection:
                now = self._state.now()
                accepted_terms.accept(
                    connection, call.account, self._terms.version, self._terms.digest, now=now
                )
            await send_json(send, 200, {"accepted": self._terms.version, "sha256": self._terms.digest})
        elif self._has_accepted(call.account):
            await self._app(scope, receive, send)
        else:
            raise Refused(
                403,
                f"accept version {self._terms.version} of the terms first: GET /terms, POST /terms/accept",
                control="terms",
            )

    def _has_accepted(self, account: str) -> bool:
        with self._state.reading() as connection:
            return accepted_terms.has_accepted(connection, account, self._terms)

    def _check(self, content: bytes) -> None:
        """Raise Refused unless the body accepts exactly this version."""
        keys = frozenset({"accept"})
        try:
            document = strict_json.fields(strict_json.parsed(content), keys, keys, "the body")
        except strict_json.BadRequestError as error:
            raise Refused(400, str(error), control="terms") from None
        if document["accept"] != self._terms.version:
            raise Refused(
                409, f"the terms have version {self._terms.version} now: read them again", control="terms"
            )
