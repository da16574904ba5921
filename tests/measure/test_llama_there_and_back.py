"""A small Llama that transformers built and trained goes in, is trained here on a mixture, and comes out as a
model that transformers and lm-eval take as their own."""

from __future__ import annotations

import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.data.mixture import OpenMixture, account, open_mixture
from isoflop.data.tokenize import tokenize
from isoflop.dist import mesh
from isoflop.dist.weights import open_weights
from isoflop.flops.count import train_flops_per_token
from isoflop.model.build import build_net
from isoflop.records import (
    DataSpec,
    FlopCount,
    MeshSpec,
    Mixture,
    MixtureSource,
    NetSpec,
    OptimizerSpec,
    Placement,
    RunSpec,
    ScheduleSpec,
)
from isoflop.refs import function_ref
from isoflop.store import RunFolder
from isoflop.train.distributed import train_distributed
from tests.subject import small_llama

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = pytest.mark.slow

CONTEXT, BATCH, STEPS = 64, 8, 40
PLACEMENT = Placement(
    device="cpu",
    num_nodes=1,
    devices_per_node=1,
    mesh=MeshSpec(),
    micro_batch_seqs=BATCH,
    precision="fp32",
    recompute="none",
    compile=False,
)
LOGIT_TOLERANCE = 1e-5
"""Relative to the largest logit. fp32 rounds to 6e-8; sums of 48 products, a dozen of them one after the other in
two blocks, add up as sqrt(12 * 48) * 6e-8 = 1.5e-6; the promise is 1e-5."""


@dataclass(frozen=True)
class Journey:
    """What went in and what came out."""

    source: Path
    run: RunFolder
    mixture: OpenMixture

    @property
    def out(self) -> Path:
        return self.run.checkpoints / "final"


def train_with_transformers(model: Any, tokenizer_folder: Path, out: Path) -> tuple[float, float]:
    """Some steps of transformers' own trainer on the standard library; its first and last loss."""
    from tokenizers import Tokenizer
    from transformers import Trainer, TrainingArguments

    encoder = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    ids = [token for text in small_llama.text()[:4] for token in encoder.encode(text).ids]
    rows = [ids[at : at + CONTEXT] for at in range(0, len(ids) - CONTEXT, CONTEXT)][:160]
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=20,
        per_device_train_batch_size=8,
        learning_rate=3e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=1,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=[{"input_ids": row, "labels": row} for row in rows]
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return losses[0], losses[-1]


def write_text(folder: Path, names: tuple[str, ...]) -> Path:
    root = Path(sysconfig.get_paths()["stdlib"])
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name.replace('/', '_')}.py").write_text(
            (root / f"{name}.py").read_text(encoding="utf-8")
        )
    return folder


def spec_of(net: NetSpec, data: DataSpec) -> RunSpec:
    per_step = train_flops_per_token(net, "matmul-causal") * BATCH * CONTEXT
    return RunSpec(
        name="continued",
        net=net,
        data=data,
        objective=function_ref("isoflop.train.objectives:next_token"),
        optimizer=OptimizerSpec(peak_lr=2e-3),
        schedule=ScheduleSpec(kind="linear", warmup_steps=4, num_steps=STEPS),
        evaluate=None,
        batch_seqs=BATCH,
        num_steps=STEPS,
        seed=1,
        train_flops=FlopCount(flops=per_step * STEPS, convention="matmul-causal"),
    )


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def journey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Journey:
    root = tmp_path_factory.mktemp("journey")
    source = root / "in"
    small_llama.save_tokenizer(source)
    model = small_llama.build(tied=request.param, init_std=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, last = train_with_transformers(model, source, root / "trainer")
    assert last < first - 0.5
    small_llama.save(model, source)
    weights = open_weights(source)
    assert weights.net.tied_head is request.param
    assert weights.net.rope_scaling is not None
    for name, modules in {
        "tools": ("argparse", "heapq", "statistics"),
        "texts": ("textwrap", "string", "difflib"),
    }.items():
        text = write_text(root / "text" / name, modules)
        tokenize(text, str(source), root / "shards" / name, workers=1, begin=True)
    mixture = Mixture(
        sources=tuple(
            MixtureSource(name=name, where=name, weight=weight)
            for name, weight in (("tools", 3.0), ("texts", 1.0))
        ),
        weight_unit="tokens",
    )
    opened = open_mixture(mixture, root / "shards", tokenizer="bytes", context=CONTEXT, order_seed=5)
    run = RunFolder(root / "run")
    record = train_distributed(
        spec_of(weights.net, opened.data),
        run,
        mesh.join(MeshSpec()),
        PLACEMENT,
        corpora=opened.corpora,
        start_from=source,
    )
    assert record is not None
    assert record.status == "finished"
    return Journey(source, run, opened)


def logits_of(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits.clone()


def our_logits(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    weights = open_weights(folder)
    net = build_net(weights.net, torch.Generator().manual_seed(9))
    weights.load_into(net)
    with torch.no_grad():
        return net(tokens)


def test_transformers_gives_the_same_logits_before_and_after(journey: Journey) -> None:
    tokens = torch.randint(small_llama.VOCAB_SIZE, (3, 100), generator=torch.Generator().manual_seed(0))
    seen = {}
    for folder in (journey.source, journey.out):
        theirs, ours = logits_of(folder, tokens), our_logits(folder, tokens)
        largest = float(theirs.abs().max())
        assert largest > 2
        assert float((ours - theirs).abs().max()) < LOGIT_TOLERANCE * largest
        seen[folder] = theirs
    assert float((seen[journey.source] - seen[journey.out]).abs().max()) > 0.1  # it has been trained


def test_it_was_trained_on_the_mixture(journey: Journey) -> None:
    losses = [row["loss_nats"] for row in journey.run.read_metrics()]
    assert np.mean(losses[-5:]) < np.mean(losses[:3]) - 0.1
    readings = {one.name: one for one in account(journey.mixture, STEPS * BATCH)}
    # 3 to 1 by tokens: the order deals samples in whole slots, so the share is exact to one sample in 320.
    assert readings["tools"].token_share == pytest.approx(0.75, abs=0.005)
    assert sum(one.tokens for one in readings.values()) == STEPS * BATCH * CONTEXT


def test_tokenizer_and_token_ids_come_out_as_they_went_in(journey: Journey) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        went, came = (AutoTokenizer.from_pretrained(place) for place in (journey.source, journey.out))
    text = "def heappush(heap, item):\n    return 'ÄÖ'"
    assert went.encode(text) == came.encode(text)
    assert went.encode(text)[0] == went.bos_token_id == came.bos_token_id
    assert went.chat_template == came.chat_template


def test_lm_eval_accepts_the_exported_model_and_gives_our_scores(journey: Journey, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", exc_type=ImportError)
    from isoflop.measure import benchmarks
    from isoflop.measure.harness_tasks import load_tasks

    tasks = load_tasks([str(small_llama.write_items(tmp_path / "items.jsonl", 60))], num_fewshot=1)
    ours = benchmarks.benchmark(benchmarks.open_candidate(str(journey.run.path)), tasks)
    theirs = benchmarks.benchmark(benchmarks.open_candidate(f"hf:{journey.out}"), tasks)
    pairs = [
        ([float(one[0]) for one in a["filtered_resps"]], [float(one[0]) for one in b["filtered_resps"]])
        for a, b in zip(ours.samples["items"], theirs.samples["items"], strict=True)
    ]
    found, expected = (np.array(side) for side in zip(*pairs, strict=True))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)  # rounding of a sum of log-likelihoods
    for metric in ("acc,none", "acc_norm,none", "acc_stderr,none"):
        assert ours.results["results"]["items"][metric] == theirs.results["results"]["items"][metric]
    kept = benchmarks.keep(ours)
    assert kept is not None
    assert kept.results.parent == journey.run.path / "benchmarks" / f"step-{STEPS:08d}"
    assert {one.step for one in benchmarks.read_scores(journey.run)} == {STEPS}
