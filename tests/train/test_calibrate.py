"""Calibration: timed once by the workers themselves, cached, interpolated."""

from __future__ import annotations

from math import log
from pathlib import Path

import pytest

from isoflop.flops.count import train_flops_per_token
from isoflop.flops.rates import eval_tokens_per_s, flops_per_s
from isoflop.records import Calibration
from isoflop.train.calibrate import _net_mapping, cached, calibrate, time_nets
from tests.train.conftest import NET

BIGGER = type(NET)(
    vocab_size=256, context=16, dim=32, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=16, ffn_dim=64
)


def test_a_worker_times_training_and_scoring() -> None:
    order = {
        "nets": [_net_mapping(NET), _net_mapping(BIGGER)],
        "batch_seqs": 4,
        "device": "cpu",
        "seconds_per_net": 0.15,
    }
    rates = time_nets(order)
    assert len(rates["train"]) == len(rates["eval"]) == 2
    assert min(rates["train"] + rates["eval"]) > 0
    # Scoring leaves out two thirds of the arithmetic; on a busy machine at least it is not slower.
    assert rates["eval"][1] > rates["train"][1]


def test_between_the_nets_that_were_timed() -> None:
    calibration = Calibration(
        machine="m",
        device="cpu",
        num_workers=2,
        net_words=("a", "b"),
        train_flops_per_token=(1e3, 1e5),
        flops_per_s=(1e9, 4e9),
        eval_tokens_per_s=(4e5, 1e5),
        startup_s=1.0,
        convention="6N-all",
        torch_version="t",
        measured="now",
    )
    per_token = train_flops_per_token(NET, "6N-all")
    share = (log(per_token) - log(1e3)) / (log(1e5) - log(1e3))
    assert 0 < share < 1
    assert flops_per_s(calibration, NET) == pytest.approx(1e9 * 4**share, rel=1e-12)
    assert eval_tokens_per_s(calibration, NET) == pytest.approx(4e5 * 0.25**share, rel=1e-12)


@pytest.mark.slow
def test_all_workers_are_timed_at_once_and_the_answer_is_kept(tmp_path: Path) -> None:
    nets = (NET, BIGGER)
    assert cached(nets, num_workers=2, cache_dir=tmp_path) is None
    made = calibrate(nets, num_workers=2, cache_dir=tmp_path, seconds_per_net=0.15)
    assert made.num_workers == 2
    assert made.net_words == ("8x1", "32x2")
    assert cached(nets, num_workers=2, cache_dir=tmp_path) == made
    assert cached(nets, num_workers=1, cache_dir=tmp_path) is None
    assert cached(nets[:1], num_workers=2, cache_dir=tmp_path) is None
    assert min(made.flops_per_s) > 0
    assert made.startup_s > 0
