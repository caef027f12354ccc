"""A model of handwritten digits behind HTTP, on this machine alone: something to try ``moatbench target`` on.

``python server.py [--port 8765]`` writes digits.npz, inputs ``x`` and digits ``y`` that the model did not
learn from, and answers ``POST /predict {"rows": [[64 numbers in 0 to 1], …]}`` with
``{"scores": [[10 probabilities], …]}``.
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

LARGEST = 10_000_000
"""Bytes of a request."""


def digits() -> LogisticRegression:
    """Return the model; write the inputs that it did not learn from."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    known, left, known_y, left_y = train_test_split(x, y, test_size=0.5, random_state=0, stratify=y)
    np.savez("digits.npz", x=left, y=left_y)
    return LogisticRegression(max_iter=2000).fit(known, known_y)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    wbufsize = -1  # headers and answer in one packet
    disable_nagle_algorithm = True
    model: LogisticRegression

    def do_POST(self) -> None:
        """Answer the rows of a request, or say what is wrong with it."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST:
            self.close_connection = True
            self._answer(413, {"error": "a request needs a length, of at most 10 MB"})
            return
        text = self.rfile.read(int(length))
        if self.path != "/predict":
            self._answer(404, {"error": "there is /predict alone"})
            return
        try:
            rows = np.asarray(json.loads(text)["rows"], dtype=np.float32)
            scores = self.model.predict_proba(rows)
        except (KeyError, TypeError, ValueError) as error:
            self._answer(400, {"error": type(error).__name__})
            return
        self._answer(200, {"scores": scores.tolist()})

    def _answer(self, status: int, values: dict[str, object]) -> None:
        text = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


def main() -> None:
    """Serve until it is interrupted."""
    parser = argparse.ArgumentParser(
        description="A model of handwritten digits at http://127.0.0.1:PORT/predict"
    )
    parser.add_argument("--port", type=int, default=8765)
    port = parser.parse_args().port
    Handler.model = digits()
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"http://127.0.0.1:{server.server_port}/predict", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
