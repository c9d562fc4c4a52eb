"""Pointsman, a multi-model routing gateway.

`core` decides and does nothing else; `proxy` moves bytes; `app` wires the two; `cli` is the command `pointsman`.
"""

__version__ = "0.1.0"
