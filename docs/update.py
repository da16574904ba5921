"""Rewrite what is generated: the numbers in README.md (from results/) and docs/claims.md (from the studies).

``python docs/update.py`` writes; ``--check`` only says whether anything would change. A block between
``<!-- record: NAME -->`` and ``<!-- /record -->`` is filled from ``results/NAME/verdict.json``; a missing
record is an error, so a number in prose cannot outlive its source.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from isoflop import units
from isoflop.records import Verdict, read

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- record: (?P<name>[\w-]+) -->\n).*?(<!-- /record -->)", re.DOTALL)


def summary(name: str) -> str:
    """The verdict of a committed result as Markdown: sentence, statements, cost, link to the report."""
    verdict = read(ROOT / "results" / name / "verdict.json", Verdict)
    lines = [f"**{verdict.question}** {verdict.sentence}", ""]
    for statement in verdict.statements:
        lines.append(f"- *{statement.outcome}*: {statement.text} ({statement.because})")
    if verdict.cost is not None and verdict.provenance is not None:
        spent = units.format_flops(verdict.cost.spent_flops)
        lines += [
            "",
            f"Cost: {spent} ({verdict.cost.convention}), {units.format_seconds(verdict.cost.spent_seconds)} "
            f"of one core; {verdict.provenance.machine}. Everything is in [results/{name}](results/{name}).",
        ]
    return "\n".join(lines) + "\n"


def readme() -> str:
    """README.md with its blocks filled from the records."""
    text = (ROOT / "README.md").read_text()
    return BLOCK.sub(lambda match: match[1] + summary(match["name"]) + match[3], text)


def generated() -> dict[Path, str]:
    """Every generated file with what it should hold."""
    from isoflop.studies.claims import render

    return {ROOT / "README.md": readme(), ROOT / "docs" / "claims.md": render()}


def main(arguments: list[str]) -> int:
    """Write the generated files, or with --check say which would change; 1 when one would."""
    changed = [path for path, text in generated().items() if path.read_text() != text]
    for path in changed:
        print(f"{'would change' if '--check' in arguments else 'wrote'} {path.relative_to(ROOT)}")
        if "--check" not in arguments:
            path.write_text(generated()[path])
    return 1 if changed and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
