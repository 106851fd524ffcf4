"""The gateway: the host's public listener. It authenticates, admits, and carries bytes to workers."""

from .counters import Counters
from .gateway import Gateway
from .limits import GatewayLimits, GatewayOptions

__all__ = ["Counters", "Gateway", "GatewayLimits", "GatewayOptions"]
