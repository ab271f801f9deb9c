import copy
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from amint.branches import TapSpec, fits
from amint.errors import UsageError
from amint.heads import (
    HeadConfig,
    HeadSize,
    MintHead,
    head_config,
    head_weights,
    load_head_weights,
    new_head,
    parameter_share,
)
from amint.losses import membership_loss
from amint.nearness import nearness
from amint.split import TapPoint
from amint.whitening import Whitening

POINTS = {
    "channels_first": TapPoint("map", (6, 9, 7), "channels_first", 0.1),
    "channels_last": TapPoint("last", (9, 7, 6), "channels_last", 0.2),
    "tokens": TapPoint("tokens", (21, 6), "tokens", 0.3),
    "vector": TapPoint("vector", (6,), "vector", 0.4),
}


def head_for(*layouts, **sizes):
    return MintHead(head_config([POINTS[layout] for layout in layouts], HeadSize(**sizes)))


def maps_for(head, n, positions=None):
    def shape(tap):
        at = tap.positions if positions is None else positions[: len(tap.positions)]
        return (tap.channels, *at) if tap.layout == "channels_first" else (*at, tap.channels)

    return [torch.randn(n, *shape(tap), requires_grad=True) for tap in head.config.taps]


@pytest.mark.parametrize("values", [1, 2])
def test_a_vector_of_one_or_two_values_is_read_for_what_it_says(values):
    x = torch.linspace(-1, 1, 200)[:, None].repeat(1, values) + torch.arange(values)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = MintHead(head_config([TapPoint("t", (values,), "vector", 0.1)], HeadSize(width=8, hidden=8)))
    head.whiten([[x]])
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        membership_loss(head.each([x.flip(0)]), 100).backward()
        optimizer.step()
    with torch.no_grad():
        logits = head.eval().each([x]).squeeze(1)
        assert torch.allclose(head.each([x[:1]]).squeeze(1), logits[:1])
    assert (logits > 0).tolist()[:90] == [False] * 90
    assert (logits > 0).tolist()[110:] == [True] * 90


@pytest.mark.parametrize("layouts", [*([layout] for layout in POINTS), ["vector", "tokens"], list(POINTS)])
def test_one_float_logit_a_sample_and_a_gradient_for_every_parameter_and_map(layouts):
    head = head_for(*layouts).double()
    maps = [m.detach().double().requires_grad_() for m in maps_for(head, 16)]
    logits = head(maps)
    assert logits.shape == (16,)
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())
    assert all(m.grad.flatten(1).abs().amax(1).min() > 0 for m in maps)
    # When it is used, samples do not see each other.
    logits = head.eval()(maps)
    assert torch.allclose(head([m[3:5] for m in maps]), logits[3:5], rtol=1e-6)


def test_the_layout_only_says_where_the_channels_are():
    first, last = head_for("channels_first"), head_for("channels_last")
    load_head_weights(last, head_weights(first))
    (x,) = maps_for(first, 4)
    torch.testing.assert_close(first([x]), last([x.permute(0, 2, 3, 1)]))
    assert first.config.taps[0].positions == last.config.taps[0].positions == (9, 7)


def test_pooling_looks_for_a_detail_anywhere():
    head = head_for("tokens", pool=1)
    (x,) = maps_for(head, 4)
    torch.testing.assert_close(head([x]), head([x[:, torch.randperm(21)]]))
    ordered = head_for("tokens", pool=4)
    assert not torch.allclose(ordered([x]), ordered([x.flip(1)]))


@pytest.mark.parametrize("layout, positions", [("channels_first", (1, 1)), ("channels_last", (2, 3)), ("tokens", (3,))])
def test_maps_smaller_than_the_pool(layout, positions):
    tap = TapSpec(layout, 5, positions)
    head = MintHead(HeadConfig((tap,), (32,), pool=4, hidden=128))
    assert head(maps_for(head, 3)).isfinite().all()
    assert head.branches[0].dense.in_features == 32 * torch.Size(positions).numel()


@pytest.mark.parametrize("positions", [(30, 20), (1, 1)])
def test_inputs_of_another_size_than_the_split_was_resolved_with(positions):
    head = head_for("channels_first", "tokens")
    assert head(maps_for(head, 3, positions)).isfinite().all()


def test_sizes_scale_with_the_tapped_channels():
    channels = (1, 8, 32, 64, 128, 512)
    configs = [head_config([TapPoint("t", (c, 8, 8), "channels_first", 0.5)]) for c in channels]
    assert [config.width for config in configs] == [(32,), (32,), (32,), (64,), (128,), (128,)]
    sizes = [sum(p.numel() for p in MintHead(config).parameters()) for config in configs]
    assert sizes == sorted(set(sizes))
    assert head_config([POINTS["vector"], POINTS["tokens"]]).width == (32, 32)


# The places that are read as one vector, or None where a map is read place by place.
SMALL = [
    ((2_048, 1, 1), "channels_first", (1, 1)),
    ((4_096, 1, 1), "channels_first", (1, 1)),
    ((4_096, 2, 3), "channels_first", (1, 1)),
    ((512, 2, 2), "channels_first", (2, 2)),
    ((512, 3, 3), "channels_first", (2, 2)),
    ((1_024, 2, 2), "channels_first", (1, 2)),
    ((128, 4, 4), "channels_first", (4, 4)),
    ((129, 4, 4), "channels_first", (3, 4)),
    ((512, 4, 1), "channels_first", (4, 1)),
    ((513, 4, 1), "channels_first", (3, 1)),
    ((8, 5, 4), "channels_first", None),
    ((2, 3, 9), "channels_last", (2, 3)),
    ((3, 3, 512), "channels_last", (2, 2)),
    ((2, 5, 9), "channels_last", None),
    ((16, 128), "tokens", (16,)),
    ((10, 384), "tokens", (5,)),
    ((17, 8), "tokens", None),
    ((9,), "vector", None),
    ((300,), "vector", None),
]


@pytest.mark.parametrize("shape, layout, places", SMALL)
def test_a_map_with_nothing_to_pool_is_read_whole(shape, layout, places):
    point = TapPoint("t", shape, layout, 0.5)
    config = head_config([point])
    (tap,) = config.taps
    whole = places is not None
    assert tap.whole == whole
    if whole:
        assert tap.positions == places
    if whole or layout == "vector":
        head = MintHead(config)
        values = tap.channels * torch.Size(places or ()).numel()
        assert config.width == (min(256, max(32, values)),)
        assert head.branches[0].first.in_features == values
        assert isinstance(head.whitening[0], Whitening) == (values <= 2_048)
        assert head([torch.randn(3, *shape)]).shape == (3,)
    one_place = len(shape) == 3 and shape[1:] == (1, 1)
    # What is pooled to one place is small when it has one; more places than four each way are never few.
    assert head_config([point], HeadSize(pool=1)).taps[0].whole == one_place
    assert head_config([point], HeadSize(pool=8)).taps[0].whole == whole


@pytest.mark.parametrize("layout, shape", [("channels_first", (1_024, 3, 3)), ("channels_last", (3, 3, 1_024))])
def test_a_small_map_of_too_many_values_is_averaged_to_fewer_places(layout, shape):
    (tap,) = head_config([TapPoint("t", shape, layout, 0.5)]).taps
    assert tap.positions == (1, 2)
    x = torch.randn(4, *shape)
    columns = (x if layout == "channels_first" else x.movedim(-1, 1)).mean(dim=2)
    expected = torch.stack([columns[..., :2].mean(dim=2), columns[..., 1:].mean(dim=2)], dim=2)
    torch.testing.assert_close(tap.read(x), expected.flatten(1))


def test_tokens_of_too_many_values_are_averaged_with_their_neighbours():
    (tap,) = head_config([TapPoint("t", (10, 384), "tokens", 0.5)]).taps
    x = torch.randn(4, 10, 384)
    torch.testing.assert_close(tap.read(x), x.reshape(4, 5, 2, 384).mean(dim=2).movedim(1, 2).flatten(1))


@pytest.mark.parametrize("places", [(3, 4), (8, 6), (9, 5), (8,), ()])
def test_a_branch_fits_no_tap_that_gives_less_than_it_reads(places):
    point = TapPoint("t", (8, 8, 5), "channels_first", 0.5)
    assert fits(TapSpec("channels_first", 8, places, whole=True), point) == (places == (3, 4))
    assert not fits(TapSpec("channels_first", 9, (3, 4), whole=True), point)
    assert not fits(TapSpec("channels_first", 8, (3, 4)), point)
    assert fits(TapSpec("channels_first", 8, (8, 5)), point)


@pytest.mark.parametrize(
    "layout, shape", [("channels_first", (5, 2, 3)), ("channels_last", (2, 3, 5)), ("tokens", (6, 5))]
)
def test_a_small_map_is_the_vector_of_its_values(layout, shape):
    torch.manual_seed(0)
    small = MintHead(head_config([TapPoint("t", shape, layout, 0.5)]))
    vector = MintHead(head_config([TapPoint("t", (30,), "vector", 0.5)]))
    assert small.config.width == vector.config.width
    load_head_weights(vector, head_weights(small))
    x = torch.randn(9, *shape)
    read = small.config.taps[0].read(x)
    channels_first = x if layout == "channels_first" else x.movedim(-1, 1)
    assert torch.equal(read, channels_first.flatten(1))
    torch.testing.assert_close(small([x]), vector([read]))
    for head, seen in ((small, x), (vector, read)):
        head.whiten([[seen]])
    torch.testing.assert_close(small.eval()([x]), vector.eval()([read]))


@pytest.mark.parametrize(
    "layout, shape", [("channels_first", (5, 2, 3)), ("channels_last", (2, 3, 5)), ("tokens", (6, 5))]
)
def test_a_small_map_of_another_size_is_averaged_to_the_known_one(layout, shape):
    tap = head_config([TapPoint("t", shape, layout, 0.5)]).taps[0]
    x = torch.randn(4, *shape)
    axes = [i + 1 for i, size in enumerate(shape) if size != 5]
    larger = x
    for axis in axes:
        larger = larger.repeat_interleave(2, dim=axis)
    assert larger.shape != x.shape
    torch.testing.assert_close(tap.read(larger), tap.read(x))


def test_samples_of_more_dimensions_are_refused():
    with pytest.raises(UsageError, match=r"'video' gives 4-dimensional samples \(3, 4, 5, 6\)"):
        head_config([POINTS["vector"], TapPoint("video", (3, 4, 5, 6), "vector", 0.5)])


sizes, small = st.integers(1, 40), st.integers(1, 7)
axes = {"channels_first": 2, "channels_last": 2, "tokens": 1, "vector": 0}
specs = st.sampled_from(sorted(axes)).flatmap(
    lambda layout: st.builds(
        TapSpec,
        st.just(layout),
        sizes,
        st.tuples(*[small] * axes[layout]),
        whole=st.booleans() if axes[layout] else st.just(False),
    )
)
configs = st.lists(specs, min_size=1, max_size=3).flatmap(
    lambda taps: st.builds(HeadConfig, st.just(tuple(taps)), st.tuples(*[sizes] * len(taps)), st.integers(1, 6), sizes)
)


@given(configs)
def test_a_configuration_survives_json_and_gives_the_same_head(config):
    again = HeadConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again == config
    head = MintHead(config)
    load_head_weights(MintHead(again), head_weights(head))
    assert head([m.detach() for m in maps_for(head, 2)]).shape == (2,)


def edited(path, value):
    data = json.loads(json.dumps(head_for("channels_first", "tokens").config.to_json()))
    *way, last = path
    place = data
    for key in way:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return data


NONSENSE = [
    *(
        edited([field], value)
        for field in ("pool", "hidden")
        for value in (0, -1, 2.5, "4", True, None, 10**9, KeyError)
    ),
    *(edited(["width"], value) for value in ([], [32], [32, 32, 32], [32, "32"], [0, 32], 32, "32", KeyError)),
    *(edited(["taps"], value) for value in ([], {}, None, [None, None], "ab", KeyError)),
    *(edited(["taps", 0, "channels"], value) for value in (0, -3, 1.5, "3", None, True, 10**9, KeyError)),
    *(
        edited(["taps", 0, "positions"], value)
        for value in ([], [4], [4, 4, 4], [0, 4], [4, -4], ["4", 4], 4, KeyError)
    ),
    *(edited(["taps", 0, "whole"], value) for value in (0, 1, "yes", None)),
    *(edited(["taps", 1, "layout"], value) for value in ("channels_first", "vector", "voxels", 1, None, [], KeyError)),
    edited(["depth"], 3),
    edited(["taps", 0, "stride"], 2),
    {},
    None,
    [],
    "head",
]


@pytest.mark.parametrize("data", NONSENSE, ids=lambda data: str(data)[:120])
def test_nonsense_is_not_a_configuration(data):
    with pytest.raises(UsageError, match="not a description of a MINT head"):
        HeadConfig.from_json(data)


def test_a_description_cannot_ask_for_a_head_that_fills_the_memory():
    # Each size alone is allowed; built, the weights would take 150 GB.
    data = HeadConfig((TapSpec("channels_first", 65_536, (4, 4)),), (65_536,), 4, 128).to_json()
    with pytest.raises(UsageError, match=r"the MINT head would hold 3\d,\d+,\d+,\d+ numbers"):
        HeadConfig.from_json(data)
    assert HeadConfig.from_json(data | {"width": [32]}).width == (32,)


def test_the_share_is_of_the_models_own_parameters():
    head, model = nn.Linear(4, 3), nn.Linear(9, 10)
    assert parameter_share(head, model) == 15 / 100
    model.add_module("mint_head", head)
    assert parameter_share(head, model) == 15 / 100
    assert parameter_share(head, nn.ReLU()) == 15


def test_weights_are_copies_and_only_fit_the_same_head():
    head, other = head_for("tokens"), head_for("tokens")
    head(maps_for(head, 9))
    weights = head_weights(head)
    same_from_the_start = (".norm.", "common.weight", "common.bias")
    differing = {name: w for name, w in head_weights(other).items() if not any(n in name for n in same_from_the_start)}
    assert len(differing) == 15
    assert all(not torch.equal(w, weights[name]) for name, w in differing.items())
    load_head_weights(other, weights)
    with torch.no_grad():
        next(head.parameters()).add_(1)
    assert all(torch.equal(w, weights[name]) for name, w in head_weights(other).items())
    before = copy.deepcopy(head_weights(other))
    for wrong in (
        {},
        weights | {"more": torch.zeros(1)},
        {name: w for name, w in weights.items() if name != "join.0.bias"},
        weights | {"join.0.bias": torch.zeros(1)},
    ):
        with pytest.raises(UsageError, match="another MINT head; they differ in"):
            load_head_weights(other, wrong)
    assert all(torch.equal(w, before[name]) for name, w in head_weights(other).items())


def model():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))


def test_heads_of_older_descriptions_normalise_and_whiten_nothing():
    config = head_for("channels_first", "tokens").config
    since = ("ensemble", "normalised", "whitened")
    for known, names in enumerate((since, since[1:], since[2:])):
        data = {name: value for name, value in config.to_json().items() if name not in names}
        old = HeadConfig.from_json(json.loads(json.dumps(data)))
        assert old == replace(config, normalised=known == 2, whitened=False)
        kinds = {type(module) for module in MintHead(old).modules()}
        assert Whitening not in kinds
        assert (nn.BatchNorm1d in kinds) == (known == 2)
        assert (list(MintHead(old).buffers()) == []) == (known < 2)


def test_heads_of_older_descriptions_read_small_maps_place_by_place():
    config = head_config([TapPoint("t", (5, 2, 3), "channels_first", 0.5)])
    data = json.loads(json.dumps(config.to_json()))
    assert data["taps"][0].pop("whole") is True
    old = HeadConfig.from_json(data)
    assert old == replace(config, taps=(replace(config.taps[0], whole=False),))
    assert isinstance(MintHead(old).branches[0].first, nn.Conv2d)


def test_statistics_count_when_a_description_asks_for_too_much():
    one = TapSpec("vector", 2_048, ()), 2
    taps, width = zip(*[one] * 40, strict=True)
    with pytest.raises(UsageError, match=r"the MINT head would hold 33\d,\d+,\d+ numbers"):
        HeadConfig.from_json(HeadConfig(taps, width, 4, 2).to_json())
    assert HeadConfig.from_json(HeadConfig(taps, width, 4, 2, whitened=False).to_json()).taps == taps


def test_a_head_that_nobody_could_load_is_refused_before_it_learns():
    points = [TapPoint(f"t{i}", (128, 4, 4), "channels_first", 0.5) for i in range(32)]
    with pytest.raises(
        UsageError, match=r"the MINT head would hold 28\d,\d+,\d+ numbers, and may hold .* fewer modules"
    ):
        head_config(points)


def test_a_new_head_depends_on_the_seed_alone_and_leaves_the_random_state_alone():
    backbone, example = model(), torch.randn(2, 1, 8, 8)
    state = torch.get_rng_state()
    points, head, shape = new_head(backbone, "entry", example, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    _, again, _ = new_head(backbone, "entry", example, seed=3)
    _, other, _ = new_head(backbone, "entry", example, seed=4)
    assert [p.name for p in points] == ["0", "1"]
    assert shape == (1, 8, 8)
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True))
    assert not torch.equal(head.join[0].weight, other.join[0].weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_new_head_has_the_models_precision(dtype):
    _, head, _ = new_head(model().to(dtype), ["1"], torch.randn(2, 1, 8, 8), seed=0)
    assert {p.dtype for p in head.parameters()} == {dtype}
    assert head([torch.randn(2, 8, 6, 6, dtype=dtype)]).dtype == torch.float32


def test_the_size_of_a_head_is_a_choice():
    backbone, example = model(), torch.randn(2, 1, 8, 8)
    _, default, _ = new_head(backbone, "entry", example, seed=0)
    _, large, _ = new_head(backbone, "entry", example, seed=0, size=HeadSize(width=96, pool=2, hidden=40))
    assert set(large.config.width) == {96}
    assert (large.config.pool, large.config.hidden) == (2, 40)
    assert HeadConfig.from_json(large.config.to_json()) == large.config != default.config


def test_the_heads_of_an_ensemble_start_apart_and_score_by_their_mean():
    backbone, example = model(), torch.randn(2, 1, 8, 8)
    _, alone, _ = new_head(backbone, "entry", example, seed=5)
    points, three, _ = new_head(backbone, "entry", example, seed=5, size=HeadSize(ensemble=3))
    maps = [torch.randn(4, *point.shape) for point in points]
    each = three.each(maps)
    assert each.shape == (4, 3)
    assert alone.each(maps).shape == (4, 1)
    torch.testing.assert_close(three(maps), nearness(each, 0.2).mean(1))
    torch.testing.assert_close(each[:, 0], alone.each(maps).squeeze(1))
    assert not torch.allclose(each[:, 1], each[:, 2])
    assert sum(p.numel() for p in three.parameters()) == 3 * sum(p.numel() for p in alone.parameters())


def test_every_head_of_an_ensemble_learns_from_its_own_answers_alone():
    points, pair, _ = new_head(model(), "entry", torch.randn(2, 1, 8, 8), seed=5, size=HeadSize(ensemble=2))
    maps = [torch.randn(6, *point.shape) for point in points]
    membership_loss(pair.each(maps), 3).backward()
    (second,) = pair.others
    maps = [white(x) for white, x in zip(pair.eval().whitening, maps, strict=True)]
    pair.train()
    got = [p.grad.clone() for p in second.parameters()]
    pair.zero_grad()
    (membership_loss(second.each(maps), 3) / 2).backward()
    for gradient, p in zip(got, second.parameters(), strict=True):
        torch.testing.assert_close(gradient, p.grad)


def test_a_description_from_before_there_were_ensembles_has_one_head():
    described = head_for("channels_first").config.to_json()
    assert described.pop("ensemble") == 1
    assert HeadConfig.from_json(described).ensemble == 1


@pytest.mark.parametrize("ensemble", [0, -1, 65, 1.0, True])
def test_descriptions_of_impossible_ensembles_are_refused(ensemble):
    with pytest.raises(UsageError):
        HeadSize(ensemble=ensemble)
    described = head_for("channels_first").config.to_json() | {"ensemble": ensemble}
    with pytest.raises(UsageError, match="not a description of a MINT head"):
        HeadConfig.from_json(described)


@pytest.mark.parametrize("sizes", [{"width": 0}, {"pool": 1.5}, {"hidden": -3}, {"hidden": True}, {"width": 10**6}])
def test_sizes_that_cannot_be_are_refused(sizes):
    with pytest.raises(UsageError, match="whole numbers from 1 to 65,536"):
        HeadSize(**sizes)
