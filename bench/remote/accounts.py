"""Which account of a target file a client of an attack is."""

from __future__ import annotations

from bench.errors import UsageError, nearest
from bench.remote.target import Target

TESTER = "tester"
"""The account that the evaluation is asked with, where the target file has it."""


def evaluating_account(target: Target) -> str:
    """Return the account that the evaluation is asked with."""
    return account_of(target, TESTER if TESTER in {each.name for each in target.accounts} else "attacker")


def account_of(target: Target, client: str) -> str:
    """Return the account of the target file that a client is: "attacker", attacks' default, is the first.

    "" where the file has none. Raises UsageError for a name that it does not have.
    """
    names = [each.name for each in target.accounts]
    if client in names or not client:
        return client
    if client == "attacker":
        return names[0] if names else ""
    raise UsageError(
        f"the target file has no account {client!r}; {nearest(client, names) if names else 'none'}"
    )
