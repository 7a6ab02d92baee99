"""What a process may still take, in a container that is allowed less than the machine has."""

import pytest
import torch

from asu_lora.hardware import memory


def files(root, **values):
    for name, value in values.items():
        folder, _, last = name.rpartition("__")
        (root / folder).mkdir(exist_ok=True)
        (root / folder / last.replace("memory_", "memory.")).write_text(value)


def test_files_that_were_read_are_no_memory_in_use(tmp_path):
    """A container's count holds its page cache: of 16 GB, 10 are a base's weights that were read."""
    files(tmp_path, memory_max="16000\n", memory_current="12000\n", memory_stat="anon 2000\ninactive_file 10000\n")
    assert list(memory._container_memory(str(tmp_path))) == [14000]
    files(tmp_path, memory_max="max\n")
    assert list(memory._container_memory(str(tmp_path))) == []


def test_the_older_groups_are_read_too(tmp_path):
    files(tmp_path, memory__memory_limit_in_bytes="9000\n", memory__memory_usage_in_bytes="5000\n")
    files(tmp_path, memory__memory_stat="cache 4000\ntotal_inactive_file 3000\n")
    assert list(memory._container_memory(str(tmp_path))) == [7000]


def test_what_is_free_is_no_more_than_the_container_allows(monkeypatch):
    everything = memory.free_memory(torch.device("cpu"))
    assert everything > 2**20
    monkeypatch.setattr(memory, "_container_memory", lambda: iter([2**20]))
    assert memory.free_memory(torch.device("cpu")) < everything


@pytest.mark.parametrize("said", ["CUDA out of memory.", "DefaultCPUAllocator: can't allocate memory: you tried"])
def test_an_allocator_that_has_no_more_is_told_from_other_errors(said):
    assert memory.is_out_of_memory(RuntimeError(said)) and not memory.is_out_of_memory(ValueError(said))
    assert memory.is_out_of_memory(MemoryError()) and not memory.is_out_of_memory(RuntimeError("mat1 and mat2"))


def test_freed_memory_is_handed_back_after_every_so_many_passes(monkeypatch):
    released: list[int] = []
    monkeypatch.setattr(memory, "release_freed_memory", lambda: released.append(1))
    freed = memory.FreedMemory(every=3)
    for made in range(1, 8):
        freed.passed()
        assert len(released) == made // 3
