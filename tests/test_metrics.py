"""Metrics are cut back to the checkpoint that a run goes on from, and to nothing else."""

import logging
import resource

import pytest

from lconv_jax.rundir.metrics import METRICS_FILE, MetricsWriter, read_metrics


@pytest.fixture
def written(tmp_path):
    """Six lines, and what a checkpoint of step 4 keeps of them: (directory, record)."""
    with MetricsWriter(tmp_path, 0) as writer:
        for step in range(1, 7):
            writer.write(step, {"train/loss": 1 / step})
            if step == 4:
                record = writer.record()
    return tmp_path, record


def _change(directory, old, new):
    file = directory / METRICS_FILE
    raw = file.read_bytes()
    assert raw.count(old) == 1
    file.write_bytes(raw.replace(old, new))


def _steps(directory):
    return [line["step"] for line in read_metrics(directory)]


@pytest.mark.parametrize("old", [b'"step": 5,', b'"step": 6', b'}\n{"step": 6'])
def test_damage_after_the_checkpoint_is_cut_away(written, caplog, old):
    directory, record = written
    _change(directory, old, b"\xff")
    with caplog.at_level(logging.WARNING):
        MetricsWriter(directory, 4, record).close()
    assert _steps(directory) == [1, 2, 3, 4]
    assert caplog.text == ""
    assert not (directory / "metrics.jsonl.damaged").exists()


@pytest.mark.parametrize(
    ("old", "new", "left", "says"),
    [
        (b'"step": 2,', b'"step": 2;', [1, 3, 4], "(3 of 4, without line 2)"),
        (b'"step": 2,', b'"stup": 2,', [1, 3, 4], "(3 of 4, without line 2)"),
        (b'"step": 2,', b'"step": 9,', [1, 3, 4], "(3 of 4)"),
        (b"0.5", b"\xff.5", [1, 3, 4], "(3 of 4, without line 2)"),
        (b"0.5", b"0.4", [1, 2, 3, 4], "(4 of 4)"),
        (b'}\n{"step": 3', b'}j{"step": 3', [1, 4], "(2 of 4, without line 2)"),
    ],
)
def test_damage_before_it_is_said_and_the_file_kept(written, caplog, old, new, left, says):
    directory, record = written
    _change(directory, old, new)
    found = (directory / METRICS_FILE).read_bytes()
    with caplog.at_level(logging.WARNING):
        writer = MetricsWriter(directory, 4, record)
    writer.close()
    assert _steps(directory) == left
    assert writer.last["step"] == 4
    assert says in caplog.text
    assert (directory / "metrics.jsonl.damaged").read_bytes() == found


@pytest.mark.parametrize(("lines", "left"), [(2, "2 of 4"), (0, "0 of 4")])
def test_lines_that_are_missing_are_said(written, caplog, lines, left):
    directory, record = written
    file = directory / METRICS_FILE
    if lines:
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:lines]))
    else:
        file.unlink()
    with caplog.at_level(logging.WARNING):
        MetricsWriter(directory, 4, record).close()
    assert f"up to that step ({left})" in caplog.text


@pytest.mark.parametrize("damaged", [True, False])
def test_without_a_record_what_cannot_be_read_is_said(written, caplog, damaged):
    directory, _ = written
    if damaged:
        _change(directory, b"0.5", b"0,5")
    with caplog.at_level(logging.WARNING):
        MetricsWriter(directory, 4).close()
    assert _steps(directory) == ([1, 3, 4] if damaged else [1, 2, 3, 4])
    assert ("without line 2" in caplog.text) == damaged


def test_reading_names_the_file_and_the_line(written):
    directory, _ = written
    with open(directory / METRICS_FILE, "a") as file:
        file.write('{"step": 7, "tr')  # what a kill leaves
    assert _steps(directory) == [1, 2, 3, 4, 5, 6]
    _change(directory, b'"step": 3,', b'"step": 3')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 3 is damaged"):
        read_metrics(directory)


def test_a_full_disk_is_told_at_once_and_by_name(tmp_path):
    writer, values = MetricsWriter(tmp_path, 0), {f"metric/{n}": 1.0 for n in range(500)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*events\.out\.tfevents"):
            writer.write_board(1, values)
        with pytest.raises(OSError, match=r"File too large: .*metrics\.jsonl"):
            writer.write(1, values)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_events_of_a_run_within_one_second_do_not_meet(tmp_path):
    for _ in range(3):
        MetricsWriter(tmp_path, 0).close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 3
