"""The link between a gateway and a worker: many WebSockets over one connection. Both ends, without I/O.

The gateway connects and opens a stream for each client that it admitted; the worker accepts or rejects it; then both send
messages (text or binary, whole) until one closes. Messages of a stream keep their order; those of several streams take
turns by the chunk; control (opening, credit, signs of life, refusals) overtakes all messages that wait. Each stream has a
window of credit a direction: bytes, headers included, that may be on their way and not consumed.

Worker's side, with bytes that some transport carries::

    link = LinkServer(peer=worker_id, schema=host.types.SCHEMA, now=loop.time())
    for event in link.receive(data, loop.time()):        # raises LinkError: write what is left, close the transport
        match event:
            case Connected(hello=...): ...                # first; hello.peer is the gateway
            case Opened(stream=s, open=o): link.accept(s, subprotocol="")    # or link.reject(s, 503, body_json)
            case Message(stream=s, cost=c):               # event.value is str | bytes
                ...                                       # deal with it, then:
                link.consumed(s, c)                       # or the peer stops after a window
            case Closed(stream=s, code=c, reason=r): ...  # over: nothing may be sent any more
            case RefreshAnswered(stream=s, refreshed=a):  # to link.refresh(s, token): a.expires, or a.error
            case GoingAway(goaway=g): ...
    link.send(s, "text" or b"bytes")                      # when link.takes(s); raises LinkError beyond a bound
    link.close(s, 1000, "reason")                         # after what waits; link.abort(s, 1006) drops it
    while data := link.data_to_send():                    # after every call above, while the transport takes bytes
        transport.write(data)
    link.tick(now) at link.deadline()                     # pings; raises LinkError when the peer is silent

Always go on reading, also while the transport takes no bytes: what comes in is bounded by credit, and a pair that both
stopped reading would never go on. The gateway's side is the same with :class:`LinkClient` (`open`, `refreshed`; events
`Accepted`, `Rejected`, `RefreshAsked`).

A link has an epoch and counts the stream frames each way (`sent`, `received`; hello and pings carry them), so that it can
be resumed one day; today a lost link closes its streams.
"""

from .ends import LinkClient, LinkServer
from .frames import HEADER, Type
from .link import Link
from .messages import (
    VERSION,
    Accepted,
    Closed,
    Connected,
    Event,
    GoAway,
    GoingAway,
    Hello,
    LinkError,
    LinkOptions,
    Message,
    Open,
    Opened,
    RefreshAnswered,
    RefreshAsked,
    Refreshed,
    Reject,
    Rejected,
)

__all__ = [
    "HEADER",
    "VERSION",
    "Accepted",
    "Closed",
    "Connected",
    "Event",
    "GoAway",
    "GoingAway",
    "Hello",
    "Link",
    "LinkClient",
    "LinkError",
    "LinkOptions",
    "LinkServer",
    "Message",
    "Open",
    "Opened",
    "RefreshAnswered",
    "RefreshAsked",
    "Refreshed",
    "Reject",
    "Rejected",
    "Type",
]
