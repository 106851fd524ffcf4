"""The Strands dialect, server side: clients of a Strands bidirectional agent speak with a Duologue session.

Two generations of the vocabulary, told apart by the client's first message: `experimental` (package
``strands.experimental.bidi`` to v1.40) and `stable` (``strands.bidi``, v1.62). JSON only, audio in base64.
"""

from duologue.wire.strands.server import FromStrands, Generation, StrandsServer

__all__ = ["FromStrands", "Generation", "StrandsServer"]
