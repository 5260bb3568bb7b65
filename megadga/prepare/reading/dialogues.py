"""Validates dialogues: messages as OpenAI's interface has them."""

import json
from collections.abc import Mapping, Sequence
from typing import cast

from megadga.prepare.reading.records import (
    Content,
    Keys,
    RecordError,
    check_content,
    find_field,
    find_fields,
    format_field_names,
    is_object,
    kind_of,
    load_object,
)

ROLES = ("system", "user", "assistant", "tool")


TOOLS_KEY = "tools"
"""Beside the messages: descriptions of the functions that the assistant may call."""


def parse_dialogue(line: bytes, keys: Keys) -> Content:
    """Return the content of a line of JSON with a dialogue; see ``check_dialogue``.

    Raises:
        RecordError: If the line is not one JSON object in UTF-8, or as ``check_dialogue``.
    """
    fields = load_object(line)
    messages = find_field(fields, keys.text, "an array of messages")
    return check_dialogue(messages, *find_fields(fields, keys), keys, fields.get(TOOLS_KEY))


def check_dialogue(
    messages: object, id_: object, domain: object, keys: Keys, tools: object = None
) -> Content:
    """Return a dialogue as a record's content; its text is JSON with ``messages`` and ``tools``.

    Fields of messages besides role and content are kept for the template; those that are null are
    left out.

    Args:
        messages: Anything.
        id_: As for ``check_content``.
        domain: As for ``check_content``.
        keys: Where the values were found, for the reasons.
        tools: Anything.

    Raises:
        RecordError: If these are no messages with a known role and text, none of them is of the
            assistant, or as ``check_content``.
    """
    dialogue: dict[str, object] = {"messages": _check_messages(messages, keys.text)}
    if tools is not None:
        if not isinstance(tools, list):
            raise RecordError(f"{TOOLS_KEY}: expected an array, found {kind_of(tools)}")
        dialogue["tools"] = cast("list[object]", tools)
    return check_content(json.dumps(dialogue, ensure_ascii=False), id_, domain, keys)


def _check_messages(messages: object, key: str) -> Sequence[Mapping[str, object]]:
    if not isinstance(messages, list):
        raise RecordError(f"{key}: expected an array of messages, found {kind_of(messages)}")
    checked = [
        _check_message(message, f"{key}[{place}]")
        for place, message in enumerate(cast("list[object]", messages))
    ]
    if not any(_speaks(message) for message in checked):
        roles = ", ".join(dict.fromkeys(str(message["role"]) for message in checked)) or "none"
        found = "only empty ones" if "assistant" in roles else f"turns of {roles}"
        raise RecordError(f"{key}: expected an assistant's turn with text, found {found}")
    return checked


def _check_message(message: object, place: str) -> Mapping[str, object]:
    if not is_object(message):
        raise RecordError(f"{place}: expected an object, found {kind_of(message)}")
    kept = {name: value for name, value in message.items() if value is not None}
    for name in ("role", "content"):
        if name not in message:
            raise RecordError(
                f"{place}: expected role and content, found only {format_field_names(message)}"
            )
    role, content = message["role"], message["content"]
    if role not in ROLES:
        found = json.dumps(role)[:40]
        raise RecordError(f"{place}.role: expected one of {', '.join(ROLES)}, found {found}")
    if content is None and kept.get("tool_calls"):
        return {**kept, "content": None}
    if not isinstance(content, str):
        raise RecordError(f"{place}.content: expected a string, found {kind_of(content)}")
    return kept


def _speaks(message: Mapping[str, object]) -> bool:
    """Return whether a message is of the assistant, with text or a call of a tool."""
    content = message["content"]
    said = isinstance(content, str) and bool(content.strip())
    return message["role"] == "assistant" and (said or bool(message.get("tool_calls")))
