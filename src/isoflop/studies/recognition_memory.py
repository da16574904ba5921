"""After how many exposures does an image model recognise what a person recognises after one?

Claims P24.1 and P24.4: image models need about ten exposures to reach the recognition memory that people
show after one, are at chance after one, and how much data or size would close the gap could be read off a
trend. The published runs train an image GPT on one member of each of 100 pairs and ask which member has the
lower loss; every set of pairs was run twice with the roles swapped. That swap is what makes a second
question possible: does a studied image have a lower loss than the same image where it was not studied?
Prediction: about ten exposures for pretrained models and several times as many from scratch; at one exposure
no better than guessing; the trend in pretraining is not identifiable.
Command: ``isoflop run recognition_memory``, with the data in a folder ``recognition-memory`` under
ISOFLOP_SHARED_DATA. Cost: nothing is trained; seconds.

What is stored is computed here: shares, exposures, means over pairs, sets and seeds, and the distance to
people's accuracy. The published losses and people's own figures stay where they are.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isoflop.judge.curves_view import CURVE_COLUMNS
from isoflop.records import Column, Estimate, Evidence, Figure, Scalar, Statement, Table, Verdict
from isoflop.studies.study import Study

Array = NDArray[np.float64]

QUESTION = "After how many exposures does an image model recognise what a person recognises after one?"
SOURCE = "eminorhan/igpt-memory at commit 899345e (Orhan 2022, arXiv 2204.13061); people: Brady et al. 2008"
DATA = "recognition-memory"
CONDITIONS = ("novel", "exemplar", "state")
NAMES = {"imagenet": "pretrained on ImageNet", "saycam": "pretrained on SAYCam", "tabularasa": "from scratch"}
NUM_RESAMPLES = 500


@dataclass(frozen=True)
class Memory:
    """Per-item losses of one initialisation in one condition, and people's accuracy on it."""

    init: str
    condition: str
    seen: Array
    """[version, seed, exposure, pair] loss of the member that was studied."""
    unseen: Array
    """[version, seed, exposure, pair] loss of the other; the versions swap the two roles."""
    human: float
    human_se: float

    @property
    def right(self) -> NDArray[np.bool_]:
        """[version, seed, exposure, pair] the studied member has the lower loss: two-alternative choice."""
        return self.seen < self.unseen

    @property
    def accuracy(self) -> Array:
        """[exposure] mean over versions, seeds and pairs, which balances the roles."""
        return self.right.mean(axis=(0, 1, 3))

    @property
    def traces(self) -> Array:
        """[seed, exposure, pair] how much lower the loss is for having studied, nats/pixel, summed over a pair.

        (loss of B - loss of A) where A was studied plus (A - B) where B was: what makes one image harder
        than the other drops out, and what a network gained over the whole set does too.
        """
        return np.asarray((self.unseen - self.seen).sum(axis=0))


def read(folder: Path) -> list[Memory]:
    """All initialisations and conditions of the published runs.

    Args:
        folder: with brady_trial_losses.npz and human_accuracy.csv.

    Raises:
        ValueError: a file or an array is missing, or the two versions do not swap roles.
    """
    trials, people = folder / "brady_trial_losses.npz", folder / "human_accuracy.csv"
    for path in (trials, people):
        if not path.is_file():
            raise ValueError(f"{folder} holds no {path.name}; put the published results there")
    with people.open(newline="") as file:
        human = {r["condition"]: r for r in csv.DictReader(file) if r["study"].startswith("Brady")}
    arrays = np.load(trials)
    found = []
    for init in NAMES:
        for condition in CONDITIONS:
            parts = {
                role: np.stack(
                    [[arrays[f"{condition}|{init}|{v}|{s}|{role}"] for s in (0, 1)] for v in (1, 2)]
                ).astype(float)
                for role in ("seen", "unseen")
            }
            row = human[condition]
            accuracy, error = float(row["human_accuracy_pct"]) / 100, float(row["human_se_pct"]) / 100
            found.append(Memory(init, condition, parts["seen"], parts["unseen"], accuracy, error))
    _check_swapped(found)
    return found


def _check_swapped(memories: list[Memory]) -> None:
    """The losses of what version 1 studied must be those of what version 2 did not, item by item."""
    for memory in memories:
        same = np.corrcoef(memory.seen[0, 0, 0], memory.unseen[1, 0, 0])[0, 1]
        if same < 0.95:
            raise ValueError(
                f"{memory.condition}, {memory.init}: the versions do not swap roles (correlation {same:.2f} of the "
                "same items), so roles cannot be balanced"
            )


# ------------------------------------------------------------------------------------- measures


def first_reaching(accuracy: Array, level: float) -> int | None:
    """First exposure, counted from 1, at which the accuracy [exposure] is at least this; None when never."""
    there = np.flatnonzero(accuracy >= level - 1e-12)
    return int(there[0]) + 1 if len(there) else None


def exposures_to_human(memory: Memory, *, seed: int = 0) -> Estimate:
    """Exposures until the accuracy of people after one.

    The interval resamples pairs (together in all runs), seeds, and people's accuracy within its error.
    """
    rng = np.random.default_rng(seed)
    right = memory.right
    num_pairs, num_seeds = right.shape[3], right.shape[1]
    drawn = []
    for _ in range(NUM_RESAMPLES):
        pairs, seeds = rng.integers(num_pairs, size=num_pairs), rng.integers(num_seeds, size=num_seeds)
        accuracy = right[:, seeds][..., pairs].mean(axis=(0, 1, 3))
        found = first_reaching(accuracy, min(memory.human + memory.human_se * rng.normal(), 1.0))
        drawn.append(np.inf if found is None else found)
    lo, hi = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    value = first_reaching(memory.accuracy, memory.human)
    return Estimate(
        value=None if value is None else float(value),
        unit="exposures",
        lo=float(lo) if np.isfinite(lo) else None,
        hi=float(hi) if np.isfinite(hi) else None,
        method=f"{NUM_RESAMPLES} resamples of pairs, seeds and people's accuracy",
        reason=None
        if value is not None and np.isfinite(hi)
        else "not reached within the exposures that were run",
    )


def _share(values: Array, rng: np.random.Generator, method: str) -> Estimate:
    """Mean of [run, pair] shares with a percentile interval over pairs."""
    per_pair = values.mean(axis=0)
    means = per_pair[rng.integers(len(per_pair), size=(NUM_RESAMPLES, len(per_pair)))].mean(axis=1)
    lo, hi = np.quantile(means, [0.025, 0.975])
    return Estimate(
        value=float(per_pair.mean()), unit="share of pairs", lo=float(lo), hi=float(hi), method=method
    )


def choice_at(memory: Memory, exposure: int) -> Estimate:
    """Accuracy of the two-alternative choice after so many exposures."""
    values = memory.right[:, :, exposure - 1].reshape(-1, memory.right.shape[3]).astype(float)
    return _share(values, np.random.default_rng(1), "resampled pairs")


def trace_at(memory: Memory, exposure: int) -> Estimate:
    """Share of pairs whose studied member lost more than the same item lost where it was not studied."""
    values = (memory.traces[:, exposure - 1] > 0).astype(float)
    return _share(values, np.random.default_rng(2), "resampled pairs, each item its own control")


def control(folder: Path, file: str, column: str, init_column: str, exposure: int) -> dict[str, float]:
    """Mean of a column at one exposure, by initialisation, from a table of the same source."""
    groups: dict[str, list[float]] = defaultdict(list)
    with (folder / file).open(newline="") as handle:
        for row in csv.DictReader(handle):
            if int(row["exposures"]) == exposure:
                groups[row[init_column]].append(float(row[column]))
    return {name: float(np.mean(values)) for name, values in groups.items()}


# -------------------------------------------------------------------------------------- verdict


def judge(evidence: Evidence) -> Verdict:
    """Supported where pretrained models need about ten exposures; the trace at one exposure is judged apart."""
    if DATA not in evidence.data:
        return _without_data()
    folder = Path(evidence.data[DATA])
    memories = read(folder)
    reach = {(m.init, m.condition): exposures_to_human(m) for m in memories}
    pretrained = [reach[i, c].value for i in ("imagenet", "saycam") for c in CONDITIONS]
    known = [value for value in pretrained if value is not None]
    one = {(m.init, m.condition): choice_at(m, 1) for m in memories}
    trace = {(m.init, m.condition): trace_at(m, 1) for m in memories}
    traces = [trace[i, c].value or 0.0 for i in ("imagenet", "saycam") for c in CONDITIONS]
    statements = (
        _ten_statement(reach, known),
        _chance_statement(one),
        _trace_statement(trace, traces),
        _order_statement(memories),
        _trend_statement(one),
    )
    ten = statements[0].outcome
    return Verdict(
        study="recognition_memory",
        claims=("P24.1", "P24.4"),
        question=QUESTION,
        outcome=ten,
        sentence=f"Pretrained image models need {min(known):.0f} to {max(known):.0f} exposures for the choice that "
        f"people make after one; yet after a single exposure at least {min(traces):.1%} of the pairs "
        "carry a trace of it, which comparing two different images hides.",
        statements=statements,
        effect=f"{min(known):.0f} to {max(known):.0f} exposures instead of one",
        unresolved=(
            "whether people would show the same trace in a measure that removes how memorable each picture is",
            "how much pretraining or size would bring the choice at one exposure to people's level (P24.4)",
        ),
        limits=(
            "One architecture at 64 x 64 pixels, one learning rate, batches of 32 over 2,500 images, two seeds.",
            "People were tested on 2,500 pictures of full size; set size is matched, resolution and viewing are not.",
            "The trace needs a second network with the roles swapped; no single observer can compute it.",
        ),
        tables=(
            _reach_table(memories, reach),
            _once_table(memories, one, trace),
            *_curve_tables(memories),
            _controls(folder),
        ),
        figures=_figures(memories),
        summary={
            "exposures_to_human": {f"{i}/{c}": value.value for (i, c), value in reach.items()},
            "choice_at_1": {f"{i}/{c}": value.value for (i, c), value in one.items()},
            "trace_at_1": {f"{i}/{c}": value.value for (i, c), value in trace.items()},
            "choice_at_10": {f"{m.init}/{m.condition}": float(m.accuracy[9]) for m in memories},
            "noise_images_at_10": control(folder, "noise_images_accuracy.csv", "accuracy", "model_init", 10),
            "study_loss": {
                str(e): control(folder, "study_losses.csv", "study_nll_per_pixel", "model_init", e)
                for e in (1, 10)
            },
        },
    )


def _without_data() -> Verdict:
    return Verdict(
        study="recognition_memory",
        claims=("P24.1", "P24.4"),
        question=QUESTION,
        outcome="cannot tell",
        sentence="The published losses are not on this machine, so nothing was judged.",
        settle=f"put the results of {SOURCE.split(' (')[0]} into a folder {DATA!r} under ISOFLOP_SHARED_DATA",
    )


def _range(values: list[float]) -> str:
    return f"{min(values):.1%} to {max(values):.1%}"


def _ten_statement(reach: dict[tuple[str, str], Estimate], known: list[float]) -> Statement:
    told = "; ".join(
        f"{NAMES[init]} "
        + "/".join("-" if (v := reach[init, c].value) is None else f"{v:.0f}" for c in CONDITIONS)
        for init in NAMES
    )
    middle = float(np.median(known))
    return Statement(
        text="A pretrained image model needs about ten exposures (five to twenty) for what people do after one",
        outcome="supported" if 5 <= min(known) and max(known) <= 20 else "contradicted",
        because=f"exposures to people's accuracy, {'/'.join(CONDITIONS)}: {told}",
        estimate=Estimate(
            value=middle, unit="exposures", lo=min(known), hi=max(known), method="median and range of six cases",
            reason=None,
        ),
    )  # fmt: skip


def _chance_statement(one: dict[tuple[str, str], Estimate]) -> Statement:
    values = {key: value for key, value in one.items() if key[0] != "tabularasa"}
    above = [key for key, value in values.items() if value.lo is not None and value.lo > 0.5]
    shown = [value.value or 0.0 for value in values.values()]
    return Statement(
        text="After one exposure the choice of a pretrained model is no better than guessing",
        outcome="cannot tell" if not above else "contradicted",
        because=f"{_range(shown)} right; the 95 % interval lies above one half in {len(above)} of {len(values)} cases, "
        "and the widest half-interval is "
        f"{max((v.hi or 1) - (v.value or 0) for v in values.values()):.1%}",
        settle="more pairs, balanced in the same way" if not above else None,
    )


def _trace_statement(trace: dict[tuple[str, str], Estimate], traces: list[float]) -> Statement:
    scratch = [trace["tabularasa", c].value or 0.0 for c in CONDITIONS]
    return Statement(
        text="After one exposure nothing of an image is remembered",
        outcome="contradicted" if min(traces) > 0.9 else "cannot tell",
        because=f"in pretrained models {_range(traces)} of the pairs have a lower loss for having been studied "
        "once, each item compared with itself in the run that studied the other member; from scratch "
        f"{_range(scratch)}",
        settle=None if min(traces) > 0.9 else "more pairs",
    )


def _order_statement(memories: list[Memory]) -> Statement:
    at_ten = {m.condition: float(m.accuracy[9]) for m in memories if m.init == "imagenet"}
    people = {m.condition: m.human for m in memories}
    mismatch = min(at_ten, key=at_ten.__getitem__) == max(people, key=people.__getitem__)
    return Statement(
        text="The easiest test for people is the hardest for the model",
        outcome="supported" if mismatch else "contradicted",
        because="from the easiest for people: "
        + ", ".join(sorted(CONDITIONS, key=lambda c: -people[c]))
        + "; the ImageNet model after ten exposures: "
        + ", ".join(f"{c} {at_ten[c]:.1%}" for c in CONDITIONS),
    )


def _trend_statement(one: dict[tuple[str, str], Estimate]) -> Statement:
    """P24.4: what could be extrapolated is one difference, between no and some pretraining."""
    rise = [
        100 * ((one["imagenet", c].value or 0.0) - (one["tabularasa", c].value or 0.0)) for c in CONDITIONS
    ]
    spread = float(np.std(rise, ddof=1) / np.sqrt(len(rise)))
    mean = float(np.mean(rise))
    return Statement(
        text="The amount of pretraining that brings one exposure to people's level can be estimated",
        outcome="cannot tell",
        because="not identifiable: the runs hold two amounts of ImageNet pretraining (none, all), one less than the "
        "parameters of the simplest curve with a limit, and the choice at one exposure rises by "
        f"{mean:.1f} +- {spread:.1f} points between them",
        estimate=Estimate(
            value=mean,
            unit="points",
            lo=mean - 4.3 * spread,
            hi=mean + 4.3 * spread,
            method="t, 2 df over conditions",
        ),
        settle="the choice at one exposure for at least five amounts of pretraining over two decades, with about a "
        "thousand pairs each",
    )


# ------------------------------------------------------------------------------ tables and figures


def _reach_table(memories: list[Memory], reach: dict[tuple[str, str], Estimate]) -> Table:
    rows: list[tuple[Scalar, ...]] = [
        (NAMES[m.init], m.condition, (e := reach[m.init, m.condition]).value, e.lo, e.hi, e.reason)
        for m in memories
    ]
    return Table(
        name="exposures",
        title="Exposures until people's accuracy after one",
        columns=(
            Column(name="group", title="model"),
            Column(name="label", title="test"),
            Column(name="value", title="exposures", format="{:.0f}"),
            Column(name="lo", title="from", format="{:.0f}"),
            Column(name="hi", title="to", format="{:.0f}"),
            Column(name="reason", title="reason"),
        ),
        rows=tuple(rows),
        note=f"Source: {SOURCE}.",
    )


def _once_table(
    memories: list[Memory], one: dict[tuple[str, str], Estimate], trace: dict[tuple[str, str], Estimate]
) -> Table:
    rows: list[tuple[Scalar, ...]] = []
    for m in memories:
        a, b = one[m.init, m.condition], trace[m.init, m.condition]
        rows.append(
            (NAMES[m.init], m.condition, a.value, a.lo, a.hi, b.value, b.lo, b.hi, float(m.accuracy[9]))
        )
    return Table(
        name="once",
        title="After one exposure: the choice between two images, and each image against itself",
        columns=(
            Column(name="model", title="model"),
            Column(name="test", title="test"),
            Column(name="choice", title="choice right", format="{:.1%}"),
            Column(name="choice_lo", title="from", format="{:.1%}"),
            Column(name="choice_hi", title="to", format="{:.1%}"),
            Column(name="trace", title="pairs with a trace", format="{:.1%}"),
            Column(name="trace_lo", title="from", format="{:.1%}"),
            Column(name="trace_hi", title="to", format="{:.1%}"),
            Column(name="at_ten", title="choice after ten", format="{:.1%}"),
        ),
        rows=tuple(rows),
        note="A trace: an item's loss is lower in the run that studied it than in the run that studied its partner.",
    )


def _curve_tables(memories: list[Memory]) -> tuple[Table, ...]:
    tables = []
    for condition in CONDITIONS:
        rows: list[tuple[Scalar, ...]] = []
        here = [m for m in memories if m.condition == condition]
        longest = max(len(m.accuracy) for m in here)
        for m in here:
            rows += [
                (NAMES[m.init], i + 1, float(100 * (a - m.human)), None, None, "line")
                for i, a in enumerate(m.accuracy)
            ]
        rows += [("people after one", x, 0.0, None, None, "reference") for x in (1, longest)]
        tables.append(
            Table(name=condition, title=f"{condition} foils", columns=CURVE_COLUMNS, rows=tuple(rows))
        )
    return tuple(tables)


def _controls(folder: Path) -> Table:
    noise = control(folder, "noise_images_accuracy.csv", "accuracy", "model_init", 10)
    rows = [(name, value) for name, value in noise.items()]
    return Table(
        name="noise_images",
        title="Random noise images after ten exposures",
        columns=(
            Column(name="model", title="model"),
            Column(name="accuracy", title="choice right", format="{:.1%}"),
        ),
        rows=tuple(rows),
    )


def _reached(memory: Memory) -> str:
    found = first_reaching(memory.accuracy, memory.human)
    when = "do not get there" if found is None else f"reach people's accuracy after {found} exposures"
    return f"models {NAMES[memory.init]} {when}"


def _figures(memories: list[Memory]) -> tuple[Figure, ...]:
    curves = tuple(
        Figure(
            name=condition,
            kind="curves",
            title=f"Recognition by exposures, {condition} foils",
            caption="Two-alternative choice, mean of two sets with swapped roles and two seeds, less people's accuracy "
            "after one exposure.",
            alt="; ".join(_reached(m) for m in memories if m.condition == condition),
            tables=(condition,),
            options={"log_x": True, "x_title": "exposures", "y_title": "right, points above people"},
        )
        for condition in CONDITIONS
    )
    reach = Figure(
        name="exposures",
        kind="intervals",
        title="Exposures until people's accuracy after one",
        caption="95 % intervals over pairs, seeds and people's own error.",
        alt="; ".join(f"{m.condition}, {_reached(m)}" for m in memories),
        tables=("exposures",),
        options={"log": True, "reference": 1.0, "reference_label": "people", "x_title": "exposures"},
    )
    return (reach, *curves)


STUDY = Study(
    name="recognition_memory",
    claims=("P24.1", "P24.4"),
    question=QUESTION,
    prediction="About ten exposures when pretrained, several times as many from scratch; no better than guessing after "
    "one; the trend in pretraining is not identifiable.",
    cost="nothing is trained; seconds",
    judge=judge,
    data=(DATA,),
)
