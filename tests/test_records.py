"""Records on their way to disk and back, and the store's promises about kills and full disks."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import random
import stat
import typing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from isoflop import records
from isoflop.records import (
    Attempt,
    Branch,
    Budget,
    DataSource,
    DataSpec,
    DecisionRule,
    Estimate,
    EvalSpec,
    Exclusion,
    Fit,
    FlopCount,
    FunctionRef,
    Measurement,
    NetSpec,
    OptimizerSpec,
    Plan,
    PlannedRun,
    Provenance,
    Record,
    RecordError,
    RunRecord,
    RunSpec,
    ScheduleSpec,
    SpikeRule,
    Verdict,
    decode,
    encode,
    read,
    to_mapping,
)
from isoflop.store import JsonlWriter, RunFolder, Store, StoreError, read_jsonl, replacing, write_atomic


def spec(**changes) -> RunSpec:
    made = RunSpec(
        name="s48 at 1e11, seed 3",
        net=NetSpec(
            vocab_size=512,
            context=128,
            dim=48,
            num_layers=2,
            num_heads=3,
            num_kv_heads=3,
            head_dim=16,
            ffn_dim=128,
        ),
        data=DataSpec(
            sources=(
                DataSource(
                    source="stdlib", corpus_sha256="ab" * 32, tokenizer="bpe-512", tokenizer_sha256="cd" * 32
                ),
            ),
            context=128,
            order_seed=3,
        ),
        objective=FunctionRef(path="isoflop.train.objectives:next_token", source_sha256="ef" * 32),
        optimizer=OptimizerSpec(peak_lr=0.01),
        schedule=ScheduleSpec(kind="wsd", warmup_steps=10, num_steps=100, decay_start_step=70),
        evaluate=EvalSpec(
            function=FunctionRef(path="isoflop.measure.heldout:score", source_sha256="01" * 32),
            num_windows=64,
        ),
        batch_seqs=4,
        num_steps=100,
        seed=3,
        train_flops=FlopCount(flops=1e11, convention="matmul-causal"),
    )
    return msgspec.structs.replace(made, **changes)


def plan() -> Plan:
    return Plan(
        study="flatness",
        question="How flat?",
        budget=Budget.parse("5 min"),
        planned_flops=FlopCount(flops=1e11, convention="matmul-causal"),
        runs=(PlannedRun(spec=spec(), fingerprint=spec().fingerprint(), why="a point", cost_flops=1e11),),
        rule=DecisionRule(text="flat if", parameters={"epsilon": 0.01, "seeds": 3, "on": True, "none": None}),
        seeds=(1, 2, 3),
    )


def run_record(**changes) -> RunRecord:
    made = RunRecord(
        fingerprint=spec().fingerprint(),
        name="s48",
        status="finished",
        num_steps=100,
        tokens=51_200,
        train_flops=FlopCount(flops=1e11, convention="matmul-causal"),
        attempts=(
            Attempt(started="", first_step=0, last_step=100, seconds=2.0, flops=1e11, ended="finished"),
        ),
        provenance=Provenance(isoflop="0.1.0", python="3.11"),
    )
    return msgspec.structs.replace(made, **changes)


def measurement() -> Measurement:
    return Measurement(
        run=spec().fingerprint(),
        name="heldout",
        step=100,
        loss=Estimate(value=3.75, unit="nats/token", lo=3.7, hi=3.8),
        bits_per_byte=Estimate(value=None, unit="bits/byte", reason="no bytes were counted"),
        group_nats=(3.7, 3.8),
        group_tokens=(128, 128),
        num_bytes=500,
        held_fixed="64 windows",
    )


# ------------------------------------------------------------------------ there and back again


def _example(kind: typing.Any, rng: random.Random, depth: int = 0) -> typing.Any:
    """A random value of an annotated kind: what a property-testing library would draw."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return rng.choice(args)
    if origin is tuple:
        return tuple(_example(args[0], rng, depth + 1) for _ in range(rng.randint(0, 2)))
    if origin is dict:
        return {f"key {i}": _example(args[1], rng, depth + 1) for i in range(rng.randint(0, 2))}
    if args:  # a union
        return _example(rng.choice([arg for arg in args if arg is not type(None)] or args), rng, depth)
    if isinstance(kind, type) and issubclass(kind, Record):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _example(hints[name], rng, depth + 1) for name in kind.__struct_fields__})
    return {
        float: lambda: rng.choice([0.0, -1.5, 1e300, 5e-324, 0.1, float(rng.randint(0, 9))]),
        int: lambda: rng.choice([0, -3, 2**40, 2**62]),
        str: lambda: rng.choice(["", "plain", 'naïve \n 漢字 "quoted" \\', "\u2028"]),
        bool: lambda: rng.random() < 0.5,
        type(None): lambda: None,
        typing.Any: lambda: rng.choice([1, "x", None, [1.5, {"a": True}]]),
    }[kind]()


ALL_RECORDS = sorted(
    (
        cls
        for cls in vars(records).values()
        if isinstance(cls, type) and issubclass(cls, Record) and cls is not Record
    ),
    key=lambda cls: cls.__name__,
)


@pytest.mark.parametrize("cls", ALL_RECORDS, ids=lambda cls: cls.__name__)
def test_every_record_comes_back_as_it_went(cls):
    rng = random.Random(cls.__name__)
    for indent in (None, 1):
        for _ in range(20):
            made = _example(cls, rng)
            assert decode(encode(made, indent=indent), cls) == made
            assert decode(to_mapping(made), cls) == made


def test_one_line_records_are_one_line():
    made = Exclusion(what="two\nlines", reason="\u2028 and \r")
    assert encode(made).count(b"\n") == 0


def test_numpy_numbers_are_stored_as_plain_ones():
    made = Estimate(value=np.float64(0.1), unit="x", lo=np.float32(0.5), hi=np.int64(3))
    assert decode(encode(made), Estimate) == Estimate(value=0.1, unit="x", lo=0.5, hi=3.0)
    fit = Fit(
        name="f", form="", estimates={}, error_model="", num_points=np.int64(3), degrees_of_freedom=None,
        draws={"a": (np.float64(1.5),)}, identified=np.bool_(True),
    )  # fmt: skip
    assert decode(encode(fit), Fit).draws == {"a": (1.5,)}


def test_what_json_does_not_have_is_refused_by_name():
    with pytest.raises(RecordError, match="ndarray"):
        encode(Fit(name="f", form="", estimates={}, error_model="", num_points=3, draws={"a": np.ones(3)}))  # type: ignore[dict-item]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_a_number_that_is_not_finite_is_never_stored(bad):
    with pytest.raises(RecordError, match=r"Measurement\.loss\.value.*None with a reason"):
        encode(msgspec.structs.replace(measurement(), loss=Estimate(value=bad, unit="nats/token")))
    with pytest.raises(RecordError, match=r"group_nats\[1\]"):
        encode(msgspec.structs.replace(measurement(), group_nats=(1.0, bad)))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_never_read(text):
    data = encode(measurement()).replace(b"3.75", text.encode())
    with pytest.raises(RecordError, match=r"there: Measurement\.loss\.value"):
        decode(data, Measurement, where="there")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON"),
        (b'{"schema": "isoflop.Exclusion/1", "what": "x"', "cut short"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b"{}", "no file of isoflop's"),
        (b'{"schema": "isoflop.Plan/1"}', "this is a Plan"),
        (b'{"schema": "isoflop.Exclusion/x", "what": "x", "reason": "y"}', "Exclusion/x"),
        (b'{"schema": "isoflop.Exclusion/2", "what": "x", "reason": "y"}', "newer isoflop"),
        (b'{"schema": "isoflop.Exclusion/0", "what": "x", "reason": "y"}', "too old"),
        (b'{"schema": "isoflop.Exclusion/1", "what": "x"}', "reason"),
        (b'{"schema": "isoflop.Exclusion/1", "what": 3, "reason": "y"}', "what"),
        (b'{"schema": "isoflop.Exclusion/1", "what": "x", "reason": "y", "more": 1}', "more"),
    ],
)
def test_what_is_not_the_record_is_refused_with_the_place(data, words):
    with pytest.raises(RecordError, match=words) as caught:
        decode(data, Exclusion, where="folder/file.json")
    assert str(caught.value).startswith("folder/file.json: ")


def test_reading_a_file_names_it(tmp_path):
    (tmp_path / "plan.json").write_bytes(encode(plan())[:-20])
    with pytest.raises(RecordError, match=r"plan\.json: not valid JSON"):
        read(tmp_path / "plan.json", Plan)


# -------------------------------------------------------------------------------- migration


class Reading(Record, frozen=True, kw_only=True):
    """A record in its third version: `seconds` was `minutes` in the first and lacked `sensor` in the second."""

    SCHEMA: typing.ClassVar[int] = 3
    seconds: float
    sensor: str


@pytest.fixture
def migrations(monkeypatch):
    steps = {
        ("Reading", 1): lambda old: {"seconds": 60 * old["minutes"]},
        ("Reading", 2): lambda old: {**old, "sensor": "unknown"},
    }
    monkeypatch.setattr(records, "MIGRATIONS", steps)
    return steps


def test_an_older_file_is_brought_up_to_date_step_by_step(migrations):
    newest = Reading(seconds=120.0, sensor="unknown")
    for data in (
        b'{"schema": "isoflop.Reading/1", "minutes": 2}',
        b'{"schema": "isoflop.Reading/2", "seconds": 120.0}',
        b'{"schema": "isoflop.Reading/3", "seconds": 120.0, "sensor": "unknown"}',
        encode(newest),
    ):
        assert decode(data, Reading) == newest
    assert json.loads(encode(newest))["schema"] == "isoflop.Reading/3"


def test_a_version_without_a_migration_is_refused(migrations):
    del migrations["Reading", 2]
    with pytest.raises(RecordError, match="Reading/2 is too old"):
        decode(b'{"schema": "isoflop.Reading/1", "minutes": 2}', Reading)


def test_every_declared_version_can_be_reached():
    """No record may raise its version without the steps that lead there."""
    for cls in ALL_RECORDS:
        for version in range(1, cls.SCHEMA):
            assert (cls.__name__, version) in records.MIGRATIONS


# --------------------------------------------------------------------------------- identity


IDENTITY_CHANGES = {
    "net": lambda s: msgspec.structs.replace(s.net, dim=64),
    "data": lambda s: msgspec.structs.replace(s.data, order_seed=4),
    "objective": lambda s: msgspec.structs.replace(s.objective, source_sha256="99" * 32),
    "optimizer": lambda s: msgspec.structs.replace(s.optimizer, peak_lr=0.02),
    "schedule": lambda s: msgspec.structs.replace(s.schedule, decay_start_step=71),
    "evaluate": lambda s: None,
    "batch_seqs": lambda s: 8,
    "num_steps": lambda s: 101,
    "seed": lambda s: 4,
    "precision": lambda s: "bf16",
    "branch": lambda s: Branch(parent="aa" * 32, step=50),
    "command": lambda s: ("python", "mine.py"),
    "spikes": lambda s: SpikeRule(),
    "start_weights": lambda s: "ab" * 32,
}


@pytest.mark.parametrize("field", IDENTITY_CHANGES)
def test_what_bears_identity_changes_the_fingerprint(field):
    changed = spec(**{field: IDENTITY_CHANGES[field](spec())})
    assert changed.fingerprint() != spec().fingerprint()


def test_every_field_of_a_run_is_either_identity_or_declared_not_to_be():
    assert set(IDENTITY_CHANGES) | set(RunSpec.NOT_IDENTITY) == set(RunSpec.__struct_fields__)


def test_names_places_and_derived_numbers_do_not_change_the_fingerprint():
    source = msgspec.structs.replace(
        spec().data.sources[0], source="/elsewhere", tokenizer="/a/tokenizer.json"
    )
    same = spec(
        name="another name",
        labels={"budget": 1e11},
        save_at_steps=(10,),
        train_flops=FlopCount(flops=2.0, convention="6N-all"),
        data=msgspec.structs.replace(spec().data, sources=(source,)),
    )
    assert same.fingerprint() == spec().fingerprint()


def test_a_run_is_the_same_run_after_it_has_been_to_disk():
    """Whole numbers in fields of floats come back from JSON as floats: still the same run."""
    made = spec(
        optimizer=OptimizerSpec(peak_lr=1, weight_decay=0, grad_clip=np.float64(1.0)),
        schedule=ScheduleSpec(kind="constant", warmup_steps=0, num_steps=100, final_fraction=0),
        objective=FunctionRef(path="m:f", source_sha256="0", options={"whole": 1, "half": 0.5, "on": True}),
    )
    assert decode(encode(made), RunSpec).fingerprint() == made.fingerprint()


def test_the_fingerprint_is_pinned():
    """Finished runs are found by it: a change here makes every stored run a stranger."""
    assert spec().fingerprint() == PINNED_FINGERPRINT


PINNED_FINGERPRINT = "d57e18ac9bb8913099238f2e5d36f5fcb24cb7e0249594fc2990d168cae09cb4"


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("s48 at 1e11, seed 3", "s48-at-1e11--seed-3-"),
        ("../../etc", "etc-"),
        ("", "run-"),
        ("x" * 500, "x" * 60 + "-"),
    ],
)
def test_a_folder_is_named_in_words_and_stays_inside(name, folder):
    made = spec(name=name)
    assert made.folder == folder + made.fingerprint()[:8]
    assert "/" not in made.folder


def test_derived_numbers_of_a_run():
    branch = spec(branch=Branch(parent="aa" * 32, step=75))
    assert spec().tokens == 100 * 4 * 128
    assert (spec().own_flops, branch.own_flops) == (1e11, 0.25e11)
    assert (spec().start_step, branch.start_step) == (0, 75)


def test_a_plan_is_identified_by_what_it_decides():
    again = msgspec.structs.replace(plan(), provenance=Provenance(isoflop="9", python="4"), notes=("x",))
    assert again.fingerprint() == plan().fingerprint()
    other = msgspec.structs.replace(plan(), options={"epsilon": 0.02})
    assert other.fingerprint() != plan().fingerprint()


# ------------------------------------------------------------------------------------- files


class _FullDisk:
    """A file that takes `room` bytes and then fails as a full disk does."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        if len(data) > self.room:
            self.file.write(data[: self.room])
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return self.file.write(data)

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()


@pytest.fixture
def full_disk(monkeypatch):
    """Every file opened for writing takes 10 bytes and no more."""
    real_open = Path.open

    def small_open(self, mode="r", *args, **kwargs):
        file = real_open(self, mode, *args, **kwargs)
        return _FullDisk(file, 10) if "b" in mode and mode[0] in "xwa" else file

    monkeypatch.setattr(Path, "open", small_open)


def test_a_full_disk_keeps_the_old_file_and_leaves_no_litter(tmp_path, full_disk):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(StoreError, match="No space left on device; free some space and resume"):
        write_atomic(path, "new and too long for the disk")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_real_full_disk(tmp_path):
    """/dev/full fails every write with ENOSPC: the JSONL writer meets it as it meets a full disk."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    link = tmp_path / "metrics.jsonl"
    link.symlink_to("/dev/full")
    file = link.open("ab", buffering=0)
    writer = JsonlWriter(tmp_path / "other.jsonl")
    writer.close()
    writer._file = file
    with writer, pytest.raises(StoreError, match="No space left"):
        writer.write({"step": 1})


def test_a_block_that_fails_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        write_atomic(tmp_path / "file" / "below" / "a.json", "x")
    with pytest.raises(StoreError, match="cannot write"):
        JsonlWriter(tmp_path / "file" / "a.jsonl")
    with pytest.raises(StoreError, match="cannot write"), Store(tmp_path / "file" / "out").lock():
        pass


def test_written_files_have_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def _write_for_ever(path: Path) -> None:
    number = 0
    while True:
        write_atomic(path, json.dumps({"number": number, "filler": "x" * 50_000}))
        number += 1


def test_a_reader_never_sees_half_a_file_even_when_the_writer_is_killed(tmp_path):
    """kill -9 at a random moment, twice: what is at the place is always whole."""
    path = tmp_path / "a.json"
    rng = random.Random(0)
    for _ in range(2):
        process = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(path,))
        process.start()
        while not path.exists():
            pass
        for _ in range(rng.randint(20, 60)):
            assert len(json.loads(path.read_bytes())["filler"]) == 50_000
        process.kill()
        process.join()
        assert len(json.loads(path.read_bytes())["filler"]) == 50_000


# ------------------------------------------------------------------------------------- JSONL


def _rows(path: Path, count: int) -> list[dict]:
    rows = [{"step": step, "loss": 5.0 / (step + 1)} for step in range(count)]
    with JsonlWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return rows


def test_rows_come_back_and_more_can_be_appended(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    rows = _rows(path, 3)
    assert read_jsonl(path) == rows
    assert read_jsonl(tmp_path / "absent.jsonl") == []
    with JsonlWriter(path) as writer:
        writer.write({"step": 3})
    assert read_jsonl(path) == [*rows, {"step": 3}]


def test_a_file_cut_anywhere_gives_the_rows_before_and_can_be_continued(tmp_path):
    """Every length at which a kill may have cut the file."""
    rows = _rows(tmp_path / "whole.jsonl", 4)
    data = (tmp_path / "whole.jsonl").read_bytes()
    for length in range(len(data) + 1):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(data[:length])
        kept = read_jsonl(path)
        assert kept == rows[: len(kept)]
        # A row counts when it is complete, with or without its newline.
        assert len(kept) == max(data[:length].count(b"\n"), (data[:length] + b"\n").count(b"}\n"))
        with JsonlWriter(path) as writer:
            writer.write({"step": "next"})
        assert read_jsonl(path) == [*kept, {"step": "next"}]


@pytest.mark.parametrize("bad", [b'{"step": 1', b"7", b"\0\0\0\0"])
def test_damage_before_the_end_is_an_error_with_its_line(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n' + bad + b'\n{"step": 2}\n')
    with pytest.raises(RecordError, match=r"metrics\.jsonl:2: not a JSON object"):
        read_jsonl(path)


@pytest.mark.parametrize("bad", [math.nan, math.inf, object()])
def test_a_row_that_json_does_not_have_is_refused_and_leaves_no_trace(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    with JsonlWriter(path) as writer:
        writer.write({"step": 0})
        with pytest.raises(RecordError, match=r"metrics\.jsonl"):
            writer.write({"step": 1, "loss": bad})
    assert read_jsonl(path) == [{"step": 0}]


# ------------------------------------------------------------------------------------- store


def _finish(folder: RunFolder, made: RunSpec, **changes) -> None:
    folder.create(made)
    _rows(folder.metrics_path, 3)
    with JsonlWriter(folder.attempts_path) as writer:
        writer.write(to_mapping(run_record().attempts[0]))
    folder.write_measurements([measurement(), measurement()])
    folder.write_record(run_record(fingerprint=made.fingerprint(), **changes))


def test_a_run_folder_gives_back_what_was_put_in(tmp_path):
    out = Store(tmp_path)
    folder = out.run(spec())
    assert not folder.finished
    _finish(folder, spec())
    assert folder.finished
    assert folder.read_spec() == spec()
    assert folder.read_record() == run_record()
    assert folder.read_attempts() == list(run_record().attempts)
    assert folder.read_measurements() == [measurement(), measurement()]
    assert len(folder.read_metrics()) == 3
    assert [found.path for found in out.run_folders()] == [folder.path]


def test_a_folder_of_another_run_is_not_taken_over(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(spec())
    folder.create(spec(name="same run, other words"))
    with pytest.raises(StoreError, match="another run"):
        folder.create(spec(seed=99))
    assert folder.read_spec() == spec()


def test_a_finished_run_is_taken_from_another_folder_once(tmp_path):
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    _finish(first.run(spec()), spec())
    renamed = spec(name="other words, same run")
    assert second.reuse(renamed, [tmp_path / "absent", first.root])
    assert second.run(renamed).read_record().reused_from == str(first.root)
    assert second.run(renamed).read_measurements() == first.run(spec()).read_measurements()
    assert second.reuse(renamed, [])  # it is here now
    assert not second.reuse(spec(seed=99), [first.root])


@pytest.mark.parametrize("status", ["diverged", "failed", "cut"])
def test_a_run_without_a_result_is_not_taken(tmp_path, status):
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")
    _finish(first.run(spec()), spec(), status=status, reason="NaN at step 7")
    assert not second.reuse(spec(), [first.root])
    assert second.run_folders() == []


def test_plan_and_verdict_are_found_or_their_absence_says_what_to_do(tmp_path):
    out = Store(tmp_path)
    with pytest.raises(StoreError, match="isoflop plan study"):
        out.read_plan()
    with pytest.raises(StoreError, match="isoflop judge"):
        out.read_verdict()
    out.write(out.plan_path, plan())
    verdict = Verdict(study="flatness", question="?", outcome="cannot tell", sentence="Too little data.")
    out.write(out.verdict_path, verdict)
    assert out.read_plan() == plan()
    assert out.read_verdict() == verdict


def _try_lock(root: Path, queue) -> None:
    try:
        with Store(root).lock():
            queue.put("held")
    except StoreError as error:
        queue.put(str(error))


def test_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with Store(tmp_path).lock():
        process = context.Process(target=_try_lock, args=(tmp_path, queue))
        process.start()
        assert "in use by another isoflop process" in queue.get(timeout=30)
        process.join()
    process = context.Process(target=_try_lock, args=(tmp_path, queue))
    process.start()
    assert queue.get(timeout=30) == "held"
    process.join()


def test_fields_that_came_later_count_only_when_they_are_used():
    """A run planned before they existed keeps its fingerprint; using one of them is another run."""
    plain = spec(branch=Branch(parent="aa" * 32, step=50))
    identity = msgspec.to_builtins(plain)
    for name in RunSpec.NOT_IDENTITY:
        identity.pop(name)
    for part, names in (("schedule", ("start_step",)), ("branch", ("weights_only",))):
        for name in names:
            identity[part].pop(name)
    for name in ("at_steps", "sources"):
        identity["evaluate"].pop(name)
    for name in ("spikes", "start_weights"):
        identity.pop(name)
    for source in identity["data"]["sources"]:
        source.pop("source")
        source.pop("tokenizer")
    identity["record"] = "RunSpec/1"
    assert plain.fingerprint() == records.sha256_json(identity)
    later = (
        {"schedule": msgspec.structs.replace(plain.schedule, start_step=3)},
        {"branch": msgspec.structs.replace(plain.branch, weights_only=True)},
        {"evaluate": msgspec.structs.replace(plain.evaluate, at_steps=(5,))},
        {"evaluate": msgspec.structs.replace(plain.evaluate, sources=plain.data.sources)},
    )
    prints = {msgspec.structs.replace(plain, **change).fingerprint() for change in later}
    assert len(prints | {plain.fingerprint()}) == 5
