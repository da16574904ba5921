"""The claims that studies are about: one typed row per id, and the page docs/claims.md made from them.

A study names its claims by id; this file says in our own words what each id states, which rooms of the
package a test of it needs, and which study tests it. The state of a claim is never written down: it is
read from what is there (a study file, a verdict in results/), so the page cannot promise more than was
done. Left out: evidence and numbers, which live in each study and its verdict.

``python -m isoflop.studies.claims`` writes docs/claims.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from isoflop import records

State = Literal["planned", "ready", "studied", "opinion"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim and where its test lives."""

    id: str
    """P<post>.<number>, or P<post> where a post makes one claim."""
    statement: str
    """What is claimed, asked for or predicted, in one or two plain sentences."""
    rooms: tuple[str, ...]
    """Rooms of the package that a test needs beyond records, store and publish."""
    study: str | None = None
    """Name of the file in isoflop/studies that tests it; None while nobody has written one."""
    testable: bool = True
    """False for an opinion or a forecast that no run could decide."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is there for a claim today."""

    state: State
    verdict: str
    """Outcome and sentence of the latest verdict; empty without one."""


def _claim(id: str, statement: str, rooms: str, study: str | None = None, *, testable: bool = True) -> Claim:
    return Claim(id=id, statement=statement, rooms=tuple(rooms.split()), study=study, testable=testable)


CLAIMS: tuple[Claim, ...] = (
    _claim(
        "P1.1",
        "Coding is a small part of a research project and compute is the bottleneck, so faster coding "
        "speeds up research by little. A group with a fixed allocation cannot become many times more "
        "productive.",
        "laws judge",
        "bottleneck",
    ),
    _claim(
        "P1.2",
        "Even where reward is unambiguous, such as the run time of a GPU kernel, machine-found solutions "
        "beat the best human ones by less than a fifth.",
        "judge",
        "machine_found_gains",
    ),
    _claim(
        "P2.1",
        "In continued pretraining the re-warmed peak learning rate trades learning the new data against "
        "forgetting the old, with a sweet spot between no movement and a jump in loss.",
        "data model train fit",
        "rewarming",
    ),
    _claim(
        "P2.2",
        "Four benchmark scores of a base model did not change after 809 billion further tokens.",
        "judge",
        "eval_difference",
    ),
    _claim(
        "P2.3",
        "A long training run can be planned from model size, tokens, devices and measured speed; the wall- "
        "clock time of a shared cluster is several times what a short benchmark promises.",
        "flops plan",
        "run_planner",
    ),
    _claim(
        "P2.4",
        "Mixture weights stated in rows are not weights in tokens, so sources are repeated more or less "
        "often than their weights suggest.",
        "data plan fit",
        "mixture_accounting",
    ),
    _claim(
        "P2.5",
        "Very large batches together with several epochs may use a big machine well; it has hardly been "
        "tried.",
        "data train fit",
    ),
    _claim(
        "P2.6",
        "Resuming a run by skipping ahead in the data stream may repeat some training rows and omit others.",
        "data train",
        "loader_audit",
    ),
    _claim(
        "P3.1",
        "Feedback on a learner's own utterances is worth more than the same amount of passive input, "
        "because it holds corrections and fits what the learner can already do.",
        "data train subject fit",
    ),
    _claim(
        "P3.2",
        "Adults learn a second language less well because they get poorer feedback, not because they are "
        "less plastic.",
        "data train fit",
    ),
    _claim(
        "P3.3",
        "A learner that judges its own practice utterances with what it already knows can improve from them.",
        "train subject fit",
    ),
    _claim(
        "P4.1",
        "Skip connections, normalisation and expert layers keep the activations of a deep net from "
        "collapsing onto few directions, and training makes nets more degenerate than they started.",
        "model train measure fit",
    ),
    _claim(
        "P4.2",
        "A layer of several gated experts has a better conditioned Jacobian at initialisation than one "
        "dense layer.",
        "model measure",
    ),
    _claim(
        "P4.3",
        "Making the activity of an over-trained net temporarily more random helps it to leave its habits "
        "and learn something new.",
        "train measure fit",
    ),
    _claim(
        "P5.1",
        "At the compute of the largest open models, the loss hardly changes over a factor of ten in size on "
        "either side of the optimum, and the optimum itself is uncertain by nearly a factor of ten.",
        "fit judge",
        "flatness_published",
    ),
    _claim(
        "P5.2",
        "The range of sizes that loses at most one per cent is wide, and widens as compute grows.",
        "fit judge",
        "flatness_published",
    ),
    _claim(
        "P5.3",
        "Curves of loss against size at equal compute are nearly flat around their minimum: a wrong size by "
        "a factor of a few costs almost nothing.",
        "data model train flops plan fit judge",
        "flatness",
    ),
    _claim(
        "P5.4",
        "Once the compute of serving a model, and of the experiments before it, is counted, smaller models "
        "trained longer are strongly favoured.",
        "laws plan",
        "lifetime_size",
    ),
    _claim(
        "P5.5",
        "Repeating data for a few epochs is as good as fresh data, and any practical number of epochs is "
        "only slightly worse.",
        "data train laws fit",
        "epochs_published",
    ),
    _claim(
        "P5.6",
        "The compute of the largest model would be better spent on training the smallest one much longer.",
        "laws plan",
        "small_model",
    ),
    _claim(
        "P6.1",
        "A generative video model recognises physically impossible scenes better than it generates possible "
        "ones, so recognition is the more sensitive test of its physics.",
        "data train subject measure fit",
    ),
    _claim(
        "P6.2",
        "Objects that merge, split or vanish in generated video come from too coarse a grid of tokens.",
        "data train measure fit",
    ),
    _claim(
        "P6.3",
        "Some of the physical errors of video models come from cartoons and computer graphics in their "
        "training data.",
        "data train measure fit",
    ),
    _claim(
        "P6.4",
        "People's own intuitive physics is mostly recognition and is far from perfect.",
        "",
        testable=False,
    ),
    _claim(
        "P7.1",
        "What a trained net represents is fixed by its data much more than by its architecture or objective.",
        "model train measure fit",
    ),
    _claim(
        "P7.2",
        "Nets converge to the same representation only when the data constrain them enough and the "
        "optimiser is good enough.",
        "model train measure fit",
    ),
    _claim(
        "P7.3",
        "Convergence of trained nets resembles convergent evolution, with history as a side issue.",
        "",
        testable=False,
    ),
    _claim(
        "P8.1",
        "Fine distinctions between images are impossible below some resolution and easy, by simple means, "
        "above it.",
        "data model train fit",
    ),
    _claim(
        "P8.2",
        "Shallow search cannot beat a strong player however good the rest is; deeper search with the same "
        "simple method can.",
        "fit",
    ),
    _claim(
        "P8.3",
        "An hour of video and a long novel both come to a few million tokens, about what contexts of the "
        "near future can hold, while the eye samples a scene about a hundred times finer than models do.",
        "flops judge",
        "token_budget",
    ),
    _claim(
        "P8.4",
        "With the same number of latent numbers per image, many small patches reconstruct and recognise "
        "better than few large ones.",
        "model train fit",
    ),
    _claim(
        "P8.5",
        "Coherent long video, novels and large programs follow once contexts of one to four million tokens "
        "are practical.",
        "judge",
        "predictions",
    ),
    _claim(
        "P9.1",
        "Generative models invent most where the source is least redundant, and less the more context they "
        "are given.",
        "data train subject fit",
    ),
    _claim(
        "P9.2",
        "The more a model knows, the longer the context it needs to retrieve one particular item.",
        "data train subject fit",
    ),
    _claim(
        "P9.3",
        "A prefix on the topic that does not contain the answer makes a model recall facts that it "
        "otherwise misses.",
        "subject fit",
    ),
    _claim(
        "P9.4",
        "A wrong answer can be a failure to store or a failure to retrieve; a model should decline only in "
        "the first case.",
        "train subject measure fit",
    ),
    _claim(
        "P10.1",
        "A chat model of 2023 made factual errors about each of a set of well-known literary works.",
        "subject judge",
    ),
    _claim(
        "P10.2",
        "Multiple-choice tests overstate how factual a model is, because recognising is easier than "
        "recalling.",
        "subject measure judge",
    ),
    _claim(
        "P10.3",
        "On a benchmark of common misconceptions the best model of its time was only modestly above chance, "
        "and base models were below it.",
        "judge",
    ),
    _claim(
        "P10.4",
        "Models confabulate because each fact is seen too rarely; more memorisation would help.",
        "train measure fit",
    ),
    _claim(
        "P10.5",
        "False memories may be as unavoidable as the spurious attractors of an associative memory, so how "
        "common they are is the question to ask.",
        "model measure fit",
    ),
    _claim(
        "P10.6",
        "It is not known whether models with search can find, read and combine sources well.",
        "subject judge",
    ),
    _claim(
        "P11.1",
        "At equal FLOPs it does not matter how many parameters an image model has or how they are shared, "
        "not even when the sharing is random.",
        "model train flops fit",
    ),
    _claim(
        "P11.2",
        "The FLOPs of plain multilayer perceptrons are less redundant than those of other image models, so "
        "they catch up at a tenth of the compute.",
        "model train flops fit",
    ),
    _claim(
        "P12.1",
        "Weight sharing and locality are separate biases of a convolution, and it is unclear which of the "
        "two matters more.",
        "model train fit",
    ),
    _claim(
        "P12.2",
        "With enough training images a plain multilayer perceptron would catch up with architectures that "
        "know about images.",
        "model train fit",
    ),
    _claim(
        "P12.3",
        "Two hidden layers may be enough if they are made wide enough.",
        "model train fit",
    ),
    _claim(
        "P12.4",
        "Letting every position choose among a few shared modules is a useful middle between sharing "
        "everything and sharing nothing.",
        "model train fit",
    ),
    _claim(
        "P13",
        "Work should be published plainly, with data and code, open to correction at any time, and reviewed "
        "in public afterwards. This package's reports follow it; nothing is tested.",
        "publish",
        testable=False,
    ),
    _claim(
        "P14.1",
        "Given the same labels and compute, supervised finetuning on the preferred answers would do as well "
        "as reinforcement learning from human feedback.",
        "train subject judge",
    ),
    _claim(
        "P14.2",
        "What helps in preference tuning is an ingredient such as fresh samples or negative examples, "
        "rather than reinforcement learning as such.",
        "train subject judge",
    ),
    _claim(
        "P15.1",
        "Self-supervised pretraining makes all but about one in a hundred labels unnecessary.",
        "model train fit",
    ),
    _claim(
        "P15.2",
        "After self-supervised learning a new word or category can be learned from very few examples "
        "without a special bias.",
        "model train fit",
    ),
    _claim(
        "P15.3",
        "A small amount of supervision is enough to make a model follow intent, and it carries over to "
        "domains and languages without any.",
        "train subject fit",
    ),
    _claim(
        "P15.4",
        "Unlabelled data teach more per sample than labels or rewards because they hold more bits; the bits "
        "may however not be comparable.",
        "data train measure fit",
    ),
    _claim(
        "P16.1",
        "There is a cost-effective mix of pretraining, supervised finetuning and reinforcement learning, "
        "and nobody has published it.",
        "train plan fit",
    ),
    _claim(
        "P16.2",
        "It is not known which kind of finetuning data (explanations, demonstrations, dialogue) helps most "
        "for the same number of tokens.",
        "data train fit",
    ),
    _claim(
        "P16.3",
        "Chat tuning may be a thin mask: easy to undo, and several conflicting ones may fit on one model.",
        "train subject measure fit",
    ),
    _claim(
        "P16.4",
        "When test items are in the training data a model can still be useful, but scores stop telling a "
        "model from a look-up table.",
        "train measure fit",
    ),
    _claim(
        "P17.1",
        "A small model trained with the compute of a large one would have matched or passed it.",
        "laws fit judge",
        "backtest",
    ),
    _claim(
        "P18.1",
        "A chat model's ethical choices change with framing, order and irrelevant wording.",
        "subject judge",
    ),
    _claim(
        "P18.2",
        "A good partner in argument changes its view with the strength of the argument; chat models do not.",
        "subject judge",
    ),
    _claim("P18.3", "Chat models answer in formulas.", "subject measure"),
    _claim(
        "P18.4",
        "It is an open question what the conversational counterpart of self-play is.",
        "train subject",
    ),
    _claim(
        "P19.1",
        "Extrapolated to human accuracy, present self-supervised methods would need vastly more than a "
        "human lifetime of video.",
        "fit judge",
        "sample_efficiency",
    ),
    _claim(
        "P19.2",
        "Raising data, model size and resolution together may reach human-level object recognition with "
        "about a human's amount of experience.",
        "fit judge",
        "joint_scaling",
    ),
    _claim(
        "P19.3",
        "Vision transformers took their shape from language models; wider and shallower ones would do "
        "better.",
        "model train fit",
    ),
    _claim(
        "P19.4",
        "Attention over triples of tokens instead of pairs may learn relations from fewer examples.",
        "model train fit",
    ),
    _claim(
        "P19.5",
        "Larger crops or a fovea may help self-supervised learning from head-mounted cameras.",
        "data train",
    ),
    _claim(
        "P19.6",
        "The forecast of sample efficiency is to be checked again after about a year.",
        "judge",
        "predictions",
    ),
    _claim(
        "P20.1",
        "Progress can come from many tiny improvements that multiply, rather than from a few big ones.",
        "judge",
        "incremental",
    ),
    _claim(
        "P20.2",
        "Small improvements from different papers add up when they are combined.",
        "train plan judge",
    ),
    _claim(
        "P21.1",
        "The older scaling law favoured large models because learning-rate schedule and other settings were "
        "not tuned for each size; tuning them all would shift the optimum to smaller models still.",
        "train laws fit judge",
    ),
    _claim(
        "P21.2",
        "The best size as a function of compute bends on a log-log plot.",
        "fit judge",
        "optimum_bend",
    ),
    _claim(
        "P21.3",
        "A model of about ten billion parameters trained seven times longer would equal one of seventy "
        "billion.",
        "laws judge",
        "small_model",
    ),
    _claim(
        "P22.1",
        "Many reports of abilities that emerge suddenly with scale rest on a logarithmic axis, few points "
        "and no comparison with simpler curves.",
        "fit judge",
        "emergence",
    ),
    _claim(
        "P23.1",
        "Scaling a recurrent net does not give what scaling a transformer gives: architecture sets the "
        "slope, so better ones are still to be found.",
        "model train fit",
    ),
    _claim(
        "P23.2",
        "Better algorithms have cut the compute for a given result by large and steady factors, comparable "
        "with those from better hardware.",
        "judge",
        "algorithmic_progress",
    ),
    _claim(
        "P24.1",
        "Image models need about ten exposures to recognise what people recognise after one, and are at "
        "chance after one.",
        "data train subject fit judge",
        "recognition_memory",
    ),
    _claim(
        "P24.2",
        "Language models recognise a sentence after one exposure and recall it after about three; recall "
        "fades quickly and recognition lasts.",
        "data train subject fit",
    ),
    _claim(
        "P24.3",
        "An external memory gives recognition after one exposure but does not fit present hardware.",
        "subject measure fit",
    ),
    _claim(
        "P24.4",
        "How much data or size would bring one-exposure recognition to the human level can be estimated "
        "from the trend.",
        "fit judge",
        "recognition_memory",
    ),
    _claim(
        "P25.1",
        "Search for novelty seldom beats search with a good objective: rich worlds, parallel search and "
        "constraints do the work.",
        "fit",
    ),
    _claim(
        "P25.2",
        "A single objective already passes through stages, so stepping stones need no separate search.",
        "model train fit",
    ),
    _claim(
        "P26",
        "The dated predictions of all posts, each with a test that would decide it and what is known today.",
        "judge",
        "predictions",
    ),
)

_HEAD = """# Claims

Every study names the claims that it tests by these ids. This page is generated: edit
`src/isoflop/studies/claims.py` and run `python -m isoflop.studies.claims`.

States: *planned* (no study yet), *ready* (a study is here, no verdict stored), *studied* (a verdict is in
`results/`), *opinion* (nothing a run could decide).

| id | claim, in our words | rooms | state | study | latest verdict |
|---|---|---|---|---|---|
"""


def read_status(claim: Claim, results: Path) -> Status:
    """What is there for a claim: a study file, and a verdict in ``results/<study>/verdict.json``.

    Args:
        claim: the claim.
        results: folder of stored results; it may be missing.

    Raises:
        RecordError: the verdict file is not a verdict.
    """
    if not claim.testable:
        return Status(state="opinion", verdict="")
    if claim.study is None:
        return Status(state="planned", verdict="")
    path = results / claim.study / "verdict.json"
    if path.exists():
        verdict = records.read(path, records.Verdict)
        return Status(state="studied", verdict=f"{verdict.outcome}: {verdict.sentence}")
    here = (Path(__file__).parent / f"{claim.study}.py").exists()
    return Status(state="ready" if here else "planned", verdict="")


def render(results: Path | None = None) -> str:
    """The text of docs/claims.md.

    Args:
        results: folder of stored results; by default the checkout's ``results/``.
    """
    folder = _checkout() / "results" if results is None else results
    return _HEAD + "".join(_row(claim, read_status(claim, folder)) for claim in CLAIMS)


def _row(claim: Claim, status: Status) -> str:
    study = f"`{claim.study}`" if claim.study and status.state != "planned" else ""
    cells = (claim.id, claim.statement, " ".join(claim.rooms), status.state, study, status.verdict)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


def _checkout() -> Path:
    return Path(__file__).resolve().parents[3]


def main() -> None:
    """Write docs/claims.md of the checkout that this file lies in."""
    root = _checkout()
    if not (root / "pyproject.toml").exists():
        raise SystemExit(f"{root} is not a checkout of isoflop; docs/claims.md is made from one")
    path = root / "docs" / "claims.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(render(), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
