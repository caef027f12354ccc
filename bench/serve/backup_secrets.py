"""What a backup holds encrypted: the seed of noise and the key of the watermark.

A restored server needs both to answer as before, and both are secret. The key that encrypts them follows
from the pepper of API keys, which no backup holds.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sqlite3

from bench.errors import UsageError
from bench.serve import noise_seed, watermark
from bench.serve.extra import needs_serve
from bench.serve.secret_values import Secret

_SEALED = "sealed secrets"
_SEED = "noise seed"
_NONCE = 12
_AAD = b"moatbench backup 1"


def take_out(connection: sqlite3.Connection, pepper: Secret | None) -> bool:
    """Replace the secrets of a state by their encrypted form; without a pepper they are left out.

    Return whether the state had secrets that were left out.
    """
    connection.execute(noise_seed.TABLE)
    connection.execute(watermark.KEYS)
    seed = connection.execute("SELECT value FROM server WHERE name = ?", (_SEED,)).fetchone()
    key = connection.execute("SELECT key FROM watermark_key").fetchone()
    connection.execute("DELETE FROM server WHERE name = ?", (_SEED,))
    connection.execute("DELETE FROM watermark_key")
    found = {"seed": seed and seed[0], "key": key and bytes(key[0]).hex()}
    if pepper is None or not any(found.values()):
        return any(map(bool, found.values()))
    with needs_serve():
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    nonce = os.urandom(_NONCE)
    sealed = nonce + AESGCM(_key(pepper)).encrypt(nonce, json.dumps(found).encode(), _AAD)
    connection.execute("INSERT INTO server VALUES (?, ?)", (_SEALED, sealed.hex()))
    return False


def sealed_in(connection: sqlite3.Connection) -> bytes | None:
    """Return the encrypted secrets of a backup's state, None where it has none."""
    connection.execute(noise_seed.TABLE)
    row = connection.execute("SELECT value FROM server WHERE name = ?", (_SEALED,)).fetchone()
    return bytes.fromhex(row[0]) if row else None


def put_back(connection: sqlite3.Connection, pepper: Secret | None) -> None:
    """Decrypt the secrets of a restored state; raises UsageError without the server's pepper."""
    sealed = sealed_in(connection)
    if sealed is None:
        return
    if pepper is None:
        raise UsageError("this backup needs the pepper of the server's keys: --pepper-file or --pepper-env")
    with needs_serve():
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    try:
        found = json.loads(AESGCM(_key(pepper)).decrypt(sealed[:_NONCE], sealed[_NONCE:], _AAD))
    except InvalidTag:
        raise UsageError("this pepper is not the one of the server that was backed up") from None
    connection.execute("DELETE FROM server WHERE name = ?", (_SEALED,))
    if found["seed"]:
        connection.execute("INSERT INTO server VALUES (?, ?)", (_SEED, found["seed"]))
    if found["key"]:
        connection.execute(watermark.KEYS)
        connection.execute("INSERT INTO watermark_key VALUES (1, ?)", (bytes.fromhex(found["key"]),))


def _key(pepper: Secret) -> bytes:
    """Return the key for backups: another use of the pepper gets another key (HKDF's expand step)."""
    return hmac.digest(pepper.reveal(), b"moatbench backups\x01", hashlib.sha256)
