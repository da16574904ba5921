"""Functions by address and by hash, without importing them.

An objective or a score enters a `RunSpec` as ``module:function`` with the hash of its source, so that an
edited function makes another run. The source is read from the module's file, so planning never loads what
the function needs (torch, say). It is resolved to the function itself in `isoflop.train.build` alone.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from pathlib import Path

from isoflop.records import FunctionRef, Scalar


class RefError(ValueError):
    """No such function, or its source has changed since the run was planned."""


def function_ref(path: str, **options: Scalar) -> FunctionRef:
    """The reference of a module-level function.

    Args:
        path: "package.module:function".
        options: keyword arguments bound to it.

    Raises:
        RefError: no such module, or no such function in it.
    """
    return FunctionRef(path=path, source_sha256=source_sha256(path), options=options)


def source_sha256(path: str) -> str:
    """Hash of a function's code: its syntax tree, so that comments and layout do not matter."""
    module, _, name = path.partition(":")
    file = _file_of(module, path)
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return hashlib.sha256(ast.dump(node).encode()).hexdigest()
    raise RefError(f"{path}: {file.name} defines no module-level function {name!r}")


def _file_of(module: str, path: str) -> Path:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise RefError(f"{path}: no Python module {module!r}; write it as package.module:function")
    return Path(spec.origin)
