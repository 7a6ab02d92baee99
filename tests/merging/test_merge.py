"""Merging: the merged checkpoint, loaded by plain transformers, answers as base and adapters did."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from asu_lora.adapters.lora_folder import read_lora
from asu_lora.errors import AdapterError
from asu_lora.files import sha256_file
from asu_lora.merging.merge import merge
from asu_lora.merging.merge_record import RECORD_NAME, read_record
from tests.support.lora_folders import (
    LINEAR,
    logits_of,
    nf4,
    relative,
    save_lora,
    save_tiny_gpt2,
    stacked,
    tensors_of,
    two_adapters,
    update_of,
)
from tests.support.tiny_base import save_tiny_base

two = two_adapters


def test_fp32_answers_as_the_stack(tiny_base, two, tmp_path):
    report = merge(tiny_base, two, tmp_path / "out", "fp32")
    stack = logits_of(stacked(tiny_base, two))
    assert relative(stack, logits_of(tiny_base)) > 0.05
    assert relative(logits_of(tmp_path / "out"), stack) < 1e-5
    assert (report.onto, report.onto_difference) == ("original", None)
    assert len(report.modules) == 2 * len(LINEAR)
    assert report.overall.kept == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_the_fp32_sum_rounded_once(tiny_base, two, tmp_path, precision):
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    report = merge(tiny_base, two, tmp_path / "out", precision)
    before, after = tensors_of(tiny_base), tensors_of(tmp_path / "out")
    assert {tensor.dtype for tensor in after.values()} == {dtype}
    squares = {"update": 0.0, "change": 0.0}
    for name, weight in before.items():
        module = name.removesuffix(".weight")
        update = update_of(two, module)
        exact = weight + update
        # A sum may be computed in another order, so an entry on the edge may fall to the other side.
        assert (after[name] != exact.to(dtype)).float().mean() < 1e-3
        torch.testing.assert_close(after[name].float(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)
        if torch.is_tensor(update):
            measured = next(m for m in report.modules if m.module == module)
            rounded = exact.to(dtype).float()
            squares["update"] += (update**2).sum().item()
            squares["change"] += ((rounded - exact) ** 2).sum().item()
            kept = (((rounded - weight.to(dtype).float()) * update).sum() / (update**2).sum()).item()
            assert measured.kept == pytest.approx(kept, abs=1e-4)
            assert measured.update_norm == pytest.approx(update.norm().item(), rel=1e-5)
    assert report.overall.error == pytest.approx((squares["change"] / squares["update"]) ** 0.5, rel=1e-2)
    assert AutoConfig.from_pretrained(tmp_path / "out").dtype == dtype
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == dtype


def test_the_smaller_the_update_the_more_rounding_takes(tmp_path):
    base = save_tiny_base(tmp_path / "base", tie_word_embeddings=False)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    errors, kept = [], []
    for number, size in enumerate((0.1, 0.01, 0.001)):
        lora = save_lora(base, tmp_path / f"lora{number}", size=size)
        report = merge(base, [(lora, 1.0)], tmp_path / f"out{number}", "bf16")
        errors.append(report.overall.error)
        kept.append(report.overall.kept)
    assert errors[0] < errors[1] < errors[2]
    assert kept[0] > 0.99
    assert kept[2] < 0.2  # updates of 1e-5 beside weights of 0.02, whose steps are 1e-4


def test_what_has_no_update_stays_bit_for_bit(tiny_base, two, tmp_path):
    merge(tiny_base, two[1:], tmp_path / "out", "fp32")
    before, after = tensors_of(tiny_base), tensors_of(tmp_path / "out")
    assert before.keys() == after.keys()
    touched = {name for name in before if not torch.equal(before[name], after[name])}
    assert touched == {f"{module}.weight" for module in read_lora(two[1][0]).modules}


def test_gpt2_with_its_transposed_weights(tmp_path):
    base = save_tiny_gpt2(tmp_path / "gpt2")
    lora = save_lora(base, tmp_path / "a", target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True)
    merge(base, [(lora, 0.8)], tmp_path / "out", "fp32")
    stack = logits_of(stacked(base, [(lora, 0.8)]))
    assert relative(stack, logits_of(base)) > 0.05
    assert relative(logits_of(tmp_path / "out"), stack) < 1e-5


def test_untied_embedding_and_head(tmp_path):
    base = save_tiny_base(tmp_path / "untied", tie_word_embeddings=False)
    lora = save_lora(base, tmp_path / "a", target_modules=["embed_tokens", "lm_head", "q_proj"])
    merge(base, [(lora, 1.0)], tmp_path / "out", "fp32")
    stack = logits_of(stacked(base, [(lora, 1.0)]))
    assert relative(stack, logits_of(base)) > 0.05
    assert relative(logits_of(tmp_path / "out"), stack) < 1e-5


def test_shards_in_and_shards_out(two, tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_base).save_pretrained(base, max_shard_size="100KB")
    assert len(list(base.glob("*.safetensors"))) > 3
    seen = []
    report = merge(base, two, tmp_path / "out", "fp32", shard_size=70_000, progress=lambda *at: seen.append(at))
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) == report.shards > 3
    assert shards[0] == f"model-00001-of-{report.shards:05d}.safetensors"
    for shard in shards:
        sizes = [tensor.nbytes for tensor in load_file(tmp_path / "out" / shard).values()]
        assert sum(sizes) <= 70_000 or len(sizes) == 1
    assert relative(logits_of(tmp_path / "out"), logits_of(stacked(tiny_base, two))) < 1e-5
    total = sum(tensor.nbytes for tensor in tensors_of(tiny_base).values())
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert report.bytes == total


def test_many_short_runs_on_three_threads_give_the_same_bytes(tiny_base, two, tmp_path, monkeypatch):
    from asu_lora.merging import row_workers as blocks

    whole = merge(tiny_base, two, tmp_path / "whole", "bf16")
    threads = torch.get_num_threads()
    monkeypatch.setattr(blocks, "BLOCK", 700)  # eleven rows of 64, so that the last run is a shorter one
    torch.set_num_threads(3)
    try:
        runs = merge(tiny_base, two, tmp_path / "runs", "bf16")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "runs" / "model.safetensors").stat().st_size == (
        tmp_path / "whole" / "model.safetensors"
    ).stat().st_size
    for name, tensor in tensors_of(tmp_path / "whole").items():
        other = tensors_of(tmp_path / "runs")[name]
        # A product of fewer rows may be summed in another order, and an entry on the edge fall elsewhere.
        assert (tensor != other).float().mean() < 1e-3
        torch.testing.assert_close(tensor, other)
    assert runs.overall.kept == pytest.approx(whole.overall.kept, abs=1e-5)
    assert runs.overall.error == pytest.approx(whole.overall.error, rel=1e-3)


def test_more_tensors_than_a_header_has_room_for_begin_another_shard(tiny_base, two, tmp_path, monkeypatch):
    from asu_lora.merging.checkpoint import tensor_writer as writer

    monkeypatch.setattr(writer, "HEADER_ROOM", 1024)
    report = merge(tiny_base, two, tmp_path / "out", "fp32")
    assert report.shards > 3
    assert relative(logits_of(tmp_path / "out"), logits_of(stacked(tiny_base, two))) < 1e-5


def test_companions_come_along(tiny_base, two, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "generation_config.json").write_text('{"temperature": 0.3, "do_sample": true}')
    (base / "LICENSE").write_text("free")
    (base / "README.md").write_text("the base's own card")
    (base / "pytorch_model.bin").write_bytes(b"a pickle")
    merge(base, two, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in base.iterdir()} - {"README.md", "pytorch_model.bin"} | {RECORD_NAME}
    told = read_record(tmp_path / "out")
    assert told == [(sha256_file(folder / "adapter_model.safetensors"), weight) for folder, weight in two]
    again = save_lora(tmp_path / "out", tmp_path / "again", seed=7)
    merge(tmp_path / "out", [(again, 1.0)], tmp_path / "twice")
    assert read_record(tmp_path / "twice") == [(sha256_file(again / "adapter_model.safetensors"), 1.0)]
    messages = [{"role": "user", "content": "Who?"}]
    one, other = (AutoTokenizer.from_pretrained(folder) for folder in (base, tmp_path / "out"))
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for tokenizer in (one, other)]
    assert texts[0] == texts[1]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config.temperature == 0.3


# ---- names that differ between checkpoint and modules


def test_a_checkpoint_without_the_models_prefix(tmp_path):
    """gpt2 on the hub calls its tensors h.0.attn.c_attn.weight, without 'transformer.'."""
    base = save_tiny_gpt2(tmp_path / "gpt2")
    lora = save_lora(base, tmp_path / "a", target_modules=["c_attn"], fan_in_fan_out=True)
    stack = logits_of(stacked(base, [(lora, 1.0)]))
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors_of(base).items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    merge(base, [(lora, 1.0)], tmp_path / "out", "fp32")
    assert "h.0.attn.c_attn.weight" in tensors_of(tmp_path / "out")
    assert relative(logits_of(tmp_path / "out"), stack) < 1e-5
    merge(base, [(lora, 1.0)], tmp_path / "nf4", "nf4")
    assert torch.equal(logits_of(tmp_path / "nf4"), logits_of(tmp_path / "out", quantization_config=nf4()))


def test_a_mixture_of_experts_whose_experts_are_fused_on_loading(tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=320,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=4,
        )
    )
    model.save_pretrained(base := tmp_path / "mixtral")
    assert any(".experts.0.w1." in name for name in tensors_of(base))
    lora = save_lora(base, tmp_path / "a")
    merge(base, [(lora, 1.0)], tmp_path / "out", "fp32")
    stack = logits_of(stacked(base, [(lora, 1.0)]))
    assert relative(stack, logits_of(base)) > 0.05
    assert relative(logits_of(tmp_path / "out"), stack) < 1e-5


def test_a_module_that_is_split_from_another_tensor_is_refused_by_name(tmp_path):
    from transformers import HrmTextConfig, HrmTextForCausalLM

    HrmTextForCausalLM(
        HrmTextConfig(vocab_size=320, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    ).save_pretrained(base := tmp_path / "hrm")
    lora = save_lora(base, tmp_path / "packed", target_modules=["up_proj"])
    with pytest.raises(AdapterError, match=r"'packed' changes .*up_proj, which has no tensor of its own"):
        merge(base, [(lora, 1.0)], tmp_path / "out")
    assert not (tmp_path / "out").exists()
