"""schemathesis holds the control API to its published description, in process, with a key over what counts as TLS."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from duologue.host.control.api import OPERATIONS, ControlAPI
from duologue.host.control.operations import Operation
from duologue.host.types import ROLES

from .parts import TENANT, Plane, plane


@contextlib.contextmanager
def running(folder: Any) -> Iterator[tuple[asyncio.AbstractEventLoop, Plane]]:
    """A plane on a loop of its own, in a thread."""
    loop, ready, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    made: list[Plane] = []

    async def serve() -> None:
        async with plane(folder) as one:
            one.deployed()
            made.append(one)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    try:
        yield loop, made[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running(tmp_path_factory.mktemp("described")) as (loop, made):

        async def app(scope: Any, receive: Any, send: Any) -> None:
            """Each call comes on a loop of the caller's: carry it to the plane's, whole."""
            if scope["type"] != "http":
                return
            body = b""
            while (message := await receive()).get("more_body", False):
                body += message.get("body", b"")
            body += message.get("body", b"")
            answer: list[Any] = []

            async def there() -> None:
                pending = [{"type": "http.request", "body": body}]

                async def receive_there() -> Any:
                    return pending.pop() if pending else {"type": "http.disconnect"}

                async def send_there(message: Any) -> None:
                    answer.append(message)

                await ControlAPI(made.control, peers=False, tls=True)(scope, receive_there, send_there)

            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there(), loop))
            for message in answer:
                await send(message)

        key = made.key(*ROLES)
        found = schemathesis.openapi.from_asgi("/openapi.json", app=app, headers={"host": "localhost"})
        found.config.update(headers={"authorization": f"Bearer {key}", "host": "localhost"})
        yield found
        made.audit.flush()
        assert made.audit.verify(TENANT).holds


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_answers_keep_the_description(described: Any, operation: Operation, mode: GenerationMode) -> None:
    cases = described[operation.path][operation.method.lower()].as_strategy(generation_mode=mode)

    @given(cases)
    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def check(case: schemathesis.Case) -> None:
        # What is well-formed may still be refused: an archive with another hash, a token that was not given out. Who is
        # let in is the authority matrix's; here every call carries the key.
        case.call_and_validate(excluded_checks=[positive_data_acceptance, ignored_auth])

    try:
        check()
    except Unsatisfiable:
        # nothing can be wrong with a request that has no parameters and no body
        assert mode is GenerationMode.NEGATIVE
