"""What the README prints runs as printed, without a key."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)


def test_the_agent_and_the_program_of_the_readme_run(tmp_path: Path) -> None:
    agent, program, *_ = _snippets()
    assert "agent = Agent(" in agent
    script = tmp_path / "app.py"
    script.write_text(f"{agent}\n{program}", "utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 Harbour Street, Oslo" in done.stdout


def test_every_file_that_the_readme_links_exists() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
