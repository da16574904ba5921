"""Functions by address and by hash, without importing them.

An objective or a score enters a `RunSpec` as ``module:function`` with the hash of its source, so that an
edited function makes another run. The source is read from the module's file, so planning never loads what
the function needs (torch, say). `resolve` makes the function of it, in the process that runs it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def check(ref: FunctionRef) -> None:
    """Refuse a function that is gone, or whose source is no longer what the run was planned with.

    Raises:
        RefError: with the two hashes.
    """
    found = source_sha256(ref.path)
    if found != ref.source_sha256:
        raise RefError(
            f"{ref.path} has changed since this run was planned (code {found[:8]}, planned {ref.source_sha256[:8]}): "
            "plan again, or go back to the code of the plan"
        )


def resolve(ref: FunctionRef) -> Callable[..., Any]:
    """The function itself, with its options bound.

    Raises:
        RefError: it is gone, or its source is no longer what the run was planned with.
    """
    check(ref)
    module, _, name = ref.path.partition(":")
    function = getattr(importlib.import_module(module), name)
    return functools.partial(function, **ref.options) if ref.options else function
