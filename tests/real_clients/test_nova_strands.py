"""The bidirectional agent of strands-agents, unmodified, talks to our server as if it were Amazon's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real_clients.nova_server import KEY, SECRET

NAME = "bedrock-runtime.us-east-1.amazonaws.com"
ROOT = Path(__file__).parents[2]


def _namespaces() -> bool:
    """Whether a process may have a network and a hosts file of its own."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    tried = subprocess.run(["unshare", "--mount", "--net", "ip", "link", "set", "lo", "up"], capture_output=True)
    return tried.returncode == 0


@pytest.mark.skipif(not _namespaces(), reason="needs namespaces: root, unshare and ip")
def test_an_unmodified_strands_agent(tmp_path: Path) -> None:
    pytest.importorskip("strands.bidi")
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {NAME}\n")
    script = (
        f"ip link set lo up && mount --bind {hosts} /etc/hosts && "
        f"exec {sys.executable} -m tests.real_clients.strands_nova {tmp_path} {NAME}"
    )
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    assert line is not None, done.stderr[-3000:]
    seen = json.loads(line.removeprefix("RESULT "))
    types = seen["types"]
    assert seen["audio"] > 10
    assert "bidi_barge_in" in types
    assert "bidi_tool_use_blocks" in types
    said = [text for role, text in seen["transcripts"] if role == "user"]
    assert said == ["tell me a story", "stop please", "what is the weather"]
    answers = [text for role, text in seen["transcripts"] if role == "assistant"]
    assert any(text.startswith("This is sentence number 1") for text in answers)
    assert "You said stop please." in answers
    assert "rain in Oslo" in answers[-1]
    assert seen["history"][:2] == ["My name is Ada.", "Hello Ada."]
