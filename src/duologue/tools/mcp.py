"""Tools of an MCP server, over stdio or streamable HTTP, through the official `mcp` package.

A connection lives on the shared tool loop, in a task of its own (its scopes must be entered and left by one task). It
is opened by the first use, and again by the next use after it broke. A call that broke half-way is not repeated: nobody
knows whether the server ran it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from duologue.errors import ConfigurationError, MissingDependencyError, ToolError
from duologue.tools.adapt import tool_from_schema
from duologue.tools.base import RUNNING, Tool
from duologue.tools.threads import shared_threads

if TYPE_CHECKING:
    from mcp.client import Client

logger = logging.getLogger("duologue.tools")

MAX_TOOLS = 512


class MCPServer:
    """One MCP server. Make it with :meth:`stdio` or :meth:`http` and pass it among an agent's tools.

    It may be shared by any number of sessions, which then share its connection.
    """

    def __init__(
        self,
        name: str,
        open_client: Callable[[contextlib.AsyncExitStack], Awaitable[Client]],
        *,
        prefix: str = "",
        include: Sequence[str] | None = None,
        approval: bool | Sequence[str] = False,
        timeout: float = 30.0,
        connect_timeout: float = 15.0,
    ) -> None:
        if timeout <= 0 or connect_timeout <= 0:
            raise ConfigurationError("timeout and connect_timeout must be positive numbers of seconds.")
        if isinstance(include, str) or isinstance(approval, str):
            raise ConfigurationError("include and approval take lists of tool names, not one string.")
        self._name = name
        self._open_client = open_client
        self._prefix = prefix
        self._include = None if include is None else frozenset(include)
        self._approval = approval if isinstance(approval, bool) else frozenset(approval)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._connection: _Connection | None = None
        #: connections opened so far
        self.connections = 0

    @classmethod
    def stdio(
        cls,
        command: str,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        name: str = "",
        prefix: str = "",
        include: Sequence[str] | None = None,
        approval: bool | Sequence[str] = False,
        timeout: float = 30.0,
        connect_timeout: float = 15.0,
    ) -> MCPServer:
        """A server that is started as a child process and spoken to over its stdin and stdout.

        Args:
            command: the program, and `args` for it.
            env: added to the few variables that a child gets by default (PATH, HOME and the like).
            cwd: the directory it is started in.
            name: what errors call it; by default the command.
            prefix: put before the names of its tools, such as `maps_`.
            include: only these of its tools (by their own names).
            approval: whether its tools want approval; True for all, or the names of those that do.
            timeout: seconds a call may take.
            connect_timeout: seconds that starting and listing may take.

        Raises:
            ConfigurationError: an option that cannot work.
        """
        if isinstance(args, str):
            raise ConfigurationError("args is one string.", hint="Pass a list: args=['-m', 'server'].")

        async def open_client(stack: contextlib.AsyncExitStack) -> Client:
            client_class = _client_class()
            from mcp import StdioServerParameters

            parameters = StdioServerParameters(command=command, args=list(args), env=dict(env or {}), cwd=cwd)
            return await stack.enter_async_context(client_class(parameters, read_timeout_seconds=timeout))

        return cls(
            name or command,
            open_client,
            prefix=prefix,
            include=include,
            approval=approval,
            timeout=timeout,
            connect_timeout=connect_timeout,
        )

    @classmethod
    def http(
        cls,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        name: str = "",
        prefix: str = "",
        include: Sequence[str] | None = None,
        approval: bool | Sequence[str] = False,
        timeout: float = 30.0,
        connect_timeout: float = 15.0,
    ) -> MCPServer:
        """A server at an HTTP address (streamable HTTP), such as `https://host/mcp`.

        `headers` go with every request, for instance `{"Authorization": "Bearer ..."}`; with headers, redirects are not
        followed, so that they reach nobody else. The other options are those of :meth:`stdio`.

        Raises:
            ConfigurationError: an option that cannot work.
        """
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"{url!r} is no HTTP address.", hint="Write http://host:port/mcp.")

        async def open_client(stack: contextlib.AsyncExitStack) -> Client:
            client_class = _client_class()
            import httpx2
            from mcp.client.streamable_http import streamable_http_client

            http = await stack.enter_async_context(
                httpx2.AsyncClient(
                    headers=dict(headers or {}),
                    follow_redirects=not headers,
                    timeout=httpx2.Timeout(timeout, read=max(timeout, 300.0)),  # reads wait for server events
                )
            )
            transport = streamable_http_client(url, http_client=http)
            return await stack.enter_async_context(client_class(transport, read_timeout_seconds=timeout))

        return cls(
            name or url,
            open_client,
            prefix=prefix,
            include=include,
            approval=approval,
            timeout=timeout,
            connect_timeout=connect_timeout,
        )

    @property
    def name(self) -> str:
        return self._name

    async def load(self) -> Sequence[Tool]:
        """Connect if needed and list the server's tools.

        Raises:
            ToolError: the server cannot be started or reached in time, or refuses.
            MissingDependencyError: the `mcp` package is not installed.
        """
        listed = await _at_home(self._list)
        if self._include is not None and (missing := self._include - {each.name for each in listed}):
            raise ToolError(
                self._name,
                f"the server has no tool {sorted(missing)[0]!r}.",
                hint=f"It has {', '.join(each.name for each in listed) or 'none'}.",
            )
        return [self._tool(each) for each in listed if self._include is None or each.name in self._include]

    async def aclose(self) -> None:
        """Close the connection and end a server that was started as a child process."""

        async def close() -> None:
            connection, self._connection = self._connection, None
            if connection is not None:
                await connection.aclose()

        await _at_home(close)

    def _tool(self, listed: Any) -> Tool:
        async def run(arguments: dict[str, Any]) -> Any:
            return await _at_home(lambda: self._call(listed.name, arguments))

        read_only = listed.annotations is not None and listed.annotations.read_only_hint is True
        return tool_from_schema(
            self._prefix + listed.name,
            listed.description or listed.title or "",
            listed.input_schema,
            run,
            is_async=True,
            side_effects=not read_only,
            approval=self._approval if isinstance(self._approval, bool) else listed.name in self._approval,
            timeout=self._timeout,
        )

    async def _list(self) -> list[Any]:
        try:
            async with asyncio.timeout(self._connect_timeout):
                client = (await self._connected()).client
                found: list[Any] = []
                cursor: str | None = None
                while len(found) < MAX_TOOLS:
                    page = await client.list_tools(cursor=cursor, cache_mode="bypass")
                    found.extend(page.tools)
                    cursor = page.next_cursor
                    if cursor is None:
                        break
                return found[:MAX_TOOLS]
        except ToolError:
            raise
        except Exception as error:
            await self._drop()
            raise self._unreachable(error) from error

    async def _call(self, tool: str, arguments: dict[str, Any]) -> Any:
        connection = await self._connected()
        running = RUNNING.get()  # reports arrive in the connection's task, which knows of no run

        async def report(progress: float, total: float | None, message: str | None) -> None:
            if message and running is not None:
                running.report(message)

        try:
            result = await connection.client.call_tool(tool, arguments, progress_callback=report)
        except Exception as error:
            if _is_late(error):
                raise ToolError(tool, "the MCP server did not answer in time; whether it ran is not known.") from error
            if not _is_broken(error):
                raise ToolError(tool, f"the MCP server answered with an error: {_words(error)}") from error
            await self._drop()
            raise ToolError(
                tool, f"the connection to the MCP server {self._name!r} broke; whether it ran is not known."
            ) from error
        return _value(tool, result)

    async def _connected(self) -> _Connection:
        """The connection, opened if there is none that works on this loop."""
        loop = asyncio.get_running_loop()
        connection = self._connection
        if connection is None or connection.loop is not loop or connection.ended:
            if connection is not None:
                connection.close_soon()
            connection = self._connection = _Connection(self._open_client, self._connect_timeout)
            self.connections += 1
            logger.debug("connecting to MCP server %s", self._name)
        try:
            await connection.opened()
        except MissingDependencyError:
            raise
        except Exception as error:
            raise self._unreachable(error) from error
        return connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close_soon()

    def _unreachable(self, error: Exception) -> ToolError:
        return ToolError(
            self._name,
            f"the MCP server cannot be reached: {_words(error)}.",
            hint="Check that its command or address is right and that it runs.",
        )


class _Connection:
    """One connection to a server, owned by one task from opening to closing."""

    def __init__(
        self, open_client: Callable[[contextlib.AsyncExitStack], Awaitable[Client]], connect_timeout: float
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.client: Client
        self._opened: asyncio.Future[None] = self.loop.create_future()
        self._closing = asyncio.Event()
        self._task = self.loop.create_task(self._own(open_client, connect_timeout), name="mcp connection")

    @property
    def ended(self) -> bool:
        return self._task.done()

    async def opened(self) -> None:
        await asyncio.shield(self._opened)

    def close_soon(self) -> None:
        self.loop.call_soon_threadsafe(self._closing.set)

    async def aclose(self) -> None:
        self._closing.set()
        await asyncio.wait({self._task})

    async def _own(
        self, open_client: Callable[[contextlib.AsyncExitStack], Awaitable[Client]], connect_timeout: float
    ) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(connect_timeout):
                    self.client = await open_client(stack)
                self._opened.set_result(None)
                await self._closing.wait()
        except BaseException as error:
            if self._opened.done():
                logger.debug("an MCP connection ended with %s", type(error).__name__)
            else:
                cause = _first_cause(error)
                self._opened.set_exception(cause)
                self._opened.exception()  # whoever waits gets it; if nobody does, that is no event of its own
            if not isinstance(error, Exception):
                raise


async def _at_home(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run on the tool loop, where the connections live; directly if this is it."""
    home = shared_threads().loop
    if asyncio.get_running_loop() is home.loop:
        return await function()
    work = home.submit(function)
    try:
        return await asyncio.wrap_future(work.future)
    except asyncio.CancelledError:
        work.abandon()
        raise


def _client_class() -> type[Client]:
    try:
        from mcp.client import Client
    except ImportError as error:
        raise MissingDependencyError(
            "MCP servers need the `mcp` package, version 2 or later.", hint="Install duologue[mcp]."
        ) from error
    return Client


def _is_broken(error: BaseException) -> bool:
    """Whether the link failed, as against the server answering with an error."""
    from mcp import MCPError
    from mcp_types import CONNECTION_CLOSED

    if isinstance(error, BaseExceptionGroup):
        return any(_is_broken(each) for each in error.exceptions)
    if isinstance(error, MCPError):
        return error.error.code == CONNECTION_CLOSED
    return not isinstance(error, (ValueError, RuntimeError, TypeError))


def _is_late(error: BaseException) -> bool:
    """Whether the client has given up waiting, just before the tool's own deadline."""
    from mcp import MCPError
    from mcp_types import REQUEST_TIMEOUT

    return isinstance(error, MCPError) and error.error.code == REQUEST_TIMEOUT


def _first_cause(error: BaseException) -> Exception:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else RuntimeError("the connection was cancelled")


def _words(error: BaseException) -> str:
    cause = _first_cause(error)
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    return str(cause) or type(cause).__name__


def _value(tool: str, result: Any) -> Any:
    """The JSON value of an MCP result: structured content if there is some, else its texts."""
    texts = [
        block.text if block.type == "text" else f"[{block.type} left out: it cannot be spoken]"
        for block in result.content
    ]
    if result.is_error:
        raise ToolError(tool, "\n".join(texts) or "the MCP server reported an error.")
    structured = result.structured_content
    if structured is not None:
        # FastMCP wraps what is no object as {"result": value}
        return structured["result"] if isinstance(structured, dict) and set(structured) == {"result"} else structured
    return "\n".join(texts)
