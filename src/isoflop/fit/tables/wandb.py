"""W&B runs from their own files: the summary and configuration beside a run, or its transaction log alone.

An offline run of today leaves only run-ID.wandb behind: a header, then blocks of LevelDB's log format whose
records are protobuf messages. Of these the configuration, the history and the summary are read, the last value of
each name. A log that was cut short ends where it was cut. Left out: media, system metrics, anything online.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoflop.fit.tables.protobuf import fields, submessages

MAGIC = b":W&B"
HEADER_BYTES = 7
BLOCK_BYTES = 32_768
"""Of LevelDB's log format: a record's head (checksum 4, length 2, kind 1) never crosses a block."""
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_HISTORY, _SUMMARY, _CONFIG, _RUN = 2, 3, 5, 17
"""Fields of a Record (wandb/proto/wandb_internal.proto)."""
_KEY, _NESTED, _INTEGER, _NUMBER, _TEXT, _JSON = 1, 2, 5, 6, 7, 16
"""Fields of an item of a history, a summary or a configuration."""


def read_transaction_log(path: Path) -> dict[str, Any] | None:
    """Last value of each name in a .wandb file, nested values as mappings; None when it is not such a file.

    The key `run` holds the run's display name, else its id.
    """
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        return None
    config: dict[str, Any] = {}
    values: dict[str, Any] = {}
    name = path.stem
    for record in _records(content):
        for number, value in fields(record):
            if not isinstance(value, bytes):
                continue
            if number in (_HISTORY, _SUMMARY):
                values.update(_items(value))
            elif number == _CONFIG:
                config.update(_items(value))
            elif number == _RUN:
                ids, names = (list(submessages(value, field)) for field in (1, 8))
                name = (names or ids or [name.encode()])[0].decode(errors="replace")
                for part in submessages(value, 4):
                    config.update(_items(part))
    config.pop("_wandb", None)
    return {**config, **values, "run": name}


def _records(content: bytes) -> Iterator[bytes]:
    """Payloads in order; one that is cut or has an unknown kind ends the log."""
    place, parts = HEADER_BYTES, b""
    while place + 7 <= len(content):
        left = BLOCK_BYTES - place % BLOCK_BYTES
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        payload = content[place + 7 : place + 7 + length]
        if len(payload) < length or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            return
        place += 7 + length
        parts = payload if kind in (_FULL, _FIRST) else parts + payload
        if kind in (_FULL, _LAST):
            yield parts


def _items(message: bytes) -> Iterator[tuple[str, Any]]:
    """(name, value) of each item; parts of a nested name are joined with a dot."""
    for item in submessages(message, 1):
        keys: list[str] = []
        value: Any = None
        for number, raw in fields(item):
            if number in (_KEY, _NESTED) and isinstance(raw, bytes):
                keys.append(raw.decode(errors="replace"))
            elif number == _INTEGER and isinstance(raw, int):
                value = raw
            elif number == _NUMBER and isinstance(raw, bytes) and len(raw) == 8:
                (value,) = struct.unpack("<d", raw)
            elif number == _TEXT and isinstance(raw, bytes):
                value = raw.decode(errors="replace")
            elif number == _JSON and isinstance(raw, bytes):
                try:
                    value = json.loads(raw)
                except ValueError:
                    value = raw.decode(errors="replace")
        if keys:
            yield ".".join(key for key in keys if key), value
