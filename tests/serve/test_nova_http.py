"""Nova Sonic's endpoint at the level of HTTP/2: what is refused and how, windows, early ends, and the development certificate."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from duologue import Agent
from duologue.errors import ConfigurationError
from duologue.serve.certificate import development_certificate
from duologue.serve.nova_http import RefusedError, model_of, verified
from duologue.serve.nova_sonic import NovaOptions, RunningNova, serving_nova
from duologue.wire.nova_sonic import ChunkSigner, OutputReader, StreamException
from duologue.wire.sigv4 import Scope, canonical_request, request_signature, signing_key
from tests.real_clients.scripted_server import UTTERANCES, Scripted, echo, speech
from tests.serve.h2_client import H2Client
from tests.wire.nova_events import PROMPT, PROMPT_START, START, audio, end, open_audio, text

pytestmark = pytest.mark.anyio
PATH = "/model/amazon.nova-2-sonic-v1%3A0/invoke-with-bidirectional-stream"
SIGNER = ChunkSigner("any", Scope("20260101", "us-east-1", "bedrock"), "00" * 32)


@asynccontextmanager
async def served(home: Path, **options: Any) -> AsyncIterator[tuple[RunningNova, H2Client]]:
    given = {"port": 0, "as_model": True, "certificate_directory": str(home), **options}
    agent = Agent(model=Scripted(UTTERANCES, echo, rate=16_000))
    async with serving_nova(agent, NovaOptions(**given)) as server, asyncio.timeout(20):
        client = await H2Client.connect(server.url, server.ca_file)
        yield server, client
        await client.close()


def frames(*events: dict[str, Any]) -> bytes:
    return b"".join(SIGNER.chunk(json.dumps({"event": event}).encode(), 0) for event in events)


def events_of(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    return [next(iter(json.loads(event)["event"].items())) for event in OutputReader().feed(body)]


BEGIN = (START, PROMPT_START, *text("s1", "SYSTEM", "x"), open_audio())


def pcm(data: bytes) -> dict[str, Any]:
    import base64

    return audio(base64.b64encode(data).decode())


# ---------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (PATH, "amazon.nova-2-sonic-v1:0"),
        ("/model/amazon.nova-2-5-sonic/invoke-with-bidirectional-stream", "amazon.nova-2-5-sonic"),
        ("/model//invoke-with-bidirectional-stream", None),
        ("/model/x/invoke", None),
        ("/", None),
    ],
)
async def test_paths(path: str, model: str | None) -> None:
    assert model_of(path) == model


async def test_a_trailing_question_mark_is_no_query(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, client):
        stream = client.request(f"{PATH}?")
        client.data(stream, frames(START, {"sessionEnd": {}}), end=True)
        await stream.ended.wait()
        assert stream.status == 200
        assert stream.headers["content-type"] == "application/vnd.amazon.eventstream"
        assert stream.headers["x-amzn-requestid"]


@pytest.mark.parametrize(
    ("path", "method", "status", "type"),
    [
        ("/", "POST", 404, "UnknownOperationException"),
        (PATH, "GET", 400, "ValidationException"),
    ],
)
async def test_what_is_no_such_request(tmp_path: Path, path: str, method: str, status: int, type: str) -> None:
    async with served(tmp_path) as (_, client):
        stream = client.request(path, method=method, end=True)
        await stream.ended.wait()
        assert (stream.status, stream.headers["x-amzn-errortype"]) == (status, type)
        assert json.loads(stream.body)["message"]


def _signed(
    key: str = "K", secret: str = "S", service: str = "bedrock", ago: timedelta = timedelta()
) -> dict[str, str]:
    date = (datetime.now(UTC) - ago).strftime("%Y%m%dT%H%M%SZ")
    scope = Scope(date[:8], "us-east-1", service)
    headers = {"host": "h", "x-amz-date": date, "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-EVENTS"}
    signed = sorted(headers)
    canonical = canonical_request("POST", PATH, "", headers, signed, headers["x-amz-content-sha256"])
    signature = request_signature(signing_key(secret, scope), date, scope, canonical)
    value = f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={';'.join(signed)}, Signature={signature}"
    return {**headers, "authorization": value}


@pytest.mark.parametrize(
    ("sign", "changes", "type"),
    [
        (None, {}, "MissingAuthenticationTokenException"),
        (None, {"authorization": "Bearer x"}, "MissingAuthenticationTokenException"),
        (None, {"authorization": "AWS4-HMAC-SHA256 nothing"}, "IncompleteSignatureException"),
        ({"service": "s3"}, {}, "IncompleteSignatureException"),
        ({}, {"x-amz-date": "yesterday"}, "IncompleteSignatureException"),
        ({"ago": timedelta(minutes=6)}, {}, "InvalidSignatureException"),
        ({"key": "OTHER"}, {}, "UnrecognizedClientException"),
        ({"secret": "wrong"}, {}, "InvalidSignatureException"),
        ({}, {"host": "elsewhere"}, "InvalidSignatureException"),
    ],
)
async def test_signatures_that_are_refused(sign: dict[str, Any] | None, changes: dict[str, str], type: str) -> None:
    headers = changes if sign is None else {**_signed(**sign), **changes}
    with pytest.raises(RefusedError) as refused:
        verified("POST", PATH, "", headers, {"K": "S"}, datetime.now(UTC))
    assert refused.value.status == 403
    assert refused.value.type == type


async def test_a_good_signature_is_taken() -> None:
    assert verified("POST", PATH, "", _signed(), {"K": "S"}, datetime.now(UTC))


async def test_a_frame_that_is_not_signed_well_ends_the_stream(tmp_path: Path) -> None:
    async with served(tmp_path, keys={"K": "S"}) as (server, client):
        host = server.url.removeprefix("https://")
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = Scope(now[:8], "us-east-1", "bedrock")
        headers = {"host": host, "x-amz-date": now}
        canonical = canonical_request("POST", PATH, "", headers, sorted(headers), "STREAMING-AWS4-HMAC-SHA256-EVENTS")
        signature = request_signature(signing_key("S", scope), now, scope, canonical)
        value = f"AWS4-HMAC-SHA256 Credential=K/{scope}, SignedHeaders=host;x-amz-date, Signature={signature}"
        stream = client.request(PATH, {"x-amz-date": now, "authorization": value})
        client.data(stream, frames(START))  # signed with another key
        await stream.ended.wait()
        with pytest.raises(StreamException, match="signature"):
            list(OutputReader().feed(stream.body))


# ---------------------------------------------------------------------- streams


async def test_the_answer_begins_with_the_first_event_and_ends_with_the_session(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, client):
        stream = client.request(PATH)
        other = client.request(PATH)
        client.data(other, frames(START))
        while not other.status:
            other.changed.clear()
            await other.changed.wait()
        assert not stream.status, "a client that waits for an answer before it sends waits for ever, as at the service"
        client.data(stream, frames(*BEGIN, pcm(speech(0, 0.2, 16_000)), *text("t", "USER", "hi", interactive=True)))
        while b"END_TURN" not in b"".join(json.dumps(e).encode() for e in events_of(stream.body)):
            stream.changed.clear()
            await stream.changed.wait()
        client.data(stream, frames(end("a1"), {"promptEnd": {"promptName": PROMPT}}, {"sessionEnd": {}}))
        await stream.ended.wait()
        assert events_of(stream.body)[-1][0] == "completionEnd"
        # What the client still sends harms neither the stream nor its neighbour.
        client.data(stream, SIGNER.end(0), end=True)
        client.data(other, frames(*BEGIN[1:], pcm(bytes(3200)), *text("t", "USER", "you", interactive=True)))
        while "audioOutput" not in [name for name, _ in events_of(other.body)]:
            other.changed.clear()
            await other.changed.wait()


@pytest.mark.parametrize("last", [frames(START), b""])
async def test_a_half_closed_stream_is_finished(tmp_path: Path, last: bytes) -> None:
    async with served(tmp_path) as (_, client):
        stream = client.request(PATH)
        client.data(stream, last + SIGNER.end(0), end=True)
        await stream.ended.wait()
        assert (stream.status, stream.reset) == (200, None)


@pytest.mark.parametrize(
    "bad",
    [
        b"\x00\x00\x00\x20\x00\x00\x00\x00bad!" + bytes(20),
        frames({"promptStart": {"promptName": "p"}}),
        SIGNER.chunk(b"not json", 0),
        SIGNER.chunk(b'{"event":{"sessionStart":{"inferenceConfiguration":{"maxTokens":"many"}}}}', 0),
    ],
)
async def test_what_makes_no_sense_is_an_exception_of_the_protocol(tmp_path: Path, bad: bytes) -> None:
    async with served(tmp_path) as (_, client):
        stream = client.request(PATH)
        client.data(stream, bad)
        await stream.ended.wait()
        assert stream.status == 200
        with pytest.raises(StreamException, match="Invalid input request") as refused:
            list(OutputReader().feed(stream.body))
        assert refused.value.type == "validationException"
        assert refused.value.text.startswith("RequestId=")


async def test_a_client_that_says_nonsense_and_leaves_at_once_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path) as (server, client):
        stream = client.request(PATH)
        client.h2.send_data(stream.id, frames({"promptStart": {"promptName": "p"}}))
        client.h2.close_connection()
        client.flush()  # in one write: the answer finds the connection closed
        await asyncio.wait({client._task})  # until the connection is closed
        while server.http.tasks:
            await asyncio.wait(server.http.tasks)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_other_rates_in_and_out(tmp_path: Path) -> None:
    out = {**PROMPT_START["promptStart"]["audioOutputConfiguration"], "sampleRateHertz": 8000}
    prompt = {"promptStart": {**PROMPT_START["promptStart"], "audioOutputConfiguration": out}}
    async with served(tmp_path) as (server, client):
        stream = client.request(PATH)
        client.data(stream, frames(START, prompt, open_audio(rate=8000), pcm(bytes(8000))))
        client.data(stream, frames(*text("t", "USER", "hi", interactive=True)))
        while "END_TURN" not in [body.get("stopReason") for _, body in events_of(stream.body)]:
            stream.changed.clear()
            await stream.changed.wait()
        events = events_of(stream.body)
        (start,) = [body for name, body in events if name == "contentStart" and body["type"] == "AUDIO"]
        assert start["audioOutputConfiguration"]["sampleRateHertz"] == 8000
        samples = sum(len(body["content"]) * 3 // 4 for name, body in events if name == "audioOutput") // 2
        assert samples == pytest.approx(len("You said hi.") / 15 * 8000, rel=0.05)
        (call,) = server.server.sessions._calls.values()
        assert call.session.intake.media_end == pytest.approx(8000, abs=200), "half a second, at the house's rate"


async def test_a_client_that_does_not_read_gets_no_more_than_its_window(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, client):
        client.give_back = False
        stream = client.request(PATH)
        said = "This is a long story that goes on and on. " * 6
        client.data(stream, frames(*BEGIN, pcm(bytes(6400)), *text("t", "USER", said, interactive=True)))
        while len(stream.body) < 65_535:
            stream.changed.clear()
            await stream.changed.wait()
        assert len(stream.body) == 65_535
        client.give_back = True
        client.h2.increment_flow_control_window(1 << 24)
        client.h2.increment_flow_control_window(1 << 24, stream.id)
        client.flush()
        while b"END_TURN" not in stream.body and "END_TURN" not in str(events_of(stream.body)):
            stream.changed.clear()
            await stream.changed.wait()
        assert len(stream.body) > 200_000


async def test_a_client_that_vanishes_ends_its_session(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, client):
        stream = client.request(PATH)
        client.data(stream, frames(*BEGIN, pcm(bytes(6400)), *text("t", "USER", "hi", interactive=True)))
        while not stream.body:
            stream.changed.clear()
            await stream.changed.wait()
        (call,) = server.server.sessions._calls.values()
        await client.close()
        ended = await call.session.wait()
        assert ended.reason == "hangup"


async def test_only_http_2_is_spoken(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, _):
        context = ssl.create_default_context(cafile=str(server.ca_file))
        context.set_alpn_protocols(["http/1.1"])
        host, port = server.url.removeprefix("https://").split(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await reader.read() == b""
            writer.close()
        except (ssl.SSLError, ConnectionError):
            pass  # refused in the handshake: as good


async def test_what_is_no_http_2_closes_the_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, client):
        client._writer.write(b"\x00\x00\x08\x00\x00\x00\x00\x00\x09" + bytes(8))
        await client.closed.wait()
        again = await H2Client.connect(server.url, server.ca_file)
        stream = again.request("/", end=True)
        await stream.ended.wait()
        assert stream.status == 404
        await again.close()


# ---------------------------------------------------------------------- options, certificate


async def test_a_certificate_is_made_once_and_again_for_other_names(tmp_path: Path) -> None:
    first = development_certificate((), tmp_path)
    before = first.cert_file.read_bytes()
    assert stat.S_IMODE(first.key_file.stat().st_mode) == 0o600
    assert development_certificate(("localhost",), tmp_path).cert_file.read_bytes() == before
    other = development_certificate(("example.test",), tmp_path)
    assert other.cert_file.read_bytes() != before
    context = ssl.create_default_context(cafile=str(other.ca_file))
    assert context.get_ca_certs()[0]["subject"][0][0][1] == "Duologue development authority"


async def test_options_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="lets the network in"):
        NovaOptions(host="0.0.0.0")
    assert NovaOptions(host="0.0.0.0", keys={"K": "S"})
    with pytest.raises(ConfigurationError, match="needs its key"):
        NovaOptions(certificate="cert.pem")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match="can be kept"):
        development_certificate((), tmp_path / "file" / "tls")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        async with serving_nova(
            Agent(model=Scripted(UTTERANCES, echo)),
            NovaOptions(port=0, certificate=str(tmp_path / "file"), certificate_key=str(tmp_path / "file")),
        ):
            pass
