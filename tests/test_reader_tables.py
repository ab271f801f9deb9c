import io
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from reader_pictures import SMALL, content_of, encoded, judge, picture

from amint.errors import InputError, UsageError
from amint.readers import open_submission

CONTENTS = [content_of(seed) for seed in range(7)]


def make(path, columns, **options):
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def structs(contents, names):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": c, "path": n} for c, n in zip(contents, names, strict=True)], kind)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("named", ["x.parquet", "no ending"])
def test_a_column_of_bytes(tmp_path, kind, compression, named):
    columns = {"label": list(range(7)), "picture": pa.array(CONTENTS, kind)}
    path = make(tmp_path / named, columns, row_group_size=3, compression=compression)
    notes, reasons, tensor = judge(path, batch_size=2)
    assert list(notes) == [f"row {i}" for i in range(7)]
    assert reasons == {}
    assert torch.equal(tensor, torch.stack([SMALL(picture(seed=seed)) for seed in range(7)]))


def test_structs_of_the_hub(tmp_path):
    names = ["a.png", None, "", "../x\n.png", "a.png", "b.png", "c.png"]
    columns = {"image": structs(CONTENTS, names), "thumbnail": pa.array(CONTENTS)}
    notes, reasons, tensor = judge(make(tmp_path / "x", columns, row_group_size=2))
    assert list(notes) == [
        "row 0 (a.png)",
        "row 1",
        "row 2",
        r"row 3 (../x\n.png)",
        "row 4 (a.png)",
        "row 5 (b.png)",
        "row 6 (c.png)",
    ]
    assert reasons == {}
    assert torch.equal(tensor, torch.stack([SMALL(picture(seed=seed)) for seed in range(7)]))


def test_rows_that_cannot_be_judged(tmp_path):
    contents = [None, b"", b"text", CONTENTS[0], bytes(5000)]
    path = make(tmp_path / "x", {"image": structs(contents, [None, "e", "t", "good", "big"])})
    notes, reasons, _ = judge(path, max_bytes=4000)
    assert notes == {"row 3 (good)": ""}
    assert reasons["row 0"] == "a row without bytes"
    assert reasons["row 1 (e)"] == "an empty file"
    assert reasons["row 2 (t)"].startswith("not an image")
    assert reasons["row 4 (big)"] == "5,000 bytes, more than the limit of 4,000"
    assert set(judge(make(tmp_path / "y", {"image": pa.array([None, CONTENTS[0]])}))[1]) == {"row 0"}
    missing = pa.array([None, {"bytes": CONTENTS[0], "path": "a"}], structs([], []).type)
    assert judge(make(tmp_path / "z", {"image": missing}))[:2] == ({"row 1 (a)": ""}, {"row 0": "a row without bytes"})


def test_what_is_skipped_is_not_decoded(tmp_path):
    path = make(tmp_path / "x", {"image": CONTENTS}, row_group_size=3)
    skip = {f"row {i}" for i in range(5)}
    assert list(judge(path, skip=skip)[0]) == ["row 5", "row 6"]


@pytest.mark.parametrize(
    "columns, found",
    [
        ({"label": [1]}, "none"),
        ({"text": ["x"]}, "none"),
        ({"a": [b"x"], "b\n": [b"x"]}, r"a, b\\n"),
        ({"image": pa.array([{"path": "x"}])}, "none"),
        ({"image": pa.array([[b"x"]])}, "none"),
    ],
)
def test_which_column_is_meant_must_be_clear(tmp_path, columns, found):
    with pytest.raises(InputError, match=f"must have one column of picture bytes .*; found {found}"):
        judge(make(tmp_path / "x.parquet", columns))


def test_a_table_without_rows(tmp_path):
    with pytest.raises(InputError, match="it has no rows"):
        judge(make(tmp_path / "x", {"image": pa.array([], pa.binary())}))


def test_limits(tmp_path, monkeypatch):
    path = make(tmp_path / "x", {"image": CONTENTS})
    with pytest.raises(InputError, match="more than 6 entries"):
        judge(path, members=6)
    monkeypatch.setattr("amint.readers.limits._HARMLESS", 1)
    with pytest.raises(InputError, match="unpacks to more than"):
        judge(path, total_bytes=1000)


def test_one_value_repeated_through_a_dictionary_is_a_bomb_too(tmp_path):
    white = encoded(picture().point(lambda _: 255).resize((500, 500)), "BMP")
    path = make(tmp_path / "x", {"image": [white] * 200}, compression="zstd")
    assert path.stat().st_size < 100_000
    reading = iter(open_submission(path, SMALL, batch_size=1))
    next(reading)
    with pytest.raises(InputError, match="unpacks to more than 67,108,864"):
        list(reading)


def test_damage_costs_only_its_group(tmp_path):
    path = make(tmp_path / "x", {"image": CONTENTS}, row_group_size=2, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(1).column(0).data_page_offset
    content[start : start + 30] = b"\xff" * 30
    path.write_bytes(content)
    notes, reasons, _ = judge(path)
    assert list(notes) == ["row 0", "row 1", "row 4", "row 5", "row 6"]
    assert reasons == dict.fromkeys(("row 2", "row 3"), "damaged: its part of the table cannot be read")


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1" * 5, b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1"])
def test_what_is_no_table(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match="x is no Parquet file, or its footer is damaged"):
        judge(tmp_path / "x")


def test_without_pyarrow(tmp_path, monkeypatch):
    path = make(tmp_path / "x.parquet", {"image": CONTENTS})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"x\.parquet is a Parquet file.*pip install 'amint-audit\[parquet\]'"):
        judge(path)
