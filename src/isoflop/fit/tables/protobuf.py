"""The wire format of protobuf messages, as far as logs need it: field numbers and raw values, without a schema.

Left out: writing, groups (deprecated), and the meaning of a field, which its reader knows.
"""

from __future__ import annotations

from collections.abc import Iterator


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message: integers for varints, bytes for everything else (fixed sizes too)."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if kind == 2:
            size, place = _varint(message, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            return
        yield key >> 3, message[place : place + size]
        place += size


def submessages(message: bytes, number: int) -> Iterator[bytes]:
    """The values of one field that are messages, strings or bytes."""
    for found, value in fields(message):
        if found == number and isinstance(value, bytes):
            yield value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message):
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            break
        shift += 7
    return value, place
