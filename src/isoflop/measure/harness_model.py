"""A subject as a model of EleutherAI's evaluation harness (lm-eval), so that any of its tasks can ask it.

What lm-eval's own class for transformers does, on our decoder: prompts lose their beginning when they are too
long, a text without context follows the prefix token, a beginning-of-sequence token is never doubled. Needs
lm-eval; nothing else of this package imports it at its top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from isoflop.subject.language_model import LanguageModel, Sampling

MAX_NEW_TOKENS = 256
"""Length of an answer when the task names none: lm-eval's default."""
SAMPLING_SEED = 1234
"""lm-eval's seed of generation."""
GENERATION_OPTIONS = ("do_sample", "temperature", "top_k", "top_p")


class HarnessModel(TemplateLM):
    """Our model behind lm-eval's interface.

    Args:
        subject: what is asked.
        progress: told sentences on the way.
    """

    def __init__(
        self, subject: LanguageModel, progress: Callable[[str], None] = lambda sentence: None
    ) -> None:
        super().__init__()
        self.subject = subject
        self._say = progress
        self._device = subject.device

    # -------------------------------------------------------------------------------- text

    @property
    def eot_token_id(self) -> int:
        return self.subject.text.end_token

    @property
    def prefix_token_id(self) -> int:
        return self.subject.text.prefix_token

    @property
    def max_length(self) -> int:
        return self.subject.context

    @property
    def tokenizer_name(self) -> str:
        return self.subject.text.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.subject.text.chat_template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self.subject.text.fill_in_chat(chat_history, ask=add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        text = self.subject.text
        if add_special_tokens is None:
            add_special_tokens = not (text.prefix_text and string.startswith(text.prefix_text))
        return text.encode(string, special=add_special_tokens)

    # ----------------------------------------------------------------------------- requests

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        found = self.subject.log_likelihoods(pairs, self._progress("scored"))
        return [(one.log_likelihood, one.is_greedy) for one in found]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Of whole texts, cut into windows that each begin with the last token of the one before."""
        windows: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            (text,) = request.args
            cut = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in map(make_disjoint_window, cut):
                windows.append(window)
                owners.append(index)
        totals = [0.0] * len(requests)
        for owner, one in zip(
            owners, self.subject.log_likelihoods(windows, self._progress("scored")), strict=True
        ):
            totals[owner] += one.log_likelihood
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        answers: list[str] = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(index)
        for indices in groups.values():
            options = normalize_gen_kwargs(dict(requests[indices[0]].args[1]), MAX_NEW_TOKENS)
            until = handle_stop_sequences(options.pop("until", None), eos=self.subject.text.eos_text)
            max_tokens = options.pop("max_gen_toks")
            prompts = [
                self.tok_encode(requests[index].args[0]) or [self.prefix_token_id] for index in indices
            ]
            texts = self.subject.generate(
                prompts,
                max_tokens=max_tokens,
                until=until,
                sampling=_sampling(options),
                progress=self._progress("answered"),
            )
            for index, text in zip(indices, texts, strict=True):
                answers[index] = text
        return answers

    def _progress(self, word: str) -> Callable[[int, int], None]:
        return lambda done, total: self._say(f"{word} {done} of {total} batches")


def _sampling(options: dict[str, Any]) -> Sampling:
    """Raises ValueError for a way of generating that our decoder does not have."""
    unknown = sorted(set(options) - set(GENERATION_OPTIONS))
    if unknown:
        raise ValueError(
            f"the task generates with {', '.join(unknown)}, which this decoder does not have (it knows "
            f"{', '.join(GENERATION_OPTIONS)}); ask the weights through transformers instead (hf:FOLDER)"
        )
    if not options.get("do_sample"):
        return Sampling()
    return Sampling(
        temperature=float(options.get("temperature", 1.0)),
        top_k=int(options.get("top_k") or 0),
        top_p=float(options.get("top_p") or 1.0),
        seed=SAMPLING_SEED,
    )
