"""The verbs on a recipe: train it here, write the job that trains it elsewhere, judge what came out.

    recipe -> (plan, text, weights, memory: all checked) -> OUT/plan.json, OUT/recipe.json, OUT/runs/*/launch.json
           -> training, here or by a launcher -> verdict.json -> report.html

Every call can be made again: what is done is not done again, what was cut goes on. As in `isoflop.verbs`,
rooms are imported when they are needed, and nothing scientific happens here.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from isoflop.provenance import current
from isoflop.records import (
    Benchmark,
    Evidence,
    MeshSpec,
    Plan,
    Recipe,
    RunEvidence,
    RunRecord,
    RunSpec,
    Table,
    Verdict,
    read,
)
from isoflop.refs import function_ref
from isoflop.store import RunFolder, Store, StoreError, write_atomic
from isoflop.verbs import RequestError, Say, quiet

RECIPE, MIXTURE, LEFT_OUT = "recipe.json", "mixture.json", "left_out.json"
JOB, DATA = "job.sbatch", "data"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the caller of `isoflop train RECIPE` asks for.

    Attributes:
        recipe: folder or file of the recipe.
        out: output folder.
        variant, scale: as the recipe knows them.
        data: folder of token shards; None is OUT/data for text that is at hand, "data" for other text.
        weights: folder of Hugging Face weights to start from.
        mesh, num_nodes: another placement than the recipe's.
        num_steps: fewer updates than the recipe's, for a trial; another run.
        skip_damaged: take damaged shards out of their index, on record.
        benchmarks: tasks to score besides the recipe's.
        score_with: what makes the function that scores them (see `isoflop.train.distributed_worker.Launch`);
            None scores no benchmark.
        rerun: the command that does it again, for the report.
    """

    recipe: Path
    out: Path
    variant: str | None = None
    scale: str = "full"
    data: Path | None = None
    weights: Path | None = None
    mesh: MeshSpec | None = None
    num_nodes: int | None = None
    num_steps: int | None = None
    skip_damaged: bool = False
    benchmarks: tuple[Benchmark, ...] = ()
    score_with: str | None = "isoflop.measure.recipe_benchmarks:recipe_scorer"
    rerun: str = ""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A recipe whose run can start: everything is checked, and written into its folder.

    Attributes:
        recipe: with the placement that was asked for.
        plan: as in OUT/plan.json.
        store: OUT.
        folders: of the runs, in order; one, or a chain of sessions.
    """

    recipe: Recipe
    plan: Plan
    store: Store
    folders: tuple[RunFolder, ...]

    @property
    def finished(self) -> bool:
        return all(folder.finished for folder in self.folders)


@dataclass(frozen=True, kw_only=True)
class RecipeRun:
    """What `train_recipe` answers.

    Attributes:
        verdict: of the finished run.
        store: the output folder.
        report: path of the report.
        weights: the folder of the weights that came out, in Hugging Face's format; None for a run that diverged.
        seconds: wall time of this call.
        was_done: nothing had to be trained.
    """

    verdict: Verdict
    store: Store
    report: Path
    weights: Path | None
    seconds: float
    was_done: bool


# ----------------------------------------------------------------------------- before the first step


def prepare_recipe(request: Request, *, here: bool = True, say: Say = quiet) -> Ready:
    """Check all that a run needs, and write what it is to do; nothing is trained.

    Args:
        request: what is wanted.
        here: the run will be trained on this machine, so its device and memory are looked at.
        say: receives a line for each slow step.

    Raises, before any compute is spent:
        RecipeError, ValueError: no such recipe, variant or scale, or one that contradicts itself.
        RequestError: it does not fit its devices, weights are missing, the folder holds another run.
        RecipeRunError, WeightsError, DataError: as `isoflop.train.recipe_run` says.
    """
    from isoflop.plan import recipe as recipes
    from isoflop.plan.training_run import plan_run

    recipe = recipes.load_recipe(request.recipe, request.variant, request.scale)
    recipe = recipes.placed(recipe, request.mesh, request.num_nodes)
    recipe = msgspec.structs.replace(recipe, benchmarks=(*recipe.benchmarks, *request.benchmarks))
    if recipe.benchmarks and request.score_with:
        from isoflop.measure.harness_tasks import require_harness

        require_harness()
    if request.num_steps is not None and not 1 <= request.num_steps <= recipe.num_steps:
        raise RequestError(f"--steps {request.num_steps}: this recipe has 1 to {recipe.num_steps:,}")
    made = plan_run(recipe)
    _check_mesh(recipe)
    if made.fits is False:
        raise RequestError(f"too little memory: {made.warnings[0]}")
    from isoflop.train import recipe_run

    if here:
        recipe_run.check_device(recipe.placement, made.bytes_per_device)
    start_weights = _start_weights(request, recipe)
    data = _data_folder(request, recipe)
    opened = recipe_run.open_text(
        recipe, data, weights=request.weights, skip_damaged=request.skip_damaged, say=say
    )
    specs = recipes.session_specs(
        recipe,
        opened.data,
        recipes.steps_per_session(recipe, made),
        num_steps=request.num_steps,
        start_weights=start_weights,
        most_windows=recipe_run.held_out_windows(opened.corpora[0], recipe.context),
    )
    plan = recipes.plan_of(recipe, specs, made, rerun=request.rerun, provenance=current())
    store = Store(request.out)
    with store.lock():
        plan = _write_plan(store, plan, recipe)
        _write_mixture(store, recipe, opened, specs)
        folders = _write_launches(store, request, recipe, specs, opened.names)
    return Ready(recipe=recipe, plan=plan, store=store, folders=folders)


def _start_weights(request: Request, recipe: Recipe) -> str | None:
    """Name of the weights in the run's identity; checked, and refused when the recipe needs some and has none."""
    if request.weights is not None:
        from isoflop.train.recipe_run import check_weights

        return check_weights(request.weights, recipe)
    if recipe.start_from is None:
        return None
    raise RequestError(
        f"{recipe.name} at scale {recipe.scale} continues from {recipe.start_from}: give its folder with --weights "
        f"(`huggingface-cli download {recipe.start_from} --local-dir FOLDER`)"
    )


def _data_folder(request: Request, recipe: Recipe) -> Path:
    if request.data is not None:
        return request.data
    at_hand = all(source.where.startswith("stdlib") for source in recipe.mixture.sources)
    if at_hand:
        return request.out / DATA
    return Path(DATA).resolve() if request.out.is_absolute() else Path(DATA)


def _check_mesh(recipe: Recipe) -> None:
    """What the ranks would refuse when they start, said before."""
    from isoflop.dist.mesh import check_fit
    from isoflop.model.sharding import sharding_plan

    placement = recipe.placement
    check_fit(
        placement.mesh,
        recipe.net,
        sharding_plan(recipe.net).divisible,
        context=recipe.context,
        batch_seqs=recipe.batch_seqs,
    )


def _write_plan(store: Store, plan: Plan, recipe: Recipe) -> Plan:
    """Write plan.json and recipe.json; a folder with the same runs keeps its plan, but for the placement."""
    if store.plan_path.exists():
        present = store.read_plan()
        if [run.fingerprint for run in present.runs] != [run.fingerprint for run in plan.runs]:
            raise RequestError(
                f"{store.root} holds another run ({present.study}, {present.options.get('variant')}, "
                f"{present.options.get('scale')}; or other text, weights or steps); choose another --out"
            )
        plan = msgspec.structs.replace(present, options=plan.options)
    store.write(store.plan_path, plan)
    store.write(store.root / RECIPE, recipe)
    return plan


def _write_mixture(store: Store, recipe: Recipe, opened: Any, specs: tuple[RunSpec, ...]) -> None:
    from isoflop.data.mixture import account
    from isoflop.plan.mixture_account import left_out_table, reading_table

    samples = specs[-1].num_steps * recipe.batch_seqs
    store.write(store.root / MIXTURE, reading_table(recipe.mixture, account(opened, samples)))
    skipped = {name: corpus.record.skipped for name, corpus in zip(opened.names, opened.corpora, strict=True)}
    store.write(store.root / LEFT_OUT, left_out_table(skipped))


def _write_launches(
    store: Store, request: Request, recipe: Recipe, specs: tuple[RunSpec, ...], names: tuple[str, ...]
) -> tuple[RunFolder, ...]:
    """Each run's spec.json and launch.json; a session's parent is the one before it."""
    from isoflop.train.distributed_worker import STOP, Launch, write_launch

    folders = tuple(store.run(spec) for spec in specs)
    for number, (spec, folder) in enumerate(zip(specs, folders, strict=True)):
        folder.create(spec)
        (folder.path / STOP).unlink(missing_ok=True)
        launch = Launch(
            placement=recipe.placement,
            start_from=str(request.weights) if request.weights is not None and number == 0 else None,
            parent=str(folders[number - 1].path) if number else None,
            checkpoint_every_steps=recipe.operations.checkpoint_every_steps,
            checkpoint_every_s=600.0 if recipe.placement.device != "cpu" else 10.0,
            source_names=names,
            benchmarks=recipe.benchmarks if request.score_with else (),
            score_with=function_ref(request.score_with) if request.score_with and recipe.benchmarks else None,
        )
        write_launch(folder, launch)
    return folders


# -------------------------------------------------------------------------------------- train here


def train_recipe(
    request: Request,
    *,
    say: Say = quiet,
    on_ready: Callable[[Ready], None] | None = None,
    on_progress: Callable[[Any], None] | None = None,
    by_torchrun: bool = False,
) -> RecipeRun:
    """Train a recipe on this machine, judge it and write its report; goes on where a former call stopped.

    One device is trained in this process, several by torchrun.

    Args:
        request: what is wanted.
        say: receives a line for each slow step.
        on_ready: receives what will be done before anything is spent.
        on_progress: receives `isoflop.train.loop.Progress` at each row of metrics (of one process).
        by_torchrun: start even a single device with torchrun.

    Raises:
        KeyboardInterrupt: it was asked to stop (Ctrl-C, a signal, the stop file); the state is saved.
        RequestError, and what `prepare_recipe` raises.
    """
    started = time.monotonic()
    # Threads that spin while they wait would take the cores from each other on a machine that does other work too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    ready = prepare_recipe(request, say=say)
    if on_ready is not None:
        on_ready(ready)
    was_done = ready.finished
    with ready.store.lock():
        for folder in ready.folders:
            if folder.finished:
                continue
            record = _train_one(ready, folder, on_progress, by_torchrun)
            if record.status != "finished":
                break  # a chain cannot go on; the report says what happened
        verdict, report = finish_recipe(ready.store, again=not was_done, say=say)
    weights = ready.folders[-1].checkpoints / "final"
    return RecipeRun(
        verdict=verdict,
        store=ready.store,
        report=report,
        weights=weights if weights.is_dir() else None,
        seconds=time.monotonic() - started,
        was_done=was_done,
    )


def _train_one(
    ready: Ready, folder: RunFolder, on_progress: Callable[[Any], None] | None, by_torchrun: bool
) -> RunRecord:
    if ready.recipe.placement.num_nodes > 1:
        raise RequestError(
            f"{ready.recipe.placement.num_nodes} nodes cannot be trained from here: write the job with --launch "
            "slurm, or the command for each node with --launch torchrun"
        )
    if ready.recipe.placement.num_devices == 1 and not by_torchrun:
        from isoflop.train.distributed_worker import train_folder

        record = train_folder(folder.path, on_progress=on_progress)
        if record is None:
            raise KeyboardInterrupt
        return record
    command = torchrun_commands(ready)[ready.folders.index(folder)]
    code = _run_ranks(command, folder)
    if folder.finished:
        return folder.read_record()
    if code == 0:
        raise KeyboardInterrupt
    raise RequestError(
        f"the ranks ended with code {code}; their messages are above, and the same command goes on"
    )


def _run_ranks(command: list[str], folder: RunFolder) -> int:
    """Start the ranks and wait for them; Ctrl-C and SIGTERM ask them by the stop file to save together and leave.

    They form a session of their own: a terminal's Ctrl-C would otherwise reach each of them twice, once through
    torchrun, and end them in the middle of saving.
    """
    from isoflop.train.distributed_worker import STOP

    process = subprocess.Popen(command, start_new_session=True)
    asked = (signal.SIGINT, signal.SIGTERM)
    before = {
        number: signal.signal(number, lambda number, frame: (folder.path / STOP).touch()) for number in asked
    }
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def torchrun_commands(ready: Ready) -> tuple[list[str], ...]:
    """The command of each run, for every node of it; ``RENDEZVOUS`` stands for HOST:PORT of the first."""
    from isoflop.dist.launch import torchrun_command

    placement = ready.recipe.placement
    return tuple(
        torchrun_command(
            folder.path,
            placement.mesh,
            num_nodes=placement.num_nodes,
            rendezvous="RENDEZVOUS" if placement.num_nodes > 1 else None,
        )
        for folder in ready.folders
    )


# -------------------------------------------------------------------------------- train elsewhere


def write_job(
    request: Request,
    *,
    account: str | None = None,
    partition: str | None = None,
    setup: tuple[str, ...] = (),
    hours: float | None = None,
    cpus_per_node: int | None = None,
    max_restarts: int = 3,
    python: str = "python",
    say: Say = quiet,
) -> tuple[Ready, Path]:
    """Write OUT/job.sbatch, one batch file that trains the recipe to its end; nothing is started.

    Args:
        request: what is wanted.
        account, partition, setup, cpus_per_node, max_restarts, python: as `isoflop.dist.launch.sbatch_script`.
        hours: time limit of one job; the recipe's longest session by default.
        say: receives a line for each slow step.
    """
    from isoflop.dist.launch import sbatch_script

    request = absolute_paths(request)
    ready = prepare_recipe(request, here=False, say=say)
    placement = ready.recipe.placement
    text = sbatch_script(
        tuple(folder.path for folder in ready.folders),
        placement.mesh,
        num_nodes=placement.num_nodes,
        hours=hours or ready.recipe.operations.session_hours,
        job_name=ready.recipe.name,
        partition=partition,
        account=account,
        cpus_per_node=cpus_per_node,
        gpus=placement.device != "cpu",
        max_restarts=max_restarts,
        setup=setup,
        python=python,
        report=ready.store.root,
    )
    path = ready.store.root / JOB
    write_atomic(path, text)
    return ready, path


def absolute_paths(request: Request) -> Request:
    """The same with absolute paths: a job starts in a folder of its own."""
    return dataclasses.replace(
        request,
        out=request.out.resolve(),
        weights=request.weights and request.weights.resolve(),
        data=request.data and request.data.resolve(),
    )


# ------------------------------------------------------------------------------- judge and publish


def is_recipe_store(out: Path | str) -> bool:
    """True for an output folder that holds a recipe's run."""
    return (Path(out) / RECIPE).is_file()


def finish_recipe(store: Store, *, again: bool = True, say: Say = quiet) -> tuple[Verdict, Path]:
    """Judge a recipe's run and write its report; with `again` False, only when they are not there yet."""
    from isoflop.publish import publish

    if not again and store.verdict_path.exists() and store.report_path.exists():
        return store.read_verdict(), store.report_path
    say("judging, and writing the report ...")
    verdict = judge_recipe(store)
    report: Path = publish(store).report
    return verdict, report


def judge_recipe(out: Store | Path | str) -> Verdict:
    """Judge a recipe's run by the rule in its plan, and write verdict.json.

    Raises TrainingRunError when it has not ended.
    """
    from isoflop.flops.ledger import cost_of
    from isoflop.judge.training_run import judge_training_run

    store = out if isinstance(out, Store) else Store(out)
    plan = store.read_plan()
    evidence = Evidence(plan=plan, runs=tuple(_evidence_of(store.run(run.spec)) for run in plan.runs))
    verdict = judge_training_run(evidence, tables=_tables_of(store, plan))
    records = [run.record for run in evidence.runs if run.record is not None]
    verdict = msgspec.structs.replace(verdict, cost=cost_of(records, plan), provenance=current())
    store.write(store.verdict_path, verdict)
    return verdict


def _tables_of(store: Store, plan: Plan) -> tuple[Table, ...]:
    """What is shown beside the verdict: what is read of each source, and the benchmark scores."""
    written = [store.root / name for name in (MIXTURE, LEFT_OUT)]
    tables = tuple(read(path, Table) for path in written if path.exists())
    folders = [store.run(run.spec) for run in plan.runs]
    if not any((folder.path / "benchmarks.jsonl").exists() for folder in folders):
        return tables
    from isoflop.measure.benchmarks import read_scores
    from isoflop.measure.recipe_benchmarks import benchmark_table

    return (*tables, benchmark_table([score for folder in folders for score in read_scores(folder)]))


def _evidence_of(folder: RunFolder) -> RunEvidence:
    if not folder.spec_path.exists():
        raise StoreError(f"{folder.path} is gone; train the recipe again")
    return RunEvidence(
        spec=folder.read_spec(),
        record=folder.read_record() if folder.finished else None,
        measurements=tuple(folder.read_measurements()),
        metrics=tuple(folder.read_metrics()),
        source_scores=tuple(folder.read_source_scores()),
    )
