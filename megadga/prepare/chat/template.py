"""Chat templates, rendered as ``apply_chat_template`` of Hugging Face's ``transformers`` does.

A template says where the assistant's turns are by ``{% generation %}``. One that does not is
rendered turn by turn: an assistant's turn is what the dialogue up to it has more than the dialogue
before it, with the generation prompt.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from megadga.errors import ConfigError
from megadga.prepare.extras import import_extra
from megadga.prepare.reading.records import RecordError
from megadga.prepare.tokenizers.base import Tokenizer
from megadga.prepare.tokenizers.loading import HUGGINGFACE_FILE
from megadga.prepare.tokenizers.sentence_piece import SentencePieceTokenizer

CHATML = "chatml"
"""Name of the built-in template."""


_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


_TOKEN_KEYS = re.compile(r"[a-z_]+_token")


@dataclass(frozen=True, slots=True)
class RenderedDialogue:
    """The text of a dialogue.

    Attributes:
        text: All of it, with the markup of the template.
        turns: Where each assistant's turn begins and ends in it, in order.
    """

    text: str
    turns: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class ChatTemplate:
    """A template and what it may refer to; picklable, for workers.

    Attributes:
        origin: Where it comes from, for messages.
        source: The template, in Jinja.
        tokens: Names of special tokens by what templates call them: ``eos_token``.
    """

    origin: str
    source: str
    tokens: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """SHA-256, as hex digits, of what decides how dialogues are rendered."""
        content = json.dumps([self.source, sorted(self.tokens.items())])
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def marks_turns(self) -> bool:
        """Whether it has ``{% generation %}``."""
        return _GENERATION.search(self.source) is not None

    def render(self, dialogue: Mapping[str, Any]) -> RenderedDialogue:
        """Return the text of a dialogue.

        Args:
            dialogue: Its ``messages``, and ``tools`` that it may call.

        Raises:
            RecordError: If the template fails, or has no ``{% generation %}`` and a turn's text
                changes with what follows it.
            ConfigError: If transformers or Jinja is not installed, or too old.
        """
        messages: Sequence[Mapping[str, Any]] = dialogue["messages"]
        tools = dialogue.get("tools")
        if self.marks_turns:
            text, marked = self._rendered(messages, tools, marked=True)
            return RenderedDialogue(text, [(begin, end) for begin, end in marked if end > begin])
        text, _ = self._rendered(messages, tools)
        turns: list[tuple[int, int]] = []
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                before, _ = self._rendered(messages[:place], tools, prompted=True)
                after, _ = self._rendered(messages[: place + 1], tools)
                if not (text.startswith(after) and after.startswith(before)):
                    raise RecordError(
                        f"messages[{place}]: expected a chat template that renders the dialogue "
                        "up to a turn as it does the whole one, found one that does not: mark "
                        "the assistant's turns in it with {% generation %}"
                    )
                turns.append((len(before), len(after)))
        return RenderedDialogue(text, turns)

    def _rendered(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: object,
        *,
        prompted: bool = False,
        marked: bool = False,
    ) -> tuple[str, Sequence[tuple[int, int]]]:
        render = _find_renderer()
        try:
            (text,), turns = render(
                conversations=[[dict(message) for message in messages]],
                tools=tools,
                chat_template=self.source,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=prompted,
                **self.tokens,
            )
        except ImportError as error:  # of Jinja, which transformers does without until now
            raise ConfigError(f"jinja2: expected it for chat templates, found {error}") from error
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise RecordError(
                f"messages: expected a dialogue that the chat template renders, "
                f"found {type(error).__name__}: {reason}"
            ) from error
        return text, turns[0] if turns else ()


def _find_renderer() -> Callable[..., Any]:
    """Return what ``apply_chat_template`` renders with."""
    library = import_extra("transformers.utils.chat_template_utils", extra="hf")
    try:
        return library.render_jinja_template
    except AttributeError as error:
        raise ConfigError(
            "transformers: expected a version with render_jinja_template, found an older one "
            f"({error}): pip install -U transformers"
        ) from error


def load_template(tokenizer: Tokenizer, path: Path, choice: str | None) -> ChatTemplate:
    """Return the chat template of a tokenizer, or another one for it.

    Args:
        tokenizer: The tokenizer.
        path: Where it was loaded from; beside a ``tokenizer.json`` are ``chat_template.jinja`` and
            ``tokenizer_config.json``.
        choice: A file with a template, or ``chatml``; None: the tokenizer's own.

    Raises:
        ConfigError: If there is none, a file cannot be read, or the template depends on the day.
    """
    folder = path if path.is_dir() else path.parent
    settings: Mapping[str, Any] = {}
    if isinstance(tokenizer, SentencePieceTokenizer):
        tokens = tokenizer.named_tokens
    else:
        settings = _read_settings(folder / "tokenizer_config.json")
        tokens = {
            key: name
            for key, value in settings.items()
            if _TOKEN_KEYS.fullmatch(key) and (name := _token_name(value)) is not None
        }
    if choice == CHATML:
        template = ChatTemplate(CHATML, _CHATML, tokens)
    elif choice is not None:
        template = ChatTemplate(choice, _read(Path(choice), "a chat template"), tokens)
    else:
        template = _own_template(tokenizer, folder, settings, tokens)
    if "strftime_now" in template.source:
        raise ConfigError(
            f"{template.origin}: expected a chat template that renders the same text every day, "
            "found strftime_now in it: give a copy without it (--chat-template)"
        )
    return template


def _own_template(
    tokenizer: Tokenizer, folder: Path, settings: Mapping[str, Any], tokens: Mapping[str, str]
) -> ChatTemplate:
    advice = f"name a file, or {CHATML} for the built-in one (--chat-template)"
    if isinstance(tokenizer, SentencePieceTokenizer):
        raise ConfigError(
            f"{tokenizer.path}: expected a chat template beside the sentencepiece model, as it "
            f"cannot have one of its own, found none: {advice}"
        )
    file = folder / "chat_template.jinja"
    if file.exists():
        return ChatTemplate(str(file), _read(file, "a chat template"), tokens)
    place, found = folder / "tokenizer_config.json", settings.get("chat_template")
    if isinstance(found, list):  # several by name
        named = [cast("dict[str, Any]", each) for each in cast("list[Any]", found)]
        found = next((each.get("template") for each in named if each.get("name") == "default"), 0)
    if not isinstance(found, str):
        raise ConfigError(
            f"{folder / HUGGINGFACE_FILE}: expected chat_template.jinja beside it, or a "
            f"chat_template in tokenizer_config.json, found neither: {advice}"
        )
    return ChatTemplate(str(place), found, tokens)


def _read_settings(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        settings: object = json.loads(_read(path, "a tokenizer's settings"))
    except ValueError as error:
        raise ConfigError(f"{path}: expected JSON, found {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected an object, found {type(settings).__name__}")
    return cast("dict[str, Any]", settings)


def _token_name(value: object) -> str | None:
    """Return the name of a special token, which may be an object with more about it."""
    if isinstance(value, dict):
        value = cast("dict[str, object]", value).get("content")
    return value if isinstance(value, str) else None


def _read(path: Path, content: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: expected {content}, found {reason}") from error
