"""Both ends of protocol v1 in one process, joined by two queues that can be cut. Time is a number."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from duologue.errors import ProtocolError
from duologue.wire.duologue import (
    AudioSpec,
    Capabilities,
    ClientProtocol,
    FromClient,
    FromServer,
    Hello,
    Replay,
    ServerDelivery,
    ServerOptions,
    ServerProtocol,
)

UP, DOWN = AudioSpec(rate=16_000), AudioSpec(rate=24_000)


class Pair:
    """A client and a server with a link between them; `sent_down` and `sent_up` are frames in flight."""

    def __init__(self, options: ServerOptions | None = None, *, keep_s: float = 30.0, connect: bool = True) -> None:
        self.now = 0.0
        self.options = options or ServerOptions()
        self.client = ClientProtocol(
            input=UP, output=DOWN, capabilities=Capabilities(acks=True, duck=True), keep_s=keep_s
        )
        self.delivery: ServerDelivery | None = None
        self.server: ServerProtocol | None = None
        self.tokens = 0
        self.up: deque[str | bytes] = deque()
        self.down: deque[str | bytes] = deque()
        self.at_client: list[FromServer] = []
        self.at_server: list[FromClient] = []
        self.report: Replay | None = None
        if connect:
            self.open()
            self.settle()

    @property
    def side(self) -> ServerDelivery:
        assert self.delivery is not None
        return self.delivery

    @property
    def link(self) -> ServerProtocol:
        assert self.server is not None
        return self.server

    def open(self) -> None:
        """A new WebSocket."""
        self.up.clear()
        self.down.clear()
        self.server = ServerProtocol(now=self.now, options=self.options)
        self.client.connect(self.now)

    def flush(self, most: int = 10**9) -> None:
        """Put what both sides have to say on the wire, at most so many frames each."""
        left = most
        while left and (frame := self.client.next_frame(self.now)) is not None:
            self.up.append(frame)
            left -= 1
        while most and (down := self.link.next_frame(self.now)) is not None:
            self.down.append(down)
            most -= 1

    def deliver(self, up: int = 10**9, down: int = 10**9) -> int:
        """Let up to so many frames arrive; returns how many did."""
        count = 0
        while self.up and up:
            up -= 1
            count += 1
            frame = self.up.popleft()
            receive = self.link.receive_text if isinstance(frame, str) else self.link.receive_bytes
            for message in receive(frame, self.now):  # type: ignore[arg-type]
                if isinstance(message, Hello):
                    self._welcome(message)
                else:
                    self.at_server.append(message)
        while self.down and down:
            down -= 1
            count += 1
            below = self.down.popleft()
            take = self.client.receive_text if isinstance(below, str) else self.client.receive_bytes
            self.at_client += take(below, self.now)  # type: ignore[arg-type]
        return count

    def _welcome(self, hello: Hello) -> None:
        if self.delivery is None:
            self.delivery = ServerDelivery(
                session="s_1",
                token="first",
                input=hello.input,
                output=hello.output,
                capabilities=hello.capabilities,
                options=self.options,
            )
        self.tokens += 1
        self.report = self.link.welcome(self.delivery, token=f"token-{self.tokens}", now=self.now)

    def settle(self) -> None:
        """Until nothing is left to say."""
        for _ in range(1000):
            self.flush()
            if not self.deliver():
                return
        raise AssertionError("The two sides never stop talking.")

    def cut(self) -> None:
        """The link breaks: what is in flight is lost."""
        self.up.clear()
        self.down.clear()
        self.client.disconnected(self.now)
        if self.delivery is not None:
            self.delivery.detach(self.link, self.now)

    def resume(self) -> None:
        self.open()
        self.settle()

    def pass_time(self, seconds: float) -> None:
        """Ticks both sides each 50 ms, delivering as it goes."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.05)
            self.client.tick(self.now)
            self.link.tick(self.now)
            self.settle()


def kinds(messages: Sequence[object]) -> list[str]:
    return [type(message).__name__ for message in messages]


def refused(call: object, *args: object) -> ProtocolError:
    """The ProtocolError that `call` raises."""
    try:
        call(*args)  # type: ignore[operator]
    except ProtocolError as error:
        return error
    raise AssertionError("Nothing was refused.")
