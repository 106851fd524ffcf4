"""Wire protocols as pure codecs with a state machine a side: bytes and times in, typed messages and bytes out."""
