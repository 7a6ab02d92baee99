"""asu-lora probe: every curve against a second, independent computation, on tiny bases."""

import math

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import examples_from_rows, question_answer
from asu_lora.data.token_classes import TokenClass, token_classes
from asu_lora.errors import DataError, SettingError
from asu_lora.studies.probe.attention_entropy import answer_attention
from asu_lora.studies.probe.grid import DEFAULT_GROUPS, default_group, layer_groups, parse_taus
from asu_lora.studies.probe.points import CLASSES, ProbePoint
from asu_lora.studies.probe.probe import ProbeConfig, probe
from asu_lora.studies.probe.recommendation import recommend
from asu_lora.studies.probe.teacher_answers import TeacherAnswers
from asu_lora.teacher.smoothing import attention_smoothing
from asu_lora.teacher.tau import TauChoice, TauPoint, choose_tau
from tests.support.tiny_base import tiny_tokenizer
from tests.support.tiny_run import encoded_facts, rows

EXAMPLES = examples_from_rows(rows(), "rows")


F, C, X = TokenClass.FUNCTION, TokenClass.COPIED, TokenClass.FACTUAL


def entropy_by_hand(model, item, tau, layers):
    """(answer tokens,) entropy from the queries and keys of each layer, one row alone, in fp64."""
    inputs, found = {}, []
    ids = torch.tensor([item.prompt_ids + item.answer_ids])
    hooks = [
        layer.register_forward_pre_hook(lambda m, args, i=i: inputs.__setitem__(i, args[0]))
        for i, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad(), attention_smoothing(model, tau, layers):
        model(input_ids=ids)
    [hook.remove() for hook in hooks]
    length = ids.shape[1]
    cos, sin = model.model.rotary_emb(inputs[0], torch.arange(length)[None])
    for index in layers:
        layer = model.model.layers[index]
        attention, x = layer.self_attn, layer.input_layernorm(inputs[index])
        q, k = (
            project(x).view(1, length, -1, attention.head_dim).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj)
        )
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        k = repeat_kv(k, attention.num_key_value_groups)
        logits = (q.double() @ k.double().mT) / (tau * math.sqrt(attention.head_dim))
        logits = logits.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
        p = torch.softmax(logits, -1)
        found.append(-(p * p.clamp_min(1e-300).log()).sum(-1).mean(1)[0])
    start = len(item.prompt_ids) - 1
    return torch.stack(found).mean(0)[start : start + len(item.answer_ids)]


@pytest.mark.parametrize(("tau", "layers"), [(1.0, [0, 1]), (1.0, [1]), (2.5, [0, 1]), (4.0, [0]), (4.0, [1])])
def test_attention_entropy_is_that_of_the_softmax_of_queries_and_keys(base, taught_base, tau, layers):
    items = encoded_facts(taught_base)[:5]
    assert len({len(item) for item in items}) > 1  # so that some rows are padded
    _, found = answer_attention(base.model, items, base.tokenizer.pad_token_id, tau, layers)
    for item, entropy in zip(items, found, strict=True):
        assert entropy.tolist() == pytest.approx(entropy_by_hand(base.model, item, tau, layers).tolist(), abs=1e-4)


@pytest.mark.parametrize("layers", [("all",), ("1",)])
def test_points_are_cross_entropies_by_class(base, layers):
    """Against transformers' own logits on one row at a time; tau 1 without any smoothing."""
    result = probe(EXAMPLES, base, ProbeConfig([1.0, 2.5], layers, answers=0))
    [(group, points)] = result.curves
    items = Encoder(base.tokenizer).encode_all(EXAMPLES)
    classes = torch.tensor(
        [
            kind
            for item, example in zip(items, EXAMPLES, strict=True)
            for kind in token_classes(item, example, base.tokenizer)
        ]
    )

    def nll(item):
        ids = torch.tensor([item.prompt_ids + item.answer_ids])
        labels = torch.tensor(item.answer_ids)
        with torch.no_grad():
            logits = base.model(input_ids=ids).logits[0, len(item.prompt_ids) - 1 : -1]
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    plain = torch.cat([nll(item) for item in items])
    with attention_smoothing(base.model, 2.5, group.layers):
        heated = torch.cat([nll(item) for item in items])
    for point, values in zip(points, (plain, heated), strict=True):
        for name, kind in zip(CLASSES, (X, F, C), strict=True):
            assert point.nll[name] == pytest.approx(values[classes == kind].mean().item(), rel=1e-3, abs=1e-4)
    known = (classes == X) & (plain < math.log(2))
    assert points[1].factual_rise == pytest.approx((heated - plain)[known].mean().item(), rel=1e-3, abs=1e-4)
    assert points[0].factual_rise == points[0].function_rise == 0
    assert result.tokens == {name: int((classes == kind).sum()) for name, kind in zip(CLASSES, (X, F, C), strict=True)}


def test_facts_go_before_words_and_own_answers_with_them(base):
    result = probe(EXAMPLES, base, ProbeConfig([1.0, 1.5, 3.0], ("all", "1"), answers=6))
    (_, all_layers), (_, upper) = result.curves
    assert [p.nll["factual"] for p in all_layers] == sorted(p.nll["factual"] for p in all_layers)
    assert all_layers[1].factual_rise > all_layers[1].function_rise > 0
    assert [p.entropy["factual"] for p in all_layers] == sorted(p.entropy["factual"] for p in all_layers)
    assert all_layers[0].teacher == upper[0].teacher == TeacherAnswers(1.0, 0.0, 0.0)
    assert all_layers[2].teacher.rouge < 0.5
    assert result.recommended.layers == "1"  # what 'forget' smooths of two layers


def test_the_recommended_tau_is_that_of_tau_auto(base):
    """Smoothed everywhere: the tiny base looks its facts up in the first layer."""
    items = Encoder(base.tokenizer).encode_all(EXAMPLES)
    classes = [token_classes(item, example, base.tokenizer) for item, example in zip(items, EXAMPLES, strict=True)]
    choice = choose_tau(base, items, classes, [0, 1])
    chosen = probe(EXAMPLES, base, ProbeConfig([1.0], ("all",), answers=4)).recommended
    assert chosen.auto == choice.tau and list(chosen.curve) == choice.curve
    assert (
        chosen.tau == choice.tau and chosen.teacher.gibberish_rate <= 0.25 and "still writes sentences" in chosen.reason
    )
    counted = probe(EXAMPLES, base, ProbeConfig([1.0], ("all",), "function", answers=0))
    assert counted.recommended.auto == choice.tau
    assert counted.tokens["copied"] == 0 and counted.curves[0][1][0].nll["copied"] is None


def test_layers_without_a_hold_on_the_facts_have_no_recommended_tau(base):
    chosen = probe(EXAMPLES, base, ProbeConfig([1.0], ("1",), answers=2)).recommended
    assert chosen.tau is None and "still knows what should be forgotten" in chosen.reason


def test_tau_is_lowered_to_one_whose_teacher_writes_sentences():
    choice = TauChoice(3.5, [TauPoint(1.0, 0.0, 0.0), TauPoint(4.0, 4.0, 1.0)], "tau 3.5 is the first: it is.")

    def spoken(gibberish):
        return TeacherAnswers(0.2, gibberish, 0.0)

    def point(tau, gibberish):
        return ProbePoint(tau, {}, {}, tau / 2, tau / 4, spoken(gibberish))

    points = [point(1, 0.1), point(2, 0.3), point(3, 0.4), point(4, 0.2)]
    found = recommend("upper", choice, spoken(0.35), points)
    assert found.tau == found.auto == 3.5
    assert found.reason.endswith("(gibberish 35% of its own answers, the base's 10%).")
    found = recommend("upper", choice, spoken(0.9), points)
    assert (found.tau, found.auto, found.teacher, found.auto_teacher) == (2, 3.5, spoken(0.3), spoken(0.9))
    assert "90% of the teacher's own answers are gibberish" in found.reason and "risen by 1.00 nats" in found.reason
    found = recommend("upper", choice, spoken(0.9), [points[0], *points[2:]])
    assert found.tau is None and found.auto == 3.5 and "probe lower ones" in found.reason
    found = recommend("upper", choice, None, points)  # passages
    assert found.tau == 3.5 and "sentences are unchecked" in found.reason


def test_passages_are_probed_without_own_answers(base):
    texts = examples_from_rows([{"text": row["answer"]} for row in rows()], "texts")
    result = probe(texts, base, ProbeConfig([1.0, 2.0], ("all",)))
    assert result.answers == 0 and result.curves[0][1][1].teacher is None and result.tokens["copied"] == 0


def test_the_base_is_as_before(base):
    ids, native = torch.arange(40, 60)[None], base.model.config._attn_implementation
    with torch.no_grad():
        before = base.model(input_ids=ids).logits
        probe(EXAMPLES[:3], base, ProbeConfig([1.0, 2.0], ("all",), answers=2))
        assert base.model.config._attn_implementation == native != "eager"
        assert torch.equal(base.model(input_ids=ids).logits, before)


def classes_with(spans, cut=0):
    """The class of every letter of an answer, by a tokenizer of letters; the last ones cut off."""
    tokenizer = tiny_tokenizer()
    example = question_answer("What does Anna Birk do?", "Anna Birk keeps bees. Yes.", spans=spans)
    [item] = Encoder(tokenizer).encode(example)
    if cut:
        [item] = Encoder(tokenizer, len(item) - cut).encode(example)
    return token_classes(item, example, tokenizer)


@pytest.mark.parametrize("spans", [["bees."], [[16, 21]], "bees.", [[16, 18], "ees."]])
def test_spans_are_the_facts_and_nothing_else_is(spans):
    classes = classes_with(spans)
    assert [i for i, kind in enumerate(classes) if kind == X] == [16, 17, 18, 19, 20]
    assert classes[:4] == [C] * 4 and classes[10:15] == [F] * 5  # "keeps" is no fact now


def test_spans_of_rows_without_them_and_of_cut_answers():
    assert classes_with(None) == classes_with("") and X in classes_with(None)[10:15]
    assert X not in classes_with([])  # said: no facts here
    assert classes_with([[5, 9], "Yes"], cut=8) == classes_with([[5, 9], "Yes"])[:-8]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        (["wasps"], "the answer doesn't hold the text 'wasps'"),
        (7, "should be a list"),
        ([[3]], "is neither"),
        ([[20, 16]], "is no part of an answer of 26 characters"),
        ([[0, 99]], "is no part"),
        ([[True, 2]], "is neither"),
    ],
)
def test_spans_that_fit_no_answer(spans, message):
    with pytest.raises(DataError, match="'spans'.*" + message.replace("'", "['\"]")):
        classes_with(spans)


def test_grids_of_temperatures():
    assert parse_taus("1:4:0.5") == [1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert parse_taus("1.1:1.4:0.1") == [1, 1.1, 1.2, 1.3, 1.4]
    assert parse_taus("6,2") == [1, 2, 6] and parse_taus("3") == [1, 3]
    for text in ("4:1:1", "1:4:0", "1:4", "1:9:1e-9", "", "1,", "hot", "0.5,2", "1,nan", "inf"):
        with pytest.raises(SettingError, match="grid of temperatures"):
            parse_taus(text)


def test_groups_of_layers():
    found = layer_groups(DEFAULT_GROUPS, 30)
    assert [group.label for group in found] == ["all (0-29)", "lower (0-9)", "middle (10-19)", "upper (20-29)"]
    assert default_group(found, 30).name == "upper" and default_group(found[:2], 30).name == "all"
    assert [g.layers for g in layer_groups(DEFAULT_GROUPS, 2)] == [(0, 1), (0,), (1,)]
    assert [g.layers for g in layer_groups(DEFAULT_GROUPS, 1)] == [(0,)]
    assert [g.label for g in layer_groups(["0,5-9", "5-9,0"], 10)] == ["0,5-9"]
    for names in (["2"], ["few"], ["middle"]):
        with pytest.raises(SettingError):
            layer_groups(names, 2)
