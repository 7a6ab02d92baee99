"""What servers would refuse or serve wrongly, and that the ways out that are named lead out."""

import json

import pytest
from click.testing import CliRunner

from asu_lora.adapters.lora_folder import read_adapter
from asu_lora.adapters.serving import DIFFERS, NEEDS, REFUSES, SERVES, serving_findings
from asu_lora.bases.base_config import base_config
from asu_lora.cli import main
from asu_lora.errors import SettingError
from tests.support.lora_folders import LINEAR, save_lora

ALL = ("vllm", "tgi", "llama.cpp")


@pytest.fixture(scope="module")
def config(tiny_base):
    return base_config(str(tiny_base))


@pytest.fixture(scope="module")
def make(tiny_base, tmp_path_factory):
    """Adapters by their settings, each made once."""
    made = {}

    def of(**settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in made:
            made[key] = save_lora(tiny_base, tmp_path_factory.mktemp("lora") / "a", **settings)
        return made[key]

    return of


def verdicts(folder, config, servers=ALL, weight=1.0):
    found = serving_findings([read_adapter(folder)], [weight], servers, config)
    return {server: {each.verdict for each in found if each.server == server} for server in servers}, found


def test_a_plain_adapter_in_every_layer_is_served_by_all(make, config):
    seen, found = verdicts(make(), config)
    assert seen == {"vllm": {SERVES}, "tgi": {SERVES}, "llama.cpp": {NEEDS}}
    assert not any(each.bad for each in found)


def test_tgi_leaves_out_what_is_not_in_every_layer(make, config):
    """Its loader returns nothing for a kind of module as soon as one layer has no factors for it."""
    seen, found = verdicts(make(layers_to_transform=[1]), config)
    assert seen == {"vllm": {SERVES}, "tgi": {DIFFERS}, "llama.cpp": {NEEDS}}
    [why] = [each.why for each in found if each.server == "tgi"]
    assert "q_proj and v_proj" in why and "--adapter-layers all" in why
    assert verdicts(make(layers_to_transform=[1]), None)[0]["tgi"] == {DIFFERS}  # layer 0 is missing, whoever the base


@pytest.mark.parametrize(("rank", "says"), [(16, None), (17, "--max-lora-rank 32"), (321, "--max-lora-rank 512")])
def test_vllm_is_told_the_rank_it_needs(rank, says, make, config):
    seen, found = verdicts(make(r=rank), config, ["vllm"])
    assert seen["vllm"] == ({NEEDS} if says else {SERVES})
    assert says is None or says in found[0].why


def test_vllm_refuses_a_rank_above_its_largest(make, config):
    assert verdicts(make(r=513), config, ["vllm"])[0]["vllm"] == {REFUSES}


def test_one_scaling_for_all_is_found_and_combining_is_the_way_out(make, config, tmp_path):
    from asu_lora.adapters.combine import combine

    patterned = make(target_modules=LINEAR, alpha_pattern={"q_proj": 3}, use_rslora=True)
    seen, found = verdicts(patterned, config, ["vllm", "tgi"])
    assert seen == {"vllm": {DIFFERS}, "tgi": {DIFFERS}} and "q_proj is scaled by 1.5" in found[0].why
    combine([patterned], [1.0], tmp_path / "one")
    one = read_adapter(tmp_path / "one")
    assert {each.scaling for each in one.modules.values()} == {one.config["lora_alpha"] / one.config["r"]}
    assert verdicts(tmp_path / "one", config, ["vllm", "tgi"])[0] == {"vllm": {SERVES}, "tgi": {SERVES}}


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"lora_bias": True}])
def test_more_than_a_lora_is_refused_or_served_wrongly(settings, make, config):
    seen, _ = verdicts(make(**settings), config)
    assert REFUSES in seen["vllm"] and DIFFERS in seen["tgi"] and seen["llama.cpp"] == {REFUSES}


def test_embeddings_and_ranks_that_differ_from_layer_to_layer(make, config):
    seen, _ = verdicts(make(target_modules=["embed_tokens", "q_proj", "v_proj"]), config)
    assert seen["tgi"] == {DIFFERS} and seen["llama.cpp"] == {REFUSES}
    seen, found = verdicts(make(rank_pattern={"layers.1.*q_proj": 2}, alpha_pattern={"layers.1.*q_proj": 4}), config)
    assert seen == {"vllm": {SERVES}, "tgi": {REFUSES}, "llama.cpp": {NEEDS}}
    assert "ranks of q_proj differ" in next(each.why for each in found if each.server == "tgi")


def test_weights_and_stacks_are_for_llama_cpp_alone(make, config):
    seen, _ = verdicts(make(), config, weight=0.5)
    assert seen == {"vllm": {REFUSES}, "tgi": {REFUSES}, "llama.cpp": {NEEDS}}


def test_an_unknown_architecture_and_an_unknown_server(make, config):
    assert verdicts(make(), config | {"model_type": "falcon"}, ["llama.cpp"])[0]["llama.cpp"] == {REFUSES}
    assert verdicts(make(), None, ["llama.cpp"])[0]["llama.cpp"] == {NEEDS}
    with pytest.raises(SettingError, match="'sglang' is no server"):
        verdicts(make(), config, ["sglang"])


def test_the_command_says_so_and_exits_with_3(tiny_base, tmp_path):
    for name, layers in (("whole", None), ("half", [1])):
        save_lora(tiny_base, tmp_path / name, layers_to_transform=layers)
    run = lambda *words: CliRunner().invoke(main, ["adapters", "check", *words, "--store", str(tmp_path)])  # noqa: E731
    good = run("whole", "--serves", "vllm,tgi,llama.cpp")
    assert good.exit_code == 0 and "needs a setting" in good.stdout and "whole --format gguf" in good.stdout, (
        good.output
    )
    bad = run("half", "--serves", "TGI", "--json")
    assert bad.exit_code == 3
    [finding] = json.loads(bad.stdout)
    assert finding["adapter"] == "half" and finding["server"] == "tgi" and finding["verdict"] == DIFFERS
    assert run("half", "--serves", "tgi", "--retain", "x.jsonl").exit_code == 2
    assert run("half", "--serves", "tgi", "--base", str(tmp_path / "none")).exit_code == 2


def test_merging_for_llama_cpp_prints_the_one_command(tiny_base, tmp_path):
    save_lora(tiny_base, tmp_path / "store" / "a")
    words = ["merge", "-a", "a", "--base", str(tiny_base), "--store", str(tmp_path / "store"), "-f", "gguf"]
    done = CliRunner().invoke(main, [*words, "-p", "fp16", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    place = tmp_path / "out"
    assert f"python convert_hf_to_gguf.py {place} --outtype f16 --outfile {place}.f16.gguf" in done.stdout
    refused = CliRunner().invoke(main, [*words, "-p", "nf4", "-o", str(tmp_path / "other")])
    assert refused.exit_code == 2 and "doesn't read nf4" in " ".join(refused.stderr.split())
    assert not (tmp_path / "other").exists()
