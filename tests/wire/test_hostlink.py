"""The link between gateway and worker: any interleaving delivers each message once and in order, within the windows."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.errors import ConfigurationError
from duologue.wire.hostlink import (
    HEADER,
    Accepted,
    Closed,
    Connected,
    GoingAway,
    LinkClient,
    LinkError,
    LinkOptions,
    LinkServer,
    Message,
    Open,
    Opened,
    RefreshAnswered,
    RefreshAsked,
    Refreshed,
    Rejected,
    Type,
)
from duologue.wire.hostlink.frames import FrameReader, frame

OPEN = Open(session="s" * 33, epoch=1)
SMALL = LinkOptions(window=4096, chunk=500, max_message=20_000, max_queue=60_000)


class Pair:
    """Both ends, joined by two byte strings in flight."""

    def __init__(self, options: LinkOptions | None = None, server: LinkOptions | None = None) -> None:
        self.client = LinkClient(peer="g1", schema=1, now=0.0, epoch=7, options=options)
        self.server = LinkServer(peer="w1", schema=1, now=0.0, options=server or options)
        self.up, self.down = bytearray(), bytearray()
        self.at_client: list[Any] = []
        self.at_server: list[Any] = []

    def write(self, limit: int = 1 << 30) -> None:
        """Once each way."""
        self.up += self.client.data_to_send(limit)
        self.down += self.server.data_to_send(limit)

    def read(self, up: int = 1 << 30, down: int = 1 << 30) -> None:
        """Some bytes arrive at each end."""
        data = bytes(self.up[:up])
        del self.up[:up]
        self.at_server += self.server.receive(data, 0.0)
        data = bytes(self.down[:down])
        del self.down[:down]
        self.at_client += self.client.receive(data, 0.0)

    def settle(self) -> None:
        """Until nothing is in flight."""
        while True:
            self.write()
            if not self.up and not self.down:
                return
            self.read()

    def stream(self, accept: bool = True) -> int:
        """A stream that is open."""
        stream = self.client.open(OPEN)
        self.settle()
        if accept:
            self.server.accept(stream)
            self.settle()
        return stream


@pytest.fixture
def pair() -> Pair:
    """Small windows, hellos exchanged."""
    made = Pair(SMALL)
    made.settle()
    return made


def test_hellos_say_who_and_repeat_the_epoch(pair: Pair) -> None:
    (up,), (down,) = pair.at_server, pair.at_client
    assert isinstance(up, Connected)
    assert isinstance(down, Connected)
    assert (up.hello.peer, up.hello.epoch, up.hello.window) == ("g1", 7, 4096)
    assert (down.hello.peer, down.hello.epoch) == ("w1", 7)


def test_another_schema_is_refused_and_the_peer_told() -> None:
    client = LinkClient(peer="g", schema=1, now=0)
    server = LinkServer(peer="w", schema=2, now=0)
    with pytest.raises(LinkError, match="schema 1") as caught:
        server.receive(client.data_to_send(), 0)
    assert caught.value.code == "link.version"
    (event,) = client.receive(server.data_to_send(), 0)
    assert isinstance(event, GoingAway)
    assert event.goaway.code == "link.version"


def test_open_accept_and_subprotocol(pair: Pair) -> None:
    request = Open(session="a" * 40, epoch=3, headers=(("x", "y"),), query="a=b", subprotocols=("chat",), expires=9.5)
    stream = pair.client.open(request)
    pair.settle()
    assert pair.at_server[-1] == Opened(stream, request)
    with pytest.raises(LinkError, match="not accepted"):
        pair.client.send(stream, b"early")
    pair.server.accept(stream, "chat")
    pair.settle()
    assert pair.at_client[-1] == Accepted(stream, "chat")


def test_reject_ends_the_stream(pair: Pair) -> None:
    stream = pair.stream(accept=False)
    pair.server.reject(stream, 409, "{}", (("retry-after", "2"),))
    pair.settle()
    event = pair.at_client[-1]
    assert isinstance(event, Rejected)
    assert (event.reject.status, event.reject.headers) == (409, (("retry-after", "2"),))
    assert pair.client.streams == pair.server.streams == ()


def test_a_worker_with_too_many_streams_refuses() -> None:
    pair = Pair(LinkOptions(), LinkOptions(max_streams=1))
    pair.settle()
    pair.stream()
    pair.client.open(OPEN)
    pair.settle()
    event = pair.at_client[-1]
    assert isinstance(event, Rejected)
    assert event.reject.status == 503


def test_text_and_binary_arrive_as_they_were(pair: Pair) -> None:
    stream = pair.stream()
    for message in ("häl\0lo", b"\xff\x00", "", b""):
        pair.client.send(stream, message)
    pair.client.send(stream, "ü".encode(), text=True)
    pair.settle()
    values = [event.value for event in pair.at_server if isinstance(event, Message)]
    assert values == ["häl\0lo", b"\xff\x00", "", b"", "ü"]


def test_text_that_is_not_utf8_is_an_error_when_asked_for(pair: Pair) -> None:
    stream = pair.stream()
    pair.client.send(stream, b"\xff", text=True)
    pair.settle()
    with pytest.raises(LinkError, match="UTF-8"):
        _ = pair.at_server[-1].value


def test_a_message_longer_than_the_window_arrives(pair: Pair) -> None:
    stream = pair.stream()
    pair.server.send(stream, bytes(range(256)) * 70)
    pair.settle()
    assert pair.at_client[-1].data == bytes(range(256)) * 70


def test_what_is_not_consumed_stops_the_sender(pair: Pair) -> None:
    stream = pair.stream()
    for n in range(100):
        pair.client.send(stream, n.to_bytes(1) * 100)
    pair.settle()
    came = [event for event in pair.at_server if isinstance(event, Message)]
    assert len(came) == 4096 // (100 + HEADER)
    for event in came:
        pair.server.consumed(stream, event.cost)
    pair.settle()
    assert len([event for event in pair.at_server if isinstance(event, Message)]) > len(came)


def test_close_comes_after_what_was_sent_and_once(pair: Pair) -> None:
    stream = pair.stream()
    pair.server.send(stream, "last words")
    pair.server.close(stream, 1001, "bye")
    pair.server.close(stream, 1011)
    pair.settle()
    message, closed = pair.at_client[-2:]
    assert message.value == "last words"
    assert closed == Closed(stream, 1001, "bye")
    assert pair.client.streams == pair.server.streams == ()
    with pytest.raises(LinkError, match="not open"):
        pair.client.send(stream, "too late")


def test_abort_overtakes_and_drops(pair: Pair) -> None:
    stream = pair.stream()
    for _ in range(50):
        pair.client.send(stream, bytes(1000))
    pair.client.abort(stream, 1006, "gone")
    pair.settle()
    assert pair.at_server[-1] == Closed(stream, 1006, "gone")
    assert pair.client.queued(stream) == 0


def test_both_closing_at_once_leaves_nothing(pair: Pair) -> None:
    stream = pair.stream()
    pair.server.send(stream, "crossing")
    pair.client.close(stream, 1000)
    pair.server.close(stream, 1001)
    pair.settle()
    assert pair.client.streams == pair.server.streams == ()
    assert pair.client.late > 0
    pair.stream()


def test_a_long_reason_is_cut_at_a_character(pair: Pair) -> None:
    stream = pair.stream()
    pair.server.close(stream, 1011, "ü" * 100)
    pair.settle()
    assert pair.at_client[-1].reason == "ü" * 61


def test_control_overtakes_messages_that_wait(pair: Pair) -> None:
    first, second = pair.stream(), pair.stream()
    for _ in range(10):
        pair.client.send(first, bytes(2000))
    pair.up += pair.client.data_to_send(600)  # the transport takes no more
    pair.client.open(OPEN)
    pair.client.abort(second)
    kinds = [type & 0x7F for type, _, _ in FrameReader().feed(pair.client.data_to_send())]
    assert kinds[:2] == [Type.OPEN, Type.CLOSE]
    assert set(kinds[2:]) == {Type.BINARY}


def test_streams_take_turns(pair: Pair) -> None:
    first, second = pair.stream(), pair.stream()
    for _ in range(3):
        pair.client.send(first, bytes(1000))
    pair.client.send(second, b"quick")
    frames = FrameReader().feed(pair.client.data_to_send())
    assert [stream for _, stream, _ in frames][:2] == [first, second]


def test_a_queue_has_a_bound(pair: Pair) -> None:
    stream = pair.stream()
    assert pair.client.takes(stream)
    while pair.client.queued(stream) + 1000 + HEADER <= SMALL.max_queue:
        pair.client.send(stream, bytes(1000))
    with pytest.raises(LinkError) as caught:
        pair.client.send(stream, bytes(1000))
    assert caught.value.code == "link.flow"
    assert not pair.client.takes(stream)
    assert pair.client.queued(stream) <= SMALL.max_queue


def test_more_than_the_window_ends_the_link(pair: Pair) -> None:
    stream = pair.stream()
    with pytest.raises(LinkError) as caught:
        pair.server.receive(frame(Type.BINARY, stream, bytes(4096)), 0)
    assert caught.value.code == "link.flow"
    assert pair.server.error is caught.value
    assert pair.server.streams == ()
    assert pair.server.receive(b"\0" * 100, 0) == []
    pair.settle()
    assert pair.at_client[-1].goaway.code == "link.flow"


def test_consuming_more_than_came_is_an_error(pair: Pair) -> None:
    stream = pair.stream()
    with pytest.raises(LinkError, match="consumed"):
        pair.server.consumed(stream, 1)
    pair.server.consumed(stream + 99, 10**9)  # a stream that is over: nothing
    # what was refused is not counted: what does come can be given back
    pair.client.send(stream, b"x")
    pair.settle()
    pair.server.consumed(stream, HEADER + 1)


def test_refresh_goes_through_the_gateway(pair: Pair) -> None:
    stream = pair.stream()
    pair.server.refresh(stream, "secret-token")
    with pytest.raises(LinkError, match="refresh"):
        pair.server.refresh(stream, "another")
    pair.settle()
    asked = pair.at_client[-1]
    assert isinstance(asked, RefreshAsked)
    assert asked.refresh.token == "secret-token"
    assert "secret" not in repr(asked)
    pair.client.refreshed(stream, Refreshed(expires=12.0))
    pair.client.refreshed(stream, Refreshed(expires=13.0))  # answered already
    pair.settle()
    assert pair.at_server[-1] == RefreshAnswered(stream, Refreshed(expires=12.0))


def test_after_going_away_nothing_opens(pair: Pair) -> None:
    stream = pair.stream()
    pair.server.go_away("draining", 30.0)
    pair.settle()
    assert pair.at_client[-1].goaway.in_s == 30.0
    with pytest.raises(LinkError, match="no new streams"):
        pair.client.open(OPEN)
    pair.client.send(stream, "goes on")
    pair.settle()
    assert pair.at_server[-1].value == "goes on"


def test_signs_of_life(pair: Pair) -> None:
    client, server = pair.client, pair.server
    assert client.deadline() == 5.0
    client.tick(5.0)
    server.receive(client.data_to_send(), 5.0)
    client.receive(server.data_to_send(), 5.25)
    assert client.rtt == 0.25
    client.tick(10.0)
    assert client.data_to_send()
    assert client.deadline() == 15.0
    client.tick(20.2)
    with pytest.raises(LinkError) as caught:
        client.tick(20.25)
    assert caught.value.code == "link.silent"


def test_a_peer_that_never_says_hello() -> None:
    server = LinkServer(peer="w", schema=1, now=10.0)
    assert server.deadline() == 15.0
    with pytest.raises(LinkError, match="hello in time"):
        server.tick(15.0)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "link.frame"),
        (frame(99, 0), "link.frame"),
        (frame(Type.TEXT, 0, b"x"), "link.frame"),
        (frame(Type.PING, 1, bytes(16)), "link.frame"),
        (frame(Type.OPEN, 1, bytes(70_000)), "link.frame"),
        (frame(Type.CLOSE | 0x80, 1, b"\0\0"), "link.frame"),
        (frame(Type.CLOSE, 1, b"\0"), "link.frame"),
        (frame(Type.CLOSE, 1, b"\0\0\xff"), "link.frame"),
        (frame(Type.CREDIT, 1, b"\0"), "link.frame"),
        (frame(Type.CREDIT, 1, b"\xff\xff\xff\xff"), "link.flow"),
        (frame(Type.TEXT, 9, b"x"), "link.order"),
        (frame(Type.ACCEPT, 1, b"{}"), "link.order"),
        (frame(Type.HELLO, 0, b'{"version":1,"schema":1,"peer":"g"}'), "link.order"),
        (frame(Type.OPEN, 1, b'{"session":"s","epoch":1}'), "link.order"),
        (frame(Type.OPEN, 2, b'{"session":1}'), "link.frame"),
        (frame(Type.OPEN, 2, b"[" * 60_000), "link.frame"),
        (frame(Type.REFRESHED, 1, b"{}"), "link.order"),
        (frame(Type.TEXT | 0x80, 1, b"a") + frame(Type.BINARY, 1, b"b"), "link.order"),
        (frame(Type.TEXT | 0x80, 1, b""), "link.order"),
    ],
)
def test_broken_rules_are_typed_errors(pair: Pair, data: bytes, code: str) -> None:
    pair.stream()
    with pytest.raises(LinkError) as caught:
        pair.server.receive(data, 0)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(Type.OPEN, 1, b"{}"), "link.order"),
        (frame(Type.ACCEPT, 1, b"{}"), "link.order"),  # was accepted
        (frame(Type.REJECT, 2, b'{"status":200}'), "link.frame"),
        (frame(Type.TEXT, 2, b"before accept"), "link.order"),
        (frame(Type.REFRESH, 2, b'{"token":"t"}'), "link.order"),
    ],
)
def test_a_hostile_worker_is_a_typed_error(pair: Pair, data: bytes, code: str) -> None:
    pair.stream()
    pair.stream(accept=False)
    with pytest.raises(LinkError) as caught:
        pair.client.receive(data, 0)
    assert caught.value.code == code


def test_a_first_frame_that_is_no_hello() -> None:
    server = LinkServer(peer="w", schema=1, now=0)
    with pytest.raises(LinkError) as caught:
        server.receive(frame(Type.OPEN, 1, b'{"session":"s","epoch":1}'), 0)
    assert caught.value.code == "link.order"


def test_resuming_is_refused_until_it_exists() -> None:
    server = LinkServer(peer="w", schema=1, now=0)
    with pytest.raises(LinkError, match="not resumed"):
        server.receive(frame(Type.HELLO, 0, b'{"version":1,"schema":1,"peer":"g","received":5}'), 0)


def unread(end: LinkClient | LinkServer) -> int:
    """Bytes that wait at an end whose peer has not read yet."""
    return len(end.data_to_send(1 << 30))


@pytest.mark.parametrize("answer", ["refused", "accepted and closed", "no room"])
def test_a_gateway_that_opens_and_never_reads_loses_its_link(answer: str) -> None:
    bound = 10_000
    server = LinkServer(
        peer="w",
        schema=1,
        now=0,
        options=LinkOptions(max_control=bound, max_streams=1 if answer == "no room" else 10_000),
    )
    server.receive(frame(Type.HELLO, 0, b'{"version":1,"schema":1,"peer":"g"}'), 0)

    def flood() -> None:
        for stream in range(1, 1000):
            for event in server.receive(frame(Type.OPEN, stream, b'{"session":"s","epoch":1}'), 0):
                assert isinstance(event, Opened)
                if answer == "refused":
                    server.reject(event.stream, 503, "full")
                elif answer == "accepted and closed":
                    server.accept(event.stream)
                    server.abort(event.stream, 1011)

    with pytest.raises(LinkError, match="does not read") as caught:
        flood()
    assert caught.value.code == "link.unread"
    assert server.error is caught.value
    assert server.streams == ()
    assert unread(server) < 200  # no more than why it is over


def test_a_worker_that_asks_for_refreshes_and_never_reads_loses_its_link() -> None:
    client = LinkClient(peer="g", schema=1, now=0, options=LinkOptions(max_control=5000))
    client.receive(frame(Type.HELLO, 0, b'{"version":1,"schema":1,"peer":"w"}'), 0)
    stream = client.open(OPEN)
    client.receive(frame(Type.ACCEPT, stream, b"{}"), 0)

    def flood() -> None:
        for _ in range(1000):
            client.receive(frame(Type.REFRESH, stream, b'{"token":"t"}'), 0)
            client.refreshed(stream, Refreshed(expires=1.0))

    with pytest.raises(LinkError) as caught:
        flood()
    assert caught.value.code == "link.unread"


def test_a_worker_that_does_not_read_gets_no_new_streams_and_is_none_the_worse_for_it() -> None:
    pair = Pair(LinkOptions(max_control=5000))
    pair.settle()

    def flood() -> None:
        for _ in range(1000):
            pair.client.abort(pair.client.open(OPEN))

    with pytest.raises(LinkError, match="does not read") as caught:
        flood()
    assert caught.value.code == "link.flow"
    assert pair.client.error is None
    pair.settle()  # it reads again
    assert pair.client.open(OPEN) in pair.client.streams


def test_signs_of_life_do_not_pile_up_for_a_peer_that_does_not_read(pair: Pair) -> None:
    now = 0.0
    for token in range(1, 200):
        now += 5.0
        pair.server.receive(frame(Type.PING, 0, token.to_bytes(8) + bytes(8)), now)
        pair.server.tick(now)
    frames = FrameReader().feed(pair.server.data_to_send())
    assert sorted(type for type, _, _ in frames) == [Type.PING, Type.PONG]
    assert {payload[:8] for _, _, payload in frames} == {(199).to_bytes(8)}


@pytest.mark.parametrize(
    "options", [{"window": 10}, {"chunk": 0}, {"max_streams": 0}, {"max_control": 0}, {"silence_s": -1.0}]
)
def test_options_that_cannot_work(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        LinkOptions(**options)


# --------------------------------------------------------------------------- any interleaving

_step = st.one_of(
    st.tuples(st.just("open")),
    st.tuples(st.just("send"), st.booleans(), st.integers(0, 5), st.integers(0, 3000)),
    st.tuples(st.just("consume"), st.booleans(), st.integers(0, 4)),
    st.tuples(st.just("write"), st.integers(1, 3000)),
    st.tuples(st.just("read"), st.integers(1, 3000), st.integers(1, 3000)),
    st.tuples(st.just("close"), st.booleans(), st.integers(0, 5)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_step, max_size=120))
def test_each_message_arrives_once_in_order_within_the_window(steps: list[tuple[Any, ...]]) -> None:
    pair = Pair(SMALL)
    pair.settle()
    ends = {True: pair.client, False: pair.server}
    inboxes = {True: pair.at_client, False: pair.at_server}
    taken = {True: 0, False: 0}
    pending: dict[bool, list[Message]] = {True: [], False: []}
    sent: dict[tuple[bool, int], list[bytes]] = defaultdict(list)
    got: dict[tuple[bool, int], list[bytes]] = defaultdict(list)
    closed: set[int] = set()

    def look() -> None:
        for side, inbox in inboxes.items():
            for event in inbox[taken[side] :]:
                if isinstance(event, Opened):
                    pair.server.accept(event.stream)
                elif isinstance(event, Message):
                    got[not side, event.stream].append(event.data)
                    pending[side].append(event)
                elif isinstance(event, Closed):
                    assert event.stream in closed
            taken[side] = len(inbox)
            held: dict[int, int] = defaultdict(int)
            for message in pending[side]:
                held[message.stream] += message.cost
            assert all(amount <= SMALL.window for amount in held.values())

    count = 0
    for step in steps:
        match step:
            case ("open",):
                if len(pair.client.streams) < 6:
                    pair.client.open(OPEN)
            case ("send", side, which, length):
                streams = [s for s in ends[side].streams if ends[side].takes(s)]
                if streams:
                    count += 1
                    stream = streams[which % len(streams)]
                    data = count.to_bytes(4) + bytes(length)
                    ends[side].send(stream, data)
                    sent[side, stream].append(data)
            case ("consume", side, number):
                for _ in range(min(number, len(pending[side]))):
                    message = pending[side].pop(0)
                    ends[side].consumed(message.stream, message.cost)
            case ("write", limit):
                pair.write(limit)
            case ("read", up, down):
                pair.read(up, down)
            case ("close", side, which):
                if ends[side].streams:
                    stream = ends[side].streams[which % len(ends[side].streams)]
                    closed.add(stream)
                    ends[side].close(stream)
        look()
    while True:  # everything is taken in the end
        pair.settle()
        look()
        if not pending[True] and not pending[False]:
            break
        for side in (True, False):
            for message in pending[side]:
                ends[side].consumed(message.stream, message.cost)
            pending[side].clear()
    for key, messages in sent.items():
        assert got[key] == messages[: len(got[key])]  # in order, none twice, none invented
        if key[1] not in closed:
            assert got[key] == messages
    assert set(pair.client.streams) == set(pair.server.streams)
    assert closed.isdisjoint(pair.client.streams)
