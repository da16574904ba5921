"""The group of verbs, and what all of them share: --json, one-line errors, exit codes.

People's text goes to standard error when --json is given, and standard output then holds exactly one JSON
object with a ``schema`` field. Exit codes: 0 answered, 1 a run failed, 2 a request that cannot be met,
130 stopped by Ctrl-C (resumable).
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import click

from isoflop import __version__

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


LOOP = ("run", "plan", "train", "measure", "judge", "publish", "studies", "status", "ledger")


class Group(click.Group):
    """Keeps the verbs in the order of the loop, then the tools in the order in which they were registered."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(self.commands, key=lambda name: LOOP.index(name) if name in LOOP else len(LOOP))


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="isoflop")
def main() -> None:
    """Answer questions about training models on a fixed compute budget.

    budget -> plan -> runs -> matched comparison -> verdict with uncertainty -> open report -> next run
    """


def emit(name: str, answer: dict[str, Any]) -> None:
    """Print the one JSON object of a --json call."""
    click.echo(json.dumps({"schema": f"isoflop.{name}/1", **answer}, allow_nan=False))


def say(line: str) -> None:
    """One line for people, on standard error so that --json output stays clean."""
    click.echo(line, err=True)


def verb(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command its --json flag and turn expected errors into one line and an exit code.

    The wrapped function returns (text for people, mapping for --json).
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
        @functools.wraps(function)
        def command(*args: Any, as_json: bool, **options: Any) -> None:
            try:
                text, answer = function(*args, **options)
            except KeyboardInterrupt:
                _fail(name, "stopped; what was finished is kept, and the same command goes on", 130, as_json)
            except (ValueError, RuntimeError, OSError, ImportError) as error:
                if _is_bug(error):
                    raise
                _fail(name, _one_line(error), 2, as_json)
            if as_json:
                if text:
                    say(text)
                emit(name, answer)
            elif text:
                click.echo(text)

        return command

    return decorate


def _fail(name: str, message: str, code: int, as_json: bool) -> None:
    say(f"isoflop {name}: {message}")
    if as_json:
        emit("error", {"verb": name, "error": message})
    sys.exit(code)


def _one_line(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in EXTRAS:
        package = (error.name or "").split(".")[0]
        return f"this needs {package}: pip install 'isoflop[{EXTRAS[package]}]'"
    return " ".join(str(error).split()) or type(error).__name__


EXTRAS = {
    "torch": "train",
    "tokenizers": "train",
    "safetensors": "train",
    "zstandard": "train",
    "psutil": "train",
    "datasets": "hub",
    "huggingface_hub": "hub",
    "submitit": "cluster",
    "lm_eval": "eval",
    "inspect_ai": "probe",
    "tensorboard": "logs",
}
"""Import name -> the extra that brings it."""


def _is_bug(error: BaseException) -> bool:
    """True for an error that no message of ours explains: its type is a bare built-in from outside isoflop.

    Errors that rooms raise for a user are their own subclasses or carry a sentence; what NumPy or torch
    raises inside is a defect, and its traceback is what helps.
    """
    if isinstance(error, (ImportError, OSError)):
        return False
    if type(error).__module__.startswith("isoflop"):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return not raised_in.startswith("isoflop")


from isoflop.cli import evaluate, noise, study, tables  # noqa: E402, F401  (registers the verbs on `main`)
