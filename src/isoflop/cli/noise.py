"""The verb on seed noise: learn it from finished runs, show it, keep it for `isoflop power --noise`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from isoflop.cli.main import main, verb


@main.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--chance",
    type=float,
    default=0.05,
    show_default=True,
    help="A run may be cut when it would still overtake with at most this chance.",
)
@click.option("--save", type=click.Path(path_type=Path), help="Keep what was learned in this JSON file.")
@verb("noise")
def noise(folders: tuple[Path, ...], chance: float, save: Path | None) -> tuple[str, dict[str, Any]]:
    """The seed noise of all finished runs in output folders: spread, and what part-way losses foretell."""
    from isoflop.judge.noise import learn_noise, noise_answer, render_noise
    from isoflop.records import encode
    from isoflop.store import write_atomic

    model = learn_noise(folders)
    answer = noise_answer(model, chance)
    text = render_noise(answer)
    if save is not None:
        write_atomic(save, encode(model))
        text = f"{text}\n\nkept in {save}: isoflop power --noise {save} --effect ..."
    return text, answer
