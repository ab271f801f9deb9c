import copy
import json
import random
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler
from toys import images

import amint
from amint.commitments import (
    Commitment,
    Proof,
    check_proof,
    check_public,
    check_roles,
    commit,
    prove,
    read_public,
)
from amint.errors import InputError, RoleOverlapError, UsageError

MEMBERS, EXTERNAL, CALIBRATION = images(9, 1), images(5, 2), images(4, 3)
DATA = {"members": MEMBERS, "external": EXTERNAL, "calibration": CALIBRATION}
SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def commitment():
    return commit(**DATA, secret=SECRET)


def drawn(n=30, seed=7):
    pool = images(n, 4)
    roles = amint.assign_roles(n, members=10, external=6, calibration=8, seed=seed)
    return pool, roles, {role: pool[list(getattr(roles, role))] for role in DATA}


@pytest.mark.parametrize("role", DATA)
def test_every_sample_proves_its_role_and_place_and_nothing_else(commitment, role):
    public = commitment.public()
    for place, x in enumerate(DATA[role]):
        proof = prove(commitment, x)
        assert (proof.role, proof.place) == (role, place)
        assert check_proof(public, proof, x)
        assert check_proof(public["root"], proof, x)
        for others in DATA.values():
            assert sum(check_proof(public, proof, other) for other in others) == (others is DATA[role])


def test_the_root_is_a_function_of_secret_samples_order_and_roles(commitment):
    again = commit(**DATA, secret=SECRET)
    assert again.public() == commitment.public()
    swapped = {**DATA, "external": CALIBRATION, "calibration": EXTERNAL}
    others = [
        commit(**DATA),
        commit(**DATA),
        commit(**{**DATA, "members": MEMBERS.flip(0)}, secret=SECRET),
        commit(**{**DATA, "members": MEMBERS[:-1]}, secret=SECRET),
        commit(**swapped, secret=SECRET),
        commit(**{role: x.double() for role, x in DATA.items()}, secret=SECRET),
        commit(**{role: x.flatten(1) for role, x in DATA.items()}, secret=SECRET),
    ]
    assert len({c.root for c in [commitment, *others]}) == 8
    assert len({c.public()["tree"] for c in [commitment, *others]}) == 8


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_sample_with_one_other_bit_is_another_sample(commitment, data):
    row = data.draw(st.integers(0, 8))
    x = MEMBERS[row].clone()
    proof = prove(commitment, x)
    bits = x.view(torch.int32)
    bits.view(-1)[data.draw(st.integers(0, x.numel() - 1))] ^= 1 << data.draw(st.integers(0, 30))
    assert not check_proof(commitment.root, proof, x)
    with pytest.raises(InputError, match="was not committed"):
        prove(commitment, x)


def places(value, path=()):
    """The path to each value inside plain JSON values."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))
    else:
        yield path


def at(value, path):
    for key in path:
        value = value[key]
    return value


def put(value, path, new):
    changed = copy.deepcopy(value)
    at(changed, path[:-1])[path[-1]] = new
    return changed


def other_values(value):
    if isinstance(value, str):
        flips = [value[:i] + chr(ord(c) ^ 1) + value[i + 1 :] for i, c in enumerate(value)]
        return [*flips, value[:-1], value + "0", value.upper() + " ", None, 5, []]
    return [1, -1, 2**70, 1.5, "x", True, {}, None] if value is None else [value + 1, value - 1, -1, 2**70, "x", None]


def test_whatever_is_changed_in_a_proof_it_fails(commitment):
    x = MEMBERS[3]
    data = prove(commitment, x).to_json()
    assert check_proof(commitment.root, Proof.from_json(json.loads(json.dumps(data))), x)
    tried = 0
    for path in places(data):
        for new in other_values(at(data, path)):
            changed = put(data, path, new)
            if changed == data:
                continue
            tried += 1
            try:
                assert not check_proof(commitment.root, Proof.from_json(changed), x), (path, new)
            except InputError as error:
                assert "this is not" in str(error)  # noqa: PT017
    assert tried > 500


@pytest.mark.parametrize(
    "data", [None, [], 3, "x", {}, {"format": "amint-proof"}, {"salt": 3, "path": 3}, {"salt": "", "path": {"a": 1}}]
)
def test_what_is_no_proof(data):
    with pytest.raises(InputError, match="not a proof of inclusion"):
        Proof.from_json(data)


def test_a_proof_of_another_commitment_or_a_salt_of_another_length_fails(commitment):
    x = MEMBERS[0]
    other = commit(**DATA)
    assert not check_proof(other.public(), prove(commitment, x), x)
    assert not check_proof(commitment.public(), prove(other, x), x)
    proof = prove(commitment, x)
    for salt in (b"", proof.salt[:-1], proof.salt + b"\0"):
        assert not check_proof(commitment.root, replace(proof, salt=salt), x)
    for role, place in [("external", 0), ("unseen", 0), ("members", -1), ("members", 9)]:
        assert not check_proof(commitment.root, replace(proof, role=role, place=place), x)


def test_a_proof_gives_away_only_its_own_salt(commitment):
    data = json.dumps(prove(commitment, MEMBERS[2]).to_json())
    public = json.dumps(commitment.public())
    digests = [digest.hex() for found in commitment.digests.values() for digest in found]
    salts = [commitment.salt(role, i).hex() for role in DATA for i in range(len(DATA[role]))]
    assert len(set(salts)) == 18
    assert [salt for salt in salts if salt in data] == [commitment.salt("members", 2).hex()]
    for text in (data, public, repr(commitment)):
        assert SECRET.hex() not in text
        assert repr(SECRET) not in text
        assert not [digest for digest in digests if digest in text]


class Augmented(Dataset):
    """Rows with noise from each of the global generators, on request."""

    def __init__(self, kind=None):
        self.kind = kind

    def __len__(self):
        return len(MEMBERS)

    def __getitem__(self, i):
        noise = {"torch": lambda: torch.rand(()), "numpy": np.random.rand, "python": random.random}
        return MEMBERS[i] + (noise[self.kind]() if self.kind else 0), i


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(MEMBERS)


def by_name(rows):
    return {"label": "x", "image": torch.stack([x for x, _ in rows])}


SOURCES = {
    "tensor": lambda: MEMBERS,
    "dataset": Augmented,
    "tuples": lambda: TensorDataset(MEMBERS, torch.arange(9)),
    "loader": lambda: DataLoader(Augmented(), batch_size=4),
    "shuffling loader": lambda: DataLoader(Augmented(), batch_size=4, shuffle=True, drop_last=True),
    "named": lambda: DataLoader(Augmented(), 4, collate_fn=by_name),
    "streamed": Streamed,
    "generator": lambda: (batch for batch in MEMBERS.split(2)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_any_source_of_the_same_rows_has_the_same_root(commitment, name):
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert commit(**{**DATA, "members": SOURCES[name]()}, secret=SECRET).root == commitment.root
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    assert np.array_equal(state[2], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("kind", ["torch", "numpy", "python"])
def test_augmented_rows_are_refused(kind):
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    for source in (Augmented(kind), DataLoader(Augmented(kind), 4, shuffle=True)):
        with pytest.raises(UsageError, match=r"members differ each time they are read.*without random augmentation"):
            commit(members=source)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    assert np.array_equal(state[2], np.random.get_state()[1])  # noqa: NPY002


def test_a_sampler_that_draws_rows_at_random_is_refused():
    sampler = WeightedRandomSampler(torch.ones(9), 1000)
    with pytest.raises(UsageError, match="external differ each time"):
        commit(members=MEMBERS, external=DataLoader(TensorDataset(EXTERNAL.repeat(2, 1, 1, 1)), 100, sampler=sampler))


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.bool, torch.int64, torch.float16, torch.bfloat16, torch.float64, torch.complex64]
)
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 3, 2)])
def test_rows_of_any_kind(dtype, shape):
    rows = torch.arange(24).reshape(2, -1)[:, : int(np.prod(shape, dtype=int))].reshape(2, *shape).to(dtype)
    if rows[0].numel() == 0:
        rows = rows[:1]
    commitment = commit(members=rows)
    proof = prove(commitment, rows[-1], place=len(rows) - 1)
    assert check_proof(commitment.root, proof, rows[-1].clone())
    assert not check_proof(commitment.root, proof, rows[-1].unsqueeze(0))


def test_memory_order_does_not_matter():
    rows = MEMBERS.to(memory_format=torch.channels_last)
    assert commit(members=rows, secret=SECRET).root == commit(members=MEMBERS, secret=SECRET).root
    wide = torch.stack([MEMBERS[0], MEMBERS[1]], -1)
    commitment = commit(members=MEMBERS)
    assert check_proof(commitment.root, prove(commitment, wide[..., 1]), wide[..., 1])


def test_copies_in_one_role_are_told_apart_by_their_place():
    commitment = commit(members=torch.cat([MEMBERS, MEMBERS[:1]]), external=EXTERNAL)
    with pytest.raises(UsageError, match=r"2 rows of members: 0, 9. Say which with place=, got None"):
        prove(commitment, MEMBERS[0])
    with pytest.raises(UsageError, match="got 4"):
        prove(commitment, MEMBERS[0], place=4)
    for place in (0, 9):
        assert check_proof(commitment.root, prove(commitment, MEMBERS[0], place=place), MEMBERS[0])


def test_a_sample_in_two_roles_is_refused():
    with pytest.raises(RoleOverlapError, match=r"2 different samples are members and calibration .*row 1 of calib"):
        commit(members=MEMBERS, external=EXTERNAL, calibration=torch.cat([CALIBRATION[:1], MEMBERS[:2], MEMBERS[:1]]))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"members": MEMBERS[:0]}, "nothing to commit to"),
        ({"members": MEMBERS, "secret": b"short"}, "at least 32 random bytes, got 5"),
        ({"members": 3}, "expected a DataLoader"),
        ({"members": ["a"]}, "yielded"),
    ],
)
def test_what_cannot_be_committed(arguments, message):
    with pytest.raises((UsageError, TypeError), match=message):
        commit(**arguments)


@pytest.mark.parametrize(
    "x", [MEMBERS[:1], MEMBERS[0].double(), MEMBERS[0].flatten(), MEMBERS[0] + 1e-3, EXTERNAL[0, 0]]
)
def test_another_sample_cannot_be_proved(commitment, x):
    with pytest.raises(InputError, match=r"was not committed\. Expected one row without batch dimension"):
        prove(commitment, x)


def test_the_owners_file_comes_back_and_is_the_owners_alone(commitment, tmp_path):
    path = commitment.save(tmp_path / "private.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = Commitment.load(path)
    assert loaded == commitment
    assert prove(loaded, MEMBERS[1]) == prove(commitment, MEMBERS[1])
    with pytest.raises(UsageError, match="exists already and will not be replaced"):
        commit(**DATA).save(path)
    assert Commitment.load(path) == commitment


def test_public_part_and_proof_come_back(commitment, tmp_path):
    public = read_public(commitment.publish(tmp_path / "public.json"))
    proof = Proof.load(prove(commitment, MEMBERS[1]).save(tmp_path / "proof.json"))
    assert check_proof(public, proof, MEMBERS[1])
    assert public == commitment.public()


def test_edited_files_are_refused(tmp_path):
    _, roles, parts = drawn()
    commitment = commit(**parts, roles=roles)
    for name, read in (("private", Commitment.load), ("public", read_public)):
        path = commitment.save(tmp_path / "private") if name == "private" else commitment.publish(tmp_path / "public")
        data = json.loads(path.read_text())
        for place in places(data):
            for new in other_values(at(data, place))[-9:]:
                path.write_text(json.dumps(put(data, place, new)))
                if put(data, place, new) != data:
                    with pytest.raises(InputError, match="is not"):
                        read(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000, '{"secret": "00"}', "\x00"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_text(content)
    for read in (Commitment.load, read_public, Proof.load):
        with pytest.raises(InputError, match="is not"):
            read(path)
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / "nothing.json")
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path)


def test_the_draw_is_recorded_and_can_be_repeated(tmp_path):
    pool, roles, parts = drawn()
    public = commit(**parts, roles=roles).public()
    again = check_roles(json.loads(json.dumps(public)), 30)
    assert again == roles
    commit(**parts, roles=roles).publish(tmp_path / "public.json")
    assert check_roles(tmp_path / "public.json", 30) == check_roles(str(tmp_path / "public.json"), 30) == roles
    assert public["draw"]["seed"] == 7
    proof = prove(commit(**parts, roles=roles), pool[roles.calibration[3]])
    assert again.calibration[proof.place] == roles.calibration[3]


def test_a_draw_that_is_not_the_seeds_is_found():
    _, roles, parts = drawn()
    with pytest.raises(UsageError, match=r"not what amint.assign_roles draws with seed 8"):
        commit(**parts, roles=replace(roles, seed=8))
    swapped = replace(roles, members=roles.external, external=roles.members)
    with pytest.raises(UsageError, match=r"the roles were drawn for .* but the data holds"):
        commit(**parts, roles=swapped)
    honest = commit(**parts, roles=roles)
    for change in ({"seed": 8}, {"rows_sha256": "0" * 64}, {"unknown": 1}, {"seed": "x"}, {"members": 2**80}):
        lie = replace(honest, draw={**honest.draw, **change}).public()
        assert check_public(lie) == lie
        with pytest.raises(InputError, match="the recorded draw of the roles cannot be repeated"):
            check_roles(lie, 30)
    with pytest.raises(InputError, match="out of 30 samples, not out of 31"):
        check_roles(honest.public(), 31)
    with pytest.raises(InputError, match="cannot be repeated: 'seed' is missing"):
        check_roles(replace(honest, draw={"n": 30, "members": 10, "external": 6, "calibration": 8}).public(), 30)
    with pytest.raises(InputError, match="records no draw"):
        check_roles(commit(**parts).public(), 30)


TRACKS = torch.tensor([7, 7, 7, 7, 7, 1, 1, 4, 4, 4, 2, 2, 2, 2, 9, 9, 9, 3, 3, 5, 5, 5, 5, 8, 8, 8, 6, 6, 0, 0])


def drawn_in_groups(groups=TRACKS, seed=7):
    roles = amint.assign_roles(30, members=np.int64(10), external=6, calibration=8, seed=seed, groups=groups)
    return roles, {role: images(30, 4)[list(getattr(roles, role))] for role in DATA}


def test_a_draw_in_groups_is_recorded_as_asked_and_can_be_repeated():
    roles, parts = drawn_in_groups()
    commitment = commit(**parts, roles=roles, groups=TRACKS)
    public = json.loads(json.dumps(commitment.public()))
    assert {role: public["draw"][role] for role in DATA} == {"members": 10, "external": 6, "calibration": 8}
    assert public["counts"] == {role: len(part) for role, part in parts.items()}
    assert tuple(public["counts"].values()) != (10, 6, 8)
    for same in (TRACKS, TRACKS.numpy(), TRACKS.tolist(), [f"track {track}" for track in TRACKS]):
        assert check_roles(public, 30, same) == roles


def test_a_draw_in_groups_asks_for_the_groups():
    roles, parts = drawn_in_groups()
    public = commit(**parts, roles=roles, groups=TRACKS).public()
    missing, others = "drawn in groups, which are missing: pass groups=", "the groups given are not those"
    with pytest.raises(UsageError, match=missing):
        commit(**parts, roles=roles)
    with pytest.raises(InputError, match=f"cannot be repeated: .*{missing}"):
        check_roles(public, 30)
    for wrong in (TRACKS.flip(0), TRACKS.clamp(max=8), torch.arange(30)):
        with pytest.raises(UsageError, match=others):
            commit(**parts, roles=roles, groups=wrong)
        with pytest.raises(InputError, match=f"cannot be repeated: {others}"):
            check_roles(public, 30, wrong)
    with pytest.raises(InputError, match="expected a group for each of 30 rows"):
        check_roles(public, 30, TRACKS[:-1])


def test_groups_where_none_were_drawn_in_are_refused():
    _, roles, parts = drawn()
    with pytest.raises(UsageError, match=r"the groups given are not those .* drawn without groups"):
        commit(**parts, roles=roles, groups=TRACKS)
    with pytest.raises(InputError, match="drawn without groups"):
        check_roles(commit(**parts, roles=roles).public(), 30, TRACKS)
    assert check_roles(commit(**parts, roles=roles, groups=range(30)).public(), 30) == roles


def test_roles_in_groups_that_were_picked_by_hand_are_found():
    roles, parts = drawn_in_groups()
    for changed in (replace(roles, seed=8), replace(roles, asked=(1, 1, 1)), replace(roles, unseen=roles.unseen[:-1])):
        with pytest.raises(UsageError):
            commit(**parts, roles=changed, groups=TRACKS)
    honest = commit(**parts, roles=roles, groups=TRACKS)
    for change in ({"seed": 8}, {"members": 30}, {"rows_sha256": "0" * 64}, {"groups_sha256": 5}):
        with pytest.raises(InputError, match="the recorded draw of the roles cannot be repeated"):
            check_roles(replace(honest, draw={**honest.draw, **change}).public(), 30, TRACKS)


def test_a_statement_without_groups_stays_readable():
    """A published statement whose draw names no groups at all."""
    public = json.loads(Path(__file__).parent.joinpath("vectors", "commitment_without_groups.json").read_text())
    assert check_public(public) == public
    assert check_roles(public, 30) == drawn()[1]
