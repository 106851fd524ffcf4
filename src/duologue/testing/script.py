"""A model server that says exactly what a script says, for tests of anybody's client, whichever of the providers it speaks to.

A script is YAML (or JSON)::

    turns: [hello there, what is the weather]   # what the caller's turns are heard as, in order
    replies:                                    # the first rule that matches answers
      - when: "*weather*"
        call: {get_weather: {city: Oslo}}       # functions called, all at once
      - when: "result:get_weather"              # the results are back
        say: "It is {result}."
      - when: asked                             # an answer was asked for without a turn
        say: Hello.
      - say: Pardon?
        after_s: 0.5                            # silence before it
        times: 2                                # how often the rule counts; then the next that matches

Voices are told from silence by their level and understood by their number: nothing is recognised, so every run is the same. Typed
turns are matched by their text. What is said sounds as a tone, 15 characters a second; ``voice: tts`` has it spoken. A reply is
made at once; ``speed: 2`` makes it twice as fast as it is played, so that there is something to cancel.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ..agent import Agent
from ..errors import ConfigurationError, MissingDependencyError
from ..serve import RunningServer, ServeOptions, serving
from .faults import Faults
from .script_model import ScriptModel


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One reply. `when`: a pattern of the turn's text (``*`` for anything), ``asked``, or ``result:NAME``."""

    when: str = "*"
    say: str = ""
    call: Mapping[str, Mapping[str, Any]] | tuple[Mapping[str, Mapping[str, Any]], ...] = {}
    after_s: float = 0.1
    times: int | None = None

    @property
    def calls(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """Names and arguments of the functions called, in order."""
        listed = (self.call,) if isinstance(self.call, Mapping) else self.call
        return tuple(pair for entry in listed for pair in entry.items())


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See the module."""

    replies: tuple[Rule, ...]
    turns: tuple[str, ...] = ()
    voice: Literal["tone", "tts"] = "tone"
    speed: Annotated[float, msgspec.Meta(gt=0)] | None = None

    @classmethod
    def parse(cls, text: str) -> Script:
        """A script from its YAML text. Raises ConfigurationError for what is none."""
        try:
            return msgspec.yaml.decode(text, type=cls)
        except ImportError as error:
            raise MissingDependencyError(
                "Scripts in YAML need the package pyyaml.", hint="Install it with: pip install 'duologue[script]'"
            ) from error
        except msgspec.MsgspecError as error:
            raise ConfigurationError(f"This is no script: {error}.") from None

    @classmethod
    def load(cls, path: str | Path) -> Script:
        """A script from a file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"The script {path} cannot be read: {error.strerror}.") from None
        return cls.parse(text)


class Playing:
    """One conversation's way through a script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self._used = [0] * len(script.replies)
        self._turn = 0

    def heard(self) -> str:
        """What the next spoken turn is heard as; the last one again when the script has no more."""
        turns = self.script.turns or ("(speech)",)
        text = turns[min(self._turn, len(turns) - 1)]
        self._turn += 1
        return text

    def turn(self, text: str) -> Rule:
        """The reply to a turn."""
        return self._first(lambda when: when != "asked" and not when.startswith("result:") and _matches(when, text))

    def asked(self) -> Rule:
        """The reply where an answer was asked for without a turn."""
        return self._first(lambda when: when == "asked")

    def results(self, names: Sequence[str], result: str) -> Rule:
        """The reply to function results; ``{result}`` in it is the newest."""
        rule = self._first(lambda when: when.startswith("result:") and any(_matches(when[7:], name) for name in names))
        return msgspec.structs.replace(rule, say=rule.say.replace("{result}", result))

    def _first(self, matches: Any) -> Rule:
        for index, rule in enumerate(self.script.replies):
            if matches(rule.when) and (rule.times is None or self._used[index] < rule.times):
                self._used[index] += 1
                return rule
        return Rule(say="")


def _matches(pattern: str, text: str) -> bool:
    return fnmatch.fnmatchcase(text.lower(), pattern.lower())


@contextlib.asynccontextmanager
async def script_server(
    script: Script | str | Path, *, faults: Sequence[str] = (), options: ServeOptions | None = None
) -> AsyncIterator[RunningServer]:
    """Serve a script as a model over every protocol that is served: ``async with script_server("call.yaml") as server``.

    Args:
        script: a script, or the path of one.
        faults: what goes wrong on each link, see :mod:`duologue.testing.faults`.
        options: of the server; the port is any free one, and it serves as a model, whatever they say.
    """
    if not isinstance(script, Script):
        script = Script.load(script)
    planned = Faults(faults)
    options = msgspec.structs.replace(options or ServeOptions(studio=False), port=0, as_model=True)
    async with serving(script_agent(script), planned.options(options)) as server:
        planned.install(server)
        yield server


def script_agent(script: Script) -> Agent:
    """An agent that is nothing but a script's model, to be served as a model."""
    return Agent(model=ScriptModel(script), name="script")


__all__ = ["Playing", "Rule", "Script", "script_agent", "script_server"]
