"""Where proofs leave their records, and which of them are older than the code they prove."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
RECORDS = ROOT / "results" / "proofs"
NOT_PROOFS = {"__init__", "__main__", "records"}


def proofs() -> list[str]:
    """Names of all proofs."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_PROOFS)


def proved_files(name: str) -> tuple[str, ...]:
    """The ``PROVES`` of a proof, read without importing it."""
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text())
    for node in tree.body:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        if any(isinstance(target, ast.Name) and target.id == "PROVES" for target in targets):
            return tuple(ast.literal_eval(node.value))  # type: ignore[union-attr,arg-type]
    raise ValueError(f"tests/prove/{name}.py names no PROVES")


def hash_of(files: Sequence[str]) -> str:
    """Hash of what the files do: their syntax trees without docstrings, so that a reworded comment is no change."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode())
        digest.update(_meaning((ROOT / name).read_text()).encode())
    return digest.hexdigest()


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                item
                for item in body
                if not (
                    isinstance(item, ast.Expr)
                    and isinstance(item.value, ast.Constant)
                    and isinstance(item.value.value, str)
                )
            ]
    return ast.unparse(tree)


def stale() -> list[str]:
    """A sentence for each proof that has no record, did not pass, or proves older code."""
    lines = []
    for name in proofs():
        path = RECORDS / f"{name}.json"
        if not path.exists():
            lines.append(f"{name}: never run")
            continue
        record = json.loads(path.read_text())
        if record["code_sha256"] != hash_of(proved_files(name)):
            lines.append(f"{name}: of {record['date']}, older than the code it proves")
        elif not record["result"]["passed"]:
            lines.append(f"{name}: of {record['date']}, did not pass")
    return lines


def encode_record(record: dict[str, Any]) -> str:
    """JSON with one key a line, no NaN."""
    return json.dumps(record, indent=1, allow_nan=False) + "\n"
