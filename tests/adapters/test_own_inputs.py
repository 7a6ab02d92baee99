"""What an adapter reads of its own request, kept in its folder: against whole updates, in sums, and damaged."""

import itertools
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from asu_lora.adapters.combine import combine
from asu_lora.adapters.fitted_weights import ALONG, FELT, fitted_weights, fitting
from asu_lora.adapters.inner_products import inner_products
from asu_lora.adapters.lora_folder import read_lora
from asu_lora.adapters.own_inputs import OWN_INPUTS_NAME, own_inputs_of_sum, read_own_inputs, write_own_inputs
from asu_lora.adapters.store import AdapterStore
from asu_lora.adapters.truncation import Truncation
from asu_lora.adapters.verify import verify_adapter
from asu_lora.errors import AdapterError
from asu_lora.forgetting.forget import forget
from asu_lora.models.adapter_stack import load
from tests.support.lora_folders import give_manifest, lean, save_lora
from tests.support.tiny_run import FACTS, rows, tiny_request, tiny_settings

ADD_UP = dict(retain_dose=4.0, forget_dose=1.5, keep_off=0.5, settle_at=0.15)


def whole(folder):
    """{module: D}; alpha 8 over rank 4."""
    tensors = load_file(folder / "adapter_model.safetensors")
    return {
        key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): 2.0
        * (tensors[key.replace("lora_A", "lora_B")].double() @ tensors[key].double())
        for key in tensors
        if "lora_A" in key
    }


def moment(inputs, seed):
    """A second moment of ``inputs`` directions, few of them strong."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, inputs, generator=generator, dtype=torch.double) * torch.linspace(3, 0, inputs) ** 2
    return x.T @ x / 50


@pytest.fixture
def folders(tiny_base, tmp_path):
    """Three adapters with curves, and what each reads of a request of its own."""
    made = lean([save_lora(tiny_base, tmp_path / name, seed) for seed, name in enumerate(("anna", "ben", "carl"))])
    for seed, folder in enumerate(made):
        give_manifest(folder, tiny_base)
        manifest = json.loads((folder / "manifest.json").read_text())
        curve = [{"weight": w, "forget_probability": p} for w, p in ((0, 0.9), (0.5, 0.5), (1, 0.1))]
        manifest["method"]["details"]["forgetting_curve"] = curve
        (folder / "manifest.json").write_text(json.dumps(manifest))
        lora = read_lora(folder)
        own = {
            name: lora.factors(name)[0].double() @ moment(lora.modules[name].in_features, seed) for name in lora.modules
        }
        write_own_inputs(folder, own)
    return made


def felt(i, j, updates, seed):
    """<D_j, D_i>_i of whole matrices."""
    return sum(
        float((other @ moment(own.shape[1], seed) @ own.T).trace())
        for own, other in ((updates[i][name], updates[j][name]) for name in updates[i])
    )


def test_products_are_those_of_whole_updates_on_the_requests_inputs(folders):
    loras, updates = [read_lora(folder) for folder in folders], [whole(folder) for folder in folders]
    found = inner_products(loras, [read_own_inputs(lora) for lora in loras])
    for i, j in itertools.product(range(3), repeat=2):
        assert float(found[i, j]) == pytest.approx(felt(i, j, updates, i), rel=1e-2)  # kept in bf16
    assert not torch.allclose(found, inner_products(loras), rtol=0.1)
    torch.testing.assert_close(inner_products(loras, [{}, {}, {}]), inner_products(loras))


def test_each_is_felt_in_a_sum_as_it_is_alone(folders):
    weights, updates = fitted_weights(folders), [whole(folder) for folder in folders]
    for i in range(3):
        others = sum(weights[j] * felt(i, j, updates, i) for j in range(3) if j != i)
        assert weights[i] + FELT * others / felt(i, i, updates, i) == pytest.approx(1.0, abs=5e-3)


def test_one_without_it_counts_all_inputs_alike_and_the_others_keep_theirs(folders):
    (folders[1] / OWN_INPUTS_NAME).unlink()
    weights, updates = fitted_weights(folders), [whole(folder) for folder in folders]

    def alike(i, j):
        return sum(float((updates[j][name] * updates[i][name]).sum()) for name in updates[i])

    for i, (share, product) in enumerate(((FELT, felt), (ALONG, None), (FELT, felt))):
        along = [(product(i, j, updates, i) if product else alike(i, j)) for j in range(3)]
        others = sum(weights[j] * along[j] for j in range(3) if j != i)
        assert weights[i] + share * others / along[i] == pytest.approx(1.0, abs=5e-3)


def test_a_sum_is_felt_as_its_parts_are(folders, tmp_path):
    """A product with it is the sum of those with its parts."""
    combine(folders[:2], [0.8, 0.9], tmp_path / "two")
    updates = [whole(folder) for folder in folders]
    loras = [read_lora(tmp_path / "two"), read_lora(folders[2])]
    found = inner_products(loras, [read_own_inputs(lora) for lora in loras])
    wanted = sum(weight * felt(part, 2, updates, part) for part, weight in ((0, 0.8), (1, 0.9)))
    assert float(found[0, 1]) == pytest.approx(wanted, rel=0.02)
    shares = fitted_weights(folders[:2])
    combine(folders[:2], shares, tmp_path / "fitted")
    by_name, (weight, alone) = fitted_weights(folders), fitted_weights([tmp_path / "fitted", folders[2]])
    assert [weight * shares[0], weight * shares[1], alone] == pytest.approx(by_name, abs=0.07)


def test_ranks_that_are_folded_are_felt_as_before():
    generator = torch.Generator().manual_seed(0)
    a, b, read = (torch.randn(shape, generator=generator) for shape in ((8, 10), (6, 8), (8, 10)))
    _, folded_b = Truncation.of(a, b, 6).factors(torch.ones(8))
    assert folded_b.shape == (6, 6)
    found = own_inputs_of_sum([read[:3], read[3:]], b, folded_b)
    torch.testing.assert_close(folded_b.double() @ found.double(), (b @ read).double(), atol=1e-4, rtol=1e-4)
    assert torch.equal(own_inputs_of_sum([read[:3], read[3:]], b, b), read)


def test_a_sum_that_is_never_fitted_keeps_none(folders, tmp_path):
    combine(folders[:2], [1.0, -0.5], tmp_path / "less")
    combine(folders, [1.0, 1.0, 1.0], tmp_path / "longer", 50)  # no rank is cut off
    assert (tmp_path / "longer" / OWN_INPUTS_NAME).exists()
    combine(folders, [1.0, 1.0, 1.0], tmp_path / "short", 5)
    (folders[2] / OWN_INPUTS_NAME).unlink()
    combine(folders, [1.0, 1.0, 1.0], tmp_path / "three")
    assert not any((tmp_path / name / OWN_INPUTS_NAME).exists() for name in ("less", "short", "three"))


@pytest.mark.parametrize("how", ["cut off", "of another rank", "NaN", "a module short"])
def test_a_damaged_file_is_refused_by_name_and_named_adapters_act_at_full_weight(folders, how):
    path = folders[0] / OWN_INPUTS_NAME
    tensors = load_file(path)
    name = next(iter(tensors))
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        changed = {"of another rank": tensors[name][:2].clone(), "NaN": tensors[name] * float("nan")}.get(how)
        tensors |= {name: changed} if changed is not None else {}
        save_file({key: value for key, value in tensors.items() if how != "a module short" or key != name}, path)
    with pytest.raises(AdapterError, match=f"{OWN_INPUTS_NAME} of the adapter 'anna'"):
        fitted_weights(folders)
    assert fitting([(folder, 1.0) for folder in folders]) is None
    combine(folders, [0.5, 0.5, 0.5], folders[0].parent / "sum")
    assert not (folders[0].parent / "sum" / OWN_INPUTS_NAME).exists()


@pytest.fixture(scope="module")
def trained(taught_base, tmp_path_factory):
    return forget(
        tiny_request(),
        str(taught_base),
        tiny_settings(**ADD_UP),
        name="trained",
        store=tmp_path_factory.mktemp("store"),
    ).path


def test_training_keeps_what_the_adapter_reads_of_its_request(trained, taught_base):
    """Against the inputs of plain passes, a row each, the adapter at half its strength."""
    stack = load(str(taught_base), [(trained, 0.5)], precision="fp32", device="cpu")
    lora, encoder = read_lora(trained), stack.encoder()
    own = read_own_inputs(lora)
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in own}
    for name, module in stack.model.named_modules():
        if (short := name.removeprefix("base_model.model.")) in own:
            module.register_forward_pre_hook(lambda _, args, short=short: seen[short].append(args[0][0].double()))
    with torch.no_grad():
        for item in encoder.encode_all(tiny_request().forget):
            stack.model(input_ids=torch.tensor([[*item.prompt_ids, *item.answer_ids]]))
    assert own.keys() == lora.modules.keys() and all(seen.values())
    for name, inputs in seen.items():
        x = torch.cat(inputs)
        wanted = lora.factors(name)[0].double() @ (x.T @ x) / len(x)
        assert float((own[name] - wanted).norm() / wanted.norm()) < 0.02, name


def test_nf4_of_either_compute_type_keeps_it_too(taught_base, trained, tmp_path, nf4_compute):
    config = tiny_settings(precision="nf4", **ADD_UP)
    own = read_own_inputs(read_lora(forget(tiny_request(), str(taught_base), config, name="x", store=tmp_path).path))
    assert own.keys() == read_own_inputs(read_lora(trained)).keys() and all(value.any() for value in own.values())


def test_it_is_recorded_travels_and_holds_no_text(trained, tmp_path):
    files = json.loads((trained / "manifest.json").read_text())["files"]
    assert OWN_INPUTS_NAME in files and verify_adapter(trained).ok
    store = AdapterStore(trained.parent)
    packed = store.export("trained", tmp_path / "trained.tar.gz")
    taken = AdapterStore(tmp_path / "other").import_(packed, "other")
    assert (taken.path / OWN_INPUTS_NAME).read_bytes() == (trained / OWN_INPUTS_NAME).read_bytes()
    assert fitted_weights([trained, shutil.copytree(save_another(trained, tmp_path), tmp_path / "again")])
    data = (trained / OWN_INPUTS_NAME).read_bytes()
    for row in rows(FACTS):
        assert row["answer"].encode() not in data and row["question"].encode() not in data


def save_another(trained, tmp_path):
    """The same adapter turned round, which is another one."""
    folder = shutil.copytree(trained, tmp_path / "turned")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {k: v.flip(1) if "lora_A" in k else v for k, v in tensors.items()},
        folder / "adapter_model.safetensors",
        {"format": "pt"},
    )
    (folder / OWN_INPUTS_NAME).unlink()
    manifest = json.loads((folder / "manifest.json").read_text()) | {"files": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("settings", [{"keep_off": 0.0}, {"settle_at": 0.0}])
def test_a_run_that_is_not_to_add_up_keeps_none(taught_base, tmp_path, settings):
    path = forget(tiny_request(), str(taught_base), tiny_settings(**(ADD_UP | settings)), name="x", store=tmp_path).path
    assert not (path / OWN_INPUTS_NAME).exists()
