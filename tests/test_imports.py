"""Who may import whom: walks the imports of the whole package and fails on a forbidden arrow."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "isoflop"
ROOT_MODULES = {"units", "records", "store", "refs", "provenance"}
LEAVES = {"records", "units"}
VERBS = {"plan", "train", "measure", "judge", "publish"}

ALLOWED: dict[str, set[str]] = {
    "units": set(),
    "records": {"units"},
    "store": LEAVES,
    "refs": LEAVES,
    "provenance": LEAVES,
    "laws": set(),
    "fit": {"laws", *LEAVES},
    "flops": LEAVES,
    "data": {"store", *LEAVES},
    "model": LEAVES,
    "dist": {"store", *LEAVES},
    "subject": {"model", "data", "dist", "store", *LEAVES},
    "plan": {"laws", "fit", "flops", "store", "refs", *LEAVES},
    "train": {"model", "data", "dist", "flops", "store", "refs", "provenance", *LEAVES},
    "measure": {"subject", "data", "flops", "store", "model", "dist", "refs", *LEAVES},
    "judge": {"laws", "fit", "store", *LEAVES},
    "publish": {"laws", "store", *LEAVES},
    "studies": {"laws", "plan", "judge", "refs", *LEAVES},
    "console": {"flops", "studies", "verbs", "train", "store", *LEAVES},
    "verbs": {"*"},
    "recipe_verbs": {"*"},
    "cli": {"*"},
}
"""Room -> rooms it may import. verbs and cli join the rooms; they hold nothing scientific."""

FIT: dict[str, set[str]] = {
    "tables": set(),
    "law": {"tables", "isoflop"},
    "isoflop": set(),
    "curves": set(),
    "compare": set(),
}
"""Room inside fit -> other rooms inside fit that it may import."""

OUTSIDE: dict[str, set[str]] = {
    "laws": {"numpy"},
    "fit": {"numpy", "scipy", "msgspec", "duckdb", "tensorboard"},
}
"""Rooms with a short list of packages from outside that they may import."""

TORCH_FREE = {
    "units",
    "records",
    "store",
    "refs",
    "provenance",
    "laws",
    "fit",
    "flops",
    "plan",
    "judge",
    "publish",
} | {
    "studies",
    "console",
    "verbs",
    "recipe_verbs",
    "cli",
    "data",
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Absolute names that a file imports anywhere, also inside functions; type-checking blocks left out."""
    found: set[str] = set()
    for node in _outside_type_checking(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level > 0:
            pytest.fail(f"{path}: relative import; write the absolute one")
    return frozenset(found)


def _outside_type_checking(tree: ast.AST) -> list[ast.AST]:
    nodes: list[ast.AST] = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        nodes += [child, *_outside_type_checking(child)]
    return nodes


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_forbidden_arrow(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    allowed = ALLOWED[room]
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "isoflop" and len(parts) > 1:
            target = parts[1]
            known = target in ALLOWED or target == "__version__"
            assert known, f"{path.name} imports isoflop.{target}, which this test does not know"
            fine = "*" in allowed or target in allowed or target in (room, "__version__")
            assert fine, f"{room} must not import {target} ({path.relative_to(SOURCE)}: {name})"
        elif parts[0] not in sys.stdlib_module_names and room in OUTSIDE:
            assert parts[0] in OUTSIDE[room], (
                f"{room} must not import {parts[0]} ({path.relative_to(SOURCE)})"
            )


@pytest.mark.parametrize("path", sorted((SOURCE / "fit").glob("*/*.py")), ids=lambda path: path.stem)
def test_the_rooms_of_fit_keep_apart(path: Path) -> None:
    room = path.parent.name
    for name in imported(path):
        parts = name.split(".")
        if parts[:2] == ["isoflop", "fit"] and len(parts) > 2:
            assert parts[2] in FIT[room] | {room}, f"fit/{room} must not import {name} ({path.name})"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_torch_stays_in_its_rooms(path: Path) -> None:
    room = room_of(path)
    names = imported(path)
    if room in TORCH_FREE or room == "__init__":
        assert not {name for name in names if name.split(".")[0] == "torch"}, f"{room} must not import torch"
    if room != "dist":
        distributed = {name for name in names if name.startswith("torch.distributed")}
        assert not distributed, f"torch.distributed belongs in dist/ alone, found {distributed} in {path}"


@pytest.mark.parametrize(
    "path", [p for p in modules() if room_of(p) == "studies"], ids=lambda path: path.stem
)
def test_no_study_imports_another(path: Path) -> None:
    others = {p.stem for p in modules() if room_of(p) == "studies"} - {
        "study",
        "__init__",
        "claims",
        path.stem,
    }
    if path.stem in ("study", "claims"):
        return
    for name in imported(path):
        parts = name.split(".")
        assert not (parts[:2] == ["isoflop", "studies"] and len(parts) > 2 and parts[2] in others), (
            f"{path.stem}: {name}"
        )


@pytest.mark.slow
def test_planning_and_judging_load_no_torch() -> None:
    """What the imports promise, checked in a fresh process: every torch-free module is imported for real."""
    names = [
        ".".join(("isoflop", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for path in modules()
        if room_of(path) in TORCH_FREE
    ]
    code = f"import importlib, sys\nfor n in {names!r}: importlib.import_module(n)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
