"""A small prediction server that accepts bearer tokens, with one fault each in how it verifies them."""

import jwt
from naive_servers import Reject, Server

SIGNING = "signing-key-of-a-naive-server-with-many-characters"
AUDIENCE = "naive"


def a_token(clock, **changes):
    """A token of ann that a server without a fault accepts, except for ``changes``."""
    claims = {"sub": "ann", "aud": AUDIENCE, "exp": int(clock()) + 40_000, **changes}
    return jwt.encode(claims, SIGNING, algorithm="HS256")


class TokenServer(Server):
    """As :class:`Server`, for tokens alone.

    Faults: "unsigned" (the token says by which algorithm it is signed, and none is one), "expired", "endless"
    (``exp`` may be missing), "any audience".
    """

    def account(self, headers, scope):
        token = headers.get("authorization", "").removeprefix("Bearer ")
        try:
            return self.claims(token)["sub"]
        except jwt.InvalidTokenError:
            raise Reject(401, "no valid token") from None

    def claims(self, token):
        lax = {"verify_exp": False, "verify_aud": "any audience" not in self.faults}
        if "unsigned" in self.faults and jwt.get_unverified_header(token)["alg"] == "none":
            return jwt.decode(token, options={"verify_signature": False}, audience=AUDIENCE)
        needed = ["sub", "aud"] if "endless" in self.faults else ["sub", "aud", "exp"]
        claims = jwt.decode(
            token, SIGNING, algorithms=["HS256"], audience=AUDIENCE, options={**lax, "require": needed}
        )
        # By the server's clock, which a test may move.
        if "expired" not in self.faults and claims.get("exp", self.clock() + 1) <= self.clock():
            raise jwt.ExpiredSignatureError
        return claims
