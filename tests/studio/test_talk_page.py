"""The talk page against a scripted server: what it plays, acknowledges, silences, captures and survives."""

from __future__ import annotations

import random

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from duologue import events as ev
from duologue.audio import write_wav
from duologue.errors import ProtocolError
from duologue.wire.duologue import ServerOptions
from tests.browser import chromium
from tests.studio.pages import RATE, call, rendered, steady, talk_page, track_samples
from tests.studio.server import Scripted

#: what the resampler's edges and the fade of a clear may add or hide
EDGE = 200


def test_a_greeting_plays_and_what_was_heard_is_acknowledged(browser: Browser, server: Scripted) -> None:
    with talk_page(browser, server) as page:
        call(page, server)
        assert server.hellos[0].capabilities.acks
        server.event(
            ev.SessionStarted(session="s_1", agent="Delivery helper", model="cascade"),
            ev.ResponseStarted(response="r_1", origin="greeting"),
            ev.ResponseText(response="r_1", text="Hi, ready when you are."),
        )
        expect(page.locator(".agent .unheard")).to_have_text("Hi, ready when you are.")
        end = server.say(steady(RATE))
        server.wait(lambda: server.played and server.played[-1].position == end, "the whole greeting was heard")
        server.event(ev.ResponseHeard(response="r_1", text="Hi, ready ", ms=400))
        expect(page.locator(".agent .heard")).to_have_text("Hi, ready")
        expect(page.locator(".agent .unheard")).to_have_text("when you are.")
        assert track_samples(page) == pytest.approx(RATE, abs=EDGE)
        expect(page.locator("#agent")).to_have_text("Delivery helper")
        expect(page.locator("#notice")).to_have_text("A script answers, not a language model.")
    positions = [played.position for played in server.played]
    assert positions == sorted(set(positions)), "acknowledgements only grow"
    assert len(positions) >= 5, "they come while it plays, not only at the end"
    assert not server.faults


def test_a_clear_silences_the_page_where_it_says(browser: Browser, server: Scripted) -> None:
    with talk_page(browser, server) as page:
        call(page, server)
        queued = server.say(steady(10 * RATE))
        server.wait(lambda: server.played and server.played[-1].position > RATE // 4, "it plays")
        acknowledged = server.played[-1].position
        c = server.clear()
        server.wait(lambda: server.cleared, "the clear was answered")
        answer = server.cleared[0]
        assert answer.c == c
        # What was playing went on for the way of the message and the device's latency; the other nine seconds did not.
        assert acknowledged <= answer.played < acknowledged + RATE
        # A second answer, after the card has run on: nothing more came out after the first.
        again = server.say(steady(RATE // 2, 4000), "r_2")
        server.wait(lambda: server.played[-1].position == again, "the next response was heard")
        rate, (first, second) = rendered(page)
        silenced = len(first[1]) * RATE / rate
        assert silenced == pytest.approx(answer.played, abs=EDGE), "the answer says what was rendered"
        assert max(second[1]) < 0.16, "nothing of the first response came out after its clear"
        assert len(second[1]) * RATE / rate == pytest.approx(RATE // 2, abs=EDGE)
        assert queued == 10 * RATE
    assert not server.faults
    assert all(played.position <= answer.played or played.position >= queued for played in server.played)


def test_ducking_changes_the_loudness(browser: Browser, server: Scripted) -> None:
    with talk_page(browser, server) as page:
        call(page, server)
        server.say(steady(RATE))
        server.wait(lambda: server.played and server.played[-1].position > RATE // 10, "it plays")
        delivery = server.delivery
        assert delivery is not None
        server.call(lambda: delivery.duck(-20.0, ramp_ms=40))
        server.wait(lambda: server.played[-1].position == RATE, "it was heard")
        _, stretches = rendered(page)
        samples = [sample for _, stretch in stretches for sample in stretch]
        assert max(samples) == pytest.approx(8000 / 32768, rel=0.15)
        assert np.median(samples[-2000:]) == pytest.approx(800 / 32768, rel=0.05)


def test_cuts_lose_nothing(browser: Browser, server: Scripted) -> None:
    """Twenty resets at random places: every event arrives once, in order; the user's track has no step; all is heard."""
    dice = random.Random(7)
    cuts = 20
    with talk_page(browser, server) as page:
        call(page, server)
        page.evaluate("""() => {
            window.seen = [];
            new MutationObserver((list) => {
                for (const { addedNodes } of list) for (const node of addedNodes) seen.push(node.innerText);
            }).observe(document.getElementById("log"), { childList: true });
        }""")
        sent: list[str] = []
        end = 0
        for cut in range(cuts):
            for _ in range(dice.randrange(1, 6)):
                sent.append(f"message {len(sent)}")
                server.event(ev.ErrorEvent(code="test", message=sent[-1]))
                end = server.say(steady(dice.randrange(1, 2000)), f"r_{len(sent)}")
            page.fill("#text", f"typed {cut}")
            server.cut()
            page.press("#text", "Enter")
            server.wait_links(cut + 2)
        server.wait(lambda: server.played and server.played[-1].position == end, "all was heard")
        server.wait(lambda: len(server.inputs) == cuts, "all that was typed arrived")
        page.wait_for_selector(f".note:has-text('{sent[-1]}')")
        assert [text for text in page.evaluate("seen") if text.startswith("message")] == sent
        assert track_samples(page) == pytest.approx(end, abs=EDGE * len(sent))
        taken = len(server.audio)
        server.wait(lambda: len(server.audio) > taken + 10, "the microphone goes on")
    assert [said.input for said in server.inputs] == [ev.TextInput(text=f"typed {cut}") for cut in range(cuts)]
    assert all(hello.resume is not None for hello in server.hellos[1:])
    at = 0
    for frame in server.audio:
        assert frame.position == at, "a step in the user's track"
        at += len(frame.pcm) // 2
    assert not server.gaps
    assert not server.faults


def test_a_black_hole_is_found_and_left(browser: Browser) -> None:
    with Scripted(ServerOptions(heartbeat_s=0.2, miss_s=0.8)) as server, talk_page(browser, server) as page:
        call(page, server)
        server.wait(lambda: len(server.audio) > 5, "the microphone is heard")
        server.go_deaf()
        server.wait_links(2)
        expect(page.locator(".note")).to_contain_text("back after")
        taken = len(server.audio)
        server.wait(lambda: len(server.audio) > taken + 50, "the microphone goes on")
        at = 0
        for frame in list(server.audio):
            assert frame.position == at, "what was said into the black hole was kept"
            at += len(frame.pcm) // 2


def test_a_link_that_will_go_is_left_when_nobody_speaks(browser: Browser, server: Scripted) -> None:
    with talk_page(browser, server) as page:
        call(page, server)
        server.say(steady(2 * RATE), last=True)
        server.wait(lambda: server.played, "it plays")
        link = server.delivery.link  # type: ignore[union-attr]
        server.call(lambda: link.going_away(60.0, "drain"))  # type: ignore[union-attr]
        expect(page.locator(".note")).to_contain_text("drain")
        server.wait_links(2)
        assert server.hellos[1].resume is not None
        assert server.hellos[1].resume.played == 2 * RATE, "it moved before the answer was heard"


def test_the_microphone_arrives_at_its_pitch(server: Scripted, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two tones in turn, at a rate that is nobody's: after the browser and our resampler they are where they were."""
    rate, tones = 32_000, (500.0, 1250.0)
    t = np.arange(rate // 4) / rate
    pieces = [np.sin(2 * np.pi * tone * t) * np.minimum(1, 40 * np.minimum(t, t[::-1])) for tone in tones]
    pcm = (12000 * np.concatenate(pieces * 12)).astype("<i2").tobytes()
    path = tmp_path_factory.mktemp("microphone") / "tones.wav"
    write_wav(path, pcm, rate)
    with chromium(microphone=path) as browser, talk_page(browser, server) as page:
        call(page, server)
        server.wait(lambda: len(server.audio) > 150, "three seconds of microphone")
    heard = np.frombuffer(server.tone, "<i2").astype(float)
    assert np.abs(heard).max() > 1000, "the microphone is silent"
    windows = heard[: len(heard) // 800 * 800].reshape(-1, 800) * np.hanning(800)
    loud = windows[np.abs(windows).max(axis=1) > 500]
    found = np.abs(np.fft.rfft(loud, 16_000)).argmax(axis=1)  # in Hz
    hits = [int(np.sum(np.abs(found - tone) <= 5)) for tone in tones]
    assert sum(hits) >= 0.8 * len(found), sorted(found)
    assert min(hits) >= 5


def test_a_muted_microphone_is_silent_but_time_goes_on(browser: Browser, server: Scripted) -> None:
    with talk_page(browser, server) as page:
        call(page, server)
        server.wait(lambda: np.frombuffer(server.tone, "<i2").any(), "the microphone is heard")
        page.keyboard.press("m")
        server.wait(lambda: server.inputs, "the server is told")
        told = server.inputs[0]
        assert told.input == ev.ActivityInput(kind="mute")
        expect(page.locator("#mute")).to_have_attribute("aria-pressed", "true")
        server.wait(lambda: server.audio[-1].n > told.n + 100, "two seconds more")
        # Frames that were on their way from the worklet when the button was pressed may still come behind the input.
        later = [frame for frame in server.audio if frame.n > told.n + 25]
        assert not any(any(frame.pcm) for frame in later)
        assert all(b.position == a.position + 320 for a, b in zip(server.audio, server.audio[1:], strict=False))
        page.click("#mute")
        server.wait(lambda: server.inputs[-1].input == ev.ActivityInput(kind="unmute"), "the server is told")
        unmuted = len(server.audio)
        server.wait(lambda: any(any(frame.pcm) for frame in server.audio[unmuted:]), "the microphone is heard again")


def test_tools_are_shown_and_approved(browser: Browser, server: Scripted) -> None:
    with talk_page(browser, server) as page:
        call(page, server)
        server.event(ev.ToolApprovalNeeded(call="c_1", name="refund", arguments={"sum": 30}))
        expect(page.locator("#alarm")).to_contain_text("refund")
        page.get_by_role("button", name="Approve refund").click()
        server.wait(lambda: server.inputs, "the approval arrived")
        assert server.inputs[0].input == ev.ApprovalInput(call="c_1", approved=True)
        server.event(
            ev.ToolStarted(call="c_1", name="refund", arguments={"sum": 30}),
            ev.ToolProgress(call="c_1", name="refund", message="asking the bank"),
        )
        expect(page.locator(".tool .progress")).to_have_text("asking the bank")
        server.event(ev.ToolFinished(call="c_1", name="refund", status="ok", output={"paid": True}, duration_s=2.5))
        expect(page.locator(".tool .status")).to_have_text("done")
        page.click(".tool summary")
        expect(page.locator(".tool pre")).to_contain_text('"paid": true')


def test_an_interrupted_answer_shows_what_was_not_heard(browser: Browser, server: Scripted) -> None:
    with talk_page(browser, server) as page:
        call(page, server)
        server.event(
            ev.UserTranscript(turn="t_1", text="next stop"),
            ev.TurnCommitted(turn="t_1", text="What's my next stop?", reason="end_of_turn"),
            ev.ResponseStarted(response="r_1", turn="t_1"),
            ev.ResponseText(response="r_1", text="Harbour Street. Park behind <b>the building</b>."),
        )
        expect(page.locator("#stop")).to_be_enabled()
        page.keyboard.press("Escape")
        server.wait(lambda: server.inputs, "the interrupt arrived")
        assert server.inputs[0].input == ev.InterruptInput()
        points = {"user_speech_end": 0.0, "committed": 280.0, "tts_first_audio": 390.0, "first_sample": 410.0}
        server.event(
            ev.ResponseFinished(
                response="r_1",
                status="interrupted",
                text="Harbour Street. Park behind <b>the building</b>.",
                heard="Harbour Street. ",
            ),
            ev.TurnMeasured(turn="t_1", record={"points_ms": points, "voice_to_voice_ms": 410.0}),
        )
        expect(page.locator(".agent .heard")).to_have_text("Harbour Street.")
        expect(page.locator(".agent s")).to_have_text("Park behind <b>the building</b>.")
        expect(page.locator(".agent .latency summary")).to_contain_text("410 ms")
        expect(page.locator(".agent .part")).to_have_count(3)
        expect(page.locator("#stop")).to_be_disabled()


def test_hanging_up_and_calling_again(browser: Browser, server: Scripted) -> None:
    with talk_page(browser, server) as page:
        call(page, server)
        page.click("#talk")
        server.wait(lambda: server.byes == 1, "bye")
        page.wait_for_selector("body[data-state=idle]")
        call(page, server)
        assert server.hellos[1].resume is None
        server.call(lambda: server.delivery.link.bye("completed", "Goodbye."))  # type: ignore[union-attr]
        expect(page.locator(".note")).to_have_text("Goodbye.")
        page.wait_for_selector("body[data-state=idle]")


def test_typing_begins_a_call_without_a_microphone(browser: Browser, server: Scripted) -> None:
    with talk_page(browser, server) as page:
        page.fill("#text", "What is my next stop?")
        page.press("#text", "Enter")
        server.wait(lambda: server.inputs, "the text arrived")
        assert server.hellos[0].input is None
        assert server.hellos[0].output is not None
        assert server.inputs[0].input == ev.TextInput(text="What is my next stop?")
        expect(page.locator("#mute")).to_be_disabled()


def test_a_refusal_says_why(browser: Browser, server: Scripted) -> None:
    server.refusal = ProtocolError(
        "A key is wanted.", hint="Add #token=… to the address.", code="auth", close_code=4003
    )
    with talk_page(browser, server) as page:
        page.goto(f"{server.url}#token=wrong")
        page.click("#talk")
        expect(page.locator(".note.error")).to_contain_text("A key is wanted.")
        page.wait_for_selector("body[data-state=idle]")
        assert server.hellos[0].token == "wrong"


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_fits(browser: Browser, server: Scripted, width: int) -> None:
    with talk_page(browser, server, viewport={"width": width, "height": 640}) as page:
        for state in ("idle", "live"):
            if state == "live":
                call(page, server)
                server.event(
                    ev.ResponseStarted(response="r_1"),
                    ev.ResponseText(response="r_1", text="word " * 200 + "x" * 200),
                    ev.ToolStarted(call="c_1", name="a_tool_with_quite_a_long_name", arguments={"address": "y" * 300}),
                )
                expect(page.locator(".tool")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            for name in ("#talk", "#say"):
                box = page.locator(name).bounding_box()
                assert box is not None
                assert box["y"] + box["height"] <= 640
                assert 0 <= box["x"] <= box["x"] + box["width"] <= width
