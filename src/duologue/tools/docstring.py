"""Reads a function's docstring: the description, and the text about each parameter.

Understands the three layouts in common use: Google (`Args:`), numpy (`Parameters` underlined) and Sphinx (`:param x:`).
Pure text in, text out; a layout it does not know is all description.
"""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

_GOOGLE_HEADING = re.compile(
    r"(Args|Arguments|Parameters|Params|Keyword Args|Keyword Arguments|Other Parameters|Returns?|Yields?|Raises"
    r"|Examples?|Notes?|Attributes|References|See Also|Warnings?|Warns|Todo):\s*"
)
_GOOGLE_PARAMETERS = {
    "Args",
    "Arguments",
    "Parameters",
    "Params",
    "Keyword Args",
    "Keyword Arguments",
    "Other Parameters",
}
_GOOGLE_ITEM = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")
_NUMPY_ITEM = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?")
_NUMPY_PARAMETERS = {"Parameters", "Other Parameters"}
_SPHINX_ITEM = re.compile(r":(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*?\s)?\*{0,2}(\w+)\s*:\s*(.*)")
_SPHINX_FIELD = re.compile(r":(?:\w+)(?:\s[^:]*)?:")


class Docstring(NamedTuple):
    """`description` is everything before the first section; `parameters` maps a name to its text, on one line."""

    description: str
    parameters: dict[str, str]


def parse_docstring(text: str | None) -> Docstring:
    """Take a docstring apart. None and the empty string give empty parts."""
    lines = inspect.cleandoc(text or "").splitlines()
    description: list[str] = []
    parameters: dict[str, str] = {}
    index = 0
    in_description = True
    while index < len(lines):
        line = lines[index]
        google = _GOOGLE_HEADING.fullmatch(line)
        if google and not line[:1].isspace():
            index = _google_section(lines, index + 1, parameters if google[1] in _GOOGLE_PARAMETERS else {})
            in_description = False
        elif index + 1 < len(lines) and line.strip() and re.fullmatch(r"-{3,}", lines[index + 1].strip()):
            wanted = line.strip() in _NUMPY_PARAMETERS
            index = _numpy_section(lines, index + 2, parameters if wanted else {})
            in_description = False
        elif _SPHINX_FIELD.match(line):
            index = _sphinx_field(lines, index, parameters)
            in_description = False
        else:
            if in_description:
                description.append(line)
            index += 1
    paragraphs = re.split(r"\n\s*\n", "\n".join(description).strip())
    return Docstring("\n\n".join(" ".join(part.split()) for part in paragraphs if part.strip()), parameters)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _google_section(lines: list[str], index: int, into: dict[str, str]) -> int:
    item_indent: int | None = None
    name = ""
    while index < len(lines):
        line = lines[index]
        if line.strip():
            if _indent(line) == 0:
                break
            if item_indent is None:
                item_indent = _indent(line)
            item = _GOOGLE_ITEM.fullmatch(line.strip()) if _indent(line) <= item_indent else None
            if item:
                name = item[1]
                into[name] = item[2].strip()
            elif name:
                into[name] = f"{into[name]} {line.strip()}".strip()
        index += 1
    return index


def _numpy_section(lines: list[str], index: int, into: dict[str, str]) -> int:
    names: list[str] = []
    while index < len(lines):
        line = lines[index]
        following = lines[index + 1].strip() if index + 1 < len(lines) else ""
        if line.strip():
            if _indent(line) == 0:
                item = _NUMPY_ITEM.fullmatch(line.strip())
                if re.fullmatch(r"-{3,}", following) or not item:
                    break
                names = [name.strip().lstrip("*") for name in item[1].split(",")]
                into.update(dict.fromkeys(names, ""))
            else:
                for name in names:
                    into[name] = f"{into[name]} {line.strip()}".strip()
        index += 1
    return index


def _sphinx_field(lines: list[str], index: int, into: dict[str, str]) -> int:
    item = _SPHINX_ITEM.match(lines[index])
    parts = [item[2].strip()] if item else []
    index += 1
    while index < len(lines) and lines[index].strip() and _indent(lines[index]) > 0:
        parts.append(lines[index].strip())
        index += 1
    if item:
        into[item[1]] = " ".join(part for part in parts if part)
    return index
