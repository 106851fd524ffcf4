from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import ConfigurationError
from duologue.speech.llm import (
    LLM,
    Finished,
    GenerateOptions,
    Message,
    PhraseLLM,
    ScriptedLLM,
    TextDelta,
    ToolCallRequest,
)
from duologue.speech.llm.phrase_render import tool_answer
from tests.llm.driver import SPECS, TOOLS, Conversation, calls_of, generate, matcher, text_of
from tests.llm.utterances import UTTERANCES


@pytest.mark.anyio
@pytest.mark.parametrize(("said", "name", "arguments"), UTTERANCES)
async def test_utterance(said: str, name: str | None, arguments: dict[str, Any]) -> None:
    events = await generate(matcher(), [Message(role="user", content=said)])
    assert calls_of(events) == ([] if name is None else [(name, arguments)])


@pytest.mark.anyio
async def test_speaks_a_text_result_as_it_is() -> None:
    talk = Conversation(matcher())
    (request, end) = await talk.say("what's my next stop")
    assert isinstance(request, ToolCallRequest)
    assert end == Finished(reason="tool_calls")
    assert text_of(await talk.result(request, "12 Harbour Street, Oslo")) == "12 Harbour Street, Oslo."


@pytest.mark.anyio
async def test_long_running_tool_is_announced_and_its_late_result_is_told() -> None:
    talk = Conversation(matcher())
    events = await talk.say("mark the bakery as complete")
    assert text_of(events) == "Okay, one moment."
    request = next(event for event in events if isinstance(event, ToolCallRequest))
    await talk.say("how are you")
    assert text_of(await talk.result(request, "The bakery is complete.")) == "The bakery is complete."


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"address": "Mill Lane 4", "minutes_left": 12, "note": null}', "Address: Mill Lane 4. Minutes left: 12."),
        ('["milk", "bread", "eggs"]', "3 results: milk, bread and eggs."),
        ('[{"name": "Ann", "age": 3}, {"name": "Bob"}]', "2 results: Ann and Bob."),
        ("[]", "Nothing found."),
        ("{}", "Nothing found."),
        ("null", "Done."),
        ("true", "Done."),
        ("false", "No."),
        ("42", "42."),
        ("", "Done."),
        ('{"broken', '{"broken.'),
        ('{"status": "running"}', "I'm on it."),
        ('["a","b","c","d","e","f","g"]', "7 results: a, b, c, d, e and 2 more."),
    ],
)
async def test_results_become_sentences(content: str, said: str) -> None:
    results = [Message(role="tool", name="route", tool_call_id="phrase_1", content=content)]
    assert text_of(await generate(matcher(), results)) == said


@pytest.mark.anyio
async def test_several_results_are_told_together_and_goodbye_comes_last() -> None:
    results = [
        Message(role="tool", name="end_call", tool_call_id="phrase_1", content="Say a short goodbye now."),
        Message(role="tool", name="add_note", tool_call_id="phrase_2", content="Noted."),
        Message(role="tool", name="mark_complete", tool_call_id="phrase_3", content="No such delivery.", is_error=True),
    ]
    assert text_of(await generate(matcher(), results)) == "Noted. That did not work. No such delivery. Goodbye."


@pytest.mark.anyio
async def test_error_names_the_tool_in_words() -> None:
    content = "mark_complete did not answer within 3 seconds."
    results = [Message(role="tool", name="mark_complete", tool_call_id="x", content=content, is_error=True)]
    said = text_of(await generate(matcher(), results))
    assert said == "That did not work. Mark complete did not answer within 3 seconds."


@pytest.mark.anyio
async def test_asks_for_what_is_missing_and_takes_it_from_the_next_turn() -> None:
    talk = Conversation(matcher())
    assert text_of(await talk.say("add a note")) == "What is the text of the note?"
    assert calls_of(await talk.say("The gate code is 4421.")) == [("add_note", {"text": "The gate code is 4421"})]


@pytest.mark.anyio
async def test_asks_for_one_parameter_after_the_other() -> None:
    talk = Conversation(matcher())
    assert text_of(await talk.say("order a van")) == "Which size: small, medium or large?"
    assert text_of(await talk.say("uh the large one")) == "Which day?"
    assert calls_of(await talk.say("tuesday, no, wednesday")) == [("order_van", {"size": "large", "day": "2026-11-25"})]


@pytest.mark.anyio
async def test_asks_again_when_the_answer_does_not_fit() -> None:
    talk = Conversation(matcher())
    assert text_of(await talk.say("I picked up parcels")) == "What is the count? A number, please."
    assert text_of(await talk.say("bananas")) == "Sorry, I did not get that. What is the count? A number, please."
    assert calls_of(await talk.say("three")) == [("load_parcels", {"count": 3})]


@pytest.mark.anyio
async def test_a_question_that_was_cut_short_still_counts_and_one_unheard_does_not() -> None:
    asked = Message(role="user", content="add a note")
    answer = Message(role="user", content="the gate code is 4421")
    heard = [asked, Message(role="assistant", content="What is the"), answer]
    assert calls_of(await generate(matcher(), heard)) == [("add_note", {"text": "the gate code is 4421"})]
    unheard = [asked, Message(role="assistant", content=""), answer]
    assert calls_of(await generate(matcher(), unheard)) == []


@pytest.mark.anyio
async def test_something_else_may_be_said_instead_of_an_answer() -> None:
    talk = Conversation(matcher())
    await talk.say("add a note")
    assert calls_of(await talk.say("what's my next stop")) == [("next_stop", {})]
    await talk.say("add a note")
    assert text_of(await talk.say("never mind")) == "All right."
    await talk.say("add a note")
    assert text_of(await talk.say("sorry what")) == "What is the text of the note?"


@pytest.mark.anyio
async def test_a_weak_match_is_asked_about() -> None:
    talk = Conversation(matcher())
    events = await talk.say("so my next one is what")
    assert calls_of(events) == []
    assert text_of(events).startswith("Did you mean “")
    assert calls_of(await talk.say("yes please")) == [("next_stop", {})]


@pytest.mark.anyio
async def test_no_to_a_weak_match() -> None:
    talk = Conversation(matcher())
    await talk.say("so my next one is what")
    assert text_of(await talk.say("no")) == "All right. What is it then?"


@pytest.mark.anyio
async def test_says_honestly_that_it_did_not_understand_and_what_it_can() -> None:
    said = text_of(await Conversation(matcher()).say("who won the football game"))
    assert said.startswith("Sorry, I did not understand that. You can say “what's my next stop”, “mark a delivery as")


@pytest.mark.anyio
async def test_small_talk() -> None:
    talk = Conversation(matcher())
    assert text_of(await talk.say("hello")) == "Hello! What can I do for you?"
    assert text_of(await talk.say("thank you")) == "You're welcome."
    assert "not a language model" in text_of(await talk.say("are you a robot"))
    assert text_of(await talk.say("what can you do")).startswith("You can say “what's my next stop”")
    assert text_of(await talk.say("uh-huh")) == ""


@pytest.mark.anyio
async def test_repeats_a_result_in_full_though_it_was_cut_short() -> None:
    talk = Conversation(matcher())
    (request, _) = await talk.say("tell me about the route")
    assert isinstance(request, ToolCallRequest)
    await talk.result(request, "You start at the depot. Then comes Harbour Street.")
    talk.messages[-1] = Message(role="assistant", content="You start at")
    assert text_of(await talk.say("say that again")) == "You start at the depot. Then comes Harbour Street."


@pytest.mark.anyio
async def test_goodbye_without_a_tool_that_ends_the_call() -> None:
    assert text_of(await Conversation(matcher(), []).say("goodbye")) == "Goodbye."


@pytest.mark.anyio
async def test_answers_are_the_same_every_time_and_call_ids_differ() -> None:
    llm = matcher()
    first, second = [await Conversation(llm).say("what's my next stop") for _ in range(2)]
    assert calls_of(first) == calls_of(second)
    ids = {event.id for event in (*first, *second) if isinstance(event, ToolCallRequest)}
    assert len(ids) == 2
    assert await Conversation(matcher()).say("what's my next stop") == first


@pytest.mark.anyio
async def test_hands_over_what_it_does_not_know_and_the_results_of_others() -> None:
    other = ScriptedLLM(["Forty two.", "It is sunny."], first_token_s=0, tokens_per_s=0)
    llm = PhraseLLM(fallback=other)
    talk = Conversation(llm)
    assert text_of(await talk.say("what is the meaning of life")) == "Forty two."
    assert calls_of(await talk.say("what's my next stop")) == [("next_stop", {})]
    theirs = [Message(role="tool", name="weather", tool_call_id="call_1", content="sunny")]
    assert text_of(await generate(llm, theirs)) == "It is sunny."
    assert llm.name == "phrases+scripted"


@pytest.mark.anyio
async def test_closing_reaches_the_fallback() -> None:
    other = ScriptedLLM(["one two three"], first_token_s=0, tokens_per_s=0)
    stream = PhraseLLM(fallback=other).generate([Message(role="user", content="who won the football game")])
    assert await anext(stream) == TextDelta(text="one")
    await stream.aclose()
    assert other.cancelled == 1


@pytest.mark.anyio
async def test_no_tool_is_called_when_none_may_be() -> None:
    options = GenerateOptions(tool_choice="none")
    messages = [Message(role="user", content="what's my next stop")]
    events = [event async for event in matcher().generate(messages, SPECS, options=options)]
    assert calls_of(events) == []


def test_is_honest_about_what_it_is() -> None:
    assert not matcher().is_language_model
    assert "not a language model" in matcher().describe()
    assert 'Cascade.local(llm="ollama/llama3.2")' in matcher().describe()
    assert isinstance(matcher(), LLM)


@pytest.mark.parametrize(
    "options", [{"threshold": 0.3}, {"threshold": 1.2}, {"confirm_threshold": 0.0}, {"talk_threshold": -1}]
)
def test_refuses_thresholds_that_cannot_work(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="scores from 0 to 1"):
        PhraseLLM(**options)  # type: ignore[arg-type]


@given(st.lists(st.text(max_size=60), max_size=4), st.integers(0, len(SPECS)))
def test_any_words_get_an_answer_that_fits_the_schema(said: list[str], count: int) -> None:
    async def converse() -> None:
        talk = Conversation(matcher(), SPECS[:count])
        for text in said:
            events = await talk.say(text)
            for name, arguments in calls_of(events):
                next(each for each in TOOLS if each.name == name).prepare(arguments)

    asyncio.run(converse())


_WORDS = st.sampled_from(
    "mark the last one no as complete add a note what is my next stop wait sorry tuesday three four order van um "  # noqa: SIM905
    "large, , . small for i mean where do go delivered twenty five percent".split()
)


@given(st.lists(_WORDS, max_size=16).map(" ".join))
def test_any_jumble_of_known_words_gives_arguments_that_the_tools_take(said: str) -> None:
    events = asyncio.run(Conversation(matcher()).say(said))
    for name, arguments in calls_of(events):
        next(each for each in TOOLS if each.name == name).prepare(arguments)


@pytest.mark.parametrize(
    ("said", "low", "high"),
    [
        ("mark the last one", 0.8, 1),
        ("mark the last one as", 0.8, 1),
        ("mark the last one as complete", 0, 0.1),
        ("what's my next", 0.8, 1),
        ("what's my next stop", 0, 0.1),
        ("tell me about", 0.8, 1),
        ("add a note", 0.8, 1),
        ("add a note the gate code is 4421", 0.1, 0.4),
        ("add a note the", 0.8, 1),
        ("order a large van for tuesday", 0, 0.2),
        ("the last one, no,", 0.8, 1),
        ("so I think um", 0.8, 1),
        ("what is 12 times", 0.8, 1),
        ("i picked up twenty", 0.8, 1),
        ("goodbye", 0, 0.1),
        ("my cat is called napoleon", 0.3, 0.5),
        ("Stop, stop, please.", 0, 0.1),
        ("Stop, wait.", 0, 0.1),
        ("What's my next stop, please?", 0, 0.1),
        ("Could you please", 0.8, 1),
        ("no wait", 0.8, 1),
        ("", 0.1, 0.4),
    ],
)
def test_could_continue(said: str, low: float, high: float) -> None:
    assert low <= matcher().could_continue(said, SPECS) <= high


def test_what_cannot_be_answered_yet_is_rather_a_beginning() -> None:
    llm = matcher()
    unknown = "the washing machine makes a strange noise"
    assert llm.could_continue(unknown, SPECS) > llm.could_continue("hello", SPECS)
    assert llm.could_continue(unknown, SPECS) > llm.could_continue(unknown, SPECS, "What should the note say?")
    assert PhraseLLM(fallback=ScriptedLLM(["Yes."])).could_continue(unknown, SPECS) < llm.could_continue(unknown, SPECS)


@given(st.text(max_size=80))
def test_could_continue_is_a_probability(said: str) -> None:
    assert 0 <= matcher().could_continue(said, SPECS) <= 1


@pytest.mark.anyio
async def test_instructions_to_a_language_model_are_passed_over() -> None:
    system = Message(role="system", content="mark the bakery as complete")
    said = Message(role="user", content="what's my next stop")
    assert calls_of(await generate(matcher(), [system, said, system])) == [("next_stop", {})]
    result = Message(role="tool", name="next_stop", tool_call_id="phrase_1", content="Mill Lane.")
    assert text_of(await generate(matcher(), [said, result, system])) == "Mill Lane."
    assert text_of(await generate(matcher(), [system])) == "Hello! What can I do for you?"
    greeted = Message(role="assistant", content="Hi.")
    assert text_of(await generate(matcher(), [system, greeted, system])) == "What can I do for you?"


def test_a_failed_tool_is_spoken_of_in_plain_words() -> None:
    message = Message(
        role="tool", tool_call_id="c", name="mark_complete", content="mark_complete failed.", is_error=True
    )
    assert tool_answer(message, None) == "That did not work. Mark complete failed."
