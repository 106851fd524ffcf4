"""Protocol v1 by example: what each side says and does, both ends against each other."""

from __future__ import annotations

import contextlib
import json

import pytest

from duologue.errors import AudioFormatError, ConfigurationError, LimitExceededError, ProtocolError
from duologue.events import (
    ImageInput,
    ResponseAudio,
    TextInput,
    TurnCommitted,
    UserTranscript,
    encode,
)
from duologue.wire.dialect import detect
from duologue.wire.duologue import (
    AgentAudio,
    AudioSpec,
    Bye,
    Clear,
    Cleared,
    ClientProtocol,
    Duck,
    ErrorMessage,
    EventReceived,
    GapMessage,
    GoingAway,
    InputReceived,
    Played,
    Refused,
    ServerDelivery,
    ServerOptions,
    ServerProtocol,
    Skipped,
    Then,
    UserAudio,
    Welcome,
    after_close,
)
from duologue.wire.duologue.frames import encode_agent_audio, encode_user_audio
from duologue.wire.duologue.messages import Hello, Resume
from tests.wire.duologue_pair import DOWN, UP, Pair, kinds, refused

PCM = b"\x01\x00" * 480


def event(text: str) -> bytes:
    return encode(TurnCommitted(turn="t", text=text, reason="r"))


def texts(pair: Pair) -> list[str]:
    return [m.event.text for m in pair.at_client if isinstance(m, EventReceived) and isinstance(m.event, TurnCommitted)]


def audio(pair: Pair) -> list[AgentAudio]:
    return [m for m in pair.at_client if isinstance(m, AgentAudio)]


# -- opening -----------------------------------------------------------------------------------------------------------


def test_the_opening_agrees_on_formats_and_hands_over_a_resume_token() -> None:
    pair = Pair()
    (welcome,) = pair.at_client
    assert isinstance(welcome, Welcome)
    assert (welcome.session, welcome.epoch, welcome.token, welcome.resumed) == ("s_1", 1, "token-1", False)
    assert (welcome.input, welcome.output, welcome.last) == (UP, DOWN, (1, 0))
    assert pair.client.connected


def test_the_hello_of_the_documentation_is_understood() -> None:
    server = ServerProtocol(now=0.0)
    text = """{"type": "hello", "versions": [1],
        "input":  {"encoding": "pcm16", "rate": 16000, "channels": 1},
        "output": {"encoding": "pcm16", "rate": 24000, "channels": 1},
        "client": {"name": "example", "version": "1.0"},
        "capabilities": {"acks": true, "duck": true},
        "token": "…", "metadata": {"language": "en"}, "a field of the future": 1}"""
    (hello,) = server.receive_text(text, 0.0)
    assert isinstance(hello, Hello)
    assert (hello.input, hello.output) == (UP, DOWN)
    assert hello.capabilities.acks
    assert hello.metadata == {"language": "en"}


@pytest.mark.parametrize(
    ("first", "code", "close"),
    [
        ('{"type":"hello","versions":[2,3]}', "version", 4001),
        ('{"type":"hello"}', "malformed", 4000),
        ('{"type":"hello","versions":[1],"input":{"rate":4000}}', "malformed", 4000),
        ('{"type":"hello","versions":[1],"input":{"rate":16000,"channels":2}}', "malformed", 4000),
        ('{"type":"hello","versions":[1],"input":{"rate":16000,"encoding":"opus"}}', "malformed", 4000),
        ('{"type":"ack","e":1,"n":1}', "handshake", 4000),
        ('{"type":"nonsense"}', "unknown_message", 4000),
        ("not json", "malformed", 4000),
        ("[" * 100_000, "malformed", 4000),
        ('"\ud800"', "malformed", 4000),
        (json.dumps({"type": "hello", "versions": [1], "metadata": {"a": "x" * 5000}}), "handshake", 4000),
        ('{"type":"hello","versions":[1]}' + " " * (1 << 20), "too_big", 1009),
    ],
)
def test_a_wrong_first_message_ends_the_link_with_a_reason(first: str, code: str, close: int) -> None:
    server = ServerProtocol(now=0.0)
    error = refused(server.receive_text, first, 0.0)
    assert (error.code, error.close_code, server.close_code) == (code, close, close)
    said = server.next_frame(0.0)
    assert isinstance(said, str)
    assert json.loads(said)["fatal"] is True
    assert server.next_frame(0.0) is None
    assert server.receive_text('{"type":"hello","versions":[1]}', 0.0) == []


def test_audio_before_the_opening_ends_the_link() -> None:
    assert refused(ServerProtocol(now=0.0).receive_bytes, encode_user_audio(1, 1, 0, PCM), 0.0).code == "handshake"


def test_a_client_that_never_says_hello_is_closed_in_time() -> None:
    server = ServerProtocol(now=5.0)
    assert server.next_deadline() == 15.0
    server.tick(14.9)
    assert refused(server.tick, 15.0).close_code == 4006


def test_the_server_refuses_with_a_typed_error_that_the_client_reads() -> None:
    pair = Pair(connect=False)
    pair.open()
    hello = pair.client.next_frame(0.0)
    assert isinstance(hello, str)
    pair.link.receive_text(hello, 0.0)
    pair.link.refuse(ProtocolError("No.", code="auth", close_code=4003))
    frame = pair.link.next_frame(0.0)
    assert isinstance(frame, str)
    (error,) = pair.client.receive_text(frame, 0.0)
    assert isinstance(error, ErrorMessage)
    assert (error.code, error.fatal, pair.link.close_code) == ("auth", True, 4003)


def test_a_second_hello_and_a_second_welcome_are_out_of_place() -> None:
    pair = Pair()
    assert refused(pair.link.receive_text, '{"type":"hello","versions":[1]}', 0.0).close_code == 4000
    pair = Pair()
    welcome = '{"type":"welcome","version":1,"session":"s","epoch":1,"token":"t"}'
    assert refused(pair.client.receive_text, welcome, 0.0).code == "handshake"


@pytest.mark.parametrize(
    ("first", "dialect"),
    [
        ('{"type":"hello","versions":[1]}', "duologue"),
        ('{"type":"bidi_text_input","text":"hi"}', "strands"),
        ('{"text":"hi"}', "strands"),
        ('[{"text":"hi"}]', "strands"),
        ('{"audio_delta":{}}', "strands"),
    ],
)
def test_the_first_message_selects_the_dialect(first: str, dialect: str) -> None:
    assert detect(first) == dialect


@pytest.mark.parametrize("first", ["", "x", "[]", "7", '{"type":7}', '{"type":"start"}', "{}", b"\x11", "[" * 99_999])
def test_other_first_messages_are_no_dialect(first: str | bytes) -> None:
    assert refused(detect, first).close_code == 4000


def test_a_first_message_beyond_all_bounds_is_not_even_read() -> None:
    assert refused(detect, " " * 2_000_000).close_code == 1009


# -- the flow ------------------------------------------------------------------------------------------------------------


def test_events_and_audio_arrive_in_order_and_are_acknowledged() -> None:
    pair = Pair()
    pair.side.send_event(event("one"))
    pair.side.send_audio(PCM, response="r", offset=0)
    pair.side.send_audio(PCM, response="r", offset=480, last=True)
    pair.settle()
    assert texts(pair) == ["one"]
    assert audio(pair) == [AgentAudio(PCM, 0, "r", 0, False), AgentAudio(PCM, 480, "r", 480, True)]
    pair.pass_time(0.3)
    assert len(pair.side.outbox) == 0


def test_events_overtake_audio_that_waits_and_control_overtakes_both() -> None:
    pair = Pair()
    pair.side.send_audio(PCM, response="r", offset=0)
    pair.side.send_event(event("one"))
    pair.side.duck(-12)
    frames = []
    while (frame := pair.link.next_frame(0.0)) is not None:
        frames.append("audio" if isinstance(frame, bytes) else json.loads(frame)["type"])
    assert frames == ["duck", "event", "response", "audio"]


def test_user_audio_and_inputs_keep_their_order() -> None:
    pair = Pair()
    pair.client.send_audio(PCM)
    pair.client.send_input(TextInput(text="hello"))
    pair.client.send_audio(PCM, position=960)
    pair.settle()
    assert pair.at_server == [
        UserAudio(1, 1, 0, PCM),
        InputReceived(1, 2, TextInput(text="hello")),
        UserAudio(1, 3, 960, PCM),
    ]
    assert pair.side.capture == 1440


def test_pictures_go_up_as_inputs() -> None:
    pair = Pair()
    pair.client.send_input(ImageInput(data=b"\xff\xd8" * 1000))
    pair.settle()
    (got,) = pair.at_server
    assert isinstance(got, InputReceived)
    assert got.input == ImageInput(data=b"\xff\xd8" * 1000)


def test_an_input_that_the_server_would_not_take_is_refused_before_it_is_sent() -> None:
    pair = Pair(ServerOptions(text_bytes=2000))
    with pytest.raises(LimitExceededError):
        pair.client.send_input(TextInput(text="é" * 1000))
    pair.client.send_input(TextInput(text="x" * 1800))
    pair.settle()
    assert kinds(pair.at_server) == ["InputReceived"]


def test_long_audio_is_cut_into_frames_that_fit() -> None:
    pair = Pair()
    pair.side.send_audio(bytes(200_000), response="r", offset=0, last=True)
    pair.client.send_audio(bytes(200_000))
    pair.settle()
    assert sum(len(a.pcm) for a in audio(pair)) == 200_000
    assert [a.last for a in audio(pair)] == [False, False, False, True]
    got = [m for m in pair.at_server if isinstance(m, UserAudio)]
    assert sum(len(a.pcm) for a in got) == 200_000
    assert [a.position for a in got] == [sum(len(b.pcm) // 2 for b in got[:k]) for k in range(len(got))]


def test_both_clocks_are_compared_by_pings() -> None:
    pair = Pair()
    pair.pass_time(2.0)
    assert pair.link.clock.rtt == 0.0
    assert pair.link.clock.offset == 0.0
    assert pair.client.clock is not None
    assert pair.client.clock.offset == 0.0


def test_a_silent_black_hole_is_found_by_both_sides() -> None:
    pair = Pair()
    pair.pass_time(1.0)
    pair.side.send_event(event("last sign of the server"))
    pair.client.send_audio(PCM)
    pair.settle()
    for side in (pair.client, pair.link):
        now = pair.now
        while side.close_code is None and now < pair.now + 5:
            now += 0.05
            with contextlib.suppress(ProtocolError):
                side.tick(now)
        assert side.close_code == 4010
        assert now - pair.now == pytest.approx(3.0, abs=0.06)


def test_unknown_events_are_skipped_and_their_position_counts() -> None:
    pair = Pair()
    pair.side.send_event(b'{"type":"event.of.the.future","x":1}')
    pair.side.send_event(b'{"type":"user.transcript","turn":7}')
    pair.side.send_event(encode(ResponseAudio(response="r", pcm=b"", rate=8000, offset=0, position=0)))
    pair.side.send_event(event("known"))
    pair.settle()
    assert kinds(pair.at_client)[1:] == ["Skipped", "Skipped", "Skipped", "EventReceived"]
    assert isinstance(pair.at_client[1], Skipped)
    assert not any(isinstance(m, Refused) for m in pair.at_server)


def test_goodbye_ends_the_call_on_both_sides_after_what_was_queued() -> None:
    pair = Pair()
    pair.side.send_event(event("last words"))
    pair.link.bye("completed")
    pair.settle()
    assert kinds(pair.at_client)[-2:] == ["EventReceived", "Bye"]
    assert (pair.link.close_code, pair.client.close_code, pair.client.over) == (1000, 1000, True)
    assert refused(pair.client.connect, 0.0).code == "closed"


def test_hanging_up_ends_the_call() -> None:
    pair = Pair()
    pair.client.hang_up()
    pair.settle()
    assert pair.at_server == [Bye(code="hangup")]
    assert pair.link.close_code == 1000
    assert pair.link.receive_text("anything", 0.0) == []


def test_going_away_and_credentials() -> None:
    pair = Pair()
    pair.link.going_away(30, "drain")
    pair.client.refresh("new")
    pair.settle()
    assert isinstance(pair.at_client[-1], GoingAway)
    assert kinds(pair.at_server) == ["AuthRefresh"]
    pair.link.auth_refreshed(3600)
    pair.link.error("unsupported_input", "This model sees nothing.", ref="1:4")
    pair.settle()
    assert kinds(pair.at_client)[-2:] == ["AuthRefreshed", "ErrorMessage"]


def test_secrets_are_not_part_of_what_is_printed() -> None:
    hello = Hello(versions=[1], token="SECRET", resume=Resume(session="s", token="SECRET", last=(1, 0)))
    assert "SECRET" not in repr(hello)
    assert "SECRET" not in repr(Welcome(version=1, session="s", epoch=1, token="SECRET"))


# -- playout -----------------------------------------------------------------------------------------------------------


def test_playout_is_acknowledged_up_to_what_was_transmitted() -> None:
    pair = Pair()
    pair.side.send_audio(PCM, response="r", offset=0)
    pair.settle()
    pair.client.played(480, 1.5)
    pair.client.played(240, 1.4)  # old news
    pair.settle()
    assert pair.at_server == [Played(e=1, position=480, at=1.5)]
    for text, code in (
        ('{"type":"played","e":1,"position":481}', "played_unsent"),
        ('{"type":"ack","e":1,"n":99}', "ack_unsent"),
        ('{"type":"cleared","c":9,"e":1,"played":0}', "cleared_unknown"),
    ):
        (refusal,) = pair.link.receive_text(text, 0.0)
        assert isinstance(refusal, Refused)
        assert refusal.error.code == code
    pair.settle()
    errors = [m for m in pair.at_client if isinstance(m, ErrorMessage)]
    assert [(e.code, e.fatal) for e in errors] == [
        ("played_unsent", False),
        ("ack_unsent", False),
        ("cleared_unknown", False),
    ]
    assert pair.side.played == 480
    assert pair.link.close_code is None


def test_a_clear_drops_what_waits_and_is_answered_with_what_was_rendered() -> None:
    pair = Pair()
    pair.side.send_audio(PCM, response="r", offset=0)
    pair.settle()
    pair.side.send_audio(PCM, response="r", offset=480)  # still queued: it never gets a number
    message = pair.side.clear("r")
    assert (message.before, pair.side.dropped, pair.side.queued_samples) == (960, 480, 0)
    sent = pair.side.outbox.sent
    pair.settle()
    assert pair.side.outbox.sent == sent
    assert isinstance(pair.at_client[-1], Clear)
    pair.client.cleared(message.c, 240, 2.0)
    pair.settle()
    assert pair.at_server == [Cleared(c=1, e=1, played=240, at=2.0)]
    assert pair.side.send_audio(PCM, response="r2", offset=0) == 960
    pair.settle()
    assert audio(pair)[-1].position == 960


def test_clearing_one_response_leaves_the_next_one_playing() -> None:
    pair = Pair()
    pair.side.send_audio(PCM, response="a", offset=0)
    pair.side.send_audio(PCM, response="b", offset=0)
    message = pair.side.clear("a")
    pair.settle()
    assert message.before == 480
    assert [(a.response, a.position) for a in audio(pair)] == [("b", 480)]


def test_a_clear_is_executed_once_and_answered_as_often_as_it_is_asked() -> None:
    pair = Pair()
    pair.side.send_audio(PCM, response="r", offset=0)
    pair.settle()
    pair.side.clear()
    pair.settle()
    pair.client.cleared(1, 100, 1.0)
    pair.cut()
    pair.resume()
    assert kinds(pair.at_client).count("Clear") == 1
    assert [m.played for m in pair.at_server if isinstance(m, Cleared)] == [100]
    assert not pair.side.clears


def test_cleared_audio_that_arrives_late_is_not_played() -> None:
    client = Pair().client
    client.receive_text('{"type":"response","number":1,"response":"a"}', 0.0)
    client.receive_text('{"type":"response","number":2,"response":"b"}', 0.0)
    client.receive_text('{"type":"clear","c":1,"before":100,"response":"a"}', 0.0)
    assert client.receive_bytes(encode_agent_audio(1, 1, 0, 1, 0, bytes(100)), 0.0) == []
    (partly,) = client.receive_bytes(encode_agent_audio(1, 2, 50, 1, 50, bytes(200)), 0.0)
    assert partly == AgentAudio(bytes(100), 100, "a", 100, False)
    (other,) = client.receive_bytes(encode_agent_audio(1, 3, 90, 2, 0, b"\1\0"), 0.0)
    assert other == AgentAudio(b"\1\0", 90, "b", 0, False)
    assert client.clear_dropped == 100


def test_ducking_is_for_clients_that_can_and_old_orders_are_ignored() -> None:
    pair = Pair()
    pair.side.duck(-15, ramp_ms=40)
    pair.settle()
    assert pair.at_client[-1] == Duck(c=1, gain_db=-15.0, ramp_ms=40)
    assert pair.client.receive_text('{"type":"duck","c":1,"gain_db":-3}', 0.0) == []
    deaf = ServerDelivery(session="s", token="t", input=None, output=DOWN)
    deaf.duck(-15)
    assert deaf.gain is None


# -- cuts --------------------------------------------------------------------------------------------------------------


def test_after_a_cut_everything_arrives_once_and_in_order() -> None:
    pair = Pair()
    for k in range(5):
        pair.side.send_event(event(str(k)))
        pair.side.send_audio(PCM, response="r", offset=480 * k)
        pair.client.send_audio(PCM)
    pair.flush()
    pair.deliver(up=2, down=6)
    pair.cut()
    pair.side.send_event(event("away"))
    pair.side.send_audio(PCM, response="r2", offset=0)
    pair.client.send_audio(PCM)
    pair.client.send_input(TextInput(text="away too"))
    pair.resume()
    assert texts(pair) == ["0", "1", "2", "3", "4", "away"]
    assert [a.position for a in audio(pair)] == [480 * k for k in range(6)]
    assert audio(pair)[-1].response == "r2"
    positions = [m.position for m in pair.at_server if isinstance(m, UserAudio)]
    assert positions == [480 * k for k in range(6)]
    assert kinds(pair.at_server)[-1] == "InputReceived"
    assert pair.report is not None
    assert (pair.report.gap_events, pair.report.gap_ms) == (0, 0)
    assert pair.client.session == "s_1"


def test_what_no_longer_fits_is_reported_in_events_and_milliseconds() -> None:
    pair = Pair(ServerOptions(keep_audio_s=0.1, keep_event_bytes=200))
    for k in range(10):
        pair.side.send_audio(PCM, response="r", offset=480 * k)
    pair.flush()
    pair.cut()
    for k in range(10):
        pair.side.send_event(event(str(k)))
    pair.resume()
    gaps = [m for m in pair.at_client if isinstance(m, GapMessage)]
    assert pair.report is not None
    assert pair.report.gap_ms == sum(g.ms for g in gaps) == 100
    lost = sum(g.events for g in gaps)
    assert pair.report.gap_events == lost == 10 - len(texts(pair))
    assert lost > 0
    assert texts(pair) == [str(k) for k in range(lost, 10)]


def test_user_audio_that_no_longer_fits_shows_as_a_step_of_the_capture_position() -> None:
    pair = Pair(keep_s=0.1)
    pair.cut()
    dropped = sum(pair.client.send_audio(bytes(640)) for _ in range(10))
    assert dropped == pair.client.dropped_samples == 1600
    pair.resume()
    assert [m.position for m in pair.at_server if isinstance(m, UserAudio)] == [1600 + 320 * k for k in range(5)]


def test_user_audio_that_left_and_was_not_confirmed_is_kept_up_to_a_bound_and_counted_beyond() -> None:
    pair = Pair(keep_s=0.1)
    for _ in range(10):
        pair.client.send_audio(bytes(640))
        assert pair.client.unconfirmed_samples <= 1600 + 320
        pair.flush()  # it leaves, and arrives nowhere
    assert (pair.client.unconfirmed_samples, pair.client.dropped_samples) == (1600, 0)  # some may yet have arrived
    for _ in range(2):  # what a replay misses is counted once, also when the replay itself is cut off
        pair.cut()
        pair.open()
        pair.flush(1)
        pair.deliver()
        pair.flush(1)
        pair.deliver(up=0)
        assert pair.client.dropped_samples == 1600
    pair.cut()
    pair.resume()
    assert [m.position for m in pair.at_server if isinstance(m, UserAudio)] == [1600 + 320 * k for k in range(5)]
    assert pair.link.next_frame(pair.now) is None
    pair.now += 1.0
    pair.settle()
    assert pair.client.unconfirmed_samples == 0
    assert pair.client.dropped_samples == 1600


def test_a_step_back_of_the_capture_position_is_refused_and_the_call_goes_on() -> None:
    pair = Pair()
    pair.link.receive_bytes(encode_user_audio(1, 1, 1000, PCM), 0.0)
    (refusal,) = pair.link.receive_bytes(encode_user_audio(1, 2, 1479, PCM), 0.0)
    assert isinstance(refusal, Refused)
    assert (refusal.error.code, refusal.samples) == ("position", 480)
    assert pair.link.receive_bytes(encode_user_audio(1, 3, 1480, PCM), 0.0) == [UserAudio(1, 3, 1480, PCM)]


def test_audio_cleared_during_the_cut_is_not_replayed() -> None:
    pair = Pair()
    for k in range(4):
        pair.side.send_audio(PCM, response="r", offset=480 * k)
    pair.side.send_event(event("before"))
    pair.flush()
    pair.deliver(down=2)
    pair.cut()
    pair.side.clear()
    pair.side.send_audio(PCM, response="next", offset=0)
    pair.resume()
    assert audio(pair)[-1].response == "next"
    assert all(a.response == "next" for a in audio(pair)[0:])
    assert [g.why for g in pair.at_client if isinstance(g, GapMessage)] == ["cleared"]
    assert kinds(pair.at_client).index("Clear") < kinds(pair.at_client).index("GapMessage")
    assert texts(pair) == ["before"]


def test_a_clear_in_the_middle_of_a_replay_stops_it() -> None:
    pair = Pair()
    for k in range(6):
        pair.side.send_audio(PCM, response="r", offset=480 * k)
    pair.flush()
    pair.cut()
    pair.open()
    hello = pair.client.next_frame(0.0)
    assert isinstance(hello, str)
    pair.up.append(hello)
    pair.deliver()
    while not isinstance(frame := pair.link.next_frame(0.0), bytes):
        assert frame is not None
        pair.down.append(frame)
    pair.down.append(frame)
    pair.side.clear()
    pair.settle()
    assert len(audio(pair)) == 1
    (gap,) = [m for m in pair.at_client if isinstance(m, GapMessage)]
    assert (gap.why, gap.samples) == ("cleared", 2400)
    pair.side.send_event(event("after"))
    pair.settle()
    assert texts(pair) == ["after"]
    assert pair.client._inbox.duplicates == 0


def test_a_clear_after_a_gap_of_a_replay_does_not_repeat_the_gap() -> None:
    pair = Pair(ServerOptions(keep_audio_s=0.05))
    for k in range(6):
        pair.side.send_audio(PCM, response="r", offset=480 * k)
    pair.flush()
    pair.cut()
    pair.open()
    pair.flush()
    pair.deliver()
    while not isinstance(frame := pair.link.next_frame(0.0), str) or json.loads(frame)["type"] != "gap":
        assert frame is not None
        pair.down.append(frame)
    pair.down.append(frame)
    pair.side.clear()
    pair.settle()
    assert [(g.why, g.samples) for g in pair.at_client if isinstance(g, GapMessage)] == [
        ("overflow", 1920),
        ("cleared", 960),
    ]
    assert pair.client._inbox.duplicates == 0


def test_the_loudness_is_stated_again_after_a_resume() -> None:
    pair = Pair()
    pair.side.duck(-15)
    pair.cut()
    pair.resume()
    assert Duck(c=1, gain_db=-15.0) in pair.at_client


def test_welcomes_that_are_lost_do_not_lock_the_client_out() -> None:
    pair = Pair()
    for _ in range(3):
        pair.cut()
        pair.open()
        pair.flush()
        pair.deliver(down=0)  # the server has welcomed and rotated its token; the client never learns of it
    pair.cut()
    pair.side.send_event(event("here"))
    pair.resume()
    assert pair.tokens == 5
    assert texts(pair) == ["here"]


def test_a_wrong_token_or_another_session_is_refused_without_saying_which() -> None:
    pair = Pair()
    pair.cut()
    for session, token in (("s_1", "guess"), ("s_2", "token-1")):
        server = ServerProtocol(now=0.0)
        hello = Hello(versions=[1], input=UP, output=DOWN, resume=Resume(session=session, token=token, last=(1, 0)))
        server.receive_text(_text(hello), 0.0)
        error = refused(lambda s=server: s.welcome(pair.side, token="x", now=0.0))
        assert (error.code, error.close_code) == ("resume", 4004)
    assert pair.side.link is None
    pair.resume()
    assert pair.client.connected


@pytest.mark.parametrize(
    "hello",
    [
        Hello(versions=[1], input=AudioSpec(rate=8000), output=DOWN, resume=Resume(session="s_1", token="token-1", last=(1, 0))),
        Hello(versions=[1], input=UP, output=DOWN, resume=Resume(session="s_1", token="token-1", last=(1, 9))),
        Hello(versions=[1], input=UP, output=DOWN, resume=Resume(session="s_1", token="token-1", last=(1, 0), played=1)),
    ],
    ids=["formats", "never sent", "never played"],
)  # fmt: skip
def test_a_resume_that_cannot_be_true_is_refused(hello: Hello) -> None:
    pair = Pair()
    pair.cut()
    server = ServerProtocol(now=0.0)
    server.receive_text(_text(hello), 0.0)
    assert refused(lambda: server.welcome(pair.side, token="x", now=0.0)).close_code == 4004
    pair.resume()
    assert pair.client.connected


def test_a_newer_link_replaces_one_that_seems_alive() -> None:
    pair = Pair()
    old = pair.link
    pair.side.send_event(event("queued on the old link"))
    pair.client.disconnected(0.0)
    pair.resume()
    assert old.close_code == 4009
    assert old.next_frame(0.0) is None
    assert texts(pair) == ["queued on the old link"]
    pair.side.detach(old, 0.0)  # the old driver notices late
    assert pair.side.link is pair.link
    assert not pair.side.grace.running


def test_grace_runs_while_the_client_is_away() -> None:
    pair = Pair()
    pair.now = 100.0
    pair.cut()
    assert pair.side.grace.next_deadline() == 130.0
    assert pair.client.may_resume(129.0)
    assert not pair.client.may_resume(130.0)
    pair.resume()
    assert not pair.side.grace.running


def test_a_takeover_raises_the_epoch_and_owes_nothing() -> None:
    pair = Pair()
    pair.side.send_event(event("old owner"))
    pair.client.send_audio(PCM)
    pair.flush()
    pair.cut()
    pair.side.advance(2)
    pair.side.send_event(event("new owner"))
    pair.client.send_audio(PCM)
    pair.resume()
    assert texts(pair) == ["old owner", "new owner"]
    assert pair.client.epoch == 2
    assert [(m.epoch, m.n) for m in pair.at_server if isinstance(m, UserAudio)] == [(1, 1), (2, 1)]


# -- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "malformed"),
        ("[1]", "malformed"),
        ('{"type":"ack","e":1}', "malformed"),
        ('{"type":"ack","e":1,"n":-4}', "malformed"),
        ('{"type":"ack","e":1,"n":1e999}', "malformed"),
        ('{"type":"played","e":1,"position":"7"}', "malformed"),
        ('{"type":"welcome"}', "unknown_message"),
        ('{"type":"input","e":1,"n":1,"input":{"type":"input.telepathy"}}', "input"),
        ('{"type":"input","e":1,"n":1,"input":{"type":"input.text"}}', "input"),
        ('{"type":"input","e":1,"n":1,"input":{"type":"input.audio","pcm":"AAA="}}', "input"),
    ],
)
def test_what_cannot_be_understood_is_answered_and_the_call_goes_on(text: str, code: str) -> None:
    pair = Pair()
    (refusal,) = pair.link.receive_text(text, 0.0)
    assert isinstance(refusal, Refused)
    assert refusal.error.code == code
    pair.settle()
    assert isinstance(pair.at_client[-1], ErrorMessage)
    assert pair.link.close_code is None


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (encode_user_audio(1, 1, 0, b"\0\0\0"), "audio_format"),
        (encode_user_audio(1, 1, 0, b""), "audio_format"),
        (b"\x99" * 64, "unknown_frame"),
        (b"", "malformed"),
    ],
)
def test_audio_that_cannot_be_used_is_answered_and_the_call_goes_on(frame: bytes, code: str) -> None:
    pair = Pair()
    (refusal,) = pair.link.receive_bytes(frame, 0.0)
    assert isinstance(refusal, Refused)
    assert refusal.error.code == code
    assert pair.link.close_code is None


def test_audio_where_none_was_agreed_is_refused() -> None:
    server = ServerProtocol(now=0.0)
    server.receive_text('{"type":"hello","versions":[1]}', 0.0)
    delivery = ServerDelivery(session="s", token="t", input=None, output=None)
    server.welcome(delivery, token="u", now=0.0)
    (refusal,) = server.receive_bytes(encode_user_audio(1, 1, 0, PCM), 0.0)
    assert isinstance(refusal, Refused)
    assert refusal.error.code == "audio_format"
    with pytest.raises(AudioFormatError):
        delivery.send_audio(PCM, response="r", offset=0)
    client = ClientProtocol(input=None, output=None)
    with pytest.raises(AudioFormatError):
        client.send_audio(PCM)


@pytest.mark.parametrize(
    ("message", "close"),
    [
        (encode_user_audio(1, 5, 0, PCM), 4000),
        (encode_user_audio(9, 1, 0, PCM), 4000),
        ('{"type":"input","e":1,"n":3,"input":{}}', 4000),
        ('{"type":"gap","from":[1,4],"to":[1,9]}', 4000),
        (b"\x11" + bytes(70_000), 1009),
        ('{"type":"ack","x":"' + "x" * (1 << 20) + '"}', 1009),
    ],
)
def test_what_breaks_the_sequence_or_the_bounds_ends_the_link_but_not_the_call(
    message: str | bytes, close: int
) -> None:
    pair = Pair()
    receive = pair.link.receive_text if isinstance(message, str) else pair.link.receive_bytes
    assert refused(receive, message, 0.0).close_code == close
    assert after_close(close, "sequence" if close == 4000 else "") is Then.RESUME
    pair.cut()
    pair.side.send_event(event("still here"))
    pair.resume()
    assert texts(pair) == ["still here"]


def test_too_many_errors_end_the_link() -> None:
    pair = Pair()
    for _ in range(16):
        pair.link.receive_text("{", 0.0)
    error = refused(pair.link.receive_text, "{", 0.0)
    assert (error.code, error.close_code) == ("too_many_errors", 4002)


def test_errors_are_never_answered_by_errors() -> None:
    pair = Pair()
    pair.link.receive_text('{"type":"error","code":"x","message":"y"}', 0.0)
    pair.client.receive_text('{"type":"error","code":"x","message":"y"}', 0.0)
    assert pair.link.next_frame(0.0) is None or pair.link._link.errors == 0


def test_a_burst_after_a_stall_is_taken_and_a_flood_is_not() -> None:
    pair = Pair(ServerOptions(messages_per_s=100, burst=1000))
    pair.now = 60.0
    for k in range(900):
        pair.link.receive_bytes(encode_user_audio(1, k + 1, 320 * k, bytes(640)), pair.now)
    error = None
    for k in range(900, 2000):
        try:
            pair.link.receive_bytes(encode_user_audio(1, k + 1, 320 * k, bytes(640)), pair.now)
        except ProtocolError as caught:
            error = caught
            break
    assert error is not None
    assert (error.code, error.close_code) == ("rate", 4008)


def test_what_was_kept_over_links_that_did_not_live_is_no_flood() -> None:
    pair = Pair(ServerOptions(messages_per_s=100, burst=1000))
    pair.cut()
    pair.resume()
    for k in range(3500):  # a grace period's worth, and the burst
        pair.link.receive_bytes(encode_user_audio(1, k + 1, 320 * k, bytes(640)), pair.now)
    assert pair.link.close_code is None


def test_a_client_that_does_not_read_is_cut_off_and_may_resume() -> None:
    pair = Pair(ServerOptions(queue_events=100))
    for k in range(101):
        pair.side.send_event(event(str(k)))
    assert pair.link.close_code == 4011
    frame = pair.link.next_frame(0.0)
    assert isinstance(frame, str)
    while json.loads(frame)["type"] != "error":
        frame = pair.link.next_frame(0.0)
        assert isinstance(frame, str)
    pair.cut()
    pair.resume()
    assert texts(pair) == [str(k) for k in range(101)]


def test_queues_are_bounded_and_say_so() -> None:
    pair = Pair(ServerOptions(queue_audio_s=1.0))
    pair.cut()
    pair.side.send_audio(bytes(48_000), response="r", offset=0)
    with pytest.raises(LimitExceededError):
        pair.side.send_audio(PCM, response="r", offset=24_000)
    for _ in range(1024):
        pair.client.send_input(TextInput(text="x"))
    with pytest.raises(LimitExceededError):
        pair.client.send_input(TextInput(text="x"))


def test_what_the_session_may_not_do_is_an_error_at_the_call() -> None:
    pair = Pair()
    with pytest.raises(AudioFormatError):
        pair.side.send_audio(b"\0", response="r", offset=0)
    with pytest.raises(AudioFormatError):
        pair.client.send_audio(b"\0")
    pair.side.send_audio(PCM, response="r", offset=0, position=1000)
    with pytest.raises(ProtocolError):
        pair.side.send_audio(PCM, response="r", offset=0, position=1479)
    pair.client.send_audio(PCM)
    with pytest.raises(ProtocolError):
        pair.client.send_audio(PCM, position=479)
    with pytest.raises(ProtocolError):
        pair.link.welcome(pair.side, token="t", now=0.0)
    with pytest.raises(ConfigurationError):
        ServerOptions(grace_s=0)
    with pytest.raises(ConfigurationError):
        ServerOptions(heartbeat_s=3, miss_s=2)


def test_the_client_refuses_what_a_server_may_not_send() -> None:
    for frame, code in (
        (encode_agent_audio(1, 1, 0, 77, 0, PCM), "response"),
        (encode_user_audio(1, 1, 0, PCM), "unknown_frame"),
    ):
        (refusal,) = Pair().client.receive_bytes(frame, 0.0)
        assert isinstance(refusal, Refused)
        assert refusal.error.code == code
    pair = Pair()
    pair.client.receive_text('{"type":"response","number":1,"response":"a"}', 0.0)
    (odd,) = pair.client.receive_bytes(encode_agent_audio(1, 1, 0, 1, 0, b"\0"), 0.0)
    assert isinstance(odd, Refused)
    assert odd.error.code == "audio_format"
    assert refused(Pair().client.receive_bytes, bytes(70_000), 0.0).close_code == 1009
    fresh = ClientProtocol(input=UP, output=DOWN)
    fresh.connect(0.0)
    assert refused(fresh.receive_text, '{"type":"ack","e":1,"n":0}', 0.0).close_code == 4000
    fresh.connect(0.0)
    assert refused(fresh.receive_bytes, b"\x12", 0.0).close_code == 4000
    fresh.connect(0.0)
    assert fresh.next_deadline() == 10.0
    assert refused(fresh.tick, 10.0).close_code == 4006


def test_a_transcript_is_carried_whole() -> None:
    pair = Pair()
    said = UserTranscript(turn="t", text='Blåbær "\\ \u2028 🫐', final=True, at=1.25)
    pair.side.send_event(encode(said).decode())
    pair.settle()
    (got,) = [m.event for m in pair.at_client if isinstance(m, EventReceived)]
    assert got == said


@pytest.mark.parametrize(
    ("code", "error", "then"),
    [
        (1000, "", Then.OVER),
        (1006, "", Then.RESUME),
        (1012, "", Then.RESUME),
        (4000, "sequence", Then.RESUME),
        (4000, "dialect", Then.STOP),
        (4003, "", Then.STOP),
        (4004, "", Then.STOP),
        (4009, "", Then.STOP),
        (4010, "", Then.RESUME),
        (4999, "", Then.RESUME),
    ],
)
def test_close_codes_say_what_to_do(code: int, error: str, then: Then) -> None:
    assert after_close(code, error) is then


def _text(hello: Hello) -> str:
    from duologue.wire.duologue.messages import encode as encode_message

    return encode_message(hello)
