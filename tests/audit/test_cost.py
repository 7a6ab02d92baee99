"""What makes an audit cheap changes nothing that it finds."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from asu_lora.audit.attacks.relearn import Relearn
from asu_lora.audit.attacks.tune_general import TuneGeneral
from asu_lora.audit.attacks.tune_neighbours import TuneNeighbours
from asu_lora.audit.decoding import Pass, decode
from asu_lora.audit.models import Models
from asu_lora.audit.rounding import AuditedWeights, Way, to_int8, to_nf4
from asu_lora.audit.settings import DEPTHS
from asu_lora.bases.source import resolve_base
from asu_lora.models.adapter_stack import load
from asu_lora.models.generation import generate_answers
from asu_lora.models.loading import load_base
from tests.support.lora_folders import give_manifest, save_lora


@pytest.fixture(scope="module")
def stacked(taught_base, tmp_path_factory):
    folder = save_lora(taught_base, tmp_path_factory.mktemp("cost") / "anna", 1, size=0.08)
    return load(load_base(str(taught_base), "nf4", "cpu"), [folder])


def test_4_bit_weights_are_unpacked_as_long_as_the_models_are_open(stacked):
    with Models(stacked, AuditedWeights(stacked.base.source, [], "cpu")):
        assert sum("forward" in vars(module) for module in stacked.model.modules()) == 14  # seven maps of two layers
    assert not [module for module in stacked.base.model.modules() if "forward" in vars(module)]


def test_a_ground_that_is_made_once_is_that_of_every_way(taught_base, tmp_path):
    """R(W + D) merged and R(W) + D beside, W being what NF4 made of the base: whichever way comes before."""
    folder = give_manifest(save_lora(taught_base, tmp_path / "anna", 1, size=0.08), taught_base, "nf4")
    whole = load_base(str(taught_base), "fp32", "cpu").model.state_dict()
    lora = load_file(folder / "adapter_model.safetensors")
    a_name = next(name for name in lora if "lora_A" in name)
    scaling = json.loads((folder / "adapter_config.json").read_text())
    update = lora[a_name.replace("lora_A", "lora_B")] @ lora[a_name] * scaling["lora_alpha"] / scaling["r"]
    name = a_name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
    ground = to_nf4(whole[name].float())
    wanted = {
        "int8_beside": to_int8(ground) + update,
        "nf4_merged": to_nf4(ground + update),
        "fp32_merged": ground + update,
    }
    ways = (Way("nf4", True), Way("int8", False), Way("fp32", True), Way("nf4", True))
    with AuditedWeights(resolve_base(str(taught_base)), [(folder, 1.0)], "cpu").at(ways) as models:
        for way, base in models:
            assert torch.allclose(base.model.state_dict()[name], wanted[way.name], atol=1e-6), way


def test_rows_that_leave_a_batch_take_nothing_from_the_rest(taught_base):
    base = load_base(str(taught_base), "fp32", "cpu")
    words = range(4, base.model.config.vocab_size)
    prompts = [tuple(words[3 * at : 3 * at + size]) for at, size in enumerate((9, 2, 5, 5, 1, 7))]
    prompts += [prompts[2], prompts[0]]  # read once, written apart
    rooms = [12, 3, 9, 1, 20, 12, 9, 4]
    passes = [Pass(base.model, torch.no_grad)]
    told = decode(passes, lambda logits: logits[0].argmax(-1), base.tokenizer, prompts, rooms)
    alone = [
        generate_answers(base.model, base.tokenizer, [prompt], new_tokens=room)[0]
        for prompt, room in zip(prompts, rooms, strict=True)
    ]
    assert told == alone
    assert len({len(answer) for answer in told}) > 2


def test_harmless_tuning_leaves_the_gentlest_rate_of_full_to_relearning():
    for depth, harmless in (("quick", (1e-3,)), ("standard", (2e-3,)), ("full", (2e-3, 4e-3))):
        session = SimpleNamespace(effort=DEPTHS[depth])
        assert Relearn().rates(session) == DEPTHS[depth].rates, depth
        assert TuneGeneral().rates(session) == TuneNeighbours().rates(session) == harmless, depth
