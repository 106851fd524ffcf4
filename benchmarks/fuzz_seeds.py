"""Seeds for fuzzing: what the tests of the codecs put through them, written down while they run, and played again.

Recording runs `tests/wire`, without its property tests, in a process of its own, and makes a trace of each test.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import itertools
import pickle
import pkgutil
import subprocess
import sys
import time
import types
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

_ROOT = Path(__file__).parent.parent
#: the codecs, and where each is
CODECS = {
    "duologue v1": "duologue/wire/duologue/",
    "strands": "duologue/wire/strands/",
    "dialect": "duologue/wire/dialect.py",
    "event stream": "duologue/wire/eventstream.py",
    "sigv4": "duologue/wire/sigv4.py",
    "openai realtime": "duologue/wire/openai_realtime/",
    "gemini live": "duologue/wire/gemini_live/",
    "nova sonic": "duologue/wire/nova_sonic/",
}
#: what takes a message, or a piece of a stream, of the other side as its first argument
_TAKES = frozenset(
    {"receive", "receive_text", "receive_bytes", "feed", "detect", "decode_input", "decode_output", "decode_frame"}
    | {"decode", "decode_bytes", "canonical_query", "signed_request", "parse"}
)
#: most calls of a seed; tests of floods make thousands of the same
_LONGEST = 5000
_PRIMITIVE = (str, bytes, int, float, bool, type(None))


@dataclass(slots=True)
class Call:
    """One call: of a constructor (`made` is its object's number), of a method of object `on`, or of a function.

    `name` is ``module:name`` of the class or function. `data`: the message, where it takes one; then `args` lacks it.
    """

    name: str
    method: str
    on: int | None
    made: int | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    data: str | bytes | None = None

    @property
    def codec(self) -> str:
        path = self.name.split(":")[0].replace(".", "/")
        return next(
            (codec for codec, part in CODECS.items() if path.startswith(part.rstrip("/").removesuffix(".py"))), "sigv4"
        )


@dataclass
class Trace:
    """The calls of one test, in order."""

    name: str
    calls: list[Call] = field(default_factory=list)

    @property
    def codec(self) -> str:
        """The codec that most of its messages go to; "" if there are none, and it only shows what a side may do."""
        taken = Counter(call.codec for call in self.calls if call.data is not None)
        return taken.most_common(1)[0][0] if taken else ""


@dataclass(frozen=True)
class Ref:
    """Stands for an object of the trace."""

    number: int


class Nothing:
    """Stands for a function that a test passed in."""

    def __call__(self, *args: object, **kwargs: object) -> None:
        return None


@dataclass(slots=True)
class Step:
    """What came of a call."""

    codec: str
    method: str
    data: str | bytes | None
    error: BaseException | None
    typed: bool
    took_s: float


# ---------------------------------------------------------------------- playing


_numbers = itertools.count()


def _uuid4() -> uuid.UUID:
    """The same ids in each playing, so that messages that hold them fit."""
    return uuid.UUID(int=next(_numbers) + (4 << 76) + (2 << 62))


def _typed_errors() -> tuple[type[BaseException], ...]:
    from duologue.errors import DuologueError
    from duologue.serve.nova_http import RefusedError
    from duologue.wire.gemini_live import Fault, FormError
    from duologue.wire.nova_sonic import StreamException, UnmodelledError
    from duologue.wire.openai_realtime import Refusal

    found = (DuologueError, RefusedError, FormError, StreamException, UnmodelledError, Fault, Refusal)
    return tuple(kind for kind in found if issubclass(kind, BaseException))


_resolved: dict[str, Any] = {}
_typed: tuple[type[BaseException], ...] = ()
_properties: dict[type, list[str]] = {}


def _resolve(name: str) -> Any:
    if name == "duologue.wire.gemini_live.schema:tool":
        return tool_schema
    if name not in _resolved:
        module, _, path = name.partition(":")
        value: Any = importlib.import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
        _resolved[name] = value
    return _resolved[name]


def play(calls: list[Call]) -> Iterator[Step]:
    """Make the calls on new objects. Where the damage has led away from the seed, what no longer fits is left out."""
    global _numbers, _typed
    _typed = _typed or _typed_errors()
    _numbers = itertools.count()
    uuid.uuid4 = _uuid4
    objects: dict[int, Any] = {}
    for call in calls:
        if call.on is not None and call.on not in objects:
            continue
        try:
            args = tuple(_thaw(value, objects) for value in call.args)
            kwargs = {name: _thaw(value, objects) for name, value in call.kwargs.items()}
        except KeyError:
            continue
        if call.data is not None:
            args = (call.data, *args)
        target = getattr(objects[call.on], call.method) if call.on is not None else _resolve(call.name)
        error: BaseException | None = None
        began = time.perf_counter()
        try:
            result = target(*args, **kwargs)
            if isinstance(result, types.GeneratorType):
                result = list(result)
            if call.made is not None:
                objects[call.made] = result
            if call.data is not None and call.on is not None:
                _look_at(objects[call.on])
        except Exception as raised:
            error = raised
        took = time.perf_counter() - began
        yield Step(call.codec, call.method, call.data, error, isinstance(error, _typed), took)


def _look_at(thing: Any) -> None:
    """Read what an object shows of itself: that must work in every state."""
    kind = type(thing)
    if kind not in _properties:
        _properties[kind] = [name for name, value in inspect.getmembers(kind) if isinstance(value, property)]
    for name in _properties[kind]:
        if not name.startswith("_") and name != "clock":
            getattr(thing, name)


def _thaw(value: Any, objects: dict[int, Any]) -> Any:
    if isinstance(value, _PRIMITIVE):
        return value
    if isinstance(value, Ref):
        return objects[value.number]
    if type(value) in (list, tuple):
        return type(value)(_thaw(item, objects) for item in value)
    if type(value) is dict:
        return {key: _thaw(item, objects) for key, item in value.items()}
    return copy.deepcopy(value)


def signed_request(text: str | bytes) -> None:
    """A request for a stream of Nova Sonic, as JSON of its method, path, query and headers, is checked."""
    from duologue.serve.nova_http import verified

    try:
        request = msgspec.json.decode(text, type=tuple[str, str, str, dict[str, str]])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return
    verified(*request, {"AKIDEXAMPLE": "SECRETEXAMPLEKEY"}, datetime(2026, 1, 1, tzinfo=UTC))


def tool_schema(text: str | bytes) -> None:
    """The schema of a tool, as Gemini takes it and as everybody else does, each in the other's form."""
    from duologue.wire.gemini_live import from_json_schema, to_json_schema

    with contextlib.suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
        schema = msgspec.json.decode(text, type=dict[str, Any])
        to_json_schema(from_json_schema(schema))
        to_json_schema(schema)


def _tool_schemas() -> Trace:
    trace = Trace("schemas of tools")
    schemas: list[dict[str, Any]] = [
        {
            "type": "object",
            "$defs": {"P": {"type": "object", "properties": {"x": {"type": "number", "minimum": 0}}}},
            "properties": {
                "p": {"$ref": "#/$defs/P"},
                "q": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "Q"},
                "r": {"type": ["integer", "null"], "enum": [1, 2]},
                "s": {"type": "array", "items": {"type": "string", "const": "a"}, "minItems": 1, "maxItems": 3},
                "t": {"allOf": [{"$ref": "#/$defs/P"}], "description": "d"},
                "u": {"oneOf": [{"type": "boolean"}, {"type": "string", "format": "date-time", "pattern": "x"}]},
                "v": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "required": ["p"],
        },
        {
            "type": "OBJECT",
            "properties": {
                "a": {"type": "STRING", "nullable": True, "enum": ["x"]},
                "b": {"type": "ARRAY", "items": {"type": "INTEGER"}, "minItems": "1"},
                "c": {"anyOf": [{"type": "NUMBER"}, {"type": "TYPE_UNSPECIFIED"}]},
            },
            "propertyOrdering": ["a", "b"],
        },
    ]
    for schema in schemas * 4:
        data = msgspec.json.encode(schema).decode()
        trace.calls.append(Call("duologue.wire.gemini_live.schema:tool", "tool_schema", None, None, (), {}, data))
    return trace


def _signed_requests() -> Trace:
    from duologue.wire.sigv4 import STREAMING_EVENTS, Scope, canonical_request, request_signature, signing_key

    scope, date, path = Scope("20260101", "us-east-1", "bedrock"), "20260101T000000Z", "/model/m/stream"
    trace = Trace("signed requests")
    for query, credential in (("", scope), ("a=1&b=%20x&=y&c", scope), ("", "20260101//bedrock/aws4_request")):
        headers = {"host": "localhost", "x-amz-date": date, "x-amz-content-sha256": STREAMING_EVENTS}
        signed = sorted(headers)
        from duologue.wire.sigv4 import canonical_query

        canonical = canonical_request("POST", path, canonical_query(query), headers, signed, STREAMING_EVENTS)
        made = request_signature(signing_key("SECRETEXAMPLEKEY", scope), date, scope, canonical)
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{credential}, SignedHeaders={';'.join(signed)}, Signature={made}"
        )
        data = msgspec.json.encode(("POST", path, query, headers)).decode()
        for _ in range(8):
            trace.calls.append(Call("benchmarks.fuzz_seeds:signed_request", "signed_request", None, None, (), {}, data))
        queried = Call(
            "duologue.wire.sigv4:canonical_query", "canonical_query", None, None, (), {"without": ("a",)}, query
        )
        trace.calls.append(queried)
    return trace


# ---------------------------------------------------------------------- recording


def record(path: Path) -> list[Trace]:
    """Run the tests of the codecs in a process of their own, and return what they did; it is kept at `path`."""
    code = "import sys; from benchmarks.fuzz_seeds import main; sys.exit(main(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(path)]
    subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.DEVNULL)
    with path.open("rb") as file:
        traces: list[Trace] = pickle.load(file)
    return traces


class Recorder:
    """A plugin of pytest that watches the codecs' classes and functions."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []
        self._trace: Trace | None = None
        self._known: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used twice
        self._depth = 0
        self._classes: set[type] = set()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Property tests make too much of the same. All modules are imported by now."""
        items[:] = [item for item in items if not getattr(item.obj, "is_hypothesis_test", False)]
        self._watch()

    def pytest_runtest_setup(self, item: Any) -> None:
        """A trace begins."""
        global _numbers
        _numbers = itertools.count()
        uuid.uuid4 = _uuid4
        self._trace, self._known, self._kept, self._depth = Trace(item.nodeid), {}, [], 0

    def pytest_runtest_teardown(self) -> None:
        """A trace ends. One that cannot be kept is left out."""
        trace, self._trace = self._trace, None
        if trace is not None and trace.calls and len(trace.calls) <= _LONGEST:
            try:
                pickle.dumps(trace)
            except Exception:
                return
            self.traces.append(trace)

    def _watch(self) -> None:
        replaced: dict[int, Any] = {}
        for module in _modules():
            for name, value in list(vars(module).items()):
                if getattr(value, "__module__", None) != module.__name__ or name.startswith("_"):
                    continue
                if inspect.isclass(value) and not _is_data(value):
                    self._classes.add(value)
                elif inspect.isfunction(value):
                    replaced[id(value)] = self._function(value)
        for kind in self._classes:
            self._watch_class(kind)
        for module in list(sys.modules.values()):
            if module is not None and getattr(module, "__name__", "").startswith(("duologue", "tests", "test_")):
                for name, value in list(vars(module).items()):
                    if inspect.isfunction(value) and id(value) in replaced:
                        setattr(module, name, replaced[id(value)])

    def _watch_class(self, kind: type) -> None:
        name = f"{kind.__module__}:{kind.__qualname__}"
        init = kind.__init__  # type: ignore[misc]
        recorder = self

        def __init__(this: Any, *args: Any, **kwargs: Any) -> None:
            if type(this) is kind:
                recorder._enter(Call(name, "__init__", None, recorder._number(this), args, kwargs))
            recorder._within(lambda: init(this, *args, **kwargs))

        kind.__init__ = __init__  # type: ignore[misc]
        for method, value in list(vars(kind).items()):
            if inspect.isfunction(value) and not method.startswith("_"):
                setattr(kind, method, self._method(name, method, value))

    def _method(self, name: str, method: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(this: Any, *args: Any, **kwargs: Any) -> Any:
            on = self._known.get(id(this))
            made: Call | None = None
            if on is not None:
                made = self._enter(Call(name, method, on, None, args, kwargs))
            result = self._within(lambda: function(this, *args, **kwargs))
            if made is not None and type(result) in self._classes and id(result) not in self._known:
                made.made = self._number(result, force=True)
            return result

        return call

    def _function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._enter(Call(f"{function.__module__}:{function.__name__}", function.__name__, None, None, args, kwargs))
            return self._within(lambda: function(*args, **kwargs))

        return call

    def _number(self, this: Any, *, force: bool = False) -> int | None:
        if self._trace is None or (self._depth and not force):
            return None
        self._kept.append(this)
        return self._known.setdefault(id(this), len(self._kept))

    def _enter(self, call: Call) -> Call | None:
        if self._trace is None or self._depth:
            return None
        args = call.args
        if call.method in _TAKES and args and isinstance(args[0], str | bytes):
            call.data, args = args[0], args[1:]
        try:
            call.args = tuple(self._freeze(value) for value in args)
            call.kwargs = {name: self._freeze(value) for name, value in call.kwargs.items()}
        except Exception:
            return None
        self._trace.calls.append(call)
        return call

    def _within(self, work: Callable[[], Any]) -> Any:
        self._depth += 1
        try:
            return work()
        finally:
            self._depth -= 1

    def _freeze(self, value: Any) -> Any:
        if isinstance(value, _PRIMITIVE):
            return value
        if (number := self._known.get(id(value))) is not None:
            return Ref(number)
        if isinstance(value, types.FunctionType | types.MethodType | types.BuiltinFunctionType):
            return Nothing()
        if type(value) in (list, tuple):
            return type(value)(self._freeze(item) for item in value)
        if isinstance(value, Mapping):
            return {key: self._freeze(item) for key, item in value.items()}
        return copy.deepcopy(value)


def _modules() -> list[types.ModuleType]:
    import duologue.wire

    found = [
        importlib.import_module(info.name)
        for info in pkgutil.walk_packages(duologue.wire.__path__, "duologue.wire.")
        if not info.ispkg
    ]
    paths = [part.rstrip("/").removesuffix(".py").replace("/", ".") for part in CODECS.values()]
    return [module for module in found if any(module.__name__.startswith(path) for path in paths)]


def _is_data(kind: type) -> bool:
    bases = (msgspec.Struct, tuple, BaseException)
    return issubclass(kind, bases) or hasattr(kind, "__members__") or getattr(kind, "_is_protocol", False)


def main(path: str) -> int:
    """Record, and write what there is to `path`."""
    import pytest

    recorder = Recorder()
    code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", str(_ROOT / "tests" / "wire")], plugins=[recorder])
    with Path(path).open("wb") as file:
        pickle.dump([*recorder.traces, _signed_requests(), _tool_schemas()], file)
    return int(code)
