"""Would more data, a larger model and finer images together reach human object recognition?

Claim P19.2: raising data, size and resolution at once may reach human-level recognition with about a human's
amount of experience: a model of 2.5 billion parameters on 20,000 hours of video at 952 pixels. The published
runs are six vision transformers on five amounts of human-like video, up to three random subsets each.
Prediction: straight lines in the three logarithms reach the claim's neighbourhood, and resolution, the
steepest of them, was varied at three values and for the largest model alone.
Command: ``isoflop run joint_scaling``. Cost: none, the best accuracies of the logs are quoted here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isoflop.judge.curves_view import CURVE_COLUMNS
from isoflop.judge.joint import JointFit, Predicted, fit_joint, minimum_norm, resampled
from isoflop.records import Column, Estimate, Evidence, Figure, Scalar, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = "Would 2.5 billion parameters, 20,000 hours and 952 pixels reach human object recognition?"
SOURCE = "eminorhan/humanlike-vits, logs/finetuning_logs at commit 98b6516 (Orhan 2023, arXiv 2308.03712)"
HUMAN_TOP5 = 0.9
AT = {"parameters": 2.5e9, "hours": 2e4, "pixels": 952.0}
FULL_HOURS = 5000.0
FRACTIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
INTERACTIONS = (("parameters", "hours"), ("parameters", "pixels"), ("hours", "pixels"))

PARAMETERS = {
    "vits14": 22_004_584, "vitb14": 86_475_496, "vitl14": 304_203_752, "vith14": 632_045_800,
    "vith14@448": 632_045_800, "vith14@476": 632_045_800,
}  # fmt: skip
"""Of the net with its classifier at 224 pixels; finer images add position embeddings alone."""

BEST = {
    "vits14": (
        ((14.330, 32.304), (13.876, 31.780), (12.708, 29.046)),
        ((15.140, 33.658), (17.694, 37.732), (15.212, 33.534)),
        ((18.682, 39.774), (21.120, 43.384), (19.760, 40.850)),
        ((26.728, 52.196), (23.412, 46.416), (23.796, 47.134)),
        ((27.570, 52.948),),
    ),
    "vitb14": (
        ((14.996, 33.196), (14.918, 32.476), (14.310, 31.298)),
        ((16.024, 34.630), (17.216, 37.178), (16.732, 35.606)),
        ((22.530, 44.680), (23.636, 46.174), (22.220, 43.998)),
        ((32.308, 58.382), (28.322, 53.274), (29.376, 54.534)),
        ((33.650, 60.044),),
    ),
    "vitl14": (
        ((15.552, 33.654), (15.428, 33.200), (13.562, 30.002)),
        ((18.318, 37.900), (15.226, 33.520), (18.090, 37.914)),
        ((24.658, 47.196), (25.142, 48.388), (23.086, 45.426)),
        ((33.018, 59.176), (29.820, 54.310), (31.412, 56.466)),
        ((37.322, 64.314),),
    ),
    "vith14": (
        ((18.916, 38.746), (19.118, 39.302), (18.344, 37.820)),
        ((20.322, 41.040), (21.394, 43.152), (19.180, 39.184)),
        ((26.202, 49.502), (28.036, 51.770), (24.900, 47.464)),
        ((36.502, 62.772), (31.222, 56.556), (34.404, 60.106)),
        ((39.574, 66.900),),
    ),
    "vith14@448": (
        ((23.402, 45.104), (22.554, 44.054), (21.848, 43.074)),
        ((25.886, 48.634), (26.276, 49.280), (25.498, 48.338)),
        ((32.644, 57.658), (32.962, 57.792), (30.692, 55.294)),
        ((37.464, 63.572), (35.860, 62.124), (38.104, 64.202)),
        ((43.972, 71.108),),
    ),
    "vith14@476": (
        ((22.806, 44.980), (23.822, 45.956), (23.442, 45.398)),
        ((26.610, 49.648), (27.432, 51.114), (24.886, 47.506)),
        ((31.434, 56.140), (33.420, 58.924), (31.768, 56.848)),
        ((38.318, 64.932), (36.182, 62.306), (37.108, 63.754)),
        ((44.114, 71.064),),
    ),
}  # fmt: skip
"""Model -> for each of FRACTIONS, for each subset: best (top-1, top-5) accuracy of the log, percent (SOURCE)."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One fine-tuned model."""

    model: str
    parameters: float
    hours: float
    pixels: float
    top1: float
    top5: float


def pixels(model: str) -> float:
    """Side of the images, from the model's name: 224 unless it ends in @pixels."""
    return float(model.partition("@")[2] or 224)


def quoted() -> tuple[Run, ...]:
    """The runs quoted here."""
    return tuple(
        Run(
            model=model, parameters=PARAMETERS[model], hours=FULL_HOURS * fraction, pixels=pixels(model),
            top1=top1 / 100, top5=top5 / 100,
        )
        for model, rows in BEST.items()
        for fraction, subsets in zip(FRACTIONS, rows, strict=True)
        for top1, top5 in subsets
    )  # fmt: skip


def read_logs(folder: Path) -> tuple[Run, ...]:
    """Runs from a checkout of the logs: files MODEL_FRACTION_SUBSET_log.txt of one JSON object per epoch.

    Raises:
        ValueError: no such file, or one that is not what it should be.
    """
    found = []
    for path in sorted(folder.rglob("vit*_log.txt")):
        model, fraction, _subset, _log = path.name.split("_")
        try:
            epochs = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
            top1, top5 = (max(epoch[key] for epoch in epochs) for key in ("test_acc1", "test_acc5"))
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{path} is no log of one JSON object per epoch with test_acc1 and test_acc5: {error}"
            ) from None
        found.append(
            Run(
                model=model, parameters=PARAMETERS[model], hours=FULL_HOURS * float(fraction), pixels=pixels(model),
                top1=top1 / 100, top5=top5 / 100,
            )
        )  # fmt: skip
    if not found:
        raise ValueError(f"{folder} holds no file like vits14_0.1_1_log.txt")
    return tuple(found)


def causes(runs: tuple[Run, ...]) -> dict[str, list[float]]:
    """The three things that were scaled."""
    return {name: [float(getattr(run, name)) for run in runs] for name in ("parameters", "hours", "pixels")}


def fits(runs: tuple[Run, ...]) -> dict[str, JointFit]:
    """Top-5 and top-1, straight on the score and on its logit."""
    x = causes(runs)
    return {
        f"{score}, {scale}": fit_joint(x, [getattr(run, score) for run in runs], scale=scale)
        for score in ("top5", "top1")
        for scale in ("linear", "logit")
    }


def with_products(runs: tuple[Run, ...]) -> dict[str, tuple[float, int]]:
    """Top-5 with all products, by the origin of the logarithms: where it differs, the runs do not say."""
    x, y = causes(runs), [run.top5 for run in runs]
    means = {name: float(10 ** np.mean(np.log10(values))) for name, values in x.items()}
    largest = {name: max(values) for name, values in x.items()}
    corner = {**largest, "pixels": 224.0}
    origins = {
        "one of each": dict.fromkeys(x, 1.0),
        "the mean run": means,
        "the largest model at 224 pixels": corner,
    }
    return {name: minimum_norm(x, y, AT, INTERACTIONS, origin) for name, origin in origins.items()}


def judge(evidence: Evidence) -> Verdict:
    """Cannot tell while one run at the claimed place may reach human accuracy; contradicted when none may."""
    runs = quoted()
    fitted = fits(runs)
    predicted = {name: fit.predict(AT) for name, fit in fitted.items()}
    products = with_products(runs)
    lo, hi = resampled(causes(runs), [run.top5 for run in runs], AT)
    linear = fitted["top5, linear"]
    shown = [predicted["top5, linear"].value, predicted["top5, logit"].value]
    spread = (min(shown + [v for v, _ in products.values()]), max(shown + [v for v, _ in products.values()]))
    reaches = predicted["top5, linear"].run_hi >= HUMAN_TOP5
    return Verdict(
        study="joint_scaling",
        claims=("P19.2",),
        question=QUESTION,
        outcome="cannot tell" if reaches else "contradicted",
        sentence=f"Straight lines give {predicted['top5, linear'].value:.1%} top-5 ({lo:.1%} to {hi:.1%}), their logit "
        f"{predicted['top5, logit'].value:.1%}: near {HUMAN_TOP5:.0%}, on the strength of a slope in resolution "
        "that was seen at three values of the largest model alone.",
        statements=(
            _prediction_statement(predicted, (lo, hi), reaches),
            _steepest_statement(linear),
            _product_statement(products),
        ),
        effect=f"{spread[0]:.1%} to {spread[1]:.1%} top-5, depending on the scale and on what is assumed of products",
        settle="the small models at 448 and 476 pixels, and one model at four times the data: they hold the products "
        "and the bend that are assumed here",
        unresolved=linear.warnings,
        limits=(
            "Straight lines beyond the data: by "
            + ", ".join(
                f"{v:.2f} decades of {n}" for n, v in predicted["top5, linear"].decades_beyond.items()
            )
            + ".",
            "Best epoch on the test images, after fine-tuning on 2 % of the labels; subsets of one video collection.",
            f"Human accuracy is taken as {HUMAN_TOP5:.0%} top-5, as in the source.",
        ),
        tables=(_slope_table(fitted), _prediction_table(predicted, products, (lo, hi)), _run_table(runs)),
        figures=_figures(),
        summary={
            "runs": len(runs),
            "coefficients_top5": {c.name: c.value for c in linear.coefficients},
            "r2_top5": linear.r2,
            "predicted": {name: p.value for name, p in predicted.items()},
            "resampled95_top5": [lo, hi],
            "with_products": {name: value for name, (value, _) in products.items()},
            "unidentified_products": next(iter(products.values()))[1],
        },
    )


def _prediction_statement(
    predicted: dict[str, Predicted], interval: tuple[float, float], reaches: bool
) -> Statement:
    top5, logit = predicted["top5, linear"], predicted["top5, logit"]
    return Statement(
        text="The joint trend reaches human top-5 accuracy",
        outcome="cannot tell" if reaches else "contradicted",
        because=f"linear {top5.value:.1%} (one run {top5.run_lo:.1%} to {top5.run_hi:.1%}), logit {logit.value:.1%} "
        f"({logit.run_lo:.1%} to {logit.run_hi:.1%}), against {HUMAN_TOP5:.0%}; top-1 "
        f"{predicted['top1, linear'].value:.0%} to {predicted['top1, logit'].value:.0%}",
        estimate=Estimate(
            value=top5.value, unit="top-5 accuracy", lo=interval[0], hi=interval[1], method="resampled runs"
        ),
        settle="one run a quarter of the way: 2.5 billion parameters at 5,000 hours and 476 pixels"
        if reaches
        else None,
    )


def _steepest_statement(fit: JointFit) -> Statement:
    slopes = {name: fit.coefficient(name) for name in fit.causes}
    steepest = max(slopes, key=lambda name: slopes[name].value)
    return Statement(
        text="Resolution is the steepest of the three",
        outcome="supported"
        if steepest == "pixels" and slopes["pixels"].lo > slopes["hours"].hi
        else "cannot tell",
        because="top-5 per decade: "
        + ", ".join(f"{n} {c.value:.3f} ({c.lo:.3f} to {c.hi:.3f})" for n, c in slopes.items())
        + f"; R² {fit.r2:.3f}, {fit.num_runs} runs. A decade of pixels on a side is two decades of pixels",
        settle="more resolutions, also for smaller models",
    )


def _product_statement(products: dict[str, tuple[float, int]]) -> Statement:
    missing = next(iter(products.values()))[1]
    told = ", ".join(f"{value:.1%} with logarithms from {name}" for name, (value, _) in products.items())
    return Statement(
        text="The effects of size, data and resolution can be told from their products",
        outcome="contradicted" if missing else "supported",
        because=f"{missing} product(s) are not in the runs: the same fit predicts {told}",
        settle=None,
    )


def _slope_table(fitted: dict[str, JointFit]) -> Table:
    rows: list[tuple[Scalar, ...]] = [
        (name, c.name, c.value, c.lo, c.hi, fit.r2)
        for name, fit in fitted.items()
        for c in fit.coefficients
        if c.name != "intercept"
    ]
    return Table(
        name="slopes",
        title="Change per decade",
        columns=(
            Column(name="group", title="score and scale"),
            Column(name="label", title="cause"),
            Column(name="value", title="per decade", format="{:.3f}"),
            Column(name="lo", title="from", format="{:.3f}"),
            Column(name="hi", title="to", format="{:.3f}"),
            Column(name="r2", title="R²", format="{:.3f}"),
        ),
        rows=tuple(rows),
        note=f"95 % t intervals. Source of the accuracies: {SOURCE}.",
    )


def _prediction_table(
    predicted: dict[str, Predicted], products: dict[str, tuple[float, int]], interval: tuple[float, float]
) -> Table:
    rows: list[tuple[Scalar, ...]] = [
        (name, 100 * p.value, 100 * p.run_lo, 100 * p.run_hi, None) for name, p in predicted.items()
    ]
    rows.append(
        (
            "top5, linear, mean by resampling",
            100 * predicted["top5, linear"].value,
            *(100 * v for v in interval),
            None,
        )
    )
    rows += [
        (f"top5, linear, products, from {name}", 100 * value, None, None, "the runs leave this product open")
        for name, (value, _) in products.items()
    ]
    return Table(
        name="predictions",
        title="2.5 billion parameters, 20,000 hours, 952 pixels",
        columns=(
            Column(name="label", title="score, scale and assumption"),
            Column(name="value", title="predicted", unit="%", format="{:.1f}"),
            Column(name="lo", title="from", unit="%", format="{:.1f}"),
            Column(name="hi", title="to", unit="%", format="{:.1f}"),
            Column(name="reason", title="why no interval"),
        ),
        rows=tuple(rows),
        note="Intervals are for one new run unless said otherwise; with products the runs leave the value open.",
    )


def _run_table(runs: tuple[Run, ...]) -> Table:
    rows: list[tuple[Scalar, ...]] = [
        (run.model, run.hours, 100 * run.top5, None, None, "points") for run in runs
    ]
    for model in BEST:
        own = [run for run in runs if run.model == model]
        for hours in sorted({run.hours for run in own}):
            mean = float(np.mean([100 * run.top5 for run in own if run.hours == hours]))
            rows.append((model, hours, mean, None, None, "line"))
    return Table(
        name="runs", title="Top-5 accuracy by hours of video", columns=CURVE_COLUMNS, rows=tuple(rows)
    )


def _figures() -> tuple[Figure, ...]:
    return (
        Figure(
            name="runs",
            kind="curves",
            title="Top-5 accuracy by hours of video and model",
            caption=f"Best epoch of each run; lines join the means of the subsets. Source: {SOURCE}.",
            alt="Six rising lines over four decades of hours, the finer images on top.",
            tables=("runs",),
            options={"log_x": True, "x_title": "hours of video", "y_title": "top-5 accuracy, %"},
        ),
        Figure(
            name="predictions",
            kind="intervals",
            title="The same runs, extrapolated",
            caption="What is predicted depends on the scale and on products that the runs do not hold.",
            alt="Predictions between about 80 and 90 percent top-5, and between 50 and 60 percent top-1.",
            tables=("predictions",),
            options={
                "reference": 100 * HUMAN_TOP5,
                "reference_label": "people, top-5",
                "x_title": "accuracy, %",
            },
        ),
    )


STUDY = Study(
    name="joint_scaling",
    claims=("P19.2",),
    question=QUESTION,
    prediction="Straight lines come near human accuracy, on a slope in resolution seen at three values.",
    cost="nothing is trained; an instant",
    judge=judge,
)
