"""Commands in processes of their own, which need not import everything again.

Importing JAX and its friends takes a process longer than most of what tests ask of a command.
`start` forks it from a server that has imported them and has asked JAX for no device yet. What a
process is like as it begins and ends, `subprocess` has to show: nothing that is registered with
`atexit` runs here. It compiles as the test does that starts it, see `conftest.py`.
"""

import contextlib
import multiprocessing
import os
import pathlib
import runpy
import signal
import sys
import tempfile

import jax

ROOT = pathlib.Path(__file__).parent.parent
OPTIMIZATIONS = "jax_disable_most_optimizations"
_IMPORTED = [
    *("tests.processes", "lconv_jax.sweep", "lconv_jax.describe", "lconv_jax.shorten"),
    *("matplotlib.backends.backend_agg", "matplotlib.image", "sklearn.datasets"),
]


class Command:
    """`python -m MODULE ARGUMENTS` as it runs; the methods are those of `subprocess.Popen`."""

    def __init__(self, module, arguments, platform, environ):
        self._folder = tempfile.TemporaryDirectory()
        self._said = [pathlib.Path(self._folder.name, name) for name in ("out", "err")]
        for file in self._said:
            file.touch()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
        arguments = [os.fspath(argument) for argument in arguments]
        settings = {OPTIMIZATIONS: jax.config.values[OPTIMIZATIONS]}
        if platform is not None:
            settings["jax_platforms"] = platform
        given = module, arguments, self._said, settings, environ or {}
        self._process = context.Process(target=_run, args=given)
        self._process.start()

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode

    def communicate(self):
        """Standard output and standard error, once the process has ended."""
        self.wait()
        return tuple(file.read_text("utf-8") for file in self._said)

    def send_signal(self, number):
        if self.poll() is None:  # else its number may be another process's by now
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def start(module, *arguments, platform=None, environ=None):
    """Starts `python -m MODULE ARGUMENTS` in the folder of the repository.

    Args:
      module, arguments: of the command.
      platform: of JAX; what the machine offers, if None.
      environ: variables that the process has beside those of this one. JAX has read its own before.
    """
    return Command(module, arguments, platform, environ)


def run(module, *arguments, **options):
    """(exit status, standard output, standard error) of a command that `start` starts."""
    command = start(module, *arguments, **options)
    out, err = command.communicate()
    return command.returncode, out, err


def _run(module, arguments, said, settings, environ):
    for number, file in zip((1, 2), said, strict=True):
        there = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(there, number)
        os.close(there)
    os.chdir(ROOT)
    os.environ.update(environ)
    for name, value in settings.items():
        jax.config.update(name, value)
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)  # runpy warns of a module that was imported
    runpy.run_module(module, run_name="__main__", alter_sys=True)
