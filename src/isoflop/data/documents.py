"""Where text comes from: the standard library's own source, or a folder or file of the user's.

Finds the files, reads them one document at a time and says which side of the split each one is on. Nothing
is left out in silence: what cannot be read is an `Exclusion` with its reason. Tokens are made elsewhere.

A plain text file is one document; a JSONL or Parquet file holds one document per row. ``.gz`` and ``.zst``
are undone on the way.
"""

from __future__ import annotations

import ast
import fnmatch
import gzip
import hashlib
import io
import json
import os
import platform
import sysconfig
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

from isoflop.records import Exclusion

Side = Literal["train", "val"]

STDLIB = "stdlib"
STDLIB_PARTS = ("code", "prose")
"""As in "stdlib:code": the modules without their docstrings, and in "stdlib:prose": the docstrings alone."""
SHARED = "shared-data"
"""The folder that the environment variable ISOFLOP_SHARED_DATA names."""
# fmt: off
STDLIB_LEFT_OUT = frozenset({
    "test", "tests", "encodings", "idlelib", "lib2to3", "distutils", "pydoc_data", "ensurepip",
    "turtledemo", "site-packages", "dist-packages", "__pycache__",
})
# fmt: on
"""Folders of the standard library that are not read: tests, tables, and what distributions often remove."""

# fmt: off
TEXT_ENDINGS = frozenset({
    ".txt", ".text", ".md", ".rst", ".tex", ".org", ".adoc", ".py", ".pyi", ".c", ".h", ".cc", ".cpp",
    ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".js", ".ts", ".jsx", ".tsx", ".rb", ".php", ".pl", ".lua",
    ".r", ".jl", ".hs", ".ml", ".scala", ".swift", ".sh", ".sql", ".html", ".htm", ".xml", ".css", ".yaml",
    ".yml", ".toml", ".ini",
})
# fmt: on
ROW_ENDINGS = frozenset({".jsonl", ".ndjson", ".parquet"})
PACKED_ENDINGS = frozenset({".gz", ".zst"})
FOLDERS_LEFT_OUT = frozenset({"__pycache__", "node_modules"})

TEXT_FIELDS = (
    "text",
    "content",
    "contents",
    "body",
    "document",
    "raw_content",
    "raw_text",
    "article",
    "code",
)
"""Usual names of the field that holds a row's text, in order of preference."""
DOCUMENT_FIELDS = ("doc", "doc_id", "document_id", "url", "id")
"""Fields that name the document of which a row is a part: parts of one document stay on one side."""

HELD_OUT_ONE_IN = 20
_SIDE_OF_WORD: dict[str, Side] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
}


class DataError(RuntimeError):
    """A corpus or data set that cannot be had or used; the message says why and what to do."""


class Skips:
    """What was left out, by reason: the first few by name, the rest by number."""

    NAMED = 20

    def __init__(self) -> None:
        self._named: dict[str, list[str]] = {}
        self._number: dict[str, int] = {}

    def add(self, what: str, reason: str) -> None:
        self._number[reason] = self._number.get(reason, 0) + 1
        named = self._named.setdefault(reason, [])
        if len(named) < self.NAMED:
            named.append(what)

    def exclusions(self) -> tuple[Exclusion, ...]:
        found: list[Exclusion] = []
        for reason, named in self._named.items():
            found += [Exclusion(what=what, reason=reason) for what in named]
            if more := self._number[reason] - len(named):
                found.append(Exclusion(what=f"{more} more", reason=reason))
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file of a source, as found on disk."""

    relative: str
    """Path below the source's root, with forward slashes."""
    path: Path
    num_bytes: int
    mtime_ns: int
    side: Side | None = None
    """Set when the files' own names say train and validation."""


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A place with text: its files in a fixed order, and how to read them."""

    given: str
    """As the user wrote it, text field included: enough to find it again."""
    files: tuple[SourceFile, ...]
    text_field: str | None
    description: str
    named_split: bool
    """True when the names of the files decide the split."""
    skips: Skips = field(default_factory=Skips)
    part: str | None = None
    """One of STDLIB_PARTS when only that part of each Python file is read; None reads all of it."""

    def listing_sha256(self) -> str:
        """Hash of names, sizes and times of change: tells cheaply that nothing has been touched."""
        rows = [[file.relative, str(file.path), file.num_bytes, file.mtime_ns] for file in self.files]
        return hashlib.sha256(json.dumps([self.given, rows]).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text, valid UTF-8, never empty, without zero bytes."""

    where: str
    """Relative path, with "#row" for a row of a file."""
    data: bytes
    side: Side


def side_of(key: str, one_in: int = HELD_OUT_ONE_IN) -> Side:
    """One document in so many is held out, by the hash of its name: sha256(key) mod one_in == 0."""
    digest = int(hashlib.sha256(key.encode()).hexdigest(), 16)
    return "val" if digest % one_in == 0 else "train"


def find_source(source: str | Path, text_field: str | None = None) -> TextSource:
    """Find the files behind a source.

    Args:
        source: "stdlib", or the path of a folder or file; "PATH#FIELD" names the text field of its rows.
            "stdlib/PATTERN" takes the top-level modules of the standard library that match ("stdlib/[a-d]*"),
            "stdlib:code" the library without its docstrings, "stdlib:prose" the docstrings alone;
            "shared-data/PATTERN" the files that match below the folder ISOFLOP_SHARED_DATA.
        text_field: the same, given apart.

    Raises:
        DataError: nothing there, or nothing in it that can be read as text.
    """
    path = Path(source)
    if str(source) == STDLIB or (str(source).startswith(f"{STDLIB}/") and not path.exists()):
        return _find_stdlib(str(source))
    if str(source) in {f"{STDLIB}:{part}" for part in STDLIB_PARTS}:
        return _find_stdlib_part(str(source))
    if path.parts and path.parts[0] == SHARED and not path.exists():
        return _find_shared(str(source))
    if not path.exists() and text_field is None and "#" in str(source):
        base, _, text_field = str(source).rpartition("#")
        path = Path(base)
    if not path.exists():
        raise DataError(f"no corpus at {path}: give an existing file or folder, or {STDLIB!r}")
    skips = Skips()
    found = [path] if path.is_file() else list(_walk(path, FOLDERS_LEFT_OUT, skips))
    root = path.parent if path.is_file() else path
    files = _rows_alone(_readable(root, found, skips), skips)
    given = str(path) if text_field is None else f"{path}#{text_field}"
    if not files:
        left = f" ({'; '.join(f'{e.what}: {e.reason}' for e in skips.exclusions()[:3])})" if found else ""
        raise DataError(
            f"no text in {path}{left}: it takes text files, .jsonl or .parquet, plain, .gz or .zst"
        )
    named = _split_by_name(files)
    return TextSource(
        given=given,
        files=tuple(named or files),
        text_field=text_field,
        description=f"{len(files)} file{'s' if len(files) > 1 else ''} in {path.name or path}",
        named_split=named is not None,
        skips=skips,
    )


def read_documents(source: TextSource, skips: Skips) -> Iterator[Document]:
    """Every readable document of the source, in the order of its files; the rest goes into `skips`."""
    for file in source.files:
        try:
            for where, key, data in _read_file(file, source.text_field, skips):
                reason = _why_not(data)
                if not reason and source.part:
                    data = _part_of_module(data, source.part)
                    reason = "" if data else f"no {source.part} in it"
                if reason:
                    skips.add(where, reason)
                else:
                    yield Document(where=where, data=data, side=file.side or side_of(key))
        except (OSError, EOFError, ValueError, zlib.error) as error:
            skips.add(file.relative, f"could not be read to its end: {error}")


@dataclass(frozen=True, kw_only=True)
class FilePart:
    """A file, or a range of bytes of a plain file of rows: what one worker reads."""

    file: SourceFile
    first_byte: int = 0
    end_byte: int | None = None
    """A row belongs to the part in which it begins; None reads to the end."""

    @property
    def where(self) -> str:
        if self.first_byte == 0 and self.end_byte is None:
            return self.file.relative
        return f"{self.file.relative}[{self.first_byte}:{'' if self.end_byte is None else self.end_byte}]"


def cut_into_parts(source: TextSource, bytes_per_part: int) -> tuple[FilePart, ...]:
    """Every file of a source, plain files of rows in pieces of about `bytes_per_part`.

    The pieces depend on the files alone, never on the number of workers.

    Raises DataError for a source of which only a part is read: it is prepared whole (`corpus.prepare`).
    """
    if source.part:
        raise DataError(f"{source.given} is small: train on it as it is, without tokenizing it first")
    parts: list[FilePart] = []
    for file in source.files:
        ending, packing = _endings(file.relative)
        pieces = 1
        if ending in ROW_ENDINGS and ending != ".parquet" and not packing:
            pieces = max(1, round(file.num_bytes / bytes_per_part))
        edges = [file.num_bytes * number // pieces for number in range(pieces)]
        ends: list[int | None] = [*edges[1:], None]
        parts += [FilePart(file=file, first_byte=a, end_byte=b) for a, b in zip(edges, ends, strict=True)]
    return tuple(parts)


def read_part(part: FilePart, text_field: str | None, skips: Skips) -> Iterator[tuple[str, bytes]]:
    """(key of the split, UTF-8 bytes) of each readable document of a part; the rest goes into `skips`.

    Raises ValueError or OSError when the file cannot be read to its end.
    """
    whole = part.first_byte == 0 and part.end_byte is None
    rows = _read_file(part.file, text_field, skips) if whole else _read_range(part, text_field, skips)
    for where, key, data in rows:
        reason = _why_not(data)
        if reason:
            skips.add(where, reason)
        else:
            yield key, data


def _read_range(part: FilePart, text_field: str | None, skips: Skips) -> Iterator[tuple[str, str, bytes]]:
    with part.file.path.open("rb") as stream:
        if part.first_byte:
            stream.seek(part.first_byte - 1)
            stream.readline()  # the rest of a row that began before, or the end of one
        while part.end_byte is None or stream.tell() < part.end_byte:
            at = stream.tell()
            line = stream.readline()
            if not line:
                return
            row = _parse_row(line, f"{part.file.relative}@{at}", text_field, skips)
            if row:
                yield row


# ------------------------------------------------------------------------------------ finding


def _find_stdlib(given: str) -> TextSource:
    """The standard library's source, or those of its top-level modules and packages that match a pattern."""
    pattern = given.removeprefix(STDLIB).removeprefix("/") or "*"
    root = Path(sysconfig.get_paths()["stdlib"])
    skips = Skips()
    found = [path for path in _walk(root, STDLIB_LEFT_OUT, skips) if path.suffix == ".py"]
    # Written when Python was built, so different on each machine with the same release.
    found = [p for p in found if not p.name.startswith(("_sysconfigdata", "sitecustomize"))]
    found = [p for p in found if not p.relative_to(root).parts[0].startswith("config-")]
    if not found:
        raise DataError(
            f"the standard library at {root} has no .py files (some builds ship it without source): "
            "give a folder of text instead"
        )
    found = [p for p in found if fnmatch.fnmatchcase(p.relative_to(root).parts[0], pattern)]
    files = _readable(root, found, skips)
    if not files:
        raise DataError(
            f"no module of the standard library matches {pattern!r}; e.g. stdlib/[a-d]*, stdlib/email"
        )
    whose = f"standard library of {platform.python_implementation()} {platform.python_version()}"
    return TextSource(
        given=given,
        files=tuple(files),
        text_field=None,
        description=whose if pattern == "*" else f"{pattern} of the {whose}",
        named_split=False,
        skips=skips,
    )


def _find_stdlib_part(given: str) -> TextSource:
    """The code of the standard library, or the prose in it."""
    whole = _find_stdlib(STDLIB)
    part = given.removeprefix(f"{STDLIB}:")
    words = "docstrings" if part == "prose" else "code without docstrings"
    return replace(whole, given=given, part=part, description=f"{words} of the {whole.description}")


def _find_shared(given: str) -> TextSource:
    """Files below the folder of shared data that match a pattern, named without that folder's place."""
    folder, pattern = os.environ.get("ISOFLOP_SHARED_DATA"), given.removeprefix(f"{SHARED}/")
    if not folder or not Path(folder).is_dir():
        raise DataError(
            f"{given} is a part of optional data, which is not here: set ISOFLOP_SHARED_DATA to their folder"
        )
    skips = Skips()
    files = _readable(Path(folder), [path for path in Path(folder).glob(pattern) if path.is_file()], skips)
    if not files:
        raise DataError(f"no text matches {pattern!r} in the folder ISOFLOP_SHARED_DATA")
    named = _split_by_name(files)
    return TextSource(
        given=given,
        files=tuple(named or files),
        text_field=None,
        description=f"{len(files)} file{'s' if len(files) > 1 else ''} of {given}",
        named_split=named is not None,
        skips=skips,
    )


def _walk(root: Path, left_out: frozenset[str], skips: Skips) -> Iterator[Path]:
    """Files below `root` in a fixed order; hidden ones and those of the folders named are not seen."""

    def note(error: OSError) -> None:
        where = os.path.relpath(error.filename, root)
        skips.add(Path(where).as_posix(), f"could not be listed: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=note):
        folders[:] = sorted(name for name in folders if name not in left_out and not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name)


def _readable(root: Path, found: list[Path], skips: Skips) -> list[SourceFile]:
    """Keep what has a known ending and is there; sorted by relative path."""
    files = []
    for path in found:
        relative = path.relative_to(root).as_posix()
        ending, _ = _endings(relative)
        if ending not in TEXT_ENDINGS and ending not in ROW_ENDINGS:
            skips.add(relative, f"not a known kind of text ({ending or 'no ending'})")
            continue
        try:
            status = path.stat()
        except OSError as error:
            skips.add(relative, f"could not be opened: {error.strerror}")
            continue
        files.append(
            SourceFile(relative=relative, path=path, num_bytes=status.st_size, mtime_ns=status.st_mtime_ns)
        )
    return sorted(files, key=lambda file: file.relative)


def _rows_alone(files: list[SourceFile], skips: Skips) -> list[SourceFile]:
    """Beside JSONL or Parquet files, text files are notes about them (README.md) and are not read."""
    rows = [file for file in files if _endings(file.relative)[0] in ROW_ENDINGS]
    if not rows:
        return files
    for file in files:
        if file not in rows:
            skips.add(file.relative, "a text file beside files of rows; give it apart to train on it")
    return rows


def _endings(name: str) -> tuple[str, str]:
    """("novels.jsonl.gz") -> (".jsonl", ".gz"); the second is empty for a plain file."""
    stem, ending = os.path.splitext(name.lower())
    return (os.path.splitext(stem)[1], ending) if ending in PACKED_ENDINGS else (ending, "")


def _split_by_name(files: list[SourceFile]) -> list[SourceFile] | None:
    """The files with their sides, when each name says train or validation and both are there."""
    named = []
    for file in files:
        words = Path(file.relative).name.lower().replace("-", ".").replace("_", ".").split(".")
        sides = {_SIDE_OF_WORD[word] for word in words if word in _SIDE_OF_WORD}
        if len(sides) != 1:
            return None
        named.append(
            SourceFile(
                relative=file.relative,
                path=file.path,
                num_bytes=file.num_bytes,
                mtime_ns=file.mtime_ns,
                side=sides.pop(),
            )
        )
    return named if {file.side for file in named} == {"train", "val"} else None


# ------------------------------------------------------------------------------------ reading


def _part_of_module(data: bytes, part: str) -> bytes:
    """The docstrings of a Python module, or its lines without them; empty when it cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own odd escapes
            tree = ast.parse(data)
    except (SyntaxError, ValueError):
        return b""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(tree) if isinstance(node, holders)]
    texts = {node.body[0].lineno: (node.body[0], text) for node in found if (text := ast.get_docstring(node))}
    if part == "prose":
        return "\n\n".join(texts[line][1] for line in sorted(texts)).encode()
    lines = data.splitlines(keepends=True)
    for node, _ in texts.values():
        for number in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[number] = b""
    return b"".join(lines)


def _read_file(file: SourceFile, text_field: str | None, skips: Skips) -> Iterator[tuple[str, str, bytes]]:
    """(where, key of the split, UTF-8 bytes) of each document in one file."""
    ending, _ = _endings(file.relative)
    if ending == ".parquet":
        yield from _read_parquet(file, text_field, skips)
    elif ending in ROW_ENDINGS:
        yield from _read_jsonl(file, text_field, skips)
    else:
        with _open_plain(file.path) as stream:
            yield file.relative, file.relative, stream.read()


@contextmanager
def _open_plain(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed when its name says so."""
    ending = path.suffix.lower()
    with path.open("rb") as raw:
        if ending == ".gz":
            with gzip.GzipFile(fileobj=raw) as stream:
                yield stream  # type: ignore[misc]
        elif ending == ".zst":
            try:
                import zstandard
            except ImportError:
                raise DataError(f"{path} needs zstandard: pip install 'isoflop[train]'") from None
            try:
                with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as stream:
                    yield io.BufferedReader(stream, 1 << 20)
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from None
        else:
            yield raw


def _read_jsonl(file: SourceFile, text_field: str | None, skips: Skips) -> Iterator[tuple[str, str, bytes]]:
    with _open_plain(file.path) as stream:
        for number, line in enumerate(stream, start=1):
            row = _parse_row(line, f"{file.relative}#{number}", text_field, skips)
            if row:
                yield row


def _parse_row(
    line: bytes, where: str, text_field: str | None, skips: Skips
) -> tuple[str, str, bytes] | None:
    """(where, key, bytes) of one line of JSONL; None for an empty one, or one that is noted in `skips`."""
    if not line.strip():
        return None
    try:
        row = json.loads(line)
    except ValueError:
        skips.add(where, "not valid JSON")
        return None
    row = {"text": row} if isinstance(row, str) else row
    if not isinstance(row, dict):
        skips.add(where, "a row that is neither an object nor a string")
        return None
    found = _text_of(row, where, text_field, skips)
    return None if found is None else (where, *found)


def _text_of(
    row: dict[str, Any], where: str, text_field: str | None, skips: Skips
) -> tuple[str, bytes] | None:
    """(key, bytes) of a row; None when it has no text, which is noted."""
    name = text_field or _first_field(row, TEXT_FIELDS)
    text = row.get(name) if name else None
    if not isinstance(text, str):
        skips.add(where, f"no text in the field {text_field or ' or '.join(TEXT_FIELDS)}")
        return None
    return _row(text, row)


def row_document(
    row: dict[str, Any], where: str, text_field: str | None, skips: Skips
) -> tuple[str, bytes] | None:
    """(key of the split, UTF-8 bytes) of a row that was read elsewhere; None, noted, when it is no document."""
    found = _text_of(row, where, text_field, skips)
    if found is not None and (reason := _why_not(found[1])):
        skips.add(where, reason)
        return None
    return found


def _read_parquet(file: SourceFile, text_field: str | None, skips: Skips) -> Iterator[tuple[str, str, bytes]]:
    import duckdb

    with _parquet_path(file.path) as path, duckdb.connect() as connection:
        try:
            reader = connection.execute("SELECT * FROM read_parquet(?) LIMIT 0", [str(path)])
            columns = {item[0]: None for item in reader.description or []}
            name = (
                text_field if text_field in columns else None if text_field else _first(columns, TEXT_FIELDS)
            )
            if name is None:
                wanted = text_field or " or ".join(TEXT_FIELDS)
                skips.add(file.relative, f"no column {wanted}; it has {', '.join(columns)}")
                return
            document = _first(columns, DOCUMENT_FIELDS)
            chosen = ", ".join('"' + column.replace('"', '""') + '"' for column in (name, document) if column)
            connection.execute(f"SELECT {chosen} FROM read_parquet(?)", [str(path)])
            number = 0
            while rows := connection.fetchmany(1000):
                for values in rows:
                    number += 1
                    where = f"{file.relative}#{number}"
                    if not isinstance(values[0], str):
                        skips.add(where, f"no text in the column {name}")
                        continue
                    yield where, *_row(values[0], {document: values[1]} if document else {})
        except duckdb.Error as error:
            raise ValueError(str(error).splitlines()[0]) from None


@contextmanager
def _parquet_path(path: Path) -> Iterator[Path]:
    """A Parquet file is read in place; one that was compressed as a whole is first unpacked."""
    if path.suffix.lower() not in PACKED_ENDINGS:
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=".parquet") as plain:
        with _open_plain(path) as stream:
            while chunk := stream.read(1 << 20):
                plain.write(chunk)
        plain.flush()
        yield Path(plain.name)


def _row(text: str, row: dict[str, Any]) -> tuple[str, bytes]:
    """(key, bytes) of a row: the document that it names, or its text, so that copies share a side."""
    data = text.encode("utf-8", errors="surrogatepass")
    name = _first_field(row, DOCUMENT_FIELDS)
    return (str(row[name]) if name else hashlib.sha256(data).hexdigest()), data


def _first_field(row: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if isinstance(row.get(name), (str, int))), None)


def _first(columns: dict[str, None], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in columns), None)


def _why_not(data: bytes) -> str | None:
    """Why these bytes are no document, or None."""
    if not data.strip():
        return "empty"
    if b"\0" in data:
        return "holds a zero byte, so it is not text"
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"not valid UTF-8 ({error.reason})"
    return None
