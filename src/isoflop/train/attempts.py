"""What each try at a run cost: attempts.jsonl, kept right through kills.

An attempt is noted when it begins and when it is about to write a state (attempt.json); when it ends by
itself, its row goes to attempts.jsonl. After a kill the note is still there, and with the metrics it tells
how far the attempt had come: at most the steps since its last row of metrics or its last state, whichever
is later, go uncounted.
"""

from __future__ import annotations

import json
from typing import Literal

import msgspec

from isoflop.provenance import now
from isoflop.records import Attempt, RunSpec, encode
from isoflop.store import RunFolder, write_atomic


class AttemptLog:
    """The attempts at one run; used by one process at a time."""

    def __init__(self, spec: RunSpec, folder: RunFolder) -> None:
        self._folder = folder
        self._note = folder.path / "attempt.json"
        self.flops_per_step = spec.train_flops.flops / spec.num_steps

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return tuple(self._folder.read_attempts())

    def flops_spent(self) -> float:
        """FLOPs of all attempts that have ended."""
        return sum(attempt.flops for attempt in self.attempts)

    def begin(self, step: int, seconds: float) -> None:
        """Note that an attempt starts at this step.

        Args:
            step: updates behind the state it starts from.
            seconds: worker-seconds behind that state, as metrics count them.
        """
        note = {"started": now(), "number": len(self.attempts), "first_step": step, "seconds": seconds}
        write_atomic(self._note, json.dumps(note))

    def start_at(self, step: int) -> None:
        """Correct the step at which the attempt that was begun has really started."""
        note = json.loads(self._note.read_text())
        write_atomic(self._note, json.dumps({**note, "first_step": step}))

    def end(
        self,
        ended: Literal["finished", "diverged", "failed", "killed", "cut"],
        last_step: int,
        seconds: float,
        *,
        redone_steps: int = 0,
    ) -> None:
        """Write the row of the attempt that was begun; `seconds` counts as in `begin`.

        `redone_steps` were undone after a spike: they are spent and wasted on top of those up to `last_step`.
        """
        note = json.loads(self._note.read_text())
        steps = max(0, last_step - note["first_step"])
        attempt = Attempt(
            started=note["started"],
            first_step=note["first_step"],
            last_step=max(last_step, note["first_step"]),
            seconds=max(0.0, seconds - note["seconds"]),
            flops=(steps + redone_steps) * self.flops_per_step,
            flops_wasted=redone_steps * self.flops_per_step,
            ended=ended,
        )
        self._write((*self.attempts, attempt))
        self._note.unlink()

    def reached(self, step: int, seconds: float) -> None:
        """Note how far the attempt has come; called before a state is written, so that none is ahead of it."""
        note = json.loads(self._note.read_text())
        write_atomic(self._note, json.dumps({**note, "last_step": step, "last_seconds": seconds}))

    def settle(self, ended: Literal["killed", "failed"] = "killed") -> bool:
        """Close an attempt that did not close itself. Returns True when there was one."""
        if not self._note.exists():
            return False
        note = json.loads(self._note.read_text())
        if len(self.attempts) > note["number"]:  # killed between writing its row and clearing the note
            self._note.unlink()
            return False
        step = note.get("last_step", note["first_step"])
        seconds = note.get("last_seconds", note["seconds"])
        rows = [row for row in self._folder.read_metrics() if "step" in row]
        if rows and rows[-1]["step"] > step:
            step, seconds = int(rows[-1]["step"]), float(rows[-1].get("seconds", seconds))
        self.end(ended, step, seconds)
        return True

    def redo_from(self, step: int) -> None:
        """Mark as wasted what earlier attempts did beyond this step: it will be done again."""
        before = self.attempts
        after = tuple(
            msgspec.structs.replace(
                attempt,
                flops_wasted=max(
                    attempt.flops_wasted,
                    self.flops_per_step * max(0, attempt.last_step - max(attempt.first_step, step)),
                ),
            )
            for attempt in before
        )
        if after != before:
            self._write(after)

    def _write(self, attempts: tuple[Attempt, ...]) -> None:
        write_atomic(self._folder.attempts_path, b"".join(encode(attempt) + b"\n" for attempt in attempts))
