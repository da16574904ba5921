"""What can a design see? Seeds for an effect, effects for given seeds, items of a benchmark, looks.

Turns `isoflop.fit.compare.power` and `isoflop.fit.compare.sequential` into one answer for people and for JSON.
The noise is given as a number, or as an entry of a learned noise model (`isoflop.judge.noise`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.fit.compare import power as power_of
from isoflop.fit.compare import sequential
from isoflop.records import Column, Figure, Outcome, Scalar, Statement, Table, Verdict

SEED_LADDER = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is known and wanted. At least one of `effect` and `seeds` is given."""

    sd: float
    """Standard deviation of one run around its configuration's mean, in the unit of the effect."""
    noise_df: float | None = None
    """Degrees of freedom of a learned sd (inf: known exactly); None estimates it from the runs themselves."""
    effect: float | None = None
    seeds: int | None = None
    """Per arm."""
    wanted_power: float = 0.8
    alpha: float = 0.05
    num_looks: int = 1
    """Looks at the data, the last one included; 1 looks at the end alone."""
    correlation: float | None = None
    """Of arms that share seeds pairwise; None for independent arms."""


def plan_power(design: Design, *, num_simulations: int = 20_000) -> dict[str, Any]:
    """Answer a design; ready for JSON.

    Returns:
        ``sentence``; ``seeds`` needed for the effect (None without one, or with the reason in ``reason``);
        ``detectable`` effect of the given seeds; ``ladder``, rows of seeds, power and detectable effect;
        ``looks``, the sequential plan when more than one look is wanted, with ``procedures``: measured
        false-positive rates of it, of the anytime-valid tests and of the naive habits.

    Raises:
        ValueError: neither effect nor seeds, or a number out of range.
    """
    if design.effect is None and design.seeds is None:
        raise ValueError("give an effect (to learn the seeds) or a number of seeds (to learn the effect)")
    if design.num_looks > 1 and (design.effect is None or design.correlation is not None):
        raise ValueError(
            "looks are planned for an effect and independent arms; give the effect, leave pairing out"
        )
    settings: dict[str, Any] = {
        "alpha": design.alpha,
        "correlation": design.correlation,
        "noise_df": design.noise_df,
    }
    answer: dict[str, Any] = {
        "sd": design.sd,
        "noise_df": None if design.noise_df is None or math.isinf(design.noise_df) else design.noise_df,
        "noise": _noise_words(design),
        "effect": design.effect,
        "power": design.wanted_power,
        "alpha": design.alpha,
        "seeds": None,
        "detectable": None,
        "reason": None,
        "looks": None,
        "procedures": [],
    }
    if design.effect is not None:
        needed = power_of.seeds_needed(design.effect, design.sd, power=design.wanted_power, **settings)
        answer["seeds"], answer["reason"] = needed.seeds, needed.reason
    if design.seeds is not None:
        answer["detectable"] = power_of.detectable_effect(
            design.sd, design.seeds, power=design.wanted_power, **settings
        )
        if answer["detectable"] is None:
            answer["reason"] = "one seed per arm shows no noise; add seeds or give a learned noise"
    answer["ladder"] = [_rung(design, seeds, settings) for seeds in SEED_LADDER]
    if design.num_looks > 1 and design.effect is not None and answer["seeds"] is not None:
        answer.update(_looks(design, design.effect, num_simulations))
    answer["sentence"] = _sentence(design, answer)
    return answer


def _rung(design: Design, seeds: int, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "seeds": seeds,
        "power": None
        if design.effect is None
        else power_of.seeds_power(design.effect, design.sd, seeds, **settings),
        "detectable": power_of.detectable_effect(design.sd, seeds, power=design.wanted_power, **settings),
    }


def _looks(design: Design, effect: float, num_simulations: int) -> dict[str, Any]:
    plan = power_of.plan_looks(
        effect,
        design.sd,
        num_looks=design.num_looks,
        power=design.wanted_power,
        alpha=design.alpha,
        noise_df=design.noise_df,
    )
    rows = sequential.simulate_procedures(plan, num_simulations=num_simulations, rng=np.random.default_rng(0))
    maximum = plan.looks[-1]
    return {
        "looks": {
            "seeds": list(plan.looks),
            "bounds": list(plan.bounds),
            "give_up_below": list(plan.futility_bounds),
            "power": plan.power,
            "mean_seeds_null": plan.mean_seeds_null,
            "mean_seeds_effect": plan.mean_seeds_effect,
            "saved_null": 1 - plan.mean_seeds_null / maximum,
            "saved_effect": None if plan.mean_seeds_effect is None else 1 - plan.mean_seeds_effect / maximum,
            "calibration": plan.calibration,
        },
        "procedures": [
            {
                "name": row.name,
                "false_positive_rate": row.false_positive_rate,
                "power": row.power,
                "mean_seeds_null": row.mean_seeds_null,
                "mean_seeds_effect": row.mean_seeds_effect,
                "honest": row.honest,
            }
            for row in rows
        ],
    }


def _noise_words(design: Design) -> str:
    if design.noise_df is None:
        return "estimated from the runs themselves"
    return "known" if math.isinf(design.noise_df) else f"learned from other runs, {design.noise_df:g} df"


def _sentence(design: Design, answer: dict[str, Any]) -> str:
    parts = []
    if design.effect is not None:
        if answer["seeds"] is None:
            parts.append(f"An effect of {design.effect:g} is out of reach: {answer['reason']}")
        else:
            parts.append(
                f"To see an effect of {design.effect:g} with {design.wanted_power:.0%} power, run {answer['seeds']} "
                f"seeds per arm (noise {design.sd:.3g}, {answer['noise']})"
            )
    if design.seeds is not None:
        if answer["detectable"] is None:
            parts.append(f"{design.seeds} seed per arm can see nothing: {answer['reason']}")
        else:
            parts.append(f"{design.seeds} seeds per arm see effects from {answer['detectable']:.3g}")
    looks = answer["looks"]
    if looks is not None:
        seeds = ", ".join(map(str, looks["seeds"]))
        parts.append(
            f"looking after {seeds} seeds saves {looks['saved_null']:.0%} of the runs when nothing differs and "
            f"{looks['saved_effect']:.0%} when the effect is there"
        )
    return "; ".join(parts) + "."


def render_power(answer: dict[str, Any]) -> str:
    """One sentence and the tables for the terminal."""
    lines = [answer["sentence"], "", f"{'seeds per arm':>13}  {'power':>6}  {'detectable':>10}"]
    for row in answer["ladder"]:
        power = "" if row["power"] is None else f"{row['power']:.0%}"
        effect = "-" if row["detectable"] is None else f"{row['detectable']:.3g}"
        lines.append(f"{row['seeds']:>13}  {power:>6}  {effect:>10}")
    looks = answer["looks"]
    if looks is not None:
        lines += ["", f"{'look after':>13}  {'claim from':>10}  {'give up below':>13}"]
        for seeds, bound, inner in zip(looks["seeds"], looks["bounds"], looks["give_up_below"], strict=True):
            lines.append(f"{seeds:>13}  {bound:>10.2f}  {inner if inner else 0:>13.2f}")
        lines += [
            "",
            f"{'procedure':34}  {'false +':>7}  {'power':>6}  {'seeds if null':>13}  {'seeds if real':>13}",
        ]
        for row in answer["procedures"]:
            mark = "" if row["honest"] else "  (naive)"
            lines.append(
                f"{row['name']:34}  {row['false_positive_rate']:7.1%}  {row['power']:6.0%}  "
                f"{row['mean_seeds_null']:13.1f}  {row['mean_seeds_effect']:13.1f}{mark}"
            )
    return "\n".join(lines)


def power_verdict(answer: dict[str, Any]) -> Verdict:
    """The answer as a verdict with its tables and figure, ready to be published.

    "supported" says that the design can see the effect (or any effect, when none is named).
    """
    able = answer["seeds"] is not None if answer["effect"] is not None else answer["detectable"] is not None
    outcome: Outcome = "supported" if able else "contradicted"
    return Verdict(
        study="power",
        question="What can this design see?",
        outcome=outcome,
        sentence=answer["sentence"],
        statements=(
            Statement(text="The design can see the effect", outcome=outcome, because=answer["sentence"]),
        ),
        effect=answer["sentence"],
        limits=(
            f"Noise of one run {answer['sd']:g}, {answer['noise']}; Gaussian, equal in both arms.",
            "Error rates of the procedures are measured by simulation of such studies.",
        ),
        tables=_power_tables(answer),
        figures=(
            Figure(
                name="power",
                kind="curves",
                title="What more seeds buy",
                caption="Smallest effect that is found with the wanted power, by seeds per arm.",
                alt=answer["sentence"],
                tables=("ladder",),
                options={
                    "log_x": True,
                    "log_y": True,
                    "x_title": "seeds per arm",
                    "y_title": "detectable effect",
                },
            ),
        ),
        summary={key: value for key, value in answer.items() if key not in ("ladder", "procedures")},
    )


def _power_tables(answer: dict[str, Any]) -> tuple[Table, ...]:
    ladder: list[tuple[Scalar, ...]] = [
        ("detectable effect", row["seeds"], row["detectable"], None, None, "line", row["power"])
        for row in answer["ladder"]
        if row["detectable"] is not None
    ]
    if answer["effect"] is not None:
        ends = (SEED_LADDER[0], SEED_LADDER[-1])
        ladder += [
            ("wanted effect", end, abs(answer["effect"]), None, None, "reference", None) for end in ends
        ]
    names = ("series", "x", "y", "lo", "hi", "role", "power")
    titles = ("series", "seeds per arm", "effect", "from", "to", "role", "power at the wanted effect")
    tables = [
        Table(
            name="ladder",
            title="Seeds, power and detectable effects",
            columns=tuple(Column(name=name, title=title) for name, title in zip(names, titles, strict=True)),
            rows=tuple(ladder),
        )
    ]
    if answer["procedures"]:
        keys = ("name", "false_positive_rate", "power", "mean_seeds_null", "mean_seeds_effect", "honest")
        heads = (
            "procedure",
            "false positives",
            "power",
            "seeds if nothing differs",
            "seeds at the effect",
            "honest",
        )
        formats = ("", "{:.1%}", "{:.0%}", "{:.1f}", "{:.1f}", "")
        tables.append(
            Table(
                name="procedures",
                title="Ways of looking, with their measured error rates",
                columns=tuple(
                    Column(name=key, title=head, format=form)
                    for key, head, form in zip(keys, heads, formats, strict=True)
                ),
                rows=tuple(tuple(row[key] for key in keys) for row in answer["procedures"]),
            )
        )
    return tuple(tables)
