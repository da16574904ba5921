"""How processes are started: torchrun on a machine, sbatch on a SLURM cluster. Text in, text out.

A job that comes to its time limit, is preempted, or loses a node is queued again and goes on from its last
checkpoint, until the run has its record. Nothing is started here, and torch is not needed.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from isoflop.records import MeshSpec

WORKER = "isoflop.train.distributed_worker"
NEW_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"
"""What makes torchrun open a new store at each restart (see `isoflop.dist.mesh.session`)."""


def torchrun_command(
    folder: Path,
    mesh: MeshSpec,
    *,
    num_nodes: int = 1,
    max_restarts: int = 0,
    rendezvous: str | None = None,
    python: str = sys.executable,
) -> list[str]:
    """The command that starts all ranks of one machine.

    Args:
        folder: the run's folder, with spec.json and launch.json.
        mesh: its devices are dealt equally over the nodes.
        num_nodes: machines; every one runs this command.
        max_restarts: how often the ranks are started again, together, when one of them ends badly.
        rendezvous: HOST:PORT of the first node; needed for more than one.
        python: interpreter.

    Raises ValueError when the mesh cannot be dealt over the nodes, or a tensor group would span two.
    """
    per_node = devices_per_node(mesh, num_nodes)
    if num_nodes > 1 and rendezvous is None:
        raise ValueError(f"{num_nodes} nodes need a rendezvous, HOST:PORT of the first one")
    where = ["--standalone"]
    if rendezvous is not None:
        where = [
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={rendezvous}",
            f"--rdzv-id={folder.name}",
        ]
    return [
        "env",
        NEW_STORE,
        python,
        "-m",
        "torch.distributed.run",
        f"--nnodes={num_nodes}",
        f"--nproc-per-node={per_node}",
        f"--max-restarts={max_restarts}",
        *where,
        "-m",
        WORKER,
        str(folder),
    ]


def devices_per_node(mesh: MeshSpec, num_nodes: int) -> int:
    """Devices of a mesh on each node. Raises ValueError when they cannot be dealt equally."""
    if num_nodes < 1 or mesh.num_devices % num_nodes:
        raise ValueError(
            f"the {mesh.num_devices} devices of {mesh.words} cannot be dealt equally over {num_nodes} nodes"
        )
    per_node = mesh.num_devices // num_nodes
    if per_node % mesh.tensor:
        raise ValueError(
            f"tensor groups of {mesh.tensor} do not fit nodes of {per_node} devices whole; take a tensor degree "
            f"that divides {per_node}: these ranks talk in every layer"
        )
    return per_node


def sbatch_script(
    folders: Path | tuple[Path, ...],
    mesh: MeshSpec,
    *,
    num_nodes: int,
    hours: float,
    job_name: str = "isoflop",
    partition: str | None = None,
    account: str | None = None,
    cpus_per_node: int | None = None,
    gpus: bool = True,
    max_restarts: int = 3,
    max_requeues: int = 100,
    max_fruitless: int = 5,
    warn_s: int = 600,
    setup: tuple[str, ...] = (),
    port: int = 29_500,
    python: str = "python",
    report: Path | None = None,
) -> str:
    """The batch file of a run: one job that queues itself again until the run has its record.

    - `warn_s` seconds before the time limit SLURM signals the batch shell, which puts a file named ``stop``
      into the run folder; all ranks then save together and leave, and the job is queued again.
    - The same file put there by a person makes them leave, too, and the job ends; submitting it again goes on.
    - A preempted job, or one that lost a node, is queued again by SLURM itself (--requeue).
    - A rank that dies takes the others with it, and all are started again up to `max_restarts` times; beyond
      that the job fails, and is queued again like the others, at most `max_requeues` times in all.
    - After `max_fruitless` jobs in a row that left no new checkpoint it gives up: a broken set-up must not
      take a whole partition a hundred times.

    Args:
        folders: the run's folder, on a file system that all nodes see; logs go there too. Of several, a chain of
            sessions, each job trains the first that has no record.
        mesh: its devices are dealt equally over the nodes.
        num_nodes: machines.
        hours: time limit of one job, above `warn_s` seconds.
        job_name, partition, account: as the cluster names them.
        cpus_per_node: processor cores to ask for; None leaves it to the cluster.
        gpus: ask for one GPU per rank; False for ranks on processors. Several nodes are asked for whole.
        max_restarts: see above.
        max_requeues: see above.
        max_fruitless: see above.
        warn_s: longer than a step and a checkpoint together.
        setup: shell lines that make `python` the right one, e.g. "source /path/venv/bin/activate".
        port: for the ranks' meeting on the first node; the job's number is added, so that two jobs there do not
            meet each other.
        python: interpreter.
        report: output folder whose run is judged and published at the end; None leaves that out.

    Raises ValueError when mesh, nodes and times do not fit together.
    """
    chain = folders if isinstance(folders, tuple) else (folders,)
    folder = chain[0]
    per_node = devices_per_node(mesh, num_nodes)
    minutes = round(hours * 60)
    if minutes * 60 <= warn_s:
        raise ValueError(f"a time limit of {hours:g} hours leaves nothing before the warning at {warn_s} s")
    command = torchrun_command(
        Path("FOLDER"),
        mesh,
        num_nodes=num_nodes,
        max_restarts=max_restarts,
        rendezvous="RENDEZVOUS",
        python=python,
    )
    started = shlex.join(command).replace("RENDEZVOUS", '"$first_node":"$port"')
    started = started.replace("--rdzv-id=FOLDER", '--rdzv-id="${folder##*/}"').replace("FOLDER", '"$folder"')
    # srun does not take it over from sbatch (SLURM 22.05 and newer).
    cores = "" if cpus_per_node is None else f"--cpus-per-task={cpus_per_node} "
    finish = [f"  {python} -m isoflop {verb} {shlex.quote(str(report))}" for verb in ("judge", "publish")]
    options = {
        "job-name": job_name,
        "partition": partition,
        "account": account,
        "nodes": num_nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": per_node if gpus else None,
        "cpus-per-task": cpus_per_node,
        "time": f"{minutes // 60:02d}:{minutes % 60:02d}:00",
        "signal": f"B:USR1@{warn_s}",
        "open-mode": "append",
        "output": f"{folder if report is None else report}/slurm-%j.log",
    }
    header = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
    return "\n".join(
        [
            "#!/bin/bash",
            *header,
            "#SBATCH --requeue",
            "#SBATCH --exclusive" if gpus and num_nodes > 1 else "",
            "",
            f"# {mesh.words} (replicate x shard x tensor) on {num_nodes} nodes of {per_node}.",
            "# Ends by itself when the run has its record; scancel ends it before.",
            *setup,
            "set -u  # not before: modules and activation scripts read variables that may not be set",
            "",
            f"folders=({' '.join(shlex.quote(str(one)) for one in chain)})",
            'for folder in "${folders[@]}"; do [ -e "$folder/record.json" ] || break; done',
            f"port=$(({port} + SLURM_JOB_ID % 1000))",
            'first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}",
            'rm -f "$folder/stop"',
            'newest() { ls -d "$folder"/checkpoint/step-* 2>/dev/null | tail -n 1; }',
            "before=$(newest)",
            "",
            "# Before the time limit: ask all ranks to save together and leave.",
            "time_is_up=",
            'ask_to_stop() { time_is_up=yes; touch "$folder/stop"; }',
            "trap ask_to_stop USR1",
            "",
            f"srun --kill-on-bad-exit=1 {cores}{started} &",
            "ranks=$!",
            "# A signal ends `wait`, not the ranks: wait until they are gone.",
            'while kill -0 "$ranks" 2>/dev/null; do wait "$ranks"; done',
            "",
            "# Jobs in a row that brought nothing, one line each.",
            'if [ -e "$folder/record.json" ] || [ "$(newest)" != "$before" ]; then rm -f "$folder/fruitless"',
            'else echo "$SLURM_JOB_ID" >> "$folder/fruitless"; fi',
            "",
            'if [ -e "$folder/record.json" ] && [ "$folder" = "${folders[-1]}" ]; then',
            '  echo "the run has ended; see $folder/record.json"',
            *(finish if report is not None else ()),
            'elif [ -e "$folder/stop" ] && [ -z "$time_is_up" ] && [ ! -e "$folder/record.json" ]; then',
            '  echo "stopped as $folder/stop asks; sbatch this file again to go on"',
            f'elif [ -e "$folder/fruitless" ] && [ "$(wc -l < "$folder/fruitless")" -ge {max_fruitless} ]; then',
            f'  echo "{max_fruitless} jobs in a row made no checkpoint: see the log, mend, and sbatch again" >&2',
            '  rm "$folder/fruitless"',
            "  exit 1",
            f'elif [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_requeues} ]; then',
            '  scontrol requeue "$SLURM_JOB_ID"',
            "else",
            f'  echo "not finished after {max_requeues} restarts; see the logs in $folder" >&2',
            "  exit 1",
            "fi",
            "",
        ]
    ).replace("\n\n\n", "\n\n")
