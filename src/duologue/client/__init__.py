"""The Python client: :func:`connect` opens a call that plays, acknowledges what was heard, and resumes after cuts."""

from duologue.audio.playback import PlaybackDevice, Rendered, Sink
from duologue.client.call import Call, connect
from duologue.client.errors import CallLostError, CallRefusedError, ConnectError, LinkClosedError
from duologue.client.memory import MemoryTransport, memory_link
from duologue.client.playout import Playout
from duologue.client.runtime import RuntimeClient, additional_headers
from duologue.client.transport import Connector, Transport, WebSocketTransport, websocket

__all__ = [
    "Call",
    "CallLostError",
    "CallRefusedError",
    "ConnectError",
    "Connector",
    "LinkClosedError",
    "MemoryTransport",
    "PlaybackDevice",
    "Playout",
    "Rendered",
    "RuntimeClient",
    "Sink",
    "Transport",
    "WebSocketTransport",
    "additional_headers",
    "connect",
    "memory_link",
    "websocket",
]
