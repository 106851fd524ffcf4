"""What a tool is: the definition, the call, the result, the events of a run, and what a running tool may reach.

A tool is a plain function with annotations; :func:`duologue.tools.tool` turns it into a :class:`Tool`. Anything that
can run behind :meth:`Tool.prepare` can be a tool, which is how MCP servers and other frameworks' tools fit in.
"""

from __future__ import annotations

import contextvars
import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from duologue.errors import ConfigurationError, ToolError

#: What JSON carries: None, bool, int, float, str, and lists and string-keyed dicts of these.
type JSONValue = bool | int | float | str | list[JSONValue] | dict[str, JSONValue] | None

type OnTakeover = Literal["unknown", "rerun"]
type ToolStatus = Literal["ok", "error", "timeout", "cancelled", "outcome_unknown", "denied"]

#: Seconds a tool may run unless it says otherwise; a `long_running` one gets the second figure.
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_LONG_TIMEOUT_S = 3600.0

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_SLOT = re.compile(r"\{([^{}]*)\}")


class ToolArgumentsError(ToolError):
    """The arguments of a call do not fit the tool's parameters; `field` names the first one that does not."""

    code = "tool_arguments"

    def __init__(self, tool: str, message: str, *, field: str = "", hint: str = "") -> None:
        super().__init__(tool, message, hint=hint)
        self.field = field


class ToolResultError(ToolError):
    """A tool returned something that JSON cannot carry; `path` says where in the value."""

    code = "tool_result"

    def __init__(self, tool: str, message: str, *, path: str = "", hint: str = "") -> None:
        super().__init__(tool, message, hint=hint)
        self.path = path


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is told about a tool. `parameters` is a JSON Schema of type `object`."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "object", "properties": {}})
    #: utterances that mean this tool; `{parameter}` marks a slot. Phrase matching uses them, language models may be
    #: shown them
    examples: tuple[str, ...] = ()
    ends_call: bool = False
    long_running: bool = False


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A model's request to run a tool.

    `arguments` is a dict, or the raw JSON text as the model wrote it (checked by the executor, not by whoever passes it
    on). `idempotency_key` stays the same if the same run is repeated after a takeover; empty lets the executor make
    one.
    """

    id: str
    name: str
    arguments: dict[str, Any] | str = msgspec.field(default_factory=dict)
    idempotency_key: str = ""


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended. `output` is a JSON value (of status `ok`), `error` what the model is told otherwise.

    `exception` is what the tool raised, for the application (see `Hooks.after_tool`); neither model nor caller get to know it.

    `duration` is in seconds from start to end, waiting for approval included. `truncated` says that the output was
    larger than the executor's cap and is now a string holding its beginning.
    """

    id: str
    name: str
    status: ToolStatus = "ok"
    output: Any = None
    error: str | None = None
    exception: BaseException | None = None
    duration: float = 0.0
    truncated: bool = False

    def text(self) -> str:
        """The result as the text a model is given: strings as they are, others as JSON, errors as their message."""
        if self.status != "ok":
            return self.error or self.status
        return self.output if isinstance(self.output, str) else msgspec.json.encode(self.output).decode()


class ToolEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a run. `text` comes with `progress`, `result` with `finished`.

    `approval` means that the run waits for a decision; `started` comes when the tool itself begins.
    """

    kind: Literal["approval", "started", "progress", "finished"]
    call: ToolCall
    text: str = ""
    result: ToolResult | None = None


class Done:
    """An awaitable that is already done: lets a non-blocking call be awaited or not, as the caller likes."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """The run that the current code is part of; see :func:`current_run`."""

    call: ToolCall
    report: Callable[[str], None]


#: set by the executor around a tool's code, on whatever thread or loop that runs
RUNNING: contextvars.ContextVar[Running | None] = contextvars.ContextVar("duologue_tool_run", default=None)


def current_call() -> ToolCall:
    """The call that is being run, with its idempotency key, from inside a tool.

    Raises:
        ConfigurationError: called from outside a tool.
    """
    running = RUNNING.get()
    if running is None:
        raise ConfigurationError("No tool is running here.", hint="Call current_call() from inside a tool.")
    return running.call


def progress(text: str) -> Done:
    """Report how a running tool is getting on, from inside it, sync or async, on any thread.

    Does not wait; awaiting what it returns is allowed and free. Outside a tool it does nothing, so that a tool's
    function can still be called directly.
    """
    running = RUNNING.get()
    if running is not None:
        running.report(text)
    return Done()


class ToolContext(ABC):
    """What a tool reaches of the conversation it runs for. The session implements it.

    A parameter annotated with this class or a subclass of it is given the conversation and is hidden from the schema.
    Tools do not run on the media loop: an implementation's async methods must be safe to await from another thread's
    loop and hop to its own.
    """

    @property
    @abstractmethod
    def state(self) -> Any:
        """The conversation's journaled, typed state."""

    @abstractmethod
    async def say(self, text: str) -> Any:
        """Say `text` verbatim. Returns when it is queued, not when it was heard."""

    def progress(self, text: str) -> Done:
        """Report how the running tool is getting on; see :func:`progress`. Works from sync tools too."""
        return progress(text)


class Binder(Protocol):
    """Turns checked JSON arguments into a call that is ready to run."""

    def __call__(self, arguments: dict[str, Any], context: ToolContext | None, /) -> Callable[[], Any]:
        """Raises :class:`ToolArgumentsError` if the arguments do not fit. The returned function starts the tool."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tool:
    """The immutable definition of a tool. Make one with :func:`duologue.tools.tool` or :func:`duologue.tools.as_tools`.

    Attributes:
        name: letters, digits, `_` and `-`, at most 64, not starting with a digit.
        description: what the model reads to decide.
        parameters: JSON Schema of type `object`.
        examples: utterances that mean this tool, with `{parameter}` slots.
        timeout: seconds from start to deadline.
        cancel_on_barge_in: whether the caller taking the floor cancels a run.
        on_takeover: what to do with a run whose worker died: tell the model `outcome_unknown`, or run again.
        side_effects: whether a run changes anything; if so it waits for the turn to be committed.
        approval: whether each run waits for somebody's decision.
        long_running: expected to take so long that the conversation goes on; keeps the session busy, and where others may
            join the session (served and hosted ones) goes on after everybody has left. The next one to come is told.
        speak_progress: whether progress reports are spoken.
        ends_call: after a run the agent says goodbye, lets it play out and hangs up.
        is_async: whether a prepared run returns an awaitable.
        binder: see :class:`Binder`.
        function: the wrapped function, if there is one; calling the tool calls it.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"type": "object", "properties": {}})
    examples: Sequence[str] = ()
    timeout: float | None = None
    cancel_on_barge_in: bool = False
    on_takeover: OnTakeover = "unknown"
    side_effects: bool = True
    approval: bool = False
    long_running: bool = False
    speak_progress: bool = True
    ends_call: bool = False
    is_async: bool = False
    binder: Binder = dataclasses.field(repr=False)
    function: Callable[..., Any] | None = dataclasses.field(default=None, repr=False)
    #: for a tool declared inside a class: makes the same tool for an instance
    for_instance: Callable[[Tool, object], Tool] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ToolError(
                self.name,
                "the name must be letters, digits, _ and -, at most 64 of them, not starting with a digit.",
                hint="Pass another with @tool(name=...).",
            )
        if isinstance(self.examples, str):
            raise ToolError(self.name, "examples is one string.", hint="Pass a list: examples=[...].")
        properties = self.parameters.get("properties", {})
        for example in self.examples:
            for slot in _SLOT.findall(example):
                if slot not in properties:
                    raise ToolError(
                        self.name,
                        f"example {example!r} has a slot {{{slot}}} that is no parameter.",
                        hint=f"Parameters: {', '.join(properties) or 'none'}.",
                    )
        if self.on_takeover not in ("unknown", "rerun"):
            raise ToolError(self.name, f"on_takeover={self.on_takeover!r}.", hint="Use 'unknown' or 'rerun'.")
        timeout = self.timeout
        if timeout is None:
            timeout = DEFAULT_LONG_TIMEOUT_S if self.long_running else DEFAULT_TIMEOUT_S
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
            raise ToolError(self.name, f"timeout={timeout!r} is not a positive number of seconds.")
        object.__setattr__(self, "timeout", float(timeout))
        object.__setattr__(self, "examples", tuple(self.examples))

    @property
    def deadline_s(self) -> float:
        """Seconds a run may take."""
        assert self.timeout is not None  # __post_init__ resolved it
        return self.timeout

    @property
    def spec(self) -> ToolSpec:
        """What a model is told about this tool."""
        return ToolSpec(
            name=self.name,
            description=self.description,
            parameters=dict(self.parameters),
            examples=tuple(self.examples),
            ends_call=self.ends_call,
            long_running=self.long_running,
        )

    def prepare(self, arguments: dict[str, Any] | str, context: ToolContext | None = None) -> Callable[[], Any]:
        """Check `arguments` (a dict, or JSON text) and return a function that starts the run.

        What that function returns is the tool's value, or an awaitable of it if `is_async`.

        Raises:
            ToolArgumentsError: the arguments do not fit; the message tells a model what to change.
        """
        return self.binder(parse_arguments(self.name, arguments), context)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped function directly, as if it had not been decorated."""
        if self.function is None:
            raise ToolError(self.name, "it wraps no Python function.", hint="Run it through a ToolExecutor.")
        return self.function(*args, **kwargs)

    def __get__(self, instance: object | None, owner: type | None = None) -> Tool:
        if instance is None or self.for_instance is None:
            return self
        return self.for_instance(self, instance)


@runtime_checkable
class ToolSource(Protocol):
    """Something that has to be asked for its tools, such as an MCP server."""

    @property
    def name(self) -> str: ...

    async def load(self) -> Sequence[Tool]:
        """The tools it has now. Bounded in time; raises a DuologueError if it cannot be reached."""

    async def aclose(self) -> None:
        """Let go of connections and processes. A later :meth:`load` opens them again."""


def parse_arguments(tool: str, arguments: dict[str, Any] | str) -> dict[str, Any]:
    """Arguments as a dict; JSON text is decoded, and the empty text that some models send means none.

    Raises:
        ToolArgumentsError: not JSON, or not an object.
    """
    if isinstance(arguments, dict):
        return arguments
    if not arguments.strip():
        return {}
    try:
        decoded = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ToolArgumentsError(tool, f"the arguments are not JSON ({error}).", hint="Send one JSON object.") from None
    if decoded is None:
        return {}
    if not isinstance(decoded, dict):
        raise ToolArgumentsError(tool, "the arguments are not a JSON object.", hint="Send one JSON object.")
    return decoded
