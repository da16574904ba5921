"""Users' tables and logs: what is found, what is computed, what is refused and with which remedy."""

import gzip
import json
import sqlite3
import struct

import numpy as np
import pytest

from isoflop.fit.tables.logs import scalars
from isoflop.fit.tables.points import kind_of, read_points
from isoflop.fit.tables.runs import TableError, read_runs
from isoflop.laws.chinchilla import BESIROGLU

N = np.array([1e8, 1e8, 3e8, 3e8, 1e9, 1e9, 3e9, 3e9])
D = np.array([2e9, 8e9, 3e9, 2e10, 1e10, 8e10, 3e10, 1e11])
LOSS = BESIROGLU.loss(N, D)


def write(path, header, rows):
    path.write_text("\n".join([",".join(header), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.mark.parametrize(
    "header",
    [
        ("N", "D", "loss"),
        ("params", "tokens", "val_loss"),
        ("Model Size", "Training Tokens", "Loss"),
        ("model/n_params", "train/num_tokens", "eval/loss"),
        ("num_parameters", "tokens_seen", "validation-loss"),
    ],
)
def test_columns_are_found_by_their_usual_names(tmp_path, header):
    table = read_runs(write(tmp_path / "runs.csv", header, zip(N, D, LOSS, strict=True)))
    np.testing.assert_array_equal(table.N, N)
    np.testing.assert_array_equal(table.D, D)
    np.testing.assert_array_equal(table.loss, LOSS)
    assert table.columns == dict(zip(("N", "D", "loss"), header, strict=True))
    assert table.rows_used == 8
    assert table.rows_excluded == 0


def test_tokens_come_from_flops_when_there_is_no_column_of_them(tmp_path):
    path = write(
        tmp_path / "runs.csv", ("Model Size", "Training FLOP", "loss"), zip(N, 6 * N * D, LOSS, strict=True)
    )
    table = read_runs(path)
    np.testing.assert_allclose(table.D, D, rtol=1e-15)
    assert "no column of tokens" in table.notes[0]
    only_tokens = write(
        tmp_path / "other.csv", ("tokens", "FLOPs", "loss"), zip(D, 6 * N * D, LOSS, strict=True)
    )
    np.testing.assert_allclose(read_runs(only_tokens).N, N, rtol=1e-15)


def test_given_columns_win_and_must_exist(tmp_path):
    path = write(tmp_path / "r.csv", ("a", "b", "loss_c4", "loss"), zip(N, D, LOSS, LOSS + 1, strict=True))
    table = read_runs(path, {"N": "a", "D": "b", "loss": "loss_c4"})
    np.testing.assert_array_equal(table.loss, LOSS)
    with pytest.raises(TableError, match="no column 'c' for N; it has a, b"):
        read_runs(path, {"N": "c"})
    with pytest.raises(TableError, match="unknown role 'M'"):
        read_runs(path, {"M": "a"})


def test_counts_as_people_write_them(tmp_path):
    rows = zip(("100M", "100M", "0.3B", "300m", "1B", "1e9", "3b", "3_000M"), ("2B",) * 8, LOSS, strict=True)
    table = read_runs(write(tmp_path / "r.csv", ("size_params", "tokens", "loss"), rows))
    np.testing.assert_allclose(table.N, N)
    assert (table.D == 2e9).all()


def test_parquet_and_jsonl_give_the_same(tmp_path):
    import duckdb

    csv = write(tmp_path / "r.csv", ("N", "D", "loss"), zip(N, D, LOSS, strict=True))
    duckdb.sql(f"copy (select N::double as N, D::double as D, loss::double as loss from '{csv}') "
               f"to '{tmp_path}/r.parquet' (format parquet)")  # fmt: skip
    lines = [json.dumps({"N": n, "D": d, "loss": x}) for n, d, x in zip(N, D, LOSS, strict=True)]
    (tmp_path / "r.jsonl").write_text("\n".join(lines) + "\n")
    with gzip.open(tmp_path / "r.jsonl.gz", "wt") as out:
        out.write("\n".join(lines) + "\n")
    for name in ("r.parquet", "r.jsonl", "r.jsonl.gz"):
        table = read_runs(tmp_path / name)
        np.testing.assert_array_equal(table.N, N)
        np.testing.assert_allclose(table.loss, LOSS, rtol=1e-15)


@pytest.mark.parametrize(
    ("header", "change", "message"),
    [
        (("N", "D", "accuracy"), None, "no column for the loss; it has N, D, accuracy; rename"),
        (("N", "D", "loss_c4_val"), None, r"perhaps loss_c4_val.*--column loss=NAME"),
        (("size", "D", "loss"), None, "no column for the parameters.*N=NAME"),
        (("N", "steps", "loss"), None, "neither|tokens nor for FLOPs.*D=NAME"),
        (("N", "D", "loss"), (2, 2, "nan"), "row 3: loss is NaN.*bad_rows"),
        (("N", "D", "loss"), (2, 2, ""), "row 3: loss is missing.*correct or remove"),
        (("N", "D", "loss"), (4, 2, -2.5), "row 5: loss is -2.5, not positive"),
        (("N", "D", "loss"), (1, 0, "small"), "row 2: N is 'small', not a number"),
        (("N", "D", "loss"), (1, 1, "inf"), "row 2: D is inf"),
    ],
)
def test_bad_tables_are_refused_in_one_line_with_the_remedy(tmp_path, header, change, message):
    rows = [list(row) for row in zip(N, D, LOSS, strict=True)]
    if change:
        row, column, value = change
        rows[row][column] = value
    with pytest.raises(TableError, match=message) as caught:
        read_runs(write(tmp_path / "runs.csv", header, rows))
    assert "\n" not in str(caught.value)
    assert "runs.csv" in str(caught.value)


def test_three_rows_an_empty_file_a_missing_one_and_an_unknown_kind(tmp_path):
    with pytest.raises(TableError, match=r"has 3 usable runs.*at least 6.*add runs"):
        read_runs(write(tmp_path / "r.csv", ("N", "D", "loss"), list(zip(N, D, LOSS, strict=True))[:3]))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(TableError, match="is empty"):
        read_runs(tmp_path / "empty.csv")
    with pytest.raises(TableError, match="does not exist"):
        read_runs(tmp_path / "nothing.csv")
    (tmp_path / "r.xlsx").write_bytes(b"PK")
    with pytest.raises(TableError, match="unknown kind of file"):
        read_runs(tmp_path / "r.xlsx")
    (tmp_path / "broken.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(TableError, match=r"cannot be read as parquet.*export it again"):
        read_runs(tmp_path / "broken.parquet")
    with pytest.raises(TableError, match="has no rows"):
        read_runs(write(tmp_path / "head.csv", ("N", "D", "loss"), []))


def test_bad_rows_can_be_left_out_with_their_reasons(tmp_path):
    rows = [list(row) for row in zip(N, D, LOSS, strict=True)]
    rows[0][2], rows[5][2] = "nan", -1
    table = read_runs(write(tmp_path / "r.csv", ("N", "D", "loss"), rows), bad_rows="exclude")
    assert table.rows_used == 6
    assert table.rows_excluded == 2
    assert [item.what for item in table.exclusions] == ["row 1", "row 6"]
    assert "NaN" in table.exclusions[0].reason
    assert "not positive" in table.exclusions[1].reason


def test_flags_of_the_table_are_used_when_named_and_keep_its_reason(tmp_path):
    flags = ["False", "True"] + ["False"] * 6
    rows = zip(N, D, LOSS, flags, ["", "off centre"] + [""] * 6, strict=True)
    path = write(tmp_path / "r.csv", ("N", "D", "loss", "outlier", "reason"), rows)
    assert read_runs(path).rows_used == 8
    table = read_runs(path, {"exclude": "outlier"})
    assert table.rows_used == 7
    assert table.exclusions[0].reason == "flagged by column outlier: off centre"


def test_the_last_step_of_each_run_is_taken(tmp_path):
    rows = [(f"run{i}", step, n, d * step / 30, x + (30 - step) / 10)
            for i, (n, d, x) in enumerate(zip(N, D, LOSS, strict=True)) for step in (10, 20, 30)]  # fmt: skip
    table = read_runs(write(tmp_path / "r.csv", ("run", "step", "params", "tokens", "val_loss"), rows))
    np.testing.assert_allclose(np.sort(table.loss), np.sort(LOSS))
    assert table.rows_excluded == 16
    assert "earlier steps" in table.exclusions[0].reason
    assert table.names[0] == "run0"


def test_a_log_of_every_step_without_run_names_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("isoflop.fit.tables.runs.MAX_ROWS", 20)
    rows = zip(np.repeat(N, 4), np.repeat(D, 4), np.repeat(LOSS, 4), strict=True)
    with pytest.raises(TableError, match=r"has 32 rows.*one row per run.*last step"):
        read_runs(write(tmp_path / "r.csv", ("N", "D", "loss"), rows))


def test_perplexity_and_bits_are_said(tmp_path):
    table = read_runs(write(tmp_path / "p.csv", ("N", "D", "val_ppl"), zip(N, D, np.exp(LOSS), strict=True)),
                      {"loss": "val_ppl"})  # fmt: skip
    np.testing.assert_allclose(table.loss, LOSS)
    assert "perplexity" in table.notes[-1]
    bits = read_runs(
        write(tmp_path / "b.csv", ("N", "D", "val_bpb"), zip(N, D, LOSS, strict=True)), {"loss": "val_bpb"}
    )
    assert "in bits" in bits.notes[-1]


# ------------------------------------------------------------------------------------------- logs


def test_wandb_folders(tmp_path):
    for i, (n, d, x) in enumerate(zip(N, D, LOSS, strict=True)):
        files = tmp_path / "wandb" / f"offline-run-2025-{i}" / "files"
        files.mkdir(parents=True)
        (files / "wandb-summary.json").write_text(
            json.dumps({"eval": {"loss": x}, "tokens": d, "_step": 100})
        )
        (files / "config.yaml").write_text(
            "_wandb:\n  desc: null\n  value:\n    cli_version: 0.16\n"
            f"model:\n  value:\n    n_params: {n:.0f}\nlr:\n  value: 0.001\n"
        )
    table = read_runs(tmp_path)
    np.testing.assert_allclose(table.loss, LOSS)
    np.testing.assert_allclose(table.N, N)
    assert table.columns["loss"] == "eval.loss"
    assert "8 runs from W&B" in table.notes[0]


def test_trackio_files(tmp_path):
    with sqlite3.connect(tmp_path / "project.db") as connection:
        connection.execute(
            "create table metrics (id integer primary key, timestamp text, run_name text, step integer, metrics text)"
        )
        connection.execute(
            "create table configs (id integer primary key, run_name text, config text, created_at text)"
        )
        for i, (n, d, x) in enumerate(zip(N, D, LOSS, strict=True)):
            connection.execute(
                "insert into configs (run_name, config) values (?, ?)", (f"r{i}", json.dumps({"params": n}))
            )
            for step in (2, 1):
                metrics = {"tokens": d * step / 2, "val_loss": x + 2 - step}
                connection.execute(
                    "insert into metrics (run_name, step, metrics) values (?, ?, ?)",
                    (f"r{i}", step, json.dumps(metrics)),
                )
    connection.close()
    table = read_runs(tmp_path)
    np.testing.assert_allclose(table.loss, LOSS)
    np.testing.assert_allclose(table.D, D)
    assert table.names[3] == "r3"


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def event(step, tag, value, as_tensor=False):
    """An Event protobuf with one scalar, framed as a TFRecord (checksums are not read)."""
    if as_tensor:
        tensor = b"\x08\x01" + b"\x22" + varint(4) + struct.pack("<f", value)
        scalar = b"\x42" + varint(len(tensor)) + tensor
    else:
        scalar = b"\x15" + struct.pack("<f", value)
    entry = b"\x0a" + varint(len(tag)) + tag.encode() + scalar
    summary = b"\x0a" + varint(len(entry)) + entry
    message = (
        b"\x09" + struct.pack("<d", 1.0) + b"\x10" + varint(step) + b"\x2a" + varint(len(summary)) + summary
    )
    return struct.pack("<Q", len(message)) + b"\0\0\0\0" + message + b"\0\0\0\0"


def test_tensorboard_events(tmp_path):
    for i, (n, d, x) in enumerate(zip(N, D, LOSS, strict=True)):
        place = tmp_path / f"run{i}"
        place.mkdir()
        (place / "hparams.json").write_text(json.dumps({"num_params": n, "tokens": d}))
        content = (
            event(1, "val/loss", 9.0)
            + event(300, "val/loss", x, as_tensor=i % 2 == 1)
            + event(400, "lr", 0.1)
        )
        (place / "events.out.tfevents.1.host").write_bytes(
            content + b"\x05\0\0"
        )  # a record cut short by a kill
    table = read_runs(tmp_path)
    np.testing.assert_allclose(table.loss, LOSS, rtol=1e-7)  # event files hold single precision
    np.testing.assert_allclose(table.N, N)
    steps = [(step, tag) for step, tag, _ in scalars(tmp_path / "run0" / "events.out.tfevents.1.host")]
    assert steps == [(1, "val/loss"), (300, "val/loss"), (400, "lr")]


def test_jsonl_logs(tmp_path):
    for i, (n, d, x) in enumerate(zip(N, D, LOSS, strict=True)):
        lines = [
            {"params": n},
            {"step": 1, "tokens": d / 2, "val_loss": 9},
            {"step": 2, "tokens": d, "val_loss": x},
        ]
        (tmp_path / f"run{i}.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 3, "val_')
    table = read_runs(tmp_path)
    np.testing.assert_allclose(table.loss, LOSS)
    np.testing.assert_allclose(table.D, D)
    assert table.names[0] == "run0"


def message(*entries):
    """A protobuf message of (number, value) in order: integers, floats (as doubles), text, bytes."""
    out = b""
    for number, value in entries:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        elif isinstance(value, float):
            out += varint(number << 3 | 1) + struct.pack("<d", value)
        else:
            content = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(content)) + content
    return out


def transaction_log(*records):
    """A .wandb file: a header, then LevelDB's log blocks of 32 KiB (checksums are not read)."""
    out = b":W&B\x42\xe1\xbe"
    for record in records:
        first = True
        while True:
            left = 32768 - len(out) % 32768
            if left < 7:
                out += bytes(left)
                continue
            part, record = record[: left - 7], record[left - 7 :]
            kind = (1 if first else 4) if not record else (2 if first else 3)
            out += bytes(4) + struct.pack("<HB", len(part), kind) + part
            first = False
            if not record:
                break
    return out


def wandb_run(n, d, x, name):
    def item(number, key, value):
        return message((number, message((1, key), (16, json.dumps(value)))))

    config = item(1, "_wandb", {"t": 1}) + item(1, "model", {"n_params": n, "notes": "x" * 40_000})
    history = [
        message(
            (
                2,
                message(
                    (1, message((2, "val"), (2, "loss"), (6, float(loss)))),
                    (1, message((1, "_step"), (5, step))),
                ),
            )
        )
        for step, loss in ((1, 9.0), (2, x))
    ]
    run = message((17, message((1, "id"), (4, config), (8, name))))
    return transaction_log(
        run, *history, message((3, item(1, "tokens", d))), message((4, message((2, "out"))))
    )


def test_offline_wandb_runs_leave_their_transaction_log_alone(tmp_path):
    for i, (n, d, x) in enumerate(zip(N, D, LOSS, strict=True)):
        place = tmp_path / "wandb" / f"offline-run-2025-{i}"
        place.mkdir(parents=True)
        content = wandb_run(n, d, x, f"run {i}")
        if i == 3:  # killed while it wrote its next record
            content += bytes(4) + struct.pack("<HB", 500, 1) + b"cut"
        (place / f"run-{i}.wandb").write_bytes(content)
    (tmp_path / "other.wandb").write_bytes(b"something else")
    table = read_runs(tmp_path)
    np.testing.assert_allclose(table.loss, LOSS)
    np.testing.assert_allclose(table.N, N)
    np.testing.assert_allclose(table.D, D)
    assert table.columns["loss"] == "val.loss"
    assert table.names[3] == "run 3"


def test_a_summary_is_preferred_to_the_log_and_links_are_not_counted_twice(tmp_path):
    for i, (n, d, x) in enumerate(zip(N, D, LOSS, strict=True)):
        place = tmp_path / f"run-{i}"
        (place / "files").mkdir(parents=True)
        summary = {"val_loss": x, "tokens": d, "params": n}
        (place / "files" / "wandb-summary.json").write_text(json.dumps(summary))
        (place / f"run-{i}.wandb").write_bytes(wandb_run(n, d, 7.0, "older"))
    (tmp_path / "latest-run").symlink_to(tmp_path / "run-7")
    np.testing.assert_allclose(read_runs(tmp_path).loss, LOSS)


def test_trackio_runs_of_one_name_stay_apart_by_their_id(tmp_path):
    with sqlite3.connect(tmp_path / "my project?.db") as connection:
        connection.execute(
            "create table metrics (id integer primary key, run_id text, run_name text, step int, metrics text)"
        )
        connection.execute(
            "create table configs (id integer primary key, run_id text, run_name text, config text)"
        )
        for i, (n, d, x) in enumerate(zip(N, D, LOSS, strict=True)):
            connection.execute(
                "insert into configs (run_id, run_name, config) values (?, 'same', ?)",
                (f"i{i}", json.dumps({"params": n})),
            )
            connection.execute(  # newer versions write bytes
                "insert into metrics (run_id, run_name, step, metrics) values (?, 'same', 1, ?)",
                (f"i{i}", json.dumps({"tokens": d, "val_loss": x}).encode()),
            )
    connection.close()
    table = read_runs(tmp_path)
    np.testing.assert_allclose(table.loss, LOSS)
    np.testing.assert_allclose(table.N, N)


def test_trackio_parquet_exports(tmp_path):
    import duckdb

    runs = list(enumerate(zip(N, D, LOSS, strict=True)))
    metrics = ", ".join(
        f"('r{i}', {step}, {d * step / 2}, {x + 2 - step})" for i, (_, d, x) in runs for step in (2, 1)
    )
    configs = ", ".join(f"('r{i}', {n})" for i, (n, _, _) in runs)
    with duckdb.connect() as connection:
        for name, columns, values in (
            ("p", "run_name, step, tokens, val_loss", metrics), ("p_configs", "run_name, params", configs)
        ):  # fmt: skip
            source = f"select * from (values {values}) as t({columns})"
            connection.execute(f"copy ({source}) to '{tmp_path / name}.parquet' (format parquet)")
    table = read_runs(tmp_path)
    np.testing.assert_allclose(table.loss, LOSS)
    np.testing.assert_allclose(table.N, N)
    assert "trackio" in table.notes[0]


def test_exported_histories(tmp_path):
    for i, (n, d, x) in enumerate(zip(N, D, LOSS, strict=True)):
        write(
            tmp_path / f"run{i}.csv",
            ("_step", "params", "tokens", "val_loss"),
            [(2, n, d, x), (1, n, d / 2, 9), (3, n, "", "")],
        )
    (tmp_path / "notes.csv").write_text("who,what\nme,nothing\n")
    table = read_runs(tmp_path)
    np.testing.assert_allclose(table.loss, LOSS)
    np.testing.assert_allclose(table.D, D)
    assert table.names[0] == "run0"


def test_tensorboard_events_of_its_own_writer(tmp_path):
    """The format as the package writes it; the reader itself does not need it."""
    writers = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    for i, (n, d, x) in enumerate(zip(N, D, LOSS, strict=True)):
        writer = writers.EventFileWriter(str(tmp_path / f"run{i}"))
        for step, loss in ((1, 9.0), (2, x)):
            values = [("val/loss", loss), ("tokens", d), ("params", n)]
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values])
            writer.add_event(Event(step=step, wall_time=float(step), summary=summary))
        writer.close()
    table = read_runs(tmp_path)
    np.testing.assert_allclose(table.loss, LOSS, rtol=1e-7)  # event files hold single precision
    np.testing.assert_allclose(table.N, N, rtol=1e-7)


def test_a_folder_without_logs_says_what_is_needed(tmp_path):
    with pytest.raises(TableError, match=r"holds no W&B, trackio.*export a table"):
        read_runs(tmp_path)


def test_public_tables_are_read_as_they_are(shared_data):
    chinchilla = read_runs(shared_data / "chinchilla_besiroglu.csv")
    assert chinchilla.rows_used == 245
    assert chinchilla.columns["N"] == "Model Size"
    sweeps = read_runs(shared_data / "isoflop-sweeps" / "isoflops.csv")
    assert sweeps.rows_used == 332
    assert sweeps.columns["D"] == "tokens"
    columns = {"N": "size", "run": "source_file", "loss": "eval/c4_en-validation/CrossEntropyLoss"}
    ladder = read_runs(shared_data / "olmo-ladder" / "ladder_runs.csv", columns)
    assert ladder.rows_used == 25
    assert ladder.rows_used + ladder.rows_excluded == 3243


def test_sizes_counted_in_billions_are_refused(tmp_path):
    rows = zip(N / 1e9, D, LOSS, strict=True)
    path = write(tmp_path / "r.csv", ("N", "D", "loss"), rows)
    with pytest.raises(
        TableError, match=r"N runs from 0\.1 to 3, too few parameters.*count in millions or billions"
    ):
        read_runs(path)
    rows = zip(N, D / 1e9, LOSS, strict=True)
    with pytest.raises(TableError, match=r"D runs from .* too few tokens.*whole tokens"):
        read_runs(write(tmp_path / "r.csv", ("N", "D", "loss"), rows))


def test_a_table_one_column_short_of_a_law_is_not_taken_for_a_curve(tmp_path):
    short = write(tmp_path / "short.csv", ("N", "loss"), zip(N, LOSS, strict=True))
    with pytest.raises(TableError, match=r"a law also needs tokens or FLOPs, so add that column.*--as curve"):
        kind_of(short, {})
    assert kind_of(short, {"x": "N", "y": "loss"}) == "curve"
    assert read_points(short, {}).columns == {"x": "N", "y": "loss"}  # what --as curve reads
    pixels = write(tmp_path / "p.csv", ("x", "y", "FLOPs", "loss"), zip(N, D, N * D, LOSS, strict=True))
    assert kind_of(pixels, {}) == "law"  # whose reader asks for the missing size
    with pytest.raises(TableError, match="no column for the parameters"):
        read_runs(pixels)
