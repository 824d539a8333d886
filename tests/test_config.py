"""A configuration is refused before anything runs, with the key's name and a remedy."""

import importlib.util
import pathlib

import pytest

from lconv_jax import config as config_lib

FOLDER = pathlib.Path(__file__).parent.parent / "configs"
CONFIGS = sorted(FOLDER.rglob("*.py"))


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("optimizer", config_lib.OPTIMIZERS)
def test_every_config_file_is_valid_with_either_optimizer(path, optimizer):
    module = _load(path)
    # Those under mdl/ have one optimizer each.
    takes_optimizer = path.parent == FOLDER
    config = module.get_config(*([optimizer] if takes_optimizer else []))
    config_lib.validate(config)
    assert not takes_optimizer or config.optimizer.name == optimizer
    assert f"--config=configs/{path.relative_to(FOLDER)}" in module.__doc__


def test_flatten_and_unflatten_are_inverse():
    config = config_lib.base_config()
    assert config_lib.unflatten(dict(config_lib.flatten(config))) == config
    assert set(dict(config_lib.flatten(config))) == set(config_lib.KEYS)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("train.epoch", 3, "config.train.epoch is not a key; did you mean config.train.epochs"),
        ("optimiser.beta", 3.0, "did you mean config.optimizer.beta"),
        ("train.epochs", "3", "config.train.epochs = '3' must be int"),
        ("train.epochs", True, "config.train.epochs = True must be int"),
        ("train.epochs", 0, "config.train.epochs = 0 must be ≥ 1"),
        ("train.epochs", 2.5, "must be int"),
        ("data.flip", 1, "config.data.flip = 1 must be bool"),
        ("seed", 2**32, "config.seed = 4294967296 must be"),
        ("optimizer.beta", -1.0, "config.optimizer.beta = -1.0 must be ≥ 0"),
        ("optimizer.l1.conv", float("nan"), "config.optimizer.l1.conv = nan must be finite"),
        ("optimizer.learning_rate", 0.0, "must be > 0"),
        ("optimizer.name", "adam", "must be one of beta_lasso, sgd"),
        ("optimizer.momentum", 1.0, r"must be in \[0, 1\)"),
        ("model.name", "sfc", "config.model.name = 'sfc' must be one of"),
        ("model.dtype", "float16", "must be one of float32, bfloat16"),
        ("checkpoint.keep", 1, "must be ≥ 2"),
        ("log.delta", 1.0, r"must be in \(0, 1\)"),
        ("sharding.data", 0, "must be ≥ 1, or −1 for all"),
        ("model.kernel_size", 5, "applies to resnet18 only"),
    ],
)
def test_a_bad_value_is_named_with_what_is_accepted(name, value, says):
    flat = dict(config_lib.flatten(config_lib.base_config())) | {"optimizer.l1.conv": 1e-4}
    with pytest.raises(config_lib.ConfigError, match=says):
        config_lib.validate(config_lib.unflatten(flat | {name: value}))


def test_a_missing_key_is_named():
    flat = dict(config_lib.flatten(config_lib.base_config()))
    del flat["train.batch_size"]
    with pytest.raises(config_lib.ConfigError, match=r"config\.train\.batch_size is missing"):
        config_lib.validate(config_lib.unflatten(flat))


def test_beta_lasso_without_l1_is_refused():
    with pytest.raises(config_lib.ConfigError, match="would regularise nothing"):
        config_lib.validate(config_lib.base_config())


def test_an_integer_serves_where_a_float_is_meant():
    config = config_lib.base_config()
    config.optimizer.l1.conv = 1e-4
    flat = dict(config_lib.flatten(config)) | {"optimizer.beta": 10}
    config_lib.validate(config_lib.unflatten(flat))


def test_the_digest_ignores_what_does_not_change_the_result():
    flat = dict(config_lib.flatten(config_lib.base_config()))
    before = config_lib.digest(flat)
    for name in config_lib.KEYS:
        other = flat[name] + ("x" if isinstance(flat[name], str) else 1)
        changed = config_lib.digest(flat | {name: other}) != before
        assert changed != config_lib.is_free(name), name
    assert config_lib.is_free("log.every_steps")
    assert not config_lib.is_free("train.epochs")


def test_the_documented_table_is_the_code_s():
    page = pathlib.Path(__file__).parent.parent / "docs" / "config.md"
    assert config_lib.table() in page.read_text(encoding="utf-8")
