"""A size plan as one self-contained page that recomputes in the browser, over all bootstrap draws.

The draws travel in the page as single-precision floats in base64, so it needs no network and no server; its
own policy forbids both. The arithmetic of `isoflop.plan.price` is written a second time in
templates/size_engine.js, and a test holds the two together. Left out: anything that needs a fit.
"""

from __future__ import annotations

import base64
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.flops import hardware
from isoflop.plan.belief import Belief, parameters_of, published, published_names, to_array
from isoflop.plan.size import Choice, SizePlan
from isoflop.plan.text import forecast_words, plan_text
from isoflop.store import write_atomic

MAX_BYTES = 1_000_000
"""A page is refused when it grows beyond this: it should open from a mail."""
MAX_DRAWS = 4000
"""Draws that a page recomputes while a slider moves; of more, the first so many are taken."""
_OF_ONE_LAW = ("estimator", "forecast")
"""Groups of choices that refit the runs of the planned law, and say nothing beside another."""
_NEEDS = {"repetition": "U", "serving": "served"}


def write_page(plan: SizePlan, path: Path | str, belief: Belief | None = None) -> Path:
    """Write the page for a plan.

    Args:
        plan: what the page shows first.
        path: the file to write, "plan.html".
        belief: the law of one's own that the plan was made with; the published ones are always there.

    Raises ValueError when the page would exceed `MAX_BYTES`.
    """
    page = render(plan, belief)
    if len(page.encode()) > MAX_BYTES:
        raise ValueError(
            f"the page would take {len(page.encode()) / 1e6:.1f} MB; give fewer draws (at most {MAX_DRAWS} are used)"
        )
    target = Path(path)
    write_atomic(target, page)
    return target


def render(plan: SizePlan, belief: Belief | None = None) -> str:
    """The page as HTML text."""
    import jinja2

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        _template("size_page.html")
    )
    from markupsafe import Markup

    # "<" in data would end the script element that carries it; JSON has another spelling for it.
    data = json.dumps(page_data(plan, belief), allow_nan=False).replace("<", "\\u003c")
    return template.render(
        css=Markup(_template("size_page.css")),
        engine=Markup(_template("size_engine.js")),
        script=Markup(_template("size_page.js")),
        data=Markup(data),
        text=plan_text(plan),
    )


def page_data(plan: SizePlan, belief: Belief | None = None) -> dict[str, Any]:
    """What the page is given: laws with their draws, the plan's state, other choices, notes."""
    request = plan.request
    own = [] if belief is None or belief.name in published_names() else [belief]
    device = hardware.device(request.budget.device or request.device)
    return {
        "laws": [law_data(one) for one in (*own, *map(published, published_names()))],
        "state": {
            "C": plan.final_flops,
            "T": request.serve_tokens,
            "U": request.unique_tokens,
            "eps": request.eps,
            "confidence": request.confidence,
            "inBudget": request.serve_in_budget,
            "law": plan.law.name,
            "x": None,
            "view": "excess",
        },
        "choices": [
            choice_data(one, plan.law.name, plan.final_flops)
            for one in plan.sensitivity
            if _recomputable(one)
        ],
        "hardware": {
            "device": device.name,
            "mfu": request.mfu,
            "flops_per_day": device.peak() * request.mfu * 86_400,
        },
        "reading": _reading(plan),
        "notes": [*plan.steps, *_shares(plan), *_forecasts(plan), *plan.unanswered, *_NOTES],
    }


def law_data(belief: Belief) -> dict[str, Any]:
    """A law with its draws as base64 of little-endian float32 [B, 5] in the order E, A, B, alpha, beta."""
    draws = None
    if belief.draws is not None:
        array = np.ascontiguousarray(to_array(belief.draws)[:MAX_DRAWS], dtype="<f4")
        draws = base64.b64encode(array.tobytes()).decode()
    return {
        "name": belief.name,
        "title": belief.title,
        "source": belief.source,
        "point": list(parameters_of(belief.law)),
        "draws": draws,
        "why_no_draws": belief.why_no_draws,
        "smallest_flops": belief.smallest_flops,
        "largest_flops": belief.largest_flops,
    }


def choice_data(choice: Choice, planned_law: str, flops: float) -> dict[str, Any]:
    """What the page needs to recompute one row of the sensitivity panel at another state."""
    return {
        "label": choice.choice,
        "group": choice.group,
        "law": choice.law,
        "point": list(choice.parameters) if choice.parameters else None,
        "budget_factor": choice.budget_factor,
        "rule": {"N": choice.N_opt, "C": flops, "exponent": choice.exponent} if choice.exponent else None,
        "only_law": planned_law
        if choice.group in _OF_ONE_LAW or (choice.exponent and not choice.law)
        else None,
        "needs": _NEEDS.get(choice.group),
    }


def _recomputable(choice: Choice) -> bool:
    """A row whose law the page does not hold cannot follow the sliders, and is left to the text and the JSON."""
    return choice.group != "estimator" or choice.parameters is not None


def _reading(plan: SizePlan) -> str:
    return (
        f"The page believes one law at a time: loss = E + A / N^alpha + B / D^beta for N parameters and D tokens, "
        f"with 6 N D FLOPs of training and 2 N for each served token. It was made with: {plan.law.source}. A refit "
        "is the same law fitted again to runs drawn at random from the same runs (a bootstrap)."
    )


_NOTES = (
    "The intervals say how well the law's numbers are known from its runs. They do not know whether the law "
    "itself holds beyond them, or for other data, architectures and recipes; the panel of other choices shows some "
    "of that.",
    "Worth, or compute kept: C_eq(loss) / C_eq(best loss), where C_eq is the budget at which an optimally sized "
    "model with fresh data reaches a loss.",
    "Repeated tokens lose value as measured by Muennighoff et al. 2023 (arXiv 2305.16264), whatever the law; that "
    "decay carries no interval here.",
    "Serving follows Sardana et al. 2024 (arXiv 2401.00448), who find that laws fitted at usual tokens per "
    "parameter overstate what far more tokens bring.",
)


def _shares(plan: SizePlan) -> list[str]:
    request = plan.request
    if request.pilot_share + request.search_share == 0:
        return []
    return [
        f"The budget on this page is what is left for the final run: pilots take {request.pilot_share:.0%} and the "
        f"hyperparameter search {request.search_share:.0%} of {plan.total_flops:.3g} FLOPs."
    ]


def _forecasts(plan: SizePlan) -> list[str]:
    return [forecast_words(one) for one in plan.sensitivity if one.group == "forecast"]


def _template(name: str) -> str:
    return resources.files("isoflop.plan").joinpath("templates", name).read_text(encoding="utf-8")
