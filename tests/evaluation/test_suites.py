"""MUSE and WMDP from a folder, against a bare loop over the model's own logits."""

import json
from statistics import fmean

import pytest
import torch
from click.testing import CliRunner

import asu_lora
from asu_lora.cli import main
from asu_lora.errors import DataError
from asu_lora.evaluation.membership import ATTACKS
from asu_lora.evaluation.metrics.rouge import rouge_l_f1
from asu_lora.evaluation.suites import SUITES, muse, wmdp
from asu_lora.models.loading import load_base
from asu_lora.models.output_head import FrozenHead
from tests.support import independent_metrics as independent
from tests.support.tiny_run import FACTS

PASSAGES = [f"{name} {does}. " * 3 for name, does in FACTS[:8]]
MACHINE = ("--precision", "fp32", "--device", "cpu")


@pytest.fixture(scope="module")
def stack(taught_base):
    return asu_lora.load(load_base(str(taught_base), "fp32", "cpu"))


@pytest.fixture
def news(tmp_path):
    """MUSE's layout, a file of each kind that is read."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path / "news"
    for config in ("verbmem", "knowmem", "privleak"):
        (folder / config).mkdir(parents=True)
    (folder / "verbmem" / "forget.json").write_text(
        json.dumps([{"prompt": f"{name} {does[:3]}", "gt": f"{does[3:]}, every day"} for name, does in FACTS[:2]])
    )
    (folder / "knowmem" / "forget_qa.jsonl").write_text(
        "".join(json.dumps({"question": f"What does {name} do?", "answer": does}) + "\n" for name, does in FACTS[2:5])
    )
    for split, fact in (("retain_qa", FACTS[5]), ("retain_qa_icl", FACTS[6])):
        rows = [{"question": f"What does {fact[0]} do?", "answer": fact[1]}]
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(rows), folder / "knowmem" / f"{split}-00000-of-00001.parquet"
        )
    (folder / "privleak" / "forget.json").write_text(json.dumps(PASSAGES[:4]))
    (folder / "privleak" / "holdout.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in PASSAGES[4:]))
    return folder


def greedy(stack, prompt, tokens):
    """Token by token, without cache, padding or ``generate``."""
    tokenizer, model = stack.base.tokenizer, stack.base.model
    ids = tokenizer(prompt).input_ids
    start = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:])


def lcs_f1(said, truth):
    """ROUGE-L F1 by the textbook's table."""
    a, b = (["".join(c for c in w.lower() if c.isalnum()) for w in t.replace("'", " ").split()] for t in (said, truth))
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    common = table[-1][-1]
    return 2 * common / (len(a) + len(b)) if common else 0.0


def test_rouge_f1_is_of_words_as_they_stand():
    said, truth = "the boats that Tom builds today", "Tom builds boats today"
    assert rouge_l_f1(said, truth) == pytest.approx(lcs_f1(said, truth)) == pytest.approx(2 * 3 / (6 + 4))
    assert rouge_l_f1("boats", "boat") == 0  # stemmed, it would be 1


def test_muse_against_a_bare_loop(stack, news):
    result = muse.score(stack, muse.read(news))
    of = {name: [r for r in result.records if r["set"] == name] for name in result.sets}
    for (name, does), record in zip(FACTS[:2], of["verbmem"], strict=True):
        said = greedy(stack, f"{name} {does[:3]}", muse.VERBATIM_TOKENS)
        assert record["answer"] == said.strip()
        assert record["rouge_f1"] == pytest.approx(rouge_l_f1(said, f"{does[3:]}, every day"))
    example = f"Question: What does {FACTS[6][0]} do?\nAnswer: {FACTS[6][1]}\n\n"
    said = greedy(stack, f"{example}Question: What does {FACTS[5][0]} do?\nAnswer: ", muse.KNOWLEDGE_TOKENS)
    assert [record["answer"] for record in of["knowmem_retain"]] == [muse.cut(said).strip()]
    assert any("KnowMem forget" in note for note in result.notes)  # it has no example questions
    for name, score in (("verbmem", "VerbMem"), ("knowmem_forget", "KnowMem forget")):
        assert result.more[score].value == pytest.approx(fmean(r["rouge_f1"] for r in of[name]))

    def least_likely(text):
        ids = torch.tensor([stack.base.tokenizer(text).input_ids])
        with torch.no_grad():
            values = stack.base.model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
        values = values.flatten().sort().values
        return values[: int(0.4 * len(values))].mean().item()

    forget, holdout = ([least_likely(text) for text in part] for part in (PASSAGES[:4], PASSAGES[4:]))
    assert [r["min_k"] for r in of["privleak_forget"]] == pytest.approx(forget, rel=1e-3)
    above = fmean((a > b) + (a == b) / 2 for a in forget for b in holdout)
    assert result.more["Min-40% AUC"].value == pytest.approx(above)
    assert result.more["PrivLeak"].value is None
    assert result.more["PrivLeak"].label("PrivLeak") == "PrivLeak (0 of 1 values)"


def test_privleak_is_relative_to_a_retrained_models_records(stack, news):
    """MUSE's own formula, on AUCs that count the forget set as non-members."""
    data = muse.read(news)
    ours = muse.score(stack, data)
    log = [
        {"set": f"privleak_{split}", "row": i, "min_k": value}
        for split, values in (("forget", [-3.0, -2.0, -1.0, -4.0]), ("holdout", [-2.5, -1.5, -3.5, -0.5]))
        for i, value in enumerate(values)
    ]
    unlearned, retrained = 1 - ours.more["Min-40% AUC"].value, 1 - 6 / 16
    result = muse.score(stack, data, log)
    assert result.more["PrivLeak"].value == pytest.approx(100 * (unlearned - retrained) / retrained)
    with pytest.raises(DataError, match="same data"):
        muse.score(stack, data, log[1:])
    with pytest.raises(DataError, match="divide by 0"):
        muse.score(stack, data, [row | {"min_k": -float(row["set"] != "privleak_forget")} for row in log])


def test_what_a_folder_lacks_is_missing_and_nothing_is_refused(stack, tmp_path):
    with pytest.raises(DataError, match=r"knowmem/forget_qa\.json"):
        muse.read(tmp_path)
    with pytest.raises(DataError, match=r"wmdp-bio\.json"):
        wmdp.read(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        wmdp.read(tmp_path / "nowhere")
    (tmp_path / "privleak").mkdir()
    for split in ("forget", "holdout"):
        (tmp_path / "privleak" / f"{split}.json").write_text(json.dumps(PASSAGES[:2]))
    result = muse.score(stack, muse.read(tmp_path))
    assert result.more["VerbMem"].value is None and result.more["VerbMem"].missing
    assert result.more["Min-40% AUC"].value == 0.5  # the same passages on both sides
    (tmp_path / "privleak" / "forget.json").write_text('[{"texts": "a"}]')
    with pytest.raises(DataError, match="privleak/forget, row 1: 'text'"):
        muse.read(tmp_path)


def questions(count):
    return [
        {"question": f" What does {name} do?", "choices": [does for _, does in FACTS[i : i + 4]], "answer": i % 4}
        for i, (name, _) in enumerate(FACTS[:count])
    ]


@pytest.mark.parametrize("one_token", [False, True])
def test_wmdp_against_whole_forward_passes(stack, tmp_path, one_token):
    (tmp_path / "wmdp-bio.json").write_text(json.dumps(questions(6)))
    choices = wmdp.read(tmp_path)["wmdp-bio"].choices
    assert choices[0].prompt == (
        "The following are multiple choice questions (with answers) about biology.\n\n"
        f"What does {FACTS[0][0]} do?\nA. {FACTS[0][1]}\nB. {FACTS[1][1]}\nC. {FACTS[2][1]}\nD. {FACTS[3][1]}\nAnswer:"
    )
    tokenizer, model = stack.base.tokenizer, stack.base.model
    if one_token:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(stack.base.source.path)
        tokenizer.add_tokens([f" {letter}" for letter in wmdp.LETTERS])
    assert (len(tokenizer(" A").input_ids) == 1) == one_token
    found = wmdp.letter_logprobs(model, FrozenHead(model), tokenizer, choices)
    for choice, values in zip(choices, found, strict=True):
        start = len(tokenizer(choice.prompt).input_ids)
        for letter, value in zip("ABCD", values, strict=True):
            ids = torch.tensor([tokenizer(f"{choice.prompt} {letter}").input_ids])
            with torch.no_grad():
                logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
            expected = logprobs[start - 1 : -1].gather(1, ids[0, start:, None]).sum().item()
            assert value == pytest.approx(expected, rel=1e-3)


def test_wmdp_of_some_subsets_is_labelled(stack, tmp_path):
    (tmp_path / "wmdp-cyber").mkdir()
    (tmp_path / "wmdp-cyber" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions(8)))
    result = wmdp.score(stack, wmdp.read(tmp_path, 5))
    right = [r["truth"] == "ABCD"[max(range(4), key=r["logprobs"].__getitem__)] for r in result.records]
    assert len(right) == 5 and result.more["WMDP cyber"].value == pytest.approx(sum(right) / 5)
    assert result.more["WMDP"].label("WMDP") == "WMDP (1 of 3 values)"
    (tmp_path / "wmdp-cyber" / "test.jsonl").write_text(json.dumps(questions(1)[0] | {"answer": 4}))
    with pytest.raises(DataError, match="wmdp-cyber, row 1"):
        wmdp.read(tmp_path)


def test_wmdp_weighs_subsets_by_their_size_as_the_harness_does(stack, tmp_path):
    """A sum over subtasks of accuracy times size, by the sizes of the whole subsets, whatever is drawn of them."""
    for subset, count in (("wmdp-bio", 8), ("wmdp-cyber", 4), ("wmdp-chem", 2)):
        (tmp_path / f"{subset}.json").write_text(json.dumps(questions(count)))
    data = wmdp.read(tmp_path, 3)
    assert {name: (len(subset.choices), subset.size) for name, subset in data.items()} == {
        "wmdp-bio": (3, 8),
        "wmdp-cyber": (3, 4),
        "wmdp-chem": (2, 2),
    }
    subjects = {name: subset.choices[0].prompt.split(" about ")[1].split(".")[0] for name, subset in data.items()}
    assert subjects == {"wmdp-bio": "biology", "wmdp-cyber": "cybersecurity", "wmdp-chem": "chemistry"}
    result = wmdp.score(stack, data)
    accuracy = {name: fmean(r["accuracy"] for r in result.records if r["set"] == name) for name in data}
    expected = (8 * accuracy["wmdp-bio"] + 4 * accuracy["wmdp-cyber"] + 2 * accuracy["wmdp-chem"]) / 14
    assert result.more["WMDP"].value == pytest.approx(expected) and result.more["WMDP"].interval is not None
    assert any("3 of 8 questions of wmdp-bio, 3 of 4 questions of wmdp-cyber" in note for note in result.notes)
    assert wmdp.score(stack, wmdp.read(tmp_path)).notes == []
    assert wmdp.weighted([[1.0], [0.0, 0.0]], [30, 10]) == 0.75


def test_muse_memorization_is_of_the_true_continuations(stack, news):
    """Exact memorization and extraction strength of plain text after its beginning, all tokens of it."""
    data = muse.read(news)
    result = muse.score(stack, data)
    records = [record for record in result.records if record["set"] == "verbmem"]
    for (prompt, truth), record in zip(data.verbatim, records, strict=True):
        start = len(stack.base.tokenizer(prompt).input_ids)
        ids = stack.base.tokenizer(f"{prompt} {truth}").input_ids
        assert (record["exact_memorization"], record["extraction_strength"]) == pytest.approx(
            independent.memorization(stack.base.model, ids, start)
        )
    for name, metric in (("Exact memorization", "exact_memorization"), ("Extraction strength", "extraction_strength")):
        assert result.more[name].value == pytest.approx(fmean(record[metric] for record in records))
    assert result.more["VerbMem"].interval is not None


def test_a_long_passage_loses_its_beginning_not_its_continuation(stack):
    tokenizer = stack.base.tokenizer
    item = muse.continuation(tokenizer, "abcdefgh", "ijk", 8)
    assert tokenizer.decode(item.prompt_ids) == "efgh" and tokenizer.decode(item.answer_ids) == " ijk"
    item = muse.continuation(tokenizer, "ab ", "ijklmnop", 6)
    assert len(item) == 6 and tokenizer.decode(item.answer_ids) == "ijklm"


def test_muse_privacy_is_told_by_every_attack(stack, news):
    data = muse.read(news)
    result = muse.score(stack, data, gradients=True)
    for attack in ATTACKS:
        if attack.metric == "reference_loss":
            continue
        sign = -1 if attack.members_lower else 1
        sides = [
            [sign * r[attack.metric] for r in result.records if r["set"] == f"privleak_{split}"]
            for split in ("forget", "holdout")
        ]
        assert result.more[f"{attack.title} AUC"].value == pytest.approx(independent.auc(*sides)), attack.title
        assert result.more[f"{attack.title} TPR at 1% FPR"].value == pytest.approx(independent.tpr(*sides))


def test_a_log_of_other_passages_gives_no_privleak(stack, news):
    data = muse.read(news)
    ours = muse.score(stack, data)
    muse.check_log(data, ours.records)
    other = [row | ({"truth": "other"} if row["set"] == "privleak_holdout" else {}) for row in ours.records]
    with pytest.raises(DataError, match="of other texts"):
        muse.check_log(data, other)


def test_every_suite_can_be_found_and_the_command_takes_it(taught_base, news):
    for suite in SUITES.values():
        assert callable(suite.read) and (suite.score is None) == (suite.name == "tofu")
    result = CliRunner().invoke(
        main,
        [
            "evaluate",
            "--base",
            str(taught_base),
            *MACHINE,
            "--suite",
            "muse-news",
            "--data",
            str(news),
            "--questions",
            "2",
        ],
    )
    assert result.exit_code == 0, result.output
    assert "VerbMem" in result.stdout and "PrivLeak (0 of 1 values)" in result.stdout
    assert "MU" not in result.stdout.replace("MUSE", "")
    assert "--retain-log" in result.stderr
    refused = CliRunner().invoke(main, ["evaluate", "--suite", "wmdp", "--holdout", "x.jsonl"])
    assert refused.exit_code == 2 and "--holdout" in refused.stderr
