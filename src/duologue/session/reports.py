"""What the model reports: evidence of the user for the floor, parts of answers for the responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..engine.floor import State
from ..errors import OverloadedError
from ..events import ErrorEvent, SessionGoingAway, UsageReported, UserTranscript
from ..models import base as m

if TYPE_CHECKING:
    from .conductor import Conductor


class Reports:
    """Takes the evidence of one session's model; see :mod:`duologue.models.base` for each kind."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._floor = conductor.floor
        self._responses = conductor.responses
        self._measures = conductor.measures
        self._exchange = conductor.exchange
        self._window = conductor.facts.window
        self._now = conductor.now
        self._authority = conductor.capabilities.authority
        self._output_rate = conductor.capabilities.output_rate
        self._ms = 1000 / conductor.capabilities.input_rate  # of a sample of the user's track
        self._told = ("", "", False)
        owner, emit = conductor.owner, conductor.emit
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.SpeechWindow: self._speech_window,
            m.Recognised: self._recognised,
            m.TurnProbability: self._turn_probability,
            m.ProviderSpeech: self._provider_speech,
            m.ProviderCommitted: self._provider_committed,
            m.Began: self._began,
            m.Said: self._said,
            m.Spoke: self._spoke,
            m.Ended: self._ended,
            m.ToolRequested: self._tool_requested,
            m.ToolWithdrawn: lambda e: owner.tools_withdrawn(e.calls),
            m.UsageEvidence: self._usage,
            m.Measured: lambda e: self._measures.point(e.turn or self._floor.turn, e.point, e.now),
            m.Refused: lambda e: emit(ErrorEvent(code=e.error.code, message=str(e.error))),
            m.Ending: lambda e: emit(SessionGoingAway(in_s=e.in_s, reason=e.reason)),
            m.Lost: lambda e: owner.connection_lost(e.error),
        }

    def take(self, evidence: m.Evidence) -> None:
        """Take a piece of evidence; after the end of the session there is nothing to be done with it."""
        if self._floor.state is not State.CLOSED:
            self._handlers[type(evidence)](evidence)

    # ------------------------------------------------------------------ of the user

    def _speech_window(self, e: m.SpeechWindow) -> None:
        ms = self._ms
        if actions := self._window(e.start * ms, e.end * ms, e.probability, self._now()):
            self._conductor.obey(actions)

    def _recognised(self, e: m.Recognised) -> None:
        conductor, floor = self._conductor, self._floor
        turn = e.turn or floor.turn
        if turn in self._exchange.over and (turn != floor.turn or floor.state is not State.THINKING):
            self._told_late(turn, e)
            return
        if turn != floor.turn:
            return
        told = (turn, e.text, e.final)
        if told != self._told and (e.text or self._told[1]):
            self._told = told
            conductor.emit(UserTranscript(turn=turn, text=e.text, final=e.final))
        if e.final and floor.state is State.THINKING:
            # Recognition settled only after the turn was over (hard maximum): history gets what was really said.
            conductor.conversation.user(turn, e.text)
        conductor.fact("recognised", e.text, e.final)

    def _told_late(self, turn: str, e: m.Recognised) -> None:
        """A provider transcribes beside the conversation: what was said may be known only after it was answered."""
        if e.final and e.text:
            self._conductor.emit(UserTranscript(turn=turn, text=e.text, final=True))
            self._conductor.conversation.user(turn, e.text)

    def _turn_probability(self, e: m.TurnProbability) -> None:
        self._measures.probability(self._floor.turn, e.probability)
        self._conductor.fact("turn_probability", round(e.probability, 4))

    def _provider_speech(self, e: m.ProviderSpeech) -> None:
        self._conductor.fact("provider", e.fact, e.position * self._ms)

    def _provider_committed(self, e: m.ProviderCommitted) -> None:
        if self._floor.state in (State.USER, State.PAUSE):
            self._conductor.fact("commit", e.reason)

    # ------------------------------------------------------------------ of its answers

    def _began(self, e: m.Began) -> None:
        conductor, exchange, floor = self._conductor, self._exchange, self._floor
        gated = bool(e.turn) and e.turn == floor.turn and floor.state in (State.USER, State.PAUSE)
        if self._authority == "provider" and gated:
            # The provider has decided that the turn is over by answering it.
            conductor.fact("commit", "provider: it answers")
            gated = False
        if e.turn and e.turn == exchange.unwanted:
            conductor.cancel(e.response)
            return
        if e.turn == exchange.turn:
            exchange.begun = True
        if not conductor.present:
            conductor.speaking.begun_in_vain(e.response)
            conductor.cancel(e.response)
            return
        try:
            self._responses.begin(e.response, e.origin, e.turn, self._output_rate, gated=gated)
        except OverloadedError as error:
            conductor.emit(ErrorEvent(code=error.code, message=str(error), ref=e.response))
            conductor.cancel(e.response)
        conductor.settle_idleness()

    def _said(self, e: m.Said) -> None:
        response = self._responses.get(e.response)
        if response is not None:
            self._responses.said(response, e.text)

    def _spoke(self, e: m.Spoke) -> None:
        conductor = self._conductor
        response = self._responses.get(e.response)
        if response is None or response.generated:
            self._measures.dropped("stale_audio_samples", len(e.pcm) // 2)
            return
        first = not response.samples
        response.add(e.pcm, e.words)
        if first and (turn := conductor.speaking.answered_turn(response)):
            self._measures.point(turn, "tts_first_audio", self._now())
        if not self._responses.spoke(response):
            limit = conductor.limits.options.max_response_s
            conductor.emit(
                ErrorEvent(code="limit_exceeded", message=f"A response exceeded {limit:g} s of audio and was ended.")
            )
            self._responses.ended(response)
            self._exchange.cut_off = response.id
            if not response.gated:  # a model whose speculation is cancelled begins anew
                conductor.cancel(response.id)

    def _ended(self, e: m.Ended) -> None:
        conductor, exchange = self._conductor, self._exchange
        response = self._responses.get(e.response)
        if response is None or response.id == exchange.cut_off:
            return
        if e.error is not None:
            conductor.emit(ErrorEvent(code=e.error.code, message=str(e.error), ref=e.response))
        if e.status == "completed" or (response.samples and not response.gated):
            self._responses.ended(response)
        elif response.status is None:
            if e.status == "failed" and response.gated:
                exchange.failed = response.turn
            self._responses.cancel(response, e.status, str(e.error) if e.error else "cancelled")
            if e.status == "failed":
                conductor.speaking.apologise()

    def _tool_requested(self, e: m.ToolRequested) -> None:
        response = self._responses.get(e.response)
        if response is None:
            return
        response.calls.append(e.call)
        if response.gated:
            response.held_calls.append(e.call)
        else:
            self._conductor.owner.tool_requested(e.response, e.call)

    def _usage(self, e: m.UsageEvidence) -> None:
        self._measures.usage(self._floor.turn, e.input_tokens, e.output_tokens)
        self._conductor.emit(
            UsageReported(input_tokens=e.input_tokens, output_tokens=e.output_tokens, details=e.details)
        )
