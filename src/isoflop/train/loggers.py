"""Rows of metrics for those who watch: Weights & Biases, trackio, TensorBoard. metrics.jsonl is always written.

    ISOFLOP_LOGGERS=trackio,tensorboard isoflop run flatness        or: train_run(..., loggers=("wandb",))

A logger is called when a row or a score is written, never in a step. It is told the run's name, its numbers
and nothing of the environment; keys and accounts are the packages' own business. What goes wrong while
logging is said once, and the run goes on without that logger.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from isoflop.records import Measurement, RunSpec
from isoflop.train.loop import RowSink

ENVIRONMENT = "ISOFLOP_LOGGERS"
PROJECT = "isoflop"


class LoggerError(ValueError):
    """A logger that does not exist, or whose package is missing; said before any compute is spent."""


class Logger(Protocol):
    """What every logger does."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take numbers of one step."""

    def finish(self) -> None:
        """The run has ended, or stopped."""


class _InitLogFinish:
    """wandb and trackio: a module with init, log and finish."""

    def __init__(self, module: Any, spec: RunSpec, folder: Path) -> None:
        self._module = module
        more = {"id": spec.fingerprint()[:16], "dir": str(folder)} if module.__name__ == "wandb" else {}
        module.init(project=PROJECT, name=_name(spec), config=config_of(spec), resume="allow", **more)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._module.log(dict(values), step=step)

    def finish(self) -> None:
        self._module.finish()


class _TensorBoard:
    """torch's writer of event files, in the run's folder."""

    def __init__(self, module: Any, spec: RunSpec, folder: Path) -> None:
        self._writer = module.SummaryWriter(log_dir=str(folder / "tensorboard"))
        self._writer.add_text("config", "\n".join(f"{k}: {v}" for k, v in config_of(spec).items()))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self._writer.close()


_KINDS: dict[str, tuple[str, str, Any]] = {
    "wandb": ("wandb", "wandb", _InitLogFinish),
    "trackio": ("trackio", "trackio", _InitLogFinish),
    "tensorboard": ("torch.utils.tensorboard", "tensorboard", _TensorBoard),
}
"""Name -> (module, package to install, adapter)."""


def names_wanted() -> tuple[str, ...]:
    """Loggers that the environment asks for."""
    return tuple(name.strip() for name in os.environ.get(ENVIRONMENT, "").split(",") if name.strip())


def open_loggers(names: Sequence[str], spec: RunSpec, folder: Path) -> Loggers:
    """Start the named loggers for a run.

    Args:
        names: of "wandb", "trackio", "tensorboard"; empty for none.
        spec: the run.
        folder: the run's; event files go there.

    Raises LoggerError for an unknown name or a missing package.
    """
    modules = [_module(name) for name in names]  # all are found before the first one starts
    return Loggers(
        {name: _KINDS[name][2](module, spec, folder) for name, module in zip(names, modules, strict=True)}
    )


def _module(name: str) -> Any:
    if name not in _KINDS:
        raise LoggerError(f"no logger named {name!r}; there are: {', '.join(_KINDS)}")
    module, package, _ = _KINDS[name]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise LoggerError(
            f"the logger {name!r} needs a package that is not here: pip install {package}"
        ) from None


def config_of(spec: RunSpec) -> dict[str, Any]:
    """What a logger is told of a run: its numbers, flat. No command line, no paths."""
    plain = msgspec.to_builtins(spec)
    parts = {part: plain[part] or {} for part in ("net", "optimizer", "schedule")}
    flat = {f"{part}.{key}": value for part, fields in parts.items() for key, value in fields.items()}
    names = ("batch_seqs", "num_steps", "seed", "precision")
    own = {name: plain[name] for name in names}
    labels = {f"label.{key}": value for key, value in plain["labels"].items()}
    return {**own, **flat, **labels, "context": spec.data.context, "fingerprint": spec.fingerprint()}


def _name(spec: RunSpec) -> str:
    return spec.folder


class Loggers:
    """All loggers of one run."""

    def __init__(self, loggers: Mapping[str, Logger]) -> None:
        self._loggers = dict(loggers)

    def row(self, row: Mapping[str, Any]) -> None:
        """Pass on the numbers of a row of metrics."""
        values = {f"train/{key}": value for key, value in row.items() if _is_number(value) and key != "step"}
        self._log(values, int(row["step"]))

    def scores(self, scores: Sequence[Measurement]) -> None:
        """Pass on held-out losses, one per text."""
        values: dict[str, float] = {}
        for score in scores:
            for unit, estimate in (("nats_per_token", score.loss), ("bits_per_byte", score.bits_per_byte)):
                if estimate.value is not None:
                    values[f"{score.name}/{unit}"] = estimate.value
        if values:
            self._log(values, scores[0].step)

    def finish(self) -> None:
        """Close all of them."""
        for name in list(self._loggers):
            self._try(name, lambda logger: logger.finish())

    def _log(self, values: Mapping[str, float], step: int) -> None:
        for name in list(self._loggers):
            self._try(name, lambda logger: logger.log(values, step))

    def _try(self, name: str, act: Any) -> None:
        """A logger that fails is given up: watching a run must not end it."""
        try:
            act(self._loggers[name])
        except Exception as error:
            del self._loggers[name]
            warnings.warn(f"logger {name} failed ({error}); the run goes on without it", stacklevel=3)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Watched:
    """Writes rows to their file first, then to the loggers."""

    def __init__(self, file: RowSink, loggers: Loggers) -> None:
        self._file, self._loggers = file, loggers

    def write(self, row: dict[str, Any]) -> None:
        """Take one row."""
        self._file.write(row)
        self._loggers.row(row)
