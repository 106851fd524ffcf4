"""What the floor orders done. Each action carries the reason of the transition that caused it."""

from __future__ import annotations

import msgspec


class Action(msgspec.Struct, frozen=True, kw_only=True, tag_field="do", omit_defaults=True):
    """Base of all actions of the floor."""

    reason: str = ""


class UserStarted(Action, frozen=True, kw_only=True, tag="user_started"):
    """The user began to speak, at `at_ms` of media time; `turn` is the turn that this belongs to."""

    turn: str
    at_ms: float


class UserStopped(Action, frozen=True, kw_only=True, tag="user_stopped"):
    """The user fell silent at `at_ms` of media time."""

    turn: str
    at_ms: float


class Prepare(Action, frozen=True, kw_only=True, tag="prepare"):
    """Settle what was said so far and, if `reply`, begin a reply behind the gate: nothing of it leaves before `Commit`."""

    turn: str
    reply: bool = True


class Commit(Action, frozen=True, kw_only=True, tag="commit"):
    """The turn is over: answer it. `speech_end_ms`: media time of the end of the user's speech."""

    turn: str
    speech_end_ms: float


class Reopen(Action, frozen=True, kw_only=True, tag="reopen"):
    """The user went on before anything of the answer was heard: take the answer back, the turn continues."""

    turn: str


class Discard(Action, frozen=True, kw_only=True, tag="discard"):
    """What began as a turn was none."""

    turn: str


class Duck(Action, frozen=True, kw_only=True, tag="duck"):
    """Attenuate the agent (`on`), or restore it."""

    on: bool


class Pause(Action, frozen=True, kw_only=True, tag="pause"):
    """Silence the agent now; it may be resumed."""


class Resume(Action, frozen=True, kw_only=True, tag="resume"):
    """It was a false barge-in: go on from the last word that was heard."""


class Yield(Action, frozen=True, kw_only=True, tag="yield"):
    """The user has the floor: silence the agent, end its response at what was heard."""


class SpeakFreely(Action, frozen=True, kw_only=True, tag="speak_freely"):
    """Queued responses may be played from now on."""


AnyAction = (
    UserStarted | UserStopped | Prepare | Commit | Reopen | Discard | Duck | Pause | Resume | Yield | SpeakFreely
)
