"""Workers: the processes in which agents run. `Fleet` is what the rest of the host sees of them."""

from .capacity import Capacity
from .fleet import Fleet
from .options import FleetOptions
from .worker import Probe, Worker, WorkerExit

__all__ = ["Capacity", "Fleet", "FleetOptions", "Probe", "Worker", "WorkerExit"]
