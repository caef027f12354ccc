"""Bearer tokens (JWT, RFC 7519) as another way to say which account asks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import UsageError, one_line
from bench.serve.extra import needs_serve
from bench.serve.secret_values import LEAST, read_secret

if TYPE_CHECKING:
    from bench.serve.access_controls import Jwt

Algorithm = Literal["HS256", "EdDSA", "ES256", "RS256"]
RSA_BITS = 2_048
"""Fewest bits of an RSA key (NIST SP 800-131A)."""


class Tokens:
    """Verifies tokens of one fixed algorithm, key and audience; what a token's header says is not asked."""

    def __init__(self, settings: Jwt, key: Any) -> None:
        with needs_serve():
            import jwt
        self._settings, self._key, self._jwt = settings, key, jwt

    def __repr__(self) -> str:
        return f"Tokens({self._settings.algorithm}, audience {self._settings.audience!r})"

    def subject(self, token: str, now: float) -> tuple[str, float | None] | None:
        """Return the account that a token names, and when it was issued, if it says so; None if not valid.

        ``now``: seconds since 1970, which the token has to be of beside the machine's clock: a clock that was
        set back makes no expired token valid. The token must have ``exp``, at most ``longest_seconds`` away,
        ``aud`` and ``sub``.
        """
        settings = self._settings
        try:
            claims = self._jwt.decode(
                token,
                self._key,
                algorithms=[settings.algorithm],
                audience=settings.audience,
                issuer=settings.issuer,
                options={"require": ["exp", "aud", "sub"]},
            )
            left = int(claims["exp"]) - now
            issued = float(claims["iat"]) if "iat" in claims else None
        # A token is anybody's text: whatever the library makes of it, it is not valid.
        except (self._jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
            return None
        subject = claims["sub"]
        if not 0 < left <= settings.longest_seconds or not isinstance(subject, str):
            return None
        return subject, issued


def read_tokens(settings: Jwt, folder: Path, environ: Mapping[str, str]) -> Tokens:
    """Return what verifies tokens as the table ``[jwt]`` says; raises UsageError for a key that does not fit.

    ``folder``: that paths are relative to.
    """
    if settings.algorithm == "HS256":
        file = folder / settings.key_file if settings.key_file else None
        secret = read_secret(
            "the key of tokens", variable=settings.key_env, file=file, environ=environ, least=LEAST
        )
        return Tokens(settings, secret.reveal())
    return Tokens(settings, _public_key(folder / str(settings.public_key_file), settings.algorithm))


def _public_key(path: Path, algorithm: Algorithm) -> Any:
    with needs_serve():
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        reason = one_line(error) if isinstance(error, OSError) else "it holds no public key in PEM"
        raise UsageError(f"public_key_file {path} cannot be used: {reason}") from None
    fits = {
        "EdDSA": isinstance(key, Ed25519PublicKey),
        "ES256": isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1),
        "RS256": isinstance(key, RSAPublicKey) and key.key_size >= RSA_BITS,
    }
    if not fits[algorithm]:
        needed = {"EdDSA": "an Ed25519 key", "ES256": "a P-256 key", "RS256": f"RSA of {RSA_BITS} bits"}
        raise UsageError(f"public_key_file {path} does not fit {algorithm}, which needs {needed[algorithm]}")
    return key
