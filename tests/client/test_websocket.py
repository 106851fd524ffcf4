"""The same call over real WebSockets on loopback. Times are real, so only order and content are asserted."""

from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.server import ServerConnection, serve

from duologue.client import CallRefusedError, ConnectError, WebSocketTransport, connect
from duologue.events import TextInput, TurnCommitted, encode
from duologue.wire.duologue import InputReceived, UserAudio
from tests.client.call_server import Server

pytestmark = pytest.mark.anyio

MIC = b"\x02\x00" * 320


def event(text: str) -> bytes:
    return encode(TurnCommitted(turn="t", text=text, reason="r"))


async def test_a_call_over_a_socket_that_is_reset_twice() -> None:
    server = Server()
    sockets: list[ServerConnection] = []

    async def handle(socket: ServerConnection) -> None:
        sockets.append(socket)
        await server.serve(WebSocketTransport(socket))  # type: ignore[arg-type]

    async with serve(handle, "127.0.0.1", 0, compression=None) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with asyncio.timeout(30), connect(f"ws://127.0.0.1:{port}/ws", token="key") as caller:
            got: list[str] = []
            for k in range(3):
                for n in range(20):
                    await caller.send_audio(MIC)
                    server.side.send_event(event(f"{k}.{n}"))
                await caller.send_text(str(k))
                if k < 2:
                    sockets[-1].transport.abort()
                while len(got) < 20 * (k + 1):
                    item = await anext(caller)
                    if isinstance(item, TurnCommitted):
                        got.append(item.text)
            while len(server.of(InputReceived)) < 3:  # noqa: ASYNC110 - the server knows nothing of this test
                await asyncio.sleep(0.01)
            assert got == [f"{k}.{n}" for k in range(3) for n in range(20)]
            assert [audio.position for audio in server.of(UserAudio)] == [320 * k for k in range(60)]
            assert [got.input for got in server.of(InputReceived)] == [TextInput(text=str(k)) for k in range(3)]
            assert caller.resumes == 2


async def test_nobody_listening_and_a_bad_address_are_typed_errors() -> None:
    for url in ("ws://127.0.0.1:9/ws", "http://127.0.0.1/", "nonsense"):
        with pytest.raises(ConnectError):
            async with connect(url, open_timeout_s=5.0):
                pass


async def test_a_page_instead_of_a_websocket_is_a_typed_error() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        with pytest.raises(CallRefusedError) as caught:
            async with connect(f"ws://127.0.0.1:{port}/ws"):
                pass
    assert caught.value.code == "auth"


@pytest.mark.parametrize(
    ("status", "body", "raised", "said"),
    [
        (
            "403 Forbidden",
            '{"message": "alice may not invoke agent1."}',
            CallRefusedError,
            ": alice may not invoke agent1.",
        ),
        ("404 Not Found", '{"message": "No\\u001bendpoint\\nfound."}', CallRefusedError, ": No endpoint found."),
        (
            "401 No",
            '{"jsonrpc": "2.0", "error": {"code": -32001, "message": "No token."}}',
            CallRefusedError,
            ": No token.",
        ),
        ("429 Too Many", '{"message": "All 4 sessions are taken."}', ConnectError, ": All 4 sessions are taken."),
        ("403 Forbidden", "<html>", CallRefusedError, "instead of opening a WebSocket"),
        ("403 Forbidden", '{"message": 1}', CallRefusedError, "instead of opening a WebSocket"),
    ],
)
async def test_why_a_server_refuses_is_said_and_no_credential_of_the_address(
    status: str, body: str, raised: type[Exception], said: str
) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(f"{head}{body}".encode())
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        with pytest.raises(raised, match=said.replace(".", r"\.")) as caught:
            async with connect(f"ws://127.0.0.1:{port}/ws?ticket=dlt_secret", open_timeout_s=5.0):
                pass
    assert "dlt_secret" not in str(caught.value)
