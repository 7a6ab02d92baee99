"""Membership attacks against independent computations, PrivLeak on question sets, and gradients against autograd."""

import json
import random

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import asu_lora
from asu_lora.cli import main
from asu_lora.data.examples import examples_from_rows
from asu_lora.errors import DataError, SettingError
from asu_lora.evaluation.evaluation_request import EvaluationRequest
from asu_lora.evaluation.gradients import weight_norms
from asu_lora.evaluation.likelihoods import Likelihoods
from asu_lora.evaluation.membership import ATTACKS, attack_scores
from asu_lora.evaluation.metrics.auc import auc
from asu_lora.evaluation.metrics.gradient_norm import gradient_norm
from asu_lora.evaluation.metrics.min_k_plus_plus import min_k_plus_plus, standardized
from asu_lora.evaluation.metrics.reference_loss import reference_loss
from asu_lora.evaluation.metrics.tpr_at_fpr import tpr_at_fpr
from asu_lora.evaluation.metrics.truth_share import truth_share
from asu_lora.evaluation.metrics.zlib_loss import zlib_loss
from asu_lora.evaluation.retain_comparison import leakage
from asu_lora.models.decoder import base_model
from asu_lora.models.loading import load_base
from tests.support import independent_metrics as independent
from tests.support.jsonl import jsonl
from tests.support.tiny_run import FACTS, rows

MACHINE = ("--precision", "fp32", "--device", "cpu")
SCORES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=20)
UNSEEN = [
    ("Zed Quux", "eats soap"),
    ("Yan Kxw", "irons 9 xylophones"),
    ("Uma Po", "bakes rye"),
    ("Olu Sy", "sells figs"),
]


@settings(deadline=None)
@given(SCORES, SCORES, st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9]))
def test_true_positives_by_every_threshold(members, others, fpr):
    assert tpr_at_fpr(members, others, fpr) == pytest.approx(independent.tpr(members, others, fpr))
    assert auc(members, others) == pytest.approx(independent.auc(members, others))


def test_true_positives_at_one_percent_by_hand():
    others = [float(i) for i in range(200)]  # two of them may lie above
    assert tpr_at_fpr([197.0, 197.5, 300.0, 0.0], others) == 0.5
    assert tpr_at_fpr([5.0], [4.0, 1.0]) == 1.0 and tpr_at_fpr([4.0], [4.0, 1.0]) == 0.0
    for members, rest, fpr, error in (
        ([], [1.0], 0.01, DataError),
        ([1.0], [float("nan")], 0.01, DataError),
        ([1.0], [1.0], 1.0, SettingError),
    ):
        with pytest.raises(error):
            tpr_at_fpr(members, rest, fpr)


def test_min_k_plus_plus_on_fixed_logits():
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(10, 7), torch.randint(0, 7, (10,))
    logits[3, 2] = float("-inf")  # a word that is ruled out has no say
    labels[3] = 1
    logits[4] = torch.tensor([50.0] + [-50.0] * 6)  # a sure prediction has no spread
    labels[4] = 0
    log_p = logits.double().log_softmax(-1)
    expected = []
    for row, label in zip(log_p, labels.tolist(), strict=True):
        p = row.exp().tolist()
        mean = sum(q * r for q, r in zip(p, row.tolist(), strict=True) if q > 0)
        variance = sum(q * (r - mean) ** 2 for q, r in zip(p, row.tolist(), strict=True) if q > 0)
        expected.append((row[label].item() - mean) / max(variance, 1e-6) ** 0.5)
    logprobs = logits.log_softmax(-1)[torch.arange(10), labels]
    assert standardized(logits, logprobs).tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert min_k_plus_plus(expected) == pytest.approx(sum(sorted(expected)[:4]) / 4)


def test_small_metrics_by_hand():
    assert zlib_loss([1.0, 3.0], "abcabcabc") == pytest.approx(independent.zlib_loss(2.0, "abcabcabc"))
    assert reference_loss(2.0, 0.5) == 1.5
    assert truth_share(3.0) == 0.75 and truth_share(1.0) == 0.5
    assert gradient_norm([1.0, 2.0, 6.0]) == 3.0
    for broken in (lambda: zlib_loss([1.0], ""), lambda: gradient_norm([])):
        with pytest.raises(DataError):
            broken()


def test_every_attack_has_its_orientation_and_both_figures():
    members = [
        {metric: (0.0 if lower else 1.0) for metric, lower in ((a.metric, a.members_lower) for a in ATTACKS)}
    ] * 3
    others = [{metric: 0.5 for metric in row} for row in members]
    found = attack_scores(members, others)
    assert {f"{attack.title} {figure}" for attack in ATTACKS for figure in ("AUC", "TPR at 1% FPR")} == set(found)
    assert all(score.value == 1.0 for score in found.values())
    assert attack_scores(members, [])["Min-40% AUC"].value is None


def test_the_command_tells_members_and_compares_with_a_retain_only_model(taught_base, tiny_base, tmp_path):
    """PrivLeak and reference of question sets, from the records of a model that never learned them."""
    full = {"paraphrased_answer": "Someone does.", "perturbed_answer": ["Someone sleeps.", "Nobody does."]}
    forget = jsonl(tmp_path / "forget.jsonl", [row | full for row in rows(FACTS[:5])])
    unseen = jsonl(tmp_path / "unseen.jsonl", rows(UNSEEN))
    files = ("--forget", forget, "--holdout", unseen)
    log, records = tmp_path / "log.jsonl", tmp_path / "records.jsonl"
    command = ["evaluate", *MACHINE, *files, "--json"]
    first = CliRunner().invoke(main, [*command, "--base", str(tiny_base), "--records", str(log)])
    assert first.exit_code == 0, first.output
    more = ["--retain-log", str(log), "--records", str(records), "--gradient-norm"]
    second = CliRunner().invoke(main, [*command, "--base", str(taught_base), *more])
    assert second.exit_code == 0, second.output
    scores = json.loads(second.stdout)["scores"]
    ours, theirs = ([json.loads(line) for line in path.read_text().splitlines()] for path in (records, log))
    sides = [[[row for row in part if row["set"] == name] for name in ("forget", "holdout")] for part in (ours, theirs)]
    for attack in ATTACKS:
        sign = -1 if attack.members_lower else 1
        values = [[sign * row[attack.metric] for row in rows_] for rows_ in sides[0]]
        assert scores[f"{attack.title} AUC"]["value"] == pytest.approx(independent.auc(*values)), attack.title
        assert scores[f"{attack.title} TPR at 1% FPR"]["value"] == pytest.approx(independent.tpr(*values))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["reference_loss"] == pytest.approx(mine["loss"] - other["loss"])
    aucs = [independent.auc(*[[row["min_k"] for row in rows_] for rows_ in side]) for side in sides]
    unlearned, retrained = 1 - aucs[0], 1 - aucs[1]  # MUSE counts the forget set as non-members
    assert scores["PrivLeak"]["value"] == pytest.approx(100 * (unlearned - retrained) / retrained)
    assert scores["Loss AUC"]["value"] == 1.0 and 0 < scores["forget quality"]["value"] <= 1
    assert all(scores[name]["interval"] is not None for name in ("Loss AUC", "forget quality", "FE"))


def test_privleak_has_an_interval_where_the_retrained_model_can_not_tell():
    def side(seed, shift):
        draw = random.Random(seed)
        return [[{"min_k": draw.gauss(by, 1)} for _ in range(40)] for by in (shift, 0.0)]

    ours, theirs = side(0, 1.0), side(1, 0.0)
    score, note = leakage(ours, theirs)
    low, high = score.interval
    assert note is None and low < score.value < high < 0
    assert leakage(ours, [theirs[0], []])[0].value is None
    told = [[{"min_k": 1.0}] * 3, [{"min_k": 0.0}] * 3]
    score, note = leakage(ours, told)
    assert score.value is None and "divide by 0" in note


def test_gradients_without_rows_to_compare_with_are_refused():
    with pytest.raises(SettingError, match="--holdout"):
        EvaluationRequest(forget="x.jsonl", gradient_norm=True)


def test_a_row_to_forget_is_not_held_out_too(taught_base, tmp_path):
    """Nor is one that the model was to keep a member: only the forget set's are."""
    files = ["--forget", jsonl(tmp_path / "forget.jsonl", rows(FACTS[:3]))]
    files += ["--retain", jsonl(tmp_path / "keep.jsonl", rows(UNSEEN[:2]))]
    command = ["evaluate", *MACHINE, "--base", str(taught_base), *files, "--holdout"]
    both = CliRunner().invoke(main, [*command, jsonl(tmp_path / "both.jsonl", rows([*UNSEEN, FACTS[1]]))])
    assert both.exit_code == 2 and both.stdout == ""
    assert f"1 of the {len(UNSEEN) + 1} held-out rows (first: row {len(UNSEEN) + 1}) stand" in both.stderr
    assert CliRunner().invoke(main, [*command, jsonl(tmp_path / "unseen.jsonl", rows(UNSEEN))]).exit_code == 0


def norms_by_autograd(model, ids, start):
    """Mean 2-norm of the gradients of a whole model's weights, by plain backward."""
    model.requires_grad_(True)
    logits = model(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1]
    torch.nn.functional.cross_entropy(logits.float(), torch.tensor(ids[start:])).backward()
    norms = [weight.grad.float().norm().item() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    return norms


def test_gradient_norms_are_those_of_the_merged_model(taught_base, forgetting_adapter):
    """With adapters in place the gradient by a base weight is that by the merged one, which autograd gives."""
    stack = asu_lora.load(load_base(str(taught_base), "fp32", "cpu"), [forgetting_adapter])
    example = examples_from_rows(rows(FACTS[:1]), "facts")[0]
    model = base_model(stack.model)
    before = {name: weight.requires_grad for name, weight in model.named_parameters()}
    norms = weight_norms(model, stack.encoder().encode(example))
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == before
    assert all(weight.grad is None for weight in model.parameters())
    merged = stack.model.merge_and_unload()
    ids, start = independent.rows_of(stack.base.tokenizer, example.question, example.answer)
    expected = norms_by_autograd(merged, ids[:-1], start)
    assert sorted(norms) == pytest.approx(sorted(expected), rel=1e-3)
    assert gradient_norm(norms) == pytest.approx(sum(expected) / len(expected), rel=1e-3)


def test_four_bit_weights_have_the_gradient_of_their_values(taught_base):
    """NF4 weights take no gradient; the norms are those of a model with the dequantised weights."""
    import bitsandbytes

    stack = asu_lora.load(load_base(str(taught_base), "nf4", "cpu"))
    example = examples_from_rows(rows(UNSEEN[:1]), "unseen")[0]
    likelihoods = Likelihoods(stack, stack.encoder())
    norms = weight_norms(likelihoods.model, stack.encoder().encode(example))
    plain = load_base(str(taught_base), "fp32", "cpu").model
    for name, module in likelihoods.model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain.get_submodule(name).weight.data.copy_(weight.float())
    ids, start = independent.rows_of(stack.base.tokenizer, example.question, example.answer)
    expected = norms_by_autograd(plain, ids[:-1], start)
    assert len(norms) == len(expected)
    assert gradient_norm(norms) == pytest.approx(sum(expected) / len(expected), rel=0.05)  # NF4 may compute in bf16
