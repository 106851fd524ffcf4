"""What carries a stream of Nova Sonic: the vendor's SDK, which signs and frames; the codec above it is ours.

Traps of the SDK that are met here: its default transport refuses duplex streams; without credentials it hangs, so they are
found first and held still for the stream (a chain of signatures does not survive a refresh in the middle); its `send` buffers and
never tells of a dead stream; its `close` waits for a server that may be gone. So every wait is bounded. And a wait for the CRT
that is given up cancels the CRT's own future, which the CRT sets all the same, up to 22 s later, and complains of it on the
terminal: no wait of ours is passed on to it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import logging
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import MissingDependencyError, ModelConnectionError, ModelError
from .nova_credentials import AwsIdentity, find_identity
from .nova_errors import error_of_name
from .transport import Transport, TransportClosedError, Watched

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .nova_sonic import NovaSonic

logger = logging.getLogger("duologue.models.nova_sonic")

#: longest wait for the stream to be set up, and for each part of it to be closed
_OPEN_S = 4.0
_CLOSE_S = 0.6
#: how often, and how soon again, what does not end is cancelled
_CANCELS, _AGAIN_S = 4, 0.05


class NovaTransport(Transport, Protocol):
    """One open stream that carries the JSON of events. `receive` may raise StreamException and other typed errors."""

    #: of the endpoint, for messages
    region: str
    #: seconds that the credentials are good; None if not limited
    life_s: float | None

    async def answered(self) -> None:
        """Wait until the service has taken the request. It does not before events have been sent. Raises typed errors."""


class WatchedNova(Watched):
    """A stream whose events are shown to `watch`."""

    def __init__(self, inner: NovaTransport, watch: Any) -> None:
        super().__init__(inner, watch)
        self._stream = inner
        self.region = inner.region
        self.life_s = inner.life_s

    async def answered(self) -> None:
        """See NovaTransport."""
        await self._stream.answered()


class SdkStream:
    """A bidirectional stream of the SDK."""

    def __init__(self, stream: Any, client: Any, identity: AwsIdentity, model: str) -> None:
        from aws_sdk_bedrock_runtime import models

        self.region = identity.region
        self.life_s = identity.expires_in_s
        self._model = model
        self._source = identity.source
        self._stream = stream
        self._client = client
        self._chunk = models.InvokeModelWithBidirectionalStreamInputChunk
        self._part = models.BidirectionalInputPayloadPart
        # Awaited in a task of its own: giving up a wait must not cancel what the SDK is doing.
        self._output: asyncio.Task[Any] = asyncio.ensure_future(stream.await_output())
        self._output.add_done_callback(_seen)
        self._closed = False

    async def answered(self) -> None:
        """See NovaTransport."""
        await self._receiver()

    async def _receiver(self) -> Any:
        try:
            return (await asyncio.shield(self._output))[1]
        except asyncio.CancelledError:
            if self._output.cancelled():
                raise TransportClosedError(reason="given up") from None
            raise
        except Exception as error:
            raise self._typed(error) from error

    async def send(self, message: str) -> None:
        """See Transport."""
        chunk = self._chunk(value=self._part(bytes_=message.encode()))
        try:
            await self._stream.input_stream.send(chunk)
        except Exception as error:
            raise TransportClosedError(reason=str(error)) from error

    async def receive(self) -> bytes:
        """See Transport."""
        receiver = await self._receiver()
        while True:
            try:
                event = await receiver.receive()
            except Exception as error:
                raise self._typed(error) from error
            if event is None:  # also after a reset: the SDK knows no other word for it
                raise TransportClosedError
            data = getattr(getattr(event, "value", None), "bytes_", None)
            if data is not None:  # an event of a kind that this SDK does not know has no value
                return bytes(data)

    def _typed(self, error: Exception) -> Exception:
        """A typed error for one of the SDK's."""
        from smithy_aws_event_stream.exceptions import UnmodeledEventError
        from smithy_core.exceptions import CallError

        if isinstance(error, ModelError | TransportClosedError):
            return error
        if isinstance(error, UnmodeledEventError):
            return error_of_name(error.code, error.message, model=self._model, region=self.region, source=self._source)
        if isinstance(error, CallError):
            name = type(error).__name__
            text = error.message or str(error)
            if name in ("CallError", "ModeledError", "UnknownApiError"):
                # An exception that the SDK does not model says its name in the text only.
                status = error.response_metadata.http_status_code if hasattr(error, "response_metadata") else None
                name = next((known for known in _BY_NAME if known.lower() in text.lower()), f"HTTP {status}")
            return error_of_name(name, text, model=self._model, region=self.region, source=self._source)
        return TransportClosedError(reason=str(error.__cause__ or error) or type(error).__name__)

    async def close(self) -> None:
        """See Transport. Bounded, whatever the SDK does."""
        if self._closed:
            return
        self._closed = True
        await _bounded(self._stream.input_stream.close())
        if self._output.done() and not self._output.cancelled() and self._output.exception() is None:
            await _bounded(self._output.result()[1].close())
        else:
            self._output.cancel()
        await _bounded(self._client.close())


_BY_NAME = (
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "ExpiredTokenException",
    "MissingAuthenticationTokenException",
    "IncompleteSignatureException",
)


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


async def _bounded(work: Any) -> None:
    """Wait for `work`, but not for long: over a link that is broken the SDK waits for ever to have its last words sent.

    Left alone it would keep its stream in memory, and a program from ending. It waits again in its `finally`, where the
    first cancellation takes it, so that one is not enough.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(_seen)
    loop = asyncio.get_running_loop()

    def end(left: int) -> None:
        if left and not task.done():
            task.cancel()
            loop.call_later(_AGAIN_S, end, left - 1)

    loop.call_later(_CLOSE_S, end, _CANCELS)  # also if nobody waits here any more
    await asyncio.wait({task})


async def _patiently(future: concurrent.futures.Future[Any]) -> Any:
    """The result of a future of the CRT's, which learns nothing of it if this is given up."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def done(_: concurrent.futures.Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(over.set)

    future.add_done_callback(done)
    await over.wait()
    return future.result()


class _Fixed:
    """The SDK's identity resolver: the same credentials for as long as a stream lives."""

    def __init__(self, identity: Any) -> None:
        self._identity = identity

    async def get_identity(self, *, properties: Any) -> Any:
        return self._identity


def load_sdk() -> _Sdk:
    """The SDK, loaded: a second and more of importing the first time, so this is called in a thread.

    Raises MissingDependencyError.
    """
    if not _loaded:
        _loaded.append(_Sdk())
    return _loaded[0]


class _Sdk:
    def __init__(self) -> None:
        try:
            from aws_sdk_bedrock_runtime import models
            from aws_sdk_bedrock_runtime.client import AsyncBedrockRuntimeClient
            from aws_sdk_bedrock_runtime.config import AsyncBedrockRuntimeConfig
            from smithy_aws_core.identity.components import AWSCredentialsIdentity
            from smithy_http.aio.crt import AWSCRTHTTPClient, AWSCRTHTTPResponse

            crt = importlib.import_module("awscrt.aio.http")  # it has no types
        except ImportError as error:
            raise MissingDependencyError(
                f"Nova Sonic needs aws-sdk-bedrock-runtime[awscrt] 0.10 or newer ({error}).",
                hint="Install it with: pip install 'duologue[nova-sonic]'",
            ) from error

        class Body(AWSCRTHTTPResponse):
            """A response whose reader may be given up."""

            async def chunks(self) -> AsyncGenerator[bytes]:
                while True:
                    # It ends with the connection, if not before.
                    reading = asyncio.ensure_future(self._stream.get_next_response_chunk())
                    reading.add_done_callback(_seen)
                    if not (chunk := await asyncio.shield(reading)):
                        return
                    yield chunk

        class Http(AWSCRTHTTPClient):
            """The SDK's client over the CRT, which alone carries duplex streams."""

            async def _build_new_connection(self, url: Any) -> Any:
                tls = self._tls_ctx.new_connection_options()
                tls.set_server_name(url.host)
                tls.set_alpn_list(["h2", "http/1.1"])
                future = crt.AIOHttpClientConnectionUnified._generic_new(
                    url.host,
                    url.port or self._HTTPS_PORT,
                    self._client_bootstrap,
                    self._socket_options,
                    tls,
                    None,  # no proxy
                    asyncio_connection=True,
                )
                return await _patiently(future)

            async def _await_response(self, stream: Any) -> Any:
                # The task that sends fails when the server ends first. Nobody asks it, and asyncio would complain.
                if (writer := getattr(stream, "_writer", None)) is not None:
                    writer.add_done_callback(_seen)
                await _patiently(stream._response_headers_future)  # the status has come, too
                response = await super()._await_response(stream)
                return Body(status=response.status, fields=response.fields, stream=stream)

            def __deepcopy__(self, memo: Any) -> Http:
                return Http(eventloop=self._eventloop, client_config=self._config)

        self.models = models
        self.client = AsyncBedrockRuntimeClient
        self.config = AsyncBedrockRuntimeConfig
        self.identity = AWSCredentialsIdentity
        self.http = Http
        #: the CRT's thread, one for the process; the SDK would start one for each client
        self.event_loop = Http()._eventloop


_loaded: list[_Sdk] = []


async def connect_sdk(model: NovaSonic) -> NovaTransport:
    """Open a stream through the SDK. Raises typed errors within seconds; awaits nothing of the server yet."""
    sdk = await asyncio.to_thread(load_sdk)
    identity = await find_identity(region=model.region, profile=model.profile, known_region=model.endpoint_url is None)
    credentials = sdk.identity(
        access_key_id=identity.access_key, secret_access_key=identity.secret_key, session_token=identity.token
    )
    options: dict[str, Any] = {} if model.endpoint_url is None else {"endpoint_uri": model.endpoint_url}
    try:
        async with asyncio.timeout(_OPEN_S):
            config = await sdk.config.resolve(
                region=identity.region,
                aws_credentials_identity_resolver=_Fixed(credentials),
                transport=sdk.http(eventloop=sdk.event_loop),
                **options,
            )
            client = sdk.client(config=config)
            stream = await client.invoke_model_with_bidirectional_stream(
                sdk.models.InvokeModelWithBidirectionalStreamOperationInput(model_id=model.model_id)
            )
    except TimeoutError:
        raise ModelConnectionError(f"The AWS SDK set up no stream within {_OPEN_S:g} s.") from None
    return SdkStream(stream, client, identity, model.model_id)
