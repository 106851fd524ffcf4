"""``duologue keys``: credentials of a host's clients, and secrets of its agents."""

from __future__ import annotations

import sys
from getpass import getpass
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from ..errors import ConfigurationError
from .control import HERE, Where, connected, show_table, when
from .terminal import run, say

app = App(
    name="keys",
    help="Keys of a host's clients: create, list and revoke them; secrets of its agents.",
    help_format="plaintext",
)

_Role = Literal["invoke", "observe", "deploy", "admin"]


@app.command
def create(
    *,
    role: Annotated[tuple[_Role, ...], Parameter(negative=())] = ("invoke",),
    agent: str = "*",
    kind: Literal["api", "access"] = "api",
    subject: str = "",
    label: str = "",
    for_users: Annotated[bool, Parameter(negative=())] = False,
    expires_days: float = 0.0,
    where: Where = HERE,
) -> int:
    """Create a key and print it: it is not shown again.

    Parameters
    ----------
    role
        What it may do; may be repeated.
    agent
        On which agent (default: all).
    kind
        api is a bearer token; access is an access key for AWS SDKs, printed as their environment variables.
    subject
        Who it speaks for; keys of one subject share their sessions.
    label
        For people.
    for_users
        Let it act for users that it names.
    expires_days
        Days that it is good (default: until it is revoked).
    """
    body: dict[str, Any] = {
        "kind": kind,
        "roles": list(role),
        "agent": agent,
        "subject": subject,
        "label": label,
        "for_users": for_users,
        "expires_s": expires_days * 86_400,
    }
    return run(_create(where, body))


async def _create(where: Where, body: dict[str, Any]) -> int:
    async with connected(where) as host:
        made = await host.ask("POST", "/keys", body=body)
    if made["key"]["kind"] == "access":
        print(f"AWS_ACCESS_KEY_ID={made['key']['id']}\nAWS_SECRET_ACCESS_KEY={made['secret']}")
    else:
        print(made["secret"])
    say(f"Key {made['key']['id']} of {made['key']['subject']}; it is not shown again.", "dim")
    return 0


@app.command(name="list")
def list_keys(*, where: Where = HERE) -> int:
    """List keys, without what they open."""
    return run(_list(where))


async def _list(where: Where) -> int:
    async with connected(where) as host:
        found = await host.ask("GET", "/keys")
    rows = [
        (
            row["id"],
            row["kind"],
            row["subject"],
            ", ".join(
                grant["role"] if grant.get("runtime", "*") == "*" else f"{grant['role']}:{grant['runtime']}"
                for grant in row["grants"]
            ),
            "revoked" if row["revoked"] else when(row["expires"]) or "for good",
            when(row["created"]),
            row["label"],
        )
        for row in found["keys"]
    ]
    show_table(("key", "kind", "subject", "roles", "good until", "created", ""), rows, empty="There are no keys.")
    return 0


@app.command
def revoke(key: str, /, *, where: Where = HERE) -> int:
    """End a key for good, from the next request on.

    Parameters
    ----------
    key
        Its id, as `duologue keys list` shows it.
    """
    return run(_revoke(where, key))


async def _revoke(where: Where, key: str) -> int:
    async with connected(where) as host:
        await host.ask("DELETE", f"/keys/{key}")
    say(f"Key {key} is revoked.")
    return 0


@app.command
def secret(name: str, /, *, delete: Annotated[bool, Parameter(negative=())] = False, where: Where = HERE) -> int:
    """Write a secret of agents; its value is read from standard input, and cannot be read back.

    Parameters
    ----------
    name
        What agents ask for it by.
    delete
        Erase it instead.
    """
    value = "" if delete else _value(name)
    return run(_secret(where, name, value, delete))


def _value(name: str) -> str:
    """What is typed, unseen, or comes from a file or pipe."""
    value = getpass(f"Value of {name}: ") if sys.stdin.isatty() else sys.stdin.read().removesuffix("\n")
    if not value:
        raise ConfigurationError(f"The secret {name} would be empty.", hint="Write its value to standard input.")
    return value


async def _secret(where: Where, name: str, value: str, delete: bool) -> int:
    async with connected(where) as host:
        if delete:
            await host.ask("DELETE", f"/secrets/{name}")
        else:
            await host.ask("PUT", f"/secrets/{name}", body={"value": value})
    say(f"Secret {name} is {'erased' if delete else 'written; sessions that start from now on get it'}.")
    return 0


@app.command
def secrets(*, where: Where = HERE) -> int:
    """List the names of secrets."""
    return run(_secrets(where))


async def _secrets(where: Where) -> int:
    async with connected(where) as host:
        found = await host.ask("GET", "/secrets")
    show_table(("secret", "written"), [(row["name"], when(row["updated"])) for row in found["secrets"]],
               empty="There are no secrets.")  # fmt: skip
    return 0
