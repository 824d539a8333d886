import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax.models import NAMES, base_channels, count_weights, create

D_WIDTHS = (1, 2, 2, 4, 4, 8, 8, 16)


def tables(s, c, a, C):
    """Tables 3 and 4 for s×s images with c channels; d-local as it is, not as printed."""
    area = s * s
    d_head = {"fc1": 4 * area * a**2, "fc2": 64 * C * a}
    s_head = {"fc1": 6 * area * a**2, "fc2": 24 * C * a}
    return {
        "d_conv": {
            "conv1": 9 * c * a,
            **{f"conv{i}": 9 * 2 ** (i - 1) * a**2 for i in range(2, 9)},
            **d_head,
        },
        "d_local": {
            "conv1": 9 * c * area * a,
            **{f"conv{i}": 9 * area * a**2 // (1 + (i % 2 == 0)) for i in range(2, 9)},
            **d_head,
        },
        "d_fc": {
            "conv1": c * area**2 * a,
            **{f"conv{i}": area**2 * a**2 // 2 ** (i - 1) for i in range(2, 9)},
            **d_head,
        },
        "s_conv": {"conv1": 81 * c * a, **s_head},
        "s_local": {"conv1": 81 * c * area * a // 4, **s_head},
        "s_fc": {"conv1": c * area**2 * a // 4, **s_head},
    }


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 32, 48])
@pytest.mark.parametrize(("channels", "alpha", "classes"), [(3, 5, 10), (1, 8, 100)])
def test_counts_are_those_of_tables_3_and_4(side, channels, alpha, classes):
    for name, expected in tables(side, channels, alpha, classes).items():
        assert count_weights(name, alpha, (side, side, channels), classes) == expected, name


def test_totals_of_the_paper():
    def total(name, alpha):
        return sum(count_weights(name, alpha, (32, 32, 3), 10).values())

    assert total("d_conv", 15) == pytest.approx(1.45e6, rel=0.005)
    assert total("s_conv", 150) == pytest.approx(138e6, rel=0.005)
    assert total("s_local", 150) == pytest.approx(147.6e6, rel=0.005)
    assert total("s_fc", 150) == pytest.approx(256e6, rel=0.005)
    # The erratum: the true size of d-local, where the paper has 3.42 M.
    assert total("d_local", 15) == 49 * 1024 * 225 + (27 * 1024 + 640) * 15 == 11_713_920


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [(n, (5, 6, 2)) for n in NAMES] + [("s_local", (7, 1))])
def test_counts_are_the_sizes_of_the_kernels_that_init_allocates(name, shape):
    model = create(name, alpha=1, num_classes=3)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    kernels = {
        "/".join(key.key for key in path[:-1]): leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if leaf.ndim > 1
    }
    assert count_weights(name, 1, shape, 3) == kernels


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    family=st.sampled_from(["d", "s"]),
    sides=st.lists(st.integers(1, 40), min_size=1, max_size=2),
    channels=st.integers(1, 4),
    alpha=st.integers(1, 9),
    classes=st.integers(2, 100),
)
def test_counts_at_any_side(family, sides, channels, alpha, classes):
    """Weights by hand: of a window, of a window at each output, of each input at each output."""
    strides, width, hidden = ((1, 2) * 4, 3, 64) if family == "d" else ((2,), 9, 24)
    widths = [w * alpha for w in D_WIDTHS[: len(strides)]]
    expected = {"conv": {}, "local": {}, "fc": {}}
    shape, into, area = (*sides, channels), channels, math.prod(sides)
    for number, (stride, out) in enumerate(zip(strides, widths, strict=True), 1):
        sides = [math.ceil(side / stride) for side in sides]
        window, outputs = width ** len(sides) * into * out, math.prod(sides)
        expected["conv"][f"conv{number}"] = window
        expected["local"][f"conv{number}"] = window * outputs
        expected["fc"][f"conv{number}"] = area * into * outputs * out
        into, area = out, outputs
    head = {"fc1": area * into * hidden * alpha, "fc2": hidden * alpha * classes}
    for kind, convs in expected.items():
        assert count_weights(f"{family}_{kind}", alpha, shape, classes) == {**convs, **head}


@pytest.mark.slow
def test_original_resnet_18():
    # torchvision's ResNet-18 has 11 689 512 parameters: 9 600 for normalisation, 1 000 biases,
    # a 7×7 stem (9 408 weights) instead of 3×3 (1 728).
    counts = count_weights("resnet18", 64, (224, 224, 3), 1000)
    assert sum(counts.values()) == 11_689_512 - 9_600 - 1_000 - 9_408 + 1_728
    wide = count_weights("resnet18", 64, (32, 32, 3), 10, kernel_size=15)
    assert wide["block1/conv1"] == 15 * 15 * 64 * 64
    assert wide["block3/conv_shortcut"] == 64 * 128


def test_images_too_large_to_allocate_are_counted():
    assert count_weights("s_fc", 150, (224, 224, 3), 10)["conv1"] == 3 * 224**4 * 150 // 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "alpha"), [("s_conv", 150), ("s_local", 150), ("s_fc", 150), ("d_conv", 14)]
)
def test_base_channels_of_the_papers_budget(name, alpha):
    assert base_channels(name, 256e6, (32, 32, 3), 10) == alpha


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(
    name=st.sampled_from(["d_local", "s_conv", "three_fc"]),
    budget=st.floats(10, 1e5),
    side=st.integers(4, 20),
)
def test_base_channels_are_the_nearest(name, budget, side):
    sized = {"d_local": "d_fc", "s_conv": "s_fc"}.get(name, name)
    alpha = base_channels(name, budget, (side, 1), 3)

    def distance(alpha):
        return abs(sum(count_weights(sized, alpha, (side, 1), 3).values()) - budget)

    assert distance(alpha) <= distance(alpha + 1)
    assert alpha == 1 or distance(alpha) <= distance(alpha - 1)


@pytest.mark.parametrize("budget", [0, -1, math.inf, math.nan])
def test_base_channels_refuses_a_budget_that_is_none(budget):
    with pytest.raises(ValueError, match="fc_weights must be a positive number"):
        base_channels("s_fc", budget, (8, 8, 1), 10)


@pytest.mark.parametrize("shape", [(8,), (8, 0, 1), (8.0, 8, 1)])
def test_image_shape_is_checked(shape):
    with pytest.raises(ValueError, match="image_shape must be integers"):
        count_weights("s_fc", 1, shape, 10)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="did you mean 'd_conv'"):
        base_channels("d_cnv", 1e6, (8, 8, 1), 10)
