"""Bring your own trainer: a plain PyTorch script that isoflop plans, budgets, resumes and judges.

    python examples/own_trainer.py SPEC.json

It is called with the path of a run's ``spec.json`` and the run's folder in ``ISOFLOP_RUN_DIR``, and owes
three things: rows of metrics, a last row with the held-out loss of fixed windows in groups, and exactly
the number of steps that the spec asks for. Everything between is up to you: this one trains a two-layer
perceptron on the last eight bytes, knows nothing of isoflop's nets, and keeps its own checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

WINDOW = 8


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(os.environ["ISOFLOP_RUN_DIR"])
    train, held_out, bytes_per_token = load_tokens(spec)
    net = build_net(spec)
    optimizer = torch.optim.AdamW(net.parameters(), lr=spec["optimizer"]["peak_lr"], betas=(0.9, 0.95))
    state_path, first_step = folder / "own_state.pt", 0
    if os.environ.get("ISOFLOP_RESUME") == "1" and state_path.exists():
        state = torch.load(state_path, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        first_step = state["step"]
    with (folder / "metrics.jsonl").open("a") as metrics:

        def row(**fields: object) -> None:
            metrics.write(json.dumps(fields) + "\n")
            metrics.flush()

        if os.environ.get("ISOFLOP_RESUME") == "1":
            row(resumed=True, step=first_step)
        for step in range(first_step, spec["num_steps"]):
            loss = F.cross_entropy(*forward(net, draw_batch(train, spec, step)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % 20 == 0 or step + 1 == spec["num_steps"]:
                row(step=step + 1, loss_nats=loss.item())
                save(state_path, net, optimizer, step + 1)
        groups = score(net, held_out, spec)
        row(
            final=True,
            step=spec["num_steps"],
            val_loss_nats=float(np.mean(groups)),
            group_nats=groups,
            group_tokens=[spec["data"]["context"]] * len(groups),
            num_bytes=round(len(groups) * spec["data"]["context"] * bytes_per_token),
        )


def load_tokens(spec: dict) -> tuple[np.ndarray, np.ndarray, float]:
    """The tokens that the plan was made for: isoflop finds them by hash. Any other data would do as well."""
    from isoflop.data import open_corpus
    from isoflop.records import DataSource

    corpus = open_corpus(DataSource(**spec["data"]["sources"][0]))
    return corpus.train, corpus.val, corpus.record.val_bytes / corpus.record.val_tokens


def build_net(spec: dict) -> torch.nn.Module:
    torch.manual_seed(spec["seed"])
    vocab, dim = spec["net"]["vocab_size"], spec["net"]["dim"]
    return torch.nn.Sequential(
        torch.nn.Embedding(vocab, dim),
        torch.nn.Flatten(),
        torch.nn.Linear(WINDOW * dim, 4 * dim),
        torch.nn.GELU(),
        torch.nn.Linear(4 * dim, vocab),
    )


def draw_batch(tokens: np.ndarray, spec: dict, step: int) -> torch.Tensor:
    """Sequences of one step, from (order seed, step) alone, so that a resumed run sees the same ones."""
    dice = np.random.default_rng([spec["data"]["order_seed"], step])
    context = spec["data"]["context"]
    starts = dice.integers(0, len(tokens) - context - WINDOW, spec["batch_seqs"])
    return torch.from_numpy(np.stack([tokens[s : s + context + WINDOW] for s in starts]).astype(np.int64))


def forward(net: torch.nn.Module, sequences: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of every position that has a full window before it."""
    windows = sequences.unfold(1, WINDOW + 1, 1).flatten(0, 1)
    return net(windows[:, :-1]), windows[:, -1]


@torch.no_grad()
def score(net: torch.nn.Module, held_out: np.ndarray, spec: dict) -> list[float]:
    """Mean nats per token of each group: here a group is one evenly spaced sequence."""
    context = spec["data"]["context"]
    starts = np.linspace(0, len(held_out) - context - WINDOW, spec["evaluate"]["num_groups"]).astype(int)
    return [
        F.cross_entropy(
            *forward(net, torch.from_numpy(held_out[s : s + context + WINDOW].astype(np.int64))[None])
        ).item()
        for s in starts
    ]


def save(path: Path, net: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Beside and renamed: a kill leaves the old state or the new one."""
    temporary = path.with_suffix(".tmp")
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, temporary)
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
