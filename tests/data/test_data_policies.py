"""Policies: what is drawn, what files are refused, and what a run remembers of a file."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from benchmarks import pillow_operations
from lconv_jax import config as config_lib
from lconv_jax import data
from lconv_jax.data.augmentation import operations, policies, policy_sources
from lconv_jax.rundir import directory as rundir
from lconv_jax.training import inputs

SHAPE = (28, 24, 3)
FAST = [
    [["Contrast", 0.8, 0.5], ["TranslateX", 0.4, 0.4]],
    [["Invert", 0.1, 0.9], ["Posterize", 1, 0.3], ["Cutout", 0.7, 1.0]],
]
OWN = [[["rotate", 0.5, 15], ["invert", 0.2]], [["solarize", 1.0, 128], ["translate_y", 0.5, 0.25]]]


def make_config(**changes):
    flat = dict(config_lib.flatten(config_lib.base_config())) | {"optimizer.name": "sgd"}
    return config_lib.unflatten(flat | {f"data.{key}": value for key, value in changes.items()})


def draw(seed, shape, policy):
    return jax.device_get(jax.jit(lambda: policies.draw(jax.random.key(seed), shape, policy))())


def write(folder, content, name="policy.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


@pytest.fixture(scope="module")
def images():
    noise = np.random.default_rng(0).integers(0, 256, (64, *SHAPE))
    return (noise.cumsum(1) // (1 + np.arange(SHAPE[0])[:, None, None])).astype(np.uint8)


@pytest.mark.parametrize(
    ("table", "sha256"),
    [
        # Of the rows when they had been compared, one by one, with the authors' and torchvision's.
        (policy_sources.CIFAR10, "f821a4298c52ad0f"),
        (policy_sources.SVHN, "8cac08ef74c9355c"),
    ],
)
def test_the_published_tables_have_25_pairs(table, sha256):
    assert len(table) == 25
    assert hashlib.sha256("\n".join(table).encode()).hexdigest().startswith(sha256)
    for line in table:
        first, second = line.split()[:3], line.split()[3:]
        for name, probability, magnitude in (first, second):
            assert name in operations.NAMES
            assert float(probability) * 10 == pytest.approx(round(float(probability) * 10))
            assert int(magnitude) in range(10)


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        # The magnitudes 0 … 9 of Table 6: −0.3 … 0.3, −150 … 150 pixels of 331, −30° … 30°,
        # 0 … 256, 4 … 8 bits, 0.1 … 1.9.
        ("autoaugment", 3, [("shear_y", 0.5, 0, 0.3 * 8 / 9), ("translate_y", 0.7, 0, 150 / 331)]),
        ("autoaugment", 5, [("shear_y", 0.2, 0, 0.7 / 3), ("posterize", 0.3, 5, 0)]),
        ("autoaugment", 6, [("color", 0.4, 0.7, 0), ("brightness", 0.6, 1.5, 0)]),
        ("autoaugment", 18, [("auto_contrast", 0.8, 0, 0), ("solarize", 0.2, 256 / 9, 0)]),
        ("autoaugment_svhn", 4, [("equalize", 0.6, 0, 0), ("rotate", 0.9, 0, 10)]),
        ("randaugment:3,30", 2, [("shear_y", 1, 0, 0.3)]),
        ("randaugment:3,10", 14 - 1, [("sharpness", 1, 1, 0.3)]),
        ("trivialaugment", 31 * 5 + 30, [("rotate", 1, 0, 135)]),
        ("trivialaugment", 31 * 9 + 30, [("posterize", 1, 2, 0)]),
    ],
)
def test_levels_are_the_published_ones(name, number, expected):
    steps = policies.load(name).sub_policies[number]
    assert [step.operation for step in steps] == [each[0] for each in expected]
    np.testing.assert_allclose([step[1:] for step in steps], [each[1:] for each in expected])


def test_fast_autoaugment_s_levels_are_spread_over_its_ranges(tmp_path):
    found = policies.load(f"fast_autoaugment:{write(tmp_path, FAST)}").sub_policies
    assert found[0] == [
        policy_sources.Step("contrast", 0.8, pytest.approx(1.0)),
        policy_sources.Step("translate_x", 0.4, 0.0, pytest.approx(-0.09)),
    ]
    assert found[1] == [
        policy_sources.Step("invert", 0.1, 0.9),
        policy_sources.Step("posterize", 1.0, pytest.approx(5.2)),
        policy_sources.Step("cutout", 0.7, pytest.approx(0.2)),
    ]


@pytest.mark.parametrize(
    ("name", "sub_policies", "sha256"),
    [
        # Of the files as they were taken from the authors' repository.
        ("cifar10", 493, "1784766ba9150a9b"),
        ("svhn", 497, "5e705bb0c3a16f6e"),
        ("imagenet", 498, "93d0e6451516b467"),
    ],
)
def test_the_published_fast_autoaugment_policies_are_whole(name, sub_policies, sha256):
    assert hashlib.sha256(policy_sources.published(name).encode()).hexdigest()[:16] == sha256
    policy = policies.load(f"fast_autoaugment_{name}")
    assert len(policy.sub_policies) == sub_policies
    assert {len(steps) for steps in policy.sub_policies} == {2}
    # As a name they are what they are as a file.
    assert policy == policies.load(f"fast_autoaugment:{policy_sources.published(name)}")


# The ranges of the authors' code, in the units of the Pillow operation that it calls.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("published", "operation", "low", "high"),
    [
        *((f"Shear{axis}", f"shear_{axis.lower()}", -0.3, 0.3) for axis in "XY"),
        *((f"Translate{axis}", f"translate_{axis.lower()}", -0.45, 0.45) for axis in "XY"),
        ("Rotate", "rotate", -30, 30),
        ("Solarize", "solarize", 0, 256),
        ("Posterize", "posterize", 4, 8),
        *((name, name.lower(), 0.1, 1.9) for name in ("Contrast", "Color", "Brightness")),
        ("Sharpness", "sharpness", 0.1, 1.9),
        ("Cutout", "cutout", 0, 0.2),
    ],
)
def test_the_ranges_of_fast_autoaugment_give_what_pillow_gives(
    published, operation, low, high, images
):
    side = {"translate_x": SHAPE[1], "translate_y": SHAPE[0], "cutout": SHAPE[1]}.get(operation, 1)
    fill = (125, 123, 114) if operation == "cutout" else 0
    for share in (0.0, 0.3, 1.0):
        policy = policies.load("fast_autoaugment:" + json.dumps([[[published, 1, share]]]))
        results = np.asarray(policies.augment(jax.random.key(3), images, policy))
        _, _, places = draw(3, images.shape, policy)
        value = (low + share * (high - low)) * side
        equal = 0.0
        for image, result, place in zip(images, results, places[0], strict=True):
            # A sign is drawn where the range has one.
            wanted = [
                pillow_operations.apply(operation, image, sign * value, tuple(place), fill)
                for sign in ((1, -1) if low < 0 else (1,))
            ]
            equal += max((abs(result.astype(int) - each) <= 1).mean() for each in wanted)
        assert equal / len(images) > 0.99


def test_levels_of_sides_become_pixels(tmp_path):
    own = [[["translate_x", 1, 0.5], ["translate_y", 1, 0.5], ["cutout", 1, 0.25]]]
    policy = policies.load(f"policy:{write(tmp_path, own)}")
    tables = policies.make_tables(policy, (1, 40, 20, 1))
    np.testing.assert_array_equal(tables.spread, [[10, 20, 0]])
    np.testing.assert_array_equal(tables.level, [[0, 0, 5]])


def _expected_frequencies(policy, shape):
    """The probability of each (operation, level) at each place of the sequence of operations."""
    repeats = [{}, {}]
    for sub in policy.sub_policies:
        for place in range(2):
            steps = sub if policy.repeats == 1 else sub * 2
            step = steps[place] if place < len(steps) else policy_sources.Step("none", 0)
            table = repeats[place]
            for sign in (-1, 1):
                side = {"translate_x": shape[2], "translate_y": shape[1]}.get(step.operation, 1)
                level = np.float32(step.level * side) + sign * np.float32(step.spread * side)
                found = (step.operation, float(level)) if step.probability else ("none", 0.0)
                share = step.probability / 2 / len(policy.sub_policies)
                table[found] = table.get(found, 0) + share
                rest = (1 - step.probability) / 2 / len(policy.sub_policies)
                table["none", 0.0] = table.get(("none", 0.0), 0) + rest
    return repeats


@pytest.mark.slow
@pytest.mark.parametrize("name", ["autoaugment", "randaugment:2,9"])
def test_what_is_drawn_is_as_frequent_as_the_policy_says(name):
    policy = policies.load(name)
    shape = (60_000, *SHAPE)
    operation, level, place = draw(5, shape, policy)
    assert operation.shape == (2, len(operation[0]))
    for at, expected in enumerate(_expected_frequencies(policy, shape)):
        found = dict.fromkeys(expected, 0)
        for index, value in zip(operation[at].tolist(), level[at].tolist(), strict=True):
            known = ("none", 0.0) if index < 0 else (operations.NAMES[index], value)
            found[known] += 1  # a KeyError is an operation or level that the policy has not
        kept = [each for each, share in expected.items() if share > 0]
        shares = np.asarray([expected[each] for each in kept])
        counts = np.asarray([found[each] for each in kept])
        assert counts.sum() == shape[0]
        assert scipy.stats.chisquare(counts, shares * shape[0]).pvalue > 1e-3
    for axis in range(2):
        assert scipy.stats.kstest(place[0, :, axis], "uniform").pvalue > 1e-3


def test_trivialaugment_draws_strengths_uniformly():
    policy = policies.load("trivialaugment")
    operation, level, _ = draw(1, (50_000, 9, 9, 1), policy)
    assert operation.shape == (1, 50_000)
    _, counts = np.unique(operation, return_counts=True)
    # 14 operations, with one that does nothing.
    assert len(counts) == 14
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    rotations = abs(level[operation == operations.NAMES.index("rotate")])
    strengths, counts = np.unique(rotations, return_counts=True)
    np.testing.assert_allclose(strengths, np.linspace(0, 135, 31), rtol=1e-6)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.slow
def test_the_two_operations_of_a_sub_policy_are_drawn_independently_but_together():
    policy = policies.load("policy:" + json.dumps([[["invert", 0.5], ["equalize", 0.5]]] * 2))
    operation, _, _ = draw(0, (40_000, 8, 8, 1), policy)
    table = np.histogram2d(*(operation >= 0), bins=2)[0]
    assert scipy.stats.chisquare(table.ravel()).pvalue > 1e-3
    linked = [[["invert", 1], ["equalize", 1]], [["solarize", 1, 9], ["posterize", 1, 4]]]
    policy = policies.load("policy:" + json.dumps(linked))
    operation, _, _ = draw(0, (1000, 8, 8, 1), policy)
    pairs = {tuple(operations.NAMES[index] for index in pair) for pair in operation.T}
    assert pairs == {("invert", "equalize"), ("solarize", "posterize")}


def _by_pillow(images, drawn, fill):
    results = []
    for index, image in enumerate(images):
        for operation, level, place in zip(*(each[:, index] for each in drawn), strict=True):
            if operation >= 0:
                name = operations.NAMES[operation]
                colour = fill.cutout if name == "cutout" else fill.outside
                colour = colour * 3 if len(colour) == 1 else colour
                image = pillow_operations.apply(name, image, float(level), tuple(place), colour)
        results.append(image)
    return np.stack(results)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["autoaugment", "fast_autoaugment_cifar10"])
def test_what_is_drawn_is_done(name, images):
    policy = policies.load(name)
    augment = jax.jit(lambda: policies.augment(jax.random.key(3), images, policy))
    results = np.asarray(augment())
    drawn = draw(3, images.shape, policy)
    expected = _by_pillow(images, drawn, policy.fill)
    # A difference of one level may be made larger by what follows it.
    assert (abs(results.astype(int) - expected) <= 1).mean() > 0.99
    assert (results != images).any((1, 2, 3)).mean() > 0.5


@pytest.mark.slow
def test_runs_that_train_together_draw_as_each_does_alone(images):
    own = [[["translate_y", 0.7, 0.25]], [["solarize", 1, 128]], [["equalize", 1]]]
    policy = policies.load("policy:" + json.dumps(own))
    keys = jax.random.split(jax.random.key(0), 3)

    def in_loop(key):
        def body(step, batch):
            return policies.augment(jax.random.fold_in(key, step), batch, policy)

        return jax.lax.fori_loop(0, 2, body, jnp.asarray(images))

    together = jax.jit(jax.vmap(in_loop))(keys)
    alone = jax.jit(in_loop)
    for key, results in zip(keys, together, strict=True):
        np.testing.assert_array_equal(results, alone(key))
    assert len({np.asarray(results).tobytes() for results in together}) == 3


@pytest.mark.slow
def test_the_policy_comes_before_crop_and_cutout():
    # Inversion makes white of black: zeros are then what crop and cutout let in.
    config = make_config(augment='policy:[[["invert", 1]]]', crop=3, cutout=5)
    black = jnp.zeros((32, *SHAPE), jnp.uint8)
    results = np.asarray(jax.jit(inputs.make_augment(config))(jax.random.key(0), black))
    assert set(np.unique(results)) == {0, 255}
    without = jax.jit(inputs.make_augment(make_config(crop=3, cutout=5)))
    np.testing.assert_array_equal(results, without(jax.random.key(0), ~black))


@pytest.mark.parametrize(
    ("shape", "dtype", "says"),
    [
        ((16, 2), np.uint8, r"signals of shape \(16, 2\); leave data.augment empty"),
        ((8, 8, 1), np.float32, "uint8 images, and these are float32"),
        ((8, 8, 4), np.uint8, "1 or 3 channels, and these have 4"),
    ],
)
def test_what_a_policy_cannot_do_is_refused(shape, dtype, says):
    augment = inputs.make_augment(make_config(augment="trivialaugment"))
    with pytest.raises(data.DataError, match=says):
        augment(jax.random.key(0), jnp.zeros((4, *shape), dtype))


@pytest.mark.parametrize(
    "name",
    [
        *("auto_augment", "autoaugment:3", "trivialaugment:", "policy", "policy:", "x:y.json"),
        *("randaugment", "randaugment:2", "randaugment:0,9", "randaugment:2,31", "randaugment:a,b"),
    ],
)
def test_an_unknown_name_is_refused_with_what_is_accepted(name):
    with pytest.raises(config_lib.ConfigError, match=r"config\.data\.augment = .*randaugment:N,M"):
        config_lib.validate(make_config(augment=name))


@pytest.mark.parametrize(
    ("kind", "content", "says"),
    [
        ("policy", "[[", r"policy\.json is not JSON .*\[operation, probability, level\]"),
        ("policy", {}, r"policy\.json must be a list of sub-policies"),
        ("policy", [], "at least one"),
        ("policy", [[], [["invert", 1]]], "sub-policy 0 .* must be a list of 1 … 16"),
        ("policy", [["invert", 1, 0]], r'sub-policy 0 .*: "invert" must be \[operation'),
        (
            "policy",
            [*OWN, [["Rotate", 1, 3]]],
            "sub-policy 2 .*: the operation must be one of shear",
        ),
        ("policy", [[["rotate", 1.5, 3]]], r'\["rotate", 1.5, 3\]: the probability .* 0 … 1'),
        ("policy", [[["rotate", 1, -3]]], "rotate's level must be a number, 0 … 180"),
        ("policy", [[[["rotate"], 0.5]]], "the operation must be one of|must be \\[operation"),
        ("policy", "[" * 100_000, "is not JSON"),
        ("policy", [[["rotate", 1, 10**400]]], "rotate's level must be a number, 0 … 180"),
        ("policy", [[["rotate", 1]]], r"must be \[operation, probability, level\]"),
        ("policy", [[["posterize", 1, 0]]], "posterize's level must be a number, 1 … 8"),
        ("policy", [[["rotate", True, 3]]], "the probability must be a number"),
        ("fast_autoaugment", OWN, "sub-policy 0 .* must be one of ShearX, ShearY"),
        ("fast_autoaugment", [FAST[0], [["Rotate", 0.3, 15]]], "sub-policy 1 .* level .* 0 … 1"),
        ("fast_autoaugment", [[["Rotate", 0.3, float("nan")]]], "level must be a number"),
    ],
)
def test_a_file_at_fault_is_named_with_the_sub_policy(kind, content, says, tmp_path):
    config = make_config(augment=f"{kind}:{write(tmp_path, content)}")
    with pytest.raises(config_lib.ConfigError, match=says) as caught:
        config_lib.validate(config)
    assert "config.data.augment" in str(caught.value)
    assert "policy.json" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    config = make_config(augment=f"policy:{tmp_path / 'no.json'}")
    for function in (config_lib.validate, config_lib.resolve, config_lib.digest):
        with pytest.raises(
            config_lib.ConfigError, match=r"no\.json: cannot be read \(No such file"
        ):
            function(config)


def test_a_run_goes_on_with_the_same_contents_and_no_others(tmp_path):
    first, moved = (
        write(tmp_path, OWN, "a.json"),
        write(tmp_path, json.dumps(OWN, indent=2), "b.json"),
    )
    configs = [config_lib.resolve(make_config(augment=f"policy:{path}")) for path in (first, moved)]
    assert configs[0] == configs[1]
    run = tmp_path / "run"
    with rundir.open_workdir(run, configs[0], "0"):
        pass
    stored = rundir.read_config(run)
    assert policies.load(stored.data.augment) == policies.load(f"policy:{moved}")
    before = config_lib.digest(make_config(augment=f"policy:{first}"))
    assert before == config_lib.digest(configs[1]) == config_lib.digest(stored)
    rundir.check_workdir(run, configs[1], "0")
    write(tmp_path, [*OWN, OWN[0] * 2], "b.json")
    changed = config_lib.resolve(make_config(augment=f"policy:{moved}"))
    with pytest.raises(
        config_lib.ConfigError, match=r"config\.data\.augment: .*… \(SHA-256 \w{12}\)"
    ):
        rundir.check_workdir(run, changed, "0")
    assert config_lib.digest(make_config(augment=f"policy:{moved}")) != before


def test_without_a_policy_the_digest_is_what_it_was():
    # Of the configuration before there was the key.
    config = make_config(crop=2)
    without = {k: v for k, v in config_lib.flatten(config) if k != "data.augment"}
    assert config_lib.digest(config) == config_lib.digest(config_lib.unflatten(without))
    assert config_lib.digest(make_config(augment="autoaugment")) != config_lib.digest(config)
