"""The history of a conversation, as its addressee experienced it.

What the agent *said* is what was *heard*: an interrupted answer ends in the history where it ended in the listener's ear, and
one that nobody heard is not in it. Tool calls and results are part of it, so that a model that takes over knows what was done.

Compaction, when a provider's limit asks for it: pinned facts always stay; the newest items stay whole, as many as fit, and
never a result without its call; what is older becomes a rolling summary of one line a turn, itself cut to its share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

Kind = Literal["user", "assistant", "call", "result", "note"]

#: share of a byte limit that the summary may take
_SUMMARY_SHARE = 0.2
#: characters of a turn that its line in the summary keeps
_LINE = 120


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of the history.

    Attributes:
        kind: `user` and `assistant` speech or text, a tool `call`, its `result`, a `note` (context that nobody said).
        id: the turn, response or call that it belongs to.
        text: what was said, or the note; of a result the JSON text or error.
        name: of the tool; arguments: of the call.
        complete: for `assistant`, false when it was cut short. For `call`, whether its result is known.
        failed: for `result`, that the tool did not succeed; `text` says how.
        late: for `result`, that the user had another turn before it arrived.
        image, mime: a picture that came with a user entry.
    """

    kind: Kind
    id: str = ""
    text: str = ""
    name: str = ""
    arguments: Mapping[str, Any] = {}
    complete: bool = True
    late: bool = False
    failed: bool = False
    image: bytes = b""
    mime: str = ""

    @property
    def size(self) -> int:
        """Bytes that the entry takes, roughly: its text and arguments as UTF-8."""
        return (
            len(self.text.encode())
            + len(self.name)
            + (len(msgspec.json.encode(self.arguments)) if self.arguments else 0)
        )


class Conversation:
    """The history of one session. Bounded: beyond `max_items` the oldest entries move into the summary."""

    def __init__(self, *, max_items: int = 2000) -> None:
        self._items: list[Item] = []
        self._summary: list[str] = []
        self.pinned: dict[str, str] = {}
        self.max_items = max_items

    @property
    def items(self) -> tuple[Item, ...]:
        """All entries, oldest first; a reserved place of an answer that nobody has heard of yet has no text."""
        return tuple(self._items)

    @property
    def summary(self) -> str:
        """One line a turn of what was moved out of `items`."""
        return "\n".join(self._summary)

    def pin(self, name: str, fact: str) -> None:
        """Keep `fact` whatever is compacted; a later one of the same name replaces it."""
        self.pinned[name] = fact

    def user(self, turn: str, text: str, *, image: bytes = b"", mime: str = "") -> None:
        """The user's turn. The same turn again (it was reopened and went on) replaces its text, where it stands."""
        item = Item(kind="user", id=turn, text=text, image=image, mime=mime)
        if not self._replace("user", turn, item):
            self._add(item)

    def reserve(self, response: str) -> None:
        """A response begins to be spoken here: what will be heard of it has its place before what comes next."""
        self._add(Item(kind="assistant", id=response, complete=False))

    def assistant(self, response: str, heard: str, *, complete: bool) -> None:
        """What was heard of a response. Nothing heard is no entry."""
        if not heard.strip():
            self.remove("assistant", response)
            return
        item = Item(kind="assistant", id=response, text=heard, complete=complete)
        if not self._replace("assistant", response, item):
            self._add(item)

    def call(self, call: str, name: str, arguments: Mapping[str, Any]) -> None:
        """A tool was called."""
        self._add(Item(kind="call", id=call, name=name, arguments=arguments, complete=False))

    def result(self, call: str, name: str, text: str, *, failed: bool = False) -> None:
        """A tool answered. Once only: a second result for the same call is dropped."""
        for index in range(len(self._items) - 1, -1, -1):
            item = self._items[index]
            if item.kind == "call" and item.id == call:
                if item.complete:
                    return
                self._items[index] = msgspec.structs.replace(item, complete=True)
                late = any(later.kind == "user" for later in self._items[index + 1 :])
                self._add(Item(kind="result", id=call, name=name, text=text, late=late, failed=failed))
                return
        self._add(Item(kind="result", id=call, name=name, text=text, late=True, failed=failed))

    def bring_forward(self, calls: Iterable[str]) -> None:
        """These results are about to be told: they stand where they are told, not where they came in unheard."""
        wanted = set(calls)
        moved = [item for item in self._items if item.kind == "result" and item.id in wanted]
        for item in moved:
            index = self._items.index(item)
            late = item.late or any(later.kind == "user" for later in self._items[index + 1 :])
            del self._items[index]
            self._add(msgspec.structs.replace(item, late=late))

    def note(self, text: str, *, id: str = "") -> None:
        """Context that nobody said: a sensor reading, a summary from elsewhere, an instruction for the next answer."""
        self._add(Item(kind="note", id=id, text=text))

    def remove(self, kind: Kind, id: str) -> bool:
        """Take an entry out again (a turn that was none, an answer that nobody heard)."""
        for index in range(len(self._items) - 1, -1, -1):
            if self._items[index].kind == kind and self._items[index].id == id:
                del self._items[index]
                return True
        return False

    def last(self, kind: Kind) -> Item | None:
        """The newest entry of a kind."""
        return next((item for item in reversed(self._items) if item.kind == kind), None)

    def open_calls(self) -> list[Item]:
        """Tool calls without a result."""
        return [item for item in self._items if item.kind == "call" and not item.complete]

    def compacted(
        self,
        *,
        max_bytes: int | None = None,
        max_items: int | None = None,
        max_text: int | None = None,
        planned: Mapping[str, str] = {},
    ) -> list[Item]:
        """The history within a provider's limits, oldest first: a note of pinned facts and summary, then whole entries.

        Args:
            planned: for answers that are still being spoken, by response id, what they are going to say.
            max_bytes: of all entries together, the note included.
            max_items: number of entries, the note included.
            max_text: bytes of one entry's text; longer ones keep their end, which is what the conversation hangs on.
        """
        items: list[Item] = []
        for item in self._items:
            if item.kind == "assistant" and not item.text:
                if not (text := planned.get(item.id)):
                    continue
                item = msgspec.structs.replace(item, text=text)
            item = self._clip(item, max_text)
            if item.kind != "assistant" or item.text.strip():
                items.append(item)
        budget = max_bytes if max_bytes is not None else 1 << 62
        room = max_items if max_items is not None else 1 << 30
        needs_note = bool(self.pinned or self._summary)
        facts = [f"{name}: {fact}" for name, fact in self.pinned.items()]
        reserved = sum(len(fact.encode()) + 1 for fact in facts) + 64
        share = int((max_bytes if max_bytes is not None else 1 << 20) * _SUMMARY_SHARE)
        if self._summary:
            reserved += share
        total = sum(item.size for item in items)
        if total + (reserved if needs_note else 0) > budget or len(items) + needs_note > room:
            needs_note = True
            budget = max(0, budget - reserved - (0 if self._summary else share))
            room -= 1
        kept: list[Item] = []
        used = 0
        for item in reversed(items):
            if used + item.size > budget or len(kept) >= room:
                break
            kept.append(item)
            used += item.size
        kept.reverse()
        dropped = items[: len(items) - len(kept)]
        calls = {item.id for item in kept if item.kind == "call"}
        orphans = [item for item in kept if item.kind == "result" and item.id not in calls]
        kept = [item for item in kept if not (item.kind == "result" and item.id not in calls)]
        if not needs_note:
            return kept
        lines = self._summary + [line for item in (*dropped, *orphans) if (line := _line(item))]
        summary: list[str] = []
        for line in reversed(lines):
            share -= len(line.encode()) + 1
            if share < 0:
                break
            summary.append(line)
        parts = []
        if facts:
            parts.append("Known facts:\n" + "\n".join(facts))
        if summary:
            parts.append("Earlier in this conversation:\n" + "\n".join(reversed(summary)))
        text = "\n".join(parts)
        if not text:
            return kept
        limit = min(max_text if max_text is not None else 1 << 62, max_bytes if max_bytes is not None else 1 << 62)
        if len(text.encode()) > limit:  # pinned facts that alone exceed the limit
            text = text.encode()[:limit].decode(errors="ignore")
        return [Item(kind="note", id="summary", text=text), *kept]

    def dump(self, max_bytes: int | None = None) -> bytes:
        """Everything, as JSON; :meth:`load` takes it back.

        Beyond `max_bytes` the oldest entries are given as lines of the summary, and the oldest of those are left out; pinned
        facts are never, and neither is a result kept without its call. Pictures count, too.
        """
        everything = msgspec.json.encode(_Dump(self._items, self._summary, self.pinned))
        if max_bytes is None or len(everything) <= max_bytes:
            return everything
        room = max_bytes - len(msgspec.json.encode(_Dump([], [], self.pinned)))
        share = int(room * _SUMMARY_SHARE)
        kept = _newest(self._items, room - share, lambda item: len(msgspec.json.encode(item)) + 1)
        while kept < len(self._items) and self._items[kept].kind == "result":
            kept += 1
        lines = [*self._summary, *(line for item in self._items[:kept] if (line := _line(item)))]
        lines = lines[_newest(lines, share, lambda line: len(msgspec.json.encode(line)) + 1) :]
        return msgspec.json.encode(_Dump(self._items[kept:], lines, self.pinned))

    def load(self, data: bytes) -> None:
        """Replace the history by a dumped one. Raises `msgspec.ValidationError` for anything else."""
        state = msgspec.json.decode(data, type=_Dump)
        self._items, self._summary, self.pinned = state.items, state.summary, state.pinned

    def extend(self, items: Iterable[Item]) -> None:
        """Seed the history with entries from elsewhere."""
        for item in items:
            self._add(item)

    @staticmethod
    def _clip(item: Item, max_text: int | None) -> Item:
        if max_text is None or len(item.text.encode()) <= max_text:
            return item
        return msgspec.structs.replace(item, text=item.text.encode()[-max_text:].decode(errors="ignore"))

    def _add(self, item: Item) -> None:
        self._items.append(item)
        if len(self._items) > self.max_items:
            # Half at once, so that this is rare; a call moves out together with its result or not at all.
            half = len(self._items) // 2
            while half and self._items[half].kind == "result":
                half -= 1
            self._summary.extend(line for old in self._items[:half] if (line := _line(old)))
            self._summary = self._summary[-self.max_items :]
            del self._items[:half]

    def _replace(self, kind: Kind, id: str, item: Item) -> bool:
        for index in range(len(self._items) - 1, max(-1, len(self._items) - 64), -1):
            if self._items[index].kind == kind and self._items[index].id == id:
                self._items[index] = item
                return True
        return False


class _Dump(msgspec.Struct):
    items: list[Item]
    summary: list[str]
    pinned: dict[str, str]


def _newest[T](entries: Sequence[T], room: int, size: Callable[[T], int]) -> int:
    """From which entry on the newest ones fit into `room` bytes."""
    first = len(entries)
    while first and (room := room - size(entries[first - 1])) >= 0:
        first -= 1
    return first


def _line(item: Item) -> str:
    text = " ".join(item.text.split())
    if len(text) > _LINE:
        text = text[: _LINE - 1] + "…"
    match item.kind:
        case "user":
            return f"User: {text}"
        case "assistant":
            return f"Assistant: {text}"
        case "result":
            return f"{item.name} returned: {text}"
        case _:
            return ""
