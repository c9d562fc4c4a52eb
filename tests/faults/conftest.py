"""Faults are tested against the same running gateway as the data plane."""

from tests.proxy.conftest import start

__all__ = ["start"]
