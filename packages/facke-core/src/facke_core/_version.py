"""The version of facke-core; all five packages have the same."""

from __future__ import annotations

__version__ = "0.1.0"
