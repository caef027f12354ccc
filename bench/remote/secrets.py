"""Keys of accounts: read from the environment once, and shown nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pydantic

from bench.errors import UsageError
from bench.remote.target import Target
from bench.remote.target_secrets import SECRET_NAME

_VISIBLE = re.compile(r"[\x21-\x7e]+")
HIDDEN = "[key]"
"""What stands for a key in a text."""


class Secrets:
    """The keys of a target's accounts; neither ``repr`` nor an error shows one."""

    def __init__(self, target: Target, environ: Mapping[str, str]) -> None:
        """Read the variables that ``key_env`` names; raises UsageError, which names the account alone."""
        self._header = target.key_header
        self._keys: dict[str, pydantic.SecretStr | None] = {}
        for account in target.accounts:
            variable = account.key_env
            key = None if variable is None else pydantic.SecretStr(_key(account.name, variable, environ))
            self._keys[account.name] = key
        self._signing = _optional("token_key_env", target.token_key_env, environ)
        place = target.second_factor
        self._code = _optional("secret_env", None if place is None else place.secret_env, environ)

    def __repr__(self) -> str:
        return f"Secrets({', '.join(self._keys)})"

    def headers(self, account: str) -> dict[str, str]:
        """Return the header with the account's key; "" is the first account, if there is any.

        Raises KeyError for an account that the target file does not name.
        """
        if not account and not self._keys:
            return {}
        key = self._keys[account or next(iter(self._keys))]
        if key is None:
            return {}
        before = "Bearer " if self._header.lower() == "authorization" else ""
        return {self._header: before + key.get_secret_value()}

    @property
    def signing_key(self) -> str | None:
        """The key that signs the target's tokens, None if the target file names none."""
        return None if self._signing is None else self._signing.get_secret_value()

    @property
    def code_secret(self) -> str | None:
        """The secret of one-time codes, None if the target file names none."""
        return None if self._code is None else self._code.get_secret_value()

    def hide(self, text: str) -> str:
        """Return the text with each key replaced, the longest first."""
        keys = (*self._keys.values(), self._signing, self._code)
        return hidden(text, (key.get_secret_value() for key in keys if key is not None))

    def cleaned(self, document: Any) -> Any:
        """Return JSON with each key replaced in its texts; numbers stay, though they may have its digits.

        To be done before anything is cut out of a text: a part of a key could not be recognised.
        """
        if not self._keys and self._signing is None and self._code is None:
            return document
        if isinstance(document, str):
            return self.hide(document)
        if isinstance(document, list):
            return [self.cleaned(each) for each in document]
        if isinstance(document, dict):
            return {self.hide(name): self.cleaned(each) for name, each in document.items()}
        return document


def hidden(text: str, secrets: Iterable[str]) -> str:
    """Return the text with each of ``secrets`` replaced, the longest first, as one may begin another."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def likely_secrets(environ: Mapping[str, str]) -> list[str]:
    """Return values of variables whose names look like those of keys: what a function may read itself.

    Without blanks and line breaks around them, which a message may show in another form.
    """
    values = [value.strip() for name, value in environ.items() if SECRET_NAME.search(name)]
    return [value for value in values if len(value) >= 8]


def _key(account: str, name: str, environ: Mapping[str, str]) -> str:
    """Return the value of the variable ``name``; no error shows the name, which may be a key by mistake."""
    return _value(f"key_env of account {account!r}", name, environ)


def _optional(field: str, variable: str | None, environ: Mapping[str, str]) -> pydantic.SecretStr | None:
    return None if variable is None else pydantic.SecretStr(_value(field, variable, environ))


def _value(field: str, name: str, environ: Mapping[str, str]) -> str:
    value = environ.get(name)
    which = f"the environment variable that {field} names"
    if value is None:
        raise UsageError(f"{which} is not set; set it to the key")
    if not value:
        raise UsageError(f"{which} is empty; set it to the key")
    if not _VISIBLE.fullmatch(value):
        raise UsageError(
            f"{which} has a blank, a line break or a character that is not ASCII; set it to the key alone"
        )
    return value
