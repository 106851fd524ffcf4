"""What the phrase matcher says: tool results as sentences, questions for what is missing, a list of what it can do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from duologue.speech.llm.base import Message
from duologue.speech.llm.phrase_text import vocabulary
from duologue.tools.base import ToolSpec

MAX_ITEMS = 5
MAX_FIELDS = 5
_TEXT_NAMES = vocabulary("text note message content body comment reason description title query question")


def sentence(text: str) -> str:
    """`text` with an upper-case beginning and an end."""
    text = " ".join(text.split())
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if re.search(r"[.!?…][\"')\]]*$", text) else text + "."


def words_of(name: str) -> str:
    """An identifier as words: `next_stop`, `nextStop` and `next-stop` give "next stop"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", re.sub(r"[_-]+", " ", name)).strip().lower()


def tool_answer(message: Message, tool: ToolSpec | None) -> str:
    """A tool's result to be spoken. Texts are spoken as they are; lists and objects become short sentences."""
    if tool is not None and tool.ends_call and not message.is_error:
        return "Goodbye."
    if message.is_error:
        return sentence(f"That did not work. {_error(message)}")
    value = _decoded(message.content)
    if isinstance(value, dict) and value.get("status") in ("running", "pending", "in_progress") and len(value) <= 2:
        return "I'm on it."
    return _spoken(value)


def _error(message: Message) -> str:
    text = re.sub(r"^Tool '[^']*': ", "", message.content.strip())
    if message.name:
        text = text.replace(message.name, words_of(message.name))
    return sentence(text)


def _decoded(content: str) -> Any:
    """The JSON value of a result; text that is no JSON object, list or literal is itself."""
    text = content.strip()
    if text[:1] in ("{", "[", '"') or text in ("true", "false", "null", ""):
        try:
            return msgspec.json.decode(text) if text else None
        except msgspec.DecodeError:
            return content
    return content


def _spoken(value: Any) -> str:
    if value is None or value is True:
        return "Done."
    if value is False:
        return "No."
    if isinstance(value, str):
        return value if re.search(r"[.!?…]\s*$", value) else sentence(value) if value.strip() else "Done."
    if isinstance(value, Mapping):
        return _fields(value)
    if isinstance(value, list):
        return _items(value)
    return f"{value}."


def _fields(value: Mapping[str, Any]) -> str:
    shown = [(words_of(key), item) for key, item in value.items() if item is not None and item != ""]
    parts = [sentence(f"{key}: {_short(item)}") for key, item in shown[:MAX_FIELDS]]
    more = len(shown) - MAX_FIELDS
    return " ".join(parts) + (f" And {more} more." if more > 0 else "") if parts else "Nothing found."


def _items(values: list[Any]) -> str:
    if not values:
        return "Nothing found."
    shown = [_short(value) for value in values[:MAX_ITEMS]]
    if len(values) > MAX_ITEMS:
        shown.append(f"{len(values) - MAX_ITEMS} more")
    joined = listed(shown)
    return sentence(joined if len(values) == 1 else f"{len(values)} results: {joined}")


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        for name in ("name", "title", "label", "address", "text", "id"):
            if isinstance(value.get(name), (str, int)):
                return str(value[name])
        return ", ".join(f"{words_of(key)} {_short(item)}" for key, item in list(value.items())[:3])
    if isinstance(value, list):
        return listed([_short(item) for item in value[:MAX_ITEMS]])
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def listed(items: Sequence[str], last: str = "and") -> str:
    """Items as people list them: "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def question(tool: ToolSpec, parameter: str, again: bool = False) -> str:
    """What to ask for a parameter that is missing; `again` after an answer that could not be used."""
    schema = tool.parameters.get("properties", {}).get(parameter, {})
    said = words_of(parameter)
    options = _options(schema)
    described = str(schema.get("description", "")).strip().rstrip(".")
    if options:
        asked = f"Which {said}: {listed(options, 'or')}?"
    elif 0 < len(described.split()) <= 9 and re.match(r"(?:the|a|an|your|their)\b", described, re.I):
        asked = f"What is {described[0].lower()}{described[1:]}?"
    elif said in _TEXT_NAMES:
        asked = f"What is the {said}?"
    elif schema.get("type") in ("integer", "number"):
        asked = f"What is the {said}? A number, please."
    else:
        asked = f"Which {said}?"
    return f"Sorry, I did not get that. {asked}" if again else asked


def _options(schema: Mapping[str, Any]) -> list[str]:
    for branch in (schema, *(schema.get("anyOf") or ())):
        if branch.get("enum") and len(branch["enum"]) <= 8:
            return [words_of(str(option)) for option in branch["enum"] if option is not None]
    return []


def shown_example(example: str) -> str:
    """An example as one would say it: a slot inside becomes "a delivery", one at the end is left out."""
    text = re.sub(r"\s*\{[^{}]*\}\s*[.?!]?$", "", example).strip() or example

    def noun(match: re.Match[str]) -> str:
        said = words_of(match[1])
        return f"{'an' if said[:1] in 'aeiou' else 'a'} {said}"

    return re.sub(r"\{([^{}]*)\}", noun, text)


def abilities(tools: Sequence[ToolSpec]) -> str:
    """One or two sentences that say what can be asked for."""
    said = [
        f"“{shown_example(tool.examples[0])}”" if tool.examples else f"“{words_of(tool.name)}”"
        for tool in tools
        if not tool.ends_call
    ]
    if not said:
        return "I have no tools, so there is little that I can do."
    shown = said[:MAX_ITEMS]
    more = "" if len(said) <= MAX_ITEMS else f" There are {len(said) - MAX_ITEMS} more."
    return f"You can say {listed(shown, 'or')}.{more}"
