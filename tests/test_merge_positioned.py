"""Reading and writing at a place, with the system's calls for it and without."""

import os

import pytest

from asu_lora.merging.positioned import read_at, write_at


@pytest.mark.parametrize("without", [False, True])
def test_pieces_in_any_order_come_back(tmp_path, monkeypatch, without):
    if without:
        monkeypatch.delattr(os, "preadv", raising=False)
        monkeypatch.delattr(os, "pwrite", raising=False)
    content = bytes(range(256)) * 40
    with (tmp_path / "f").open("wb", buffering=0) as file:
        for start in (5000, 0, 9000, 2500, 7500):
            end = {0: 2500, 2500: 5000, 5000: 7500, 7500: 9000, 9000: len(content)}[start]
            write_at(file, start, memoryview(content[start:end]))
    assert (tmp_path / "f").read_bytes() == content
    with (tmp_path / "f").open("rb", buffering=0) as file:
        into = bytearray(300)
        assert read_at(file, 4321, memoryview(into)) == 300 and bytes(into) == content[4321:4621]
        assert read_at(file, len(content) - 100, memoryview(into)) == 100  # the file ends
        assert bytes(into[:100]) == content[-100:]


def test_a_call_may_do_less_than_was_asked(tmp_path, monkeypatch):
    """Linux moves 2 GiB at most at a time; here, three bytes."""
    read, write = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: read(fd, [views[0][:3]], offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: write(fd, view[:3], offset))
    with (tmp_path / "f").open("wb", buffering=0) as file:
        write_at(file, 2, memoryview(b"eight or more"))
    into = bytearray(13)
    with (tmp_path / "f").open("rb", buffering=0) as file:
        assert read_at(file, 2, memoryview(into)) == 13 and into == b"eight or more"
