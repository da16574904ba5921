"""Kill -9 at random moments of a small fleet, workers and main process: every resume is exact.

A fleet of trunks with branches is trained once undisturbed. Then it is trained again and again from nothing
while its processes are killed at random moments and it is called anew, until so many kills have struck.
Asserted after each fleet: the same losses in every row of metrics and the same scores bit by bit, every run
finished, a ledger in which useful FLOPs are those of the undisturbed fleet, and no checkpoint that was read
half (each one read is compared with its hashes; a damaged one would have left a warning).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

PROVES = (
    "src/isoflop/dist/checkpoint.py",
    "src/isoflop/dist/states.py",
    "src/isoflop/store.py",
    "src/isoflop/train/attempts.py",
    "src/isoflop/train/crew.py",
    "src/isoflop/train/ending.py",
    "src/isoflop/train/fleet.py",
    "src/isoflop/train/loop.py",
    "src/isoflop/train/run.py",
    "src/isoflop/train/worker.py",
)

NUM_STEPS = 1500
MAIN = """
import sys
from isoflop.records import RunSpec, decode
from isoflop.store import Store
from isoflop.train.fleet import run_fleet
specs = [decode(line, RunSpec) for line in open(sys.argv[1], "rb")]
run_fleet(specs, Store(sys.argv[2]), num_workers=2, checkpoint_every_s=0.15)
"""


def run(num_kills: int = 50, seed: int = 0) -> dict[str, Any]:
    """Kill so many processes, one after the other.

    Args:
        num_kills: kills in all, over as many fleets as it takes.
        seed: of the moments and victims.
    """
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        environment = {**os.environ, "ISOFLOP_CACHE": str(root / "cache")}
        specs = _write_specs(root)
        seconds = _finish(root, "undisturbed", environment)
        expected = _outcome(root / "undisturbed", specs)
        kills: list[dict[str, Any]] = []
        differences: list[str] = []
        num_fleets = 0
        while len(kills) < num_kills:
            out = f"fleet-{num_fleets}"
            kills += _disturb(root, out, environment, dice, seconds, num_kills - len(kills))
            _finish(root, out, environment)
            differences += _compare(expected, _outcome(root / out, specs), out)
            num_fleets += 1
    struck = {victim: sum(kill["victim"] == victim for kill in kills) for victim in ("main", "worker")}
    return {
        "passed": not differences and len(kills) == num_kills and min(struck.values()) > 0,
        "limits": ["the machine was not unplugged: a kill loses no data that the system had taken"],
        "num_kills": len(kills),
        "struck": struck,
        "while_writing_a_checkpoint": sum(kill["writing"] for kill in kills),
        "num_fleets": num_fleets,
        "num_runs_per_fleet": len(specs),
        "undisturbed_seconds": round(seconds, 1),
        "differences": differences,
        "seed": seed,
    }


def show(result: dict[str, Any]) -> str:
    """The result in a few lines."""
    lines = [
        f"{result['num_kills']} kills ({result['struck']['main']} of main processes, "
        f"{result['struck']['worker']} of workers, {result['while_writing_a_checkpoint']} of them while a "
        f"checkpoint was being written) over {result['num_fleets']} fleets of "
        f"{result['num_runs_per_fleet']} runs: {len(result['differences'])} differences"
    ]
    return "\n".join(lines + result["differences"])


def _disturb(
    root: Path, out: str, environment: dict[str, str], dice: random.Random, seconds: float, at_most: int
) -> list[dict[str, Any]]:
    """Start a fleet and kill it, or one of its workers, at random moments; some kills per fleet."""
    kills: list[dict[str, Any]] = []
    for _ in range(min(at_most, dice.randint(3, 6))):
        main = _start(root, out, environment)
        _wait_for_work(root / out, main)
        time.sleep(dice.random() * seconds)
        victim = dice.choice(("main", "worker"))
        workers = _workers_of(main.pid)
        if main.poll() is not None:
            break  # it was done before the blow
        writing = any((root / out).glob("runs/*/checkpoint/.step-*"))
        if victim == "worker" and workers:
            _kill(dice.choice(workers))
            kills.append({"victim": "worker", "writing": writing})
            if dice.random() < 0.5:  # let the fleet go on by itself
                continue_until = time.monotonic() + dice.random() * seconds
                while main.poll() is None and time.monotonic() < continue_until:
                    time.sleep(0.05)
            if main.poll() is None and len(kills) < at_most:
                _kill(main.pid)
                kills.append({"victim": "main", "writing": writing})
        else:
            _kill(main.pid)
            kills.append({"victim": "main", "writing": writing})
        if main.poll() is None:
            _kill(main.pid)
        main.wait()
        if len(kills) >= at_most:
            break
    return kills[:at_most]


def _wait_for_work(root: Path, main: subprocess.Popen[bytes]) -> None:
    """Until a worker has begun an attempt: loading takes most of a short fleet's time."""
    while main.poll() is None and not any(root.glob("runs/*/attempt.json")):
        time.sleep(0.01)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _workers_of(pid: int) -> list[int]:
    try:
        return [
            child.pid for child in psutil.Process(pid).children() if "isoflop.train.worker" in child.cmdline()
        ]
    except psutil.Error:
        return []


def _start(root: Path, out: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, str(root / "specs.jsonl"), str(root / out)], env=environment
    )


def _finish(root: Path, out: str, environment: dict[str, str]) -> float:
    """Let the fleet work to its end. Returns the seconds that this took from its first attempt on."""
    main = _start(root, out, environment)
    _wait_for_work(root / out, main)
    started = time.monotonic()
    if main.wait() != 0:
        raise RuntimeError(f"the fleet in {out} ended with code {main.returncode}")
    return time.monotonic() - started


def _outcome(root: Path, specs: list[Any]) -> dict[str, Any]:
    """All that must not depend on kills: losses, scores, statuses; and the useful FLOPs."""
    from isoflop.store import Store

    store, found = Store(root), {}
    for spec in specs:
        folder = store.run(spec)
        record = folder.read_record()
        rows = folder.read_metrics()
        found[spec.name] = {
            "status": record.status,
            "losses": [(row["step"], row["loss_nats"], row["lr"], row["grad_norm"]) for row in rows],
            "scores": [(m.step, m.loss.value, m.group_nats) for m in folder.read_measurements()],
            "useful_flops": round(record.flops_spent - record.flops_wasted),
            "warnings": (folder.path / "warnings.txt").exists(),
            "half_written": [p.name for p in folder.checkpoints.iterdir() if p.name.startswith(".")],
        }
    return found


def _compare(expected: dict[str, Any], found: dict[str, Any], fleet: str) -> list[str]:
    return [
        f"{fleet}, {name}: {what} differ"
        for name, outcome in expected.items()
        for what, value in outcome.items()
        if found[name][what] != value
    ]


def _write_specs(root: Path) -> list[Any]:
    """Two trunks with two branches each, on a corpus of a few words."""
    from isoflop.data import prepare
    from isoflop.flops.count import train_flops_per_token
    from isoflop.records import (
        Branch,
        DataSpec,
        EvalSpec,
        FlopCount,
        NetSpec,
        OptimizerSpec,
        RunSpec,
        ScheduleSpec,
        encode,
    )
    from isoflop.refs import function_ref

    dice = random.Random(0)
    (root / "text").mkdir()
    for number in range(40):
        words = (dice.choice(("alpha", "beta", "gamma", "delta")) for _ in range(200))
        (root / "text" / f"{number}.txt").write_text(" ".join(words))
    corpus = prepare(root / "text", "bytes", cache_dir=root / "cache")
    net = NetSpec(
        vocab_size=256, context=16, dim=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, ffn_dim=16
    )
    per_step = train_flops_per_token(net, "matmul-causal") * 4 * 16

    def spec(
        name: str, seed: int, num_steps: int, leave: int | None, parent: str | None, **more: Any
    ) -> RunSpec:
        return RunSpec(
            name=name,
            net=net,
            data=DataSpec(sources=(corpus.data_source(),), context=16, order_seed=seed),
            objective=function_ref("isoflop.train.objectives:next_token"),
            optimizer=OptimizerSpec(peak_lr=0.01),
            schedule=ScheduleSpec(kind="wsd", warmup_steps=10, num_steps=num_steps, decay_start_step=leave),
            batch_seqs=4,
            num_steps=num_steps,
            seed=seed,
            branch=Branch(parent=parent, step=leave) if parent and leave else None,
            train_flops=FlopCount(flops=per_step * num_steps, convention="matmul-causal"),
            **more,
        )

    evaluate = EvalSpec(function=function_ref("isoflop.measure.heldout:score"), num_windows=16, num_groups=8)
    specs = []
    for seed in (1, 2):
        steps = (NUM_STEPS // 2, NUM_STEPS)
        trunk = spec(f"trunk {seed}", seed, NUM_STEPS, None, None, evaluate=None, save_at_steps=steps)
        specs.append(trunk)
        for step in steps:
            parent = trunk.fingerprint()
            specs.append(spec(f"branch {step} {seed}", seed, step * 4 // 3, step, parent, evaluate=evaluate))
    (root / "specs.jsonl").write_bytes(b"\n".join(encode(spec) for spec in specs))
    return specs


if __name__ == "__main__":
    print(json.dumps(run(*map(int, sys.argv[1:])), indent=1))
