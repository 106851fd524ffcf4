"""The sound card as a participant, on a card that the test drives; and the real one, where there is none."""

from __future__ import annotations

import asyncio
import importlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from duologue import Agent
from duologue.audio import apply_gain, resample, rms_dbfs
from duologue.channels import echo
from duologue.channels.microphone import Microphone
from duologue.channels.soundcard import Device, DeviceError, SoundCard
from duologue.errors import AudioFormatError, ConfigurationError, MissingDependencyError, UnknownOptionError
from duologue.events import Event, ResponseFinished, SessionEnded, TurnCommitted
from duologue.session.session import Session
from duologue.testing.scripted import INPUT_RATE, OUTPUT_RATE, Reply, ScriptedModel, Utterance
from tests.channels.soundcards import FakeSound

LONG = (
    "Your next stop is twelve Harbour Street, in Oslo, and after that there are many more, which I could list for you."
)
MODEL_UTTERANCES = (Utterance(text="what is my next stop"), Utterance(text="stop please tell me less"))
BLOCK_S = 0.02


def card(api: FakeSound | None = None) -> SoundCard:
    return SoundCard(api or FakeSound(), clock=lambda: asyncio.get_running_loop().time())


def voice(at: float, *lines: tuple[float, float, int]) -> bytes:
    """20 ms of what the caller says: lines are (from, to, utterance), in seconds."""
    value = next((utterance for start, end, utterance in lines if start <= at < end), 0)
    return struct.pack("<h", value) * round(INPUT_RATE * BLOCK_S)


async def hold(
    api: FakeSound, *lines: tuple[float, float, int], until: float, **options: Any
) -> tuple[list[Event], SessionEnded, list[tuple[float, bytes]], Microphone]:
    """A call over a fake card. What was played comes back as (time it sounded, samples)."""
    loop = asyncio.get_running_loop()
    microphone = Microphone(sound_card=card(api), echo_cancellation=False, **options)
    agent = Agent(
        model=ScriptedModel(MODEL_UTTERANCES, lambda text, context: Reply(text=LONG if text else "", delay_s=0.3))
    )
    played: list[tuple[float, bytes]] = []
    events: list[Event] = []
    async with agent.session(microphone) as session:
        begin = loop.time()

        async def watch() -> None:
            async for event in session.receive():
                events.append(event)

        watching = asyncio.ensure_future(watch())
        while (at := loop.time() - begin) < until:
            api.streams["input"].capture(voice(at, *lines))
            played.append((at + api.latency_s, api.streams["output"].render()))
            await asyncio.sleep(BLOCK_S)
        await session.stop()
        assert session.ended is not None
        await watching
    return events, session.ended, played, microphone


def of[E: Event](events: list[Event], kind: type[E]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def sounding(played: list[tuple[float, bytes]]) -> list[float]:
    return [at for at, pcm in played if any(pcm)]


@pytest.mark.virtual
async def test_a_call_over_the_card() -> None:
    api = FakeSound()
    events, _, played, microphone = await hold(api, (0.5, 2.0, 1), until=12.0)
    assert [event.text for event in of(events, TurnCommitted)] == ["what is my next stop"]
    (finished,) = of(events, ResponseFinished)
    assert (finished.status, finished.heard, finished.estimated) == ("completed", LONG, False)
    samples = sum(len(pcm) // 2 - pcm.count(b"\0\0") for _, pcm in played if any(pcm))
    assert samples == pytest.approx(finished.heard_ms * OUTPUT_RATE / 1000, abs=OUTPUT_RATE // 1000)
    assert microphone.dropped == {"input_samples": 0, "output_samples": 0, "input_overflows": 0}
    assert api.streams["input"].state == api.streams["output"].state == "closed"


@pytest.mark.virtual
@pytest.mark.parametrize("latency_s", [0.0, 0.05, 0.3])
async def test_what_is_heard_at_a_barge_in_leaves_out_the_latency_of_the_device(latency_s: float) -> None:
    events, _, played, _ = await hold(FakeSound(latency_s=latency_s), (0.5, 2.0, 1), (5.0, 6.5, 2), until=8.0)
    first = of(events, ResponseFinished)[0]
    assert first.status == "interrupted"
    heard = [at for at in sounding(played) if at < 6.5]
    # What the card had taken is heard; what waited in our buffer is not.
    assert len(heard) * BLOCK_S * 1000 == pytest.approx(first.heard_ms, abs=BLOCK_S * 1000)
    assert heard[-1] < 5.6 + latency_s


@pytest.mark.virtual
async def test_a_card_that_states_no_playing_time_is_taken_at_its_latency() -> None:
    microphone = Microphone(sound_card=card(FakeSound(latency_s=0.2)), echo_cancellation=False)
    port = PortSpy()
    await microphone.start(port)
    running = asyncio.ensure_future(microphone.run())
    microphone.audio("r1", 0, 0, b"\1\0" * 480)
    microphone._card.api.streams["output"].render(dac=False)
    await asyncio.sleep(0.15)
    assert port.acknowledged == []
    await asyncio.sleep(0.15)
    assert port.acknowledged == [480]
    await stop(microphone, running)


class PortSpy:
    """A port that keeps what a channel tells it."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, bytes]] = []
        self.acknowledged: list[int] = []
        self.stopped: list[int] = []
        self.errors: list[str] = []

    def audio(self, pcm: bytes, position: int | None = None) -> None:
        assert position is not None
        self.heard.append((position, pcm))

    def played(self, position: int) -> None:
        self.acknowledged.append(position)

    def cleared(self, position: int) -> None:
        self.stopped.append(position)

    def refused(self, error: Exception) -> None:
        self.errors.append(str(error))

    def input(self, message: object) -> None:
        raise AssertionError("A microphone sends audio only.")

    def away(self) -> None:
        raise AssertionError("A sound card does not go away and come back.")

    def back(self, *, gap_events: int = 0, gap_ms: int = 0) -> None:
        raise AssertionError("A sound card does not go away and come back.")

    def ended(self, reason: str = "client_left") -> None:
        raise AssertionError("The session ends the call, not the card.")


async def stop(microphone: Microphone, running: asyncio.Future[None]) -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await microphone.close("stopped")


async def started(**options: Any) -> tuple[Microphone, PortSpy, asyncio.Future[None], FakeSound]:
    api = FakeSound()
    options.setdefault("echo_cancellation", False)
    microphone, port = Microphone(sound_card=card(api), **options), PortSpy()
    await microphone.start(port)
    return microphone, port, asyncio.ensure_future(microphone.run()), api


@pytest.mark.virtual
async def test_a_full_input_buffer_drops_the_oldest_and_positions_show_it() -> None:
    microphone, port, running, api = await started(input_buffer_size=3)
    for number in range(1, 6):
        api.streams["input"].capture(struct.pack("<h", number) * 320)
    await asyncio.sleep(0.01)
    assert port.heard == [(640, b"".join(struct.pack("<h", number) * 320 for number in (3, 4, 5)))]
    assert microphone.dropped["input_samples"] == 640
    api.streams["input"].capture(bytes(640), overflow=True)
    await asyncio.sleep(0.01)
    assert port.heard[-1] == (1600, bytes(640))
    assert microphone.dropped["input_overflows"] == 1
    await stop(microphone, running)


@pytest.mark.virtual
async def test_a_full_output_buffer_drops_counts_and_says_so_once() -> None:
    microphone, port, running, _api = await started(output_buffer_size=15)
    for number in range(20):
        microphone.audio("r1", number * 480, number * 480, b"\1\0" * 480)
    assert microphone.dropped["output_samples"] == 5 * 480
    assert port.errors == ["The output buffer is full and audio is dropped. Raise output_buffer_size."]
    await stop(microphone, running)


@pytest.mark.virtual
async def test_a_clear_silences_at_once_and_names_the_first_sample_that_was_not_taken() -> None:
    microphone, port, running, api = await started()
    output = api.streams["output"]
    for number in range(5):
        microphone.audio("r1", number * 480, number * 480, b"\1\0" * 480)
    assert any(output.render())
    assert any(output.render(frames=100))
    microphone.clear("r1")
    assert port.stopped == [580]
    assert not any(output.render())
    microphone.audio("r2", 0, 2400, b"\2\0" * 480)
    assert output.render() == b"\2\0" * 480
    await stop(microphone, running)


@pytest.mark.virtual
async def test_ducking_is_heard_from_the_next_block_on_and_taken_back() -> None:
    microphone, _, running, api = await started()
    output = api.streams["output"]
    for number in range(20):
        microphone.audio("r1", number * 480, number * 480, struct.pack("<h", 10_000) * 480)
    loud = output.render()
    microphone.duck(-20.0)
    blocks = [struct.unpack_from("<h", output.render(), 958)[0] for _ in range(4)]
    assert struct.unpack_from("<h", loud)[0] == 10_000
    assert blocks[-1] == pytest.approx(1_000, abs=5)
    assert blocks == sorted(blocks, reverse=True)
    microphone.duck(0.0)
    assert [struct.unpack_from("<h", output.render(), 958)[0] for _ in range(4)][-1] == 10_000
    await stop(microphone, running)


@pytest.mark.virtual
@pytest.mark.parametrize("kind", ["input", "output"])
async def test_a_device_that_stops_ends_the_channel_with_a_typed_error(kind: str) -> None:
    microphone, _, running, api = await started()
    api.streams[kind].finished()
    with pytest.raises(DeviceError, match="has stopped"):
        await running
    await microphone.close("error")


@pytest.mark.virtual
async def test_a_device_that_stops_ends_the_call_with_an_error() -> None:
    api = FakeSound()
    agent = Agent(model=ScriptedModel((), lambda text, context: Reply()))
    session: Session
    async with agent.session(Microphone(sound_card=card(api), echo_cancellation=False)) as session:
        api.streams["input"].finished()
        ended = await session.wait()
    assert ended.reason == "error"


@pytest.mark.virtual
@pytest.mark.parametrize("kind", ["input", "output"])
async def test_a_device_that_cannot_be_started_refuses_the_call_and_leaves_nothing_open(kind: str) -> None:
    api = FakeSound()
    api.refuses_to_start = kind
    agent = Agent(model=ScriptedModel((), lambda text, context: Reply()))
    with pytest.raises(DeviceError, match="could not be started"):
        await agent.session(Microphone(sound_card=card(api), echo_cancellation=False)).start()
    assert {stream.state for stream in api.streams.values()} == {"closed"}


@pytest.mark.virtual
async def test_rates_that_a_device_has_not_are_resampled() -> None:
    events, _, _, microphone = await hold(
        FakeSound(devices=[("Studio", 1, 2, 48_000, (48_000,))], default=(0, 0)), until=0.5
    )
    assert (microphone.input_rate, microphone.output_rate) == (48_000, 48_000)
    assert of(events, SessionEnded)


def test_devices_are_found_by_number_name_and_default() -> None:
    sound = SoundCard(FakeSound())
    names: Callable[[Any, Any], str] = lambda kind, wanted: sound.find(kind, wanted).name  # noqa: E731
    assert names("input", None) == "Built-in Microphone"
    assert names("output", None) == "Built-in Output"
    assert names("input", "headset") == names("input", 2) == names("input", "2") == "USB Headset"
    assert [device.number for device in sound.devices()] == [0, 1, 2]
    assert sound.devices()[1] == Device(1, "Built-in Output", "Fake", 0, 2, 48_000, False, True)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"input_devise": 1}, UnknownOptionError, "'input_device'"),
        ({"input_device": "Hedset"}, ConfigurationError, "no microphone 'Hedset'"),
        ({"output_device": "Built-in Outptu"}, ConfigurationError, "Did you mean 'Built-in Output'"),
        ({"output_device": 0}, ConfigurationError, "no loudspeaker 0"),
        ({"input_device": 2.5}, ConfigurationError, "is no device"),
        ({"input_buffer_size": 0}, ConfigurationError, "input_buffer_size=0"),
        ({"output_buffer_size": -1}, ConfigurationError, "output_buffer_size=-1"),
        ({"input_frames_per_buffer": True}, ConfigurationError, "input_frames_per_buffer=True"),
        ({"output_frames_per_buffer": 1.5}, ConfigurationError, r"output_frames_per_buffer=1\.5"),
        ({"output_frames_per_buffer": 10**9}, ConfigurationError, "whole number from 1"),
        (
            {"output_buffer_size": 2, "output_frames_per_buffer": 480},
            ConfigurationError,
            "output_buffer_size=15 or more",
        ),
        ({"input_rate": 96_000}, AudioFormatError, "96000"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        Microphone(sound_card=SoundCard(FakeSound()), **options)


def test_a_device_without_any_rate_of_ours_is_refused() -> None:
    api = FakeSound(devices=[("Odd", 1, 1, 96_000, (96_000,))], default=(0, 0))
    with pytest.raises(ConfigurationError, match="takes none of our formats: Invalid sample rate"):
        Microphone(sound_card=SoundCard(api))


def test_sizes_as_the_quick_start_gives_them() -> None:
    microphone = Microphone(
        sound_card=SoundCard(FakeSound()),
        input_buffer_size=10,
        output_buffer_size=20,
        input_frames_per_buffer=512,
        output_frames_per_buffer=512,
    )
    assert microphone.traits.input_rate == 16_000
    assert microphone.traits.output_rate == 24_000


def test_a_machine_without_sound_is_told_what_to_do() -> None:
    with pytest.raises(MissingDependencyError, match=r"no microphone.*--file or --text"):
        Microphone(sound_card=SoundCard(FakeSound(devices=[], default=(-1, -1))))


def test_the_real_sound_system_of_this_machine() -> None:
    """With a card a microphone is made; without one, or without PortAudio, a typed error says what to do."""
    try:
        channel = Microphone()
    except MissingDependencyError as error:
        message = str(error)
    else:
        message = "" if channel.traits.acknowledges else "It does not acknowledge."
    assert not message or ("--file" in message and ("Connect one" in message or "nstall it" in message))


def test_missing_packages_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:

    real = importlib.import_module

    def without(error: type[Exception]) -> Callable[..., Any]:
        def load(name: str, package: str | None = None) -> Any:
            if name in ("sounddevice", "aec_audio_processing"):
                raise error("not here")
            return real(name, package)

        return load

    monkeypatch.setattr(importlib, "import_module", without(ImportError))
    with pytest.raises(MissingDependencyError, match=r"duologue\[mic\]"):
        SoundCard()
    with pytest.raises(MissingDependencyError, match=r"duologue\[aec\]"):
        Microphone(sound_card=SoundCard(FakeSound()), echo_cancellation=True)
    assert not Microphone(sound_card=SoundCard(FakeSound())).echo_cancelled
    monkeypatch.setattr(importlib, "import_module", without(OSError))
    with pytest.raises(MissingDependencyError, match="libportaudio2"):
        SoundCard()


needs_aec = pytest.mark.skipif(not echo.available(), reason="the extra aec is not installed")


@needs_aec
def test_the_echo_is_taken_out_and_the_voice_stays() -> None:
    """5 s of noise, played and recorded again 40 ms later at half the level; then a voice while nothing is played."""
    rate, reference_rate, frame = 16_000, 24_000, 160
    random = np.random.default_rng(1)
    noise, voice = (random.normal(0, 3000, 5 * reference_rate).astype("<i2").tobytes() for _ in range(2))
    echoed = bytes(2 * 640) + apply_gain(resample(noise, reference_rate, rate), 0.5)
    voice = resample(voice, reference_rate, rate)[: 2 * rate]
    recorded, played = echoed + voice, noise.ljust(2 * 7 * reference_rate, b"\0")
    canceller = echo.EchoCanceller(rate, reference_rate, 40)
    out = b""
    for index in range(0, len(recorded) // 2, frame):
        at = index * reference_rate // rate
        canceller.played(played[2 * at : 2 * at + 2 * 240])
        out += canceller.captured(recorded[2 * index : 2 * (index + frame)])
    learnt, end = 2 * 3 * rate, len(echoed)
    assert rms_dbfs(out[learnt:end]) < rms_dbfs(echoed[learnt:]) - 20
    assert rms_dbfs(out[end + rate :]) == pytest.approx(rms_dbfs(voice), abs=3)


@needs_aec
@pytest.mark.virtual
async def test_cancelled_audio_keeps_its_positions() -> None:
    microphone, port, running, api = await started(echo_cancellation=True, input_frames_per_buffer=200)
    for _ in range(12):
        api.streams["output"].render()
        api.streams["input"].capture(bytes(400))
        await asyncio.sleep(0.01)
    ends = [position + len(pcm) // 2 for position, pcm in port.heard]
    assert [position for position, _ in port.heard] == [0, *ends[:-1]]
    assert ends[-1] == 2400
    await stop(microphone, running)
