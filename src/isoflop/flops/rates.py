"""What a calibrated machine delivers on a net that was not timed: interpolated between those that were."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isoflop.flops.count import train_flops_per_token
from isoflop.records import Calibration, NetSpec


def flops_per_s(calibration: Calibration, net: NetSpec) -> float:
    """Training FLOPs per second of one worker on this net.

    Linear in ln rate against ln FLOPs per token between the nets that were timed, constant beyond them:
    small nets are bound by overhead per step, so the rate climbs with size.
    """
    return _interpolate(calibration, net, calibration.flops_per_s)


def eval_tokens_per_s(calibration: Calibration, net: NetSpec) -> float:
    """Tokens per second that one worker scores with this net."""
    return _interpolate(calibration, net, calibration.eval_tokens_per_s)


def _interpolate(calibration: Calibration, net: NetSpec, values: Sequence[float]) -> float:
    order = np.argsort(calibration.train_flops_per_token)
    known = np.log(np.asarray(calibration.train_flops_per_token)[order])
    logs = np.log(np.asarray(values)[order])
    return float(np.exp(np.interp(np.log(train_flops_per_token(net, calibration.convention)), known, logs)))
