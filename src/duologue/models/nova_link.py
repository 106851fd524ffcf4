"""One open stream under a connection: its reader, its writer, and its end. Bounded everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable

from ..errors import ModelConnectionError, ModelError
from ..wire.nova_sonic import Output, StreamException
from .base import Context, Setup
from .nova_errors import error_of
from .nova_sonic import NovaSonic, instructions_of
from .nova_stream import NovaStream
from .transport import TransportClosedError

logger = logging.getLogger("duologue.models.nova_sonic")

#: longest wait for the service to take the request once it has its first events
_ANSWER_S = 4.0
#: events that wait for a service that takes none; 3,000 are more than a minute and a half of audio
_MOST_WAITING = 3000
#: longest wait for what is owed to the service at the end
_FLUSH_S = 0.5


class NovaLink:
    """See the module. `hears` gets each event, `lost` why the stream ended unasked; both on the event loop."""

    def __init__(
        self,
        model: NovaSonic,
        context: Context,
        stream: NovaStream,
        hears: Callable[[NovaLink, Output], None],
        lost: Callable[[NovaLink, ModelError], None],
    ) -> None:
        self.protocol = stream.protocol
        self.life_s = stream.transport.life_s
        self.setup: Setup = context.setup()
        self._model = model
        self._context = context
        self._stream = stream
        self._hears = hears
        self._lost = lost
        self._out: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._closing = False
        self._over = False
        self._writer: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Send what opens a conversation, and wait until the service takes it. Raises a typed error within seconds."""
        model, setup = self._model, self.setup
        # Reading begins before anything is sent, and the answer is awaited after: the service keeps it back until then.
        self._context.spawn(self._run_reader, "reading from Nova Sonic")
        self._context.spawn(self._run_writer, "writing to Nova Sonic")
        self.put(
            self.protocol.begin(
                inference=model.inference,
                voice=model.voice_format(setup),
                endpointing=model.endpointing_sensitivity,
                tools=model.tools(setup),
                tool_choice=model.choice(),
                instructions=instructions_of(setup),
            )
        )
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._stream.transport.answered()
        except TimeoutError:
            raise ModelConnectionError(
                f"Nova Sonic did not answer within {_ANSWER_S:g} s ({self._stream.transport.region}).",
                hint="Check network, region and endpoint, and that its certificate is trusted.",
            ) from None
        except Exception as error:
            raise self._typed(error) from error

    def put(self, payloads: list[bytes]) -> None:
        """Queue events."""
        if self._over or self._closing:
            return
        if len(self._out) > _MOST_WAITING:
            self._end(ModelConnectionError("Nova Sonic does not take what is sent."))
            return
        self._out.extend(payloads)
        self._wake.set()

    async def _run_reader(self) -> None:
        self._reader = asyncio.current_task()
        if not self._closing:
            await self._read()

    async def _run_writer(self) -> None:
        self._writer = asyncio.current_task()
        if not self._closing:
            await self._write()

    async def _write(self) -> None:
        while True:
            while self._out:
                try:
                    await self._stream.put(self._out.popleft())
                except Exception as error:
                    # The reader knows better why, if it comes to know at all: the SDK tells a writer nothing.
                    await asyncio.sleep(0.1)
                    self._end(self._typed(error))
                    return
            self._idle.set()
            self._wake.clear()
            await self._wake.wait()
            self._idle.clear()

    async def _read(self) -> None:
        transport = self._stream.transport
        while True:
            try:
                event = self.protocol.receive(await transport.receive())
            except Exception as error:
                self._end(self._typed(error))
                return
            if not self._over:
                self._hears(self, event)

    def _typed(self, error: BaseException) -> ModelError:
        return error_of(error, model=self._model.model_id, region=self._stream.transport.region)

    def _end(self, error: ModelError) -> None:
        if not self._over:
            self._over = True
            if not self._closing:
                self._lost(self, error)

    async def close(self) -> None:
        """End the stream in the order that the service wants; give up on what it does not take."""
        if self._closing:
            return
        if not self._over:
            with contextlib.suppress(StreamException):
                self.put(self.protocol.end())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_S):
                    while self._out or not self._idle.is_set():
                        self._idle.clear()
                        self._wake.set()
                        await self._idle.wait()
        self._closing = True
        with contextlib.suppress(TransportClosedError):
            await self._stream.close()
        if self._writer is not None:
            self._writer.cancel()
        if self._reader is not None and self._reader is not asyncio.current_task():
            # Its wait ends with the stream. Cancelling it would upset the SDK, so that is for one that does not.
            await asyncio.wait({self._reader}, timeout=_FLUSH_S)
            self._reader.cancel()
