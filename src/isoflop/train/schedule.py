"""The learning rate as a fraction of its peak, by step: constant, linear, cosine, WSD with a cooldown.

Steps count from 0; ``fraction(schedule, step)`` is what the update of step number `step` uses. Warm-up
climbs as (step + 1) / (warmup_steps + 1), so that the first update is small and not zero. A branch that
warms up again counts its warm-up from `ScheduleSpec.start_step`, the step at which it leaves its parent.
"""

from __future__ import annotations

import math

from isoflop.records import ScheduleSpec


def fraction(schedule: ScheduleSpec, step: int) -> float:
    """Learning rate over peak at a step.

    - constant: 1 after the warm-up.
    - linear: from 1 at the end of the warm-up to `final_fraction` at `num_steps`.
    - cosine: half a cosine between the same points (Loshchilov and Hutter 2017, section 3).
    - wsd: 1 until `decay_start_step`, then linear to `final_fraction` (Hu et al. 2024, section 4;
      linear cooldown as in Haegele et al. 2024, section 3); None keeps the trunk constant.

    Raises ValueError for a schedule whose parts do not fit together.
    """
    check(schedule)
    if step < schedule.start_step:
        raise ValueError(f"step {step} is before the schedule's start at step {schedule.start_step}")
    start = schedule.start_step + schedule.warmup_steps
    if step < start:
        return (step - schedule.start_step + 1) / (schedule.warmup_steps + 1)
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "wsd":
        if schedule.decay_start_step is None or step < schedule.decay_start_step:
            return 1.0
        start = schedule.decay_start_step
    progress = min((step - start) / max(schedule.num_steps - start, 1), 1.0)
    shape = (1 + math.cos(math.pi * progress)) / 2 if schedule.kind == "cosine" else 1 - progress
    return schedule.final_fraction + (1 - schedule.final_fraction) * shape


def check(schedule: ScheduleSpec) -> None:
    """Refuse a schedule that cannot be followed."""
    if not 0 <= schedule.start_step < max(schedule.num_steps, 1):
        raise ValueError(
            f"the schedule starts at step {schedule.start_step}, outside its steps 0 to {schedule.num_steps}"
        )
    if schedule.num_steps < 1 or schedule.warmup_steps < 0:
        raise ValueError(
            f"a schedule of {schedule.num_steps} steps with {schedule.warmup_steps} of warm-up is empty"
        )
    if not 0 <= schedule.final_fraction <= 1:
        raise ValueError(f"final_fraction is {schedule.final_fraction}; it lies between 0 and 1")
    start, warm = schedule.decay_start_step, schedule.start_step + schedule.warmup_steps
    if start is not None and not warm <= start <= schedule.num_steps:
        raise ValueError(
            f"the cooldown starts at step {start}, outside warm-up ({warm}) and end ({schedule.num_steps})"
        )
