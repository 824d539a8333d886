"""The line of progress is for a person who looks, and a run does not depend on one."""

import sys

from lconv_jax.terminal.progress import make_progress


class _Gone:
    """A terminal that was closed."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def write(self, text):
        raise OSError(5, "Input/output error")

    flush = fileno = lambda self: self.write("")


def test_a_terminal_that_is_gone_ends_no_run(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", _Gone())
    with make_progress(20, 10) as show:
        for step in range(20):
            show(step, {"train/loss": 1.0, "sparsity/density": 0.5})
