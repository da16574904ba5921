"""Run the long proofs and record them: ``python -m tests.prove [NAME ...]``.

A proof is a module here with ``PROVES`` (the files whose behaviour it proves, relative to the root),
``run(...) -> dict`` with at least ``passed`` (bool) and ``limits`` (list of sentences), and ``show(dict) -> str``.
The record holds the date, the hash of the proved files, the machine and the result.
"""

from __future__ import annotations

import importlib
import sys
import time

from isoflop.provenance import current
from isoflop.store import write_atomic
from tests.prove.records import RECORDS, encode_record, hash_of, proofs


def main(names: list[str]) -> int:
    """Run the named proofs (all when none is named); 0 when every one passed."""
    failed = []
    for name in names or proofs():
        module = importlib.import_module(f"tests.prove.{name}")
        print(f"== {name}: {(module.__doc__ or '').strip().splitlines()[0]}", flush=True)
        before = hash_of(module.PROVES)
        started = time.process_time()
        result = module.run()
        seconds = time.process_time() - started
        print(module.show(result), flush=True)
        record = {
            "schema": "isoflop.Proof/1",
            "name": name,
            "date": current().started,
            "code_sha256": before,
            "proves": list(module.PROVES),
            "cpu_seconds": round(seconds, 1),
            "machine": current().machine,
            "result": result,
        }
        write_atomic(RECORDS / f"{name}.json", encode_record(record))
        print(
            f"   {'passed' if result['passed'] else 'FAILED'} in {seconds:.0f} CPU-s -> results/proofs/{name}.json"
        )
        if not result["passed"]:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
