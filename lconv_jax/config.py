"""The configuration of a run: each key's default, type, range and meaning.

The default of a new key must keep the earlier behaviour, so that older runs can be continued and
read.

`python -m lconv_jax.config` prints the table that docs/config.md shows.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from flax import traverse_util

from lconv_jax import data, models
from lconv_jax.data import surrogates
from lconv_jax.data.augmentation import policies
from lconv_jax.data.sources import images, registry
from lconv_jax.errors import ConfigError
from lconv_jax.host import places
from lconv_jax.optim.densities import DISTRIBUTIONS, GLOBAL
from lconv_jax.optim.registry import METHODS
from lconv_jax.tables import markdown

SHRINK = ("none", "exact", "frozen")
OPTIMIZERS = tuple(METHODS)
DTYPES = ("float32", "bfloat16")
TEST = ("always", "end", "never")

# Programs count in 32 bits and compute in float32. These limits are well within its range, so that
# products and quotients of two values are float32 numbers, too.
_LEAST, _MOST = 1e-30, 1e30
_MOST_INTEGER = 2**31 - 1


class Rule(NamedTuple):
    """Which values of its type a key accepts, in words and as a predicate."""

    accepts: str
    check: Callable[[Any], bool]


class Key(NamedTuple):
    """One configuration key. Its type is the type of its default."""

    default: Any
    rule: Rule
    meaning: str

    @property
    def accepts(self) -> str:
        """The values that it accepts, in words."""
        return self.rule.accepts


def _at_least(low: float) -> Rule:
    return Rule(f"≥ {low:g}", lambda value: value >= low)


def _one_of(choices: tuple[str, ...]) -> Rule:
    return Rule("one of " + ", ".join(choices), lambda value: value in choices)


_ANY = Rule("any", lambda value: True)
_FRACTION = Rule("in [0, 1)", lambda value: value >= 0 and bool(np.float32(value) < 1))
_UNIT = Rule("in [0, 1]", lambda value: 0 <= value <= 1)
_POSITIVE = Rule("> 0", lambda value: value > 0)
_SEED = Rule("0 … 2³² − 1", lambda value: 0 <= value < 2**32)
_DEVICES = Rule("≥ 1, or −1 for all", lambda value: value >= 1 or value == -1)

KEYS: dict[str, Key] = {
    "seed": Key(0, _SEED, "every random number of the run follows from it"),
    "data.name": Key(
        "fashion_mnist_small",
        Rule("a data set's name", lambda value: bool(value)),
        f"fashion_mnist_small, fashion_mnist, digits; {', '.join(registry.MADE)}, with options "
        "behind a colon (see other_data.md); a TFDS name, the folder of a prepared set, a folder "
        "of images, or a path that ends in .npz",
    ),
    "data.data_dir": Key("", _ANY, "folder of the data; empty: the source's own default"),
    "data.size": Key(
        0,
        Rule(f"0 … {images.MOST_SIZE}", lambda value: 0 <= value <= images.MOST_SIZE),
        "height and width that images are resized to; 0: as they are, of one size",
    ),
    "data.channels": Key(
        0,
        Rule("0, 1 or 3", lambda value: value in (0, *images.CHANNELS)),
        "1: images are made grey, 3: RGB; 0: as they are, of a folder 1 if all its files are grey",
    ),
    "data.stream": Key(
        "auto",
        _one_of(data.STREAM),
        "read batches as they are needed, not the whole set onto the device; auto: if it is larger "
        "than data.device_limit_gib",
    ),
    "data.device_limit_gib": Key(4.0, _POSITIVE, "GiB of a device that the data may take"),
    "data.examples": Key(
        0, _at_least(0), "training subset of this size, as many of each class as there are; 0: all"
    ),
    "data.validation": Key(0, _at_least(0), "training examples held out for validation"),
    "data.surrogate": Key(
        "",
        Rule(f"empty, or {surrogates.ACCEPTED}", lambda value: True),  # `validate` says more
        "in the place of the examples, others that are made of them, with one property removed or "
        "alone kept (see questions.md)",
    ),
    "data.permute": Key(
        0,
        _SEED,
        "one permutation of the pixels for every image; 0: none, 1: one that follows from the "
        "run's seed, n ≥ 2: that of seed n, whatever the run's seed",
    ),
    "data.permute_first": Key(
        False, _ANY, "permute the stored image, before shift, flip and cutout, not after them"
    ),
    "data.noise": Key(
        0.0,
        _at_least(0),
        "standard deviation of Gaussian noise on normalised training inputs, drawn anew at "
        "every step after the other augmentation",
    ),
    "data.augment": Key(
        "",
        Rule(f"empty, or {policies.ACCEPTED}", lambda value: True),  # `validate` says more
        "augmentation policy, before crop, flip and cutout; a file may be given by its contents",
    ),
    "data.crop": Key(0, _at_least(0), "random shift by at most this many pixels, zero padding"),
    "data.flip": Key(False, _ANY, "random left-right flip"),
    "data.cutout": Key(
        0, _at_least(0), "side of the square set to data.cutout_fill at a random place"
    ),
    "data.cutout_fill": Key(
        0, Rule("0 … 255", lambda v: 0 <= v <= 255), "grey level of cutout's square, before scaling"
    ),
    "model.name": Key("s_fc", _one_of(models.NAMES), "architecture"),
    "model.alpha": Key(8, _at_least(1), "base channels (three_fc: hidden units)"),
    "model.dtype": Key("float32", _one_of(DTYPES), "precision of the matrix products"),
    "model.dropout": Key(0.0, _FRACTION, "dropout rate before the last two dense layers"),
    "model.kernel_size": Key(
        3, Rule("1 … 255", lambda value: 1 <= value <= 255), "side of resnet18's convolutions"
    ),
    "optimizer.name": Key("beta_lasso", _one_of(OPTIMIZERS), "training method"),
    "optimizer.learning_rate": Key(
        0.1, _POSITIVE, "η at the start; a cosine takes it to 0 over the run"
    ),
    "optimizer.l1.conv": Key(
        0.0, _at_least(0), "λ of the penalty on layers in a convolution's place"
    ),
    "optimizer.l1.fc": Key(0.0, _at_least(0), "λ of the penalty on the other dense layers"),
    "optimizer.beta": Key(50.0, _at_least(0), "β: weights below β·λ become zero (β-lasso)"),
    "optimizer.momentum": Key(0.0, _FRACTION, "momentum; 0: none"),
    "optimizer.weight_decay": Key(0.0, _at_least(0), "L2 decay of the weights"),
    "optimizer.l2": Key(0.0, _at_least(0), "λ₂, of half the squared weights (elastic_net)"),
    "optimizer.groups": Key(
        "outputs", _one_of(("outputs", "inputs")), "what becomes zero together (group_lasso)"
    ),
    "optimizer.epsilon": Key(
        0.01, _POSITIVE, "ε: a weight of this size has half the penalty of a zero (reweighted_l1)"
    ),
    "optimizer.gate_rate": Key(
        1.0, _POSITIVE, "learning rate of the gates, in units of η (hard_concrete)"
    ),
    "optimizer.drop_rate": Key(
        0.05,
        Rule("in (0, 1)", lambda value: 0 < value < 1),
        "share of the gates that are closed in the beginning (hard_concrete)",
    ),
    "optimizer.density": Key(
        0.1,
        Rule("in (0, 1]", lambda value: 0 < value <= 1),
        "share of the weights that methods with masks keep",
    ),
    "optimizer.distribution": Key(
        "erdos_renyi_kernel",
        Rule(f"one of {', '.join((*DISTRIBUTIONS, GLOBAL))}, or LAYER=DENSITY,…", bool),
        "of the density over layers; or densities by layer, as conv1=0.1,fc1=0.5",
    ),
    "optimizer.structure": Key(
        "",
        Rule("empty, units, N:M as 2:4, or INPUTSxOUTPUTS as 4x4", lambda value: True),
        "which weights masks keep or leave out together",
    ),
    "optimizer.masks": Key(
        "",
        _ANY,
        "an .npz file with a bool array for each layer that has a mask, by the layer's name "
        "(fixed_masks); the file is not copied: leave it as it is",
    ),
    "optimizer.begin": Key(
        0.2, _UNIT, "share of the run at which pruning begins (magnitude_, saliency_pruning)"
    ),
    "optimizer.end": Key(0.75, _UNIT, "share of the run after which masks stay"),
    "optimizer.every": Key(100, _at_least(1), "steps from one change of the masks to the next"),
    "optimizer.drop_fraction": Key(
        0.3,
        Rule("in (0, 1)", lambda value: 0 < value < 1),
        "share of a layer's weights that is exchanged (sparse_evolution; rigl: at the start)",
    ),
    "optimizer.rounds": Key(3, _at_least(1), "prunings (lottery_ticket)"),
    "optimizer.rewind": Key(
        0.0, _FRACTION, "share of a round that weights are set back to (lottery_ticket)"
    ),
    "optimizer.reference_lr_sum": Key(
        0.0,
        _at_least(0),
        "if set, l1 and beta are meant for a run whose learning rates sum to this, and are "
        "rescaled to keep λ·Ση and β·λ",
    ),
    "train.epochs": Key(300, _at_least(1), "passes over the training set"),
    "train.batch_size": Key(512, _at_least(2), "examples per step, over all devices"),
    "train.start": Key(
        "",
        _ANY,
        "a run directory: layers of its newest checkpoint that have the same names and shapes are "
        "where the training starts from, the others are drawn. It is not copied: leave it there",
    ),
    "train.freeze": Key(
        "", _ANY, "names of layers, comma-separated, whose parameters stay as they start"
    ),
    "train.shrink": Key(
        "none",
        _one_of(SHRINK),
        "leave out hidden units that are dead for good (exact), also those that are constant "
        "(frozen), or none",
    ),
    "log.every_steps": Key(1, _at_least(1), "metrics.jsonl gets every n-th training step"),
    "log.eval_every_epochs": Key(10, _at_least(1), "evaluate every n-th epoch, and at the end"),
    "log.test": Key(
        "always",
        _one_of(TEST),
        "evaluate the test set each time, once at the end, or never: what is chosen by validation "
        "never needs it",
    ),
    "log.describe_every_epochs": Key(
        0,
        _at_least(0),
        "describe the network as a file every n-th epoch, and at the end, and log its bits and "
        "bounds; 0: never",
    ),
    "log.bits_per_value": Key(32, _at_least(1), "b of the description-length estimate"),
    "log.delta": Key(0.05, Rule("in (0, 1)", lambda v: 0 < v < 1), "δ of the bounds"),
    "checkpoint.every_epochs": Key(10, _at_least(1), "save every n-th epoch, and at the end"),
    "checkpoint.keep": Key(2, _at_least(2), "checkpoints kept"),
    "sharding.data": Key(-1, _DEVICES, "devices the batch is split over"),
    "sharding.model": Key(1, _at_least(1), "devices the wide weight matrices are split over"),
}

# Keys that may differ between a run and its resumption: they do not change what is computed.
# The data are compared by content, so their folder may move.
_FREE_KEYS = (
    *("log.", "checkpoint.", "sharding."),
    *("data.data_dir", "data.stream", "data.device_limit_gib"),
)


def base_config() -> ml_collections.ConfigDict:
    """A configuration with every key at its default; it takes no other keys."""
    return unflatten({name: key.default for name, key in KEYS.items()})


def paper_config(
    dataset: str, model: str, alpha: int, optimizer: str = "beta_lasso"
) -> ml_collections.ConfigDict:
    """The recipe of Appendix A.2 of the paper for 400 epochs, as far as it is stated.

    The paper augments "as in Lim et al.": here by the policies that Fast AutoAugment publishes,
    then, as in its code, a crop, a flip (left out for SVHN) and, for 32 × 32, cutout with grey.
    β-lasso's λ are meant for the paper's 4000 epochs and are rescaled to the run's length. The
    paper gives the grids of λ and of SGD's momentum and weight decay, and chooses by validation
    accuracy, but not what was chosen: the values here are our choice from the grids.

    Args:
      dataset: a TFDS name of colour images; the paper's are 32 × 32.
      model: one of `models.NAMES`.
      alpha: base channels.
      optimizer: "beta_lasso" or "sgd".
    """
    config = base_config()
    config.data.name = dataset
    found_on, cutout = {
        "cifar10": ("cifar10", 16),
        "cifar100": ("cifar10", 16),
        "svhn_cropped": ("svhn", 20),
    }.get(dataset, ("imagenet", 0))
    config.data.augment = f"fast_autoaugment_{found_on}"
    config.data.crop = 4
    config.data.flip = dataset != "svhn_cropped"  # a mirrored digit is another sign
    config.data.cutout = cutout
    config.data.cutout_fill = 128 if cutout else 0  # about 0 after scaling
    config.model.name = model
    config.model.alpha = alpha
    config.model.dtype = "bfloat16"
    config.optimizer.name = optimizer
    config.optimizer.learning_rate = 0.1
    if optimizer == "sgd":
        config.optimizer.momentum = 0.9
        config.optimizer.weight_decay = 5e-4
    else:
        config.optimizer.l1.conv = 5e-6
        config.optimizer.l1.fc = 2e-6
        config.optimizer.beta = 50.0
        # A cosine from 0.1 over 4000 epochs of 143 steps (SVHN) or 98, the last one not whole.
        config.optimizer.reference_lr_sum = 28_600.0 if dataset == "svhn_cropped" else 19_600.0
    config.train.epochs = 400
    config.log.every_steps = 10
    return config


def flatten(config: Mapping[str, Any] | ml_collections.ConfigDict) -> Iterator[tuple[str, Any]]:
    """The (dotted key, value) pairs of a nested configuration, in its order."""
    nested = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    yield from traverse_util.flatten_dict(nested, sep=".").items()


def unflatten(flat: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The configuration with these dotted keys, which takes no others."""
    return ml_collections.ConfigDict(traverse_util.unflatten_dict(dict(flat), sep=".")).lock()


def with_overrides(config: Any, overrides: Mapping[str, Any]) -> Any:
    """A copy of a configuration with dotted keys replaced."""
    flat = dict(flatten(config)) | dict(overrides)
    return unflatten(flat)


def validate(config: Mapping[str, Any]) -> None:
    """Checks names, types, ranges and combinations.

    Raises:
      ConfigError: naming the first key at fault, what it got and what it accepts.
    """
    flat = dict(flatten(config))
    for name in flat:
        check_name(name)
    for name in KEYS:
        if name not in flat:
            raise ConfigError(f"config.{name} is missing; start from lconv_jax.config.base_config")
        check_value(name, flat[name])
    for name, parse in (("data.augment", policies.load), ("data.surrogate", surrogates.parse)):
        try:
            if flat[name]:
                parse(flat[name])
        except data.DataError as error:
            raise ConfigError(f"config.{error}") from error
    _validate_combinations(flat)


def check_value(name: str, value: Any) -> None:
    """Raises ConfigError unless the key `name` accepts the value, by itself."""
    key = KEYS[name]
    kind, got = type(key.default), f"config.{name} = {brief(value)}"
    if not (type(value) is kind or (kind is float and type(value) is int)):
        raise ConfigError(f"{got} must be {kind.__name__}, {key.accepts}")
    if kind is float:
        if not abs(value) < math.inf:
            raise ConfigError(f"{got} must be finite, {key.accepts}")
        if value and not _LEAST <= abs(value) <= _MOST:
            raise ConfigError(f"{got} must be of magnitude {_LEAST:g} … {_MOST:g}, {key.accepts}")
    if not key.rule.check(value):
        raise ConfigError(f"{got} must be {key.accepts}")
    if kind is int and key.rule is not _SEED and value > _MOST_INTEGER:
        raise ConfigError(f"{got} must be at most 2³¹ − 1, {key.accepts}")
    if kind is str and "\0" in value:
        raise ConfigError(f"{got} must have no zero byte")
    # Only such names of sets can be those of places elsewhere.
    is_place = name == "data.name" and (value.startswith("~") or "://" in value)
    if is_place or (name in ("data.data_dir", "train.start") and value):
        places.local(value, f"config.{name}")


def brief(value: Any) -> str:
    """A value as text; of a long one, such as a policy, its beginning and its digest."""
    if type(value) is int and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    if len(text) <= 100:
        return text
    return f"{text[:60]}… (SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:12]})"


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The configuration with the contents of its policy's file, if it has one, in the file's place.

    So the configuration alone defines the computation: it does not depend on the place of the file,
    and it changes if the contents change.

    Raises:
      ConfigError: the file is missing or at fault.
    """
    named = config.data.augment
    resolved = _resolved(named)
    if resolved == named:
        return config
    return unflatten(dict(flatten(config)) | {"data.augment": resolved})


def _resolved(policy: str) -> str:
    try:
        return policies.resolve(policy)
    except data.DataError as error:
        raise ConfigError(f"config.{error}") from error


def check_name(name: str) -> None:
    """Raises ConfigError, with the nearest key, unless `name` is a dotted key."""
    if name not in KEYS:
        group, _, short = name.rpartition(".")
        # "lr" is nearer to "learning_rate" than its letters are.
        meant = (
            key
            for key in KEYS
            if key.startswith(group) and short == "".join(w[0] for w in _last_words(key))
        )
        near = next(meant, None) or difflib.get_close_matches(name, KEYS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"config.{name} is not a key; did you mean config.{near}?")


def _last_words(key: str) -> list[str]:
    return key.rpartition(".")[2].split("_")


def _validate_combinations(flat: Mapping[str, Any]) -> None:
    if flat["model.name"] != "resnet18" and flat["model.kernel_size"] != 3:
        raise ConfigError(
            f"config.model.kernel_size = {flat['model.kernel_size']} applies to resnet18 only; "
            f"{flat['model.name']} has fixed kernels, leave it at 3"
        )
    method = METHODS[flat["optimizer.name"]]
    try:
        keys = (*method.keys, *method.settings)
        method.check({key: flat[f"optimizer.{key}"] for key in keys})
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if flat["train.shrink"] != "none" and not method.absorbing:
        raise ConfigError(
            f"config.train.shrink = {flat['train.shrink']!r} needs weights that are exactly zero "
            f"and stay so, which {flat['optimizer.name']} does not give; set it to 'none', or "
            "choose config.optimizer.name=beta_lasso"
        )
    if flat["train.shrink"] != "none" and flat["model.name"] == "resnet18":
        raise ConfigError(
            f"config.train.shrink = {flat['train.shrink']!r} removes units of dense hidden layers, "
            "and resnet18 has no such layer; set it to 'none'"
        )
    if flat["train.freeze"] and (method.masked or flat["train.shrink"] != "none"):
        key = "optimizer.name" if method.masked else "train.shrink"
        raise ConfigError(
            f"config.train.freeze = {flat['train.freeze']!r} cannot be with config.{key} = "
            f"{flat[key]!r}, which removes weights itself; set train.freeze to ''"
        )
    if flat["data.permute_first"] and not flat["data.permute"]:
        raise ConfigError(
            "config.data.permute_first = True needs a permutation; set config.data.permute to 1 or "
            "more, or permute_first to False"
        )
    dense = flat["model.name"] == "three_fc" or flat["model.name"].endswith("_fc")
    if flat["log.describe_every_epochs"] and flat["data.permute"] and not dense:
        raise ConfigError(
            f"config.log.describe_every_epochs = {flat['log.describe_every_epochs']} cannot be "
            f"with config.data.permute: {flat['model.name']} on permuted pixels is no such network "
            "on the image; set it to 0"
        )


def digest(config: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the keys that decide what a run computes and are not at their defaults.

    A policy's file counts by its contents, other files and folders by their names alone.
    """
    kept = changed(config)
    if kept.get("data.permute") == 1:
        kept["data.permute"] = True  # as before it was a number, so that results keep their digest
    if "data.augment" in kept:
        kept["data.augment"] = _resolved(kept["data.augment"])
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def changed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that decide what a run computes and are not at their defaults, with their values.

    Of files and folders, where they lie is left out.
    """
    kept = {
        name: type(KEYS[name].default)(value) if name in KEYS else value  # 10 is 10.0
        for name, value in flatten(config)
        if not is_free(name) and (name not in KEYS or value != KEYS[name].default)
    }
    for name in ("optimizer.masks", "train.start"):
        if name in kept:
            kept[name] = os.path.basename(os.path.normpath(kept[name]))
    return kept


def is_free(name: str) -> bool:
    """Whether a key may change between a run and its resumption."""
    return name.startswith(_FREE_KEYS)


def table() -> str:
    """Every key as a Markdown table."""
    rows = []
    for name, key in KEYS.items():
        kind = type(key.default).__name__
        rows.append([f"`{name}`", f"`{key.default!r}`", f"{kind}, {key.accepts}", key.meaning])
    return markdown(["key", "default", "accepts", "meaning"], rows)


if __name__ == "__main__":
    print(table())
