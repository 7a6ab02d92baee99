"""What adapters' weights say of serving them together: against whole matrices, and on adapters made for it."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from asu_lora.adapters.lora_folder import read_lora
from asu_lora.adapters.manifest import StackedOn, fingerprint_of, read_manifest, write_manifest
from asu_lora.adapters.overlap import overlap
from asu_lora.errors import AdapterError, SettingError
from tests.support.lora_folders import give_manifest, save_lora, update_of

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def two(tiny_base, tmp_path_factory):
    """Adapters of other ranks, scalings and modules."""
    folder = tmp_path_factory.mktemp("two")
    return (
        save_lora(tiny_base, folder / "a", 1, target_modules=["q_proj", "v_proj", "down_proj"]),
        save_lora(tiny_base, folder / "b", 2, r=6, lora_alpha=3, target_modules=["q_proj", "k_proj", "down_proj"]),
    )


def changed(source, folder, change):
    """A copy of an adapter whose factors went through ``change(name of A, A, B)``, module by module."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / WEIGHTS)
    for name in [name for name in tensors if name.endswith("lora_A.weight")]:
        other = name.replace("lora_A", "lora_B")
        tensors[name], tensors[other] = (t.contiguous() for t in change(name, tensors[name], tensors[other]))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def half_new(name, a, b):
    """The same reading; of what is written half is new."""
    return a, b + b.std() * torch.randn(b.shape, generator=torch.Generator().manual_seed(1))


def inner(one, other):
    return (one * other).sum().item()


def test_overlaps_are_those_of_the_whole_matrices(two):
    found = overlap(two, [1.0, -0.5])
    [pair] = found.pairs
    updates = [
        {module: update_of([(folder, weight)], module).double() for module in read_lora(folder).modules}
        for folder, weight in zip(two, [1.0, -0.5], strict=True)
    ]
    shared = sorted(updates[0].keys() & updates[1].keys())
    assert len(shared) == 4 and sorted(module.module for module in pair.modules) == shared

    def share(of, modules):
        products = [
            sum(inner(of(one[name]), of(other[name])) for name in names)
            for one, other, names in (
                (updates[0], updates[1], shared if modules is None else modules),
                (updates[0], updates[0], updates[0] if modules is None else modules),
                (updates[1], updates[1], updates[1] if modules is None else modules),
            )
        ]
        return products[0] / math.sqrt(products[1] * products[2])

    for value, of in (
        ("read", lambda update: update.T @ update),
        ("write", lambda update: update @ update.T),
        ("cosine", lambda update: update),
    ):
        assert getattr(pair, value) == pytest.approx(share(of, None), rel=1e-4)
        for module in pair.modules:
            assert getattr(module, value) == pytest.approx(share(of, [module.module]), rel=1e-4, abs=1e-6)
    assert pair.alignment == pytest.approx(pair.cosine / math.sqrt(pair.read * pair.write))
    total = sum(
        inner(update, update)
        for module in updates[0].keys() | updates[1].keys()
        for update in [sum(each[module] for each in updates if module in each)]
    )
    assert found.sum_norm == pytest.approx(math.sqrt(total), rel=1e-4)


def test_adapters_that_do_the_same_are_flagged_and_orthogonal_ones_are_not(two, tmp_path):
    """The same rows of A with noise on B; and rows of A made orthogonal to the other's, B as it was."""
    noise = torch.Generator().manual_seed(0)
    alike = changed(
        two[0], tmp_path / "alike", lambda name, a, b: (a, b + 0.5 * b.std() * torch.randn(b.shape, generator=noise))
    )
    [pair] = overlap([two[0], alike], [1.0, 1.0]).pairs
    assert pair.read > 0.9 and pair.alignment > 0.8 and pair.interferes

    def off(name, a, b):
        """Fresh rows, none of them in the other adapter's row space; B as it is."""
        basis = torch.linalg.qr(theirs[name].T.double())[0]
        fresh = torch.randn(a.shape, generator=noise).double()
        return (fresh - fresh @ basis @ basis.T).float(), b

    theirs = load_file(two[0] / WEIGHTS)
    orthogonal = changed(alike, tmp_path / "orthogonal", off)
    found = overlap([two[0], orthogonal], [1.0, 1.0])
    [pair] = found.pairs
    assert pair.read < 1e-6 and pair.write > 0.5 and not pair.interferes and found.advice() is None
    assert found.growth == pytest.approx(1.0, abs=1e-3)


def test_a_copy_is_said_to_be_one_and_its_opposite_is_not_held_against_it(two):
    found = overlap([two[0], two[0]], [1.0, 0.5])
    assert found.pairs[0].cosine == pytest.approx(1.0) and "all but the same update" in found.advice()
    assert found.sum_norm == pytest.approx(sum(found.norms))
    assert overlap([two[0], two[0]], [1.0, -1.0]).advice() is None


def test_an_adapter_trained_on_top_of_another_is_not_held_against_it(two, tiny_base, tmp_path):
    first = changed(two[0], tmp_path / "first", lambda name, a, b: (a, b))
    second = changed(two[0], tmp_path / "second", half_new)
    give_manifest(first, tiny_base)
    give_manifest(second, tiny_base)
    assert overlap([first, second], [1.0, 1.0]).advice() is not None
    give_manifest(second, tiny_base, on_top_of=[StackedOn(name="first", fingerprint=fingerprint_of(first))])
    found = overlap([first, second], [1.0, 1.0])
    assert found.pairs[0].related and found.pairs[0].alignment > 0.5 and found.advice() is None


def say_trained(folder, base, details):
    """A manifest that says with what the adapter was trained."""
    told = read_manifest(give_manifest(folder, base))
    write_manifest(folder, told.model_copy(update={"method": told.method.model_copy(update={"details": details})}))
    return folder


def test_adapters_trained_to_add_up_are_not_held_against_each_other(two, tiny_base, tmp_path):
    folders = [
        changed(two[0], tmp_path / "first", lambda name, a, b: (a, b)),
        changed(two[0], tmp_path / "second", half_new),
    ]
    for details, held in (
        ({"keep_off": 0.5, "retain_dose": 4.0}, False),
        ({"keep_off": 0.0, "retain_dose": 1.0}, True),
        ({"keep_off": None, "retain_dose": "4"}, True),  # what no version wrote tells nothing
        ({}, True),
    ):
        for folder in folders:
            say_trained(folder, tiny_base, details)
        found = overlap(folders, [1.0, 1.0])
        assert found.pairs[0].additive is not held and (found.advice() is not None) is held
    copies = overlap([folders[0], folders[0]], [1.0, 1.0])
    assert "leave one of them out" in copies.advice()  # however they were trained


def test_one_adapter_and_adapters_that_change_nothing(two, tmp_path):
    alone = overlap([two[0]], [2.0])
    assert alone.pairs == () and alone.advice() is None and alone.growth == pytest.approx(1.0)
    nothing = changed(two[0], tmp_path / "nothing", lambda name, a, b: (a, 0 * b))
    [pair] = overlap([two[0], nothing], [1.0, 1.0]).pairs
    assert (pair.read, pair.write, pair.cosine, pair.alignment) == (0, 0, 0, 0)


def test_a_sum_whose_parts_cancel_out_changes_nothing(tiny_base, tmp_path):
    """Rounding makes its squares a little less than 0, at this rank in half of the cases."""
    other = save_lora(tiny_base, tmp_path / "other", 99, r=8)
    for seed in range(6):
        folder = save_lora(tiny_base, tmp_path / f"{seed}", seed, r=8)
        nothing = changed(folder, tmp_path / f"{seed}-0", lambda _, a, b: (torch.cat([a, a]), torch.cat([b, -b], 1)))
        relabel(nothing, 16)
        found = overlap([nothing, other], [1.0, 1.0])
        assert found.norms[0] < 1e-6 * found.norms[1] and not found.pairs[0].interferes


def relabel(folder, rank):
    """Give a folder's config the rank that its factors have, and the scaling it had."""
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"lora_alpha": config["lora_alpha"] * rank / config["r"], "r": rank}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_what_cannot_be_compared_is_refused(two, tiny_base, tmp_path):
    with pytest.raises(SettingError, match="1 adapters and 2 weights"):
        overlap(two[:1], [1.0, 1.0])
    first = give_manifest(changed(two[0], tmp_path / "first", lambda name, a, b: (a, b)), tiny_base)
    other = give_manifest(
        changed(two[1], tmp_path / "other", lambda name, a, b: (a, b)), tiny_base, fingerprint="0" * 64
    )
    with pytest.raises(AdapterError, match="belongs to the base"):
        overlap([first, other], [1.0, 1.0])


def test_a_sum_far_larger_than_any_of_it_is_warned_of_however_little_two_share(tiny_base, tmp_path):
    """docs/results/adding_up.md, the simulation: from twenty unrelated adapters on, kept rows lose."""
    made = [save_lora(tiny_base, tmp_path / str(seed), seed) for seed in range(20)]
    many = [say_trained(folder, tiny_base, {"keep_off": 0.5, "retain_dose": 4.0}) for folder in made]
    said = overlap(many, [1.0] * 20).advice()
    assert said is not None and re.match(r"together these adapters are 4\.\d times as large as the largest", said)
    assert overlap(many, [0.5] * 20).advice() == said  # by what they are together, not by how large each is
    assert overlap(many[:12], [1.0] * 12).advice() is None
