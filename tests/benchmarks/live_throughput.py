"""Inputs a second that are bought of MLServer, ledger and second process included, against a bare client.

``python tests/benchmarks/live_throughput.py .tox/mlserver/bin/mlserver``: prints each pair and their median.
Both send the same inputs in requests of 64 over four connections of httpx2 with four threads, and read every
answer into an array. Pairs alternate, so that the rest of the machine weighs on both.
"""

import argparse
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "examples" / "live-target"), str(ROOT / "tests" / "support")]

import servers  # noqa: E402  # found by the path above
from real_servers import inputs, oip, write  # noqa: E402  # found by the path above

from bench.remote.buying import start_buyer  # noqa: E402  # found by the path above

BATCH, CONNECTIONS = 64, 4


def bare(client, url, x):
    """Send all inputs and return their answers, with no ledger, no checks and no second try."""

    def send(start):
        part = x[start : start + BATCH]
        tensor = {"name": "x", "shape": list(part.shape), "datatype": "FP32", "data": part.ravel().tolist()}
        body = {"inputs": [tensor], "outputs": [{"name": "predict_proba"}]}
        answer = client.post(f"{url}/v2/models/digits/infer", json=body).json()
        return np.array(answer["outputs"][0]["data"]).reshape(-1, 10)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return np.concatenate(list(pool.map(send, range(0, len(x), BATCH))))


def main():
    """Start the server, measure the pairs, print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mlserver", type=Path)
    parser.add_argument("--inputs", type=int, default=6400)
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with (
        tempfile.TemporaryDirectory() as name,
        servers.mlserver(options.mlserver, Path(name)) as server,
        httpx2.Client(trust_env=False, limits=httpx2.Limits(max_connections=CONNECTIONS)) as client,
    ):
        folder = Path(name)
        file = write(folder, oip(server, batch=BATCH, connections=CONNECTIONS))
        buyer = start_buyer(file, folder / "ledger.sqlite", canary=False)
        ratios = []
        try:
            for pair in range(options.pairs + 1):
                x = rng.random((options.inputs, 64), dtype=np.float32)
                speeds, answers = {}, {}
                for who in ("bare", "bought") if pair % 2 else ("bought", "bare"):
                    start = time.perf_counter()
                    if who == "bare":
                        answers[who] = bare(client, server.url, x)
                    else:
                        answers[who] = buyer.ask(inputs(x), session=str(pair), purpose="attack")
                    speeds[who] = len(x) / (time.perf_counter() - start)
                np.testing.assert_allclose(answers["bare"], answers["bought"], atol=1e-6)
                if pair:  # the first one warms up
                    ratios.append(speeds["bought"] / speeds["bare"])
                    print(f"bare {speeds['bare']:,.0f}/s, bought {speeds['bought']:,.0f}/s: {ratios[-1]:.2f}")
        finally:
            buyer.close()
    print(f"median of {len(ratios)} pairs: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
