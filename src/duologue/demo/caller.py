"""The scripted caller: phones the agent, listens, and says their part when a person would.

They go by their ears: they speak once their own playback device has been silent for a while. Events only tell them, as a
screen would, what the agent is doing. Each step has a bound, and says what it waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..client import Call
from ..errors import DuologueError
from ..events import (
    AnyEvent,
    Interruption,
    ResponseFinished,
    ResponseStarted,
    SessionEnded,
    ToolFinished,
    ToolStarted,
    TurnCommitted,
    TurnDiscarded,
)
from .script import Script
from .tape import Tape

#: length of a frame of the microphone, seconds
_FRAME_S = 0.02
#: longest wait for the agent to begin something: a tool, an answer
_BEGIN_S = 15.0
#: longest that an answer may take to be spoken
_ANSWER_S = 60.0
#: silence within which a person would say that somebody has stopped
_STOPPED_S = 3.0


class StepError(DuologueError):
    """A step of the demo did not go as it should; `step` names it."""

    code = "demo_step"

    def __init__(self, step: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"Step “{step}”: {message}", hint=hint)
        self.step = step


class Microphone:
    """The caller's microphone: runs all the time, in frames of 20 ms, and captures silence or what they say."""

    def __init__(self, call: Call, tape: Tape) -> None:
        self._call = call
        self._tape = tape
        self._speech = bytearray()
        self._frame = round(_FRAME_S * tape.mic_rate)
        self._done = asyncio.Event()
        self._done.set()

    async def run(self) -> None:
        """Capture and send until cancelled, or until the call is over."""
        loop = asyncio.get_running_loop()
        tape = self._tape
        while True:
            due = int((loop.time() - tape.zero) * tape.mic_rate) - self._frame
            while tape.captured <= due:
                position = tape.captured
                pcm = bytes(self._speech[: 2 * self._frame]).ljust(2 * self._frame, b"\0")
                del self._speech[: 2 * self._frame]
                if not self._speech:
                    self._done.set()
                tape.speak(pcm)
                await self._call.send_audio(pcm, position=position)
            await asyncio.sleep(tape.zero + (tape.captured + self._frame) / tape.mic_rate - loop.time())

    def say(self, pcm: bytes) -> None:
        """Speak from the next frame on."""
        self._speech += pcm
        self._done.clear()

    async def spoken(self) -> None:
        """Wait until everything has been said."""
        await self._done.wait()


class Caller:
    """The caller's part. `lines` are their utterances by step; `tell(step, text)` is told what they say."""

    def __init__(
        self, call: Call, tape: Tape, script: Script, lines: dict[str, bytes], tell: Callable[[str, str], None]
    ) -> None:
        self._call = call
        self._tape = tape
        self._script = script
        self._lines = lines
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self.microphone = Microphone(call, tape)
        self.step = "greeting"
        self._changed = asyncio.Event()
        self._open: set[str] = set()
        self._answers: list[ResponseFinished] = []
        self._tools: dict[str, ToolStarted] = {}
        self._results: dict[str, ToolFinished] = {}
        self._turns: list[TurnCommitted] = []
        self._noises: list[TurnDiscarded] = []
        self._interruptions: list[Interruption] = []
        self.ended: SessionEnded | None = None

    # ------------------------------------------------------------------ noticing

    def take(self, event: AnyEvent) -> None:
        """Something happened in the call."""
        match event:
            case ResponseStarted():
                self._open.add(event.response)
            case ResponseFinished():
                self._open.discard(event.response)
                self._answers.append(event)
            case ToolStarted():
                self._tools[event.call] = event
            case ToolFinished():
                self._results[event.call] = event
            case TurnCommitted():
                self._turns.append(event)
            case TurnDiscarded():
                self._noises.append(event)
            case Interruption():
                self._interruptions.append(event)
            case SessionEnded():
                self.ended = event

    async def _until(self, what: str, condition: Callable[[], bool], within_s: float) -> None:
        """Wait for something that can be heard or that an event has told."""
        deadline = self._loop.time() + within_s
        while not condition():
            if self.ended is not None and self.step != "goodbye":
                raise StepError(self.step, f"the call ended ({self.ended.reason}: {self.ended.detail}).")
            if self._loop.time() > deadline:
                heard = f" It heard “{self._turns[-1].text}”." if self._turns else ""
                said = f" It last said “{self._answers[-1].text.strip()}”." if self._answers else ""
                raise StepError(self.step, f"waited {within_s:.0f} s in vain until {what}.{heard}{said}")
            await asyncio.sleep(_FRAME_S / 2)

    def _running(self) -> set[str]:
        return self._tools.keys() - self._results.keys()

    def _quiet(self, gap: float, *, tools: bool = True) -> Callable[[], bool]:
        """Whether the agent has nothing to say, and has been silent for `gap` seconds."""
        return lambda: (
            not self._open and not (tools and self._running()) and self._tape.silent_for(self._loop.time()) >= gap
        )

    def _speaking(self, after: float, for_s: float = 0.0) -> Callable[[], bool]:
        """Whether the agent, silent before, has been heard for `for_s` seconds in an answer begun after `after`."""

        def condition() -> bool:
            since, last = self._tape.voice_since, self._tape.last_voice
            return since is not None and last is not None and last > after and last - max(since, after) >= for_s

        return condition

    # ------------------------------------------------------------------ doing

    async def _say(self, line: str, *, wait: bool = True) -> float:
        """Say a line; returns when its first sample is captured, on the loop's clock, once it was said."""
        script = self._script
        text = script.lines[line] if line != "pause" else " … ".join(script.pause)
        self._tell(line, text)
        self.microphone.say(self._lines[line])
        began = self._loop.time()
        if wait:
            await self.microphone.spoken()
        return began

    async def _tool(self, name: str, known: int) -> str:
        """Wait until the agent begins to run the tool `name`, beyond the `known` runs; returns the call's id."""

        def found() -> list[str]:
            return [call for call, run in list(self._tools.items())[known:] if run.name == name]

        await self._until(f"the agent uses {name}", lambda: bool(found()), _BEGIN_S)
        return found()[0]

    async def _result(self, call: str) -> ToolFinished:
        await self._until(f"{self._tools[call].name} is done", lambda: call in self._results, _BEGIN_S)
        result = self._results[call]
        if result.status != "ok":
            raise StepError(self.step, f"{result.name} ended with {result.status}: {result.error}")
        return result

    async def _answer(self, known: int) -> ResponseFinished:
        """Wait until an answer with words, beyond the `known` ones, has been spoken."""

        def spoken() -> list[ResponseFinished]:
            return [answer for answer in self._answers[known:] if answer.text]

        await self._until("the agent has answered", lambda: bool(spoken()), _ANSWER_S)
        return spoken()[0]

    async def _ask(self, line: str, tool: str) -> ToolStarted:
        """Say a line, have the tool run and the answer spoken to its end."""
        tools = len(self._tools)
        await self._say(line)
        call = await self._tool(tool, tools)
        await self._result(call)
        await self._answer(len(self._answers))
        return self._tools[call]

    async def _pause(self, index: int) -> None:
        """Wait for the agent to have finished, and then as long as a person does."""
        await self._until("the agent is silent", self._quiet(self._script.gaps[index]), _ANSWER_S)

    # ------------------------------------------------------------------ the call

    async def talk(self) -> None:
        """The whole call. Raises StepError where it does not go as it should."""
        await self._until("the agent greets", lambda: self._tape.last_voice is not None, _BEGIN_S)
        await self._answer(0)
        await self._pause(0)
        await self._backchannelled()
        await self._pause(1)
        await self._barged_in()
        await self._pause(2)
        await self._meanwhile()
        await self._pause(3)
        await self._corrected()
        await self._pause(4)
        await self._paused()
        await self._pause(5)
        self.step = "note"
        await self._ask("note", "add_note")
        await self._pause(6)
        await self._goodbye()

    async def _backchannelled(self) -> None:
        """Ask for the next stop, and say "uh-huh" while the agent tells it: it must go on to the end."""
        self.step = "next stop"
        answers, tools = len(self._answers), len(self._tools)
        await self._say("next_stop")
        said = self._loop.time()
        await self._tool("next_stop", tools)
        await self._until(
            "the agent tells the next stop", self._speaking(said, self._script.backchannel_after), _BEGIN_S
        )
        self.step = "backchannel"
        await self._say("backchannel")
        turns = len(self._turns)
        while not (answer := await self._answer(answers)).heard:
            answers += 1
        if answer.status != "completed" or len(self._turns) > turns:
            raise StepError(self.step, f"the agent took it for a turn; its answer was {answer.status}.")

    async def _barged_in(self) -> None:
        """Ask for the way, and interrupt the long answer with another question."""
        self.step = "route"
        tools = len(self._tools)
        await self._say("route")
        said = self._loop.time()
        await self._tool("directions", tools)
        await self._until("the agent tells the way", self._speaking(said, self._script.barge_in_after), 2 * _BEGIN_S)
        self.step = "barge-in"
        answers, tools = len(self._answers), len(self._tools)
        began = await self._say("barge_in", wait=False)
        await self._until(
            "the agent stops",
            lambda: self._tape.silent_for(self._loop.time()) >= 0.1 < self._loop.time() - began,
            _STOPPED_S,
        )
        await self.microphone.spoken()
        cut = await self._answer(answers)
        if cut.status != "interrupted" or not cut.heard or len(cut.heard) >= len(cut.text):
            raise StepError(
                self.step, f"the answer was {cut.status} with {len(cut.heard)} of {len(cut.text)} characters."
            )
        call = await self._tool("customer", tools)
        await self._result(call)
        await self._answer(answers + 1)

    async def _meanwhile(self) -> None:
        """Have a delivery marked, which takes three seconds, and ask something else in the meantime."""
        self.step = "complete"
        answers, tools = len(self._answers), len(self._tools)
        await self._say("complete")
        slow = await self._tool("mark_complete", tools)
        await asyncio.sleep(self._script.meanwhile_after)
        self.step = "meanwhile"
        await self._say("meanwhile")
        if slow in self._results:
            raise StepError(self.step, "the slow tool was done before the question in between was asked.")
        quick = await self._tool("stops_left", tools)
        await self._result(quick)
        self.step = "complete"
        await self._result(slow)
        await self._until(
            "the agent reports both results",
            lambda: self._said(answers, "stops left") and self._said(answers, "marked as complete"),
            _ANSWER_S,
        )

    def _said(self, known: int, words: str) -> bool:
        """Whether an answer beyond the `known` ones was heard to say these words."""
        return any(words in answer.heard for answer in self._answers[known:])

    async def _corrected(self) -> None:
        """Correct oneself in mid-sentence: the tool must get what was meant."""
        self.step = "correction"
        answers, tools = len(self._answers), len(self._tools)
        await self._say("correction")
        call = await self._tool("mark_complete", tools)
        delivery = str(self._tools[call].arguments.get("delivery", ""))
        if "before" not in delivery or "last" in delivery:
            raise StepError(self.step, f"the agent understood “{delivery}”.")
        await self._result(call)
        await self._until("the agent reports it", lambda: self._said(answers, "Station Road"), _ANSWER_S)

    async def _paused(self) -> None:
        """Pause for a second in mid-sentence: the agent must wait for the rest."""
        self.step = "pause"
        turns = len(self._turns)
        await self._ask("pause", "customer")
        if len(self._turns) != turns + 1:
            raise StepError(self.step, "the agent took the sentence for more than one turn.")

    async def _goodbye(self) -> None:
        """Say goodbye: the agent answers, lets it play out and hangs up."""
        self.step = "goodbye"
        answers, tools = len(self._answers), len(self._tools)
        await self._say("goodbye")
        await self._tool("end_call", tools)
        await self._answer(answers)
        await self._until("the agent hangs up", lambda: self.ended is not None, _BEGIN_S)
        if self.ended is None or self.ended.reason != "completed":
            raise StepError(self.step, f"the call ended otherwise: {self.ended}.")
