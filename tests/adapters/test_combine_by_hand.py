"""Sums of adapters whose factors are written here: every number of the result and of its report."""

import json
import math
from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save_file

import asu_lora.adapters.combine as combining
from asu_lora.adapters.combine import combine
from asu_lora.adapters.manifest import fingerprint_of, read_manifest
from asu_lora.errors import AdapterError, SettingError
from tests.support.lora_folders import give_manifest

IN, OUT = 6, 4
PREFIX = "base_model.model."


def write(folder, modules, *, rank, alpha, seed=0, size_in=IN, embedding=(), base="base"):
    """A PEFT LoRA folder of random factors: A (rank, in), B (4, rank) for each module."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    tensors = {}
    for module in modules:
        a, b = torch.randn(rank, size_in), torch.randn(OUT, rank)
        names = ("lora_embedding_A", "lora_embedding_B") if module in embedding else ("lora_A.weight", "lora_B.weight")
        tensors |= {f"{PREFIX}{module}.{name}": value for name, value in zip(names, (a, b), strict=True)}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": sorted(modules)}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
    return folder


def factors(folder, module, embedding=False):
    tensors = load_file(folder / "adapter_model.safetensors")
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    return [tensors[f"{PREFIX}{module}.{name}"] for name in names]


def update(folder, module, scaling=1.0, embedding=False):
    a, b = factors(folder, module, embedding)
    return scaling * b.double() @ a.double()


@pytest.fixture
def pair(tmp_path):
    """Ranks 1 and 2, scalings 3 and 2; of three modules they share one."""
    one = write(tmp_path / "one", ["layers.2.q", "layers.10.q"], rank=1, alpha=3)
    other = write(tmp_path / "other", ["layers.10.q", "layers.1.v"], rank=2, alpha=4, seed=1)
    return one, other


def test_the_exact_sum_is_the_factors_side_by_side(pair, tmp_path):
    one, other = pair
    report = combine(pair, [0.5, -2.0], tmp_path / "sum")
    a, b = factors(tmp_path / "sum", "layers.10.q")
    (a1, b1), (a2, b2) = factors(one, "layers.10.q"), factors(other, "layers.10.q")
    assert torch.equal(a, torch.cat([a1, a2])) and torch.equal(b, torch.cat([b1 * 1.5, b2 * -4.0], dim=1))
    torch.testing.assert_close(update(tmp_path / "sum", "layers.2.q"), 0.5 * update(one, "layers.2.q", 3.0))
    torch.testing.assert_close(update(tmp_path / "sum", "layers.1.v"), -2.0 * update(other, "layers.1.v", 2.0))
    assert [module.module for module in report.modules] == ["layers.1.v", "layers.2.q", "layers.10.q"]
    assert [(module.rank, module.kept_rank) for module in report.modules] == [(2, 2), (1, 1), (3, 3)]
    for module in report.modules:
        assert module.relative_error == 0
        assert module.norm == pytest.approx(update(tmp_path / "sum", module.module).norm().item(), rel=1e-6)
    assert report.path == tmp_path / "sum" and report.rank == 3


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_a_rank_cuts_off_the_smallest_singular_values(pair, tmp_path, rank):
    exact = 1.5 * update(pair[0], "layers.10.q") + 4.0 * update(pair[1], "layers.10.q")
    report = combine(pair, [0.5, 2.0], tmp_path / "sum", rank=rank)
    found = {module.module: module for module in report.modules}["layers.10.q"]
    sigma = torch.linalg.svdvals(exact)
    assert (found.rank, found.kept_rank) == (3, min(rank, 3))
    assert found.norm == pytest.approx(exact.norm().item(), rel=1e-6)
    assert found.relative_error == pytest.approx((sigma[rank:].norm() / sigma.norm()).item(), rel=1e-5, abs=1e-7)
    made = update(tmp_path / "sum", "layers.10.q")
    assert (made - exact).norm().item() == pytest.approx(sigma[rank:].norm().item(), rel=1e-4, abs=1e-5)
    a, b = factors(tmp_path / "sum", "layers.10.q")
    assert a.shape == (min(rank, 3), IN) and b.shape == (OUT, min(rank, 3))
    if rank >= 3:
        assert torch.equal(a, torch.cat([factors(each, "layers.10.q")[0] for each in pair]))
    else:  # both factors carry the root of each singular value
        torch.testing.assert_close(a.norm(dim=1).double(), sigma[:rank].sqrt())
        torch.testing.assert_close(b.norm(dim=0).double(), sigma[:rank].sqrt())


@pytest.mark.parametrize("size_in", [3, IN])
def test_more_ranks_than_a_matrix_has_are_folded_into_as_many(tmp_path, size_in):
    """4 x 6 and 4 x 3 matrices have at most 4 and 3 singular values."""
    most, parts = min(size_in, OUT), []
    for seed in range(most + 1):
        parts.append(write(tmp_path / f"p{seed}", ["q"], rank=1, alpha=1, seed=seed, size_in=size_in))
    exact = sum(update(part, "q") for part in parts)
    report = combine(parts, [1.0] * len(parts), tmp_path / "folded")
    assert (report.modules[0].rank, report.modules[0].kept_rank) == (most + 1, most)
    assert report.modules[0].relative_error < 1e-12
    torch.testing.assert_close(update(tmp_path / "folded", "q"), exact, rtol=1e-5, atol=1e-5)
    cut = combine(parts, [1.0] * len(parts), tmp_path / "cut", rank=2)
    assert (cut.modules[0].rank, cut.modules[0].kept_rank) == (most + 1, 2)
    as_they_are = combine(parts[:most], [1.0] * most, tmp_path / "exact")
    assert (as_they_are.modules[0].rank, as_they_are.modules[0].kept_rank) == (most, most)
    assert torch.equal(factors(tmp_path / "exact", "q")[0], torch.cat([factors(each, "q")[0] for each in parts[:most]]))


def test_adapters_that_cancel_out_leave_a_sum_of_nothing(tmp_path):
    one = write(tmp_path / "one", ["q"], rank=2, alpha=2)
    report = combine([one, one], [1.0, -1.0], tmp_path / "none", rank=1)
    assert report.modules[0].relative_error == pytest.approx(0, abs=1) and report.modules[0].norm < 1e-6
    zero = write(tmp_path / "zero", ["q"], rank=2, alpha=2)
    tensors = {name: torch.zeros_like(value) for name, value in load_file(zero / "adapter_model.safetensors").items()}
    save_file(tensors, zero / "adapter_model.safetensors")
    nothing = combine([zero, zero], [1.0, 1.0], tmp_path / "zeros", rank=1)
    assert (nothing.modules[0].norm, nothing.modules[0].relative_error) == (0, 0)


def test_an_embeddings_factors_keep_their_names(tmp_path):
    one = write(tmp_path / "one", ["embed", "q"], rank=2, alpha=4, embedding=("embed",))
    combine([one], [0.5], tmp_path / "half")
    torch.testing.assert_close(update(tmp_path / "half", "embed", embedding=True), update(one, "embed", 1.0, True))
    torch.testing.assert_close(update(tmp_path / "half", "q"), update(one, "q"))


def test_the_report_and_the_manifest_name_the_sources(pair, tmp_path):
    give_manifest(pair[0], "base", fingerprint="f" * 64)
    report = combine(pair, [1, -2], tmp_path / "sum")
    prints = [fingerprint_of(folder) for folder in pair]
    assert report.sources == [
        {"name": "one", "weight": 1.0, "fingerprint": prints[0]},
        {"name": "other", "weight": -2.0, "fingerprint": prints[1]},
    ]
    assert all(isinstance(source["weight"], float) for source in report.sources)
    manifest = read_manifest(tmp_path / "sum")
    assert manifest.name == "sum" and manifest.method.details["rank"] is None
    assert 0 <= manifest.wall_time_s < 60
    combine(pair, [1, -2], tmp_path / "again", rank=2, name="called")
    manifest = read_manifest(tmp_path / "again")
    assert manifest.name == "called" and manifest.method.details["rank"] == 2


def test_numbers_that_make_no_sense_are_named(pair, tmp_path):
    out = tmp_path / "out"
    for weights, rank, said in (
        ([1.0], None, "There are 2 adapters and 1 weights: give each its own."),
        ([1.0, math.nan], None, "The weight nan of the adapter 'other' makes no sense"),
        (
            [0, 1.0],
            None,
            "The weight 0 of the adapter 'one' makes no sense: it must be a number other than 0; "
            "leave the adapter out instead.",
        ),
        ([1.0, 1.0], 0, "The rank must be 1 or more, not 0."),
    ):
        with pytest.raises(SettingError) as raised:
            combine(pair, weights, out, rank)
        assert said in str(raised.value) and not out.exists()
    with pytest.raises(SettingError, match="0 adapters and 0 weights"):
        combine([], [], out)


def test_an_empty_folder_may_be_filled_and_nothing_else_may_be_in_the_way(pair, tmp_path):
    (tmp_path / "empty").mkdir()
    assert combine(pair, [1, 1], tmp_path / "empty").rank == 3
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for name in ("file", "full"):
        with pytest.raises(SettingError) as raised:
            combine(pair, [1, 1], tmp_path / name)
        assert str(raised.value) == f"{tmp_path / name} exists already: choose another name."
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "mine").read_text() == "mine"


def test_modules_of_different_sizes_are_named_with_their_adapters(tmp_path):
    one = write(tmp_path / "one", ["k", "q"], rank=1, alpha=1)
    narrow = write(tmp_path / "narrow", ["q"], rank=1, alpha=1, size_in=5)
    table = write(tmp_path / "table", ["q"], rank=1, alpha=1, embedding=("q",))
    for other, before, after in product((narrow, table), (1, 2), ([], [table], [narrow])):
        folders = [one] * before + [other, *after]
        with pytest.raises(AdapterError) as raised:
            combine(folders, [1.0] * len(folders), tmp_path / "out")
        said = f"The adapters 'one' and '{other.name}' give q different sizes: they can't belong to one base."
        assert str(raised.value) == said and not (tmp_path / "out").exists()


def test_other_bases_are_refused(tmp_path):
    one, other = (write(tmp_path / name, ["q"], rank=1, alpha=1, base=name) for name in ("one", "other"))
    with pytest.raises(AdapterError, match="belongs to the base"):
        combine([one, other], [1, 1], tmp_path / "out")


def test_a_disk_that_refuses_is_one_sentence_and_leaves_nothing(pair, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(AdapterError, match="file/out can't be written: Not a directory"):
        combine(pair, [1, 1], tmp_path / "file" / "out")
    out = tmp_path / "out"
    for error, kind, said in (
        (OSError("full"), AdapterError, "can't be written: full"),
        (KeyboardInterrupt("now"), KeyboardInterrupt, "now"),
    ):

        def fail(report, *rest, error=error, **named):
            report.path.mkdir()
            (report.path / "half").write_text("done")
            raise error

        monkeypatch.setattr(combining, "write_combined", fail)
        with pytest.raises(kind, match=said):
            combine(pair, [1, 1], out)
        assert not out.exists()
