"""Token shards: make them, on one machine or many, and check that every file is still what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from isoflop.cli.main import say, verb
from isoflop.cli.tables import data


@data.command("tokenize")
@click.argument("source")
@click.option(
    "--tokenizer", required=True, help="bytes, a tokenizer.json or its folder, or a Hugging Face name."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the shards.")
@click.option("--part", help="Share of the work, for several machines: 2/16 is the second of sixteen.")
@click.option("--begin", is_flag=True, help="Put the tokenizer's begin token before each document.")
@click.option("--held-out", type=int, help="Hold out one document in so many, by the hash of its name.")
@click.option("--skip-damaged", is_flag=True, help="Leave out parts that cannot be read, on record.")
@click.option("--workers", type=int, help="Processes; one per core by default.")
@click.option("--text-field", help="Field that holds the text; found by its usual names by default.")
@verb("data.tokenize")
def data_tokenize(
    source: str,
    tokenizer: str,
    out: Path,
    part: str | None,
    begin: bool,
    held_out: int | None,
    skip_damaged: bool,
    workers: int | None,
    text_field: str | None,
) -> tuple[str, dict[str, Any]]:
    """Tokenize a large text into memory-mapped shards; a call that was cut goes on where it stopped."""
    from isoflop.data.tokenize import tokenize
    from isoflop.units import format_bytes, format_seconds, format_tokens

    done = tokenize(
        source,
        tokenizer,
        out,
        workers=workers,
        text_field=text_field,
        part=parse_part(part) if part else (1, 1),
        begin=begin,
        held_out_one_in=held_out,
        skip_damaged=skip_damaged,
        progress=say,
    )
    text = (
        f"{format_tokens(done.tokens)} from {format_bytes(done.text_bytes)} in {format_seconds(done.seconds)}; "
        f"{done.num_parts} parts, {done.num_done_before} of them there before, {len(done.damaged)} not readable"
    )
    if done.index is None:
        text += "\nother machines have parts to do; the one that does the last of them writes the index"
    answer = {"out": str(out), "tokens": done.tokens, "text_bytes": done.text_bytes, "parts": done.num_parts}
    return text, {
        **answer,
        "complete": done.index is not None,
        "damaged": [item.what for item in done.damaged],
    }


def parse_part(text: str) -> tuple[int, int]:
    """Read "2/16". Raises ValueError with the text and an example."""
    own, slash, total = text.partition("/")
    if not slash or not own.strip().isdigit() or not total.strip().isdigit():
        raise ValueError(f"--part {text!r}: write the share and their number, e.g. 2/16")
    return int(own), int(total)


@data.command("check")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--skip-damaged", is_flag=True, help="Take files of the wrong size out of their index, on record."
)
@verb("data.check")
def data_check(folders: tuple[Path, ...], skip_damaged: bool) -> tuple[str, dict[str, Any]]:
    """Read every token shard of FOLDERS and compare its hash. Ends with code 2 when one differs."""
    from isoflop.data.documents import DataError
    from isoflop.data.shards import check_hashes, is_shard_folder, leave_out_damaged, open_shards
    from isoflop.units import format_tokens

    lines: list[str] = []
    damaged: list[str] = []
    rows: list[dict[str, Any]] = []
    for folder in folders:
        if folder.is_file():  # a tokenizer beside the folders: `data check data/*`
            continue
        if skip_damaged and is_shard_folder(folder):
            lines += [f"{folder}: left out {one.what} ({one.reason})" for one in leave_out_damaged(folder)]
        bad = check_hashes(folder)
        damaged += [f"{folder}: {one.what}: {one.reason}" for one in bad]
        rows.append({"folder": str(folder), "damaged": [one.what for one in bad]})
        if bad:
            continue
        record = open_shards(folder).index.corpus_record(str(folder))
        rows[-1] |= {"tokens": record.train_tokens, "held_out_tokens": record.val_tokens}
        left_out = f", {len(record.skipped)} left out before" if record.skipped else ""
        lines.append(
            f"{folder}: {format_tokens(record.train_tokens)} to train on, {format_tokens(record.val_tokens)} held "
            f"out, corpus {record.corpus_sha256[:16]}{left_out}"
        )
    if damaged:
        shown = "; ".join(damaged[:5]) + (f" and {len(damaged) - 5} more" if len(damaged) > 5 else "")
        raise DataError(
            f"{len(damaged)} shards are not what they were ({shown}): delete their files and tokenize again, whole "
            "parts are kept"
        )
    return "\n".join(lines), {"folders": rows}
