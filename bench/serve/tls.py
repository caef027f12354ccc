"""Certificates of a server, checked before it listens."""

from __future__ import annotations

import datetime as dt
import os
import ssl
from pathlib import Path

from bench.errors import UsageError
from bench.files import user_file


def checked_context(certificate: Path, key: Path, *, now: dt.datetime | None = None) -> ssl.SSLContext:
    """Return the context of a server with a certificate chain and its key, both PEM; TLS 1.2 at least.

    ``now``: in UTC, by default by the clock. Raises UsageError, one sentence: a file that is missing or no
    PEM, a certificate that has expired or is not valid yet, a key that belongs to another certificate, is
    encrypted, or can be read by every user of this machine.
    """
    from cryptography import x509

    chain, secret = user_file(certificate, "certificate"), user_file(key, "key of the certificate")
    if os.name == "posix" and secret.stat().st_mode & 0o007:
        raise UsageError(f"the key {key} can be read by every user of this machine: chmod 600 {key}")
    try:
        first = x509.load_pem_x509_certificates(chain.read_bytes())[0]
    except (ValueError, OSError) as error:
        raise UsageError(f"{certificate} holds no certificate (PEM)") from error
    now = now or dt.datetime.now(dt.UTC)
    if first.not_valid_after_utc < now:
        raise UsageError(
            f"the certificate {certificate} expired on {first.not_valid_after_utc:%Y-%m-%d}; renew it"
        )
    if first.not_valid_before_utc > now:
        raise UsageError(
            f"the certificate {certificate} is not valid before {first.not_valid_before_utc:%Y-%m-%d}; "
            "check it, and the clock of this machine"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # With a password, an encrypted key is an error; without one, the terminal would be asked.
        context.load_cert_chain(chain, secret, password="")  # nobody's password
    except (ssl.SSLError, OSError) as error:
        raise UsageError(
            f"the key {key} does not fit the certificate {certificate}, or is encrypted or no PEM"
        ) from error
    return context
