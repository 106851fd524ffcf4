"""What the repository promises about itself: pins, licences, packaging."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEVELS = ("core", "local", "all", "dev")


def pins(level: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{level}.txt").read_text().splitlines()
    return {found[1]: found[2] for line in lines if (found := re.match(r"([A-Za-z0-9._-]+)==(\S+)", line))}


@pytest.mark.parametrize("level", LEVELS)
def test_pins_carry_hashes_and_no_address(level: str) -> None:
    text = (ROOT / "requirements" / f"{level}.txt").read_text()
    assert not re.search(r"://|file:|--index|--find|--extra", text)
    requirements = re.split(r"\n(?=[A-Za-z0-9])", text.split("\n", 1)[1])
    assert len(requirements) == len(pins(level)) > 10
    assert all("--hash=sha256:" in requirement for requirement in requirements)


def test_levels_agree_with_each_other() -> None:
    everything = pins("dev")
    for smaller, larger in (("core", "local"), ("local", "all"), ("all", "dev")):
        assert pins(smaller).items() <= pins(larger).items() <= everything.items()


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {level: set(pins(level)) for level in LEVELS}
    extras = project["optional-dependencies"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\[<>=;\s]", requirement)[0] for requirement in requirements} - {"duologue"}

    assert names(project["dependencies"]) <= pinned["core"]
    assert names(extras["local"]) <= pinned["local"]
    for extra in re.findall(r"[a-z-]+", extras["all"][0].partition("[")[2]):
        assert names(extras[extra]) <= pinned["all"]


def test_every_pinned_package_has_its_licence_on_the_page() -> None:
    listed = set(re.findall(r"`([a-z0-9._-]+)`", (ROOT / "docs" / "licences.md").read_text()))
    assert sorted(set(pins("dev")) - listed) == []
