"""Compares two stores of one matrix, record by record, bit for bit: what a refactor must not change.

``python tests/benchmarks/same_results.py BEFORE.sqlite AFTER.sqlite`` prints what differs and exits with 1 if
anything does. Records are matched by what was run, not by key: keys change with every plugin's source.
Seconds, memory and latency are left out; so is what only one of the two versions stores (it is named).
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from bench.records import Record
from bench.store import Store


def by_task(path):
    """Return a store's records by kind and spec."""
    with Store(path) as store:
        return {json.dumps([record.kind, record.spec], sort_keys=True): record for record in store.records()}


def parts(record: Record):
    """Return what two runs of one task have in common, by name."""
    info = {f"info.{name}": value for name, value in record.info.values().items()}
    arrays = {f"array.{name}": value.tobytes() for name, value in record.arrays.items()}
    metrics = {f"metric.{name}": repr(value) for name, value in record.metrics.items()}
    return {"status": record.status, "error": record.error, **metrics, **arrays, **info}


def compare(before, after):
    """Return how many records are equal, what differs by name, and what only one side has."""
    one, other = by_task(before), by_task(after)
    differing, alone = Counter(), Counter()
    alone.update({"records of the first alone": len(one.keys() - other.keys())})
    alone.update({"records of the second alone": len(other.keys() - one.keys())})
    equal = 0
    for task in one.keys() & other.keys():
        left, right = parts(one[task]), parts(other[task])
        alone.update(left.keys() ^ right.keys())
        wrong = [name for name in left.keys() & right.keys() if left[name] != right[name]]
        differing.update(wrong)
        equal += not wrong
    return equal, differing, +alone


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    given = parser.parse_args()
    equal, differing, alone = compare(given.before, given.after)
    print(f"{equal} records are equal, bit for bit")
    for name, count in [*differing.items(), *alone.items()]:
        print(f"{count:>6} {name}" + (" (in one of the two only)" if name in alone else " differ"))
    lost = any(name.startswith("records of") for name in alone)
    sys.exit(1 if differing or lost or not equal else 0)
