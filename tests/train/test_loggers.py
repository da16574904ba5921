"""Loggers are found by name, told numbers at rows and scores, never a key, and never end a run."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isoflop.data import Corpus
from isoflop.records import EvalSpec, RunSpec
from isoflop.store import RunFolder
from isoflop.train.loggers import LoggerError, config_of, names_wanted, open_loggers
from isoflop.train.run import train_run
from tests.train.distributed_sessions import placement, train

MakeSpec = Callable[..., RunSpec]


class Calls(types.ModuleType):
    """A module with init, log and finish that writes down what it is told."""

    def __init__(self, name: str, fails_at: int | None = None) -> None:
        super().__init__(name)
        self.begun: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self._fails_at = fails_at

    def init(self, **settings: Any) -> None:
        self.begun = settings

    def log(self, values: dict[str, float], step: int) -> None:
        if len(self.logged) == self._fails_at:
            raise ConnectionError("no network")
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_rows_and_scores_reach_a_logger_by_its_name(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fake = Calls(name)
    monkeypatch.setitem(sys.modules, name, fake)
    spec, folder = make_spec(num_steps=20, labels={"arm": "a"}), RunFolder(tmp_path / "run")
    train_run(spec, folder, corpora=[corpus], loggers=(name,))
    assert fake.begun["project"] == "isoflop"
    assert fake.begun["name"] == spec.folder
    assert fake.finished == 1
    rows = folder.read_metrics()
    assert [step for step, _ in fake.logged] == [*(row["step"] for row in rows), 20]
    assert fake.logged[4][1]["train/loss_nats"] == rows[4]["loss_nats"]
    score = folder.read_measurements()[-1]
    assert fake.logged[-1][1]["heldout/bits_per_byte"] == score.bits_per_byte.value


def test_the_environment_names_loggers_and_a_stopped_run_closes_them(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Calls("trackio")
    monkeypatch.setitem(sys.modules, "trackio", fake)
    monkeypatch.setenv("ISOFLOP_LOGGERS", " trackio, ")
    monkeypatch.setattr("isoflop.train.loop.POLL_S", -1.0)
    assert names_wanted() == ("trackio",)
    train_run(make_spec(), RunFolder(tmp_path / "run"), corpora=[corpus], should_stop=lambda: True)
    assert fake.finished == 1


def test_no_key_no_path_and_no_command_line_is_passed_on(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cr3t")
    spec = make_spec(command=("train", "--token", "s3cr3t"))
    source = msgspec.structs.replace(spec.data.sources[0], source="/home/s3cr3t/text")
    spec = msgspec.structs.replace(spec, data=msgspec.structs.replace(spec.data, sources=(source,)))
    told = config_of(spec)
    assert "s3cr3t" not in repr(told)
    assert told["optimizer.peak_lr"] == 0.01
    assert told["fingerprint"] == spec.fingerprint()


def test_a_missing_package_and_an_unknown_name_are_said_in_one_line_before_training(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(LoggerError, match=r"^the logger 'wandb' needs .*pip install wandb$"):
        train_run(make_spec(), folder, corpora=[corpus], loggers=("wandb",))
    assert folder.read_metrics() == []
    with pytest.raises(LoggerError, match="there are: wandb, trackio, tensorboard"):
        open_loggers(("wandbb",), make_spec(), tmp_path)


def test_a_logger_that_fails_is_given_up_and_the_run_goes_on(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Calls("trackio", fails_at=3)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    folder = RunFolder(tmp_path / "run")
    with pytest.warns(UserWarning, match="logger trackio failed"):
        record = train_run(make_spec(), folder, corpora=[corpus], loggers=("trackio",))
    assert record is not None
    assert record.status == "finished"
    assert len(folder.read_metrics()) == 20


def test_tensorboard_writes_into_the_folder_of_the_run(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, log_dir: str) -> None:
            self.log_dir = log_dir

        def add_text(self, name: str, text: str) -> None: ...

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((self.log_dir, value, step))

        def close(self) -> None:
            written.append(("closed", 0.0, 0))

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    train_run(make_spec(), RunFolder(tmp_path / "run"), corpora=[corpus], loggers=("tensorboard",))
    assert written[0][0] == str(tmp_path / "run" / "tensorboard")
    assert written[-1][0] == "closed"


def test_each_text_is_scored_under_its_own_name(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    plain = make_spec()
    assert plain.evaluate is not None
    twice = EvalSpec(
        function=plain.evaluate.function,
        num_windows=8,
        num_groups=4,
        at_steps=(5, 12),
        sources=(corpus.data_source(), corpus.data_source()),
    )
    folder = RunFolder(tmp_path / "run")
    train_run(make_spec(evaluate=twice), folder, corpora=[corpus])
    scores = folder.read_measurements()
    other = f"heldout {corpus.record.source}"
    assert [(score.step, score.name) for score in scores] == [
        (step, name) for step in (5, 12, 20) for name in ("heldout", other)
    ]
    assert scores[0].loss == scores[1].loss
    assert scores[0].bits_per_byte.value is not None


def test_a_run_on_a_mesh_is_watched_by_its_first_rank(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Calls("trackio")
    monkeypatch.setitem(sys.modules, "trackio", fake)
    monkeypatch.setenv("ISOFLOP_LOGGERS", "trackio")
    spec, folder = make_spec(num_steps=20), RunFolder(tmp_path / "run")
    train(spec, folder.path, placement(micro_batch_seqs=4))
    assert fake.finished == 1
    assert [step for step, _ in fake.logged] == [*(row["step"] for row in folder.read_metrics()), 20]
    score = folder.read_measurements()[-1]
    assert fake.logged[-1][1]["heldout/bits_per_byte"] == score.bits_per_byte.value
    monkeypatch.setenv("ISOFLOP_LOGGERS", "nobody")
    other = RunFolder(tmp_path / "other")
    with pytest.raises(LoggerError, match="no logger named 'nobody'"):
        train(spec, other.path, placement(micro_batch_seqs=4))
    assert not list(other.path.glob("metrics.jsonl"))
