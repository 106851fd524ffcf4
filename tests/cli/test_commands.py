"""Commands as a user types them: what they print, and how they exit."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from duologue.cli import doctor as checks
from duologue.cli import main
from duologue.cli.reload import end, snapshot
from duologue.cli.talk import free_port
from duologue.speech import weights
from tests.channels.soundcards import FakeSound
from tests.cli.agents import FACTORY, SCRIPTED

type Out = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("NO_COLOR", "1")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    logging.getLogger("duologue").handlers.clear()
    logging.getLogger("duologue").setLevel(logging.NOTSET)


@pytest.fixture
def app(tmp_path: Path) -> str:
    (tmp_path / "app.py").write_text(SCRIPTED)
    return str(tmp_path / "app.py")


def run(*arguments: str, lines: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with lines on its standard input."""
    command = [sys.executable, "-m", "duologue.cli", *arguments]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=100, cwd=cwd, check=False)


# ---------------------------------------------------------------------- the command line itself


def test_help_lists_every_command_with_what_it_does(capsys: Out) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("talk", "serve", "call", "init", "demo", "doctor", "devices", "models", "replay", "bench"):
        assert f" {name} " in shown
    assert "Talk to an agent" in shown


@pytest.mark.parametrize("command", ["talk", "serve", "call", "init", "demo", "doctor", "devices", "replay", "bench"])
def test_every_command_has_help(command: str, capsys: Out) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: duologue" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys: Out) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == importlib.metadata.version("duologue")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tlak", "app.py"], "talk"),
        (["serve", "app.py", "--prot", "1"], "--port"),
        (["talk"], "APP"),
        (["serve", "app.py", "--port", "many"], "many"),
        (["models", "pull", "smart-turn-v4"], "smart-turn-v3"),
        (["talk", "nothing.py"], "There is no file nothing.py"),
        (["talk", "app.py", "--text", "--microphone"], "exclude each other"),
        (["talk", "app.py", "--out", "a.wav"], "--out needs a call here"),
        (["talk", "app.py", "--text", "--journal", "no/where.jsonl"], "no directory"),
        (["talk", "app.py", "--file", "nothing.wav"], "nothing.wav cannot be read"),
        (["serve", "app.py", "--host", "0.0.0.0"], "--no-auth"),
        (["call", "http://localhost:8080"], "no WebSocket address"),
        (["replay", "nothing.jsonl"], "no file nothing.jsonl"),
    ],
)
def test_what_cannot_work_is_said_and_exits_with_2(arguments: list[str], said: str, app: str, capsys: Out) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
    assert "Traceback" not in shown.out + shown.err


def test_an_error_is_one_line_and_its_traceback_is_in_the_debug_log(capsys: Out) -> None:
    assert main(["talk", "nothing.py"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["talk", "nothing.py", "--log-level", "debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


# ---------------------------------------------------------------------- talk


def test_typed_lines_are_answered_and_journaled_and_replay(app: str, tmp_path: Path, capsys: Out) -> None:
    done = run("talk", app, "--text", "--journal", "call.jsonl", lines="one\ntwo\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    spoken = [line.strip() for line in done.stdout.splitlines() if not line.strip().startswith("·")]
    assert spoken == [
        "agent  Hi.",
        "you  one",
        "agent  You said one.",
        "you  two",
        "agent  You said two.",
    ]
    assert main(["replay", "call.jsonl"]) == 0
    assert "The same decisions came again" in capsys.readouterr().out


def test_a_factory_is_told_the_channel(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(FACTORY)
    done = run("talk", "app.py", "--text", lines="hello\n", cwd=tmp_path)
    assert "agent  console: hello" in done.stdout, done.stderr


def test_a_call_that_fails_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SCRIPTED.replace('f"You said {text}."', "no_such_name"))
    done = run("talk", "app.py", "--text", lines="hello\n", cwd=tmp_path)
    assert done.returncode == 1
    assert "The call failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_the_call_and_flushes_the_journal(app: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "duologue.cli", "talk", app, "--text", "--journal", "call.jsonl"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdin.write("hello\n")
        process.stdin.flush()
        shown = ""
        while "You said hello." not in shown:
            line = process.stdout.readline()
            assert line, shown
            shown += line
        process.send_signal(signal.SIGINT)
        shown += process.stdout.read()
        assert process.wait(30) == 130
    assert "the call has ended" in shown
    kinds = [json.loads(line)["record"] for line in (tmp_path / "call.jsonl").read_text().splitlines()]
    assert kinds[-1]["event"]["type"] == "session.ended"


def test_on_a_terminal_lines_are_shown_as_they_come_and_the_terminal_is_restored(app: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "duologue.cli", "talk", app, "--text"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        shown = ""
        for said, typed in (("Hi.", "hello\n"), ("You said hello.", "\x03"), ("has ended", "")):
            while said not in shown:
                shown += os.read(ours, 4096).decode()
            os.write(ours, typed.encode())
        assert process.wait(30) == 130
    assert termios.tcgetattr(theirs) == before
    assert "you  hello" not in shown  # what was typed stands there already
    os.close(ours)
    os.close(theirs)


def test_the_talk_page_is_served_and_ctrl_c_ends_it(app: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "duologue.cli", "talk", app, "--no-browser", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = process.stderr.readline().split()[1]
        assert httpx.get(f"{url}/ping").json()["status"] == "Healthy"
        assert "<html" in httpx.get(url).text.lower()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_a_taken_port_gives_way_to_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert free_port(taken.getsockname()[1]) == 0
    assert free_port(0) == 0


# ---------------------------------------------------------------------- serve and call


class Served:
    """`duologue serve` in a process of its own."""

    def __init__(self, tmp_path: Path, app: str, *options: str) -> None:
        command = [sys.executable, "-m", "duologue.cli", "serve", app, "--port", "0", *options]
        self.process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("http"):
                return line.partition("clients: ")[2].strip().rstrip(")")
        raise AssertionError("The server did not start.")

    def __exit__(self, *exc: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 130
        assert self.process.stderr is not None
        self.process.stderr.close()


def test_a_served_agent_is_called_with_typed_lines(app: str, tmp_path: Path) -> None:
    with Served(tmp_path, app, "--key", "secret", "--journal", "calls.sqlite") as url:
        refused = run("call", url, lines="hello\n", cwd=tmp_path)
        assert refused.returncode == 1
        assert "key" in refused.stderr
        done = run("call", url, "--key", "secret", lines="hello\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "agent  You said hello." in done.stdout
    listed = run("replay", "calls.sqlite", cwd=tmp_path).stdout.split()
    assert listed
    again = run("replay", "calls.sqlite", "--session", listed[0], cwd=tmp_path)
    assert again.returncode == 0, again.stdout
    assert run("replay", "calls.sqlite", "--session", "s-none", cwd=tmp_path).returncode == 2


def test_a_server_that_is_not_there(capsys: Out) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main(["call", f"ws://127.0.0.1:{port}/ws"]) == 1
    assert "Is the server running" in capsys.readouterr().err


def test_reload_starts_anew_when_a_file_changes_even_after_a_syntax_error(app: str, tmp_path: Path) -> None:
    port = str(_any_port())
    command = [sys.executable, "-m", "duologue.cli", "serve", app, "--port", port, "--reload"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        try:
            _until(lines, f":{port}")
            Path(app).write_text("def broken(:\n")
            _until(lines, "app.py changed")
            _until(lines, "line 1")
            _until(lines, "starts again when a file changes")
            Path(app).write_text(SCRIPTED + "\n")
            _until(lines, f":{port}")
            assert httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def _any_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _until(lines: Iterator[str], text: str) -> None:
    seen = []
    for line in lines:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"{text!r} was not said: {seen}")


def test_the_watcher_sees_the_users_files_and_no_others(tmp_path: Path) -> None:
    for name in ("app.py", "shop/voice.py", ".env", "notes.txt", ".git/hook.py", "env/lib/x.py", "__pycache__/y.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    assert {str(path.relative_to(tmp_path)) for path in snapshot(tmp_path)} == {"app.py", "shop/voice.py", ".env"}
    before = snapshot(tmp_path)
    os.utime(tmp_path / "app.py", ns=(1, 1))
    assert snapshot(tmp_path) != before


def test_a_process_that_will_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duologue.cli.reload._GRACE_S", 0.2)
    code = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end(process)
        assert process.returncode == -signal.SIGKILL


# ---------------------------------------------------------------------- init, replay, models, devices, doctor, bench


def test_init_writes_an_agent_once(tmp_path: Path, capsys: Out) -> None:
    assert main(["init", "mine"]) == 0
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [".env.example", "README.md", "app.py"]
    (tmp_path / "mine" / "app.py").write_text("my own")
    assert main(["init", "mine"]) == 2
    assert (tmp_path / "mine" / "app.py").read_text() == "my own"
    assert "already" in capsys.readouterr().err


def test_a_journal_that_decides_otherwise_is_told_apart(app: str, tmp_path: Path, capsys: Out) -> None:
    run("talk", app, "--text", "--journal", "call.jsonl", lines="one\n", cwd=tmp_path)
    text = (tmp_path / "call.jsonl").read_text()
    assert '"reason":"typed"' in text
    (tmp_path / "call.jsonl").write_text(
        text.replace('"do":"commit","reason":"typed"', '"do":"commit","reason":"other"', 1)
    )
    assert main(["replay", "call.jsonl"]) == 1
    assert "decision 1 differs" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["not json\n", '{"seq":0,"epoch":1,"record":{"kind":"what"}}\n', ""])
def test_what_is_no_journal_is_refused(text: str, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    assert main(["replay", "x.jsonl"]) == 2
    assert "x.jsonl" in capsys.readouterr().err or not text or "what" in text


def test_weights_are_listed_and_pulled_from_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    content = b"weights"
    file = weights.WeightFile(
        name="w.onnx",
        url="https://example.invalid/w.onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
    )
    monkeypatch.setitem(weights.KNOWN, "tiny", weights.Weights(about="For tests", licence="MIT", files=(file,)))
    monkeypatch.setenv("DUOLOGUE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "w.onnx").write_bytes(content)
    assert main(["models", "list"]) == 0
    assert "For tests" in capsys.readouterr().out
    assert main(["models", "pull", "tiny", "--source", str(tmp_path)]) == 0
    assert (tmp_path / "cache" / "weights" / "tiny" / "w.onnx").read_bytes() == content
    (tmp_path / "w.onnx").write_bytes(b"something else")
    (tmp_path / "cache" / "weights" / "tiny" / "w.onnx").unlink()
    assert main(["models", "pull", "tiny", "--source", str(tmp_path)]) == 2
    assert "SHA-256" in capsys.readouterr().err


def test_devices_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    monkeypatch.setattr("duologue.channels.soundcard._import", FakeSound)
    assert main(["devices"]) == 0
    shown = capsys.readouterr().out
    assert "USB Headset" in shown
    assert "Built-in Microphone" in shown
    monkeypatch.setattr("duologue.channels.soundcard._import", lambda: FakeSound(devices=[], default=(-1, -1)))
    assert main(["devices"]) == 2
    assert "no sound devices" in capsys.readouterr().err


def test_the_doctor_looks_at_everything(capsys: Out) -> None:
    code = main(["doctor"])
    shown = capsys.readouterr().out
    for title in ("This machine", "Packages", "Local speech", "Language models", "Sound", "Network"):
        assert title in shown
    assert code == (1 if "✗" in shown else 0)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_installed", lambda package: package != "onnxruntime")
    (local,) = [finding for finding in checks.extras() if finding.what.startswith("local:")]
    assert local.state == "missing"
    assert "onnxruntime" in local.what
    assert local.fix == 'pip install "duologue[local]"'


@pytest.mark.parametrize(
    ("system", "machine", "libc", "mac", "says"),
    [
        ("Linux", "x86_64", ("glibc", "2.36"), "", None),
        ("Linux", "x86_64", ("glibc", "2.31"), "", "needs glibc 2.34"),
        ("Linux", "x86_64", ("", ""), "", "another C library"),
        ("Linux", "riscv64", ("glibc", "2.39"), "", "none for riscv64"),
        ("Darwin", "arm64", ("", ""), "15.2", None),
        ("Darwin", "x86_64", ("", ""), "14.1", "Apple silicon"),
        ("Windows", "amd64", ("", ""), "", None),
    ],
)
def test_where_local_speech_runs(
    system: str, machine: str, libc: tuple[str, str], mac: str, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.libc_ver", lambda: libc)
    monkeypatch.setattr("platform.mac_ver", lambda: (mac, ("", "", ""), ""))
    why = checks.speech_problem()
    assert (why is None) == (says is None)
    assert says is None or says in str(why)


@pytest.mark.parametrize(("sample", "says"), [(0, "perfect silence"), (7, "hears"), (None, "delivers nothing")])
def test_the_doctor_hears_whether_the_microphone_may_be_used(sample: int | None, says: str) -> None:
    from duologue.channels.soundcard import SoundCard

    api = FakeSound()
    card = SoundCard(api)
    opened = card.open

    def speaking(*args: object, **options: object) -> object:
        stream = opened(*args, **options)  # type: ignore[arg-type]
        speak = stream.finished if sample is None else lambda: stream.capture(bytes([sample, 0]) * 16_000)
        stream.start = threading.Thread(target=speak).start
        return stream

    card.open = speaking  # type: ignore[method-assign]
    assert says in checks.hear(card).what


def test_bench_outside_a_checkout_says_where_they_are(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    monkeypatch.setattr("duologue.cli.bench._checkout", list)
    assert main(["bench"]) == 2
    assert "make bench" in capsys.readouterr().err
