"""The one seam to inference threads: lanes, handles, priorities, and a virtual form for tests."""

from duologue.compute.base import Compute, Cost, Handle, ItemStream, LaneStats, Priority, SupersededError
from duologue.compute.threads import ThreadCompute, shared
from duologue.compute.virtual import VirtualCompute

__all__ = [
    "Compute",
    "Cost",
    "Handle",
    "ItemStream",
    "LaneStats",
    "Priority",
    "SupersededError",
    "ThreadCompute",
    "VirtualCompute",
    "shared",
]
