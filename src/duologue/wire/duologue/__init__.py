"""Protocol v1 (`docs/protocol.md`): both ends as state machines without I/O."""

from duologue.wire.duologue.client import AgentAudio, ClientProtocol, EventReceived, FromServer, Skipped
from duologue.wire.duologue.closing import Then, after_close
from duologue.wire.duologue.delivery import ServerDelivery
from duologue.wire.duologue.frames import UserAudio
from duologue.wire.duologue.link import Refused
from duologue.wire.duologue.messages import (
    AudioSpec,
    AuthRefresh,
    AuthRefreshed,
    Bye,
    Capabilities,
    Clear,
    Cleared,
    ClientInfo,
    Duck,
    ErrorMessage,
    GapMessage,
    GoingAway,
    Hello,
    Played,
    Resume,
    Welcome,
)
from duologue.wire.duologue.options import ServerOptions
from duologue.wire.duologue.server import FromClient, InputReceived, Replay, ServerProtocol, resume_refused

__all__ = [
    "AgentAudio",
    "AudioSpec",
    "AuthRefresh",
    "AuthRefreshed",
    "Bye",
    "Capabilities",
    "Clear",
    "Cleared",
    "ClientInfo",
    "ClientProtocol",
    "Duck",
    "ErrorMessage",
    "EventReceived",
    "FromClient",
    "FromServer",
    "GapMessage",
    "GoingAway",
    "Hello",
    "InputReceived",
    "Played",
    "Refused",
    "Replay",
    "Resume",
    "ServerDelivery",
    "ServerOptions",
    "ServerProtocol",
    "Skipped",
    "Then",
    "UserAudio",
    "Welcome",
    "after_close",
    "resume_refused",
]
