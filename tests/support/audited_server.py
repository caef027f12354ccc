"""A state file with an audit log and checkpoints, and what an intruder does to it."""

import sqlite3
from contextlib import closing

from bench.serve import audit, signatures
from bench.serve.checkpoint_writer import Writer
from bench.serve.log_check import verify_log
from bench.serve.state import State, state_file


class Server:
    """A state file with an audit log, and a writer of checkpoints with a clock that stands still."""

    def __init__(self, folder):
        self.path = state_file(folder / "state")
        self.state = State(self.path, clock=lambda: 0.0)
        self.file = folder / "elsewhere" / "checkpoints"
        self.key_file = folder / "checkpoint.key"
        self.public_file = signatures.new_key_pair(self.key_file)
        self.seconds = 0.0
        self.writer = self.new_writer()

    def new_writer(self):
        return Writer(
            self.path,
            self.file,
            signatures.read_private_key(self.key_file),
            rows=5,
            seconds=60,
            clock=lambda: 1_700_000_000.0 + self.seconds,
            timer=lambda: self.seconds,
        )

    def write(self, count, **fields):
        with self.state.transaction() as connection:
            for _ in range(count):
                audit.append(connection, "answered", {"account": "ann", "inputs": 3, **fields})

    def forge(self, statement, *values):
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement, values)

    def rewrite(self, start=1):
        """Give every row from ``start`` the hash that follows from the others, as an intruder can."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            last = audit.row_hash(connection, start - 1)
            kept = [row.record for row in audit.rows(connection, start - 1)]
            connection.execute("DELETE FROM audit WHERE number >= ?", (start,))
            for number, record in enumerate(kept, start):
                last = audit.link(number, last, audit.digest_of(record))
                connection.execute("INSERT INTO audit VALUES (?, ?, ?)", (number, record, last))

    def outcome(self):
        return verify_log(self.path, self.file, signatures.read_public_key(self.public_file))
