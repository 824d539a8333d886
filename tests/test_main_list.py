"""`python -m lconv_jax` lists the commands that there are, and runs them."""

import pathlib
import subprocess
import sys

import pytest

import lconv_jax
from lconv_jax import __main__ as listed

ROOT = pathlib.Path(lconv_jax.__file__).parent


def test_every_command_is_listed_with_what_it_does():
    """A command is what ends in `commands.launch` or `runs.command`, or prints when it is run."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in ROOT.rglob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    modules -= {"__main__", "mdl.untrusted"}  # the latter is run by `predict` in a child
    experiments = {f"experiments.{name}" for name in listed.EXPERIMENTS}
    makers = {name for name in modules if name.startswith("data.make_")}
    assert modules == {*listed.COMMANDS, *experiments} | makers
    lines = listed.listing().splitlines()
    for name in (*listed.COMMANDS, *listed.EXPERIMENTS):
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert len(line.split()) > 3
        assert len(line) <= 120


@pytest.mark.slow
def test_a_reader_that_has_gone_away_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "lconv_jax"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


@pytest.mark.slow
def test_a_command_is_run_with_its_own_arguments():
    command = [sys.executable, "-m", "lconv_jax"]
    run = subprocess.run([*command, "predict"], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "one file is needed: python -m lconv_jax.predict" in run.stderr + run.stdout


@pytest.mark.parametrize(
    ("given", "message"), [("predic", "did you mean predict?"), ("xyz", "no command 'xyz'")]
)
def test_a_command_that_is_not_there(given, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lconv_jax", given])
    with pytest.raises(SystemExit, match=message):
        listed.main()
