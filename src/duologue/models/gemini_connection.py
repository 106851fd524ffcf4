"""One connection to Gemini Live: commands become messages of the codec, what its messages mean becomes evidence.

The protocol has no names for answers: one is told from another by its order, and by the end of the model's turn. Nor can an
answer be taken back by itself; what still comes of one that nobody wants is dropped, up to the end of its turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from ..audio import Resampler
from ..engine.conversation import Item
from ..errors import ModelConnectionError, ModelRequestError
from ..events import ResponseOrigin
from ..tools.base import ToolCall
from ..wire.gemini_live import OUTPUT_RATE, ClientProtocol, Malformed, Meanings
from ..wire.gemini_live import meaning as m
from ..wire.gemini_live import messages as g
from .base import (
    Began,
    Connection,
    Context,
    Ended,
    Ending,
    Lost,
    Said,
    Setup,
    Spoke,
    ToolRequested,
    ToolWithdrawn,
    UsageEvidence,
    check_picture,
)
from .captions import Captions
from .gemini_history import PICTURES, contents_of, result
from .gemini_live import GeminiLive, instructions_of
from .gemini_transport import error_of_close
from .gemini_turns import EngineTurns, ProviderTurns
from .nova_history import result_text
from .transport import Transport, TransportClosedError

logger = logging.getLogger("duologue.models.gemini_live")

#: messages that wait for a server that does not read; then it is given up
_MOST_WAITING = 3000
#: after the last of an answer, the wait for a transcript that trails behind
_TRAILING_S = 0.3
#: within what time a connection with another voice takes over, seconds
_VOICE_S = 60.0
#: how long a handle is good at the vendor, seconds
_HANDLE_S = 7200.0
_MEMORY = "gemini-live"
_VERBATIM = "Say exactly the following, word for word, and nothing else. Do not answer it, do not add to it:\n\n"
_GO_ON = "[Go on.]"


class Resume(msgspec.Struct, frozen=True):
    """What a connection leaves to the next: a handle, when it came, and the entries that the provider knew then."""

    model: str
    handle: str
    at: float
    known: frozenset[tuple[str, str]]

    @staticmethod
    def of(model: GeminiLive, context: Context) -> Resume | None:
        """What the connection before has left, if it is good still."""
        left = context.memory.get(_MEMORY) if model.session_resumption else None
        if not isinstance(left, Resume) or left.model != model.model or context.now() - left.at > _HANDLE_S:
            return None
        return left

    @staticmethod
    def forget(context: Context) -> None:
        """The handle is good for nothing."""
        context.memory.pop(_MEMORY, None)


class _Asked:
    """An answer that was asked for and has not begun. `text` is what asks for it; None: tool results do.

    `outlived`: the user has said something since, which was answered first.
    """

    def __init__(self, response: str, text: str | None) -> None:
        self.response = response
        self.text = text
        self.sent = text is None
        self.outlived = False


class _Making:
    """The answer that is coming in."""

    def __init__(self, response: str, captions: Captions) -> None:
        self.response = response
        self.captions = captions


class GeminiConnection(Connection):
    """See the module. Made by :func:`.gemini_open.open_connection`."""

    def __init__(
        self, model: GeminiLive, context: Context, transport: Transport, setup: g.Setup, voice: str | None = None
    ) -> None:
        self.model = model
        self.context = context
        self.protocol = ClientProtocol(setup, input_rate=model.capabilities.input_rate)
        self.meanings = Meanings()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._closing = False
        self._known: frozenset[tuple[str, str]] = frozenset()  # entries that the provider resumed from its handle
        self._begun = False
        self._voice = voice
        self._current: _Making | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._dropping = False  # what is left of an answer that nobody wants is coming in
        self._made = False  # the answer of the model's turn is whole; the turn is not over yet
        self._asked: deque[_Asked] = deque()
        self._typed = ""
        self._notes: list[str] = []
        self._late: list[str] = []  # results that only text can carry, until an answer is asked for
        self._results: list[g.FunctionResponse] = []
        self._called_on = False  # calls came in the model's turn, in which it may speak on while they run
        self._tools: Literal["none", "given", "spoken"] = "none"  # results on this connection: what came of them
        self._resampler: Resampler | None = None
        turns = ProviderTurns if model.automatic else EngineTurns
        self.turns: ProviderTurns | EngineTurns = turns(self)
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.Interrupted: self._interrupted,
            m.Activity: self._activity,
            m.UserWords: lambda e: self.turns.words(e),
            m.ModelWords: self._words,
            m.ModelAudio: self._audio,
            m.Called: self._called,
            m.Withdrawn: lambda e: self.context.report(ToolWithdrawn(calls=e.ids)),
            m.Generated: self._generated,
            m.TurnOver: self._turn_over,
            m.Resumable: self._resumable,
            m.GoingAway: lambda e: self.context.report(Ending(in_s=e.in_s, reason="the provider goes away")),
            m.Used: self._used,
        }

    # ------------------------------------------------------------------ life

    async def start(self, resumed: Resume | None) -> None:
        """Set the session up. Raises a typed error."""
        if resumed is not None:
            self._known = resumed.known
        self.protocol.begin()
        await self._flush()
        while self.protocol.state != "open":
            try:
                received = self.protocol.receive(await self._transport.receive())
            except TransportClosedError as closed:
                tried = f" for {self.model.model} ({self.model.api_version})"
                raise error_of_close(closed.code, closed.reason, tried) from None
            if isinstance(received, g.ServerMessage):
                self._take(received)
        self.context.spawn(self._read, "reading from Gemini")
        self.context.spawn(self._write, "writing to Gemini")

    async def _read(self) -> None:
        while not self._closing:
            try:
                frame = await self._transport.receive()
            except TransportClosedError as closed:
                self.protocol.closed()
                if not self._closing:
                    if self._ending is not None:
                        self._end_current()  # it is whole
                    self.context.report(Lost(error=error_of_close(closed.code, closed.reason)))
                return
            received = self.protocol.receive(frame)
            if isinstance(received, Malformed):
                logger.debug("a message that is none: %s", received.why)
            elif received is not None:
                self._take(received)
            self._wake.set()

    def _take(self, message: g.ServerMessage) -> None:
        for meaning in self.meanings.take(message):
            if (handler := self._handlers.get(type(meaning))) is not None:
                handler(meaning)

    async def _write(self) -> None:
        while not self._closing:
            self._wake.clear()
            if self.protocol.waiting > _MOST_WAITING:
                raise ModelConnectionError("Gemini does not read what is sent.")
            try:
                await self._flush()
            except TransportClosedError:
                return  # the reader learns of it too, and why
            await self._wake.wait()

    async def _flush(self) -> None:
        while (frame := self.protocol.next_frame()) is not None:
            await self._transport.send(frame)

    async def close(self) -> None:
        """See Connection."""
        self._closing = True
        self.protocol.closed()
        if self._ending is not None:
            self._ending.cancel()
        self.turns.close()
        self._wake.set()
        await self._transport.close()

    @property
    def usable(self) -> bool:
        """Whether anything can be sent."""
        return self.protocol.state == "open"

    def begin(self, history: Sequence[Item]) -> None:
        """See Connection. What the provider resumed from its handle is not sent again."""
        if not self.usable:
            return
        self._begun = True
        self._check_voice(self.context.setup())
        first = self.model.abilities.history_first
        turns = contents_of([item for item in history if _key(item) not in self._known], user_last=not first)
        if turns or first:
            self.protocol.content(turns, turn_complete=first)
        self._wake.set()

    # ------------------------------------------------------------------ the user

    def audio(self, pcm: bytes, position: int) -> None:
        """See Connection."""
        if self.usable:
            self.turns.audio(pcm, position)
            self._wake.set()

    def input_ended(self) -> None:
        """See Connection."""
        if self.usable:
            self.turns.muted()
            self._wake.set()

    def image(self, data: bytes, mime: str) -> None:
        """See Connection."""
        check_picture(data, mime, PICTURES)
        if self.usable:
            self.protocol.video(data, mime)
            self._wake.set()

    def text(self, turn: str, text: str) -> None:
        """See Connection."""
        self._typed = text

    def item(self, item: Item) -> None:
        """See Connection. `clientContent` would interrupt the model: it waits, or goes with the next text."""
        if item.text:
            self._notes.append(item.text if item.kind == "user" else f"[Context: {item.text}]")
            self._pump()

    def prepare(self, turn: str, *, reply: bool) -> None:
        """See Connection."""
        if self.usable:
            self.turns.prepare(turn, reply=reply)
            self._wake.set()

    def commit(self, turn: str) -> None:
        """See Connection."""
        typed, self._typed = self._typed, ""
        if not self.usable:
            return
        for asked in list(self._asked):
            if asked.text is None and self.model.background and not asked.outlived:
                asked.outlived = True
                continue
            self._asked.remove(asked)
            self._over(asked.response, "cancelled" if asked.text is not None else "completed")
        if typed and self._current is not None:
            self._drop_current()
        if not self.turns.commit(turn, self._with_notes(typed) if typed else ""):
            response = self.context.next_response()
            self.turns.answered(unasked=False)
            self.context.report(Began(response=response, turn=turn))
            self._over(response, "completed")
        self._wake.set()

    def reopen(self, turn: str) -> None:
        """See Connection."""
        if self.usable:
            if self._current is not None:
                self._drop_current()
            self.turns.reopen(turn)
            self._wake.set()

    def discard(self, turn: str) -> None:
        """See Connection."""
        if self.usable:
            self.turns.discard()
            self.user_ready()
            self._wake.set()

    # ------------------------------------------------------------------ answers

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection. The model goes on by itself once it has its tools' results."""
        self.context.report(Began(response=response, origin=origin))
        late, self._late = self._late, []
        told_now = not late and not instructions
        if self._results and self.model.background:
            # All results of a request at once, when the floor is free for what the model says of them.
            self._give_results(self.model.scheduling if told_now else "SILENT")
            if told_now:
                self._asked.append(_Asked(response, None))
                return
        if origin in ("tool", "farewell") and not late and not instructions:
            if self._tools == "spoken" or self.protocol.calls:
                self._over(response, "completed")  # it has been spoken of, or waits for the rest
                return
            if self._tools == "given":
                self._asked.append(_Asked(response, None))
                self.user_ready()
                return
        told = [f"[Instruction, not said by the user: {instructions}]"] if instructions else []
        self._ask(response, "\n".join([*late, *told]) or _GO_ON)

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """See Connection. The provider has no verbatim speech: it is instructed. While it waits for a tool it says nothing."""
        self.context.report(Began(response=response, origin=origin))
        if origin == "filler" and self.protocol.calls and not self.model.background:
            self._over(response, "cancelled")
        else:
            self._ask(response, _VERBATIM + text)

    def _ask(self, response: str, text: str) -> None:
        self._asked.append(_Asked(response, text))
        self._pump()

    def _pump(self) -> None:
        """Ask for the next answer, or tell what came up, if nothing else is going on."""
        if not self.usable or self._current is not None or self._dropping or self.turns.busy or self.meanings.open:
            return
        if self._asked and not self._asked[0].sent:
            asked = self._asked[0]
            asked.sent = True
            assert asked.text is not None
            self.turns.send_text(self._with_notes(asked.text))
        elif self._notes and not self._asked and not self.model.abilities.history_first:
            notes, self._notes = self._notes, []
            self.protocol.content([g.Content(parts=[g.Part(text="\n".join(notes))])], turn_complete=False)
        self._wake.set()

    def _with_notes(self, text: str) -> str:
        notes, self._notes = self._notes, []
        return "\n".join([*notes, text])

    def cancel(self, response: str) -> None:
        """See Connection."""
        if self._current is not None and self._current.response == response:
            self._drop_current()
            self._take_floor()
            return
        for asked in self._asked:
            if asked.response == response:
                self._asked.remove(asked)
                self._dropping = self._dropping or asked.sent
                self._over(response, "cancelled")
                return

    def truncate(self, response: str, samples: int) -> None:
        """See Connection. The provider cannot be told how much was heard; that the user took the floor it can."""
        self._take_floor()

    def _take_floor(self) -> None:
        if self.usable:
            self.turns.take_floor()
            self._wake.set()

    def _drop_current(self) -> None:
        assert self._current is not None
        response = self._current.response
        self._release()
        self._dropping = self.meanings.open
        self._over(response, "cancelled")

    def _over(self, response: str, status: Literal["completed", "cancelled", "failed"]) -> None:
        self.context.report(Ended(response=response, status=status))

    def tool_result(self, call: str, name: str, text: str, *, error: bool) -> None:
        """See Connection. A result for a call of an older connection goes as text."""
        if not self.usable:
            return
        if call not in self.protocol.calls:
            self._late.append(f"[{result_text(name, text, failed=error)}]")
            return
        answer = g.FunctionResponse(id=call, name=name, response=result(text, error=error))
        self._results.append(answer)
        if self.model.background:
            return  # until an answer to it is wanted
        self._tools = "given"
        if not (isinstance(self.turns, EngineTurns) and self.protocol.activity):
            self.user_ready()  # else the model would speak into the user's turn

    def user_ready(self) -> None:
        """Results that were held while the user spoke go now (see Owner)."""
        if self._results and self.usable and not self.model.background:
            self._give_results(self.model.scheduling)

    def _give_results(self, scheduling: g.Scheduling | None) -> None:
        results, self._results = self._results, []
        self.protocol.answer([msgspec.structs.replace(result, scheduling=scheduling) for result in results])
        self._wake.set()

    def update(self, setup: Setup) -> None:
        """See Connection. Models that take no update are given a new connection instead; so is a new voice."""
        self._check_voice(setup)
        if self.usable and self.model.abilities.context_update:
            tools = g.ContextUpdateTools(tools=self.model.tools_of(setup))
            instruction = instructions_of(setup) or g.Content(parts=[g.Part(text="")])
            self.protocol.update(g.ContextUpdate(system_instruction=instruction, tools=tools))
            self._wake.set()

    def _check_voice(self, setup: Setup) -> None:
        """A voice belongs to a connection: another one needs the next."""
        if self._begun and setup.voice != self._voice:
            self._voice = setup.voice
            self.context.report(Ending(in_s=_VOICE_S, reason="another voice"))

    # ------------------------------------------------------------------ what the provider says

    def _answer(self) -> _Making | None:
        """What comes belongs to an answer; begin it if it is a new one. None if nobody wants it."""
        if self._dropping:
            return None
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        if self._current is not None:
            return self._current
        tools, waiting = self._tools, bool(self._asked) and self._asked[0].sent
        if tools == "given":
            self._tools = "spoken"
        expected = tools == "given" or waiting or self._made or self._called_on
        turn = self.turns.answered(unasked=not expected)
        if not turn and waiting:
            self._current = self._making(self._asked.popleft().response)
            return self._current
        response = self.context.next_response()
        self._current = self._making(response)
        origin: ResponseOrigin = "turn" if turn else "tool" if tools == "given" else "respond"
        self.context.report(Began(response=response, turn=turn, origin=origin))
        return self._current  # None: the session had no room for it

    def _making(self, response: str) -> _Making:
        report = self.context.report
        return _Making(response, Captions(OUTPUT_RATE, lambda text: report(Said(response=response, text=text))))

    def _release(self) -> None:
        self._current = None
        self._resampler = None
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    def _words(self, e: m.ModelWords) -> None:
        if self._made and self._current is None:
            return  # a transcript that trailed too far behind
        if (making := self._answer()) is None:
            return
        if self.model.speaks and self.context.speaks:
            making.captions.text(e.text)
        else:
            self.context.report(Said(response=making.response, text=e.text))

    def _audio(self, e: m.ModelAudio) -> None:
        if (making := self._answer()) is None or not self.context.speaks:
            return
        pcm = e.pcm
        if e.rate != OUTPUT_RATE:
            if self._resampler is None:
                self._resampler = Resampler(e.rate, OUTPUT_RATE)
            pcm = self._resampler.feed(pcm)
        making.captions.audio(len(pcm) // 2)
        if pcm:
            self.context.report(Spoke(response=making.response, pcm=pcm))

    def _called(self, e: m.Called) -> None:
        """Calls end the answer that they came in: what the model says of their results is another one."""
        making = self._answer()
        if making is None:
            unwanted = result("The user interrupted; it was not run.", error=True)
            self.protocol.answer(
                [g.FunctionResponse(id=call.id, name=call.name, response=unwanted) for call in e.calls]
            )
            return
        self._tools = "none"
        self._called_on = self.model.background
        for call in e.calls:
            asked = ToolCall(id=call.id, name=call.name, arguments=dict(call.args or {}))
            self.context.report(ToolRequested(response=making.response, call=asked))
        self._end_current()

    def _generated(self, e: m.Generated) -> None:
        self._made = True
        if self._current is not None and self._ending is None:
            self._ending = self._loop.call_later(_TRAILING_S, self._end_current)

    def _end_current(self) -> None:
        making = self._current
        if making is None:
            return
        if self._resampler is not None and (tail := self._resampler.flush()):
            self.context.report(Spoke(response=making.response, pcm=tail))
        making.captions.flush()
        self._release()
        self._over(making.response, "completed")
        if self._results:
            self.user_ready()

    def _turn_over(self, e: m.TurnOver) -> None:
        self._dropping = self._made = self._called_on = False
        if e.reason:
            logger.debug("the turn was ended: %s", e.reason)
        self._end_current()
        self.turns.over()
        if e.empty:
            self._nothing(e.reason)
        self._pump()

    def _nothing(self, reason: str) -> None:
        """The model has decided to say nothing."""
        if turn := self.turns.unanswered:
            self.turns.unanswered = ""
            response = self.context.next_response()
            self.context.report(Began(response=response, turn=turn))
            self._over(response, "completed")
        elif self._asked and self._asked[0].sent:
            asked = self._asked.popleft()
            error = ModelRequestError(f"Gemini answered nothing ({reason}).") if reason else None
            status: Literal["completed", "failed"] = "completed" if error is None else "failed"
            self.context.report(Ended(response=asked.response, status=status, error=error))
        elif isinstance(self.turns, ProviderTurns):
            self.turns.no_answer()

    def _interrupted(self, e: m.Interrupted) -> None:
        self._dropping = self._made = self._called_on = False  # what still comes of it is fenced off by its meaning
        making = self._current
        self.turns.interrupted()
        if making is not None and self._current is making:
            self._release()
            self._over(making.response, "cancelled")

    def _activity(self, e: m.Activity) -> None:
        protocol = self.protocol
        offset = protocol.sent_samples / protocol.input_rate if e.offset_s is None else e.offset_s
        self.turns.activity(e.started, protocol.position_of(offset))

    def _resumable(self, e: m.Resumable) -> None:
        if self._notes or self._late or self._results:
            return  # it does not know all that it should by then
        known = self._known
        if self._begun:
            known = frozenset(_key(item) for item in self.context.history())
        resume = Resume(model=self.model.model, handle=e.handle, at=self.context.now(), known=known)
        self.context.memory[_MEMORY] = resume

    def _used(self, e: m.Used) -> None:
        usage = e.usage
        made = usage.response_token_count + usage.thoughts_token_count
        if usage.prompt_token_count or made:
            details = msgspec.to_builtins(usage)
            evidence = UsageEvidence(input_tokens=usage.prompt_token_count, output_tokens=made, details=details)
            self.context.report(evidence)


def _key(item: Item) -> tuple[str, str]:
    return item.kind, item.id or item.text
