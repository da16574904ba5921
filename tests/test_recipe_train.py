"""`isoflop train RECIPE`: from the command to the report, resumed, launched, and on bad input."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from isoflop.cli import main
from isoflop.store import RunFolder, Store
from tests import tiny_recipe

pytest.importorskip("tokenizers")

RECIPE = str(Path(tiny_recipe.__file__))
LLAMA = str(Path(__file__).resolve().parent.parent / "recipes" / "llama3.1-8b-continual")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    tiny_recipe.make_text(folder)
    return folder


@pytest.fixture(scope="module")
def shards(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The token shards of both sources; tests that damage them take a copy."""
    from isoflop.plan.recipe import load_recipe
    from isoflop.train.recipe_run import open_text

    folder = tmp_path_factory.mktemp("shards")
    os.environ["TINY_TEXT"] = str(text)
    try:
        open_text(load_recipe(RECIPE), folder)
    finally:
        del os.environ["TINY_TEXT"]
    return folder


@pytest.fixture(autouse=True)
def one_thread(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_TEXT", str(text))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def train(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments), "--json"], catch_exceptions=False)


def answer_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def refusal_of(result: Result) -> str:
    """The one line of a refused request."""
    assert result.exit_code == 2, result.stderr
    message: str = json.loads(result.stdout)["error"]
    assert result.stderr.strip().splitlines()[-1] == f"isoflop train: {message}"
    return message


def losses(folder: RunFolder) -> list[float]:
    return [row["loss_nats"] for row in folder.read_metrics()]


# ------------------------------------------------------------------------------------- to the report


@pytest.mark.slow
def test_one_command_ends_with_scores_weights_and_a_report(tmp_path: Path, shards: Path) -> None:
    out = tmp_path / "out"
    answer = answer_of(train(RECIPE, "--data", shards, "--out", out))
    assert answer["steps"] == 12
    assert answer["tokens"] == 12 * 8 * 32
    assert not answer["was_done"]
    for source in ("first", "second"):  # made-up words are learned in a dozen updates
        assert answer["bits_per_byte"][source]["after"] < answer["bits_per_byte"][source]["before"]
    (folder,) = Store(out).run_folders()
    scores = folder.read_source_scores()
    assert [one.step for one in scores] == [0, 2, 4, 6, 8, 10, 12]
    assert {score.name for one in scores for score in one.scores} == {"first", "second"}
    assert all(one.peak_memory_bytes and one.matmul_flops_per_s for one in scores)
    page = (out / "report.html").read_text()
    for words in (
        "MFU = tokens/s",
        "Gradient norm",
        "What is read of each source",
        "bits per byte",
        "attempts",
    ):
        assert words in page
    weights = Path(answer["weights"])
    assert (weights / "config.json").is_file()
    assert (weights / "model.safetensors").is_file()

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json*")}
    again = answer_of(train(RECIPE, "--data", shards, "--out", out))
    assert again["was_done"]
    assert {key: again[key] for key in ("steps", "bits_per_byte")} == {
        key: answer[key] for key in ("steps", "bits_per_byte")
    }
    changed = {path.name for path, when in before.items() if path.stat().st_mtime_ns != when}
    # What says how to go on is written again; what was measured and concluded is not.
    assert changed <= {"plan.json", "recipe.json", "mixture.json", "left_out.json", "launch.json"}


@pytest.mark.slow
def test_judge_publish_status_and_ledger_know_the_folder(tmp_path: Path, shards: Path) -> None:
    out = tmp_path / "out"
    answer = answer_of(train(RECIPE, "--data", shards, "--out", out))
    for name in ("judge", "publish", "status", "ledger"):
        result = CliRunner().invoke(main, [name, str(out), "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        told = json.loads(result.stdout)
        if name == "judge":
            assert told["sentence"] == answer["sentence"]
        if name == "status":
            (run,) = told["runs"]
            assert (run["state"], run["step"]) == ("finished", 12)
            assert run["tokens_per_s"] > 0


@pytest.mark.slow
def test_sessions_that_shuffle_anew_are_a_chain_read_as_one_run(tmp_path: Path, shards: Path) -> None:
    out = tmp_path / "out"
    answer = answer_of(train(RECIPE, "--variant", "shuffled", "--data", shards, "--out", out))
    assert answer["steps"] == 12
    plan = Store(out).read_plan()
    assert [run.spec.num_steps for run in plan.runs] == [4, 8, 12]
    assert plan.planned_flops.flops == pytest.approx(answer["flops_spent"])
    from isoflop.recipe_verbs import judge_recipe

    (bins,) = [table for table in judge_recipe(out).tables if table.name == "loss_bins"]
    lines = [row for row in bins.rows if row[5] == "line"]
    assert [row[1] for row in lines] == list(range(1, 13))


@pytest.mark.slow
def test_benchmarks_are_scored_at_the_ends_and_shown(tmp_path: Path, shards: Path) -> None:
    pytest.importorskip("lm_eval")
    items = tmp_path / "words.jsonl"
    rows = [{"query": f"abc {number}", "choices": ["ab", "gh"], "gold": number % 2} for number in range(6)]
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    answer_of(train(RECIPE, "--data", shards, "--out", out, "--benchmark", items))
    (table,) = [table for table in Store(out).read_verdict().tables if table.name == "benchmarks"]
    scored = {(row[0], row[2]) for row in table.rows}
    assert {("words", 0), ("words", 12)} <= scored
    assert all(row[6] == 6 for row in table.rows)
    assert "Benchmarks, before" in (out / "report.html").read_text()
    (folder,) = Store(out).run_folders()
    steps = [folder.path / "benchmarks" / f"step-{step:08d}" for step in (0, 12)]
    compared = shell("compare", *steps)
    assert compared.exit_code == 0, compared.stderr


@pytest.mark.slow
@pytest.mark.browser
def test_the_report_opens_quietly_on_a_desk_and_a_phone(tmp_path: Path, shards: Path) -> None:
    from tests.browser import Browser, missing_browser

    if reason := missing_browser():
        pytest.skip(reason)
    answer = answer_of(train(RECIPE, "--data", shards, "--out", tmp_path / "out"))
    report = Path(answer["report"])
    with Browser() as browser:
        page = browser.open(report)
        for width in (1200, 360):
            page.set_viewport(width, 900)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.problems == []
        assert page.requests == [report.as_uri()]
        titles = page.evaluate("[...document.querySelectorAll('figcaption strong')].map(e => e.textContent)")
        assert [title.split(". ", 1)[1].rstrip(".") for title in titles] == [
            "Training loss",
            "Bits per byte of each source's held-out text",
            "Learning rate, gradient norm and throughput",
        ]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "isoflop", "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_state(out: Path, process: subprocess.Popen[str]) -> None:
    """Until the run has a checkpoint to go on from."""
    deadline = time.monotonic() + 60
    while not list(out.glob("runs/*/checkpoint/step-*/*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_cut_goes_on_to_the_same_losses(tmp_path: Path, shards: Path, how: int) -> None:
    """Killed, or asked to stop by Ctrl-C; the same command goes on to the bit."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    arguments = (RECIPE, "--scale", "long", "--data", shards, "--out")
    answer_of(train(*arguments, whole))
    process = start(*arguments, cut)
    wait_for_state(cut, process)
    process.send_signal(how)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), said
    if how == signal.SIGINT:
        assert "the same command goes on" in said
    answer_of(train(*arguments, cut))
    (one,), (other,) = Store(whole).run_folders(), Store(cut).run_folders()
    assert losses(one) == losses(other)
    assert one.read_source_scores()[-1].scores == other.read_source_scores()[-1].scores
    attempts = other.read_record().attempts
    assert len(attempts) == 2
    assert attempts[0].ended == ("cut" if how == signal.SIGINT else "killed")


@pytest.mark.slow
def test_the_stop_file_makes_it_leave_and_the_same_command_go_on(tmp_path: Path, shards: Path) -> None:
    out = tmp_path / "out"
    arguments = (RECIPE, "--scale", "long", "--data", shards, "--out", out)
    process = start(*arguments)
    wait_for_state(out, process)
    (folder,) = Store(out).run_folders()
    (folder.path / "stop").touch()
    process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the run was over before it was asked to stop")
    assert process.returncode == 130
    assert answer_of(train(*arguments))["steps"] == 160


# --------------------------------------------------------------------------------------- launched


def job_line(script: Path) -> list[str]:
    """The words of the batch file that start the ranks of a node, as its shell would see them."""
    (line,) = [line for line in script.read_text().splitlines() if line.startswith("srun")]
    return shlex.split(line.removesuffix(" &"))


@pytest.mark.slow
def test_the_job_is_written_and_its_command_trains_with_two_ranks(tmp_path: Path, shards: Path) -> None:
    out = tmp_path / "job"
    job = (
        RECIPE,
        "--data",
        shards,
        "--out",
        out,
        "--launch",
        "slurm",
        "--account",
        "abc",
        "--partition",
        "p",
    )
    answer = answer_of(train(*job, "--nproc", 2, "--setup", "source venv/bin/activate"))
    script = Path(answer["job"])
    subprocess.run(["bash", "-n", str(script)], check=True)
    written = script.read_text()
    for words in (
        "--account=abc",
        "--partition=p",
        "--requeue",
        "--signal=B:USR1@600",
        "source venv/bin/activate",
    ):
        assert words in written
    (folder,) = Store(out).run_folders()
    assert not folder.metrics_path.exists()  # nothing was started
    words = [word.replace("$folder", str(folder.path)) for word in job_line(script) if word != "python"]
    ranks = words[words.index("env") :]
    # One machine in place of SLURM's: the meeting point is torchrun's own.
    ranks = [word for word in ranks if not word.startswith("--rdzv")]
    ranks.insert(ranks.index("-m"), sys.executable)
    ranks.insert(ranks.index("--nnodes=1"), "--standalone")
    done = subprocess.run(ranks, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert folder.read_record().status == "finished"
    assert folder.read_record().provenance.num_workers == 2
    # The same command without --launch finds it done, and writes the report. Two ranks add in another order
    # than one: fp32 sums of a few hundred terms differ by some 1e-6.
    answer_of(train(RECIPE, "--data", shards.resolve(), "--out", out, "--nproc", 2))
    alone = tmp_path / "alone"
    answer_of(train(RECIPE, "--data", shards, "--out", alone))
    (one,) = Store(alone).run_folders()
    assert losses(folder) == pytest.approx(losses(one), abs=1e-4)


@pytest.mark.slow
def test_torchrun_starts_the_ranks_of_this_machine(tmp_path: Path, shards: Path) -> None:
    out = tmp_path / "out"
    process = start(RECIPE, "--data", shards, "--out", out, "--launch", "torchrun", "--nproc", 2)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "report:" in said
    (folder,) = Store(out).run_folders()
    assert folder.read_record().provenance.num_workers == 2


@pytest.mark.slow
def test_ctrl_c_makes_all_ranks_save_and_leave(tmp_path: Path, shards: Path) -> None:
    out = tmp_path / "out"
    arguments = (RECIPE, "--scale", "long", "--data", shards, "--out", out, "--nproc", 2)
    process = start(*arguments)
    wait_for_state(out, process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    (folder,) = Store(out).run_folders()
    if folder.finished:
        pytest.skip("the run was over before it was asked to stop")
    assert process.returncode == 130, said
    (attempt,) = folder.read_attempts()
    assert attempt.ended == "cut"  # saved at the step where it left, so that nothing is done again
    assert attempt.flops_wasted == 0


def test_several_nodes_are_a_command_for_each(tmp_path: Path, shards: Path) -> None:
    arguments = (RECIPE, "--data", shards, "--out", tmp_path / "out", "--mesh", "1x4x1", "--nodes", 2)
    answer = answer_of(train(*arguments, "--launch", "torchrun"))
    (command,) = answer["commands"]
    assert "--nnodes=2 --nproc-per-node=2" in command
    assert "--rdzv-endpoint=RENDEZVOUS" in command
    assert "2 nodes cannot be trained from here" in refusal_of(train(*arguments))


def test_a_chain_of_sessions_is_one_job(tmp_path: Path, shards: Path) -> None:
    arguments = ("--variant", "shuffled", "--data", shards, "--out", tmp_path / "out", "--launch", "slurm")
    answer = answer_of(train(RECIPE, *arguments))
    script = Path(answer["job"])
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert len(answer["runs"]) == 3
    assert all(run in script.read_text() for run in answer["runs"])


# ---------------------------------------------------------------------------------- weights in, out


@pytest.mark.slow
def test_weights_go_in_and_come_out(tmp_path: Path, shards: Path) -> None:
    """What one run exports, with its tokenizer beside it, another one starts from."""
    first = answer_of(train(RECIPE, "--data", shards, "--out", tmp_path / "first"))
    weights = tmp_path / "weights"
    shutil.copytree(first["weights"], weights)
    shutil.copyfile(shards / "tokenizer.json", weights / "tokenizer.json")
    out = tmp_path / "second"
    second = answer_of(train(RECIPE, "--weights", weights, "--data", shards, "--out", out))
    for source, was in first["bits_per_byte"].items():
        assert second["bits_per_byte"][source]["before"] == pytest.approx(was["after"], rel=1e-6)
    exported = Path(second["weights"])
    assert (exported / "tokenizer.json").read_bytes() == (weights / "tokenizer.json").read_bytes()
    config = json.loads((exported / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["hidden_size"] == tiny_recipe.NET.dim
    # Other weights are another run, also in the same folder.
    assert "holds another run" in refusal_of(train(RECIPE, "--data", shards, "--out", out))


# --------------------------------------------------------------------------------------- bad input


def nothing_was_trained(out: Path) -> bool:
    return not list(out.glob("runs/*/metrics.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--variant", "crooked"), "no variant 'crooked'; it has: straight, shuffled, empty"),
        (("--scale", "huge"), "no scale 'huge'; it has: full, long"),
        (("--variant", "empty"), "weights of the mixture sum to 0"),
        (("--mesh", "1x3x1"), "cannot be dealt over 3 data-parallel ranks"),
        (("--mesh", "1x1x3"), "num_heads is 2, which 3 tensor ranks cannot share"),
        (("--mesh", "1x4"), "is no mesh"),
        (("--mesh", "1x4x1", "--nodes", "3"), "cannot be dealt over 3 nodes"),
        (("--steps", "13"), "this recipe has 1 to 12"),
        (("--weights", "no/such/folder"), "no folder of weights at no/such/folder"),
        (("--benchmark", "x", "--no-benchmarks"), "exclude each other"),
    ],
)
def test_what_cannot_be_met_is_one_line(
    arguments: tuple[str, ...], says: str, tmp_path: Path, shards: Path
) -> None:
    out = tmp_path / "out"
    assert says in refusal_of(train(RECIPE, "--data", shards, "--out", out, *arguments))
    assert nothing_was_trained(out)


def test_a_folder_that_is_no_recipe_says_what_it_should_be(tmp_path: Path) -> None:
    assert "is no recipe" in refusal_of(train(tmp_path))


def test_too_little_memory_is_said_with_both_numbers(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isoflop.train import recipe_run

    monkeypatch.setattr(recipe_run, "free_memory", lambda device: 10_000.0)
    message = refusal_of(train(RECIPE, "--data", shards, "--out", tmp_path / "out"))
    assert "too little memory" in message
    assert "10 kB are free" in message
    assert "micro_batch_seqs" in message


def test_the_real_recipe_asks_for_its_weights_and_its_machine(tmp_path: Path) -> None:
    # Without benchmarks: where lm-eval, an extra, is missing, it is asked for first.
    for scale in ("gpu", "full"):
        refusal = refusal_of(train(LLAMA, "--scale", scale, "--out", tmp_path / scale, "--no-benchmarks"))
        assert "no GPU is seen here" in refusal
    job = ("--launch", "slurm", "--out", tmp_path / "job")
    assert "give its folder with --weights" in refusal_of(train(LLAMA, *job, "--no-benchmarks"))


@pytest.fixture
def own_shards(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "shards"))


def add_part(source: Path) -> Path:
    """Make a source of three parts out of one, and return the middle one's file of token ids."""
    index = json.loads((source / "shards.json").read_text())
    (part,) = index["parts"]
    files = list((source / "shards").glob(f"{part['name']}.*"))
    index["parts"] = [{**part, "name": f"{number}-{part['name']}"} for number in range(3)]
    for number in range(3):
        for file in files:
            shutil.copyfile(file, file.with_name(f"{number}-{file.name}"))
    (source / "shards.json").write_text(json.dumps(index))
    return source / "shards" / f"1-{part['name']}.train.bin"


@pytest.mark.slow
def test_a_damaged_shard_in_the_middle_stops_it_or_is_skipped_on_record(
    tmp_path: Path, own_shards: Path
) -> None:
    middle = add_part(own_shards / "first")
    middle.write_bytes(middle.read_bytes()[:1000])
    out = tmp_path / "out"
    message = refusal_of(train(RECIPE, "--data", own_shards, "--out", out))
    assert f"{middle.name} has 1,000 bytes instead of" in message
    assert "--skip-damaged" in message
    assert nothing_was_trained(out)
    answer_of(train(RECIPE, "--data", own_shards, "--out", out, "--skip-damaged"))
    left_out = json.loads((own_shards / "first" / "shards.json").read_text())["left_out"]
    assert [item["what"] for item in left_out] == [middle.name.removesuffix(".train.bin")]
    verdict = Store(out).read_verdict()
    assert any(middle.name.removesuffix(".train.bin") in item.what for item in verdict.exclusions)


def exported(folder: Path, **changes: int) -> Path:
    """A folder of weights of the tiny net, or of one with other sizes."""
    import torch

    from isoflop.dist.mesh import World
    from isoflop.dist.weights import save_weights
    from isoflop.model.build import build_net
    from isoflop.records import MeshSpec

    spec = msgspec.structs.replace(tiny_recipe.NET, **changes)
    net = build_net(spec, torch.Generator().manual_seed(0))
    save_weights(net, spec, folder, World(MeshSpec(), 0, torch.device("cpu"), None, None))
    return folder


def test_weights_of_another_shape_are_named(tmp_path: Path, shards: Path) -> None:
    weights = exported(tmp_path / "weights", dim=24)
    message = refusal_of(train(RECIPE, "--weights", weights, "--data", shards, "--out", tmp_path / "out"))
    assert "is of another shape than tiny" in message
    assert "dim 24 instead of 16" in message


def test_weights_cut_short_are_named_with_their_sizes(tmp_path: Path, shards: Path) -> None:
    weights = exported(tmp_path / "weights")
    file = weights / "model.safetensors"
    whole = file.stat().st_size
    file.write_bytes(file.read_bytes()[: whole // 2])
    message = refusal_of(train(RECIPE, "--weights", weights, "--data", shards, "--out", tmp_path / "out"))
    assert f"cut short: {whole // 2} of {whole} bytes" in message


def test_a_damaged_header_does_not_pass(tmp_path: Path, shards: Path) -> None:
    weights = exported(tmp_path / "weights")
    file = weights / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 1 << 40) + file.read_bytes()[8:])
    message = refusal_of(train(RECIPE, "--weights", weights, "--data", shards, "--out", tmp_path / "out"))
    assert "download it again" in message


def test_a_tokenizer_that_does_not_fit_the_weights_is_refused(tmp_path: Path, shards: Path) -> None:
    from isoflop.data.tokenizer import train_bpe

    weights = exported(tmp_path / "weights")
    other = train_bpe("bpe-280", [b"another text altogether, with other pairs " * 20])
    assert other.json_text is not None
    (weights / "tokenizer.json").write_text(other.json_text)
    message = refusal_of(train(RECIPE, "--weights", weights, "--data", shards, "--out", tmp_path / "out"))
    assert "is not the tokenizer of" in message
    assert f"--tokenizer {weights}" in message


def test_weights_without_a_tokenizer_cannot_read_new_text(tmp_path: Path) -> None:
    weights = exported(tmp_path / "weights")
    message = refusal_of(train(RECIPE, "--weights", weights, "--out", tmp_path / "out"))
    assert "holds no tokenizer.json" in message


# ------------------------------------------------------------------------------------- token shards


def shell(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--json"], catch_exceptions=False)


def test_shares_of_the_work_make_one_corpus(text: Path, tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    rest = ("--tokenizer", "bytes", "--held-out", 5)
    assert answer_of(shell("data", "tokenize", text / "first", *rest, "--out", whole))["complete"]
    first = answer_of(shell("data", "tokenize", text / "first", *rest, "--out", shared, "--part", "2/2"))
    assert not first["complete"]
    assert answer_of(shell("data", "tokenize", text / "first", *rest, "--out", shared, "--part", "1/2"))[
        "complete"
    ]
    assert (whole / "shards.json").read_bytes() == (shared / "shards.json").read_bytes()
    bad = shell("data", "tokenize", text / "first", *rest, "--out", shared, "--part", "two")
    assert bad.exit_code == 2
    assert "e.g. 2/16" in json.loads(bad.stdout)["error"]


def test_check_finds_one_changed_byte(own_shards: Path) -> None:
    folders = sorted(own_shards.iterdir())  # the tokenizer beside them is passed over
    (first, second) = answer_of(shell("data", "check", *folders))["folders"]
    assert first["tokens"] > 0
    assert not first["damaged"] + second["damaged"]
    file = next((own_shards / "first" / "shards").glob("*.train.bin"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    result = shell("data", "check", *folders)
    assert result.exit_code == 2
    assert "sha256 is" in json.loads(result.stdout)["error"]


def test_a_plan_counts_what_is_really_there(shards: Path) -> None:
    result = shell("plan", "run", RECIPE, "--data", shards)
    sources = answer_of(result)["mixture"]
    assert all(source["different_tokens"] > 0 and source["epochs"] > 0 for source in sources)
    assert answer_of(shell("plan", "run", RECIPE))["mixture"][0]["epochs"] is None
