"""A scripted protocol v1 server for the talk page: serves its files, takes one call at a time, does what a test says.

It runs on a thread with its own event loop; tests drive it from theirs with the methods of :class:`Scripted`.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from duologue.errors import ProtocolError
from duologue.events import Event, encode
from duologue.wire.duologue import (
    Cleared,
    GapMessage,
    Hello,
    InputReceived,
    Played,
    ServerDelivery,
    ServerOptions,
    ServerProtocol,
    UserAudio,
)

PAGES = Path(__file__).parents[2] / "src" / "duologue" / "studio"
TESTS = Path(__file__).parent / "js"
#: stricter than what `duologue serve` sends, so that the page is known to run under either
CSP = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
#: long enough for a busy machine; nothing waits this long when all is well
PATIENCE_S = 45.0


class Scripted:
    """The server. What arrived is in its attributes; `wait` blocks until a condition over them holds.

    Attributes:
        hellos: each `hello`, in order; the second and later ones resume.
        audio: user audio taken, in order.
        inputs: inputs taken.
        played, cleared, gaps: in order of arrival.
        byes: how many clients hung up.
        faults: what the client did wrong; tests want none.
    """

    def __init__(self, options: ServerOptions | None = None, *, notice: str = "") -> None:
        self.options = options or ServerOptions()
        self.notice = notice
        self.refusal: ProtocolError | None = None
        self.delivery: ServerDelivery | None = None
        self.hellos: list[Hello] = []
        self.audio: list[UserAudio] = []
        self.inputs: list[InputReceived] = []
        self.played: list[Played] = []
        self.cleared: list[Cleared] = []
        self.gaps: list[GapMessage] = []
        self.byes = 0
        self.faults: list[str] = []
        self.url = ""
        self._socket: ServerConnection | None = None
        self._deaf = False
        self._tokens = itertools.count()
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    # -- from the test's thread ----------------------------------------------------------------------------------------

    def __enter__(self) -> Scripted:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Block until `condition()` is true of what arrived."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S), f"never happened: {what}; faults: {self.faults}"

    def wait_links(self, count: int) -> None:
        """Block until `count` links have been opened."""
        self.wait(lambda: self.links == count, f"link {count}")

    def call[T](self, function: Callable[[], T]) -> T:
        """Run `function` on the server's loop."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE_S)

    def event(self, *events: Event) -> None:
        """Send events."""
        for event in events:
            self.call(lambda event=event: self._delivery.send_event(encode(event)))  # type: ignore[misc]

    def say(self, pcm: bytes, response: str = "r_1", *, last: bool = True, frame: int = 480) -> int:
        """Send audio of a response at once, in frames; returns the track's end."""

        def send() -> int:
            step = 2 * frame
            for at in range(0, len(pcm), step):
                end = last and at + step >= len(pcm)
                self._delivery.send_audio(pcm[at : at + step], response=response, offset=at // 2, last=end)
            return self._delivery.position

        return self.call(send)

    def clear(self, response: str = "") -> int:
        """Clear; returns its number."""
        return self.call(lambda: self._delivery.clear(response).c)

    def cut(self) -> None:
        """Reset the connection under the WebSocket."""
        self.call(self._abort)

    def go_deaf(self) -> None:
        """From now on this link neither takes nor gives anything, but stays open: a black hole."""

        def deafen() -> None:
            self._deaf = True

        self.call(deafen)

    @property
    def links(self) -> int:
        """How many links there were."""
        return len(self.hellos)

    @property
    def tone(self) -> bytes:
        """All user audio, as PCM16."""
        return b"".join(frame.pcm for frame in self.audio)

    # -- on the loop ---------------------------------------------------------------------------------------------------

    @property
    def _delivery(self) -> ServerDelivery:
        assert self.delivery is not None, "nobody has called"
        return self.delivery

    def _abort(self) -> None:
        if self._socket is not None:
            self._socket.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        server: Server = await serve(
            self._link,
            "127.0.0.1",
            0,
            process_request=self._file,
            compression=None,
            ping_interval=None,
            close_timeout=0.2,
        )
        port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        self._ready.set()
        await self._stop.wait()
        self._abort()
        server.close()
        await server.wait_closed()

    def _file(self, connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.split("?")[0]
        if path == "/ws":
            return None
        folder, name = (TESTS, path.removeprefix("/test/")) if path.startswith("/test/") else (PAGES, path[1:])
        file = folder / (name or "index.html")
        found = file.is_file() and file.parent == folder
        headers = Headers({"Content-Security-Policy": CSP, "Connection": "close", "Cache-Control": "no-store"})
        headers["Content-Type"] = _TYPES.get(file.suffix, "text/plain")
        body = file.read_bytes() if found else b"not here"
        headers["Content-Length"] = str(len(body))
        status = HTTPStatus.OK if found else HTTPStatus.NOT_FOUND
        return Response(status.value, status.phrase, headers, body)

    async def _link(self, socket: ServerConnection) -> None:
        writable = asyncio.Event()
        link = ServerProtocol(now=time.monotonic(), options=self.options, wake=writable.set)
        self._socket, self._deaf = socket, False
        writer = asyncio.create_task(self._write(socket, link, writable))
        try:
            async for message in socket:
                if self._deaf:
                    continue
                now = time.monotonic()
                receive: Any = link.receive_text if isinstance(message, str) else link.receive_bytes
                try:
                    for said in receive(message, now):
                        self._take(link, said, now)
                except ProtocolError as error:
                    self._fault(f"{error.code}: {error}")
                writable.set()
        except ConnectionClosed:
            pass
        finally:
            writer.cancel()
            if link.delivery is not None:
                link.delivery.detach(link, time.monotonic())

    async def _write(self, socket: ServerConnection, link: ServerProtocol, writable: asyncio.Event) -> None:
        try:
            while True:
                while not self._deaf and (frame := link.next_frame(time.monotonic())) is not None:
                    await socket.send(frame)
                if link.close_code is not None:
                    await socket.close(link.close_code)
                    return
                writable.clear()
                wait = link.next_deadline() - time.monotonic()
                try:
                    async with asyncio.timeout(max(0.0, wait) if wait < 3600 else None):
                        await writable.wait()
                except TimeoutError:
                    if not self._deaf:
                        link.tick(time.monotonic())
        except (ConnectionClosed, ProtocolError):
            self._abort()

    def _take(self, link: ServerProtocol, said: Any, now: float) -> None:
        with self._changed:
            match said:
                case Hello():
                    self._open(link, said, now)
                case UserAudio():
                    self.audio.append(said)
                case InputReceived():
                    self.inputs.append(said)
                case Played():
                    self.played.append(said)
                case Cleared():
                    self.cleared.append(said)
                case GapMessage():
                    self.gaps.append(said)
                case _ if type(said).__name__ == "Bye":
                    self.byes += 1
                case _:
                    self.faults.append(repr(said))
            self._changed.notify_all()

    def _open(self, link: ServerProtocol, hello: Hello, now: float) -> None:
        self.hellos.append(hello)
        if self.refusal is not None:
            link.refuse(self.refusal)
            return
        if hello.resume is None:
            self.delivery = ServerDelivery(
                session=f"s_{len(self.hellos)}",
                token="",
                input=hello.input,
                output=hello.output,
                capabilities=hello.capabilities,
                options=self.options,
            )
        link.welcome(self._delivery, token=f"token-{next(self._tokens)}", now=now, notice=self.notice)

    def _fault(self, text: str) -> None:
        with self._changed:
            self.faults.append(text)
            self._changed.notify_all()
