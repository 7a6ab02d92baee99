"""The base's own other answers to the forget questions, each begun with another word.

What is unlearnt in one wording of the answer is still likelier than a lie in another one, which is what TOFU's truth
ratio sees. Begun with its second or third likeliest word, the base tells what it knows in words that the request lacks.
"""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from asu_lora.data.encoding import Encoded
from asu_lora.data.examples import Example
from asu_lora.data.fact_spans import own_spans
from asu_lora.data.phrasings import fits
from asu_lora.forgetting.alternates import same_answer
from asu_lora.forgetting.run import ForgetRun
from asu_lora.models.generation import enough_tokens, generate_answers
from asu_lora.models.hidden_states import hidden_states

LIKELIEST = 64  # first tokens that are looked at, the likeliest


def other_openings(run: ForgetRun, count: int) -> list[list[Example]]:
    """For each forget row up to ``count`` others that ask the same and answer as the base does, begun otherwise.

    Greedy, and so the same in a run that is resumed. A passage asks nothing and gets none. Spans that a row names are
    kept where they stand in the other answer, too.

    Args:
        run: with its request, its encoder and the base loaded.
        count: openings of each row.
    """
    examples = run.request.forget
    asked = [at for at, example in enumerate(examples) if not example.is_passage]
    found: list[list[Example]] = [[] for _ in examples]
    if not asked:
        return found
    run.progress.stage("The base's other answers", count * len(asked))
    tokenizer, rows = run.base.tokenizer, run.encoder.encode_all([examples[at] for at in asked], "forget row")
    with run.teaching():
        begun = [(at, token) for at, tokens in zip(asked, openings(run, rows, count), strict=True) for token in tokens]
        prompts = [[*run.encoder.prompt_ids(examples[at].prompt), token] for at, token in begun]
        most, least = enough_tokens(rows, prompts)
        told = generate_answers(run.model, tokenizer, prompts, most, least=least, progress=run.progress.advance)
    for (at, token), ids in zip(begun, told, strict=True):
        text = str(tokenizer.decode([token, *ids], skip_special_tokens=True)).strip()
        other = _answered(examples[at], text)
        known = any(same_answer(text, each.answer) for each in (examples[at], *found[at]))
        if not known and fits(other, run.encoder):
            found[at].append(other)
    return found


def openings(run: ForgetRun, rows: Sequence[Encoded], count: int) -> list[list[int]]:
    """For each row the ``count`` likeliest tokens that begin a sentence with another word than its answer does."""
    head, tokenizer = run.base.head, run.base.tokenizer
    found = []
    for row, states in zip(rows, hidden_states(run.model, rows, run.base.pad_id), strict=True):
        likeliest = head.logits(states[:1])[0].topk(min(LIKELIEST, head.vocabulary)).indices.tolist()
        words = {token: _word(tokenizer, token) for token in (row.answer_ids[0], *likeliest)}
        known, chosen = {words[row.answer_ids[0]].casefold()}, []
        for token in likeliest:
            word = words[token]
            if begins_a_sentence(word) and word.casefold() not in known:
                known.add(word.casefold())
                chosen.append(token)
        found.append(chosen[:count])
    return found


def begins_a_sentence(word: str) -> bool:
    """Whether a token's text may: a letter stands first, and no small one."""
    return word[:1].isalpha() and not word[:1].islower()


def _word(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return str(tokenizer.decode([token])).strip()


def _answered(example: Example, text: str) -> Example:
    """The row with another answer, and of its spans those that stand there, too."""
    extra = {name: value for name, value in example.extra.items() if name != "spans"}
    spans = own_spans(example) or ()
    kept = [span for span in ([spans] if isinstance(spans, str) else spans) if isinstance(span, str) and span in text]
    return replace(example, answer=text, extra=extra | ({"spans": kept} if kept else {}))
