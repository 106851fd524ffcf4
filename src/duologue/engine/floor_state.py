"""The states of the floor, every legal step between them, and its options.

A conversation has one floor and two who want it. The floor is in one of these states:

=========  ==================================================================================================
IDLE       nobody speaks, nothing is owed
USER       the user speaks
PAUSE      the user fell silent in a turn that may go on; endpointing weighs the silence
THINKING   the turn is committed, its answer is not audible yet
AGENT      the agent is audible
OVERLAP    both are audible: the agent is ducked, the user's sound is being judged
HELD       the agent is held (silent, resumable), the user's sound is being judged
CLOSED     the session is over
=========  ==================================================================================================

A step that is not in :data:`TRANSITIONS` is a defect and raises.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from .activity import ActivityOptions
from .endpointing import EndpointingOptions
from .interruption import InterruptionOptions


class State(StrEnum):
    """See the table above."""

    IDLE = "idle"
    USER = "user"
    PAUSE = "pause"
    THINKING = "thinking"
    AGENT = "agent"
    OVERLAP = "overlap"
    HELD = "held"
    CLOSED = "closed"


ProviderFact = Literal["started", "stopped", "interrupted", "discarded"]

_S = State
#: every legal transition
TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        (_S.IDLE, _S.USER),  # the user speaks
        (_S.IDLE, _S.THINKING),  # a typed turn, or a turn committed by hand
        (_S.IDLE, _S.AGENT),  # the agent speaks unasked: greeting, say, late tool result
        (_S.USER, _S.PAUSE),  # silence
        (_S.USER, _S.THINKING),  # committed by hand or by the provider, without a pause
        (_S.PAUSE, _S.USER),  # the user goes on
        (_S.PAUSE, _S.THINKING),  # the turn is over
        (_S.PAUSE, _S.IDLE),  # it was no turn
        (_S.THINKING, _S.AGENT),  # the answer is audible
        (_S.THINKING, _S.USER),  # the user goes on, or begins anew, before it is
        (_S.THINKING, _S.IDLE),  # there is no answer
        (_S.AGENT, _S.IDLE),  # the agent has finished
        (_S.AGENT, _S.OVERLAP),  # the user sounds
        (_S.AGENT, _S.HELD),  # the user sounds for long enough at once (large windows)
        (_S.AGENT, _S.USER),  # the floor was taken by request, by the provider, or with words at once
        (_S.OVERLAP, _S.AGENT),  # it was nothing
        (_S.OVERLAP, _S.HELD),  # it goes on
        (_S.OVERLAP, _S.USER),  # the user takes the floor, or the agent finished under them
        (_S.OVERLAP, _S.IDLE),  # the agent finished under a sound that is no turn to the provider
        (_S.HELD, _S.AGENT),  # false barge-in: resume
        (_S.HELD, _S.USER),  # barge-in
        *((state, _S.CLOSED) for state in _S if state is not _S.CLOSED),
    }
)

#: states in which responses may be played
MAY_SPEAK = frozenset({_S.IDLE, _S.THINKING, _S.AGENT, _S.OVERLAP})
OVERLAPPING = frozenset({_S.AGENT, _S.OVERLAP, _S.HELD})


class FloorOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All options of turn-taking. `authority`: who decides turns, the engine or the provider's own detection."""

    authority: Literal["engine", "provider"] = "engine"
    activity: ActivityOptions = ActivityOptions()
    endpointing: EndpointingOptions = EndpointingOptions()
    interruption: InterruptionOptions = InterruptionOptions()


class Transition(msgspec.Struct, frozen=True, array_like=True):
    """One step of the floor, for the turn record: monotonic time, states and why."""

    now: float
    source: State
    target: State
    reason: str
