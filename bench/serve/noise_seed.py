"""The base of the defenses' noise: drawn once for a state, the same for all workers and after a restart."""

from __future__ import annotations

import secrets

from bench.serve.state import State

TABLE = "CREATE TABLE IF NOT EXISTS server (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"


def noise_seed(state: State) -> int:
    """Return the seed, in [0, 2**63). Whoever knows it can compute the noise: it is shown to nobody."""
    with state.transaction() as connection:
        connection.execute(TABLE)
        drawn = str(secrets.randbits(63))
        connection.execute("INSERT OR IGNORE INTO server VALUES ('noise seed', ?)", (drawn,))
        found = connection.execute("SELECT value FROM server WHERE name = 'noise seed'").fetchone()
    return int(found[0])
