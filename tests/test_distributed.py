"""Two real processes over the loopback train together as one does."""

import contextlib
import json
import signal
import socket
import threading
import time

import jax
import numpy as np
import pytest

from lconv_jax.config import ConfigError
from lconv_jax.parallel import distributed, rendezvous
from lconv_jax.rundir import metrics
from tests import processes, two_processes
from tests.helpers import final_digests


def _free_port():
    with socket.socket() as one:
        one.bind(("", 0))
        return one.getsockname()[1]


def _start(*arguments):
    return processes.start(*arguments, platform="cpu")


@contextlib.contextmanager
def _two(make_arguments):
    """Two processes of a command; killed at the end, should they still be there."""
    both = [_start(*make_arguments(process_id)) for process_id in range(2)]
    try:
        yield both
    finally:
        for process in both:
            process.kill()


def _ends(both):
    """(exit status, standard output, standard error) of both."""
    said = [process.communicate() for process in both]
    return [(process.returncode, *each) for process, each in zip(both, said, strict=True)]


def _command(workdir, port, *overrides):
    def arguments(process_id):
        return [
            "lconv_jax.main",
            "--config=tests/tiny_config.py",
            f"--workdir={workdir}",
            f"--coordinator_address=localhost:{port}",
            "--num_processes=2",
            f"--process_id={process_id}",
            *overrides,
        ]

    return arguments


@pytest.mark.slow
def test_in_float64_two_processes_compute_what_one_does(tmp_path):
    port = _free_port()
    with _two(lambda index: ["tests.two_processes", str(port), str(index), str(tmp_path)]) as both:
        ends = _ends(both)
    assert [status for status, _, _ in ends] == [0, 0], ends
    with jax.enable_x64(True):
        want, digests = two_processes.losses_and_digests(1, 1)
    found = json.loads((tmp_path / "found.json").read_text())
    for losses, theirs in found.values():
        assert len(losses) == 44
        np.testing.assert_allclose(losses, want, rtol=1e-8)
        # What is split between processes is digested whole.
        assert theirs == digests


@pytest.mark.slow
@pytest.mark.optimized
def test_a_signal_to_one_process_stops_both_and_one_goes_on_alone(tmp_path):
    """With the weights split between the processes, and saved by both."""
    # Wide enough for its matrices to be split; long enough to be stopped on its way.
    overrides = "--config.model.alpha=64", "--config.sharding.model=2", "--config.train.epochs=30"
    with _two(_command(tmp_path, _free_port(), *overrides)) as both:
        while not list((tmp_path / "checkpoints").glob("[0-9]*[0-9]")):
            assert all(process.poll() is None for process in both), _ends(both)
            time.sleep(0.01)
        both[1].send_signal(signal.SIGTERM)
        ends = _ends(both)
    assert [status for status, _, _ in ends] == [128 + signal.SIGTERM] * 2, ends
    assert "SIGTERM: saved at step" in ends[0][2]
    step, _ = final_digests(tmp_path)
    assert f"saved at step {step};" in ends[0][2]
    lines = metrics.read_metrics(tmp_path)
    assert lines[-1]["step"] == step
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1

    alone = _start(
        *("lconv_jax.main", "--config=tests/tiny_config.py", f"--workdir={tmp_path}"),
        *(overrides[0], overrides[2]),
    )
    out, err = alone.communicate()
    assert alone.returncode == 0, err
    assert "test accuracy: 0.9" in out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["resumed_at_step"] == step
    assert [line["step"] for line in metrics.read_metrics(tmp_path) if "train/loss" in line] == [
        *range(1, 331)
    ]


@pytest.mark.slow
def test_one_that_cannot_run_is_refused_by_both(tmp_path):
    def arguments(process_id):
        seed = f"--config.seed={process_id}"
        return [*_command(tmp_path / "new", port)(process_id), seed]

    port = _free_port()
    with _two(arguments) as both:
        ends = _ends(both)
    for status, _, err in ends:
        assert status == 1
        assert "error: process 1 has another configuration or data than process 0" in err
        assert "Traceback" not in err
    assert not (tmp_path / "new").exists()


def _meet(*calls, timeout=20.0):
    """The errors of processes that meet, each (num_processes, process_id); None: they met."""
    port, errors = _free_port(), [None] * len(calls)

    def come(index):
        try:
            rendezvous.meet(f"localhost:{port}", *calls[index], timeout)
        except ConfigError as error:
            errors[index] = str(error)

    threads = [threading.Thread(target=come, args=(index,)) for index in range(len(calls))]
    for thread in reversed(threads):  # those that call come before the one that listens
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_three_processes_meet():
    assert _meet((3, 0), (3, 1), (3, 2)) == [None] * 3


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        ([(2, 0), (3, 1)], "process 1 was started with --num_processes=3, process 0 with"),
        ([(3, 0), (3, 1), (3, 1)], "two processes were started with --process_id=1"),
    ],
)
def test_processes_that_contradict_each_other_all_hear_of_it(calls, says):
    for error in _meet(*calls):
        assert says in error


def test_a_process_that_does_not_come_is_named():
    first, other = _meet((4, 0), (4, 2), timeout=1.0)
    assert first == other == "process 1, 3 did not come within 1 s"


def test_a_caller_that_says_nothing_is_not_waited_for():
    port, errors = _free_port(), []

    def listen():
        try:
            rendezvous.meet(f"localhost:{port}", 2, 0, 5.0)
        except ConfigError as error:
            errors.append(str(error))

    process_0 = threading.Thread(target=listen)
    process_0.start()
    with socket.socket() as stranger:
        while stranger.connect_ex(("localhost", port)):
            time.sleep(0.01)
        rendezvous.meet(f"localhost:{port}", 2, 1, 5.0)
        process_0.join()
    assert errors == []


def test_a_caller_that_speaks_slowly_is_not_waited_for():
    ours, theirs = socket.socketpair()
    over = threading.Event()

    def trickle():
        while not over.wait(0.02):
            theirs.send(b"1")

    speaking = threading.Thread(target=trickle)
    speaking.start()
    try:
        with pytest.raises(TimeoutError):
            rendezvous._receive(ours, 0.2)
    finally:
        over.set()
        speaking.join()


def test_without_process_0_nobody_answers():
    (error,) = _meet((2, 1), timeout=0.5)
    assert "process 0 did not answer there within 0.5 s" in error


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("localhost:1", None, 0), "give all three flags or none of them"),
        (("localhost", 2, 0), "must be host:port"),
        (("localhost:1", 0, 0), "--num_processes=0 must be ≥ 1"),
        (("localhost:1", 2, 2), "--process_id=2 must be in 0 … 1"),
    ],
)
def test_flags_that_cannot_be_are_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        distributed.initialize(*given)
    with pytest.raises(ConfigError, match="leave out"):
        distributed.initialize(*given, detect=True)


def test_one_process_is_no_special_case():
    distributed.initialize()
    assert distributed.is_first()
    assert distributed.gather_texts("λ") == ["λ"]
    assert distributed.highest(3, 0.5) == (3, 0.5)
    with pytest.raises(OSError, match="gone"):
        distributed.together(lambda: (_ for _ in ()).throw(OSError("gone")))
