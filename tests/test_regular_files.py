import os

import pytest

from amint.commitments import read_public
from amint.errors import InputError
from amint.regular_files import read_regular
from amint.signing import read_private_key


def test_a_file_is_read_also_through_a_link(tmp_path):
    (tmp_path / "a").write_bytes(b"\x00\xff")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "a") == read_regular(str(tmp_path / "link")) == b"\x00\xff"


@pytest.mark.parametrize("read", [read_regular, read_public, read_private_key])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path, "/dev/zero"):
        with pytest.raises(InputError, match=f"{path} cannot be read: it is not a regular file"):
            read(path)


@pytest.mark.parametrize("name, reason", [("missing", "No such file"), ("a\0b", "null"), ("x" * 300, "too long")])
def test_what_cannot_be_opened_is_refused_with_the_reason(tmp_path, name, reason):
    with pytest.raises(InputError, match=f"the key cannot be read: .*{reason}"):
        read_regular(tmp_path / name, "the key")
