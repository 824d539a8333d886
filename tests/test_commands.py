"""Flags, errors in one line, and output whose reader has gone away."""

import os
import signal
import subprocess
import sys

import jax
import pytest
from absl import flags

from lconv_jax import describe, errors, export, main, predict, shorten, sweep
from lconv_jax.errors import ConfigError
from lconv_jax.host.signals import STOPPING, deferred_signals
from lconv_jax.parallel import distributed
from lconv_jax.terminal import commands
from lconv_jax.terminal.ending import run_errors_in_a_line
from tests import processes

COMMANDS = (main, sweep, describe, export, predict, shorten)
OWN = {"config", "workdir", "grid", "out", "split", "step", "depth"}


def _python(program, **options):
    return subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, timeout=120, **options
    )


def test_importing_the_commands_defines_no_flag():
    assert len(COMMANDS) == 6
    assert not OWN & set(flags.FLAGS)


def test_help_shows_every_flag_of_a_command_and_of_those_it_calls():
    _, text, _ = processes.run("lconv_jax.sweep", "--help")
    wanted = (
        "config",
        "workdir",
        "compilation_cache",
        "grid",
        "seeds",
        "together",
        "num_processes",
    )
    assert [name for name in wanted if f"\n  --{name}: " not in text] == []


def test_a_flag_that_is_missing_is_asked_for():
    status, _, err = processes.run("lconv_jax.main", "--config=configs/sfc_fashion_mnist.py")
    assert status != 0
    assert err.splitlines()[-1].startswith("error: --workdir is needed")


@pytest.mark.parametrize(
    "argument", ["--config.optimizer.lr=1", "-config.optimizer.lr", "--noconfig.optimizer.lr"]
)
def test_an_unknown_key_is_named_with_the_nearest(argument):
    with pytest.raises(
        SystemExit,
        match=r"config.optimizer.lr is not a key; did you mean config.optimizer.learning_r",
    ):
        commands.parse_flags(["main", argument])


def test_keys_in_a_file_of_flags_are_checked_too(tmp_path):
    (tmp_path / "flags").write_text("--config.train.epoch=3\n")
    with pytest.raises(
        SystemExit, match=r"train.epoch is not a key; did you mean .*train.epochs\?"
    ):
        commands.parse_flags(["main", f"--flagfile={tmp_path / 'flags'}"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no file '{file}'"),
        ("def get_config(:\n", "{file}, line 1: invalid syntax"),
        ("import absent_module\n", "{file}, line 1: ModuleNotFoundError: No module named"),
        ("\ndef get_config():\n    return absent\n", "{file}, line 3: NameError: name 'absent'"),
        ("def get_config():\n    open('absent')\n", "{file}, line 2: FileNotFoundError: "),
        ("def get_config():\n    return {}['a']\n", "{file}, line 2: KeyError: 'a'"),
        ("def get_config():\n    return {}\n", "get_config of {file} returns dict"),
        ("def get_config(one): ...\n", "{file}: TypeError: get_config"),
        ("value = 3\n", "{file} has no function get_config"),
    ],
)
def test_a_configuration_file_that_does_not_load_is_told_in_one_line(text, says, tmp_path):
    file = tmp_path / "config.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        commands._ConfigFile().parse(str(file))
    message = str(caught.value)
    assert message.startswith(says.format(file=file))
    assert "\n" not in message


def test_a_configuration_file_is_called_with_its_argument():
    config = commands._ConfigFile().parse("configs/sfc_fashion_mnist.py:sgd")
    assert config.optimizer.name == "sgd"
    assert config.is_locked


@pytest.mark.parametrize("guard", [commands.errors_in_a_line, run_errors_in_a_line])
@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ValueError("a is b"), "error: a is b", ""),
        (OSError("no space"), None, "error: no space"),
        (MemoryError("8 GiB"), None, "error: there is not enough memory (8 GiB)"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes"),
            None,
            "(RESOURCE_EXHAUSTED: 9 b",
        ),
        (jax.errors.JaxRuntimeError("INTERNAL: Out of memory allocating 9 b"), None, "9 b)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_user_can_mend_ends_a_command_with_a_line(guard, error, status, says, capsys):
    with pytest.raises(SystemExit) as caught, guard():
        raise error
    code = caught.value.code
    assert code not in (0, None)
    assert status is None or code == status
    assert says in f"{code}{capsys.readouterr().err}"


def test_another_error_of_jax_is_not_taken_for_want_of_memory():
    with pytest.raises(jax.errors.JaxRuntimeError), run_errors_in_a_line():
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


def test_a_platform_that_is_not_there_is_named(monkeypatch):
    def devices():
        raise RuntimeError("Unable to initialize backend 'cuda'\nand more")

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(
        ConfigError, match=r"no device with JAX_PLATFORMS=cuda \(Unable to init.*'\);"
    ):
        distributed.initialize()


@pytest.mark.parametrize("port", ["0", "65536", "9" * 20, "http"])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ConfigError, match="must be host:port"):
        distributed.initialize(f"localhost:{port}", 2, 0)


@pytest.mark.slow
def test_what_nobody_reads_is_not_said():
    reader, writer = os.pipe()
    os.close(reader)
    run = _python(
        "from lconv_jax.terminal import commands; commands.say('a'); commands.say('b'); print('c')",
        stdout=writer,
    )
    os.close(writer)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_terminal_that_goes_away_takes_nothing_with_it():
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        guarded = commands._StandardError(stream)
        assert not guarded.isatty()
        guarded.write("a\n")
        guarded.flush()
        assert os.read(reader, 10) == b"a\n"
        os.close(reader)
        for _ in range(3):
            assert guarded.write("b\n" * 10_000) == 20_000
            guarded.flush()


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_output_that_cannot_be_written_is_told_in_a_line():
    with open("/dev/full", "w") as full:
        run = _python(
            "from lconv_jax.terminal import commands\n"
            "with commands.errors_in_a_line(): commands.say('a' * 10000)",
            stdout=full,
        )
    assert run.returncode == 1
    assert run.stderr.startswith("error: standard output cannot be written (No space left")
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_a_summary_that_says_too_little_is_named():
    program = (
        "import sys\n"
        "from absl import flags\n"
        "from lconv_jax import main\n"
        "from lconv_jax.host import cache\n"
        "from lconv_jax.terminal import commands\n"
        "from lconv_jax.training import loop\n"
        "loop.train_and_evaluate = lambda *_: {'metrics': {}}\n"
        "cache.enable = lambda _: None\n"
        "sys.argv = ['main', '--config=tests/tiny_config.py', '--workdir=here']\n"
        "commands.launch(main.main, main.define_flags)"
    )
    run = _python(program)
    assert run.returncode == 1
    assert run.stderr.startswith("error: here/summary.json lacks entries that this command prints")
    assert len(run.stderr.splitlines()) == 1


def test_every_signal_to_stop_is_deferred():
    # After any of them an interrupt is none that waits.
    numbers = [signal.SIGINT, *(set(STOPPING) - {signal.SIGINT})]
    assert {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1} < set(numbers)
    before = [signal.getsignal(number) for number in numbers]
    with deferred_signals() as received:
        for number in numbers:
            signal.raise_signal(number)
        with deferred_signals() as inner:
            assert inner is received
    assert received == numbers
    assert [signal.getsignal(number) for number in numbers] == before
    for number in numbers:
        assert number.name in str(errors.Stopped(number, 3))


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        with deferred_signals() as received:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGUSR1)
        assert received == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_interrupt_comes_at_once():
    with deferred_signals() as received:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert received == [signal.SIGINT]
