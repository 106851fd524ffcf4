"""What a conversation was like: one record a turn, and everything else from it. Nothing here is on the audio path."""

from duologue.telemetry.export import Exporter, ExportQueue
from duologue.telemetry.record import POINTS, BargeIn, Reason, ToolRun, TurnBuilder, TurnRecord, Waterfall
from duologue.telemetry.render import waterfall
from duologue.telemetry.spread import Spread, Summary, percentile, summary
from duologue.telemetry.watchdog import Stall, StallWatchdog

__all__ = [
    "POINTS",
    "BargeIn",
    "ExportQueue",
    "Exporter",
    "Reason",
    "Spread",
    "Stall",
    "StallWatchdog",
    "Summary",
    "ToolRun",
    "TurnBuilder",
    "TurnRecord",
    "Waterfall",
    "percentile",
    "summary",
    "waterfall",
]
