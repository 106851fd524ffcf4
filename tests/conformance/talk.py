"""What the partner in a conformance call says: one set of rules, for every model that is scripted, and the caller's sentences.

The sentences are such that a real model, told :data:`INSTRUCTIONS`, answers them with the same key words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from duologue.engine.conversation import Item
from duologue.testing.scripted import Reply, Utterance

#: what the caller can say, by name
SENTENCES = {
    "hello": "hello there",
    "story": "please tell me a long story",
    "weather": "what is the weather in Oslo",
    "both": "what are the weather in Oslo and the time of day",
    "stop": "stop please and count to three",
    "code": "what is the code word",
    "time": "what is the time of day",
    "slow": "think about it for a long while",
    "speed": "what speed do we travel at",
}
UTTERANCES = [Utterance(text=text) for text in SENTENCES.values()]

#: what a model is told in every call
INSTRUCTIONS = (
    "You talk with a caller on the phone. Answer in one short sentence, unless a long story is asked for: then tell one of at "
    "least fifteen sentences. For weather and time call the functions, never guess. The code word is banana."
)
_VERBATIM = "Say exactly the following"


def number(name: str) -> int:
    """The sample value that stands for a sentence."""
    return list(SENTENCES).index(name) + 1


def talk(text: str | None, history: Sequence[Item], instructions: str, told: str = "") -> Reply:
    """The reply to what the user said (None: to tool results, or to `told`), in a conversation under `instructions`."""
    told = told or text or ""
    if _VERBATIM in told:
        return Reply(text=told.rsplit("\n\n", 1)[-1])
    if text is None:
        results = _news(history)
        if results:
            return Reply(text=f"It is {' and '.join(results)}.")
        return Reply(text=f"As you wish, {told}" if told else "Here I am.")
    if "[Instruction" in text:
        return Reply(text=f"As you wish, {text}")
    if "weather" in text and "time" in text:
        return Reply(tools=(("get_weather", {"city": "Oslo"}), ("get_time", {})))
    if "weather" in text:
        return Reply(tools=(("get_weather", {"city": "Oslo"}),))
    if "time of day" in text:
        return Reply(tools=(("get_time", {}),))
    if "stop" in text:
        return Reply(text="One, two, three.")
    if "story" in text:
        return Reply(text=" ".join(f"This is sentence number {n} of the story." for n in range(1, 9)))
    if "while" in text:
        return Reply(text="I have thought about it.", delay_s=4.0)
    if "code word" in text:
        words = re.findall(r"code word is (\w+)", instructions)
        return Reply(text=f"The code word is {words[-1]}." if words else "I know of none.")
    if "speed" in text:
        found = [reading for item in history for reading in re.findall(r"speed: (\d+)", item.text)]
        return Reply(text=f"We travel at {found[-1]}." if found else "I do not know.")
    return Reply(text=f"You said {text}.")


def _news(history: Sequence[Item]) -> list[str]:
    """Results that came after the agent's or the user's last words."""
    news: list[str] = []
    for item in history:
        if item.kind == "result":
            news.append(item.text)
        elif item.kind == "assistant" and item.text:
            news.clear()
    return news
