"""``duologue devices``: microphones and loudspeakers."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ..channels.soundcard import SoundCard
from ..errors import MissingDependencyError


def devices() -> int:
    """List sound devices. Numbers and names are what --input-device and --output-device take."""
    found = SoundCard().devices()
    if not found:
        raise MissingDependencyError(
            "This machine shows no sound devices.",
            hint="`duologue doctor` says more; `duologue talk` in the browser, --file and --text need none.",
        )
    table = Table("", "name", "in", "out", "Hz", "system", box=None, pad_edge=False)
    for device in found:
        chosen = f"{'microphone ' if device.default_input else ''}{'loudspeaker' if device.default_output else ''}"
        ways = (str(count) if count else "" for count in (device.inputs, device.outputs))
        table.add_row(str(device.number), device.name, *ways, str(device.rate), f"{device.host} {chosen}".strip())
    Console().print(table)
    return 0
