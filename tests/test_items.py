import copy
import gc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amint.errors import UsageError
from amint.items import Evidence, Items, by_rank
from amint.spill import Spill
from amint.texts import Texts

NUMBERS = st.none() | st.floats(allow_nan=False)
TEXT = st.none() | st.text(st.characters())
EVIDENCE = st.builds(
    Evidence,
    path=st.text(st.characters()),
    decision=st.sampled_from(["used", "no evidence", "cannot tell"]),
    score=NUMBERS,
    p_value=NUMBERS,
    adjusted=NUMBERS,
    note=st.text(),
    sha256=TEXT,
    copy_of=TEXT,
    confidence=NUMBERS,
    predicted=st.none() | st.integers(0, 2**62),
)


@given(st.lists(EVIDENCE, max_size=6))
def test_kept_in_columns_and_read_as_values(rows):
    items = Items(rows)
    assert list(items) == rows
    assert items == rows == items[:]
    assert [items[-1 - i] for i in range(len(rows))] == rows[::-1]
    assert items[::2] == rows[::2]
    assert items[1:] == tuple(rows[1:])
    assert Items.of(items) is items
    assert copy.deepcopy(items) == rows
    np.testing.assert_array_equal(items.numbers("score"), [np.nan if i.score is None else i.score for i in rows])
    assert items.are("used").tolist() == [i.decision == "used" for i in rows]
    assert items.are_copies().tolist() == [i.copy_of is not None for i in rows]
    assert items.untold() == [replace(i, decision="cannot tell") for i in rows]
    assert items.by_path() == sorted(rows, key=lambda item: item.path)
    first = items.take(items.are("used"))
    assert first == [i for i in rows if i.decision == "used"]
    assert first.by_path() == sorted(first, key=lambda item: item.path)
    known = [i for i in rows if i.score is not None]
    unknown = [i for i in rows if i.score is None]
    assert by_rank(items) == [*sorted(known, key=lambda item: -item.score), *unknown]
    assert by_rank(rows) == by_rank(items)


@given(st.lists(TEXT, max_size=6))
def test_texts_of_any_characters(values):
    texts = Texts(values)
    assert list(texts) == values
    assert texts.present().tolist() == [value is not None for value in values]
    assert list(texts.take(range(len(values) - 1, -1, -1))) == values[::-1]
    for number in (-1, len(values)):
        with pytest.raises(IndexError):
            texts[number]


def test_not_equal_to_others():
    items = Items([Evidence("a", "used", 1.0)])
    assert items != [Evidence("a", "used", 2.0)]
    assert items != []
    assert items != "a"
    assert items != 3
    with pytest.raises(IndexError):
        items[1]
    with pytest.raises(TypeError):
        hash(items)


@pytest.mark.parametrize(
    "wrong",
    [
        Evidence("a", "used", float("nan")),
        Evidence("a", "used", "high"),
        Evidence(5, "used"),
        Evidence("a", "used", predicted=2**70),
        Evidence("a", "used", predicted=1.5),
        "a",
    ],
)
def test_what_is_no_evidence_is_refused(wrong):
    with pytest.raises(UsageError, match="not the evidence on a sample"):
        Items([Evidence("fine", "used"), wrong])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 50, 40_000])
def test_rows_come_back_from_memory_and_from_disk(kind, n):
    rows = np.random.default_rng(n).normal(size=(n, 7)).astype(kind)
    spill = Spill(kind)
    for row in rows:
        spill.append(row.tobytes())
    asked = np.random.default_rng(0).integers(0, n, 30)
    np.testing.assert_array_equal(spill[asked], rows[asked])
    order = np.random.default_rng(1).permutation(n)
    spill.reorder(order)
    np.testing.assert_array_equal(spill[asked], rows[order][asked])
    assert spill[asked].dtype == kind
    del spill
    gc.collect()


def test_a_decision_that_there_is_not():
    with pytest.raises(UsageError, match="a sample cannot be 'not used'; it is one of"):
        Items([Evidence("a", "not used")])


def test_rows_of_one_width():
    spill = Spill(np.float32)
    spill.append(b"12345678")
    with pytest.raises(ValueError, match="8"):
        spill.append(b"1234")
