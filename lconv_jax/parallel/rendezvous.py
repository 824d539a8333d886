"""The processes of a run call the roll before JAX connects them.

JAX's own service ends a process without a Python exception when there are too few, too many or
two of a kind; here each process gets one error with the reason.
"""

from __future__ import annotations

import contextlib
import socket
import time

from lconv_jax.errors import ConfigError

_RETRY_SECONDS = 0.2
# A process of the run sends its number at once. A caller that is silent for longer than this is
# not a process of the run, and is ignored.
_SILENCE_SECONDS = 2.0
_OK = "ok"


def meet(address: str, num_processes: int, process_id: int, timeout: float) -> None:
    """Returns in every process once all have connected and agree on the number of processes.

    Args:
      address: host:port of process 0, which listens there until all have connected.
      num_processes: how many there should be.
      process_id: which of them this is, from 0.
      timeout: seconds to wait for the others.

    Raises:
      ConfigError: in every connected process, if others are missing, or if processes disagree.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    if process_id == 0:
        _call_the_roll(int(port), num_processes, deadline, timeout)
    else:
        _answer((host.strip("[]"), int(port)), num_processes, process_id, deadline, timeout)


def _call_the_roll(port: int, num_processes: int, deadline: float, timeout: float) -> None:
    try:
        server = socket.create_server(("", port))
    except OSError as error:
        raise ConfigError(
            f"--coordinator_address: process 0 cannot listen on port {port} ({error.strerror}); "
            "give another port"
        ) from error
    present: dict[int, socket.socket] = {}
    verdict = _OK
    with server:
        while len(present) < num_processes - 1 and verdict == _OK:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                caller, _ = server.accept()
            except TimeoutError:
                missing = [str(i) for i in range(1, num_processes) if i not in present]
                verdict = f"process {', '.join(missing)} did not come within {timeout:g} s"
                break
            except OSError as error:
                verdict = f"process 0 cannot listen on port {port} ({error.strerror})"
                break
            try:
                number, of = (int(word) for word in _receive(caller, _SILENCE_SECONDS).split())
            except (OSError, ValueError):
                caller.close()  # somebody else
                continue
            if of != num_processes:
                verdict = (
                    f"process {number} was started with --num_processes={of}, "
                    f"process 0 with --num_processes={num_processes}"
                )
            elif number in present or number == 0:
                verdict = f"two processes were started with --process_id={number}"
            # Whoever is refused hears why, too.
            present[number if verdict == _OK else -1] = caller
        for caller in present.values():
            with caller, contextlib.suppress(OSError):  # it may have left
                caller.sendall(f"{verdict}\n".encode())
    if verdict != _OK:
        raise ConfigError(verdict)


def _answer(
    address: tuple[str, int], num_processes: int, process_id: int, deadline: float, timeout: float
) -> None:
    verdict = ""
    while not verdict:
        left = deadline - time.monotonic()
        try:
            with socket.create_connection(address, timeout=max(0.01, left)) as process_0:
                process_0.sendall(f"{process_id} {num_processes}\n".encode())
                # Process 0 may have come later, and so wait for longer.
                verdict = _receive(process_0, max(0.01, left) + timeout).strip()
        except OSError as error:
            if left <= 0:
                raise ConfigError(
                    f"--coordinator_address={address[0]}:{address[1]}: process 0 did not answer "
                    f"there within {timeout:g} s ({error})"
                ) from error
        if not verdict:
            time.sleep(_RETRY_SECONDS)
    if verdict != _OK:
        raise ConfigError(verdict)


def _receive(connection: socket.socket, seconds: float) -> str:
    """A line of text, or a part of one if the other side left.

    Raises:
      TimeoutError: that took longer, however little came at a time.
    """
    deadline, line = time.monotonic() + seconds, b""
    while not line.endswith(b"\n") and len(line) < 1000:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        part = connection.recv(1000)
        if not part:
            break
        line += part
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    return line.decode()
