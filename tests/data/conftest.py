"""The net for what a reader does not foresee is off in these tests, so that mistakes are seen."""

import contextlib

import pytest

from lconv_jax.data.sources import registry


@pytest.fixture(autouse=True)
def _nothing_is_unforeseen(monkeypatch):
    monkeypatch.setattr(registry, "unforeseen", lambda name: contextlib.nullcontext())
