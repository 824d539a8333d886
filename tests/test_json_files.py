"""What does not read back is named by file and line, with what to do about it."""

import json
import os

import pytest

from lconv_jax import config
from lconv_jax.errors import ConfigError, StoredError
from lconv_jax.experiments import sweeps
from lconv_jax.experiments.runs import read_kept
from lconv_jax.host import json_files
from lconv_jax.rundir import directory as rundir
from lconv_jax.training import lanes
from tests import tiny_config

FORM = {"name": str, "rows": [{"bits": int, "error": float}], "sizes": {str: int}}
GOOD = {
    "name": "a",
    "rows": [{"bits": 3, "error": 1}, {"bits": 0, "error": 0.5}],
    "sizes": {"x": 1},
}


def test_what_is_of_the_form_is_returned(tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(GOOD))
    assert json_files.read(path, FORM, "mend it") == GOOD


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: this is no JSON"),
        ('{\n"name": "a",\n"rows"', "line 3: this is no JSON"),
        ('{\n"name": "\\q"}', "line 2: this is no JSON"),
        (b'{\n"name": "\xff"}', "line 2: bytes that are no UTF-8"),
        ("[" * 100_000, "cannot be read"),
        ('{"bits": ' + "9" * 5000 + "}", "cannot be read"),
        ("[]", "it must be an object"),
        ("3", "it must be an object"),
        ("{}", "it has no 'name'"),
        (json.dumps(GOOD | {"name": 3}), r"\['name'\] must be a text"),
        (json.dumps(GOOD | {"rows": {}}), r"\['rows'\] must be a list"),
        (json.dumps(GOOD | {"rows": [{"bits": 3, "error": "1"}]}), r"\[0\]\['error'\] must be a n"),
        (
            json.dumps(GOOD | {"rows": [{"bits": True, "error": 1}]}),
            r"\['bits'\] must be an integer",
        ),
        (json.dumps(GOOD | {"sizes": {"x": 1.5}}), r"\['sizes'\]\['x'\] must be an integer"),
    ],
)
def test_what_is_not_is_named_with_the_remedy(text, says, tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StoredError, match=f"^{path}.*{says}.*; mend it$"):
        json_files.read(path, FORM, "mend it")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ConfigError, match=f"{path} is no regular file"):
            json_files.read(path, dict, "mend it")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"metrics": 3}', '{"config": {}, "a'])
def test_every_file_of_a_run_is_named(text, tmp_path):
    for name in ("config.json", "summary.json", "diverged.json", "kept.json"):
        (tmp_path / name).write_text(text)
    for name, read in (
        ("config.json", rundir.read_config),
        ("config.json", lambda folder: rundir.check_workdir(folder, tiny_config.get_config(), "")),
        ("summary.json", rundir.read_summary),
        ("diverged.json", lanes.read_diverged),
    ):
        with pytest.raises(StoredError, match=f"^{tmp_path / name}"):
            read(tmp_path)
    if not text.startswith("{}") and "metrics" not in text:
        with pytest.raises(StoredError, match=f"^{tmp_path}/kept.json"):
            read_kept(str(tmp_path / "kept.json"))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model": 3}, "config.model is not a key"),
        ({"model": {"alpha": "8"}}, "config.model.alpha = '8' must be int"),
        ({"data": {"permute": "x"}}, "config.data.permute = 'x' must be int"),
        ({"optimizer": {"beta": 10**400}}, "config.optimizer.beta = an integer of 1329 bits"),
    ],
)
def test_a_stored_configuration_that_is_none_is_named(config, says, tmp_path):
    record = {"config": config, "data_sha256": "", "changes": []}
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(StoredError, match=f"^{tmp_path}/config.json: {says}"):
        rundir.read_config(tmp_path)


def test_a_summary_without_what_is_ranked_by_is_named(tmp_path):
    settings = sweeps.expand(
        config.with_overrides(tiny_config.get_config(), {"data.validation": 200}), {}
    )
    (folder,) = settings[0].directories(str(tmp_path))
    os.makedirs(folder)
    whole = dict.fromkeys(sweeps.COLUMNS.values(), 0.5)
    for metrics in ({}, whole | {"validation/accuracy": "0.5"}):
        with open(os.path.join(folder, "summary.json"), "w") as file:
            json.dump({"metrics": metrics}, file)
        with pytest.raises(StoredError, match=f"^{folder}/summary.json: .*validation/accuracy"):
            sweeps.collect(settings, str(tmp_path))
