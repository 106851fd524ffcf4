"""The main job, as a newcomer runs it: two calls of other seeds, held in real time, then listened to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from duologue.demo.script import DEFAULT_SEED, script
from tests.e2e.call_checks import check_audio, check_journal, listen

SEEDS = (7, 13)


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, tuple[subprocess.Popen[str], Path]]]:
    """Both calls, held at the same time: each leaves most of a core idle."""
    started = {}
    for seed in SEEDS:
        out = tmp_path_factory.mktemp(f"demo{seed}")
        command = [sys.executable, "-m", "duologue.cli", "demo", "--seed", str(seed), "--out", str(out)]
        # To a file: a pipe that nobody reads yet would fill up and stop the call.
        with (out / "terminal.txt").open("w") as terminal:
            started[seed] = (subprocess.Popen(command, stdout=terminal, stderr=subprocess.STDOUT, text=True), out)
    yield started
    for process, _ in started.values():
        if process.poll() is None:
            process.kill()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_call_of_another_seed(seed: int, demos: dict[int, tuple[subprocess.Popen[str], Path]]) -> None:
    assert seed != DEFAULT_SEED
    process, out = demos[seed]
    code = process.wait(timeout=300)
    stdout = (out / "terminal.txt").read_text("utf-8")
    print(stdout)  # with the latencies, for whoever reads the log
    assert code == 0, stdout
    lines = stdout.strip().splitlines()
    assert "phrase matcher" in lines[0]
    assert 'Cascade.local(llm="' in lines[0]
    assert "voice to voice: median" in lines[-1]
    assert "barge-in" in lines[-1]
    assert "✂ not heard:" in " ".join(stdout.split())
    part = script(seed)
    call = listen(out / "call.wav", part)
    check_audio(call)
    check_journal(call, out / "call.jsonl")
    page = (out / "call.html").read_text("utf-8")
    assert "data:audio/mpeg;base64," in page
    assert page.count('<svg class="row"') == -int(-call.length // 10)
