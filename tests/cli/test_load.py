"""Finding the user's agent, and saying what is wrong with their file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue import Agent
from duologue.cli.env import load_env, parse_env
from duologue.cli.load import AppError, load, source_of
from duologue.errors import ConfigurationError
from tests.cli.agents import FACTORY, SCRIPTED


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_an_agent_in_a_file(tmp_path: Path) -> None:
    assert isinstance(load(write(tmp_path / "app.py", SCRIPTED)), Agent)
    assert source_of(str(tmp_path / "app.py")) == tmp_path / "app.py"


def test_a_named_agent_and_one_in_a_module(tmp_path: Path) -> None:
    write(tmp_path / "shop" / "__init__.py", "")
    write(tmp_path / "shop" / "voice.py", SCRIPTED.replace("agent =", "clerk ="))
    assert isinstance(load(f"{tmp_path / 'shop' / 'voice.py'}:clerk"), Agent)
    assert isinstance(load("shop.voice:clerk"), Agent)
    assert isinstance(load("shop.voice"), Agent)  # the only one there is


def test_a_factory(tmp_path: Path) -> None:
    factory = load(write(tmp_path / "app.py", FACTORY))
    assert callable(factory)
    assert not isinstance(factory, Agent)


def test_files_beside_the_app_can_be_imported_whatever_the_app_is_called(tmp_path: Path) -> None:
    write(tmp_path / "apart" / "prices.py", "EURO = 3")
    for name in ("calendar.py", "my-app.py"):
        path = write(tmp_path / "apart" / name, f"import prices\nassert prices.EURO == 3\n{SCRIPTED}")
        assert isinstance(load(path), Agent)
    assert "my-app" not in sys.modules
    assert sys.modules.get("calendar") is None or "apart" not in str(sys.modules["calendar"].__file__)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x = 1", r"has no 'agent'\. Write `agent = Agent"),
        (f"{SCRIPTED}\nagent, one, two = None, agent, agent", r"2 agents, none of them.*app\.py:one, .*app\.py:two"),
        ("async def make(call):\n    pass", r"Name one: .*app\.py:make"),
        ("agent = 3", "is a int, not an agent"),
        ("class agent: pass", "not an agent"),
        ("async def agent():\n    pass", "takes a CallInfo"),
        ("x = 1\ndef f(:\n    pass", r"app\.py, line 2: invalid syntax\n    def f\(:\n"),
        ("x = 1\n\nprint(undefined)", r"app\.py, line 3: NameError: name 'undefined'.*\n    print\(undefined\)"),
        ("import no_such_package_here", r"pip install no_such_package_here"),
        (
            "from duologue import Agent\nagent = Agent(\n    modle=1,\n)",
            r"app\.py, line 2: Agent has no option 'modle'.*'model'",
        ),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_what_is_wrong_is_said_with_the_users_line(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(AppError, match=match):
        load(write(tmp_path / "app.py", text))


def test_an_error_deep_in_a_library_shows_the_line_of_the_app(tmp_path: Path) -> None:
    write(tmp_path / "helper.py", "def fail():\n    raise ValueError('no')\n")
    with pytest.raises(AppError, match=r"app\.py, line 2: ValueError: no\n    fail\(\)"):
        load(write(tmp_path / "app.py", "from helper import fail\nfail()\n"))


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="`duologue init` writes one"):
        load("app.py")
    write(tmp_path / "main.py", SCRIPTED)
    with pytest.raises(AppError, match=r"Here is main\.py"):
        load("app.py")
    with pytest.raises(AppError, match="There is no module nowhere"):
        load("nowhere:agent")
    with pytest.raises(AppError, match=r"has no 'clerk'\. Name one: .*main\.py:agent"):
        load("main.py:clerk")


def test_env_files_fill_in_what_the_environment_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DUO_ONE", "DUO_TWO", "DUO_THREE"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setenv("DUO_ONE", "environment")
    write(tmp_path / "app" / ".env", "DUO_ONE=app\nDUO_TWO=app\n")
    write(tmp_path / ".env", "DUO_TWO=here\nDUO_THREE=here\n")
    assert load_env(tmp_path / "app") == [tmp_path / "app" / ".env", tmp_path / ".env"]
    assert [os.environ[name] for name in ("DUO_ONE", "DUO_TWO", "DUO_THREE")] == ["environment", "app", "here"]


def test_env_lines() -> None:
    text = (
        "\ufeff# keys\n\nA=1\nexport B = two words # why\nC='as $it is # here' # c\n"
        'D="a\\n\\"b\\" \\x"\nE=\nF=# none\nG=a#b\n'
    )
    assert parse_env(text) == {
        "A": "1",
        "B": "two words",
        "C": "as $it is # here",
        "D": 'a\n"b" \\x',
        "E": "",
        "F": "",
        "G": "a#b",
    }


@pytest.mark.parametrize("line", ["just words", "1A=2", "A='open", 'A="open', "=x"])
def test_a_line_that_cannot_be_read_is_named_and_not_shown(line: str) -> None:
    with pytest.raises(ConfigurationError, match="line 2") as caught:
        parse_env(f"A=1\n{line}\n")
    assert line not in str(caught.value)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True),
        st.text(st.characters(codec="ascii", exclude_characters="'\n\r\v\f\x1c\x1d\x1e")),
    )
)
def test_quoted_values_come_back_as_they_are(values: dict[str, str]) -> None:
    assert parse_env("\n".join(f"{name}='{value}'" for name, value in values.items())) == values


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    refused = False
    try:
        parse_env(text)
    except ConfigurationError:
        refused = True
    assert not refused or text.strip()
