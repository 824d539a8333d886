"""A configuration is refused before anything runs, with the key's name and a remedy."""

import importlib.util
import json
import math
import pathlib
import random

import jax
import numpy as np
import pytest

from lconv_jax import config as config_lib
from lconv_jax.config import with_overrides
from lconv_jax.training import plan
from lconv_jax.training.setup import prepare
from tests import tiny_config

FOLDER = pathlib.Path(__file__).parent.parent / "configs"
CONFIGS = sorted(FOLDER.rglob("*.py"))


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
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
        ("optimizer.wd", 3.0, "did you mean config.optimizer.weight_decay"),
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
        ("model.kernel_size", 256, "must be 1 … 255"),
        ("train.epochs", 2**31, "config.train.epochs = 2147483648 must be at most 2³¹ − 1"),
        ("model.alpha", 10**400, "config.model.alpha = an integer of 1329 bits must be at most"),
        ("log.bits_per_value", 10**400, "an integer of 1329 bits must be at most"),
        ("optimizer.beta", 10**400, "config.optimizer.beta = an integer of 1329 bits must be of"),
        ("optimizer.learning_rate", 1e39, "= 1e[+]39 must be of magnitude 1e-30 … 1e[+]30"),
        ("optimizer.reference_lr_sum", 5e-324, "= 5e-324 must be of magnitude"),
        ("optimizer.momentum", 1 - 1e-9, r"must be in \[0, 1\)"),  # 1 in float32
        ("log.delta", 5e-324, "must be of magnitude"),
    ],
)
def test_a_bad_value_is_named_with_what_is_accepted(name, value, says):
    flat = dict(config_lib.flatten(config_lib.base_config())) | {"optimizer.l1.conv": 1e-4}
    with pytest.raises(config_lib.ConfigError, match=says):
        config_lib.validate(config_lib.unflatten(flat | {name: value}))


def _extremes(key):
    """Values of a key's type, and beyond what a machine holds of it."""
    kind = type(key.default)
    if kind is bool:
        return [False, True]
    if kind is str:
        return ["", "a\0b", "s3://a", "~", "x" * 300, "\ud800", key.default]
    integers = [
        -(10**400),
        -1,
        0,
        1,
        2,
        255,
        2**22 + 1,
        2**31 - 1,
        2**31,
        2**32 - 1,
        2**63,
        10**400,
    ]
    if kind is int:
        return [*integers, 10**5000, key.default]
    floats = [-1.0, -0.0, 5e-324, 1e-46, 1e-38, 1e-30, 0.5, 1 - 1e-9, 1 - 1e-17, 1e30, 1e39, 1e308]
    return [*integers, *floats, float("inf"), float("nan"), key.default]


@pytest.mark.slow
def test_every_value_is_refused_by_name_or_makes_a_plan():
    """Whatever a key is set to, alone or with another: never another error, and at once."""
    draw = random.Random(0)
    base = dict(config_lib.flatten(config_lib.base_config())) | {"optimizer.l1.conv": 1e-4}
    params = {name: {"kernel": jax.ShapeDtypeStruct((4, 4), float)} for name in ("conv1", "fc1")}
    single = [{name: value} for name, key in config_lib.KEYS.items() for value in _extremes(key)]
    plans, messages = 0, []
    for changes in [*single, *(draw.choice(single) | draw.choice(single) for _ in range(1000))]:
        flat = base | changes
        try:
            config = config_lib.unflatten(flat)
            config_lib.validate(config)
            made = plan.make_plan(config, 10_000, params)
        except config_lib.ConfigError as error:
            messages.append(str(error))
            continue
        plans += 1
        assert made.total_steps < 2**31
        for value in made.numbers.values():
            assert value == 0 or 0 < float(np.float32(value)) < math.inf
        json.dumps([made.effective, config.to_dict()], allow_nan=False)
    assert plans > 300
    assert max(map(len, messages)) < 1000


def test_the_learning_rates_of_a_long_run_are_summed_without_an_array_of_them(monkeypatch):
    config = config_lib.unflatten(
        dict(config_lib.flatten(config_lib.base_config()))
        | {"optimizer.l1.conv": 1e-4, "optimizer.learning_rate": 0.3, "train.epochs": 777}
    )
    params = {"conv1": {"kernel": jax.ShapeDtypeStruct((4, 4), float)}}
    one_by_one = plan.make_plan(config, 5000, params).effective["lr_sum"]
    monkeypatch.setattr(plan, "_MOST_ADDED", 0)
    assert plan.make_plan(config, 5000, params).effective["lr_sum"] == pytest.approx(
        one_by_one, rel=1e-6
    )
    config.train.epochs = 2**31 // 9 + 1
    with pytest.raises(config_lib.ConfigError, match="train for 238609294 epochs at most"):
        plan.make_plan(config, 5000, params)


def test_a_network_that_no_memory_holds_is_refused_with_its_bytes():
    config = with_overrides(tiny_config.get_config(), {"model.alpha": 20_000})
    with pytest.raises(
        config_lib.ConfigError, match=r"alpha = 20000: .* take 1,8\d\d,\d{3},\d{3},"
    ):
        prepare(config)
    assert prepare(config, must_fit=False).config.model.alpha == 20_000


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
