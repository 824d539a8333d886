"""Files are replaced whole, and only where they are said to be."""

import os

import numpy as np
import pytest

from lconv_jax import analysis
from lconv_jax.host.files import free_name, write_atomically
from lconv_jax.rundir import directory as rundir
from lconv_jax.rundir import metrics
from tests import tiny_config


def test_contents_are_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "file.json"
    for contents, stored in (("λ", "λ".encode()), (b"bytes", b"bytes")):
        write_atomically(path, contents)
        assert path.read_bytes() == stored
    assert [each.name for each in tmp_path.iterdir()] == ["file.json"]


def test_a_link_that_leads_elsewhere_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    run = tmp_path / "run"
    run.mkdir()
    (run / "summary.json.tmp").symlink_to(victim)
    with pytest.raises(OSError, match=r"summary\.json"):
        write_atomically(run / "summary.json", "{}")
    (run / ".lock").symlink_to(victim)
    opened = rundir.open_workdir(run, tiny_config.get_config(), "0")
    with pytest.raises(OSError, match="lock"), opened:
        pass
    (run / "filters.png").symlink_to(victim)
    analysis.save_filters(np.ones((1, 3, 3, 3), np.float32), run / "filters.png")
    assert not (run / "filters.png").is_symlink()
    (run / "metrics.jsonl").symlink_to(tmp_path / "victim")
    victim.write_text("")
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        metrics.MetricsWriter(run, 0)
    victim.write_text("kept")
    assert victim.read_text() == "kept"


def test_a_pipe_is_not_waited_for(tmp_path):
    for name in ("summary.json.tmp", ".lock", "metrics.jsonl"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(OSError, match=r"summary\.json"):
        write_atomically(tmp_path / "summary.json", "{}")
    opened = rundir.open_workdir(tmp_path, tiny_config.get_config(), "0")
    with pytest.raises(OSError, match="lock"), opened:
        pass
    with pytest.raises(ValueError, match=r"metrics\.jsonl is no regular file"):
        metrics.MetricsWriter(tmp_path, 0)


def test_a_free_name_is_the_first_that_nothing_has(tmp_path):
    path = str(tmp_path / "events")
    assert free_name(path) == path
    for name in ("events", "events.1"):
        (tmp_path / name).touch()
    assert free_name(path) == f"{path}.2"
