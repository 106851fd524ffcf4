"""Pure state machines of a conversation: no I/O, no clock, no tasks.

Facts with timestamps go in, actions and a next deadline come out. Whoever drives them (the session) owns time and sockets;
whoever replays a journal feeds the same facts and gets the same actions.
"""
