"""How large are machine-found gains where the reward is unambiguous?

Claim P1.2: even for GPU kernels, where the reward is a run time, machine-found solutions beat the best human
ones by less than a fifth in the very best case. The run times that the claim rests on stand in one table.
Prediction: true for the two newer devices, false for the two others in the same table.
Command: ``isoflop run machine_found_gains``. Cost: none, the run times are quoted here.
"""

from __future__ import annotations

from isoflop.records import Column, Estimate, Evidence, Figure, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = "Are machine-found gains below a fifth wherever the reward is unambiguous?"
LIMIT = 1.20
"""The claim's bound: a factor on the run time."""

KERNEL_US = {
    "A100": (4531.0, 2198.0),
    "H100": (1371.0, 1161.0),
    "B200": (1005.0, 905.0),
    "MI300X": (2462.0, 1596.0),
}
"""Triangular multiplication kernel: best human and machine-found run time, microseconds (TTT-Discover,
arXiv 2601.16175, README of github.com/test-time-training/discover)."""

RECORD_MINUTES = {32: (2.656, 2.625), 60: (1.781, 1.765)}
"""NanoGPT speedrun records credited in part to an AI system: time before and after, minutes
(KellerJordan/modded-nanogpt, README.md at commit e7a55f1)."""


def factor(before: float, after: float) -> float:
    """How many times faster."""
    return before / after


def judge(evidence: Evidence) -> Verdict:
    """Contradicted when any quoted gain exceeds the bound."""
    kernels = {device: factor(*times) for device, times in KERNEL_US.items()}
    records = {number: factor(*times) for number, times in RECORD_MINUTES.items()}
    above = [device for device, value in kernels.items() if value > LIMIT]
    within = [device for device in kernels if device not in above]
    reason = "one published run time per solution, without a spread"
    statements = tuple(
        Statement(
            text=f"On {device} the machine-found kernel is less than {LIMIT - 1:.0%} faster than the best human one",
            outcome="contradicted" if value > LIMIT else "supported",
            because=f"{KERNEL_US[device][0]:.0f} to {KERNEL_US[device][1]:.0f} microseconds is a factor of {value:.2f}",
            estimate=Estimate(value=value, unit="factor", reason=reason),
        )
        for device, value in kernels.items()
    )
    return Verdict(
        study="machine_found_gains",
        claims=("P1.2",),
        question=QUESTION,
        outcome="contradicted" if above else "supported",
        sentence=f"Above the bound: {_named(kernels, above) or 'none'}; within: {_named(kernels, within) or 'none'}.",
        statements=statements,
        effect=f"kernels {min(kernels.values()):.2f} to {max(kernels.values()):.2f} times faster; speedrun records "
        f"{min(records.values()) - 1:.1%} to {max(records.values()) - 1:.1%}",
        unresolved=("how hard people had tried on each device before the machine did",),
        limits=("Quoted run times, not measured again.", "Two problems say nothing about others."),
        tables=(_table(kernels, records, reason),),
        figures=(
            Figure(
                name="gains",
                kind="intervals",
                title="Machine-found against best human",
                caption="Factor on the run time; the line is the claim's bound.",
                alt=f"{len(above)} of {len(kernels)} kernels lie above {LIMIT}.",
                tables=("gains",),
                options={"reference": LIMIT, "reference_label": "claimed bound", "x_title": "times faster"},
            ),
        ),
        summary={"kernels": kernels, "records": {str(key): value for key, value in records.items()}},
    )


def _named(kernels: dict[str, float], devices: list[str]) -> str:
    return ", ".join(f"{kernels[device]:.2f} times on {device}" for device in devices)


def _table(kernels: dict[str, float], records: dict[int, float], reason: str) -> Table:
    rows = [("kernel", device, *KERNEL_US[device], "us", kernels[device]) for device in kernels]
    rows += [
        ("speedrun", f"record {number}", *RECORD_MINUTES[number], "min", records[number])
        for number in records
    ]
    return Table(
        name="gains",
        title="Best human and machine-found",
        columns=(
            Column(name="group", title="problem"),
            Column(name="label", title="case"),
            Column(name="human", title="before"),
            Column(name="machine", title="machine-found"),
            Column(name="unit", title="unit"),
            Column(name="value", title="factor", format="{:.3f}"),
            Column(name="lo", title="from"),
            Column(name="hi", title="to"),
            Column(name="reason", title="why no interval"),
        ),
        rows=tuple((*row, row[-1], row[-1], reason) for row in rows),
        note="No interval can be given, so lo and hi repeat the value.",
    )


STUDY = Study(
    name="machine_found_gains",
    claims=("P1.2",),
    question=QUESTION,
    prediction="Below the bound on H100 and B200, above it on A100 and MI300X.",
    cost="nothing is trained; an instant",
    judge=judge,
)
