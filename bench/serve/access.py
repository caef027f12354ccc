"""Access control and counting as the controls file has them: secrets are read once, when a server starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.serve.asgi import App
from bench.serve.controls import Controls
from bench.serve.middleware.authentication import Anonymous, Authentication
from bench.serve.middleware.failed_keys import FailedKeys, Limit
from bench.serve.middleware.quota import QuotaAndRate
from bench.serve.middleware.suspension import Suspension
from bench.serve.second_factor import check_pepper
from bench.serve.secret_values import Secret
from bench.serve.state import State
from bench.serve.tokens import Tokens, read_tokens


@dataclass(frozen=True)
class Access:
    """Wraps applications in the controls of access and counting. ``pepper``: None where keys are off."""

    controls: Controls
    state: State
    pepper: Secret | None
    tokens: Tokens | None = None

    def identified(self, app: App) -> App:
        """Return ``app`` for known accounts alone, with the limit of failed keys around."""
        keys = self.controls.keys
        if self.pepper is None:
            return Anonymous(app)
        app = Authentication(app, self.state, self.pepper, tokens=self.tokens)
        return FailedKeys(app, self.state, Limit(keys.failures, keys.failure_seconds))

    def counted(self, app: App) -> App:
        """Return ``app`` with quota, rate and suspension around; the query has to be decoded."""
        quota = self.controls.quota
        app = Suspension(app, self.state, after=self.controls.suspension.after)
        return QuotaAndRate(app, self.state, cap=quota.cap, rate=quota.window)


def read_access(controls: Controls, state: State, *, folder: Path, environ: Mapping[str, str]) -> Access:
    """Return the controls of access, with their secrets; raises UsageError where one is missing or unfit.

    ``folder``: that of the controls file, which paths in it are relative to.
    """
    keys = controls.keys
    pepper = keys.pepper(folder, state.path.parent, environ) if keys.on else None
    if pepper is not None:
        with state.reading() as connection:
            check_pepper(connection, pepper)  # else every key would be refused, and nobody would know why
    tokens = read_tokens(controls.jwt, folder, environ) if keys.on and controls.jwt else None
    return Access(controls, state, pepper, tokens)
