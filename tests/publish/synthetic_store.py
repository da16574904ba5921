"""A store as a real sweep leaves it, made from a planted law: four budgets, sizes around each optimum, three seeds.

The losses follow L = E + A/N^a + B/D^b (the form of Hoffmann et al. 2022, with constants of a toy corpus), with
seed noise. One run diverged, one never ended, one profile has an open end: a report must show all of it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from isoflop import records
from isoflop.records import Column, Estimate, Exclusion, Figure, FlopCount, RunSpec, Statement, Table
from isoflop.store import Store, write_atomic

BUDGETS = (3e10, 1e11, 3e11, 1e12)
SEEDS = (0, 1, 2)
LADDER = ((12, 2), (16, 2), (24, 2), (32, 2), (48, 2), (64, 2), (96, 3), (128, 4))
RUNGS = {3e10: LADDER[:6], 1e11: LADDER[:6], 3e11: LADDER[1:7], 1e12: LADDER[2:8]}
CONVENTION: records.Convention = "matmul-causal"
NOISE_NATS = 0.012
REFERENCE_BUDGET = 1.7e11
TOKENS_PER_STEP = 512
COUNTINGS = ("N_all", "N_nonembedding", "N_matmul")
HOSTILE = "<script>alert(1)</script>"


@dataclass(frozen=True, kw_only=True)
class Size:
    """A net with its parameters under three ways of counting."""

    dim: int
    layers: int

    @property
    def words(self) -> str:
        return f"{self.dim}x{self.layers}"

    def count(self, counting: str) -> float:
        blocks = 12 * self.layers * self.dim**2
        return {
            "N_nonembedding": blocks,
            "N_all": blocks + 2 * 512 * self.dim,
            "N_matmul": blocks + 512 * self.dim + self.layers * 128 * self.dim,
        }[counting]

    def tokens(self, budget: float) -> int:
        return int(budget / 6 / self.count("N_matmul") / TOKENS_PER_STEP) * TOKENS_PER_STEP

    def loss(self, budget: float) -> float:
        return planted_loss(self.count("N_matmul"), budget / 6 / self.count("N_matmul"))


def planted_loss(N: float | np.ndarray, D: float | np.ndarray) -> float | np.ndarray:
    """Nats per token of the planted law, for matmul parameters N and tokens D."""
    return 1.1 + 54.6 / N**0.35 + 139.9 / D**0.35


def net(size: Size) -> records.NetSpec:
    heads = max(1, size.dim // 16)
    return records.NetSpec(
        vocab_size=512,
        context=128,
        dim=size.dim,
        num_layers=size.layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=size.dim // heads,
        ffn_dim=8 * round(size.dim / 3),
    )


def run_spec(
    size: Size, seed: int, num_tokens: int, branch: records.Branch | None, name: str, **changes: object
) -> RunSpec:
    steps = num_tokens // TOKENS_PER_STEP
    source = records.DataSource(
        source="stdlib", corpus_sha256="c0" * 32, tokenizer="bpe-512", tokenizer_sha256="70" * 32
    )
    function = records.FunctionRef(path="isoflop.train.objectives:next_token", source_sha256="f0" * 32)
    return RunSpec(
        name=name,
        net=net(size),
        data=records.DataSpec(sources=(source,), context=128, order_seed=seed),
        objective=function,
        optimizer=records.OptimizerSpec(peak_lr=0.010 * (48 / size.dim) ** 0.75),
        schedule=records.ScheduleSpec(
            kind="wsd",
            warmup_steps=50,
            num_steps=steps,
            decay_start_step=None if branch is None else branch.step,
        ),
        batch_seqs=4,
        num_steps=steps,
        seed=seed,
        branch=branch,
        train_flops=FlopCount(flops=6 * size.count("N_matmul") * num_tokens, convention=CONVENTION),
        **{
            "evaluate": None if branch is None else records.EvalSpec(function=function, num_windows=512),
            **changes,
        },
    )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of a profile: its run and what it scored."""

    spec: RunSpec
    size: Size
    budget: float
    loss: float


def cells_and_trunks(rng: np.random.Generator) -> tuple[list[Cell], list[RunSpec]]:
    cells, trunks = [], []
    for shape in LADDER:
        size = Size(dim=shape[0], layers=shape[1])
        budgets = [budget for budget in BUDGETS if shape in RUNGS[budget]]
        for seed in SEEDS:
            labels = {"size": size.words, "seed": seed} | {name: size.count(name) for name in COUNTINGS}
            last = int(0.7 * size.tokens(budgets[-1]))
            trunk = run_spec(
                size, seed, last, None, f"trunk {size.words} seed {seed}", labels={**labels, "role": "trunk"}
            )
            trunks.append(trunk)
            shared = rng.normal(0, NOISE_NATS / 2)
            for budget in budgets:
                tokens = size.tokens(budget)
                start = int(0.7 * tokens) // TOKENS_PER_STEP
                branch = records.Branch(parent=trunk.fingerprint(), step=start)
                own = {**labels, "role": "point", "budget": budget, "trunk": trunk.fingerprint()}
                spec = run_spec(
                    size,
                    seed,
                    tokens,
                    branch,
                    f"{size.words} {budget:.0e} seed {seed}".replace("e+", "e"),
                    labels=own,
                )
                loss = float(size.loss(budget) + shared + rng.normal(0, NOISE_NATS))
                cells.append(Cell(spec=spec, size=size, budget=budget, loss=loss))
    return cells, trunks


# ------------------------------------------------------------------------------------- the verdict


def polynomial(sizes: np.ndarray, losses: np.ndarray) -> tuple[float, np.ndarray]:
    centre = float(np.log(sizes).mean())
    return centre, np.polynomial.polynomial.polyfit(np.log(sizes) - centre, losses, 3)


def bottom(
    centre: float, coefficients: np.ndarray, low: float, high: float
) -> tuple[float, float, float, float]:
    """Best size, lowest loss and the edges of the 1 % basin, on a fine grid of ln N."""
    grid = np.linspace(np.log(low) - 0.4, np.log(high) + 0.4, 2001)
    losses = np.polynomial.polynomial.polyval(grid - centre, coefficients)
    inside = (grid >= np.log(low)) & (grid <= np.log(high))
    best = int(np.flatnonzero(inside)[np.argmin(losses[inside])])
    basin = grid[losses <= 1.01 * losses[best]]
    return float(np.exp(grid[best])), float(losses[best]), float(np.exp(basin[0])), float(np.exp(basin[-1]))


BOWL_COLUMNS = (
    "convention",
    "budget",
    "centre_lnN",
    "c0",
    "c1",
    "c2",
    "c3",
    "window_lo",
    "window_hi",
    "N_opt",
    "N_opt_lo",
    "N_opt_hi",
    "loss_opt",
    "basin_lo",
    "basin_hi",
    "basin_lo_lo",
    "basin_lo_hi",
    "basin_hi_lo",
    "basin_hi_hi",
    "half_width",
    "half_width_lo",
    "half_width_hi",
    "status",
    "reason",
)


def bowl_tables(cells: list[Cell], rng: np.random.Generator) -> tuple[list[tuple], list[tuple]]:
    bowls, draws = [], []
    for counting in COUNTINGS:
        for budget in BUDGETS:
            own = [cell for cell in cells if cell.budget == budget]
            sizes = np.array([cell.size.count(counting) for cell in own])
            losses = np.array([cell.loss for cell in own])
            centre, fitted = polynomial(sizes, losses)
            low, high = float(sizes.min()), float(sizes.max())
            found = []
            for number in range(60):
                noisy = np.polynomial.polynomial.polyval(np.log(sizes) - centre, fitted)
                noisy = noisy + rng.normal(0, 1.5 * NOISE_NATS, len(sizes))
                coefficients = np.polynomial.polynomial.polyfit(np.log(sizes) - centre, noisy, 3)
                draws.append((counting, budget, number, centre, *map(float, coefficients)))
                found.append(bottom(centre, coefficients, low, high))
            n, loss, basin_lo, basin_hi = bottom(centre, fitted, low, high)
            samples = np.array(found)
            (n_lo, n_hi), _, (ll, lh), (hl, hh) = np.percentile(samples, [2.5, 97.5], axis=0).T.tolist()
            widths = np.sqrt(samples[:, 3] / samples[:, 2])
            w_lo, w_hi = np.percentile(widths, [2.5, 97.5]).tolist()
            edge = budget == BUDGETS[0]
            bowls.append(
                (
                    counting,
                    budget,
                    centre,
                    *map(float, fitted),
                    low,
                    high,
                    n,
                    None if edge else n_lo,
                    n_hi,
                    loss,
                    None if edge else basin_lo,
                    basin_hi,
                    None if edge else ll,
                    None if edge else lh,
                    hl,
                    hh,
                    float(np.sqrt(basin_hi / basin_lo)),
                    w_lo,
                    None if edge else w_hi,
                    "edge" if edge else "ok",
                    "the minimum lies near the smallest size, so its lower end is not bracketed"
                    if edge
                    else "",
                )
            )
    return bowls, draws


def columns(*names: str, formats: dict[str, str] | None = None) -> tuple[Column, ...]:
    return tuple(
        Column(name=name, title=name.replace("_", " "), format=(formats or {}).get(name, ""))
        for name in names
    )


def tables(cells: list[Cell], rng: np.random.Generator) -> tuple[Table, ...]:
    bowls, draws = bowl_tables(cells, rng)
    exponents = []
    for counting in COUNTINGS:
        rows = [row for row in bowls if row[0] == counting]
        slope, offset = np.polyfit(np.log([row[1] for row in rows]), np.log([row[9] for row in rows]), 1)
        carried = counting != "N_matmul"
        note = (
            "" if carried else "the interval reaches from 0.2 to 0.9: four budgets cannot carry an exponent"
        )
        exponents.append(
            (
                counting,
                float(slope),
                float(slope) - 0.12,
                float(slope) + 0.14,
                float(np.exp(offset + slope * np.log(REFERENCE_BUDGET))),
                REFERENCE_BUDGET,
                carried,
                note,
            )
        )
    points = []
    for cell in cells:
        included = cell.loss < min(c.loss for c in cells if c.budget == cell.budget) + 0.35
        points.append(
            (
                cell.budget,
                cell.spec.name,
                cell.size.words,
                *(cell.size.count(c) for c in ("N_nonembedding", "N_all", "N_matmul")),
                cell.spec.tokens,
                cell.loss,
                cell.loss / math.log(2) / 2.16,
                cell.spec.seed,
                str(cell.spec.labels["trunk"])[:8],
                included,
                "" if included else "more than 0.35 nats above the best of its budget",
            )
        )
    many = {
        "budget": "{:.1e}",
        "loss_nats": "{:.4f}",
        "bits_per_byte": "{:.4f}",
        "tokens": "{:,.0f}",
        "half_width": "x{:.2f}",
    }
    many |= {
        name: "{:,.0f}" for name in (*COUNTINGS, "N_opt", "N_opt_lo", "N_opt_hi", "basin_lo", "basin_hi")
    }
    return (
        Table(
            name="bowls",
            title="The bottom of each profile",
            columns=columns(*BOWL_COLUMNS, formats=many),
            rows=tuple(bowls),
            note="Low and high are the ends of the 95 % interval; an empty one is open, and the remark says why.",
        ),
        Table(
            name="exponents",
            title="How the best size grows with compute",
            rows=tuple(exponents),
            columns=columns(
                "convention", "exponent", "lo", "hi", "coefficient", "reference_budget", "identified", "note"
            ),
        ),
        Table(
            name="points",
            title="Every scored run",
            rows=tuple(points),
            columns=columns(
                "budget",
                "run",
                "size",
                "N_nonembedding",
                "N_all",
                "N_matmul",
                "tokens",
                "loss_nats",
                "bits_per_byte",
                "seed",
                "trunk",
                "included",
                "reason",
                formats=many,
            ),
        ),
        Table(
            name="bowl_draws",
            title="Draws of the fitted profiles",
            rows=tuple(draws),
            columns=columns("convention", "budget", "draw", "centre_lnN", "c0", "c1", "c2", "c3"),
        ),
        Table(
            name="factors",
            title="Half-widths by way of counting",
            note="Forest plot.",
            columns=columns("label", "value", "lo", "hi", "group", "reason"),
            rows=tuple(
                (f"{row[1]:.0e} FLOPs".replace("e+", "e"), row[19], row[20], row[21], row[0], row[23])
                for row in bowls
            ),
        ),
        Table(
            name="law",
            title="The planted law",
            rows=tuple(law_rows()),
            columns=columns("series", "x", "y", "lo", "hi", "role"),
        ),
        Table(
            name="multiples",
            title="Three planted tasks",
            rows=tuple(panel_rows()),
            columns=columns("panel", "series", "x", "y", "lo", "hi", "role"),
        ),
    )


PANELS = ("a task that jumps", "a task that rises", "a_task_of_chance")


def panel_rows() -> list[tuple]:
    """A logistic, a line in log x and a constant, each with its rival, its band and five points."""
    rows: list[tuple] = []
    for number, panel in enumerate(PANELS):
        for x in np.geomspace(1e6, 1e9, 20):
            depth = float(np.log10(x / 1e6) / 3)
            curves = (1 / (1 + np.exp(-20 * (depth - 0.5))), 0.2 + 0.6 * depth, 0.25)
            y = float(curves[number])
            rows.append((panel, "90 % of new measurements", float(x), None, y - 0.1, y + 0.1, "band"))
            rows.append((panel, ("logistic", "log", "constant")[number], float(x), y, None, None, "line"))
            rows.append((panel, "linear", float(x), float(x) / 1e9, None, None, "thin"))
        rows += [
            (panel, "scores", 10.0**p, 0.1 * number + 0.05 * p, None, None, "points") for p in range(6, 10)
        ]
        rows += [(panel, "chance", x, 0.25, None, None, "reference") for x in (1e6, 1e9)]
    return rows


def law_rows() -> list[tuple]:
    rows: list[tuple] = []
    for budget in (1e11, 1e12):
        for N in np.geomspace(8e3, 8e5, 24):
            loss = float(planted_loss(N, budget / 6 / N))
            rows.append(
                (f"{budget:.0e} FLOPs".replace("e+", "e"), float(N), loss, loss - 0.04, loss + 0.04, "line")
            )
            rows.append(
                (f"{budget:.0e} FLOPs".replace("e+", "e"), float(N), None, loss - 0.04, loss + 0.04, "band")
            )
        for N in (2e4, 6e4, 2e5):
            loss = float(planted_loss(N, budget / 6 / N))
            rows.append(
                (
                    f"{budget:.0e} FLOPs".replace("e+", "e"),
                    N,
                    loss + 0.01,
                    loss - 0.05,
                    None if N > 1e5 else loss + 0.07,
                    "points",
                )
            )
    rows += [("floor", 8e3, 1.1, None, None, "reference"), ("floor", 8e5, 1.1, None, None, "reference")]
    return rows


def figures() -> tuple[Figure, ...]:
    return (
        Figure(
            name="isoflop_bowls",
            kind="isoflop_bowls",
            title="Loss against size at equal compute",
            caption="Each point is one trained model; models of one colour cost the same compute. "
            "Heavy line: cubic in ln N. "
            "Bar: best size with its 95 % interval. Band: sizes within 1 % of the lowest loss.",
            alt="One bowl-shaped curve per compute budget; higher budgets lie lower and further to the right.",
            tables=("points", "bowls", "bowl_draws"),
            options={"convention": "N_all"},
        ),
        Figure(
            name="basin_widths",
            kind="basin_widths",
            title="How wide the 1 % basin is",
            caption="Geometric mean of the factors below and above the best size, with 95 % intervals.",
            alt="The half-width per budget lies near a factor of two and far below ten.",
            tables=("bowls",),
            options={"convention": "N_all"},
        ),
        Figure(
            name="optimum_path",
            kind="optimum_path",
            title="Where the bottom is, by three ways of counting",
            caption="The best size at each budget with its 95 % interval, and the fitted power of compute.",
            alt="Best size rises with compute in each panel; the slope differs with the way of counting.",
            tables=("bowls", "exponents"),
        ),
        Figure(
            name="learning_curves",
            kind="learning_curves",
            title="Learning curves",
            caption="Training loss along each trunk, and the cooldown branches that leave it.",
            alt="Training loss falls with compute; branches drop below their trunk in the cooldown.",
        ),
        Figure(
            name="factors",
            kind="intervals",
            title="Half-widths under three ways of counting",
            caption="The same runs, counted differently.",
            alt="Twelve intervals, all below a factor of three.",
            tables=("factors",),
            options={"log": True, "reference": 2.0, "reference_label": "×2", "x_title": "Half-width, factor"},
        ),
        Figure(
            name="law",
            kind="curves",
            title="The planted law",
            caption="What the losses were drawn from.",
            alt="Two bowls, the lower one at the higher budget.",
            tables=("law",),
            options={"log_x": True, "x_title": "N", "y_title": "Loss, nats per token"},
        ),
        Figure(
            name="multiples",
            kind="panels",
            title="Three tasks on two axes",
            caption="Each task on a linear and on a logarithmic axis.",
            alt="One task jumps, one rises in a straight line of log size, one stays.",
            tables=("multiples",),
            options={"x_axes": "linear log", "per_row": 4, "x_title": "size", "y_title": "score"},
        ),
    )


def statements(width: Estimate) -> tuple[Statement, ...]:
    return (
        Statement(
            text="Within 1 % of the lowest loss, the model may be an order of magnitude smaller or "
            "larger than the optimum.",
            outcome="contradicted",
            because="half-width at 10¹² FLOPs: ×1.8 (95 %: ×1.6 to ×2.1), threshold ×10",
            estimate=width,
        ),
        Statement(
            text="A model of half the optimal size, at the same compute, loses at most 1 % in loss.",
            outcome="supported",
            because="factor from the optimum down to the basin's edge: ×2.2 (95 %: ×2.0 to ×2.5), threshold ×2",
            estimate=Estimate(
                value=2.2, lo=2.02, hi=2.5, unit="factor", method="studentised bootstrap of trunks"
            ),
        ),
        Statement(
            text="The exponent of the optimal size in compute is known to within 0.1 either way.",
            outcome="cannot tell",
            because="exponent 0.46 (95 %: 0.34 to 0.60), counting all parameters: known to 0.13, not to 0.1",
            estimate=Estimate(
                value=0.46,
                lo=0.34,
                hi=None,
                unit="",
                method="profile t, 2 df",
                reason="the upper end is open",
            ),
            settle="a range of budgets 1.3 times as many decades wide, or about twice the seeds at these 4 budgets",
        ),
    )


def verdict(
    cells: list[Cell], plan: records.Plan, cost: records.Cost, rng: np.random.Generator
) -> records.Verdict:
    made = tables(cells, rng)
    last = next(row for row in made[0].rows if row[0] == "N_all" and row[1] == BUDGETS[-1])
    width = Estimate(
        value=last[19], lo=last[20], hi=last[21], unit="factor", method="studentised bootstrap of trunks"
    )
    fit = records.Fit(
        name="isoflop/N_all",
        form="L = c0 + c1 u + c2 u² + c3 u³ per budget, u = ln N − centre",
        error_model="pooled seed noise",
        estimates={
            "exponent": Estimate(value=0.46, lo=0.34, hi=0.60, unit=""),
            "E": Estimate(
                value=None, unit="nats/token", reason="four budgets do not bend enough to show a floor"
            ),
        },
        num_points=len(cells),
        degrees_of_freedom=48.0,
        objective=0.0102,
        identified=False,
        not_identified="the irreducible loss E is not identified at these budgets",
        certificate=records.Certificate(
            converged=True,
            scaled_gradient=3e-9,
            smallest_curvature=0.41,
            multistart_gap=0.0,
            certified_share=0.99,
        ),
        exclusions=(
            Exclusion(what="12x2 3e10 seed 1", reason="more than 0.35 nats above the best of its budget"),
        ),
    )
    return records.Verdict(
        study="flatness",
        claims=("P5.3",),
        question=plan.question,
        outcome="contradicted",
        sentence="At 10¹² FLOPs the loss stays within 1 % of its minimum for sizes up to ×1.8 (95 "
        "%: ×1.6 to ×2.1) either "
        "side of the best one: flat, but nowhere near the order of magnitude that was claimed.",
        statements=statements(width),
        effect="1 % of loss is 0.030 nats/token at 10¹² FLOPs; a sweep's best model reaches it with "
        "9 % less compute.",
        unresolved=(
            "The exponent of the optimal size is known to 0.13, not to 0.1. It would take about twice the seeds.",
            "Whether the basin widens with compute: the four intervals overlap.",
        ),
        limits=(
            "A rule, not a search for each size, set the learning rates.",
            "Models of at most a million parameters on one corpus.",
        ),
        fits=(fit,),
        tables=made,
        figures=figures(),
        exclusions=(
            Exclusion(what="24x2 1e12 seed 2", reason="diverged: loss is not finite at step 812"),
            Exclusion(what="128x4 1e12 seed 2", reason="never ended: resume the sweep to have it"),
        ),
        plan_fingerprint=plan.fingerprint(),
        summary={"half_width": width.value},
        cost=cost,
        provenance=plan.provenance,
    )


# --------------------------------------------------------------------------------------- on disk


def provenance(started: str) -> records.Provenance:
    return records.Provenance(
        isoflop="0.1.0",
        python="3.11.7",
        torch="2.13.0",
        commit="0123456789abcdef0123456789abcdef01234567",
        dirty=False,
        machine="2 x AMD EPYC, 8 GiB",
        device="cpu",
        num_workers=2,
        started=started,
    )


def build_plan(cells: list[Cell], trunks: list[RunSpec]) -> records.Plan:
    specs = [*trunks, *(cell.spec for cell in cells)]
    runs = tuple(
        records.PlannedRun(
            spec=spec,
            fingerprint=spec.fingerprint(),
            why="a point of a profile" if spec.branch else "carries branches",
            cost_flops=spec.own_flops,
            cost_seconds=spec.own_flops / 2e10,
            predicted_loss=Estimate(
                value=3.5, lo=3.2, hi=3.8, unit="nats/token", method="belief from a pilot"
            ),
        )
        for spec in specs
    )
    return records.Plan(
        study="flatness",
        study_source="flatness",
        claims=("P5.3",),
        question="How flat is the bottom of the isoFLOP curve, and where is it?",
        budget=records.Budget(amount=240.0, unit="seconds", text="4 min"),
        planned_flops=FlopCount(flops=sum(run.cost_flops for run in runs), convention=CONVENTION),
        planned_seconds=230.0,
        runs=runs,
        rule=records.DecisionRule(
            text="Per budget a cubic in ln N is fitted to all seeds' losses. Each statement is "
            "supported when the 95 % interval "
            "lies wholly on its side of the threshold, contradicted when wholly on the other, else "
            "it cannot be told.",
            parameters={
                "eps": 0.01,
                "level": 0.95,
                "order_of_magnitude": 10.0,
                "half_size": 2.0,
                "exponent_within": 0.1,
            },
            statements=tuple(s.text for s in statements(Estimate(value=1.0, unit="factor"))),
        ),
        seeds=SEEDS,
        corpus=records.CorpusRecord(
            source="stdlib",
            corpus_sha256="c0" * 32,
            tokenizer="bpe-512",
            tokenizer_sha256="70" * 32,
            vocab_size=512,
            num_train_files=384,
            num_val_files=20,
            train_bytes=7_730_000,
            val_bytes=490_000,
            train_tokens=3_580_000,
            val_tokens=232_000,
            split_rule="sha256 of the path, one file in twenty",
            description="standard library of CPython 3.11.7",
        ),
        assumptions=(
            "Peak learning rate 0.010 x (48 / width)^0.75: near-optimal in a pilot.",
            "Cooldown over the last 30 % of the steps.",
        ),
        notes=("Three seeds cannot show an effect below 0.01 nats.",),
        provenance=provenance("2026-11-23T10:00:00Z"),
    )


def metric_rows(spec: RunSpec, final: float, rng: np.random.Generator) -> list[dict]:
    """At most 120 logged steps: the planted law a little above its end, and a linear way down in the cooldown."""
    first = max(spec.start_step, 1)
    steps = np.unique(np.linspace(first, spec.num_steps, 120).astype(int))
    per_token = spec.train_flops.flops / spec.tokens
    tokens = steps * TOKENS_PER_STEP
    losses = np.minimum(planted_loss(per_token / 6, tokens) + 0.15, 6.2) + rng.normal(0, 0.05, len(steps))
    if spec.branch is not None:
        losses = losses + np.linspace(0, final - float(losses[-1]), len(steps))
    return [
        {"step": int(s), "tokens": int(t), "flops": float(t * per_token), "loss_nats": float(loss)}
        for s, t, loss in zip(steps, tokens, losses, strict=True)
    ]


def write_run(
    store: Store, spec: RunSpec, loss: float | None, rng: np.random.Generator, status: str = "finished"
) -> records.RunRecord:
    """One run folder. `loss` None leaves a trunk without measurement."""
    folder = store.run(spec)
    folder.create(spec)
    rows = metric_rows(spec, loss if loss is not None else 0.0, rng)
    if status == "diverged":
        rows = rows[: len(rows) // 2]
    write_atomic(folder.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))
    spent = spec.own_flops * len(rows) / 120 if status == "diverged" else spec.own_flops
    attempt = records.Attempt(
        started="2026-11-23T10:00:05Z",
        first_step=spec.start_step,
        last_step=rows[-1]["step"],
        seconds=spent / 2e10,
        flops=spent,
        flops_wasted=spent if status == "diverged" else 0.0,
        ended=status,
    )
    record = records.RunRecord(
        fingerprint=spec.fingerprint(),
        name=spec.name,
        status=status,
        num_steps=rows[-1]["step"],
        tokens=rows[-1]["tokens"],
        reason="loss is not finite at step 812" if status == "diverged" else None,
        train_flops=spec.train_flops,
        attempts=(attempt,),
        parent=spec.branch.parent if spec.branch else None,
        provenance=provenance("2026-11-23T10:00:05Z"),
        final_train_loss_nats=None if status == "diverged" else loss or rows[-1]["loss_nats"],
    )
    if loss is not None and status == "finished":
        groups = tuple(float(loss + offset) for offset in rng.normal(0, 0.2, 16))
        folder.write_measurements(
            [
                records.Measurement(
                    run=spec.fingerprint(),
                    name="heldout",
                    step=spec.num_steps,
                    loss=Estimate(
                        value=loss,
                        lo=loss - 0.12,
                        hi=loss + 0.12,
                        unit="nats/token",
                        method="16 groups of windows, t",
                    ),
                    bits_per_byte=Estimate(value=loss / math.log(2) / 2.16, unit="bits/byte"),
                    group_nats=groups,
                    group_tokens=(4096,) * 16,
                    num_bytes=141_558,
                    held_fixed="512 fixed windows of 128 tokens, fp32",
                )
            ]
        )
    folder.write_record(record)
    return record


def build(root: Path, *, hostile: bool = False) -> Store:
    """Write the whole store. `hostile` puts markup into names, captions and remarks."""
    rng = np.random.default_rng(20261123)
    store = Store(root)
    cells, trunks = cells_and_trunks(rng)
    if hostile:
        first = cells[0]
        cells[0] = Cell(
            spec=msgspec.structs.replace(first.spec, name=f"{HOSTILE} $x$"),
            size=first.size,
            budget=first.budget,
            loss=first.loss,
        )
    plan = build_plan(cells, trunks)
    written = [write_run(store, trunk, None, rng) for trunk in trunks]
    for cell in cells:
        if cell.spec.name == "128x4 1e12 seed 2":
            continue
        status = "diverged" if cell.spec.name == "24x2 1e12 seed 2" else "finished"
        written.append(write_run(store, cell.spec, cell.loss, rng, status))
    cost = records.Cost(
        convention=CONVENTION,
        planned_flops=plan.planned_flops.flops,
        spent_flops=sum(run.flops_spent for run in written),
        wasted_flops=sum(run.flops_wasted for run in written),
        planned_seconds=460.0,
        spent_seconds=sum(run.seconds_spent for run in written),
        usd=0.02,
    )
    made = verdict(cells, plan, cost, rng)
    if hostile:
        figure = msgspec.structs.replace(
            made.figures[0], caption=f"a ]]> b {HOSTILE} & c", alt=f"]]> {HOSTILE}", title=f"T {HOSTILE}"
        )
        made = msgspec.structs.replace(
            made,
            figures=(figure, *made.figures[1:]),
            sentence=f'{HOSTILE} & "quoted" ]]>',
            question=HOSTILE,
            limits=(HOSTILE,),
            exclusions=(Exclusion(what=HOSTILE, reason=HOSTILE),),
        )
    store.write(store.plan_path, plan)
    store.write(store.verdict_path, made)
    return store
