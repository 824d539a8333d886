"""Codes of supports: every matrix comes back, every set has one number, locality is cheap."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lconv_jax import models
from lconv_jax.analysis.locality import shuffle_support
from lconv_jax.mdl import supports
from lconv_jax.mdl.coder import DamagedError, Decoder, Encoder, natural
from lconv_jax.mdl.supports import SUPPORTS, as_grid, code_support, make_plan

some = settings(deadline=None, max_examples=60)

shapes = (
    st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3))  # images
    | st.tuples(st.integers(1, 12), st.integers(1, 3))  # signals
    | st.tuples(st.integers(0, 20))  # hidden units
)


@st.composite
def made_supports(draw):
    """(shape, [inputs, units]), with windows, repeats, and empty and full inputs and units."""
    shape, count = draw(shapes), draw(st.integers(0, 8))
    grid = as_grid(shape)
    random = np.random.default_rng(draw(st.integers(0, 2**20)))
    boxes = random.random((*grid, count)) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    stencil = random.random((*random.integers(1, 4, 2), grid[2])) < 0.6
    for unit in range(count):
        kind = draw(st.sampled_from(["as is", "window", "stencil", "empty", "full"]))
        if kind in ("window", "stencil") and math.prod(grid):
            mine = stencil if kind == "stencil" else random.random(stencil.shape) < 0.6
            boxes[..., unit] = shifted(mine, grid, *random.integers(-2, grid[:2]))
        elif kind in ("empty", "full"):
            boxes[..., unit] = kind == "full"
    if draw(st.booleans()):
        boxes[random.random(grid) < 0.3] = draw(st.booleans())
    return shape, boxes.reshape(math.prod(grid), count)


def shifted(stencil, grid, row, column):
    """What shows of a stencil whose corner is at (row, column)."""
    box = np.zeros(grid, bool)
    for i, j in np.ndindex(stencil.shape[:2]):
        if 0 <= row + i < grid[0] and 0 <= column + j < grid[1]:
            box[row + i, column + j] = stencil[i, j]
    return box


def encoded(support, grid, mode, sortable=False, mask=False, values=None):
    """(encoder, plan) of a support."""
    values = support.astype(int) if values is None else values
    plan = make_plan(support, grid, mode, sortable, mask, values)
    encoder = Encoder()
    ordered = support[:, plan.order]
    written = code_support(encoder, plan, ordered, grid, support.shape[1], mode, sortable)
    if mode != "full":
        np.testing.assert_array_equal(written, ordered)
    return encoder, plan


def bits_of(support, grid, mode, sortable=True):
    return encoded(support, grid, mode, sortable)[0].bits


@some
@given(made_supports(), st.sampled_from(SUPPORTS), st.booleans(), st.booleans())
@example(((1,), np.zeros((1, 0), bool)), "local", True, True)
@example(((0,), np.zeros((0, 4), bool)), "local", True, True)
@example(((0,), np.zeros((0, 4), bool)), "shared", True, False)
@example(((5, 5, 0), np.zeros((0, 3), bool)), "shared", True, False)
@example(((5, 5, 0), np.zeros((0, 3), bool)), "near", False, False)
@example(((3, 3, 2), np.ones((18, 3), bool)), "local", True, False)
@example(((3, 3, 2), np.ones((18, 3), bool)), "shared", True, False)
def test_supports_come_back(made, mode, sortable, mask):
    shape, support = made
    grid, count = as_grid(shape), support.shape[1]
    encoder, plan = encoded(support, grid, mode, sortable, mask and mode in ("unit", "local"))
    assert sorted(plan.order) == list(range(count))
    if not sortable:
        assert plan.order.tolist() == list(range(count))
    decoder = Decoder(encoder.getvalue())
    found = code_support(decoder, None, None, grid, count, mode, sortable)
    decoder.finish()
    assert found.dtype == bool
    expected = np.ones_like(support) if mode == "full" else support[:, plan.order]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", SUPPORTS)
def test_every_support_of_a_small_layer_comes_back(mode):
    seen = set()
    for cells in itertools.product([False, True], repeat=8):
        support = np.array(cells).reshape(4, 2)
        encoder, plan = encoded(support, (2, 2, 1), mode, sortable=True)
        found = code_support(Decoder(encoder.getvalue()), None, None, (2, 2, 1), 2, mode, True)
        assert mode == "full" or np.array_equal(found, support[:, plan.order])
        seen.add(found.tobytes())
    # Sixteen supports of one unit, of which two are taken in no order.
    pairs = {"full": 1, "layer": 256, "near": 256}
    assert len(seen) in (pairs.get(mode, 16 * 17 // 2), 16 * 17 // 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (1, 4, 2), (4, 1, 1), (2, 3, 1), (2, 3, 2), (3, 3, 1)]
)
def test_sets_that_touch_two_edges_are_numbered_in_order(shape):
    cells = math.prod(shape)
    row, column = np.divmod(np.arange(cells) // shape[2], shape[1])
    # Some cells are missing, as inputs that no unit reads are.
    for there in (np.ones(cells, bool), np.arange(cells) % 4 != 1):
        top, left = row[there] == 0, column[there] == 0
        for count in range(1, len(top) + 1):
            sets = itertools.combinations(range(len(top)), count)
            touching = [s for s in sets if top[list(s)].any() and left[list(s)].any()]
            for rank, members in enumerate(touching):
                chosen = np.isin(np.arange(len(top)), members)
                assert supports._touching_rank(chosen, top, left) == rank
                found = supports._touching_unrank(rank, count, top, left)
                np.testing.assert_array_equal(found, chosen)


@some
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3)),
    st.integers(0, 2**20),
    st.data(),
)
def test_windows_of_the_largest_side_hold_every_set_once(grid, seed, data):
    live = np.random.default_rng(seed).random(math.prod(grid)) < 0.8
    windows = supports._Windows(grid, live)
    largest = len(windows._sides)
    count = data.draw(st.integers(1, max(1, int(live.sum()))))
    assert windows.size((largest, count)) == math.comb(int(live.sum()), count)
    assert windows.size((0, 0)) == 1


@pytest.mark.parametrize("grid", [(2, 3, 2), (1, 8, 1), (3, 3, 1), (1, 1, 5)])
def test_a_class_numbers_its_sets_without_gaps(grid):
    cells = math.prod(grid)
    windows = supports._Windows(grid, np.ones(cells, bool))
    places = np.array(list(np.ndindex(grid)))[:, :2]
    for index, side in enumerate(windows._sides, 1):
        for count in range(1, cells + 1):
            # By hand: all sets whose rows and columns span at most a side.
            sets = [
                members
                for members in itertools.combinations(range(cells), count)
                if (np.ptp(places[list(members)], axis=0) < side).all()
            ]
            size = windows.size((index, count))
            assert size == len(sets)
            numbered = [
                windows.support(supports.Unit((index, count), r, size)) for r in range(size)
            ]
            found = sorted(tuple(np.flatnonzero(column).tolist()) for column in numbered)
            assert found == sorted(sets)


@some
@given(made_supports(), st.sampled_from(["_ByCount", "_Windows", "_Stencils"]))
def test_a_class_and_a_rank_name_a_support(made, scheme):
    shape, support = made
    grid = as_grid(shape)
    live = support.any(1)
    arguments = {"_ByCount": (live,), "_Windows": (grid, live), "_Stencils": (grid,)}
    codec = getattr(supports, scheme)(*arguments[scheme])
    if scheme == "_Stencils":
        codec.stencils = supports._dictionary(support, grid)
    for column in support.T:
        unit = codec.unit(column)
        assert 0 <= unit.rank < unit.size == codec.size(unit.kind)
        np.testing.assert_array_equal(codec.support(unit), column)


def test_units_lie_in_the_smallest_window_that_holds_them():
    grid = (8, 8, 1)
    windows = supports._Windows(grid, np.ones(64, bool))
    assert windows._sides == [1, 2, 3, 4, 6, 8]
    for side, height, width in [(0, 1, 1), (1, 2, 1), (2, 1, 3), (4, 5, 2), (4, 6, 6), (5, 7, 1)]:
        box = np.zeros(grid, bool)
        box[8 - height, 0] = box[7, width - 1] = box[8 - height, width - 1] = True
        assert windows.unit(box.reshape(-1)).kind == (side + 1, int(box.sum()))


def test_a_stencil_is_found_whole_and_cut_off_at_every_edge():
    grid = (6, 5, 2)
    random = np.random.default_rng(2)
    stencil = random.random((3, 3, 2)) < 0.5
    stencil[[0, 2, 1, 1], [1, 1, 0, 2], 0] = True  # no empty row or column at its border
    units = [
        shifted(stencil, grid, row, column).reshape(-1)
        for row in range(-1, 5)
        for column in range(-1, 4)
    ]
    support = np.stack(units, 1)
    dictionary = supports._dictionary(support, grid)
    assert np.array_equal(dictionary[0], stencil)
    codec = supports._Stencils(grid)
    codec.stencils = [stencil]
    kinds = [codec.unit(column).kind for column in support.T]
    assert all(kind == (0, 0) for kind in kinds)


def test_stencils_used_once_are_not_in_the_dictionary():
    support = np.zeros((9, 4), bool)
    support[[0, 1], 0] = support[[1, 2], 1] = support[[0, 3], 2] = support[8, 3] = True
    stencils = supports._dictionary(support, (3, 3, 1))
    assert [stencil.shape for stencil in stencils] == [(1, 2, 1)]


@pytest.mark.parametrize("mode", ["unit", "local", "shared"])
@pytest.mark.parametrize("sparse", [True, False])
def test_sorted_units_cost_their_number_of_orders_less(mode, sparse):
    random = np.random.default_rng(0)
    count = 200
    support = random.random((64, count)) < (0.05 if sparse else 0.5)
    given = bits_of(support, (8, 8, 1), mode, sortable=False)
    saved = given - bits_of(support, (8, 8, 1), mode, sortable=True)
    orders = math.lgamma(count + 1) / math.log(2)
    # Units of one support have fewer orders; a dense layer has none of these.
    assert saved <= orders + 1
    assert saved >= orders * (0.75 if sparse else 0.97)


@some
@given(made_supports(), st.sampled_from(["unit", "local", "shared"]), st.integers(0, 2**20))
def test_the_order_of_sortable_units_leaves_no_trace(made, mode, seed):
    shape, support = made
    shuffled = np.random.default_rng(seed).permutation(support.T).T
    first, _ = encoded(support, as_grid(shape), mode, sortable=True)
    second, _ = encoded(shuffled, as_grid(shape), mode, sortable=True)
    assert first.getvalue() == second.getvalue()


def test_the_mask_pays_where_inputs_are_not_read():
    random = np.random.default_rng(0)
    support = np.zeros((200, 50), bool)
    support[::8] = random.random((25, 50)) < 0.4
    grid = (1, 200, 1)
    masked, _ = encoded(support, grid, "unit", True, mask=True)
    told = sum(math.log2(math.comb(25, int(n))) for n in support.sum(0))
    assert masked.bits <= told + math.log2(math.comb(200, 25)) + 50 * 5
    assert masked.bits < 0.7 * bits_of(support, grid, "unit")


def test_the_layer_code_is_the_logarithm_of_the_number_of_matrices():
    support = np.random.default_rng(0).random((30, 20)) < 0.2
    bits = bits_of(support, (1, 30, 1), "layer", sortable=False)
    exact = math.log2(601) + math.log2(math.comb(600, int(support.sum())))
    assert bits == pytest.approx(exact, abs=0.02)
    assert bits_of(support, (1, 30, 1), "full", sortable=False) == 0


def test_a_dictionary_of_too_many_stencils_is_refused():
    encoder = Encoder()
    natural(encoder, 256)
    with pytest.raises(DamagedError, match="more stencils"):
        code_support(Decoder(encoder.getvalue()), None, None, (2, 2, 1), 1, "shared", False)


def test_a_support_that_is_not_there_is_refused():
    encoder = Encoder()
    scheme = supports._Windows((2, 2, 1), np.ones(4, bool))
    encoder.digit(0, 2)  # no mask
    scheme.code_kind(encoder, (2, 5))  # five of four inputs
    with pytest.raises(DamagedError, match="not there"):
        code_support(Decoder(encoder.getvalue()), None, None, (2, 2, 1), 1, "local", False)


@functools.cache
def twin_support(nonzeros=12, alpha=4, side=12):
    """The first layer of an s_fc that computes an s_conv of sparse kernels."""
    shape = (side, side, 1)
    conv, dense = (models.create(name, alpha=alpha, num_classes=10) for name in ("s_conv", "s_fc"))
    shapes = jax.eval_shape(conv.init, jax.random.key(0), np.zeros((1, *shape)))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    kernel = np.zeros((81, alpha), np.float32)
    random = np.random.default_rng(0)
    for unit in range(alpha):
        kernel[random.choice(81, nonzeros, replace=False), unit] = 1 + unit
    params = dict(variables["params"])
    params["conv1"] = {"kernel": kernel.reshape(9, 9, 1, alpha)}
    embedded = models.embed({"params": params}, conv, dense, shape)
    support = np.asarray(embedded["params"]["conv1"]["kernel"]) != 0
    return support[:, support.any(0)], shape


@pytest.mark.slow
def test_a_convolution_in_a_dense_layer_costs_its_stencils_and_places():
    support, grid = twin_support(nonzeros=81, alpha=4)
    count, places = support.shape[1], 20 * 20
    assert count == 4 * 36
    bits = bits_of(support, grid, "shared")
    # Places in no order, sent in parts of 2⁻⁸, and one stencil, a set of 81 in a window of 12².
    unordered = math.log2(math.comb(places + count - 1, count))
    stencil = math.log2(math.comb(144, 81))
    assert unordered <= bits <= unordered + stencil + 60
    assert bits < bits_of(support, grid, "local") / 2


def test_sparse_kernels_of_a_convolution_are_told_once():
    support, grid = twin_support()
    shared, local, unit = (bits_of(support, grid, mode) for mode in ("shared", "local", "unit"))
    assert shared < unit / 2.5
    assert shared < local < unit


@pytest.mark.slow
def test_shuffled_supports_have_no_cheap_code():
    support, grid = twin_support()
    for seed in range(3):
        shuffled = shuffle_support(support, np.random.default_rng(seed), 40)
        assert (shuffled.sum(0) == support.sum(0)).all()
        unit = bits_of(shuffled, grid, "unit")
        # Counts decide what `unit` costs, and they stay.
        assert unit == pytest.approx(bits_of(support, grid, "unit"), rel=0.01)
        for mode in ("local", "shared"):
            bits = bits_of(shuffled, grid, mode)
            assert bits > bits_of(support, grid, mode)
            assert bits > 0.98 * unit
        assert bits_of(shuffled, grid, "shared") > 2.5 * bits_of(support, grid, "shared")


def test_near_learns_that_units_are_blobs():
    random = np.random.default_rng(0)
    blobs = np.zeros((14, 14, 1, 60), bool)
    for unit in range(60):
        row, column = random.integers(0, 10, 2)
        blobs[row : row + 4, column : column + 4, 0, unit] = random.random((4, 4)) < 0.8
    support = blobs.reshape(196, 60)
    near = bits_of(support, (14, 14, 1), "near")
    assert near < 0.65 * bits_of(support, (14, 14, 1), "unit")
    shuffled = shuffle_support(support, random, 40)
    assert bits_of(shuffled, (14, 14, 1), "near") > 1.5 * near
