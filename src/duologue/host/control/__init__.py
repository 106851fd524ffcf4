"""The control plane: which runtimes, versions and endpoints there are, how they come to be, and which worker has a session.

:mod:`.directory` keeps the rows, :mod:`.deploy` makes versions of archives, :mod:`.placement` gives sessions to workers,
:mod:`.rpc` carries its face to gateways in other processes, :mod:`.api` is the control API.
"""
