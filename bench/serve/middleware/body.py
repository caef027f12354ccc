"""The body of a request, read to its end."""

from __future__ import annotations

from bench.serve.asgi import Receive
from bench.serve.call import Refused


async def whole_body(receive: Receive, control: str, *, most: int | None = None) -> bytes:
    """Return a body; raises Refused, in the name of ``control``, for one that ends early or is too long.

    ``most``: bytes, where it is less than the limit of all requests.
    """
    content = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Refused(400, "the body is not whole", control=control)
        content += message.get("body", b"")
        if most is not None and len(content) > most:
            raise Refused(413, f"this body may have {most} bytes", control=control)
        if not message.get("more_body", False):
            return bytes(content)
