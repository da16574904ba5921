"""Small Llamas in Hugging Face's files, made here by transformers and tokenizers themselves."""

from __future__ import annotations

import json
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import torch

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
VOCAB_SIZE = 512
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] | trim }}"
    "</{{ message['role'] }}>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def text() -> list[str]:
    """Modules of the standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    names = (
        "textwrap",
        "argparse",
        "heapq",
        "random",
        "statistics",
        "shutil",
        "queue",
        "string",
        "json/decoder",
    )
    return [(root / f"{name}.py").read_text(encoding="utf-8") for name in names]


def save_tokenizer(folder: Path, *, leads: bool = True, chat: bool = True) -> None:
    """A byte-level BPE of `VOCAB_SIZE` tokens in transformers' files; with `leads` each text gets a first token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(text(), trainer)
    if leads:
        first = (BOS, backend.token_to_id(BOS))
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[first]
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, eos_token=EOS)
        if chat:
            tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.save_pretrained(folder)


def build(*, tied: bool = False, scaled: bool = True, context: int = 128, init_std: float = 0.2) -> Any:
    """A random model of transformers, with weights so large that its answers differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10_000.0}
        if scaled:  # an original context so short that all ranges of the rule occur
            rope = {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        config = transformers.LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=48,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=context,
            tie_word_embeddings=tied,
            rope_parameters=rope,
            initializer_range=init_std,
            bos_token_id=0,
            eos_token_id=1,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return transformers.LlamaForCausalLM(config)


def save(model: Any, folder: Path) -> Path:
    """Weights and config, beside the tokenizer's files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, max_shard_size="100KB")
    return folder


def write_items(path: Path, num: int = 24) -> Path:
    """Multiple-choice items about the standard library: which keyword follows."""
    words = ["def", "class", "return", "import", "while", "lambda", "yield", "assert"]
    sources = [line.strip() for source in text() for line in source.splitlines() if len(line.strip()) > 40]
    rows = []
    for index in range(num):
        right = index % 4
        choices = [words[(index + 3 * place) % len(words)] + " x" * (place % 3) for place in range(4)]
        rows.append({"id": f"q{index}", "query": sources[7 * index], "choices": choices, "gold": right})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
