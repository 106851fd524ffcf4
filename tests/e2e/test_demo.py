"""The main job, as a newcomer runs it: two calls of other seeds, held in real time, then listened to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from duologue.demo.script import DEFAULT_SEED, script
from tests.e2e.call_checks import check_audio, check_journal, listen

SEEDS = (7, 13)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_call_of_another_seed(seed: int, tmp_path: Path) -> None:
    assert seed != DEFAULT_SEED
    out = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "duologue.cli", "demo", "--seed", str(seed), "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(done.stdout)  # with the latencies, for whoever reads the log
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().splitlines()
    assert "phrase matcher" in lines[0]
    assert 'Cascade.local(llm="' in lines[0]
    assert "voice to voice: median" in lines[-1]
    assert "barge-in" in lines[-1]
    assert "✂ not heard:" in " ".join(done.stdout.split())
    part = script(seed)
    call = listen(out / "call.wav", part)
    check_audio(call)
    check_journal(call, out / "call.jsonl")
    page = (out / "call.html").read_text("utf-8")
    assert "data:audio/mpeg;base64," in page
    assert page.count('<svg class="row"') == -int(-call.length // 10)
