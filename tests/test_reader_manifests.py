import tracemalloc

import pytest
from reader_pictures import SMALL, content_of, files_below, judge, picture

from amint.errors import InputError
from amint.readers import Limits, open_submission


@pytest.fixture
def folder(tmp_path):
    """A folder with a.png, "sub/b, c.png" and Ünï.png, beside it secret.png."""
    folder = tmp_path / "submitted"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "sub/b, c.png", "Ünï.png", "../secret.png")):
        picture(seed=seed).save(folder / name)
    return folder


def outcome(folder, text, name="list.csv", encoding="utf-8", **limits):
    (folder / name).write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return judge(folder / name, **limits)[:2]


THREE = {"a.png": "", "sub/b, c.png": "", "Ünï.png": ""}


@pytest.mark.parametrize(
    "text",
    [
        'path\na.png\n"sub/b, c.png"\nÜnï.png\n',
        'label,path\n1,a.png\n2,"sub/b, c.png"\n3,Ünï.png\n',
        "label;file;split\n1;a.png;x\n2;sub/b, c.png;y\n3;Ünï.png;z",
        "Label\tFile Name\tPATH\r\n1\tx\ta.png\r\n2\ty\tsub/b, c.png\r\n3\tz\tÜnï.png\r\n",
        "path\ra.png\rsub/b, c.png\rÜnï.png",
        "filename | width\na.png | 16\n sub/b, c.png | 16\nÜnï.png|16\n\n\n",
        "a.png\nsub/b, c.png\nÜnï.png\n",
        'a.png,1\n"sub/b, c.png",2\n"Ünï.png",3\n',
        "./a.png;1\nsub//x/../b, c.png;2\nÜnï.png;3",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_ways_to_write_a_list(folder, text, encoding):
    assert outcome(folder, text, encoding=encoding) == (THREE, {})
    assert outcome(folder, text, "list.TSV", encoding) == (THREE, {})


@pytest.mark.parametrize("text", ["pth\na.png\n", "id,pth\n3,a.png\n4,Ünï.png\n"])
def test_a_first_line_that_names_no_column_known_says_so(folder, text):
    first, *others = outcome(folder, text)[1].items()
    assert first[0] in ("pth", "id")
    assert "call the column of the paths path or file" in first[1]
    assert all("no such file or directory" in reason for _, reason in others)


@pytest.mark.parametrize(("first", "reason"), [("/etc/passwd", "absolute"), ("../secret.png", "leaves")])
def test_a_first_line_is_not_looked_for_elsewhere(folder, first, reason):
    notes, reasons = outcome(folder, f"{first}\na.png\n")
    assert list(notes) == ["a.png"]
    assert [reason in found for found in reasons.values()] == [True]


def test_order_is_that_of_the_list_and_repeated_files_are_judged_once(folder):
    notes, reasons = outcome(folder, "path\nÜnï.png\na.png\n./a.png\nsub/../a.png\nÜnï.png\n")
    assert list(notes.items()) == [("Ünï.png", "listed 2 times"), ("a.png", "listed 3 times")]
    assert reasons == {}


def test_paths_that_lead_elsewhere(folder, tmp_path):
    (folder / "link.png").symlink_to("../secret.png")
    absolute = "an absolute path; a manifest lists paths relative to its own folder"
    leaving = "a path that leaves the manifest's folder"
    paths = {
        str(tmp_path / "secret.png"): absolute,
        str(folder / "a.png"): absolute,
        "/etc/passwd": absolute,
        "//server/share/a.png": absolute,
        "C:\\a.png": absolute,
        "c:a.png": absolute,
        "\\\\server\\a.png": absolute,
        "../secret.png": leaving,
        "sub/../../other.png": leaving,
        "..": leaving,
        "link.png": "a link that leaves the submitted folder",
        "missing.png": "cannot be reached: no such file or directory",
        "sub": "not a regular file but a pipe, a socket, a device or a folder",
        "a\0.png": "a path with a NUL character, which no file has",
        "http://x.org/a.png": "cannot be reached: no such file or directory",
        "x" * 5000: "cannot be reached: file name too long",
    }
    notes, reasons = outcome(folder, "path\n" + "\n".join(paths) + "\na.png\n")
    assert notes == {"a.png": ""}
    assert list(reasons.values()) == list(paths.values())
    assert all("secret" not in row or reasons[row] in (absolute, leaving) for row in reasons)


def test_file_names_that_are_no_utf_8(folder):
    (folder / "\udcff.png").write_bytes(content_of())
    assert outcome(folder, b"path\n\xff.png\n")[0] == {r"\udcff.png": ""}


def test_short_rows_and_empty_cells(folder):
    assert outcome(folder, "label,path\n1\n,\n2,a.png\n\n3,  \n")[0] == {"a.png": ""}


@pytest.mark.parametrize("text", ["", "path\n", "label,path\n1,\n2\n", "\n\n\n", "\ufeff"])
def test_a_list_of_nothing(folder, text):
    with pytest.raises(InputError, match=r"list\.csv lists no files"):
        outcome(folder, text)


@pytest.mark.parametrize(
    "text, problem",
    [
        ('path\n"' + "a" * 200_000, "field larger"),
        ("x" * 2**20, "a line of more than"),
        (b"\xff\xfea", "truncated data"),
    ],
)
def test_what_is_no_list(folder, text, problem):
    with pytest.raises(InputError, match=f"list.csv cannot be read as text in columns: .*{problem}"):
        outcome(folder, text)


def test_binary_data_under_the_name_of_a_list(folder):
    notes, reasons = outcome(folder, bytes(range(1, 256)) * 3)
    assert notes == {}
    assert reasons


def test_limits(folder):
    with pytest.raises(InputError, match="more than 2 entries"):
        outcome(folder, "path\na.png\nb.png\nc.png\n", members=2)
    with pytest.raises(InputError, match="19 bytes, more than the limit of 18"):
        outcome(folder, "path\na.png\nb.png\n\n\n", manifest_bytes=18)


def test_a_million_columns(folder):
    names = ["c"] * 400_000
    assert outcome(folder, ",".join(["path", *names]) + "\na.png" + "," * 400_000)[0] == {"a.png": ""}


def test_a_long_list_takes_little_memory(folder):
    (folder / "list.csv").write_text("label,path\n" + "".join(f"{i},photos/{i:06}.png\n" for i in range(20_000)))
    before = files_below(folder)
    tracemalloc.start()
    reader = open_submission(folder / "list.csv", SMALL, limits=Limits())
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(reader) == 20_000
    assert used / 20_000 < 100
    assert files_below(folder) == before
