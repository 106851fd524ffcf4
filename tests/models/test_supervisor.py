"""The supervisor on virtual time, over connections that do exactly what they are told."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest

from duologue import Agent
from duologue.engine.conversation import Item
from duologue.engine.rotation import RotationOptions
from duologue.errors import ConfigurationError, CredentialsError, DuologueError, ModelConnectionError
from duologue.events import ResponseOrigin
from duologue.models import Fallback
from duologue.models.base import (
    Began,
    Capabilities,
    Connection,
    Context,
    Ended,
    Ending,
    Evidence,
    Lost,
    Model,
    ProviderCommitted,
    ProviderSpeech,
    Said,
    Setup,
    SpeechWindow,
    Spoke,
    ToolRequested,
)
from duologue.models.stall import HUNG_S, STALL_S
from duologue.models.supervisor import Supervisor
from duologue.testing.clock import run_virtual
from duologue.tools.base import ToolCall

RATE = 16_000
FRAME = RATE // 50


class Link(Connection):
    """A connection that keeps what it is given: `log` of commands, `heard` samples by position."""

    def __init__(self, context: Context, model: Scripted) -> None:
        self.context = context
        self.model = model
        self.log: list[tuple[Any, ...]] = []
        self.heard: list[tuple[int, bytes]] = []
        self.history: list[Item] = []
        self.closed = False

    def audio(self, pcm: bytes, position: int) -> None:
        self.heard.append((position, pcm))

    def text(self, turn: str, text: str) -> None:
        self.log.append(("text", turn, text))

    def commit(self, turn: str) -> None:
        self.log.append(("commit", turn))

    def respond(self, response: str, instructions: str, origin: ResponseOrigin) -> None:
        self.log.append(("respond", response, instructions))

    def say(self, response: str, text: str, origin: ResponseOrigin) -> None:
        self.log.append(("say", response, text))

    def cancel(self, response: str) -> None:
        self.log.append(("cancel", response))

    def truncate(self, response: str, samples: int) -> None:
        self.log.append(("truncate", response, samples))

    def tool_result(self, call: str, name: str, text: str, *, error: bool) -> None:
        self.log.append(("result", call, text))

    def begin(self, history: Sequence[Item]) -> None:
        self.history = list(history)
        self.log.append(("begin",))

    def update(self, setup: Setup) -> None:
        self.log.append(("update", setup.instructions))

    async def close(self) -> None:
        self.closed = True
        await asyncio.sleep(self.model.close_s)

    def report(self, evidence: Evidence) -> None:
        self.context.report(evidence)

    def lose(self) -> None:
        self.report(Lost(error=ModelConnectionError("reset")))


class Scripted(Model):
    """A model whose openings do what `plan` says, in order: seconds to wait, or an error to raise; then 0.2 s each."""

    def __init__(self, name: str = "one", *, plan: Sequence[float | Exception] = (), **capabilities: Any) -> None:
        self.name = name
        self.plan = list(plan)
        self.links: list[Link] = []
        self.attempts = 0
        self.close_s = 0.0
        given = {"authority": "engine", "input_rate": RATE, "output_rate": 24_000, "connection_s": None}
        self._capabilities = Capabilities(**{**given, **capabilities})

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def open(self, context: Context) -> Connection:
        self.attempts += 1
        step = self.plan.pop(0) if self.plan else 0.2
        if isinstance(step, Exception):
            raise step
        await asyncio.sleep(step)
        self.links.append(Link(context, self))
        return self.links[-1]


class Session:
    """The session around a supervisor, as far as that needs one. Feeds 20 ms frames whose samples tell their position."""

    generation = 0
    speaks = True

    def __init__(self, model: Model, **options: Any) -> None:
        self.items: list[Item] = []
        self.evidence: list[Evidence] = []
        self.rotations: list[tuple[int, str, str, int]] = []
        self.troubles: list[tuple[str, str, float]] = []
        self.position = 0
        self.responses = 0
        self.instructions = "be brief"
        self.loud = True  # whether the user's frames sound
        self._tasks: set[asyncio.Task[None]] = set()
        self.supervisor = Supervisor(model, self, self, options=RotationOptions(**options), dice=0.5)

    def report(self, evidence: Evidence) -> None:
        self.evidence.append(evidence)

    def next_response(self) -> str:
        self.responses += 1
        return f"r{self.responses}"

    def history(self) -> Sequence[Item]:
        return self.items

    def setup(self) -> Setup:
        return Setup(instructions=self.instructions)

    async def room(self, response: str) -> None:
        return None

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def spawn(self, run: Callable[[], Awaitable[None]], name: str) -> None:
        task = asyncio.ensure_future(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def rotated(self, generation: int, model: Model, reason: str, replayed_ms: int) -> None:
        self.rotations.append((generation, model.name, reason, replayed_ms))

    def trouble(self, generation: int, model: Model, reason: str, retry_in_s: float) -> None:
        self.troubles.append((model.name, reason, retry_in_s))

    async def speak(self, seconds: float) -> None:
        """User audio in real time."""
        for _ in range(round(seconds * 50)):
            self.frame()
            await asyncio.sleep(0.02)

    def frame(self) -> None:
        pcm = b"".join(_sample(self.position + n, self.loud).to_bytes(2, "little", signed=True) for n in range(FRAME))
        self.supervisor.audio(pcm, self.position)
        self.position += FRAME

    def of(self, kind: type[Evidence]) -> list[Any]:
        return [evidence for evidence in self.evidence if isinstance(evidence, kind)]


def _sample(position: int, loud: bool) -> int:
    return position % 60_000 - 30_000 if loud else position % 40 - 20


def _virtual[**P](scenario: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that runs on virtual time."""

    @functools.wraps(scenario)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(scenario(*args, **kwargs), limit=4000)

    return run


async def _opened(model: Scripted | None = None, **options: Any) -> tuple[Session, Scripted]:
    """A session whose first link is open, with these options of the rotation."""
    model = model or Scripted()
    session = Session(model, **options)
    await session.supervisor.open()
    return session, model


def _covered(link: Link) -> tuple[int, int]:
    """The samples that a link was given: contiguous, each once, and with the right content."""
    expected = link.heard[0][0]
    for position, pcm in link.heard:
        assert position == expected, "a sample was lost or doubled"
        first = int.from_bytes(pcm[:2], "little", signed=True)
        assert first in (_sample(position, True), _sample(position, False))
        expected = position + len(pcm) // 2
    return link.heard[0][0], expected


def _answer(link: Link, response: str, turn: str, *, text: str = "Yes.") -> None:
    link.report(Began(response=response, turn=turn))
    link.report(Said(response=response, text=text))
    link.report(Spoke(response=response, pcm=bytes(4800)))
    link.report(Ended(response=response))


# ---------------------------------------------------------------------- planned rotation


@_virtual
async def test_a_planned_rotation_waits_for_a_quiet_point_and_fences_the_old_link() -> None:
    session, model = await _opened(Scripted(connection_s=100.0), early_s=20, jitter=0)
    (old,) = model.links
    session.supervisor.quiet(False)
    session.loud = False
    await session.speak(84.0)
    assert len(model.links) == 2
    assert session.rotations == []
    session.items = [Item(kind="user", id="t0", text="my name is Ada"), Item(kind="call", id="c1", name="f")]
    session.supervisor.quiet(True)
    old_, new = model.links
    assert session.rotations[0][:3] == (2, "one", "planned")
    assert [item.kind for item in new.history] == ["user", "call"]
    assert new.log[0] == ("begin",)
    await asyncio.sleep(0.1)
    assert old.closed
    before = len(session.evidence)
    old_.report(Said(response="r9", text="a ghost"))
    assert len(session.evidence) == before


@_virtual
async def test_a_rotation_in_speech_is_forced_and_every_sample_reaches_the_link_that_answers() -> None:
    session, model = await _opened(Scripted(connection_s=100.0), early_s=20, force_s=8, jitter=0)
    session.loud = False
    await session.speak(70.0)
    session.supervisor.quiet(False)
    begun, session.loud = session.position, True
    await session.speak(30.0)
    session.supervisor.commit("t1")
    old, new = model.links
    assert session.rotations[0][2] == "planned (forced)"
    start, end = _covered(new)
    assert end == session.position
    assert begun - RATE <= start <= begun, "from just before the speech began"
    assert session.rotations[0][3] == pytest.approx(22_000 + 1000, abs=100)
    assert _covered(old)[1] < session.position
    assert ("commit", "t1") in new.log
    assert ("commit", "t1") not in old.log


@_virtual
async def test_an_announced_end_is_a_rotation_the_application_is_told_of() -> None:
    session, model = await _opened()
    model.links[0].report(Ending(in_s=20, reason="go away"))
    await asyncio.sleep(1)
    assert session.rotations[0][2] == "going away"
    assert session.of(Ending) == [], "it does not concern the session"


@_virtual
async def test_what_was_answered_is_not_replayed() -> None:
    session, model = await _opened()
    session.supervisor.quiet(False)
    await session.speak(3)
    session.supervisor.commit("t1")
    _answer(model.links[0], "r1", "t1")
    answered = session.position
    await session.speak(2)
    model.links[0].lose()
    await asyncio.sleep(1)
    assert _covered(model.links[1])[0] == answered
    assert not [entry for entry in model.links[1].log if entry[0] == "commit"]


# ---------------------------------------------------------------------- loss


@_virtual
async def test_a_turn_that_is_owed_is_put_to_the_next_link_by_its_text_and_only_once() -> None:
    session, model = await _opened()
    session.supervisor.quiet(False)
    await session.speak(3)
    session.items = [Item(kind="assistant", id="r0", text="Hello."), Item(kind="user", id="t1", text="where next")]
    session.supervisor.commit("t1")
    committed = session.position
    await session.speak(0.5)
    model.links[0].lose()
    await session.speak(0.5)
    new = model.links[1]
    assert [item.text for item in new.history] == ["Hello."]
    assert [entry for entry in new.log if entry[0] != "begin"] == [("text", "t1", "where next"), ("commit", "t1")]
    assert _covered(new) == (committed, session.position)


@_virtual
async def test_a_turn_whose_words_are_not_known_is_put_to_it_by_its_sound_and_not_heard_twice() -> None:
    session, model = await _opened(Scripted(authority="provider"))
    session.supervisor.quiet(False)
    await session.speak(3)
    session.items = [Item(kind="user", id="t1", text="")]
    session.supervisor.commit("t1")
    model.links[0].lose()
    await session.speak(0.5)
    new = model.links[1]
    assert _covered(new) == (0, session.position)
    assert ("commit", "t1") in new.log
    before = len(session.evidence)
    new.report(ProviderSpeech(fact="started", position=RATE))
    new.report(ProviderSpeech(fact="stopped", position=2 * RATE))
    new.report(ProviderCommitted())
    assert len(session.evidence) == before, "the floor has had this turn"
    new.report(ProviderSpeech(fact="started", position=session.position + RATE))
    new.report(ProviderCommitted())
    assert len(session.evidence) == before + 2


@_virtual
async def test_windows_of_a_replay_do_not_reach_the_floor_again() -> None:
    session, model = await _opened()
    session.supervisor.quiet(False)
    await session.speak(1)
    model.links[0].report(SpeechWindow(start=0, end=RATE, probability=0.9))
    model.links[0].lose()
    await session.speak(1)
    for start in (0, RATE // 2, RATE):
        model.links[1].report(SpeechWindow(start=start, end=start + RATE // 2, probability=0.9))
    assert [window.end for window in session.of(SpeechWindow)] == [RATE, RATE * 3 // 2]


@pytest.mark.parametrize("words", [True, False])
@_virtual
async def test_an_answer_cut_off_while_audible_is_ended_and_gone_on_with_if_words_of_it_are_known(words: bool) -> None:
    session, model = await _opened()
    session.supervisor.commit("t1")
    old = model.links[0]
    old.report(Began(response="r1", turn="t1"))
    if words:
        old.report(Said(response="r1", text="You go "))
    old.report(Spoke(response="r1", pcm=bytes(4800)))
    old.lose()
    await asyncio.sleep(1)
    assert session.of(Ended) == [Ended(response="r1")]
    ((_, response, instructions),) = [entry for entry in model.links[1].log if entry[0] == "respond"]
    assert ("Go on" if words else "again") in instructions
    model.links[1].report(Began(response=response, origin="turn"))
    model.links[1].report(Ended(response=response))
    await asyncio.sleep(STALL_S * 2)
    assert len(model.links) == 2, "nothing is owed any more"


@_virtual
async def test_an_answer_that_nobody_has_noticed_is_made_by_the_next_link_under_its_name() -> None:
    session, model = await _opened()
    session.supervisor.commit("t1")
    model.links[0].report(Began(response="r1", turn="t1"))
    model.links[0].lose()
    await asyncio.sleep(1)
    _answer(model.links[1], "r2", "t1")
    assert [evidence.response for evidence in session.of(Began)] == ["r1"]
    assert [evidence.response for evidence in session.of(Spoke)] == ["r1"]
    assert session.of(Ended) == [Ended(response="r1")]
    session.supervisor.truncate("r1", 240)
    assert model.links[1].log[-1] == ("truncate", "r2", 240)


@_virtual
async def test_tools_that_an_answer_called_are_not_called_again() -> None:
    session, model = await _opened()
    session.supervisor.commit("t1")
    model.links[0].report(Began(response="r1", turn="t1"))
    model.links[0].report(ToolRequested(response="r1", call=ToolCall(id="c1", name="pay")))
    model.links[0].lose()
    session.supervisor.tool_result("c1", "pay", "paid", error=False)
    await asyncio.sleep(1)
    new = model.links[1]
    assert session.of(Ended) == [Ended(response="r1")]
    assert [entry for entry in new.log if entry[0] != "begin"] == []
    session.supervisor.respond("r2", "", "tool")
    assert new.log[-1] == ("respond", "r2", "")


@_virtual
async def test_a_greeting_that_was_lost_is_said_by_the_next_link_under_its_id() -> None:
    session, model = await _opened()
    session.supervisor.say("r1", "Welcome.", "greeting")
    model.links[0].report(Began(response="r1", origin="greeting"))
    model.links[0].lose()
    await asyncio.sleep(1)
    assert model.links[1].log[-1] == ("say", "r1", "Welcome.")
    model.links[1].report(Began(response="r1", origin="greeting"))
    assert len(session.of(Began)) == 1


@_virtual
async def test_a_stalled_answer_is_a_loss_and_a_quiet_call_is_none() -> None:
    session, model = await _opened()
    await asyncio.sleep(600)
    assert len(model.links) == 1
    session.supervisor.commit("t1")
    await asyncio.sleep(STALL_S + 1)
    assert len(model.links) == 2
    assert "said nothing" in session.rotations[0][2]
    assert ("commit", "t1") in model.links[1].log


@_virtual
async def test_our_own_ears_are_no_sign_of_the_provider() -> None:
    session, model = await _opened()
    session.supervisor.commit("t1")
    for n in range(40):
        model.links[0].report(SpeechWindow(start=n * 512, end=(n + 1) * 512, probability=0.1))
        await asyncio.sleep(0.25)
    assert len(model.links) == 2


@_virtual
async def test_a_cancelled_answer_owes_nothing() -> None:
    session, model = await _opened(Scripted(authority="provider"))
    session.supervisor.commit("t1")
    model.links[0].report(Began(response="r1", turn="t1"))
    model.links[0].report(Ended(response="r1", status="cancelled"))
    await asyncio.sleep(STALL_S * 3)
    assert len(model.links) == 1


# ---------------------------------------------------------------------- failures to open


@_virtual
async def test_failed_openings_are_tried_again_with_growing_delays_and_told() -> None:
    down = ModelConnectionError("down")
    session, model = await _opened(Scripted(plan=[0.2, down, down, 0.2]), first_retry_s=1.0)
    await asyncio.sleep(5)
    begin = session.now()
    model.links[0].lose()
    await session.speak(6)
    assert [round(wait, 2) for _, _, wait in session.troubles] == [0.0, 1.0, 2.0]
    assert session.rotations[0][0] == 4
    assert model.attempts == 4
    assert session.now() - begin < 7
    assert _covered(model.links[1])[1] == session.position


@_virtual
async def test_an_opening_that_hangs_is_given_up() -> None:
    session, model = await _opened(Scripted(plan=[0.2, 1e6, 0.2]))
    await asyncio.sleep(5)
    model.links[0].lose()
    await asyncio.sleep(15)
    assert "did not open within" in session.troubles[1][1]
    assert len(model.links) == 2


@_virtual
async def test_the_next_candidate_takes_over_with_the_rates_it_has() -> None:
    one = Scripted("one", plan=[0.2, CredentialsError("revoked")])
    two = Scripted("two", input_rate=8000, output_rate=16_000)
    session = Session(Fallback([one, two]))
    await session.supervisor.open()
    await asyncio.sleep(2)
    session.supervisor.quiet(False)
    await session.speak(2)
    one.links[0].lose()
    await session.speak(2)
    assert session.rotations[0][1] == "two"
    assert session.supervisor.active_name == "two"
    (link,) = two.links
    samples = sum(len(pcm) // 2 for _, pcm in link.heard)
    assert samples == pytest.approx(session.position // 2, abs=200)
    session.supervisor.commit("t1")
    _answer(link, "r1", "t1")
    assert sum(len(spoke.pcm) for spoke in session.of(Spoke)) == 4800 * 24 // 16
    link.report(ProviderSpeech(fact="started", position=40_000))
    assert session.of(ProviderSpeech)[0].position == 80_000


@_virtual
async def test_the_application_can_go_back_to_the_first() -> None:
    one, two = Scripted("one", plan=[CredentialsError("not yet")]), Scripted("two")
    session = Session(Fallback([one, two]))
    await session.supervisor.open()
    assert session.supervisor.active_name == "two"
    session.supervisor.prefer(0)
    await asyncio.sleep(1)
    assert session.supervisor.active_name == "one"
    assert session.rotations[-1][2] == "to candidate 0"


@_virtual
async def test_when_nobody_can_be_reached_the_end_is_typed() -> None:
    session, model = await _opened(Scripted(plan=[0.2, CredentialsError("revoked")]))
    await asyncio.sleep(2)
    model.links[0].lose()
    await asyncio.sleep(60)
    (lost,) = session.of(Lost)
    assert isinstance(lost.error, CredentialsError)
    assert session.troubles[-1][2] == -1.0
    assert model.attempts == 2


@_virtual
async def test_a_first_opening_that_fails_for_good_is_raised() -> None:
    session = Session(Fallback([Scripted(plan=[CredentialsError("a")]), Scripted(plan=[CredentialsError("b")])]))
    with pytest.raises(CredentialsError, match="b"):
        await session.supervisor.open()


@_virtual
async def test_a_provider_that_drops_every_connection_is_given_up_within_its_budget() -> None:
    session, model = await _opened(Scripted(plan=[0.0] * 100), budget=6)
    for _ in range(100):
        if session.of(Lost):
            break
        model.links[-1].report(Lost(error=ModelConnectionError("dropped")))
        await asyncio.sleep(5)
    assert model.attempts == 6
    assert isinstance(session.of(Lost)[0].error, DuologueError)


# ---------------------------------------------------------------------- what must not be lost, nor answered twice


@_virtual
async def test_what_a_provider_has_not_noticed_yet_is_replayed() -> None:
    session, model = await _opened(Scripted(authority="provider"))  # which says nothing before the turn is over
    session.loud = False
    await session.speak(30)
    begun, session.loud = session.position, True
    await session.speak(6)
    model.links[0].lose()
    await session.speak(1)
    start, end = _covered(model.links[1])
    assert begun - RATE <= start <= begun
    assert end == session.position


@_virtual
async def test_what_is_said_while_there_is_no_link_is_kept_however_long_that_takes() -> None:
    session, model = await _opened(
        Scripted(plan=[0.2, ModelConnectionError("down"), 20.0], authority="provider"), first_retry_s=4.0
    )
    session.loud = False
    await session.speak(5)
    model.links[0].lose()
    begun, session.loud = session.position, True
    await session.speak(2)
    session.loud = False
    await session.speak(25)
    assert _covered(model.links[1])[0] <= begun


@_virtual
async def test_an_answer_that_sounded_and_was_interrupted_is_not_given_again() -> None:
    session, model = await _opened()
    session.supervisor.quiet(False)
    await session.speak(3)
    session.supervisor.commit("t1")
    answered = session.position
    model.links[0].report(Began(response="r1", turn="t1"))
    model.links[0].report(Spoke(response="r1", pcm=bytes(4800)))
    await session.speak(1)
    session.supervisor.cancel("r1")  # the user barged in
    model.links[0].lose()
    await session.speak(1)
    assert _covered(model.links[1]) == (answered, session.position)
    assert model.links[1].log == [("begin",)]


@_virtual
async def test_a_turn_that_was_taken_back_is_heard_whole_by_the_next_link() -> None:
    session, model = await _opened()
    session.supervisor.quiet(False)
    await session.speak(3)
    session.supervisor.commit("t1")
    model.links[0].report(Began(response="r1", turn="t1"))
    model.links[0].report(Spoke(response="r1", pcm=bytes(4800)))
    session.supervisor.reopen("t1")  # before anybody heard it, the user went on
    await session.speak(1)
    model.links[0].lose()
    await session.speak(1)
    assert _covered(model.links[1]) == (0, session.position)


@_virtual
async def test_a_cut_at_the_very_end_of_an_answer_does_not_replay_what_it_answered() -> None:
    session, model = await _opened(Scripted(connection_s=100.0), early_s=50, jitter=0)
    session.loud = False
    await session.speak(40)
    session.supervisor.quiet(False)
    session.loud = True
    await session.speak(3)
    session.loud = False
    session.supervisor.commit("t1")
    answered = session.position
    model.links[0].report(Began(response="r1", turn="t1"))
    await session.speak(7.5)
    assert len(model.links) == 2
    session.supervisor.quiet(True)
    model.links[0].report(Spoke(response="r1", pcm=bytes(4800)))
    model.links[0].report(Ended(response="r1"))  # it is quiet now: the successor takes over within this call
    assert session.rotations[0][2] == "planned"
    assert model.links[1].heard[0][0] >= answered


@_virtual
async def test_the_beginning_of_another_turn_belongs_to_it_though_the_provider_was_slow() -> None:
    session, model = await _opened(Scripted(authority="provider"))
    session.supervisor.quiet(False)
    await session.speak(3)
    ended = session.position
    await session.speak(2)  # the user has begun another turn by now
    model.links[0].report(ProviderSpeech(fact="stopped", position=ended))
    session.items = [Item(kind="user", id="t1", text="where next")]
    session.supervisor.commit("t1")
    model.links[0].lose()
    await session.speak(1)
    start, end = _covered(model.links[1])
    assert ended <= start <= ended + RATE // 4
    assert end == session.position


@_virtual
async def test_the_history_of_an_interrupted_answer_keeps_the_turn_that_it_answers() -> None:
    session, model = await _opened()
    session.items = [Item(kind="user", id="t1", text="where next")]
    session.supervisor.commit("t1")
    model.links[0].report(Began(response="r1", turn="t1"))
    model.links[0].report(Spoke(response="r1", pcm=bytes(4800)))
    model.links[0].lose()
    await asyncio.sleep(1)
    assert [item.text for item in model.links[1].history] == ["where next"]
    assert [entry[0] for entry in model.links[1].log] == ["begin", "respond"]


@_virtual
async def test_nobody_is_made_to_go_on_into_what_the_user_says() -> None:
    session, model = await _opened()
    session.supervisor.respond("r1", "", "tool")
    model.links[0].report(Began(response="r1", origin="tool"))
    await session.speak(1)
    model.links[0].lose()
    await session.speak(2)
    assert model.links[1].log == [("begin",)]
    assert session.of(Ended) == [Ended(response="r1", status="cancelled")]


@pytest.mark.parametrize("echo", [True, False])
@_virtual
async def test_an_echo_of_the_agent_is_told_from_the_user(echo: bool) -> None:
    session, model = await _opened()
    session.supervisor.commit("t1")
    model.links[0].report(Began(response="r1", turn="t1"))
    model.links[0].report(Spoke(response="r1", pcm=bytes(48_000)))  # a second
    await session.speak(0.5)
    model.links[0].lose()
    await session.speak(0.5)
    session.loud = not echo
    await session.speak(1)
    asked = [entry[0] for entry in model.links[1].log]
    assert asked == (["begin", "respond"] if echo else ["begin"])


# ---------------------------------------------------------------------- when it is time


@_virtual
async def test_a_planned_rotation_lets_an_answer_be_made_to_its_end() -> None:
    session, model = await _opened(Scripted(connection_s=100.0), early_s=20, force_s=8, jitter=0)
    session.supervisor.quiet(False)
    await asyncio.sleep(85)
    session.supervisor.commit("t1")
    old = model.links[0]
    old.report(Began(response="r1", turn="t1"))
    for _ in range(18):  # to beyond the time at which a speaking user would be cut over
        old.report(Spoke(response="r1", pcm=bytes(24_000)))
        await asyncio.sleep(0.5)
    assert session.rotations == []
    old.report(Ended(response="r1"))
    assert session.rotations[0][2] == "planned (forced)"
    assert session.of(Ended) == [Ended(response="r1")]
    assert model.links[1].log == [("begin",)], "nothing is to be gone on with"


@_virtual
async def test_a_change_waits_for_the_answer_to_what_was_just_said() -> None:
    session, model = await _opened(
        Scripted(connection_s=100.0, authority="provider"), early_s=50, jitter=0
    )  # which says nothing before the turn is over
    session.loud = False
    await session.speak(48)
    session.loud = True
    await session.speak(4)
    session.loud = False
    await session.speak(1)
    assert len(model.links) == 2
    assert session.rotations == []
    session.supervisor.commit("t1")
    _answer(model.links[0], "r1", "t1")
    await session.speak(3)
    assert session.rotations[0][2] == "planned"


@_virtual
async def test_an_answer_that_stops_in_the_middle_is_noticed_soon_after_it_falls_silent() -> None:
    one, two = Scripted("one"), Scripted("two")
    session = Session(Fallback([one, two]))
    await session.supervisor.open()
    session.supervisor.commit("t1")
    one.links[0].report(Began(response="r1", turn="t1"))
    one.links[0].report(Spoke(response="r1", pcm=bytes(48_000 * 3)))  # three seconds at once
    await asyncio.sleep(3 + HUNG_S - 0.1)
    assert session.rotations == [], "it is still being played"
    await asyncio.sleep(0.5)
    assert session.rotations[0][1] == "two", "not tried again where it stalled"
    assert one.attempts == 1


@_virtual
async def test_an_answer_that_waits_for_its_tools_has_not_stopped() -> None:
    session, model = await _opened()
    session.supervisor.commit("t1")
    model.links[0].report(Began(response="r1", turn="t1"))
    model.links[0].report(Spoke(response="r1", pcm=bytes(4800)))
    model.links[0].report(ToolRequested(response="r1", call=ToolCall(id="c1", name="pay")))
    await asyncio.sleep(HUNG_S * 3)
    assert session.rotations == []


@_virtual
async def test_a_provider_that_hangs_is_not_waited_for_while_there_is_another() -> None:
    one, two = Scripted("one", plan=[0.2, 1e6]), Scripted("two")
    session = Session(Fallback([one, two]))
    await session.supervisor.open()
    await asyncio.sleep(5)
    one.links[0].lose()
    await asyncio.sleep(1.5)
    assert session.rotations[0][1] == "two"


@_virtual
async def test_a_consumer_that_hangs_in_its_receive_loop_holds_no_rotation_up() -> None:
    model = Scripted(connection_s=20.0)
    async with Agent(model=model, idle_prompt="").session(text_only=True) as session:

        async def consume() -> None:
            async for _ in session.receive():
                await asyncio.Event().wait()

        hanging = asyncio.ensure_future(consume())
        await asyncio.sleep(65)
        assert len(model.links) >= 6
        assert [link.closed for link in model.links][:-2] == [True] * (len(model.links) - 2)
        hanging.cancel()


@_virtual
async def test_a_consumer_that_stops_the_session_during_a_rotation_is_not_kept_waiting() -> None:
    model = Scripted(connection_s=20.0, plan=[0.2, 5.0])
    async with Agent(model=model, idle_prompt="").session(text_only=True) as session:
        await asyncio.sleep(12)  # the successor is being opened
        assert model.attempts == 2
        begin = asyncio.get_running_loop().time()
        async for _ in session.receive():
            await session.send("hello")
            await session.stop()
            break
        assert asyncio.get_running_loop().time() - begin < 6
    await asyncio.sleep(10)
    assert all(link.closed for link in model.links)


# ---------------------------------------------------------------------- changes of the setup


@_virtual
async def test_a_change_reaches_the_link_in_use_and_the_one_that_waits() -> None:
    session, model = await _opened(Scripted(can_update=True, connection_s=100.0), early_s=50, jitter=0)
    session.supervisor.quiet(False)
    await asyncio.sleep(50.1)  # the successor is being opened
    session.instructions = "be long"
    session.supervisor.update(session.setup())
    await asyncio.sleep(1)
    assert [link.log[-1] for link in model.links] == [("update", "be long")] * 2


@_virtual
async def test_a_model_that_cannot_be_told_is_given_a_new_link_that_knows() -> None:
    session, model = await _opened(Scripted(connection_s=100.0), early_s=50, jitter=0)
    session.supervisor.quiet(False)
    await asyncio.sleep(51)  # a successor waits, and knows of nothing
    session.supervisor.update(session.setup())
    await asyncio.sleep(1)
    assert model.links[1].closed
    session.supervisor.quiet(True)
    await asyncio.sleep(1)
    assert len(model.links) == 3
    assert session.rotations[-1][2].startswith("instructions, tools or voice changed")


@_virtual
async def test_closing_is_bounded_and_leaves_nothing() -> None:
    model = Scripted()
    model.close_s = 1e6
    session = Session(model)
    await session.supervisor.open()
    begin = session.now()
    await session.supervisor.close()
    assert session.now() - begin < 4
    model.links[0].report(Lost(error=ModelConnectionError("late")))
    await asyncio.sleep(5)
    assert model.attempts == 1


def test_a_fallback_is_made_of_models_and_is_flat() -> None:
    one, two, three = Scripted("one"), Scripted("two"), Scripted("three")
    nested = Fallback([one, Fallback([two, three])])
    assert nested.candidates == (one, two, three)
    assert nested.capabilities is one.capabilities
    for bad in ([], [one, "two"]):
        with pytest.raises(ConfigurationError):
            Fallback(bad)  # type: ignore[arg-type]
