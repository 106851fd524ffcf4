"""The cascade: speech recognition, a language model and synthesis, streaming everywhere, behind the interface of a model.

It hears on every frame (voice activity), recognises while the user speaks, prepares an answer when they pause, and has it cut
into clauses of which the first is short, so that sound can follow the end of the turn at once. The floor decides when that is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

from ..audio import Resampler
from ..compute import Priority, SupersededError
from ..engine.conversation import Item
from ..errors import ConfigurationError, DuologueError, ModelError, OverloadedError
from ..events import ResponseOrigin
from ..speech.base import STT, STT_RATE, TTS, VAD, EndOfTurn, STTStream
from ..speech.clauses import ClauseChunker
from ..speech.listening import Listening
from ..speech.llm import LLM, GenerateOptions, TextDelta, ToolCallRequest, Usage
from ..tools.base import ToolCall
from .base import (
    Audio,
    Began,
    Capabilities,
    Connection,
    Context,
    Ended,
    Lost,
    Measured,
    Model,
    Recognised,
    Said,
    Setup,
    SpeechWindow,
    Spoke,
    SpokenWord,
    ToolRequested,
    TurnProbability,
    UsageEvidence,
    check_rate,
)
from .prompt import to_messages

logger = logging.getLogger("duologue.models.cascade")

#: new speech after which what was said so far is recognised again, seconds
_PARTIAL_S = 0.32
#: share of the time that this may take: on a busy machine it is done less often, so that the end of a turn does not wait for it
_PARTIAL_SHARE = 0.25
#: an utterance longer than this is settled at its next pause, so that recognising it again stays quick (samples)
_SETTLE = int(7.0 * STT_RATE)
#: probability of speech from which a window opens an utterance
_OPEN_AT = 0.5


class Cascade(Model):
    """STT, LLM and TTS as one model.

    Args:
        stt, llm, tts: the components.
        vad: makes a voice activity detector, one a connection.
        end_of_turn: judges pauses.
        audio: input rate must be 16 kHz, which is what recognition takes; any output rate (resampled); voice of the synthesiser.
        options: how the language model generates.
        speculate: begin an answer in every pause; off, it begins when the turn is over.
    """

    def __init__(
        self,
        *,
        stt: STT,
        llm: LLM,
        tts: TTS,
        vad: Callable[[], VAD],
        end_of_turn: EndOfTurn,
        audio: Audio | None = None,
        options: GenerateOptions | None = None,
        speculate: bool = True,
    ) -> None:
        self.stt = stt
        self.llm = llm
        self.tts = tts
        self.vad = vad
        self.end_of_turn = end_of_turn
        self.audio = audio or Audio()
        self.options = options or GenerateOptions()
        self.speculate = speculate
        check_rate("Speech recognition of the cascade", self.audio.input_rate, (STT_RATE,), STT_RATE)
        rate = self.audio.output_rate or tts.rate
        if not 8000 <= rate <= 48000:
            raise ConfigurationError(f"An output rate of {rate} Hz is out of range.", hint="Use 8000 to 48000.")
        self.name = f"cascade/{llm.name}"
        self.notice = "" if llm.is_language_model else llm.describe()
        self._capabilities = Capabilities(
            authority="engine",
            input_rate=STT_RATE,
            output_rate=rate,
            can_cancel=True,
            can_truncate=False,
            word_times=False,
            inputs=frozenset({"audio", "text", "sensor"}),
            say="native",
            in_process=True,
            can_update=True,
        )

    @classmethod
    def local(cls, llm: LLM | str | None = None, *, audio: Audio | None = None, speculate: bool = True) -> Cascade:
        """Everything on this machine: Moonshine, Piper and Silero from packages, no key, no network.

        Args:
            llm: a language model, or its name (``"ollama/llama3.2"``, ``"http://host/v1#model"``, a ``.gguf`` path). None: one
                that is found running on loopback, else the phrase matcher, which says that it is one.

        Raises:
            MissingDependencyError: the extra `local` is not installed.
        """
        from .local import local_cascade  # the components load native libraries; importing a cascade must not

        return local_cascade(llm, audio=audio, speculate=speculate)

    @property
    def capabilities(self) -> Capabilities:
        """See Model."""
        return self._capabilities

    async def open(self, context: Context) -> Connection:
        """See Model."""
        connection = CascadeConnection(self, context, await self.stt.open())
        return connection

    async def warm_up(self) -> None:
        """Load recogniser, synthesiser, language model and voice activity detector, and run each once."""
        self.vad().feed(bytes(STT_RATE))
        await self.tts.warm()
        await self.llm.warm_up()
        stream = await self.stt.open()
        try:
            stream.push(bytes(STT_RATE))
            stream.begin(0)
            await stream.final()
        finally:
            await stream.close()

    async def aclose(self) -> None:
        """See Model."""
        await self.stt.close()
        await self.tts.close()
        await self.llm.aclose()


#: puts the clauses of an answer into a queue, and None at the end
_Source = Callable[[asyncio.Queue[str | None]], Coroutine[Any, Any, None]]


class _Reply:
    """An answer in the making."""

    def __init__(self, response: str, turn: str, text: str) -> None:
        self.response = response
        self.turn = turn
        self.text = text
        self.task: asyncio.Task[object] | None = None
        self.cancelled = False
        self.done = False

    def cancel(self) -> None:
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()


class CascadeConnection(Connection):
    """One session's use of a cascade."""

    def __init__(self, model: Cascade, context: Context, stt: STTStream) -> None:
        self._model = model
        self._context = context
        self._stt = stt
        self._listening = Listening(model.vad(), self._heard, self._deaf)
        self._position = 0
        self._segments: list[str] = []  # settled text of the open turn
        self._open_at: int | None = None  # where the open utterance began
        self._partial_due = 0
        self._partial_running = False
        self._settling: asyncio.Task[object] | None = None
        self._replies: dict[str, _Reply] = {}
        self._speculation: _Reply | None = None
        self._committed = ""
        self._turn_texts: dict[str, str] = {}
        self._silence_from = 0
        self._voiced_since = False  # the user spoke since the text was settled
        self._setup: Setup | None = None

    # ------------------------------------------------------------------ hearing

    def audio(self, pcm: bytes, position: int) -> None:
        """See Connection. Voice activity runs on the event loop, on every window; everything heavier in the compute lanes."""
        if position != self._position:
            # A gap: what follows has nothing to do with the model state of what came before.
            self._listening.flush()
            self._listening.reset(position)
            self._stt.reset(position)
            self._open_at = None
        self._position = position + len(pcm) // 2
        self._stt.push(pcm)
        self._listening.feed(pcm)

    def _heard(self, end: int, probability: float) -> None:
        start = end - self._listening.window
        if probability >= _OPEN_AT:
            self._voiced_since = True
            if self._open_at is None:
                self._open_at = start
                self._partial_due = end + int(_PARTIAL_S * STT_RATE)
                self._stt.begin(start)
            elif end >= self._partial_due and not self._partial_running:
                self._partial_due = end + int(_PARTIAL_S * STT_RATE)
                self._partial_running = True
                self._context.spawn(self._recognise_partial, "partial recognition")
            self._silence_from = end
        self._context.report(SpeechWindow(start=start, end=end, probability=probability))

    def _deaf(self, error: ModelError) -> None:
        self._context.report(Lost(error=error))

    def hear_out(self) -> None:
        """See Connection."""
        self._listening.flush()

    async def _recognise_partial(self) -> None:
        began, position = self._context.now(), self._position
        try:
            transcript = await self._stt.partial()
        except (OverloadedError, SupersededError):
            return  # partials are a luxury
        finally:
            self._partial_running = False
            took = self._context.now() - began
            self._partial_due = max(self._partial_due, position + int(took / _PARTIAL_SHARE * STT_RATE))
        if transcript is not None and transcript.text and self._open_at is not None:
            self._context.report(Recognised(text=self._joined(transcript.text)))

    def _joined(self, text: str) -> str:
        return " ".join([*self._segments, text]).strip()

    def input_ended(self) -> None:
        """See Connection."""
        self._listening.flush()
        self._listening.reset(self._position)

    # ------------------------------------------------------------------ turns

    def text(self, turn: str, text: str) -> None:
        """See Connection."""
        self._segments.append(text)

    def prepare(self, turn: str, *, reply: bool) -> None:
        """See Connection."""
        self._start_settling(turn, reply=reply and self._model.speculate)

    def commit(self, turn: str) -> None:
        """See Connection."""
        self._committed = turn
        speculation = self._speculation
        if speculation is not None and speculation.turn == turn and self._settling is None and not self._voiced_since:
            self._forget_utterance(turn, speculation.text)
            self._speculation = None
            return
        if self._settling is None:
            self._start_settling(turn, reply=True)

    def _forget_utterance(self, turn: str, text: str) -> None:
        """The turn has its text: what is said from now on is another one."""
        self._turn_texts = {turn: text}
        self._segments = []
        self._stt.discard()
        self._open_at = None

    def reopen(self, turn: str) -> None:
        """See Connection."""
        self._committed = ""
        self._drop_turn(turn)
        # What was committed is the beginning of the turn that goes on. The utterance that goes on is open already.
        if (text := self._turn_texts.pop(turn, "")) and not self._segments:
            self._segments = [text]

    def discard(self, turn: str) -> None:
        """See Connection."""
        self._drop_turn(turn)
        self._segments = []
        self._stt.discard()
        self._open_at = None

    def _drop_turn(self, turn: str) -> None:
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        for reply in [reply for reply in self._replies.values() if reply.turn == turn]:
            self.cancel(reply.response)
        if self._speculation is not None and self._speculation.turn == turn:
            self.cancel(self._speculation.response)

    def _start_settling(self, turn: str, *, reply: bool) -> None:
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        self._voiced_since = False

        async def settle() -> None:
            task = self._settling = asyncio.current_task()
            try:
                await self._settle(turn, reply)
            finally:
                if self._settling is task:
                    self._settling = None

        self._context.spawn(settle, f"settling {turn}")

    async def _settle(self, turn: str, reply: bool) -> None:
        """Find out what was said up to this pause, whether that is all, and begin to answer it."""
        text = await self._settled_text()
        now = self._context.now()
        self._context.report(Measured(point="stt_final", now=now, turn=turn))
        stale = self._speculation
        if stale is not None and stale.turn == turn and stale.text != text:
            # It answers half a sentence. What is reported next may open the gate, so it must be gone by then.
            self.cancel(stale.response)
        if turn != self._committed:
            probability = await self._probability(text)
            # First how sure, then what: the text is what lets the floor act.
            self._context.report(TurnProbability(probability=probability))
        self._context.report(Recognised(text=text, final=True, turn=turn))
        if turn == self._committed:
            self._settling = None
            self._forget_utterance(turn, text)
        if not text:
            if turn == self._committed:
                response = self._context.next_response()
                self._context.report(Began(response=response, turn=turn))
                self._context.report(Ended(response=response))
            return
        if reply or turn == self._committed:
            self._answer(turn, text)
            if turn == self._committed:
                self._speculation = None

    async def _settled_text(self) -> str:
        if self._open_at is None:
            return " ".join(self._segments).strip()
        if self._position - self._open_at > _SETTLE:
            transcript = await self._stt.final()
            self._open_at = None
            if transcript.text:
                self._segments.append(transcript.text)
            return " ".join(self._segments).strip()
        transcript = await self._stt.peek()
        return self._joined(transcript.text)

    async def _probability(self, text: str) -> float:
        if not text:
            return 0.0
        question = next((item.text for item in reversed(self._context.history()) if item.kind == "assistant"), None)
        if question is not None and not question.rstrip().endswith("?"):
            question = None
        silence = max(0, self._position - self._silence_from) / STT_RATE
        probability = await self._model.end_of_turn.probability(text, silence=silence, question=question)
        could_continue = getattr(self._model.llm, "could_continue", None)
        if could_continue is not None:
            # A matcher knows the sentences it waits for: half of one is not a turn, however complete it sounds.
            probability = min(probability, 1.0 - could_continue(text, self._context.setup().tools, question))
        return probability

    # ------------------------------------------------------------------ answering

    def _answer(self, turn: str, text: str) -> None:
        old = self._speculation
        if old is not None and old.turn == turn:
            if old.text == text and not old.cancelled:
                return
            self.cancel(old.response)
        reply = _Reply(self._context.next_response(), turn, text)
        self._speculation = reply
        items = [item for item in self._context.history() if not (item.kind == "user" and item.id == turn)]
        items.append(Item(kind="user", id=turn, text=text))
        self._context.report(Began(response=reply.response, turn=turn))
        self._run(reply, items, "")

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        self._context.report(Began(response=response, origin=origin))
        self._run(_Reply(response, "", ""), list(self._context.history()), instructions)

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        """See Connection."""
        self._context.report(Began(response=response, origin=origin))
        reply = _Reply(response, "", text)

        async def source(clauses: asyncio.Queue[str | None]) -> None:
            chunker = ClauseChunker()
            for clause in [*chunker.feed(text), *chunker.flush()]:
                await clauses.put(clause)
            await clauses.put(None)

        self._start(reply, source)

    def cancel(self, response: str) -> None:
        """See Connection."""
        reply = self._replies.pop(response, None)
        if reply is not None:
            reply.cancel()
        if self._speculation is not None and self._speculation.response == response:
            self._speculation = None
        # Even one that is wholly made: behind the gate it must not stay.
        self._context.report(Ended(response=response, status="cancelled"))

    def _run(self, reply: _Reply, items: Sequence[Item], instructions: str) -> None:
        setup = self._context.setup()
        messages = to_messages(setup.instructions, items, instructions)

        async def source(clauses: asyncio.Queue[str | None]) -> None:
            chunker = ClauseChunker()
            first = True
            stream = self._model.llm.generate(messages, setup.tools, options=self._model.options)
            async with aclosing(stream):
                async for event in stream:
                    if first and not isinstance(event, Usage):
                        first = False
                        self._context.report(
                            Measured(point="llm_first_token", now=self._context.now(), turn=reply.turn)
                        )
                    if isinstance(event, TextDelta):
                        for clause in chunker.feed(event.text):
                            await clauses.put(clause)
                    elif isinstance(event, ToolCallRequest):
                        call = ToolCall(id=event.id, name=event.name, arguments=event.arguments)
                        self._context.report(ToolRequested(response=reply.response, call=call))
                    elif isinstance(event, Usage):
                        self._context.report(
                            UsageEvidence(input_tokens=event.input_tokens, output_tokens=event.output_tokens)
                        )
            for clause in chunker.flush():
                await clauses.put(clause)
            await clauses.put(None)

        self._start(reply, source)

    def _start(self, reply: _Reply, source: _Source) -> None:
        self._replies[reply.response] = reply

        async def make() -> None:
            reply.task = asyncio.current_task()
            if reply.cancelled:
                return
            error: DuologueError | None = None
            try:
                await self._make(reply, source)
            except* Exception as group:
                logger.debug("answer %s failed", reply.response, exc_info=group)
                cause = _first(group)
                error = cause if isinstance(cause, DuologueError) else ModelError(f"The answer failed: {cause!r}")
            finally:
                reply.done = True
                mine = self._replies.pop(reply.response, None) is not None
            if mine:
                self._context.report(
                    Ended(response=reply.response, status="failed" if error is not None else "completed", error=error)
                )

        self._context.spawn(make, f"answer {reply.response}")

    async def _make(self, reply: _Reply, source: _Source) -> None:
        clauses: asyncio.Queue[str | None] = asyncio.Queue(maxsize=64)
        async with asyncio.TaskGroup() as group:
            group.create_task(source(clauses))
            resampler: Resampler | None = None
            rate = self._model.capabilities.output_rate
            first = True
            while (clause := await clauses.get()) is not None:
                if not clause:
                    continue
                # Clauses come without the space between them, which what is shown and remembered needs.
                spaced = clause if first or not clause[0].isascii() else f" {clause}"
                self._context.report(Said(response=reply.response, text=spaced))
                if not self._context.speaks:
                    first = False
                    continue
                # Whoever hears the first clause has waited in silence; the others have something to listen to.
                priority = Priority.URGENT if first else Priority.NORMAL
                first = False
                speech = self._model.tts.synthesize(
                    clause, voice=self._context.setup().voice or self._model.audio.voice, priority=priority
                )
                async with aclosing(speech) as chunks:
                    async for chunk in chunks:
                        pcm = chunk.pcm
                        if chunk.rate != rate:
                            resampler = resampler or Resampler(chunk.rate, rate)
                            pcm = resampler.feed(pcm)
                        words = tuple(
                            SpokenWord(
                                clause[w.offset : w.offset + w.length],
                                w.start * rate // chunk.rate,
                                w.end * rate // chunk.rate,
                            )
                            for w in chunk.words or ()
                        )
                        self._context.report(Spoke(response=reply.response, pcm=pcm, words=words))
                        await self._context.room(reply.response)
            if resampler is not None and (tail := resampler.flush()):
                self._context.report(Spoke(response=reply.response, pcm=tail))

    async def close(self) -> None:
        """See Connection."""
        for reply in list(self._replies.values()):
            reply.cancel()
        self._replies.clear()
        if self._settling is not None:
            self._settling.cancel()
        self._listening.close()
        await self._stt.close()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
