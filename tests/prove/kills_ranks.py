"""Kill -9 at random moments over the ranks of spread runs: every resume is exact, on any mesh.

A run is trained undisturbed on three meshes. Then it is trained again and again while one of its ranks is
killed at a random moment, half-way into reading a state, in a step, or beside the writing of a state:

    same      torchrun starts all ranks of a mesh again, as on a cluster
    changing  each kill ends the job, and the next one goes on with another mesh, of 2 or 4 ranks

Asserted after each chain of kills:

- on the same mesh every row of metrics, every score and every weight is that of the undisturbed run to the bit;
  through changes of mesh, where sums are taken in another order, losses are within LOSSES of it;
- each state taken up, put together from all ranks, equals its files to the bit, and no state was ever passed
  over; after each kill every state under its name is whole by its hashes, counted here and not by the reader;
- the sequences that each rank read, hashed as they were read, are those of an undisturbed run: the loader's
  audit counts 0 repeats, 0 omissions, 0 strangers, and the ranks of a tensor group read the same ones;
- the ledger's useful FLOPs are those of the plan.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PROVES = (
    "src/isoflop/data/order.py",
    "src/isoflop/dist/mesh.py",
    "src/isoflop/dist/sharded_checkpoint.py",
    "src/isoflop/dist/states.py",
    "src/isoflop/train/attempts.py",
    "src/isoflop/train/distributed.py",
    "src/isoflop/train/distributed_worker.py",
)

ROOT = Path(__file__).resolve().parent.parent.parent
NUM_STEPS, BATCH, EVERY_S = 240, 4, 0.7
KILLS_PER_CHAIN = 9
SAME = ("1x2x1", "1x2x1", "1x2x2")
"""Meshes of the chains that keep theirs, in turn."""
CHANGING = ("2x1x1", "1x2x1", "1x1x2", "2x2x1", "1x2x2")
LOSSES = 1e-5
"""Rounding of some 1e-7 per update, at a rate at which 240 updates multiply it by a small number."""


@dataclass
class Chain:
    """A run's folder and what struck it."""

    folder: Path
    log: Path
    kills: list[dict[str, Any]]
    launches: int = 0
    states_checked: int = 0
    damaged: int = 0


def run(num_kills: int = 50, seed: int = 0) -> dict[str, Any]:
    """Kill so many ranks, one after the other.

    Args:
        num_kills: kills in all, over as many chains as it takes.
        seed: of moments, victims and meshes.
    """
    dice, started = random.Random(seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["ISOFLOP_CACHE"] = str(root / "cache")
        spec, corpus = _write_spec(root)
        expected = {mesh: _undisturbed(root, spec, mesh) for mesh in dict.fromkeys(SAME)}
        wanted = _wanted_hashes(spec, corpus)
        chains: list[Chain] = []
        problems: list[str] = []
        audits: list[Any] = []
        apart: list[float] = []
        left = num_kills
        while left > 0:
            number = len(chains)
            mesh = None if number % 2 else SAME[(number // 2) % len(SAME)]
            chain = _disturb(root, spec, mesh, min(left, KILLS_PER_CHAIN), dice, f"chain-{number}")
            left -= len(chain.kills)
            chains.append(chain)
            audits.append(_audit(chain, wanted))
            problems += [f"chain {number}: {text}" for text in _problems(chain, spec, audits[-1])]
            found = _outcome(chain.folder)
            if mesh is not None:
                problems += [f"chain {number}: {text}" for text in _differences(found, expected[mesh])]
            else:
                apart.append(_distance(found, expected[SAME[0]]))
    kills = [kill for chain in chains for kill in chain.kills]
    distance = max(apart, default=0.0)
    enough = {kill["moment"] for kill in kills} >= {"taking up", "training"} or num_kills < 10
    return {
        "passed": not problems and len(kills) == num_kills and distance < LOSSES and enough,
        "limits": [
            "ranks of one machine over gloo; a node or a network that is lost is not in it",
            "the machine was not unplugged: a kill loses no data that the system had taken",
        ],
        "num_kills": len(kills),
        "moments": {m: sum(k["moment"] == m for k in kills) for m in ("taking up", "training")},
        "while_writing_a_state": sum(kill["writing"] for kill in kills),
        "by_mesh": {m: sum(k["mesh"] == m for k in kills) for m in CHANGING},
        "by_rank": {str(r): sum(k["rank"] == r for k in kills) for r in range(4)},
        "chains_on_one_mesh": sum(not number % 2 for number in range(len(chains))),
        "chains_with_changing_mesh": len(apart),
        "changes_of_mesh": sum(
            a["mesh"] != b["mesh"]
            for c in chains
            for a, b in zip(c.kills, [*c.kills[1:], {"mesh": c.kills[-1]["mesh"]}], strict=True)
        ),
        "states_taken_up": sum(audit["taken_up"] for audit in audits),
        "states_whole_after_a_kill": sum(chain.states_checked for chain in chains),
        "states_damaged": sum(chain.damaged for chain in chains),
        "sequences": sum(audit["samples"] for audit in audits),
        "done_again": sum(audit["wasted"] for audit in audits),
        "repeats": sum(audit["repeats"] for audit in audits),
        "omissions": sum(audit["omissions"] for audit in audits),
        "strangers": sum(audit["strangers"] for audit in audits),
        "largest_loss_difference_through_changes_of_mesh": distance,
        "problems": problems,
        "seconds": round(time.monotonic() - started),
        "seed": seed,
    }


def show(result: dict[str, Any]) -> str:
    """The result in a few lines."""
    lines = [
        f"{result['num_kills']} kills of ranks ({result['moments']['taking up']} while a state was taken up, "
        f"{result['while_writing_a_state']} while one was written) over {result['chains_on_one_mesh']} chains on one "
        f"mesh and {result['chains_with_changing_mesh']} with {result['changes_of_mesh']} changes of it",
        f"{result['states_whole_after_a_kill']} states looked at after kills, {result['states_damaged']} damaged; "
        f"{result['states_taken_up']} taken up",
        f"{result['sequences']:,} sequences: {result['repeats']} repeats, {result['omissions']} omissions, "
        f"{result['done_again']:,} done again; losses within "
        f"{result['largest_loss_difference_through_changes_of_mesh']:.1e} through changes of mesh",
    ]
    return "\n".join(lines + result["problems"])


# ------------------------------------------------------------------------------ starting and killing


def _disturb(
    root: Path, spec: Any, mesh: str | None, num_kills: int, dice: random.Random, name: str
) -> Chain:
    """One run through its kills to its end."""
    chain = Chain(_prepare(root / name, spec), root / f"{name}.log", [])
    while len(chain.kills) < num_kills and not _finished(chain.folder):
        text = mesh or dice.choice([m for m in CHANGING if not chain.kills or m != chain.kills[-1]["mesh"]])
        job = _start(chain, text, num_kills if mesh else 0)
        restart = 0
        while len(chain.kills) < num_kills:
            kill = _kill_one(chain, job, text, restart, dice)
            if kill is None:
                break
            chain.kills.append(kill)
            _check_states(chain)
            restart += 1
            if mesh is None:
                break
        code = job.wait()
        if not _finished(chain.folder) and (code == 0 or mesh is not None):
            raise RuntimeError(f"{name} ended with code {code}:\n{chain.log.read_text()[-4000:]}")
    if not _finished(chain.folder):
        job = _start(chain, mesh or dice.choice(CHANGING), 0)
        if job.wait() != 0:
            raise RuntimeError(f"{name} ended with code {job.returncode}:\n{chain.log.read_text()[-4000:]}")
    return chain


def _kill_one(
    chain: Chain, job: subprocess.Popen[bytes], mesh: str, restart: int, dice: random.Random
) -> dict[str, Any] | None:
    """Kill a rank of this start at a random moment; None when the run ended before it struck."""
    ranks = _num_ranks(mesh)
    rank, moment = dice.randrange(ranks), dice.choices(("taking up", "training"), (1, 3))[0]
    notes = chain.folder / "ranks" / f"{chain.launches - 1}-{restart}-{rank}.jsonl"
    wanted = b'"joined"' if moment == "taking up" else b'"read"'
    while not (notes.exists() and wanted in notes.read_bytes()):
        if job.poll() is not None:
            return None
        time.sleep(0.01)
    time.sleep(dice.random() * (0.5 if moment == "taking up" else 2.0))
    pid = next((p for p, r in _ranks_of(job.pid) if r == rank), None)
    if pid is None or job.poll() is not None:
        job.wait()
        return None
    reading = b'"read"' in notes.read_bytes()
    writing = any(chain.folder.glob("checkpoint/.step-*"))
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        job.wait()
        return None
    return {
        "mesh": mesh,
        "rank": rank,
        "moment": "training" if reading else "taking up",
        "writing": writing,
    }


def _ranks_of(pid: int) -> Iterator[tuple[int, int]]:
    """(process, rank) of what a torchrun has started."""
    try:
        for child in psutil.Process(pid).children():
            if "tests.train.watched_rank" in child.cmdline():
                yield child.pid, int(child.environ()["RANK"])
    except psutil.Error:
        return


def _start(
    chain: Chain, mesh: str, max_restarts: int, every_s: float | None = EVERY_S
) -> subprocess.Popen[bytes]:
    from isoflop.dist.launch import WORKER, torchrun_command
    from isoflop.records import MeshSpec
    from isoflop.store import RunFolder
    from isoflop.train.distributed_worker import Launch, write_launch
    from tests.train.distributed_sessions import placement

    write_launch(
        RunFolder(chain.folder),
        Launch(placement=placement(mesh), checkpoint_every_s=every_s),
    )
    command = torchrun_command(chain.folder, MeshSpec.parse(mesh), max_restarts=max_restarts)
    command[command.index(WORKER)] = "tests.train.watched_rank"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "WATCHED_LAUNCH": str(chain.launches),
    }
    chain.launches += 1
    with chain.log.open("ab") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def _prepare(folder: Path, spec: Any) -> Path:
    from isoflop.store import RunFolder

    RunFolder(folder).create(spec)
    return folder


def _undisturbed(root: Path, spec: Any, mesh: str) -> dict[str, Any]:
    chain = Chain(_prepare(root / f"undisturbed-{mesh}", spec), root / f"undisturbed-{mesh}.log", [])
    if _start(chain, mesh, 0, every_s=None).wait() != 0:
        raise RuntimeError(f"the undisturbed run on {mesh} failed:\n{chain.log.read_text()[-4000:]}")
    return _outcome(chain.folder)


def _finished(folder: Path) -> bool:
    return (folder / "record.json").exists()


def _num_ranks(mesh: str) -> int:
    replicate, shard, tensor = map(int, mesh.split("x"))
    return replicate * shard * tensor


# ------------------------------------------------------------------------------------ what is compared


def _check_states(chain: Chain) -> None:
    """Count the states that stand under their names, and those of them that are not whole."""
    for folder in sorted((chain.folder / "checkpoint").glob("step-*")):
        try:
            state = json.loads((folder / "state.json").read_text())
            whole = all(
                hashlib.sha256((folder / name).read_bytes()).hexdigest() == value
                for name, value in state["sha256"].items()
            )
        except (OSError, ValueError):
            if not folder.exists():
                continue  # taken away by a newer one while it was looked at
            whole = False
        chain.states_checked += 1
        chain.damaged += not whole


def _outcome(folder: Path) -> dict[str, Any]:
    """All that must not depend on kills."""
    from isoflop.dist import checkpoint
    from isoflop.store import RunFolder

    found = RunFolder(folder)
    tensors, _ = checkpoint.read_folder(found.checkpoints / "final")
    weights = hashlib.sha256()
    for name, tensor in sorted(tensors[checkpoint.MODEL].items()):
        weights.update(name.encode() + tensor.numpy().tobytes())
    return {
        "status": found.read_record().status,
        "rows of metrics": [
            (row["step"], row["loss_nats"], row["lr"], row["grad_norm"]) for row in found.read_metrics()
        ],
        "scores": [(m.step, m.loss.value, m.group_nats) for m in found.read_measurements()],
        "weights": weights.hexdigest(),
    }


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return [f"{what} differ" for what in expected if found[what] != expected[what]]


def _distance(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """Largest difference of losses, rows and scores; infinite when they are not of the same steps."""
    pairs = []
    for what, at in (("rows of metrics", 1), ("scores", 1)):
        if [row[0] for row in found[what]] != [row[0] for row in expected[what]]:
            return float("inf")
        pairs += [(a[at], b[at]) for a, b in zip(found[what], expected[what], strict=True)]
    return max(abs(a - b) for a, b in pairs)


def _problems(chain: Chain, spec: Any, audit: dict[str, Any]) -> list[str]:
    from isoflop.store import RunFolder

    record = RunFolder(chain.folder).read_record()
    useful = record.flops_spent - record.flops_wasted
    found = {
        "the run did not finish": record.status != "finished",
        "a state was damaged": chain.damaged > 0,
        "a half-written state stayed": any(chain.folder.glob("checkpoint/.step-*")),
        "the ledger does not balance": abs(useful / spec.train_flops.flops - 1) > 1e-9,
        "sequences were repeated, omitted or out of place": not audit["exact"],
        "ranks of a tensor group read different sequences": not audit["groups_agree"],
        "a state was not taken up as it was written": not audit["equal"],
    }
    return [text for text, is_so in found.items() if is_so] + audit["warnings"]


def _audit(chain: Chain, wanted: Any) -> dict[str, Any]:
    """The loader's audit of what the ranks wrote down."""
    import numpy as np

    from isoflop.data.audit import audit_steps

    starts: dict[tuple[int, int], dict[int, list[dict[str, Any]]]] = {}
    for path in (chain.folder / "ranks").iterdir():
        launch, restart, rank = map(int, path.stem.split("-"))
        starts.setdefault((launch, restart), {})[rank] = list(_lines(path))
    steps: list[tuple[int, Any]] = []
    agree, notes = True, [line for ranks in starts.values() for lines in ranks.values() for line in lines]
    for _, ranks in sorted(starts.items()):
        read: dict[int, dict[int, list[int]]] = {}  # step -> first sample -> hashes
        for line in (line for lines in ranks.values() for line in lines if line["event"] == "read"):
            own = read.setdefault(line["first"] // BATCH, {})
            agree = agree and own.setdefault(line["first"], line["hashes"]) == line["hashes"]
        for step, parts in sorted(read.items()):
            hashes = [value for first in sorted(parts) for value in parts[first]]
            steps.append((step, np.array(hashes, dtype=np.uint64)))
    count = audit_steps(steps, wanted, len(starts))
    taken = [line for line in notes if line["event"] == "taken up"]
    return {
        "exact": count.exact and count.samples == len(wanted),
        "samples": count.samples,
        "wasted": count.wasted,
        "repeats": count.repeats,
        "omissions": count.omissions,
        "strangers": count.strangers,
        "groups_agree": agree,
        "equal": all(line["equal"] for line in taken),
        "taken_up": sum(
            any(line["event"] == "taken up" and line["step"] for lines in ranks.values() for line in lines)
            for ranks in starts.values()
        ),
        "warnings": sorted({line["text"] for line in notes if line["event"] == "warned"}),
    }


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """What a rank wrote; a kill may have cut the last line."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _wanted_hashes(spec: Any, corpus: Any) -> Any:
    from isoflop.data import TrainingWindows
    from isoflop.data.audit import hash_rows

    return hash_rows(TrainingWindows(spec.data, [corpus]).batch(0, NUM_STEPS * BATCH))


def _write_spec(root: Path) -> tuple[Any, Any]:
    """A run over more text than it sees, so that no sequence comes twice by right."""
    from isoflop.data import prepare
    from isoflop.flops.count import train_flops_per_token
    from isoflop.records import DataSpec, EvalSpec, FlopCount, NetSpec, OptimizerSpec, RunSpec, ScheduleSpec
    from isoflop.refs import function_ref

    dice = random.Random(0)
    (root / "text").mkdir()
    for number in range(60):
        words = (dice.choice(("alpha", "beta", "gamma", "delta", "epsilon")) for _ in range(200))
        (root / "text" / f"{number}.txt").write_text(f"{number} " + " ".join(words))
    corpus = prepare(root / "text", "bytes", cache_dir=root / "cache")
    net = NetSpec(
        vocab_size=256, context=16, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4, ffn_dim=32
    )
    per_step = train_flops_per_token(net, "matmul-causal") * BATCH * net.context
    spec = RunSpec(
        name="killed",
        net=net,
        data=DataSpec(sources=(corpus.data_source(),), context=net.context, order_seed=3),
        objective=function_ref("isoflop.train.objectives:next_token"),
        optimizer=OptimizerSpec(peak_lr=2e-3),
        schedule=ScheduleSpec(kind="wsd", warmup_steps=10, num_steps=NUM_STEPS),
        evaluate=EvalSpec(
            function=function_ref("isoflop.measure.heldout:score"),
            num_windows=16,
            num_groups=8,
            every_steps=60,
        ),
        batch_seqs=BATCH,
        num_steps=NUM_STEPS,
        seed=1,
        train_flops=FlopCount(flops=per_step * NUM_STEPS, convention="matmul-causal"),
    )
    return spec, corpus


if __name__ == "__main__":
    print(json.dumps(run(*map(int, sys.argv[1:])), indent=1))
