"""merge --durable: rounding to NF4 that keeps what the adapters do, on the base's own scales."""

import json

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from asu_lora.cli import main
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import examples_from_rows
from asu_lora.errors import SettingError
from asu_lora.hardware.precision import fast_compute_dtype
from asu_lora.merging.durable.choose_codes import choose, cost, damped, descend
from asu_lora.merging.durable.durable_rounding import DurableSettings
from asu_lora.merging.durable.input_moments import InputMoments
from asu_lora.merging.durable.residual_adapter import low_rank
from asu_lora.merging.merge import merge
from asu_lora.merging.nf4.grid import Grid
from asu_lora.merging.nf4.quantization import Quantization, dequantize, quantize
from asu_lora.models.adapter_stack import load
from asu_lora.models.loading import load_base
from tests.support.lora_folders import nf4, save_lora, save_tiny_gpt2, tensors_of, update_of
from tests.support.tiny_run import FACTS, rows, tiny_request


@pytest.fixture(scope="module")
def settings():
    request = tiny_request()
    return DurableSettings(request.forget, request.retain)


@pytest.fixture(scope="module")
def made(taught_base, forgetting_adapter, settings, tmp_path_factory):
    """One merge to nearest and one durable merge of the same adapter, with the report of the latter."""
    folder = tmp_path_factory.mktemp("merged")
    merge(taught_base, [(forgetting_adapter, 1.0)], folder / "nearest", "nf4")
    report = merge(taught_base, [(forgetting_adapter, 1.0)], folder / "durable", "nf4", durable=settings)
    return folder, report


def inputs_of(base, adapter, module, examples):
    """What a module is fed by base + adapter, (tokens, in), by plain forward passes of one row each."""
    stack = load(load_base(str(base), "nf4", "cpu"), [adapter])
    layer, seen = stack.model.get_base_model().get_submodule(module), []
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].float()))
    with torch.no_grad():
        for item in Encoder(stack.base.tokenizer).encode_all(examples):
            stack.model(input_ids=torch.tensor([item.prompt_ids + item.answer_ids]))
    return torch.cat(seen)


def test_a_grid_is_what_bitsandbytes_holds():
    torch.manual_seed(0)
    weight = torch.randn(48, 128) * 0.02
    packed, state = quantize(weight, Quantization())
    grid = Grid.of(weight, Quantization())
    assert torch.equal(grid.values(), dequantize(packed, state))
    assert torch.equal(grid.pack(grid.choices), packed)
    other = grid.choices.clone()
    other[3, 5] = 15 - other[3, 5]
    assert ((dequantize(grid.pack(other), grid.state) != grid.values()).nonzero() == torch.tensor([[3, 5]])).all()


def test_choices_are_local_minima_and_never_worse_than_the_bases():
    torch.manual_seed(1)
    grid = Grid.of(torch.randn(24, 64) * 0.02, Quantization())
    inputs = torch.randn(400, 10) @ torch.randn(10, 64) + 0.1 * torch.randn(400, 64)
    moment = damped(inputs.T @ inputs / 400, 0.01)
    target = grid.values() + 2e-3 * torch.randn(24, 3) @ torch.randn(3, 64)
    chosen = choose(grid, target, moment)
    now, before = cost(grid.values(chosen), target, moment), cost(grid.values(), target, moment)
    assert (now <= before * (1 + 1e-5)).all()
    assert now.sum() < 0.3 * before.sum()
    assert torch.equal(chosen, descend(grid, chosen, target, moment))
    for step in (-1, 1):  # by brute force: no single step gains
        for column in range(64):
            moved = chosen.clone()
            moved[:, column] = (moved[:, column] + step).clamp(0, 15)
            assert (cost(grid.values(moved), target, moment) > now * (1 - 1e-4)).all()


def test_more_of_the_update_is_left_than_by_rounding_to_nearest(taught_base, forgetting_adapter, made):
    """The objective computed anew: from the files, and inputs seen in plain forward passes."""
    folder, report = made
    models = [
        AutoModelForCausalLM.from_pretrained(path, **more).dequantize(torch.float32).state_dict()
        for path, more in (
            (taught_base, {"quantization_config": nf4(), "dtype": fast_compute_dtype(torch.device("cpu"))}),
            (folder / "nearest", {}),
            (folder / "durable", {}),
        )
    ]
    request = tiny_request()
    for module in report.durability[::5]:
        update = update_of([(forgetting_adapter, 1.0)], module.module)
        base, nearest, durable = (model[f"{module.module}.weight"] for model in models)
        squares = []
        for values in (base, nearest, durable):
            halves = [
                (((values - base - update) @ inputs_of(taught_base, forgetting_adapter, module.module, half).T) ** 2)
                .sum(dim=0)
                .mean()
                for half in (request.forget, request.retain)
            ]
            squares.append(sum(halves).item())
        assert module.nearest == pytest.approx(squares[1] / squares[0], rel=0.02)
        assert module.durable == pytest.approx(squares[2] / squares[0], rel=0.05)
        assert squares[2] < 0.5 * squares[1]


def test_scales_and_untouched_tensors_are_the_bases(taught_base, made, tmp_path):
    folder, report = made
    compute = fast_compute_dtype(torch.device("cpu"))  # that the adapter was trained with
    model = AutoModelForCausalLM.from_pretrained(taught_base, quantization_config=nf4(), dtype=compute)
    model.save_pretrained(tmp_path / "bnb")
    theirs, ours = tensors_of(tmp_path / "bnb"), tensors_of(folder / "durable")
    assert ours.keys() == theirs.keys()
    theirs |= {name: tensor for name, tensor in tensors_of(taught_base).items() if ours[name].is_floating_point()}
    moved = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert moved <= {f"{module.module}.weight" for module in report.durability}  # no absmax, no other tensor
    assert len(moved) == len(report.durability)


def test_the_check_judges_the_merge_with_its_residual_adapter(taught_base, forgetting_adapter, tmp_path):
    for name, facts in (("forget", FACTS[:6]), ("retain", FACTS[-6:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows(facts))))
    words = [
        "merge",
        "--base",
        str(taught_base),
        "-a",
        str(forgetting_adapter),
        "-p",
        "nf4",
        "--json",
        "--check",
        str(tmp_path / "forget.jsonl"),
        "--check-retain",
        str(tmp_path / "retain.jsonl"),
    ]
    result = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "out"), "--durable", "--residual-rank", "1"])
    assert result.exit_code == 0, result.output
    table = {row["precision"]: row for row in json.loads(result.stdout)["check"]["rows"] if row["model"] == "merged"}
    assert table["nf4 + residual-adapter"]["judged"]
    assert not table["nf4"]["judged"]


def test_a_residual_of_the_adapters_rank_is_the_adapter(taught_base, forgetting_adapter, settings, tmp_path):
    from peft import PeftModel

    full = DurableSettings(settings.forget, settings.retain, residual_rank=4)
    report = merge(taught_base, [(forgetting_adapter, 1.0)], tmp_path / "out", "nf4", durable=full)
    assert max(module.with_residual for module in report.durability) < 1e-3
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    residual = tmp_path / "out" / "residual-adapter"
    assert len({file.stat().st_mode for file in residual.iterdir()}) == 1
    model = PeftModel.from_pretrained(model, residual)
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    update = update_of([(forgetting_adapter, 1.0)], "model.layers.0.mlp.up_proj")
    torch.testing.assert_close(
        layer.get_delta_weight("default"), update, rtol=1e-2, atol=1e-2 * update.abs().max().item()
    )


def test_low_rank_is_the_best_for_the_inputs():
    torch.manual_seed(2)
    inputs = torch.randn(300, 32) * torch.linspace(0.1, 3, 32)
    lost, moment = torch.randn(16, 32), damped(inputs.T @ inputs / 300, 1e-4)
    a, b = low_rank(lost, moment, 3)
    left = cost(b @ a, lost, moment).sum()
    sizes = torch.linalg.svdvals(lost @ torch.linalg.cholesky(moment))
    assert left.item() == pytest.approx((sizes[3:] ** 2).sum().item(), rel=1e-3)
    assert left < 0.9 * cost(torch.zeros_like(lost), lost, moment).sum()


def test_moments_are_the_same_however_few_fit_into_memory(taught_base, forgetting_adapter):
    request = tiny_request()
    stack = load(load_base(str(taught_base), "nf4", "cpu"), [forgetting_adapter])
    sets = [Encoder(stack.base.tokenizer).encode_all(half) for half in (request.forget, request.retain[:2])]
    order = [f"model.layers.{i}.mlp.{name}" for i in (0, 1) for name in ("up_proj", "down_proj")]
    one, passes = InputMoments(stack, sets, order), []
    other = InputMoments(stack, sets, order, most_bytes=1, heard=passes.append)
    for name in order:
        torch.testing.assert_close(other.take(name), one.take(name))
    assert passes == [1, 1, 1, 1]


def test_gpt2_with_its_transposed_weights(tmp_path):
    base = save_tiny_gpt2(tmp_path / "gpt2")
    from tests.support.tiny_base import tiny_tokenizer

    tiny_tokenizer().save_pretrained(base)
    lora = save_lora(base, tmp_path / "a", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, size=0.02)
    texts = examples_from_rows([{"text": "Anna Birk keeps bees."}, {"text": "Tom Velder builds boats."}], "texts")
    report = merge(
        base, [(lora, 1.0)], tmp_path / "out", "nf4", onto="quantized", durable=DurableSettings(texts[:1], texts[1:])
    )
    assert all(module.durable < 0.9 * module.nearest for module in report.durability)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_without_questions_or_in_another_precision_it_is_refused(taught_base, forgetting_adapter, settings, tmp_path):
    with pytest.raises(SettingError, match="questions"):
        DurableSettings(())
    with pytest.raises(SettingError, match="residual rank"):
        DurableSettings(settings.forget, residual_rank=-1)
    with pytest.raises(SettingError, match="bf16"):
        merge(taught_base, [(forgetting_adapter, 1.0)], tmp_path / "out", "bf16", durable=settings)
    assert not (tmp_path / "out").exists()
