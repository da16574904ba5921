"""Continued pretraining, judged: rise and recovery of the old loss, the trade-off, and the Pareto front.

Every branch left the trunk of its seed, so contrasts between branches are taken seed by seed and get
Student's t interval over seeds; beside it stands the interval from a spread that is pooled over all cells.
It leaves out planning (`isoflop.plan.rewarming`) and the wording of the rule, which the study brings.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from isoflop.records import (
    Column,
    Estimate,
    Evidence,
    Exclusion,
    Figure,
    Outcome,
    Plan,
    RunEvidence,
    Statement,
    Table,
    Verdict,
)

Floats = npt.NDArray[np.float64]
Cell = tuple[float, float]
"""(peak over the trunk's peak, share of old text)."""


@dataclass(frozen=True, kw_only=True)
class Path:
    """One branch: losses along its way, the trunk's end first.

    Attributes:
        tokens: [P] of the branch's own, 0 first.
        old, new: [P] held-out nats/token; new is the mean over new texts.
    """

    tokens: Floats
    old: Floats
    new: Floats

    @property
    def rise(self) -> float:
        """Highest old loss on the way minus the trunk's; 0 when it never rises."""
        return float(self.old.max() - self.old[0])

    @property
    def forgetting(self) -> float:
        """Old loss at the end minus the trunk's; negative when the old text was learnt further."""
        return float(self.old[-1] - self.old[0])

    @property
    def recovered(self) -> float | None:
        """Share of the rise that is gone at the end; None when there was none."""
        return None if self.rise <= 0 else float((self.old.max() - self.old[-1]) / self.rise)

    @property
    def recovery_tokens(self) -> float | None:
        """Tokens after which the old loss is back at the trunk's, between scores linearly; None when it never is."""
        if self.rise <= 0:
            return 0.0
        top = int(self.old.argmax())
        for place in range(top + 1, len(self.old)):
            if self.old[place] <= self.old[0]:
                before, after = self.old[place - 1], self.old[place]
                share = (before - self.old[0]) / (before - after)
                return float(self.tokens[place - 1] + share * (self.tokens[place] - self.tokens[place - 1]))
        return None


@dataclass(frozen=True, kw_only=True)
class Branches:
    """All branches of the seeds that are whole."""

    paths: dict[tuple[int, Cell], Path]
    """(seed, cell) -> path."""
    seeds: tuple[int, ...]
    ratios: tuple[float, ...]
    replays: tuple[float, ...]
    exclusions: tuple[Exclusion, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(itertools.product(self.ratios, self.replays))

    def values(self, of: Callable[[Path], float]) -> Floats:
        """[seeds, cells] of one number per branch."""
        return np.array([[of(self.paths[seed, cell]) for cell in self.cells] for seed in self.seeds])


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A difference of cells with two intervals.

    Attributes:
        name: in words.
        by_seed: [S] one value per seed.
        estimate: mean with Student's t interval over seeds.
        pooled: the same mean with the spread pooled over all cells; None for what is no sum of cells.
    """

    name: str
    by_seed: Floats
    estimate: Estimate
    pooled: Estimate | None


# ------------------------------------------------------------------------------------- reading


def read_branches(evidence: Evidence) -> Branches:
    """Every seed whose trunk and branches all came to an end; the others are excluded, with the reason.

    Raises ValueError when fewer than two seeds are left: nothing could be said about noise.
    """
    assert evidence.plan is not None, "a study that trains has a plan"
    trunks = {run.spec.fingerprint(): run for run in evidence.runs if run.spec.labels.get("role") == "trunk"}
    paths: dict[tuple[int, Cell], Path] = {}
    missing: list[Exclusion] = []
    for run in evidence.runs:
        if run.spec.branch is None:
            continue
        seed = int(run.spec.labels["seed"] or 0)
        reason = _unusable(run) or _unusable(trunks[run.spec.branch.parent])
        if reason:
            missing.append(Exclusion(what=run.spec.name, reason=reason))
            continue
        cell = (float(run.spec.labels["peak_ratio"] or 0.0), float(run.spec.labels["replay"] or 0.0))
        paths[seed, cell] = _path(run, trunks[run.spec.branch.parent])
    cells = sorted({cell for _, cell in paths})
    ratios, replays = (tuple(sorted({cell[axis] for cell in cells})) for axis in (0, 1))
    planned = sorted({seed for seed, _ in paths})
    grid = list(itertools.product(ratios, replays))
    whole = tuple(seed for seed in planned if all((seed, cell) in paths for cell in grid))
    for seed in set(planned) - set(whole):
        missing.append(
            Exclusion(what=f"seed {seed}", reason="not all of its branches ended: contrasts need all of them")
        )
    if len(whole) < 2:
        raise ValueError(
            f"only {len(whole)} seed(s) have all their branches; train on (isoflop run rewarming --resume)"
        )
    return Branches(paths=paths, seeds=whole, ratios=ratios, replays=replays, exclusions=tuple(missing))


def _unusable(run: RunEvidence) -> str | None:
    if run.record is None:
        return "it has not ended"
    if run.record.status != "finished":
        return f"{run.record.status}: {run.record.reason}"
    return None if run.measurements else "it was not scored"


def _scores(run: RunEvidence) -> list[tuple[int, float, float]]:
    """(step, old loss, new loss) of each time the run was scored, in order of steps."""
    by_step: dict[int, dict[str, float]] = {}
    for score in run.measurements:
        assert score.loss.value is not None, "a run with a loss that is not finite does not finish"
        by_step.setdefault(score.step, {})[score.name] = score.loss.value
    found = []
    for step in sorted(by_step):
        texts = dict(by_step[step])
        old = texts.pop("heldout")
        found.append((step, old, sum(texts.values()) / len(texts)))
    return found


def _path(run: RunEvidence, trunk: RunEvidence) -> Path:
    start = _scores(trunk)[-1]
    rows = np.array([start, *_scores(run)])
    per_step = run.spec.batch_seqs * run.spec.data.context
    return Path(tokens=(rows[:, 0] - start[0]) * per_step, old=rows[:, 1], new=rows[:, 2])


# ----------------------------------------------------------------------------------- contrasts


def interval(values: Floats, unit: str, level: float) -> Estimate:
    """Mean over seeds with Student's t interval.

    Args:
        values: [S], S >= 2.
    """
    from scipy.special import stdtrit

    count = len(values)
    half = float(stdtrit(count - 1, (1 + level) / 2)) * float(values.std(ddof=1)) / math.sqrt(count)
    mean = float(values.mean())
    return Estimate(
        value=mean, unit=unit, lo=mean - half, hi=mean + half, level=level, method=f"t over {count} seeds"
    )


def pooled_interval(values: Floats, weights: Floats, unit: str, level: float) -> Estimate:
    """A sum of cells with the spread that is left when seeds and cells are taken out, pooled over all cells.

    Args:
        values: [S, C] one number per branch.
        weights: [C] of the sum.

    The additive two-way layout (Scheffe 1959, section 4.1): residual variance with (S - 1)(C - 1) degrees of
    freedom; a seed's own level cancels when the weights sum to 0.
    """
    from scipy.special import stdtrit

    num_seeds, num_cells = values.shape
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    df = (num_seeds - 1) * (num_cells - 1)
    error = math.sqrt(float((rest**2).sum()) / df * float(weights @ weights) / num_seeds)
    mean = float(values.mean(axis=0) @ weights)
    half = float(stdtrit(df, (1 + level) / 2)) * error
    method = f"spread pooled over {num_cells} cells, {df} df"
    return Estimate(value=mean, unit=unit, lo=mean - half, hi=mean + half, level=level, method=method)


def _weights(branches: Branches, plus: float, minus: float) -> Floats:
    """[C]: a peak minus another, averaged over replay fractions."""
    share = 1 / len(branches.replays)
    return np.array([share * ((ratio == plus) - (ratio == minus)) for ratio, _ in branches.cells])


def contrast(
    branches: Branches, name: str, of: Callable[[Path], float], plus: float, minus: float, level: float
) -> Contrast:
    """A number at one peak minus the same at another, averaged over replay fractions."""
    values, weights = branches.values(of), _weights(branches, plus, minus)
    by_seed = values @ weights
    return Contrast(
        name=name,
        by_seed=by_seed,
        estimate=interval(by_seed, "nats/token", level),
        pooled=pooled_interval(values, weights, "nats/token", level),
    )


def both(path: Path) -> float:
    """Mean of old and new loss at the end."""
    return float(path.old[-1] + path.new[-1]) / 2


def new_loss(path: Path) -> float:
    """New loss at the end."""
    return float(path.new[-1])


def old_loss(path: Path) -> float:
    """Old loss at the end."""
    return float(path.old[-1])


def side_of(estimate: Estimate, threshold: float) -> Outcome:
    """Supported above the threshold, contradicted below, by the whole interval."""
    assert estimate.lo is not None, "an interval over seeds has both ends"
    assert estimate.hi is not None, "an interval over seeds has both ends"
    return (
        "supported"
        if estimate.lo > threshold
        else "contradicted"
        if estimate.hi < threshold
        else "cannot tell"
    )


# --------------------------------------------------------------------------------- Pareto front


def on_front(old: Floats, new: Floats) -> npt.NDArray[np.bool_]:
    """Which cells no other one beats in both losses. Each [C]."""
    better = (old[:, None] <= old[None, :]) & (new[:, None] <= new[None, :])
    strictly = (old[:, None] < old[None, :]) | (new[:, None] < new[None, :])
    return np.asarray(~np.any(better & strictly, axis=0))


def front_shares(old: Floats, new: Floats) -> Floats:
    """[C] share of the resamples of seeds in which a cell is on the front; all S^S of them, or 3,000 drawn.

    Args:
        old, new: [S, C].
    """
    num_seeds = len(old)
    if num_seeds**num_seeds <= 3125:
        draws = np.array(list(itertools.product(range(num_seeds), repeat=num_seeds)))
    else:
        draws = np.random.default_rng(0).integers(num_seeds, size=(3000, num_seeds))
    hits = [on_front(old[draw].mean(axis=0), new[draw].mean(axis=0)) for draw in draws]
    return np.mean(hits, axis=0)


# ------------------------------------------------------------------------------------- verdict


def judge_rewarming(evidence: Evidence, *, limits: Sequence[str]) -> Verdict:
    """Apply the rule of the plan.

    Raises ValueError when fewer than two seeds are whole.
    """
    plan = evidence.plan
    assert plan is not None, "a study that trains has a plan"
    branches = read_branches(evidence)
    numbers = {name: float(value or 0.0) for name, value in plan.rule.parameters.items()}
    contrasts = _contrasts(branches, numbers)
    statements = _statements(plan, branches, contrasts, numbers)
    main = [statement.outcome for statement in statements[:3]]
    outcome: Outcome = (
        "contradicted"
        if "contradicted" in main
        else "supported"
        if set(main) == {"supported"}
        else "cannot tell"
    )
    return Verdict(
        study=plan.study,
        claims=plan.claims,
        question=plan.question,
        outcome=outcome,
        sentence=_sentence(branches, contrasts, numbers),
        statements=statements,
        effect=_effect(plan, branches, numbers),
        settle=None if outcome != "cannot tell" else "more seeds, or peaks closer together",
        unresolved=_unresolved(branches, plan),
        limits=tuple(limits),
        tables=(
            _cells_table(branches),
            _contrast_table(contrasts, plan),
            *(_way_table(branches, replay) for replay in _shown(branches, numbers)),
            _rise_table(branches),
            _front_table(branches),
        ),
        figures=_figures(branches, numbers),
        exclusions=branches.exclusions,
        plan_fingerprint=plan.fingerprint(),
        summary=_summary(plan, branches, contrasts),
    )


def _contrasts(branches: Branches, numbers: dict[str, float]) -> dict[str, Contrast]:
    """Those of the rule, by a short key."""
    level, posted, full = numbers["level"], numbers["posted_ratio"], numbers["full_ratio"]
    means = branches.values(both).mean(axis=0).reshape(len(branches.ratios), -1).mean(axis=1)
    best = branches.ratios[int(means.argmin())]
    ends = (branches.ratios[0], branches.ratios[-1])
    strict = 1 - (1 - level) / 2
    found = {
        "rise": contrast(
            branches, f"rise of the old loss, peak {full:g} minus {posted:g}",
            lambda path: path.rise, full, posted, level,
        ),
        "new": contrast(
            branches, f"new loss at the end, peak {posted:g} minus {full:g}", new_loss, posted, full, level
        ),
        "old": contrast(
            branches, f"old loss at the end, peak {full:g} minus {posted:g}", old_loss, full, posted, level
        ),
        "hindsight": contrast(
            branches, f"mean of both losses, peak {posted:g} minus {numbers['hindsight_ratio']:g}",
            both, posted, numbers["hindsight_ratio"], level,
        ),
        "removed": _removed(branches, full, numbers["replay"], level),
    }  # fmt: skip
    inner = [index for index in range(1, len(means) - 1)]
    rival = best if best not in ends else branches.ratios[min(inner, key=lambda index: means[index])]
    for key, end in zip(("low end", "high end"), ends, strict=True):
        found[key] = contrast(
            branches, f"mean of both losses, peak {end:g} minus {rival:g}", both, end, rival, strict
        )
    return found


def _removed(branches: Branches, ratio: float, replay: float, level: float) -> Contrast:
    """Share of the forgetting without replay that replay takes away, at one peak."""
    with_, without = (
        np.array([branches.paths[seed, (ratio, share)].forgetting for seed in branches.seeds])
        for share in (replay, 0.0)
    )
    name = f"share of the forgetting that a replay of {replay:.0%} removes at peak {ratio:g}"
    if (without <= 0).any():
        undefined = Estimate(value=None, unit="share", reason="some seed forgot nothing without replay")
        return Contrast(name=name, by_seed=with_, estimate=undefined, pooled=None)
    removed = 1 - with_ / without
    return Contrast(name=name, by_seed=removed, estimate=interval(removed, "share", level), pooled=None)


def _said(estimate: Estimate, unit: str = " nats/token", form: str = ".3f") -> str:
    return f"{estimate.value:{form}}{unit} ({estimate.lo:{form}} to {estimate.hi:{form}})"


def _statements(
    plan: Plan, branches: Branches, contrasts: dict[str, Contrast], numbers: dict[str, float]
) -> tuple[Statement, ...]:
    texts = plan.rule.statements
    rise, new, hindsight = (contrasts[key].estimate for key in ("rise", "new", "hindsight"))
    removed = contrasts["removed"].estimate
    of_it = removed.reason or f"{_said(removed, '', '.0%')} of it"
    share: Outcome = "cannot tell" if removed.value is None else side_of(removed, numbers["removed_share"])
    averaged = "averaged over replay fractions"
    return (
        _judged(texts[0], side_of(rise, 0.0), f"{_said(rise)} higher, {averaged}", rise),
        _judged(texts[1], side_of(new, 0.0), f"{_said(new)} lower at the end, {averaged}", new),
        _sweet_spot(texts[2], branches, contrasts),
        _judged(texts[3], side_of(hindsight, 0.0), _against(hindsight, averaged), hindsight),
        _judged(texts[4], share, of_it, removed),
    )


def _against(gain: Estimate, averaged: str) -> str:
    """A gain below zero told as what it is."""
    if (gain.value or 0.0) >= 0:
        return f"{_said(gain)} lower, {averaged}"
    worse = msgspec.structs.replace(
        gain, value=-(gain.value or 0.0), lo=-(gain.hi or 0.0), hi=-(gain.lo or 0.0)
    )
    return f"{_said(worse)} higher, {averaged}"


def _judged(
    text: str, outcome: Outcome, because: str, estimate: Estimate, settle: str = "more seeds"
) -> Statement:
    """A statement; what would settle it is said only where it is open."""
    remedy = settle if outcome == "cannot tell" else None
    return Statement(text=text, outcome=outcome, because=because, estimate=estimate, settle=remedy)


def _best(branches: Branches) -> float:
    means = branches.values(both).mean(axis=0).reshape(len(branches.ratios), -1).mean(axis=1)
    return branches.ratios[int(means.argmin())]


def _sweet_spot(text: str, branches: Branches, contrasts: dict[str, Contrast]) -> Statement:
    """The best peak lies inside, and beats both ends; contradicted when an end beats every peak inside."""
    low, high = contrasts["low end"].estimate, contrasts["high end"].estimate
    best = _best(branches)
    outcome: Outcome = "cannot tell"
    if best in (branches.ratios[0], branches.ratios[-1]):
        end = low if best == branches.ratios[0] else high
        if side_of(end, 0.0) == "contradicted":
            outcome = "contradicted"
        because = (
            f"the best peak is at an end of those tried, {best:g}; it is better than the best inside by "
        )
        because += f"{-(end.value or 0.0):.3f} nats/token ({-(end.hi or 0.0):.3f} to {-(end.lo or 0.0):.3f})"
        return _judged(text, outcome, because, end, "peaks beyond that end")
    if side_of(low, 0.0) == side_of(high, 0.0) == "supported":
        outcome = "supported"
    because = (
        f"the best is {best:g} times the trunk's peak: lower by {_said(low)} than at {branches.ratios[0]:g} "
        f"and by {_said(high)} than at {branches.ratios[-1]:g}"
    )
    worse = min((low, high), key=lambda estimate: estimate.lo or 0.0)
    return _judged(text, outcome, because, worse)


def _sentence(branches: Branches, contrasts: dict[str, Contrast], numbers: dict[str, float]) -> str:
    rise, new = contrasts["rise"].estimate, contrasts["new"].estimate
    best = _best(branches)
    at_end = best in (branches.ratios[0], branches.ratios[-1])
    where = "at the end of those tried" if at_end else "between the ends"
    return (
        f"Re-warming to the trunk's whole peak instead of a tenth lets the old loss rise {rise.value:.2f} nats higher "
        f"on its way and ends {new.value:.2f} lower on the new text; the mean of both is lowest at {best:g} times that "
        f"peak, {where}."
    )


def _effect(plan: Plan, branches: Branches, numbers: dict[str, float]) -> str:
    full, replay = numbers["full_ratio"], numbers["replay"]

    def mean(of: Callable[[Path], float], share: float) -> float:
        return float(np.mean([of(branches.paths[seed, (full, share)]) for seed in branches.seeds]))

    return (
        f"at the trunk's peak, without replay the old loss ends {mean(lambda p: p.forgetting, 0.0):+.3f} nats/token "
        f"from the trunk's, with {replay:.0%} replay {mean(lambda p: p.forgetting, replay):+.3f}; that replay costs "
        f"{mean(new_loss, replay) - mean(new_loss, 0.0):+.3f} on the new text at equal compute"
    )


def _unresolved(branches: Branches, plan: Plan) -> tuple[str, ...]:
    never = sum(
        any(branches.paths[seed, cell].recovery_tokens is None for seed in branches.seeds)
        for cell in branches.cells
    )
    found = [f"the best peak between those tried ({', '.join(f'{ratio:g}' for ratio in branches.ratios)})"]
    if never:
        found.append(
            f"when the old loss comes back to the trunk's: it does not within the branch in {never} of "
            f"{len(branches.cells)} cells"
        )
    return tuple(found)


def _summary(plan: Plan, branches: Branches, contrasts: dict[str, Contrast]) -> dict[str, object]:
    front = on_front(branches.values(old_loss).mean(axis=0), branches.values(new_loss).mean(axis=0))
    return {
        "best_peak_ratio": _best(branches),
        "contrasts": {
            key: [one.estimate.value, one.estimate.lo, one.estimate.hi] for key, one in contrasts.items()
        },
        "detectable_nats": plan.options.get("detectable_nats"),
        "front": [list(cell) for cell, is_on in zip(branches.cells, front, strict=True) if is_on],
        "seeds": list(branches.seeds),
    }


# -------------------------------------------------------------------------- tables and figures


def _shown(branches: Branches, numbers: dict[str, float]) -> tuple[float, ...]:
    """Replay fractions whose way is drawn: none, and the rule's."""
    return tuple(replay for replay in (0.0, numbers["replay"]) if replay in branches.replays)


def _cells_table(branches: Branches) -> Table:
    old, new = branches.values(old_loss), branches.values(new_loss)
    front = front_shares(old, new)
    rows = []
    for place, (ratio, replay) in enumerate(branches.cells):
        own = [branches.paths[seed, (ratio, replay)] for seed in branches.seeds]
        rise = interval(np.array([path.rise for path in own]), "nats/token", 0.95)
        forgot = interval(np.array([path.forgetting for path in own]), "nats/token", 0.95)
        end = interval(new[:, place], "nats/token", 0.95)
        back = [path.recovery_tokens for path in own]
        known = [tokens for tokens in back if tokens is not None]
        shares = [path.recovered for path in own if path.recovered is not None]
        rows.append(
            (
                ratio, replay, rise.value, rise.lo, rise.hi,
                float(np.mean(shares)) if shares else None,
                float(np.mean(known)) if len(known) == len(back) else None,
                forgot.value, forgot.lo, forgot.hi, end.value, end.lo, end.hi, float(front[place]),
            )
        )  # fmt: skip
    nats = "{:.3f}"
    return Table(
        name="cells",
        title="Every peak and replay fraction",
        columns=(
            Column(name="peak_ratio", title="peak / trunk's", format="{:g}"),
            Column(name="replay", title="replay", format="{:.0%}"),
            Column(name="rise", title="rise of the old loss", unit="nats/token", format=nats),
            Column(name="rise_lo", title="from", format=nats),
            Column(name="rise_hi", title="to", format=nats),
            Column(name="recovered", title="of it gone at the end", format="{:.0%}"),
            Column(
                name="recovery_tokens", title="back at the trunk's after", unit="tokens", format="{:,.0f}"
            ),
            Column(name="forgetting", title="old loss, end minus trunk", unit="nats/token", format=nats),
            Column(name="forgetting_lo", title="from", format=nats),
            Column(name="forgetting_hi", title="to", format=nats),
            Column(name="new", title="new loss at the end", unit="nats/token", format=nats),
            Column(name="new_lo", title="from", format=nats),
            Column(name="new_hi", title="to", format=nats),
            Column(name="front", title="on the front", format="{:.0%}"),
        ),
        rows=tuple(rows),
        note="Means over seeds with 95 % t intervals. An empty recovery: some seed never came back within the branch. "
        "On the front: share of resamples of the seeds in which no other cell is better on both texts.",
    )


def _contrast_table(contrasts: dict[str, Contrast], plan: Plan) -> Table:
    def ends(estimate: Estimate | None) -> tuple[float | None, float | None]:
        return (None, None) if estimate is None else (estimate.lo, estimate.hi)

    return Table(
        name="contrasts",
        title="What the statements rest on",
        columns=(
            Column(name="label", title="contrast"),
            Column(name="value", title="difference", format="{:.3f}"),
            Column(name="lo", title="from", format="{:.3f}"),
            Column(name="hi", title="to", format="{:.3f}"),
            Column(name="pooled_lo", title="pooled noise: from", format="{:.3f}"),
            Column(name="pooled_hi", title="to", format="{:.3f}"),
            Column(name="level", title="level", format="{:.1%}"),
            Column(name="reason", title="why there is no number"),
        ),
        rows=tuple(
            (
                one.name,
                one.estimate.value,
                one.estimate.lo,
                one.estimate.hi,
                *ends(one.pooled),
                one.estimate.level,
                one.estimate.reason,
            )
            for one in contrasts.values()
        ),
        note="In nats/token, but for the share. Beforehand the smallest difference that would be found four times in "
        f"five was put at {plan.options.get('detectable_nats') or math.nan:.3g} nats/token.",
    )


def _curve_columns(x: str, y: str) -> tuple[Column, ...]:
    return (
        Column(name="series", title="series"),
        Column(name="x", title=x, format="{:.4g}"),
        Column(name="y", title=y, format="{:.4f}"),
        Column(name="lo", title="from", format="{:.4f}"),
        Column(name="hi", title="to", format="{:.4f}"),
        Column(name="role", title="role"),
    )


def _way_name(replay: float) -> str:
    return f"way_{round(100 * replay)}"


def _way_table(branches: Branches, replay: float) -> Table:
    """Old loss along the way minus the trunk's, by peak, at one replay fraction."""
    rows: list[tuple[str, float, float | None, float | None, float | None, str]] = []
    for ratio in branches.ratios:
        own = [branches.paths[seed, (ratio, replay)] for seed in branches.seeds]
        for place, tokens in enumerate(own[0].tokens):
            over = np.array([path.old[place] - path.old[0] for path in own])
            one = interval(over, "nats/token", 0.95)
            rows.append((f"peak {ratio:g}", float(tokens), one.value, None, None, "line"))
            rows.append((f"peak {ratio:g}", float(tokens), None, one.lo, one.hi, "band"))
    return Table(
        name=_way_name(replay),
        title=f"Old loss on the way at {replay:.0%} replay",
        columns=_curve_columns("tokens of the branch", "old loss minus the trunk's, nats/token"),
        rows=tuple(rows),
    )


def _rise_table(branches: Branches) -> Table:
    rows: list[tuple[str, float, float | None, float | None, float | None, str]] = []
    for replay, ratio in itertools.product(branches.replays, branches.ratios):
        rises = np.array([branches.paths[seed, (ratio, replay)].rise for seed in branches.seeds])
        one = interval(rises, "nats/token", 0.95)
        rows.append((f"replay {replay:.0%}", ratio, one.value, None, None, "line"))
        rows.append((f"replay {replay:.0%}", ratio, one.value, one.lo, one.hi, "points"))
    return Table(
        name="rises",
        title="Rise of the old loss by peak and replay",
        columns=_curve_columns("peak over the trunk's", "rise, nats/token"),
        rows=tuple(rows),
    )


def _front_table(branches: Branches) -> Table:
    old, new = branches.values(old_loss), branches.values(new_loss)
    rows: list[tuple[str, float, float | None, float | None, float | None, str]] = []
    for replay in branches.replays:
        for ratio in branches.ratios:
            place = branches.cells.index((ratio, replay))
            one = interval(new[:, place], "nats/token", 0.95)
            x = float(old[:, place].mean())
            rows.append((f"replay {replay:.0%}", x, one.value, one.lo, one.hi, "points"))
    kept = on_front(old.mean(axis=0), new.mean(axis=0))
    for place in map(int, np.flatnonzero(kept)):
        x, y = float(old[:, place].mean()), float(new[:, place].mean())
        rows.append(("front", x, y, None, None, "reference"))
    return Table(
        name="pareto",
        title="Old against new loss at the end",
        columns=_curve_columns("old loss, nats/token", "new loss, nats/token"),
        rows=tuple(rows),
        note="Intervals of the new loss over seeds; those of the old loss are in the table of cells.",
    )


def _figures(branches: Branches, numbers: dict[str, float]) -> tuple[Figure, ...]:
    peaks = ", ".join(f"{ratio:g}" for ratio in branches.ratios)
    ways = tuple(
        Figure(
            name=_way_name(replay),
            kind="curves",
            title=f"Old loss after the branch, {replay:.0%} replay",
            caption="Held-out loss on the old text minus the trunk's; mean over seeds with its 95 % interval. "
            "The learning rate warms up over the first twentieth and falls to zero at the end.",
            alt="The old loss rises at once, higher for higher peaks, and comes down as the learning rate does.",
            tables=(_way_name(replay),),
            options={"x_title": "tokens of the branch", "y_title": "old loss minus the trunk's, nats/token"},
        )
        for replay in _shown(branches, numbers)
    )
    return (
        Figure(
            name="pareto",
            kind="curves",
            title="Old against new loss at the end",
            caption=f"Each mark is a peak ({peaks} times the trunk's) at one replay fraction; to the left the old "
            "text is kept better, below the new one is learnt better. Dashed: cells that no other beats on both.",
            alt="Marks of each replay fraction lie on arcs; more replay moves them left and slightly up.",
            tables=("pareto",),
            options={"x_title": "old loss, nats/token", "y_title": "new loss, nats/token"},
        ),
        *ways,
        Figure(
            name="rises",
            kind="curves",
            title="How far the old loss rises on its way",
            caption="Highest old loss along a branch minus the trunk's; 95 % intervals over seeds.",
            alt="The rise grows with the peak and shrinks with replay.",
            tables=("rises",),
            options={"log_x": True, "x_title": "peak over the trunk's", "y_title": "rise, nats/token"},
        ),
    )
