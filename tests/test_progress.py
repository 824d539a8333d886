"""Signs of life are for a person who looks, and a run does not depend on one."""

import sys

import pytest

from lconv_jax.terminal import progress
from lconv_jax.terminal.progress import make_progress

LAST = {"train/loss": 1.0, "sparsity/density": 0.5}


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
    with make_progress("a run", 20, 10) as show:
        for step in range(20):
            show(step, LAST, False)


@pytest.fixture
def clock(monkeypatch):
    """What the time is, which the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_the_run_is_named_before_its_first_step(capsys):
    with make_progress("s_fc on digits", 20, 10):
        assert capsys.readouterr().err == "s_fc on digits\n"


def test_without_a_terminal_there_is_an_estimate_and_a_line_an_evaluation(capsys, clock):
    with make_progress("a run", 1000, 10) as show:
        clock[0] = 60.0  # of compilation, which is no part of the estimate
        show(1, LAST, False)
        for step in range(2, 12):
            clock[0] += 1.0
            show(step, LAST, False)
        clock[0] = 60.0 + 199.0
        show(200, LAST | {"eval/accuracy": 0.75}, True)
        clock[0] = 60.0 + 999.0
        show(1000, LAST | {"validation/accuracy": 0.5}, True)
    assert capsys.readouterr().err.splitlines() == [
        "a run",
        "about 17 min to go, by the first 3 steps",
        "epoch 20 of 100  loss 1.000  density 50.0%  test 75.00%  13 min to go",
        "epoch 100 of 100  loss 1.000  density 50.0%  validation 50.00%",
    ]


@pytest.mark.filterwarnings("error")
def test_a_notebook_without_widgets_gets_lines(capsys, monkeypatch, clock):
    # There Rich's bar is a warning at each update.
    monkeypatch.setattr(progress.console, "_is_jupyter", lambda: True)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    with make_progress("a run", 20, 10) as show:
        show(10, LAST, True)
    said = capsys.readouterr().err.splitlines()
    assert said == ["a run", "epoch 1 of 2  loss 1.000  density 50.0%"]


def test_other_processes_than_the_first_are_silent(capsys, monkeypatch):
    monkeypatch.setattr(progress.distributed, "is_first", lambda: False)
    with make_progress("a run", 20, 10) as show:
        show(20, LAST, True)
    assert not capsys.readouterr().err
