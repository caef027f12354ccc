"""What the audit log says of one client, in a file that a third person can verify without the log.

It has the client's rows, and of every row between two checkpoints only the digest of the record, which says
nothing of it (records are salted). From these the hashes follow that the checkpoints signed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, nearest
from bench.serve import audit, terms
from bench.serve.checkpoints import BrokenCheckpointsError, Checkpoint, check, parsed, read
from bench.serve.log_check import Outcome, verify_log
from bench.serve.signatures import fingerprint, is_signed, pem, public_key, sign

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KIND = "evidence"
FORMAT = 1


def exported(
    state: Path,
    client: str,
    checkpoints: Path,
    *,
    checkpoint_key: Ed25519PublicKey,
    key: Ed25519PrivateKey,
    made: float,
) -> dict[str, Any]:
    """Return the evidence on ``client`` as JSON values, signed with ``key``.

    ``checkpoints``: the file, signed with ``checkpoint_key``. ``made``: when, in seconds since 1970. Raises
    UsageError for a client without rows, and for a log that is broken.
    """
    outcome = verify_log(state, checkpoints, checkpoint_key)
    if not outcome.holds:
        raise UsageError(f"evidence needs a log that holds and has checkpoints: {outcome.lines[0]}")
    known = read(checkpoints, checkpoint_key)
    digests: list[str] = []
    found: list[dict[str, Any]] = []
    numbers: list[int] = []
    accounts: set[Any] = set()
    with audit.reading(state) as connection:
        for row in audit.rows(connection):
            digests.append(audit.digest_of(row.record))
            account = json.loads(row.record).get("account")
            accounts.add(account)
            if account == client:
                found.append({"number": row.number, "record": row.record})
                numbers.append(row.number)
    if not found:
        names = {name for name in accounts if isinstance(name, str) and name}
        raise UsageError(f"the log has no row of the client {client!r}; {nearest(client, names)}")
    first, last = min(numbers), max(numbers)
    start = max((each.number for each in known if each.number < first), default=0)
    end = min((each.number for each in known if each.number >= last), default=len(digests))
    body = {
        "format": FORMAT,
        "client": client,
        "made": made,
        "start": start,
        "digests": digests[start:end],
        "rows": found,
        "checkpoints": [each.body | {"signature": each.signature} for each in known if each.number <= end],
        "checkpoint_key": pem(checkpoint_key),
    }
    return body | {"signature": sign(key, KIND, body)}


class NotEvidenceError(Exception):
    """The file is not as it was made; the message says in what."""


def verify_evidence(content: bytes, key: Ed25519PublicKey, copies: Path | None = None) -> Outcome:
    """Return whether evidence is as it was signed with ``key``, and what it says of whom.

    ``copies``: a file of checkpoints that was kept elsewhere, from which those of the evidence may not
    differ. Where it ends earlier, later rows count as not covered. Raises UsageError for a file that is no
    evidence.
    """
    try:
        document = json.loads(content)
        readable = document["format"] == FORMAT and isinstance(document["client"], str)
        signature = document.pop("signature")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        readable = False
    if not readable:
        raise UsageError("it is no evidence; moatbench serve log export makes it")
    if not is_signed(key, KIND, document, signature):
        return Outcome(False, ("broken: it is not signed with this key, or was changed",))
    try:
        return _verified(document, copies)
    except (NotEvidenceError, BrokenCheckpointsError) as error:
        return Outcome(False, (f"broken: {error}",))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return Outcome(False, ("broken: its fields are not what they have to be",))


@dataclass
class _Chain:
    """The rows of a client on the way along the chain."""

    covered: Checkpoint | None = None
    last: int = 0


def _verified(document: Mapping[str, Any], copies: Path | None) -> Outcome:
    signer = public_key(document["checkpoint_key"].encode(), "the key of its checkpoints")
    known = [parsed(each) for each in document["checkpoints"]]
    check(known, signer)
    attested = known
    if copies is not None:
        kept = read(copies, signer)
        if any(own.line != other.line for own, other in zip(known, kept, strict=False)):
            raise NotEvidenceError(f"its checkpoints are not those of {copies}")
        attested = known[: len(kept)]
    chain = _followed(document, known)
    if end := chain.covered:
        within = [each for each in attested if each.number <= end.number]
        chain.covered = within[-1] if within else None
    records = [json.loads(each["record"]) for each in document["rows"]]
    return Outcome(True, tuple(_told(document, records, chain, signer)))


def _followed(document: Mapping[str, Any], known: list[Checkpoint]) -> _Chain:
    """Follow the chain from its start over all digests; raises NotEvidenceError where it breaks."""
    rows = {each["number"]: each["record"] for each in document["rows"]}
    at = {each.number: each for each in known}
    number, last = document["start"], audit.FIRST
    if number:
        if number not in at:
            raise NotEvidenceError("it does not begin at a checkpoint")
        last = at[number].hash
    chain = _Chain()
    seen = 0
    for digest in document["digests"]:
        number += 1
        if number in rows:
            seen += 1
            chain.last = number
            if audit.digest_of(rows[number]) != digest:
                raise NotEvidenceError(f"row {number} is not the one of the log")
            if json.loads(rows[number]).get("account") != document["client"]:
                raise NotEvidenceError(f"row {number} is of another client")
        last = audit.link(number, last, digest)
        if number in at:
            if at[number].hash != last:
                raise NotEvidenceError(f"row {number} has another hash than its checkpoint")
            chain.covered = at[number]
    if not rows or seen != len(document["rows"]) or seen != len(rows):
        raise NotEvidenceError("it has a row twice, none, or one outside of the chain")
    return chain


def _told(
    document: Mapping[str, Any], records: list[dict[str, Any]], chain: _Chain, signer: Ed25519PublicKey
) -> list[str]:
    """Return what the evidence says, in lines for people."""
    numbers = [each["number"] for each in document["rows"]]
    lines = [f"{len(numbers)} rows of the client {document['client']!r}, from {numbers[0]} to {numbers[-1]}"]
    for number, record in zip(numbers, records, strict=True):
        if record.get("event") == terms.EVENT:
            lines.append(
                f"terms: version {record.get('version')!r}, SHA-256 {record.get('sha256')}, accepted "
                f"{_day(record.get('time'))} (row {number})"
            )
    answered = [each for each in records if each.get("event") == "answered"]
    inputs = sum(int(each.get("inputs") or 0) for each in answered)
    times = [float(each["time"]) for each in answered if "time" in each]
    if times:
        span = f"{_day(min(times))} to {_day(max(times))}"
        lines.append(f"{inputs:,} inputs in {len(answered):,} queries, {span}")
    covered = sum(number <= chain.covered.number for number in numbers) if chain.covered else 0
    lines.append(f"{covered} of {len(numbers)} rows are covered by checkpoints (key {fingerprint(signer)})")
    if covered < len(numbers):
        lines.append(
            "the others are later than the last checkpoint: only this file's signature vouches for them"
        )
    lines.append("the other rows are digests: whether some are of this client too cannot be known from it")
    return lines


def _day(time: Any) -> str:
    return datetime.fromtimestamp(float(time), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
