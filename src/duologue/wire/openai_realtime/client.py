"""The client's side of one link: what may be sent when, and what the server's events amount to. No I/O, no clock.

What is learnt here once, so that no adapter has to: one response at a time (a request made while another runs waits for its end);
answers are told apart by `metadata`, or by order where a server does not return it; audio that trails in after the end of its
response is fenced off; truncation is clamped to what was received, since the vendor refuses anything beyond; milliseconds of the
provider's detection count the audio sent on this link, and are brought back to the user's track.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, Literal

import msgspec

from duologue.errors import ProtocolError

from . import faults
from .config import SessionPatch
from .events import (
    AnyServerEvent,
    AudioDelta,
    AudioDone,
    ClientEvent,
    ErrorReported,
    InputAudioAppend,
    InputAudioClear,
    InputAudioCommit,
    InputCommitted,
    ItemCreate,
    ItemDelete,
    ItemTruncate,
    ResponseCancel,
    ResponseCreate,
    ResponseCreated,
    ResponseDone,
    ResponseParams,
    SessionCreated,
    SessionUpdate,
    SessionUpdated,
    TextDelta,
    TranscriptDelta,
    UnknownEvent,
)
from .faults import envelope
from .items import Item

#: rate of the audio both ways, Hz: the vendor's PCM has no other
RATE = 24_000
#: key in a response's metadata that names our request
METADATA_KEY = "duologue"
#: answers' items, and cuts in the user's track, that are remembered
_REMEMBERED = 256
_DELTAS = (AudioDelta, TranscriptDelta, TextDelta, AudioDone)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyServerEvent] = msgspec.json.Decoder(AnyServerEvent)


class Malformed(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is none of this protocol, or came when it may not. The link goes on."""

    type: str
    why: str


FromServer = AnyServerEvent | UnknownEvent | Malformed


class _Wanted(msgspec.Struct):
    """A response that was asked for. `event_id` once it was sent."""

    key: str
    params: ResponseParams
    event_id: str = ""


class ClientProtocol:
    """One link to a server.

    Args:
        automatic: whether the server begins answers by itself, when its own detection ends a turn.

    Attributes:
        state: `connecting` until `session.created` came; `closed` from :meth:`closed` on.
        session: what the server said of the session last.
        stale: deltas that came after the end of their response.
        malformed: messages that were none.
        sent_samples: user audio sent on this link.
    """

    def __init__(self, *, automatic: bool = True) -> None:
        self.automatic = automatic
        self.state: Literal["connecting", "open", "closed"] = "connecting"
        self.session: dict[str, Any] = {}
        self.stale = 0
        self.malformed = 0
        self.sent_samples = 0
        self._uncommitted = 0
        self._out: deque[str] = deque()
        self._count = 0
        self._active: OrderedDict[str, str] = (
            OrderedDict()
        )  # open responses, with the key of their request ("": its own)
        self._sent: list[_Wanted] = []  # requested and not yet begun
        self._waiting: list[_Wanted] = []  # to be requested when nothing is under way
        self._expect_automatic = False
        self._received: OrderedDict[str, int] = OrderedDict()  # samples of each answer's item
        self._track: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)  # (sample of this link, position on the track)

    # ------------------------------------------------------------------ sending

    def next_frame(self) -> str | None:
        """The next message to the server."""
        return self._out.popleft() if self._out else None

    @property
    def waiting(self) -> int:
        """Messages to be sent."""
        return len(self._out)

    def send(self, event: ClientEvent) -> str:
        """Queue an event; returns its id. Raises ProtocolError unless the link is open."""
        if self.state != "open":
            raise ProtocolError(f"The link is {self.state}; nothing can be sent.", code="not_open")
        self._count += 1
        event_id = event.event_id or f"ev_{self._count}"
        if event.event_id is None:
            event = msgspec.structs.replace(event, event_id=event_id)
        self._out.append(_encoder.encode(event).decode())
        return event_id

    def update(self, patch: SessionPatch) -> str:
        """Change the session."""
        return self.send(SessionUpdate(session=patch))

    def audio(self, pcm: bytes, position: int) -> None:
        """User audio (PCM16 at 24 kHz) whose first sample is at `position` of the user's track."""
        if not self._track or position - self._track[-1][1] != self.sent_samples - self._track[-1][0]:
            self._track.append((self.sent_samples, position))
        self.send(InputAudioAppend(audio=pcm))
        self.sent_samples += len(pcm) // 2
        self._uncommitted += len(pcm) // 2

    def commit(self) -> bool:
        """End the user's message by hand. False, and nothing sent, where less than 100 ms could be committed."""
        if self._uncommitted < RATE // 10:
            return False
        self._uncommitted = 0
        self.send(InputAudioCommit())
        return True

    def clear(self) -> None:
        """Take back what was not committed."""
        self._uncommitted = 0
        self.send(InputAudioClear())

    def create(self, item: Item) -> None:
        """Put an item at the end of the conversation."""
        self.send(ItemCreate(item=item))

    def delete(self, item_id: str) -> None:
        """Take an item out."""
        self.send(ItemDelete(item_id=item_id))

    def truncate(self, item_id: str, ms: int) -> bool:
        """The user heard only `ms` of this answer. False, and nothing sent, for what needs or bears no truncation."""
        received = self._received.get(item_id)
        if received is None:
            return False
        whole = received * 1000 // RATE
        if ms >= whole:
            return False
        self._received[item_id] = max(0, ms) * RATE // 1000
        self.send(ItemTruncate(item_id=item_id, content_index=0, audio_end_ms=max(0, ms)))
        return True

    def respond(self, key: str, params: ResponseParams) -> None:
        """Ask for an answer under a name of the application's: at once, or when the one under way has ended."""
        metadata = {**(params.metadata or {}), METADATA_KEY: key}
        self._waiting.append(_Wanted(key, msgspec.structs.replace(params, metadata=metadata)))
        self._request()

    def drop(self, key: str) -> bool:
        """The answer is not wanted any more. Whether that could be done without the server."""
        before = len(self._waiting)
        self._waiting = [wanted for wanted in self._waiting if wanted.key != key]
        return len(self._waiting) < before

    def cancel(self, response_id: str) -> None:
        """Ask for no more of this response."""
        if response_id in self._active:
            self.send(ResponseCancel(response_id=response_id))

    @property
    def busy(self) -> bool:
        """Whether a response is under way or asked for."""
        return bool(self._active or self._sent)

    @property
    def owed(self) -> bool:
        """Whether anything asked for has not ended."""
        return bool(self._active or self._sent or self._waiting)

    def _request(self) -> None:
        if self._waiting and not self.busy and self.state == "open":
            wanted = self._waiting.pop(0)
            wanted.event_id = self.send(ResponseCreate(response=wanted.params))
            self._sent.append(wanted)

    # ------------------------------------------------------------------ receiving

    def receive(self, message: str | bytes) -> FromServer | None:
        """The event in a message; None for what was fenced off. Never raises: what is no event is :class:`Malformed`."""
        if self.state == "closed":
            return None
        try:
            event = _decoder.decode(message)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            return self._unread(message, error)
        if self.state == "connecting" and not isinstance(event, SessionCreated | ErrorReported):
            return self._bad(str(event.__struct_config__.tag), "it came before session.created")
        if isinstance(event, _DELTAS):
            if event.response_id not in self._active:
                self.stale += 1
                return None
            if isinstance(event, AudioDelta):
                if len(event.delta) & 1:
                    return self._bad("response.output_audio.delta", "an odd number of bytes is no PCM16")
                self._receive_audio(event)
        elif isinstance(event, SessionCreated | SessionUpdated):
            self.session = event.session
            self.state = "open"
        elif isinstance(event, InputCommitted):
            self._uncommitted = 0
            self._expect_automatic = self.automatic
        elif isinstance(event, ResponseCreated):
            self._begun(event)
        elif isinstance(event, ResponseDone):
            self._active.pop(event.response.id, None)
            self._request()
        elif isinstance(event, ErrorReported):
            self._erred(event)
        return event

    def key_of(self, response_id: str) -> str:
        """The name under which this response was asked for; "" if the server began it by itself."""
        return self._active.get(response_id, "")

    def take_refused(self, event: ErrorReported) -> str:
        """The name of the request that this error refuses for good, which is forgotten; "" if it refuses none."""
        for index, wanted in enumerate(self._sent):
            if event.error.event_id == wanted.event_id:
                del self._sent[index]
                self._request()
                return wanted.key
        return ""

    def closed(self) -> None:
        """The link is gone."""
        self.state = "closed"

    def received_ms(self, item_id: str) -> int:
        """Milliseconds of audio received of an answer's item."""
        return self._received.get(item_id, 0) * 1000 // RATE

    def position_of(self, ms: int) -> int:
        """The position on the user's track of a time that the server counts in audio sent on this link."""
        sample = ms * RATE // 1000
        found = (0, 0)
        for begin, position in self._track:
            if begin > sample:
                break
            found = begin, position
        return found[1] + sample - found[0]

    def _receive_audio(self, event: AudioDelta) -> None:
        samples = self._received.pop(event.item_id, 0) + len(event.delta) // 2
        self._received[event.item_id] = samples
        if len(self._received) > _REMEMBERED:
            self._received.popitem(last=False)

    def _begun(self, event: ResponseCreated) -> None:
        response = event.response
        named = (response.metadata or {}).get(METADATA_KEY)
        match = next((wanted for wanted in self._sent if wanted.key == named), None)
        if match is None and named is None and self._sent and not self._expect_automatic:
            match = self._sent[0]  # a server that does not return metadata: answers come in the order of requests
        self._expect_automatic = False
        if match is not None:
            self._sent.remove(match)
        self._active[response.id] = match.key if match is not None else ""
        if len(self._active) > _REMEMBERED:
            self._active.popitem(last=False)

    def _erred(self, event: ErrorReported) -> None:
        if event.error.code != faults.ACTIVE_RESPONSE or not self._sent:
            return
        named = event.error.event_id
        wanted = next((entry for entry in self._sent if entry.event_id == named), None if named else self._sent[0])
        if wanted is not None:
            # The server had begun one by itself in the meantime. Ours comes after it.
            self._sent.remove(wanted)
            self._waiting.insert(0, wanted)
            self._request()

    def _unread(self, message: str | bytes, error: Exception) -> UnknownEvent | Malformed:
        kind, _ = envelope(message)
        if isinstance(kind, str) and str(error).endswith("`$.type`"):
            try:
                raw: dict[str, Any] = msgspec.json.decode(message)
            except (msgspec.MsgspecError, RecursionError, UnicodeError) as worse:
                return self._bad(kind, str(worse))
            return UnknownEvent(type=kind, raw=raw)
        return self._bad(kind if isinstance(kind, str) else "", str(error))

    def _bad(self, kind: str, why: str) -> Malformed:
        self.malformed += 1
        return Malformed(type=kind, why=why)
