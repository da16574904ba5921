"""Learn the seed noise of every finished run in one or more output folders, and keep it as a record.

Runs that differ by seed alone form a configuration; configurations of one net and compute form a scale. The
statistics are in `isoflop.fit.compare.seed_noise`; this file finds the runs, their final scores and their curves
(a branch's curve goes on from its trunk's) and says which runs did not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from isoflop import units
from isoflop.fit.compare import seed_noise
from isoflop.records import (
    Branch,
    Estimate,
    Exclusion,
    NoiseAtFraction,
    NoiseEntry,
    NoiseModel,
    RecordError,
    RunSpec,
    decode,
    sha256_json,
)
from isoflop.store import RunFolder, Store

ALL_SCALES = "all scales"


@dataclass(frozen=True)
class _Run:
    spec: RunSpec
    metric: str
    final: float
    curve: np.ndarray
    """Loss at the fractions; NaN where the metrics do not reach."""


def learn_noise(
    roots: Sequence[Path | str],
    *,
    fractions: Sequence[float] = seed_noise.FRACTIONS,
    level: float = 0.95,
) -> NoiseModel:
    """Seed noise per scale and metric, and pooled over all scales of a metric.

    Args:
        roots: output folders of studies (each with ``runs/``).
        fractions: of the schedule, at which the loss part-way is compared with the end.
        level: of the intervals.

    Raises:
        ValueError: no two finished runs differ by seed alone.
    """
    runs, exclusions = _gather(roots, fractions)
    configurations: dict[tuple[str, str], list[_Run]] = {}
    for run in runs:
        configurations.setdefault((_configuration(run.spec), run.metric), []).append(run)
    useful = []
    for group in configurations.values():
        if len({(run.spec.seed, run.spec.data.order_seed) for run in group}) < len(group):
            exclusions.append(Exclusion(what=group[0].spec.name, reason="the same seed twice"))
        elif len(group) >= 2:
            useful.append(group)
        else:
            exclusions.append(
                Exclusion(what=group[0].spec.name, reason="its configuration has one seed only")
            )
    if not useful:
        raise ValueError(
            f"no two finished runs in {', '.join(map(str, roots))} differ by seed alone; "
            "the noise needs at least two seeds of one configuration"
        )
    notes: list[str] = []
    entries = []
    scales: dict[tuple[str, str], list[list[_Run]]] = {}
    for group in useful:
        scales.setdefault((_scale(group[0].spec), group[0].metric), []).append(group)
    for (scale, metric), groups in sorted(scales.items()):
        entries.append(_entry(scale, metric, groups, fractions, level, notes))
    for metric in sorted({metric for _, metric in scales}):
        groups = _one_branch_per_trunk([group for group in useful if group[0].metric == metric])
        if len({_scale(group[0].spec) for group in groups}) > 1:
            entries.append(_entry(ALL_SCALES, metric, groups, fractions, level, notes))
    return NoiseModel(
        entries=tuple(entries),
        sources=tuple(map(str, roots)),
        exclusions=tuple(exclusions),
        notes=tuple(dict.fromkeys(notes)),
    )


def find_entry(model: NoiseModel, metric: str | None = None, scale: str = ALL_SCALES) -> NoiseEntry:
    """The entry of a metric and scale; the pooled one by default, or the only one there is.

    Raises ValueError that lists what there is.
    """
    fits = [entry for entry in model.entries if metric in (None, entry.metric)]
    exact = [entry for entry in fits if entry.scale == scale]
    if len(exact) == 1:
        return exact[0]
    if len(fits) == 1 and scale == ALL_SCALES:
        return fits[0]
    if exact:
        names = ", ".join(repr(entry.metric) for entry in exact)
        raise ValueError(
            f"no single noise entry at {scale}, but one for each of {names}: name one (--metric)"
        )
    known = [f"{entry.metric} at {entry.scale}" for entry in model.entries]
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    raise ValueError(
        f"no single noise entry for {metric or 'any metric'} at {scale}: name a metric (--metric) and a scale "
        f"(--scale); there are: {'; '.join(known[:8])}{more}"
    )


def as_seed_noise(entry: NoiseEntry) -> seed_noise.SeedNoise:
    """The entry in the form that `isoflop.fit.compare.seed_noise` plans with."""
    assert entry.sd.value is not None, "learn_noise writes no entry without an sd"
    return seed_noise.SeedNoise(
        final=seed_noise.Spread(
            sd=entry.sd.value,
            df=entry.df,
            lo=entry.sd.lo if entry.sd.lo is not None else 0.0,
            hi=entry.sd.hi if entry.sd.hi is not None else math.inf,
            level=entry.sd.level,
            num_runs=entry.num_runs,
            num_groups=entry.num_configurations,
            homogeneity_p=entry.homogeneity_p,
        ),
        part_way=tuple(
            seed_noise.PartWay(
                fraction=part.fraction,
                sd=part.sd,
                correlation=part.correlation.value if part.correlation.value is not None else 0.0,
                lo=part.correlation.lo,
                hi=part.correlation.hi,
            )
            for part in entry.part_way
        ),
    )


# ------------------------------------------------------------------------------- the runs


def _gather(roots: Sequence[Path | str], fractions: Sequence[float]) -> tuple[list[_Run], list[Exclusion]]:
    runs: dict[str, _Run] = {}
    exclusions: list[Exclusion] = []
    for root in roots:
        folders = {folder.read_spec().fingerprint(): folder for folder in Store(root).run_folders()}
        for fingerprint, folder in folders.items():
            if fingerprint in runs:
                continue  # the same run, reused in a second study
            spec = folder.read_spec()
            if not folder.finished or folder.read_record().status != "finished":
                exclusions.append(Exclusion(what=spec.name, reason="not finished"))
                continue
            final = _final(folder)
            if final is None:
                if spec.evaluate is not None:
                    exclusions.append(Exclusion(what=spec.name, reason="has no final score"))
                continue  # a trunk that only carries branches is counted through them
            runs[fingerprint] = _Run(spec, final[0], final[1], _curve(spec, folder, folders, fractions))
    return list(runs.values()), exclusions


def _final(folder: RunFolder) -> tuple[str, float] | None:
    measurements = folder.read_measurements()
    if measurements and measurements[-1].loss.value is not None:
        return measurements[-1].name, measurements[-1].loss.value
    loss = folder.read_record().final_train_loss_nats
    return ("training loss", loss) if loss is not None and folder.read_spec().evaluate is None else None


def _curve(
    spec: RunSpec, folder: RunFolder, folders: dict[str, RunFolder], fractions: Sequence[float]
) -> np.ndarray:
    rows = [row for row in folder.read_metrics() if row.get("loss_nats") is not None and "step" in row]
    if spec.branch is not None and spec.branch.parent in folders:
        before = folders[spec.branch.parent].read_metrics()
        start = spec.branch.step
        rows = [row for row in before if row.get("loss_nats") is not None and row["step"] <= start] + rows
    points = {int(row["step"]): float(row["loss_nats"]) for row in rows}  # a resumed run's last row counts
    if len(points) < 2:
        return np.full(len(fractions), np.nan)
    steps = sorted(points)
    losses = [points[step] for step in steps]
    return seed_noise.loss_at_fractions(steps, losses, spec.num_steps, fractions)


def _configuration(spec: RunSpec) -> str:
    """What two runs share that differ by seed alone. A branch's trunk differs by seed too."""
    blank = msgspec.structs.replace(
        spec,
        seed=0,
        data=msgspec.structs.replace(spec.data, order_seed=0),
        branch=None if spec.branch is None else Branch(parent="", step=spec.branch.step),
    )
    return blank.fingerprint()


def _scale(spec: RunSpec) -> str:
    return f"{spec.net.words}, {units.format_flops(spec.train_flops.flops)}"


def _one_branch_per_trunk(groups: list[list[_Run]]) -> list[list[_Run]]:
    """Branches of one trunk share most of their noise; of each set of trunks only the longest ones count."""
    longest: dict[str, list[_Run]] = {}
    for group in groups:
        parents = sorted(
            run.spec.branch.parent if run.spec.branch else run.spec.fingerprint() for run in group
        )
        key = sha256_json(parents)
        if key not in longest or group[0].spec.num_steps > longest[key][0].spec.num_steps:
            longest[key] = group
    return list(longest.values())


def _entry(
    scale: str,
    metric: str,
    groups: list[list[_Run]],
    fractions: Sequence[float],
    level: float,
    notes: list[str],
) -> NoiseEntry:
    whole = np.concatenate([np.stack([run.curve for run in group]) for group in groups])
    there = [k for k in range(len(fractions)) if np.isfinite(whole[:, k]).all()]
    missing = [f"{fractions[k]:g}" for k in range(len(fractions)) if k not in there]
    if missing:
        notes.append(
            f"{scale}: some curves do not reach the fractions {', '.join(missing)}; these are left out"
        )
    finals = [[run.final for run in group] for group in groups]
    curves = [np.stack([run.curve[there] for run in group]) for group in groups]
    found = seed_noise.learn(curves, finals, [fractions[k] for k in there], level=level)
    spread = found.final
    return NoiseEntry(
        scale=scale,
        metric=metric,
        sd=Estimate(
            value=spread.sd,
            unit="nats/token",
            lo=spread.lo,
            hi=spread.hi,
            level=level,
            method=f"pooled over {spread.num_groups} configurations, {spread.df:g} df, chi-square",
        ),
        df=spread.df,
        num_runs=spread.num_runs,
        num_configurations=spread.num_groups,
        homogeneity_p=spread.homogeneity_p,
        part_way=tuple(
            NoiseAtFraction(
                fraction=part.fraction,
                sd=part.sd,
                correlation=Estimate(
                    value=part.correlation,
                    unit="correlation",
                    lo=part.lo,
                    hi=part.hi,
                    level=level,
                    method="within configurations, Fisher interval",
                    reason=None if part.lo is not None else "fewer than three degrees of freedom",
                ),
            )
            for part in found.part_way
        ),
    )


# ------------------------------------------------------------------------------- for people


def read_noise(path: Path) -> NoiseModel:
    """A model that was kept in a file, or learned anew from the folder of a study.

    Raises ValueError for a file that is no noise model, FileNotFoundError for none.
    """
    if path.is_dir():
        return learn_noise([path])
    try:
        return decode(path.read_bytes(), NoiseModel, where=str(path))
    except RecordError as error:
        raise ValueError(
            f"{path} holds no learned noise ({error}); make it with `isoflop noise FOLDER --save {path.name}`"
        ) from None


def noise_answer(model: NoiseModel, chance: float = 0.05) -> dict[str, Any]:
    """The model with what follows from it, ready for JSON.

    Args:
        model: as learned.
        chance: for early stops: largest chance that a run that is cut would have overtaken, in (0, 0.5).

    Returns ``sentence``; ``entries``, one per scale and metric with ``sd``, ``ci95``, ``df``, ``homogeneity_p`` and
    ``part_way``: fraction of the schedule, correlation with the end, and the gap from which the run behind may be cut;
    ``exclusions`` and ``notes``.
    """
    entries = [_entry_answer(entry, chance) for entry in model.entries]
    widest = max(entries, key=lambda entry: (entry["scale"] == ALL_SCALES, entry["df"]))
    lo, hi = widest["ci95"]
    sentence = (
        f"Runs that differ by seed alone scatter by {widest['sd']:.2g} ({lo:.2g} to {hi:.2g}) {widest['unit']} in "
        f"{widest['metric']} ({widest['scale']}, {widest['df']:g} degrees of freedom)"
    )
    half = next((part for part in widest["part_way"] if part["fraction"] == 0.5), None)
    if half is not None:
        sentence += (
            f"; half-way through, the loss correlates {half['correlation']:.2f} with the end, and a run that is "
            f"{half['gap_to_cut']:.2g} behind overtakes with at most {chance:.0%} chance"
        )
    return {
        "sentence": sentence + ".",
        "chance": chance,
        "entries": entries,
        "sources": list(model.sources),
        "exclusions": [{"what": one.what, "reason": one.reason} for one in model.exclusions],
        "notes": list(model.notes),
    }


def _entry_answer(entry: NoiseEntry, chance: float) -> dict[str, Any]:
    learned = as_seed_noise(entry)
    return {
        "scale": entry.scale,
        "metric": entry.metric,
        "sd": entry.sd.value,
        "ci95": [entry.sd.lo, entry.sd.hi],
        "unit": entry.sd.unit,
        "df": entry.df,
        "num_runs": entry.num_runs,
        "homogeneity_p": entry.homogeneity_p,
        "part_way": [
            {
                "fraction": part.fraction,
                "sd": part.sd,
                "correlation": part.correlation,
                "correlation_ci95": [part.lo, part.hi],
                "gap_to_cut": seed_noise.gap_to_cut(learned, part.fraction, chance=chance),
            }
            for part in learned.part_way
        ],
    }


def render_noise(answer: dict[str, Any]) -> str:
    """One sentence and a table for the terminal."""
    lines = [answer["sentence"], ""]
    for entry in answer["entries"]:
        lo, hi = (f"{end:.2g}" for end in entry["ci95"])
        p = entry["homogeneity_p"]
        unequal = " (the spreads differ: do not pool)" if p is not None and p < 0.01 else ""
        lines.append(
            f"{entry['scale']}, {entry['metric']}: sd {entry['sd']:.3g} ({lo} to {hi}), {entry['num_runs']} runs, "
            f"{entry['df']:g} df{unequal}"
        )
        if entry["scale"] == ALL_SCALES or len(answer["entries"]) == 1:
            lines.append(
                f"  {'schedule done':>13}  {'sd':>8}  {'r with the end':>14}  {'cut from a gap of':>17}"
            )
            lines += [
                f"  {part['fraction']:>13.0%}  {part['sd']:>8.2g}  {part['correlation']:>14.2f}  "
                f"{part['gap_to_cut']:>17.2g}"
                for part in entry["part_way"]
            ]
    left_out = answer["exclusions"]
    if left_out:
        reasons = sorted({one["reason"] for one in left_out})
        lines += ["", f"{len(left_out)} left out: {'; '.join(reasons)}"]
    return "\n".join([*lines, *answer["notes"]])
