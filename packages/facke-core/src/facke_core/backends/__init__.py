"""Generators computed by other runtimes: graphs, ONNX Runtime, OpenVINO, and the choice of one.

Nothing here is imported by a pipeline that computes with torch. ``docs/backends.md`` has numbers.
"""

from __future__ import annotations
