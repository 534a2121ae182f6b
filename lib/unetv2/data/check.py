"""Data check (in work)."""

__all__ = ["require"]


def require(source, cache):
    """Nothing yet."""
