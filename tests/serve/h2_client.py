"""A bare HTTP/2 client for tests: streams by hand, frames as bytes, windows under control."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import h2.config
import h2.connection
import h2.events


class Stream:
    """What came back on one stream."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = asyncio.Event()
        self.reset: int | None = None
        self.changed = asyncio.Event()


class H2Client:
    """One connection. `read` False: nothing is read, so that no window is given back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.streams: dict[int, Stream] = {}
        self.closed = asyncio.Event()
        self.give_back = True
        self._reader, self._writer, self._host = reader, writer, host
        self.h2.initiate_connection()
        self.flush()
        self._task = asyncio.ensure_future(self._read())

    @classmethod
    async def connect(cls, url: str, ca_file: Any, *, alpn: str = "h2") -> H2Client:
        host, port = url.removeprefix("https://").split(":")
        context = ssl.create_default_context(cafile=str(ca_file))
        context.set_alpn_protocols([alpn])
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        return cls(reader, writer, f"{host}:{port}")

    def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())

    def request(
        self, path: str, headers: dict[str, str] | None = None, *, method: str = "POST", end: bool = False
    ) -> Stream:
        id = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "https"), (":authority", self._host), (":path", path)]
        self.h2.send_headers(id, [*pseudo, *(headers or {}).items()], end_stream=end)
        self.flush()
        stream = self.streams[id] = Stream(id)
        return stream

    def data(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(stream.id, data, end_stream=end)
        self.flush()

    async def _read(self) -> None:
        while data := await self._reader.read(65536):
            for event in self.h2.receive_data(data):
                stream = self.streams.get(getattr(event, "stream_id", 0) or 0)
                if stream is None:
                    continue
                if isinstance(event, h2.events.ResponseReceived):
                    stream.headers = dict(event.headers)  # type: ignore[arg-type]
                    stream.status = int(stream.headers[":status"])
                elif isinstance(event, h2.events.DataReceived):
                    stream.body += event.data
                    if self.give_back:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, stream.id)
                elif isinstance(event, h2.events.StreamEnded):
                    stream.ended.set()
                elif isinstance(event, h2.events.StreamReset):
                    stream.reset = int(event.error_code)
                    stream.ended.set()
                stream.changed.set()
            self.flush()
        self.closed.set()

    async def close(self) -> None:
        self._task.cancel()
        self._writer.close()
