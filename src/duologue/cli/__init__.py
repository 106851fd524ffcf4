"""The command `duologue`. Commands wire up what the library does; none holds logic of its own."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from ..errors import DuologueError
from .terminal import CallFailedError, prepare, report, set_log_level

#: exit codes: a call that failed; what cannot work as it was asked for; Ctrl+C
FAILED, WRONG, INTERRUPTED = 1, 2, 130

Level = Literal["debug", "info", "warning", "error"]

#: where each command lives (it is imported when it is used), and what it does
_COMMANDS = {
    "talk": ("talk:talk", "Talk to an agent: in the browser, at the sound card, over files, in text."),
    "serve": ("serve:serve", "Serve an agent to browsers, phones and programs."),
    "call": ("call:call", "Call a served agent, with a recording or typed lines."),
    "host": ("host:host", "Host many agents, with authentication, isolation and limits."),
    "deploy": ("deploy:deploy", "Deploy an agent to a host."),
    "invoke": ("invoke:invoke", "Invoke a hosted agent."),
    "sessions": ("sessions:app", "Sessions of a host: list, show, tail, drain and stop them."),
    "versions": ("versions:versions", "Agents of a host and their versions."),
    "rollback": ("versions:rollback", "Go back to an earlier version of an agent."),
    "keys": ("keys:app", "Keys of a host's clients, and secrets of its agents."),
    "init": ("init:init", "Write an agent that runs, to begin with."),
    "demo": ("demo:demo", "Hear a scripted caller phone an agent."),
    "doctor": ("doctor:doctor", "Say what this machine lacks, and how to get it."),
    "devices": ("devices:devices", "List microphones and loudspeakers."),
    "models": ("models:app", "Weights of speech models: list and pull them."),
    "replay": ("replay:replay", "Check that a recorded call is decided the same again."),
    "bench": ("bench:bench", "Run the benchmarks, in a checkout of the source."),
}


def _version() -> str:
    return importlib.metadata.version("duologue")


app = App(
    name="duologue",
    help="Full-duplex voice agents: they listen while they speak, stop when interrupted, remember what was heard.",
    version=_version,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    exit_on_error=False,
    print_error=True,
    result_action="return_value",
)
for _order, (_name, (_where, _what)) in enumerate(_COMMANDS.items()):
    app.command(f"duologue.cli.{_where}", name=_name, help=_what, sort_key=_order)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    log_level: Annotated[
        Level, Parameter(env_var="DUOLOGUE_LOG", help="Show what happens inside, on standard error.")
    ] = "warning",
) -> object:
    set_log_level(log_level)
    return app(tokens)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: it worked; 1: a call or a check failed; 2: it cannot work as it was asked for; 130: Ctrl+C.
    """
    prepare()
    app.meta.help_format = "plaintext"
    try:
        result = app.meta(sys.argv[1:] if arguments is None else arguments)
    except CycloptsError:
        return WRONG  # cyclopts has said what is wrong
    except CallFailedError as error:
        report(error)
        return FAILED
    except DuologueError as error:
        report(error)
        return WRONG
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else WRONG if end.code else 0
    return result if isinstance(result, int) else 0
