"""A tokenizer with a chat template, and dialogues for it."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.huggingface import train_byte_level
from tests.support.texts import made_up_texts, write_packed

EOD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# As Qwen's, which marks no turns.
PLAIN_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content"
    " + '<|im_end|>' + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

Message = dict[str, Any]


def write_chat_tokenizer(folder: Path, template: str | None = PLAIN_TEMPLATE) -> Path:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` as Hugging Face has them."""
    folder.mkdir(parents=True, exist_ok=True)
    train_byte_level(folder / "tokenizer.json", special=[EOD, START, END])
    settings = {"eos_token": END, "pad_token": {"content": EOD, "special": True}}
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def made_up_dialogues(count: int, *, seed: int = 0) -> list[list[Message]]:
    """Dialogues of one to three questions with answers, some after a system's message."""
    rng = random.Random(seed)
    texts = iter(made_up_texts(8 * count, seed=seed))
    dialogues: list[list[Message]] = []
    for _ in range(count):
        dialogue = [{"role": "system", "content": next(texts)}] if rng.random() < 0.5 else []
        for _ in range(rng.randint(1, 3)):
            dialogue += [user(next(texts)), assistant(next(texts))]
        dialogues.append(dialogue)
    return dialogues


def write_dialogues(path: Path, dialogues: Sequence[Any], *, key: str = "messages") -> Path:
    """Write JSON lines, compressed if the name ends in ``.gz`` or ``.zst``."""
    lines = (json.dumps({key: messages}) + "\n" for messages in dialogues)
    return write_packed(path, "".join(lines).encode())
