"""The texts that start a run, and that a shell understands them."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from isoflop.dist.launch import devices_per_node, sbatch_script, torchrun_command
from isoflop.records import MeshSpec

REAL = MeshSpec(replicate=2, shard=32, tensor=8)
FOLDER = Path("/scratch/my runs/blue-1a2b3c4d")


def script(**changes: object) -> str:
    options: dict[str, object] = {"num_nodes": 64, "hours": 24.0}
    return sbatch_script(FOLDER, REAL, **{**options, **changes})  # type: ignore[arg-type]


def header_of(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_the_real_run_asks_for_64_nodes_of_8() -> None:
    header = header_of(script(job_name="llama", partition="extended", account="abc123", cpus_per_node=56))
    assert header["nodes"] == "64"
    assert header["gpus-per-node"] == "8"
    assert header["ntasks-per-node"] == "1"
    assert header["time"] == "24:00:00"
    assert header["signal"] == "B:USR1@600"
    assert header["open-mode"] == "append"
    assert header["cpus-per-task"] == "56"
    assert (header["job-name"], header["partition"], header["account"]) == ("llama", "extended", "abc123")
    assert "requeue" in header


def test_what_is_not_given_is_not_asked_for() -> None:
    header = header_of(script())
    assert not {"partition", "account", "cpus-per-task"} & set(header)
    assert "gpus-per-node" not in header_of(script(gpus=False))


def test_the_ranks_are_started_with_torchrun_on_every_node() -> None:
    text = script(max_restarts=9, python="python3.12")
    (line,) = [line for line in text.splitlines() if line.startswith("srun")]
    words = shlex.split(line)
    for word in (
        "python3.12",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1",
        "torch.distributed.run",
        "--nnodes=64",
        "--nproc-per-node=8",
        "--max-restarts=9",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=$first_node:$port",
        "--rdzv-id=${folder##*/}",
        "$folder",
    ):
        assert word in words
    assert f"folders=({shlex.quote(str(FOLDER))})" in text
    assert words[words.index("-m", words.index("--nnodes=64")) + 1] == "isoflop.train.distributed_worker"


def test_setup_lines_come_before_the_ranks_and_may_read_what_is_not_set() -> None:
    text = script(setup=("module load rocm", "source env/bin/activate"))
    assert text.index("module load rocm") < text.index("source env/bin/activate") < text.index("srun")
    assert text.index("source env/bin/activate") < text.index("set -u")


def test_several_nodes_are_taken_whole_and_one_gpu_is_not_a_node() -> None:
    assert "exclusive" in header_of(script())
    one = sbatch_script(FOLDER, MeshSpec(), num_nodes=1, hours=1)
    assert header_of(one)["gpus-per-node"] == "1"
    assert "exclusive" not in header_of(one)


def test_the_ranks_get_the_cores_that_the_job_asked_for() -> None:
    (line,) = [line for line in script(cpus_per_node=56).splitlines() if line.startswith("srun")]
    assert "--cpus-per-task=56" in shlex.split(line)


def test_times_are_written_as_slurm_reads_them() -> None:
    assert header_of(script(hours=1.5))["time"] == "01:30:00"
    assert header_of(script(hours=200))["time"] == "200:00:00"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_nodes": 100}, "cannot be dealt equally over 100 nodes"),
        ({"num_nodes": 128}, "tensor groups of 8 do not fit nodes of 4"),
        ({"num_nodes": 0}, "over 0 nodes"),
        ({"hours": 0.1}, "leaves nothing before the warning"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        script(**changes)


def test_one_machine_needs_no_meeting_point() -> None:
    command = torchrun_command(FOLDER, MeshSpec(shard=4), python="python")
    assert "--standalone" in command
    assert "--nproc-per-node=4" in command
    assert devices_per_node(MeshSpec(shard=4), 1) == 4
    with pytest.raises(ValueError, match="rendezvous"):
        torchrun_command(FOLDER, MeshSpec(shard=4), num_nodes=2)


# --------------------------------------------------------------- the script, with SLURM played by functions


def run_script(
    tmp_path: Path, ranks: str, restarts: int = 0, names: tuple[str, ...] = ("run",)
) -> subprocess.CompletedProcess[str]:
    """Run the script with srun and scontrol replaced; `ranks` is what the ranks do, in shell."""
    folders = tuple(tmp_path / name for name in names)
    for folder in folders:
        folder.mkdir(exist_ok=True)
    text = sbatch_script(folders, MeshSpec(shard=4), num_nodes=2, hours=1, gpus=False, max_requeues=3)
    played = "\n".join(
        [
            f"srun() {{ {ranks}; }}",
            'scontrol() { if [ "$1" = show ]; then echo node7; else echo "scontrol $*"; fi; }',
            f"SLURM_JOB_ID=42 SLURM_JOB_NODELIST=x SLURM_RESTART_COUNT={restarts}",
        ]
    )
    return subprocess.run(
        ["bash"], input=played + "\n" + text, text=True, capture_output=True, timeout=60, check=False
    )


def test_a_finished_run_is_not_queued_again(tmp_path: Path) -> None:
    done = run_script(tmp_path, f"echo '{{}}' > {tmp_path}/run/record.json")
    assert done.returncode == 0
    assert "has ended" in done.stdout
    assert "requeue" not in done.stdout


def test_an_unfinished_run_is_queued_again_but_not_for_ever(tmp_path: Path) -> None:
    assert "scontrol requeue 42" in run_script(tmp_path, "false").stdout
    last = run_script(tmp_path, "false", restarts=3)
    assert last.returncode == 1
    assert "not finished after 3 restarts" in last.stderr


def test_jobs_that_make_no_checkpoint_give_up(tmp_path: Path) -> None:
    """Five in a row; a checkpoint in between starts the count anew. Somebody who mends it starts with none."""
    state = f"mkdir -p {tmp_path}/run/checkpoint/step-"
    for ranks in ("false", "false", "false", "false", f"{state}00000010; false", *["false"] * 4):
        done = run_script(tmp_path, ranks)
        assert "scontrol requeue 42" in done.stdout, done.stderr
    last = run_script(tmp_path, "false")
    assert last.returncode == 1
    assert "requeue" not in last.stdout
    assert "5 jobs in a row made no checkpoint" in last.stderr
    assert "scontrol requeue 42" in run_script(tmp_path, "false").stdout


def test_the_time_limit_s_signal_makes_the_ranks_stop_and_the_job_come_again(tmp_path: Path) -> None:
    """The shell gets USR1, the ranks wait for the stop file, and only when they are gone the job is queued."""
    stop = tmp_path / "run" / "stop"
    ranks = f"kill -USR1 $$; while [ ! -e {stop} ]; do sleep 0.05; done; sleep 0.2; echo saved"
    done = run_script(tmp_path, ranks)
    assert done.stdout.index("saved") < done.stdout.index("scontrol requeue 42")
    assert "Traceback" not in done.stderr


def test_a_person_s_stop_file_ends_the_job(tmp_path: Path) -> None:
    """Without the time limit's signal the stop file was put there by somebody, and the job does not come again."""
    done = run_script(tmp_path, f"touch {tmp_path}/run/stop")
    assert done.returncode == 0
    assert "sbatch this file again" in done.stdout
    assert "requeue" not in done.stdout


def test_a_chain_of_sessions_goes_folder_by_folder(tmp_path: Path) -> None:
    """Each job trains the first folder without a record, and only the last one's record ends the chain."""
    names = ("first", "second")
    ranks = "echo '{}' > $folder/record.json; echo trained $folder"
    one = run_script(tmp_path, ranks, names=names)
    assert f"trained {tmp_path}/first" in one.stdout
    assert "scontrol requeue 42" in one.stdout
    two = run_script(tmp_path, ranks, names=names)
    assert f"trained {tmp_path}/second" in two.stdout
    assert "has ended" in two.stdout
    assert "requeue" not in two.stdout
