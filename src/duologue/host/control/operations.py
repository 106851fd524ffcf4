"""The control API as a table: every operation, what it takes and gives, and which role it wants.

The application serves this table and nothing else, and the published OpenAPI description is made of it, so that neither can
say what the other does not. ``x-duologue-role`` names the role; ``public`` operations want no credential.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from starlette.responses import Response

from ..types import Role
from .arn import invalid

if TYPE_CHECKING:
    from .context import Context

#: answers an operation: a Response, or a struct that becomes JSON
type Handler = Callable[[Context], Awaitable[Response | msgspec.Struct]]
Method = Literal["GET", "POST", "PUT", "DELETE"]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error. Its name is in `type` and in the header x-amzn-ErrorType."""

    message: str
    type: str = ""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """It was done; `count`: to how many."""

    count: int = 1


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A query parameter, or one of the path. `schema` is JSON Schema of its text."""

    name: str
    about: str
    schema: dict[str, Any]

    def check(self, given: Sequence[str]) -> None:
        """Raise HostError 400 for values that the schema does not take; whole numbers are checked where they are read."""
        if len(given) > 1:
            raise invalid(f"{self.name} is given {len(given)} times.")
        schema = self.schema
        for text in given:
            if (
                len(text) > schema.get("maxLength", len(text))
                or ("pattern" in schema and not re.search(schema["pattern"].removesuffix("$") + r"\Z", text))
                or text not in schema.get("enum", (text,))
            ):
                known = f"It is one of {', '.join(schema['enum'])}." if "enum" in schema else ""
                raise invalid(f"{self.name} cannot be {text[:80]!r}.", known)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation.

    Attributes:
        role: which role it wants ("": none, it is public), on the runtime that `agent` in the path names (`scope` "agent"), on
            all ("tenant"), or on what the handler finds ("later"). `own_role` does for what is the principal's own.
        body: the struct that its JSON body is; None: it takes none. `upload`: media types of a body of bytes instead.
        answer: the struct that it gives with `status`; None: nothing, or a `stream` of that media type.
        errors: statuses that it may answer beside those that all may.
    """

    id: str
    method: Method
    path: str
    role: Role | Literal[""]
    about: str
    handler: Handler
    scope: Literal["tenant", "agent", "later"] = "tenant"
    own_role: Role | Literal[""] = ""
    body: Any = None
    body_optional: bool = False
    upload: tuple[str, ...] = ()
    answer: Any = None
    status: int = 200
    stream: tuple[str, ...] = ()
    query: tuple[Parameter, ...] = ()
    errors: tuple[int, ...] = ()


_NAME: dict[str, Any] = {"type": "string", "pattern": "^[a-zA-Z][a-zA-Z0-9_-]{0,58}$"}
_SESSION: dict[str, Any] = {"type": "string", "pattern": "^[a-zA-Z0-9][a-zA-Z0-9_-]{32,255}$"}
_NUMBER: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 99999}
#: schemas of path parameters
PATH: dict[str, dict[str, Any]] = {
    "agent": _NAME,
    "agentRuntimeId": _NAME,
    "endpoint": {"type": "string", "pattern": "^[a-zA-Z][a-zA-Z0-9_]{0,47}$"},
    "endpointName": {"type": "string", "pattern": "^[a-zA-Z][a-zA-Z0-9_]{0,47}$"},
    "version": _NUMBER,
    "session": _SESSION,
    "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "key": {"type": "string", "pattern": "^[A-Za-z0-9]{1,64}$"},
    "name": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_.-]{0,127}$"},
}
TENANT = Parameter(
    name="tenant",
    about="Whose; the credential's own unless given. On the Unix socket, the host's own account unless given.",
    schema={"type": "string", "pattern": "^[0-9]{12}$"},
)
AGENT = Parameter(name="agent", about="Only of this agent, by name or id.", schema=_NAME)
LIMIT = Parameter(
    name="limit", about="Rows at most; 100 unless given.", schema={"type": "integer", "minimum": 1, "maximum": 1000}
)
AFTER = Parameter(
    name="after",
    about="Go on after this row: `next` of the answer before.",
    schema={"type": "string", "maxLength": 512},
)
#: statuses that every operation may answer, and what they mean
COMMON = {
    400: "The request cannot be meant.",
    401: "No credential, or one that is not good.",
    403: "The credential may not do this.",
    404: "It is not there.",
    421: "This listener has another name.",
    500: "The host failed.",
    503: "The host is shutting down, or a part of it is gone.",
}
_ERRORS = {
    408: "The body took too long to arrive.",
    409: "It cannot be done as things stand.",
    411: "The length of the body must be given.",
    413: "It is too large.",
    415: "The body has another media type.",
    424: "The agent failed.",
    429: "There is no capacity; try again later.",
    502: "The agent ended in mid-answer.",
}


def matcher(path: str) -> re.Pattern[str]:
    """A pattern for `path`; its parameters are groups, and match within one segment.

    No session's id is as short as the words that stand in its place in other paths.
    """

    def parameter(found: re.Match[str]) -> str:
        return f"(?P<{found[1]}>[^/]{'{33,}' if found[1] == 'session' else '+'})"

    return re.compile(re.sub(r"\\\{(\w+)\\\}", parameter, re.escape(path)) + r"\Z")


def describe(operations: Sequence[Operation], *, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 description of `operations`."""
    types = {kind for op in operations for kind in (op.body, op.answer) if kind is not None} | {Problem}
    ordered = sorted(types, key=lambda kind: str(getattr(kind, "__name__", kind)))
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    named = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for op in operations:
        paths.setdefault(op.path, {})[op.method.lower()] = _operation(op, named)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Duologue host: control API", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key."},
                "sigv4": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "AWS Signature Version 4, service bedrock-agentcore.",
                },
            },
        },
        "security": [{"key": []}, {"sigv4": []}],
    }


def _operation(op: Operation, named: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": PATH[name]}
        for name in re.findall(r"\{(\w+)\}", op.path)
    ]
    query = (*op.query, TENANT) if op.role else op.query
    parameters += [
        {"name": entry.name, "in": "query", "required": False, "description": entry.about, "schema": entry.schema}
        for entry in query
    ]
    good: dict[str, Any] = {"description": "It was done."}
    content = {kind: {"schema": {"type": "string"}} for kind in op.stream}
    if op.answer is not None:
        content["application/json"] = {"schema": named[op.answer]}
    if content:
        good["content"] = content
    problem = {"application/json": {"schema": named[Problem]}}
    errors = {**COMMON, **{status: _ERRORS[status] for status in op.errors}}
    if op.body is not None or op.upload:
        errors |= {status: _ERRORS[status] for status in (413, 415)}
    found: dict[str, Any] = {
        "operationId": op.id,
        "summary": op.about,
        "parameters": parameters,
        "responses": {
            str(op.status): good,
            **{str(status): {"description": text, "content": problem} for status, text in sorted(errors.items())},
        },
        "x-duologue-role": op.role or "public",
        "x-duologue-scope": op.scope,
    }
    if op.own_role:
        found["x-duologue-own-role"] = op.own_role
    if not op.role:
        found["security"] = []
    if op.body is not None:
        body = {"application/json": {"schema": named[op.body]}}
        found["requestBody"] = {"required": not op.body_optional, "content": body}
    elif op.upload:
        raw = {"schema": {"type": "string", "format": "binary"}}
        found["requestBody"] = {"required": True, "content": dict.fromkeys(op.upload, raw)}
    return found
