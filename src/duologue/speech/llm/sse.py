"""Server-sent events, parsed from bytes as they come, without I/O (WHATWG HTML, section 9.2.6, "Interpreting an event
stream").

Only what chat completions use: the `data` and `event` fields. Ids and retry times are skipped.
"""

from __future__ import annotations

import codecs
from typing import NamedTuple

from duologue.errors import ModelRequestError

MAX_EVENT_BYTES = 4 * 1024 * 1024


class ServerEvent(NamedTuple):
    """One event: its `data` lines joined by newlines, and its name (empty if unnamed)."""

    data: str
    event: str = ""


class SSEParser:
    """Feed it bytes in pieces of any size; it gives the events that are complete.

    Lines end in CR, LF or CRLF, also when a CRLF is split between pieces; invalid UTF-8 becomes U+FFFD; a byte order
    mark at the beginning is skipped. An event that the stream's end cuts off is dropped, as the standard says.

    Raises (from `feed`):
        ModelRequestError: an event grew past 4 MB.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line: list[str] = []
        self._line_length = 0
        self._data: list[str] = []
        self._size = 0
        self._event = ""
        self._after_cr = False
        self._begun = False

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that `piece` completes."""
        text = self._decoder.decode(piece)
        if text and not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if self._after_cr and text:
            self._after_cr = False
            text = text.removeprefix("\n")
        if text.endswith("\r"):
            self._after_cr = True
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        found: list[ServerEvent] = []
        for line in lines[:-1]:
            self._line.append(line)
            event = self._finish_line("".join(self._line))
            self._line.clear()
            self._line_length = 0
            if event is not None:
                found.append(event)
        if lines[-1]:
            self._line.append(lines[-1])
            self._line_length += len(lines[-1])
        if self._line_length + self._size > MAX_EVENT_BYTES:
            raise ModelRequestError("The model server sent one event of more than 4 MB.", hint="Is it a chat endpoint?")
        return found

    def _finish_line(self, line: str) -> ServerEvent | None:
        if not line:
            event = ServerEvent("\n".join(self._data), self._event) if self._data else None
            self._data, self._event, self._size = [], "", 0
            return event
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
            self._size += len(value)
        elif field == "event":
            self._event = value
        return None
