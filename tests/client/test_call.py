"""A call on virtual time, against the real server side of the protocol, over links that are cut, frozen and slow."""

from __future__ import annotations

import asyncio

import pytest

from duologue.client import Call, CallLostError, CallRefusedError, ConnectError, PlaybackDevice, Rendered, connect
from duologue.errors import AudioFormatError, ProtocolError, SessionClosedError
from duologue.events import ErrorEvent, ResponseAudio, SessionGoingAway, TextInput, TurnCommitted, encode
from duologue.wire.duologue import AuthRefresh, Bye, Cleared, InputReceived, Played, ServerOptions, UserAudio
from tests.client.call_server import Server

FRAME = b"\x01\x00" * 480  # 20 ms at 24 kHz
MIC = b"\x02\x00" * 320  # 20 ms at 16 kHz


def event(text: str) -> bytes:
    return encode(TurnCommitted(turn="t", text=text, reason="r"))


def call(server: Server, **options: object) -> Call:
    return connect("ws://test/ws", connector=server.connect, seed=1, **options)  # type: ignore[arg-type]


async def texts(caller: Call, count: int) -> list[str]:
    got = []
    async for item in caller:
        if isinstance(item, TurnCommitted):
            got.append(item.text)
            if len(got) == count:
                break
    return got


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.virtual
async def test_a_call_speaks_hears_and_hangs_up() -> None:
    server = Server(delay_s=0.02)
    async with call(server, token="key") as caller:
        assert (caller.session, caller.notice) == ("s_1", "a test answers")
        assert server.headers[0]["Authorization"] == "Bearer key"
        for _ in range(10):
            await caller.send_audio(MIC)
            await asyncio.sleep(0.02)
        await caller.send_text("hello")
        await asyncio.sleep(0.05)
        server.side.send_event(event("hi"))
        assert await texts(caller, 1) == ["hi"]
    await asyncio.sleep(0.1)
    assert [audio.position for audio in server.of(UserAudio)] == [320 * k for k in range(10)]
    assert [got.input for got in server.of(InputReceived)] == [TextInput(text="hello")]
    assert server.of(Bye) == [Bye(code="hangup")]
    assert server.headers[0]["Authorization"] == "Bearer key"
    with pytest.raises(SessionClosedError):
        await caller.send_text("too late")
    await caller.hang_up()


@pytest.mark.virtual
async def test_what_was_heard_is_acknowledged_in_real_time() -> None:
    server = Server(delay_s=0.03)
    async with call(server) as caller:
        start = now()
        for k in range(50):
            server.side.send_audio(FRAME, response="r", offset=480 * k)
        await asyncio.sleep(0.5)
        assert caller.playout is not None
        half = caller.playout.position
        assert half == pytest.approx((0.5 - 0.04) * 24_000, abs=300)
        await caller.playout.drained()
        assert now() - start == pytest.approx(1.03, abs=0.02)
        await asyncio.sleep(0.05)
        (run,) = caller.playout.log
        assert (run.position, run.samples, run.response, run.offset) == (0, 24_000, "r", 0)
        played = server.of(Played)
        assert 9 <= len(played) <= 13
        assert played[-1].position == 24_000
        # each acknowledgement says where playout stood at its time
        for ack in played[:-1]:
            assert ack.position == pytest.approx((ack.at - run.at) * 24_000, abs=2)
        assert server.side.played == 24_000


@pytest.mark.virtual
async def test_a_clear_silences_within_the_link_and_a_quantum() -> None:
    server = Server(delay_s=0.03)
    async with call(server) as caller:
        for k in range(100):
            server.side.send_audio(FRAME, response="r", offset=480 * k)
        await asyncio.sleep(0.7)
        decided = now()
        server.side.clear("r")
        await asyncio.sleep(0.5)
        assert caller.playout is not None
        (run,) = caller.playout.log
        silent = run.at + run.samples / 24_000
        assert 0 <= silent - decided <= 0.03 + 0.01 + 1e-6
        (answer,) = server.of(Cleared)
        assert answer.played == run.samples
        server.side.send_audio(FRAME, response="s", offset=0)
        await asyncio.sleep(0.2)
        assert caller.playout.log[-1].position == 48_000


@pytest.mark.virtual
async def test_ducking_reaches_the_loudspeaker() -> None:
    server = Server()
    heard: list[bytes] = []
    async with call(server, sink=lambda pcm, at: heard.append(pcm)):
        server.side.duck(-20)
        server.side.send_audio(b"\x10\x27" * 480, response="r", offset=0)
        await asyncio.sleep(0.1)
    assert b"".join(heard)[:2] == (1000).to_bytes(2, "little")


@pytest.mark.virtual
async def test_a_cut_is_resumed_and_nothing_is_lost_either_way() -> None:
    server = Server(delay_s=0.02)
    async with call(server, receive_audio=True) as caller:
        total = 200
        async with asyncio.TaskGroup() as group:

            async def microphone() -> None:
                for _ in range(total):
                    await caller.send_audio(MIC)
                    await asyncio.sleep(0.02)

            async def session() -> None:
                for k in range(total):
                    server.side.send_event(event(str(k)))
                    server.side.send_audio(FRAME, response="r", offset=480 * k)
                    await asyncio.sleep(0.02)

            async def network() -> None:
                for k in range(8):  # the cuts after the silent one hit a link that is dead already
                    await asyncio.sleep(0.45)
                    if k == 3:
                        server.links[-1].freeze()
                    else:
                        server.links[-1].cut()

            group.create_task(microphone())
            group.create_task(session())
            group.create_task(network())
        await asyncio.sleep(8)
        got = list(caller._events)
        words = [item.text for item in got if isinstance(item, TurnCommitted)]
        assert words == [str(k) for k in range(total)]
        assert [item.offset for item in got if isinstance(item, ResponseAudio)] == [480 * k for k in range(total)]
        assert [audio.position for audio in server.of(UserAudio)] == [320 * k for k in range(total)]
        assert caller.resumes >= 5
        assert caller.playout is not None
        assert sum(run.samples for run in caller.playout.log) == 480 * total


@pytest.mark.virtual
async def test_a_black_hole_is_found_and_left() -> None:
    server = Server()
    async with call(server) as caller:
        await asyncio.sleep(1.0)
        server.links[-1].freeze()
        began = now()
        server.side.send_event(event("into the void"))
        assert await texts(caller, 1) == ["into the void"]
        assert now() - began < 4.5
        assert caller.resumes == 1


@pytest.mark.virtual
async def test_what_fell_out_of_memory_is_told_to_the_reader() -> None:
    server = Server(ServerOptions(keep_event_bytes=500))
    async with call(server) as caller:
        server.reachable = False
        server.links[-1].cut()
        await asyncio.sleep(0.1)
        for k in range(50):
            server.side.send_event(event(str(k)))
        server.reachable = True
        await asyncio.sleep(5)
        first = await anext(caller)
        assert isinstance(first, ErrorEvent)
        assert first.code == "gap"
        lost = int(first.message.split()[0])
        assert await texts(caller, 50 - lost) == [str(k) for k in range(lost, 50)]


@pytest.mark.virtual
async def test_a_call_that_cannot_be_resumed_ends_with_a_typed_error() -> None:
    server = Server(ServerOptions(grace_s=5.0))
    async with call(server) as caller:
        server.side.send_event(event("before"))
        await asyncio.sleep(0.1)
        server.reachable = False
        server.links[-1].cut()
        assert await texts(caller, 1) == ["before"]
        began = now()
        with pytest.raises(CallLostError):
            await anext(caller)
        assert 4.0 < now() - began < 8.0
        with pytest.raises(CallLostError):
            await caller.send_audio(MIC)


@pytest.mark.virtual
async def test_a_server_that_forgot_the_call_ends_it() -> None:
    server = Server()
    async with call(server) as caller:
        server.refuse = ProtocolError("Unknown.", code="resume", close_code=4004)
        server.links[-1].cut()
        with pytest.raises(CallLostError):
            async for _ in caller:
                pass


@pytest.mark.virtual
async def test_a_refused_call_says_why() -> None:
    server = Server()
    server.refuse = ProtocolError("Wrong key.", code="auth", close_code=4003)
    with pytest.raises(CallRefusedError) as caught:
        async with call(server):
            pass
    assert (caught.value.code, caught.value.close_code) == ("auth", 4003)
    assert "Wrong key" in str(caught.value)


@pytest.mark.virtual
async def test_nobody_there_is_a_typed_error_at_once() -> None:
    server = Server()
    server.reachable = False
    with pytest.raises(ConnectError):
        async with call(server):
            pass
    assert now() < 1.0


@pytest.mark.virtual
async def test_a_server_that_never_answers_is_given_up() -> None:
    async def silence(url: str, headers: object) -> object:
        await asyncio.sleep(1e6)
        raise AssertionError

    with pytest.raises(ConnectError):
        async with connect("ws://x", connector=silence, open_timeout_s=3.0):  # type: ignore[arg-type]
            pass
    assert now() == pytest.approx(3.0)


@pytest.mark.virtual
async def test_the_server_ends_the_call() -> None:
    server = Server()
    async with call(server) as caller:
        server.side.send_event(event("bye"))
        assert server.side.link is not None
        server.side.link.bye("completed")
        got = [item async for item in caller]
        assert [item.text for item in got if isinstance(item, TurnCommitted)] == ["bye"]
        with pytest.raises(SessionClosedError):
            await caller.send_text("?")


@pytest.mark.virtual
async def test_a_reader_that_is_too_slow_loses_the_oldest_events_and_knows_how_many() -> None:
    server = Server()
    async with call(server, event_buffer=10) as caller:
        for k in range(100):
            server.side.send_event(event(str(k)))
        await asyncio.sleep(1.0)
        assert caller.dropped_events == 90
        assert await texts(caller, 10) == [str(k) for k in range(90, 100)]


@pytest.mark.virtual
async def test_the_microphone_goes_on_while_the_link_is_away_within_its_bound() -> None:
    server = Server()
    async with call(server, keep_s=1.0) as caller:
        await caller.send_audio(MIC)
        await asyncio.sleep(0.1)
        server.reachable = False
        server.links[-1].cut()
        dropped = 0
        for _ in range(100):
            dropped += await caller.send_audio(MIC)
            await asyncio.sleep(0.02)
        server.reachable = True
        await asyncio.sleep(3)
        positions = [audio.position for audio in server.of(UserAudio)]
        assert positions[-50:] == list(range(51 * 320, 101 * 320, 320))
        assert dropped == caller.dropped_samples == 101 * 320 - len(positions) * 320 > 0


@pytest.mark.virtual
async def test_credentials_are_refreshed_or_refused() -> None:
    server = Server()
    async with call(server, token="old") as caller:
        link = server.side.link
        assert link is not None
        waiting = asyncio.ensure_future(caller.refresh_token("new"))
        await asyncio.sleep(0.1)
        assert server.of(AuthRefresh) == [AuthRefresh(token="new")]
        link.auth_refreshed(60.0)
        assert await waiting == 60.0
        waiting = asyncio.ensure_future(caller.refresh_token("bad"))
        await asyncio.sleep(0.1)
        link.error("auth", "No.")
        with pytest.raises(CallRefusedError):
            await waiting
        server.links[-1].cut()
        await asyncio.sleep(2.0)
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer old", "Bearer new"]


@pytest.mark.virtual
async def test_errors_and_warnings_reach_the_reader() -> None:
    server = Server()
    async with call(server) as caller:
        link = server.side.link
        assert link is not None
        link.error("unsupported_input", "No pictures.", ref="1:1")
        link.going_away(30.0, "drain")
        first, second = await anext(caller), await anext(caller)
        assert first == ErrorEvent(code="unsupported_input", message="No pictures.", ref="1:1")
        assert second == SessionGoingAway(in_s=30.0, reason="drain")


@pytest.mark.virtual
async def test_wrong_audio_is_an_error_where_it_is_sent_and_the_call_goes_on() -> None:
    server = Server()
    async with call(server) as caller:
        with pytest.raises(AudioFormatError):
            await caller.send_audio(b"\0")
        await caller.send_audio(MIC)
        await asyncio.sleep(0.1)
        assert len(server.of(UserAudio)) == 1
    async with call(Server(), input_rate=None, output_rate=None) as silent:
        assert silent.playout is None
        with pytest.raises(AudioFormatError):
            await silent.send_audio(MIC)


@pytest.mark.virtual
async def test_a_device_of_ones_own_plays_instead() -> None:
    server = Server()
    device = PlaybackDevice(24_000, quantum_s=0.02)
    async with call(server, device=device) as caller:
        server.side.send_audio(FRAME, response="r", offset=0)
        assert caller.playout is not None
        await asyncio.sleep(0.2)
        assert list(device.log) == [Rendered(0, 480, pytest.approx(device.log[0].at), "r", 0)]


@pytest.mark.virtual
async def test_hanging_up_while_the_link_is_away_is_bounded() -> None:
    server = Server()
    async with call(server) as caller:
        server.reachable = False
        server.links[-1].cut()
        await asyncio.sleep(4)
        began = now()
        await caller.hang_up()
        assert now() - began <= 1.1


@pytest.mark.virtual
async def test_cancelling_a_call_leaves_no_task_behind() -> None:
    server = Server()

    async def talk() -> None:
        async with call(server):
            await asyncio.sleep(1e5)

    task = asyncio.ensure_future(talk())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(2)
    assert [t.get_name() for t in asyncio.all_tasks() if t.get_name().startswith("duologue")] == []
