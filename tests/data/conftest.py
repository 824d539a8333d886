"""The net for what a reader does not foresee is off in these tests, so that mistakes are seen."""

import contextlib

import pytest

from lconv_jax.data import sources


@pytest.fixture(autouse=True)
def _nothing_is_unforeseen(monkeypatch):
    monkeypatch.setattr(sources, "unforeseen", lambda name: contextlib.nullcontext())
