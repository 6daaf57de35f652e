"""The version of facke-core; all five packages have the same."""

__version__ = "0.1.0"
