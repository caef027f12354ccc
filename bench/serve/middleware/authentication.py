"""Access control: an API key or a bearer token says which account asks."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from bench.serve.addresses import network
from bench.serve.asgi import App, Receive, Scope, Send
from bench.serve.call import Refused, call_of
from bench.serve.keys import START, Account, account_named, account_of_key
from bench.serve.secret_values import Secret
from bench.serve.state import State
from bench.serve.tokens import Tokens

CONTROL = "keys"
TEXT = "a valid key is needed: authorization: Bearer KEY"


def unauthorised() -> Refused:
    """Return the one answer to whoever is not known, whatever the reason."""
    return Refused(401, TEXT, control=CONTROL, headers=(("www-authenticate", "Bearer"),))


def bearer(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return what follows "Bearer " in the header ``authorization``; "" if there is not exactly one."""
    values = [value for name, value in headers if name == b"authorization"]
    scheme, _, rest = values[0].decode("latin-1").partition(" ") if len(values) == 1 else ("", "", "")
    return rest.strip() if scheme.lower() == "bearer" else ""


def identified(state: State, pepper: Secret, tokens: Tokens | None, text: str) -> Account | None:
    """Return the account of a key, or of a token where tokens are accepted; None for any other text."""
    with state.reading() as connection:
        found = account_of_key(connection, pepper, text)
        if found is not None or tokens is None or text.startswith(START):
            return found
        subject = tokens.subject(text, max(state.clock(), state.last_seen()))
        return None if subject is None else account_named(connection, *subject)


class Authentication:
    """Passes requests of known accounts with one of ``roles`` on; refuses others with 401 or 403."""

    def __init__(
        self,
        app: App,
        state: State,
        pepper: Secret,
        *,
        tokens: Tokens | None = None,
        roles: Collection[str] = ("client",),
    ) -> None:
        self._app, self._state, self._pepper, self._tokens = app, state, pepper, tokens
        self._roles = frozenset(roles)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set the call's account and roles, or raise Refused."""
        if scope["type"] == "http":
            call = call_of(scope)
            account = identified(self._state, self._pepper, self._tokens, bearer(scope["headers"]))
            if account is None:
                raise unauthorised()
            call.account, call.roles = account.name, frozenset({account.role})
            if account.role not in self._roles:
                raise Refused(403, "this key has another role", control=CONTROL)
        await self._app(scope, receive, send)


class Anonymous:
    """Stands in for :class:`Authentication` where keys are off: an account is the address of a connection."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set the call's account."""
        if scope["type"] == "http":
            call = call_of(scope)
            call.account, call.roles = f"address {network(call.address)}", frozenset({"client"})
        await self._app(scope, receive, send)
