"""Benchmarks through lm-eval: the numbers are lm-eval's own, seeds stay, files can be compared, errors are one line."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from isoflop.cli import main
from isoflop.data import Corpus
from isoflop.judge.compare import Options, compare_files
from isoflop.judge.scores import read_scores
from isoflop.records import MeshSpec, Placement, RunSpec
from isoflop.store import RunFolder
from tests.subject import small_llama

lm_eval = pytest.importorskip("lm_eval", exc_type=ImportError)
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from isoflop.dist import mesh  # noqa: E402
from isoflop.measure import benchmarks  # noqa: E402
from isoflop.measure.benchmark_scorer import benchmark_scorer  # noqa: E402
from isoflop.measure.benchmarks import Benchmarked, Candidate, Settings  # noqa: E402
from isoflop.measure.harness_tasks import BenchmarkError, TaskSet, load_tasks  # noqa: E402
from isoflop.train.distributed import SaveRule, train_distributed  # noqa: E402

MakeSpec = Callable[..., RunSpec]

pytestmark = [pytest.mark.slow]

NATS_TOLERANCE = 1e-6
"""Relative, of a sum of log-likelihoods. Two ways to compute one fp32 net differ by rounding of about 1e-7 in
each logit, and a log-likelihood is a difference of two sums of them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of transformers' with scaled positions, a tokenizer that puts a first token, and items."""
    place = tmp_path_factory.mktemp("llama")
    small_llama.save_tokenizer(place)
    small_llama.save(small_llama.build(), place)
    small_llama.write_items(place / "items.jsonl")
    (place / "tasks").mkdir()
    shutil.copyfile(place / "items.jsonl", place / "tasks" / "data.jsonl")
    for name, body in TASK_FILES.items():
        (place / "tasks" / f"{name}.yaml").write_text(f"task: {name}\n{DATA}{body}")
    (place / "tasks" / "together.yaml").write_text(
        "group: together\ntask: [plain_items]\naggregate_metric_list: [{metric: acc}]\n"
    )
    return place


DATA = "dataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\ntest_split: test\n"
TASK_FILES = {
    "plain_items": (
        "output_type: multiple_choice\ndoc_to_text: 'Q: {{query}} A:'\ndoc_to_choice: '{{choices}}'\n"
        "doc_to_target: '{{gold}}'\nmetadata: {version: 2.0}\n"
    ),
    "whole_texts": (
        "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{query * 8}}'\n"
        "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\nmetadata: {version: 1.0}\n"
    ),
    "answers": (
        "output_type: generate_until\ndoc_to_text: '{{query}}'\ndoc_to_target: '{{choices[gold]}}'\n"
        "generation_kwargs: {until: ['\\n', 'a'], max_gen_toks: 12, do_sample: false}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\nmetadata: {version: 1.0}\n"
    ),
}


def tasks(folder: Path, *names: str, **options: Any) -> TaskSet:
    return load_tasks(names, task_dirs=[folder / "tasks"], **options)


@pytest.fixture(scope="module")
def ours(folder: Path) -> Candidate:
    return benchmarks.open_candidate(str(folder), batch_tokens=700)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Candidate:
    """lm-eval's own class for transformers, on the same files."""
    return benchmarks.open_candidate(f"hf:{folder}")


def nats(done: Benchmarked, task: str) -> np.ndarray:
    return np.array([[float(pair[0]) for pair in row["filtered_resps"]] for row in done.samples[task]])


# ------------------------------------------------------------------------- equal to lm-eval's own


@pytest.mark.parametrize("shots", [0, 3])
@pytest.mark.parametrize("chat", [False, True])
def test_log_likelihoods_are_those_of_lm_eval_s_own_model(
    folder: Path, ours: Candidate, theirs: Candidate, shots: int, chat: bool
) -> None:
    """Three shots are longer than the context: both cut the prompt from the left."""
    settings = Settings(chat_template=chat)
    a, b = (
        benchmarks.benchmark(one, tasks(folder, "plain_items", num_fewshot=shots), settings)
        for one in (ours, theirs)
    )
    assert [row["arguments"] for row in a.samples["plain_items"]] == [
        row["arguments"] for row in b.samples["plain_items"]
    ]
    np.testing.assert_allclose(nats(a, "plain_items"), nats(b, "plain_items"), rtol=NATS_TOLERANCE)
    assert np.ptp(nats(a, "plain_items")) > 1
    for metric in ("acc,none", "acc_stderr,none"):
        assert a.results["results"]["plain_items"][metric] == b.results["results"]["plain_items"][metric]
    assert a.results["n-shot"]["plain_items"] == shots
    assert a.results["task_hashes"] == b.results["task_hashes"]


def test_texts_longer_than_the_context_are_scored_in_the_same_windows(
    folder: Path, ours: Candidate, theirs: Candidate
) -> None:
    a, b = (benchmarks.benchmark(one, tasks(folder, "whole_texts")) for one in (ours, theirs))
    rows = a.results["results"]["whole_texts"], b.results["results"]["whole_texts"]
    tokens = [len(ours.harness_model.tok_encode(row["target"])) for row in a.samples["whole_texts"]]
    assert max(tokens) > ours.context
    assert rows[0]["bits_per_byte,none"] == pytest.approx(rows[1]["bits_per_byte,none"], rel=NATS_TOLERANCE)
    assert rows[0]["bits_per_byte,none"] > 1


def test_generated_answers_are_those_of_transformers(
    folder: Path, ours: Candidate, theirs: Candidate
) -> None:
    a, b = (benchmarks.benchmark(one, tasks(folder, "answers")) for one in (ours, theirs))
    texts = [[row["resps"] for row in done.samples["answers"]] for done in (a, b)]
    assert texts[0] == texts[1]
    lengths = {len(one[0][0]) for one in texts[0]}
    assert len(lengths) > 3  # some are cut at a stop text, some go on to the end


def test_a_model_of_another_family_is_asked_through_transformers(tmp_path: Path, folder: Path) -> None:
    import transformers

    config = transformers.GPT2Config(vocab_size=512, n_positions=128, n_embd=16, n_layer=1, n_head=2)
    small_llama.save(transformers.GPT2LMHeadModel(config), tmp_path / "gpt2")
    small_llama.save_tokenizer(tmp_path / "gpt2", leads=False)
    done = benchmarks.benchmark(
        benchmarks.open_candidate(f"hf:{tmp_path / 'gpt2'}"), tasks(folder, "plain_items")
    )
    assert 0 <= done.results["results"]["plain_items"]["acc,none"] <= 1
    with pytest.raises(RuntimeError, match="model_type is 'gpt2'"):
        benchmarks.open_candidate(str(tmp_path / "gpt2"))


# -------------------------------------------------------------------------------- what is kept


def test_files_are_compared_item_by_item(folder: Path, ours: Candidate, tmp_path: Path) -> None:
    other_place = tmp_path / "other"
    shutil.copytree(folder, other_place, ignore=shutil.ignore_patterns("model*"))
    small_llama.save(small_llama.build(init_std=0.15), other_place)
    other = benchmarks.open_candidate(str(other_place))
    task = tasks(folder, "plain_items")
    done = [benchmarks.benchmark(one, task) for one in (ours, other)]
    a = benchmarks.write(done[0], tmp_path / "a.json")
    b = benchmarks.write(done[1], tmp_path / "b")
    answer = compare_files(a.results, tmp_path / "b")
    (row,) = answer["tasks"]
    assert row["kind"] == "items"
    assert (row["a"], row["b"]) == tuple(one.results["results"]["plain_items"]["acc,none"] for one in done)
    gold = compare_files(a.results, b.results, Options(metric="gold_bits_per_byte"))["tasks"][0]
    assert gold["kind"] == "items"
    assert gold["higher_is_better"] is False
    assert gold["difference"] != 0
    (scores,) = [task for task in read_scores(a.results).tasks if task.metric == "acc"]
    assert (scores.version, scores.num_shots, scores.num) == ("2.0", "0", 24)


def test_the_record_says_what_must_be_equal(folder: Path, ours: Candidate, tmp_path: Path) -> None:
    done = benchmarks.benchmark(ours, tasks(folder, "plain_items", num_fewshot=2), Settings(limit=10))
    written = benchmarks.write(done, tmp_path)
    (score,) = [one for one in written.scores if one.metric == "acc"]
    assert (score.num_items, score.num_fewshot, score.task_version, score.context) == (10, 2, "2.0", 128)
    assert score.harness == f"lm-eval {lm_eval.__version__}"
    assert not score.chat_template
    assert score.score.value is not None
    assert score.score.lo is not None
    assert score.score.hi is not None
    assert 0 <= score.score.lo < score.score.value < score.score.hi <= 1
    assert score.items == written.items["plain_items"].name
    assert len(written.items["plain_items"].read_text().splitlines()) == 10
    (group,) = [
        one
        for one in benchmarks.benchmark(ours, tasks(folder, "together")).scores()
        if one.task == "together"
    ]
    assert (group.metric, group.num_items) == ("acc", 24)


def test_added_scores_are_what_the_log_says(folder: Path, ours: Candidate) -> None:
    done = benchmarks.benchmark(ours, tasks(folder, "plain_items"))
    row = done.samples["plain_items"][5]
    found = nats(done, "plain_items")[5]
    gold = row["target"]
    assert row["gold_probability"] == pytest.approx(np.exp(found[gold]) / np.exp(found).sum(), rel=1e-9)
    num_bytes = len(row["arguments"][gold][1].encode())
    assert row["gold_bits_per_byte"] == pytest.approx(-found[gold] / np.log(2) / num_bytes, rel=1e-9)
    mean = np.mean([one["gold_probability"] for one in done.samples["plain_items"]])
    assert done.results["results"]["plain_items"]["gold_probability,none"] == pytest.approx(mean)


# -------------------------------------------------------------------------------------- seeds


def test_the_caller_s_seeds_are_left_alone(folder: Path, ours: Candidate, theirs: Candidate) -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    def begin() -> None:
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        torch.manual_seed(5)

    begin()
    expected = draws()
    for candidate in (ours, theirs):
        begin()
        done = benchmarks.benchmark(
            candidate, tasks(folder, "plain_items", "whole_texts", "answers", num_fewshot=1)
        )
        assert draws() == expected
        assert len(done.results["results"]) == 3
    begin()
    with pytest.raises(BenchmarkError):
        tasks(folder, str(folder / "nothing.jsonl"))
    assert draws() == expected


# ------------------------------------------------------------------------------- while training


@pytest.fixture
def training_tasks(corpus: Corpus, tmp_path: Path) -> TaskSet:
    words = ["alpha", "beta", "gamma", "delta", "omega", "sigma"]
    rows = [{"query": f"{a} {b}", "choices": [a, "xqzvw"], "gold": 0} for a in words for b in words]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_tasks([str(tmp_path / "words.jsonl")])


PLACEMENT = Placement(
    device="cpu", num_nodes=1, devices_per_node=1, mesh=MeshSpec(), micro_batch_seqs=4, precision="fp32",
    recompute="none", compile=False,
)  # fmt: skip


def run(spec: RunSpec, folder: RunFolder, corpus: Corpus, at_score: Any) -> Any:
    return train_distributed(
        spec,
        folder,
        mesh.join(MeshSpec()),
        PLACEMENT,
        corpora=[corpus],
        saves=SaveRule(every_steps=20, every_s=None, background=False),
        at_checkpoint=at_score,
    )


@pytest.mark.usefixtures("use_cache")
def test_a_run_is_scored_on_the_way_and_is_the_same_run(
    make_spec: MakeSpec, corpus: Corpus, training_tasks: TaskSet, tmp_path: Path
) -> None:
    spec = make_spec(num_steps=80, save_at_steps=(80,))
    scored, bare = RunFolder(tmp_path / "scored"), RunFolder(tmp_path / "bare")
    scorer = benchmark_scorer(training_tasks, spec, scored)
    assert run(spec, scored, corpus, scorer).status == "finished"
    assert run(spec, bare, corpus, lambda net, step: None).status == "finished"
    assert [row["loss_nats"] for row in scored.read_metrics()] == [
        row["loss_nats"] for row in bare.read_metrics()
    ]
    kept = [one for one in benchmarks.read_scores(scored) if one.metric == "gold_probability"]
    assert [one.step for one in kept] == [20, 40, 60, 80]
    assert all(one.run == spec.fingerprint() for one in kept)
    values = [one.score.value or 0.0 for one in kept]
    assert values[-1] > 0.9  # letters that the text never has become unlikely
    assert not (scored.path / "warnings.txt").exists()
    # The state and the final weights, taken from disk, score the same.
    for step, score in ((40, values[1]), (None, values[-1])):
        if step is not None and not (scored.checkpoints / f"step-{step:08d}").is_dir():
            continue
        candidate = benchmarks.open_candidate(str(scored.path), step=step)
        again = benchmarks.benchmark(candidate, training_tasks)
        assert again.results["results"]["words"]["gold_probability,none"] == pytest.approx(score, rel=1e-6)
        benchmarks.keep(again)
    assert len([one for one in benchmarks.read_scores(scored) if one.metric == "gold_probability"]) == 4
    state = benchmarks.open_candidate(str(scored.checkpoints / "step-00000080"))
    assert state.step == 80


@pytest.mark.usefixtures("use_cache")
def test_a_score_that_fails_does_not_end_the_run(
    make_spec: MakeSpec,
    corpus: Corpus,
    training_tasks: TaskSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, folder = make_spec(num_steps=40), RunFolder(tmp_path / "run")
    scorer = benchmark_scorer(training_tasks, spec, folder)
    monkeypatch.setattr(
        benchmarks, "write_atomic", lambda *args: (_ for _ in ()).throw(OSError("disk is full"))
    )
    assert run(spec, folder, corpus, scorer).status == "finished"
    assert (
        "benchmarks after 20 updates failed: OSError: disk is full"
        in (folder.path / "warnings.txt").read_text()
    )


# ------------------------------------------------------------------------------- command and errors


@pytest.fixture
def command(folder: Path) -> Iterator[Callable[..., Any]]:
    def call(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["evaluate", *arguments])

    return call


def test_the_command_prints_scores_with_errors_and_writes_what_compare_reads(
    command: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.json"
    items = str(folder / "items.jsonl")
    done = command(str(folder), "--tasks", items, "--out", str(out), "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["schema"] == "isoflop.evaluate/1"
    assert {one["metric"] for one in answer["scores"]} == {
        "acc",
        "acc_norm",
        "gold_probability",
        "gold_bits_per_byte",
    }
    assert "95 % interval" in done.stderr
    assert compare_files(out, out)["tasks"][0]["kind"] == "items"
    other = command(f"hf:{folder}", "--tasks", items, "--limit", "4", "--json")
    assert [one["num_items"] for one in json.loads(other.stdout)["scores"]] == [4] * 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--tasks", "plain_itms", "--task-dir", "{}/tasks"),
            "no task 'plain_itms'; the nearest names: plain_items",
        ),
        (("--tasks", "plain_items", "--task-dir", "{}/nowhere"), "no folder .*nowhere of task files"),
        (("--tasks", "other.jsonl"), "no file other.jsonl"),
        (("--tasks", "{}/config.yaml"), "no file"),
        (("--tasks", "{}/bad.jsonl"), r"bad.jsonl, line 2: not an item such as"),
        (("--tasks", "{}/items.jsonl", "--step", "4"), "no run folder"),
        (
            ("--tasks", "{}/items.jsonl", "--tokenizer", "{}/large"),
            "token ids up to 512, the embedding has 512 rows",
        ),
        (("--tasks", "{}/items.jsonl", "--tokenizer", "{}/nowhere"), "no tokenizer at"),
        (("--tasks", ","), "no task named"),
    ],
)
def test_bad_requests_are_one_line(
    command: Callable[..., Any], folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    (folder / "bad.jsonl").write_text(
        '{"query": "a", "choices": ["b", "c"], "gold": 1}\n{"query": "a", "gold": 7}\n'
    )
    large = folder / "large"
    large.mkdir(exist_ok=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 512, "content": "<extra>"})
    (large / "tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copyfile(folder / "tokenizer_config.json", large / "tokenizer_config.json")
    done = command(str(folder), *(one.format(folder) for one in arguments))
    assert done.exit_code == 2
    (line,) = done.stderr.strip().splitlines()
    assert re.search(words, line), line


def test_a_folder_without_weights_or_tokenizer_is_one_line(
    command: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    items = str(folder / "items.jsonl")
    for place, words in ((tmp_path, "holds no weights"), (tmp_path / "no", "no model at")):
        done = command(str(place), "--tasks", items)
        assert (done.exit_code, words in done.stderr) == (2, True), done.stderr
    shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    done = command(str(tmp_path / "bare"), "--tasks", items)
    assert "holds no tokenizer.json" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_data_that_cannot_be_had_is_one_line(folder: Path) -> None:
    import datasets

    def load(**options: Any) -> Any:
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub (LocalEntryNotFoundError)")

    (folder / "tasks" / "far.yaml").write_text(
        "task: far\ndataset_path: owner/name\ntest_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: a\ndoc_to_choice: ['a', 'b']\ndoc_to_target: 0\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", load)
        with pytest.raises(BenchmarkError, match=r"data of task 'far' cannot .*HF_HOME"):
            tasks(folder, "far")


@pytest.mark.parametrize("name", ["arc_easy_test_500", "arc_challenge_test_500", "mmlu_val_500"])
def test_public_items_are_scored(shared_data: Path, ours: Candidate, name: str) -> None:
    path = shared_data / "evals" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no {path}")
    done = benchmarks.benchmark(ours, load_tasks([str(path)]), Settings(limit=20))
    (score,) = [one for one in done.scores() if one.metric == "acc_norm"]
    assert score.num_items == 20
    assert score.score.value is not None
