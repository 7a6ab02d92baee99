"""What a tokenizer's chat template writes around a question and its answer."""

from transformers import PreTrainedTokenizerBase

_MARK = "\u00a4answer\u00a4"


def answer_space(tokenizer: PreTrainedTokenizerBase) -> str:
    """White space that stands between prompt and answer: "[/INST] answer"; most templates have none."""
    if not tokenizer.chat_template:
        return " "
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": _MARK}]
    try:
        prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False)
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template that can't be asked this way says nothing about it
        return ""
    between = text[len(prompt) :].partition(_MARK)[0] if text.startswith(prompt) and _MARK in text else ""
    return between if between.isspace() else ""


def end_of_turn_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The special token with which the chat template ends an assistant's turn; else the EOS token.

    Read off the template itself: what it writes right after an answer, up to its first special token.
    """
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": _MARK}]
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        except Exception:  # a template that can't be asked this way says nothing about its end of turn
            text = ""
        tail = text.rpartition(_MARK)[2].lstrip() if _MARK in text else ""
        # some tokenizers don't mark theirs (<end_of_turn>, <|end|>) as special: any added token may be it
        specials = {token.content for token in tokenizer.added_tokens_decoder.values()}
        specials |= set(tokenizer.all_special_tokens)
        starts = [token for token in specials if token and tail.startswith(token)]
        if starts:
            return max(starts, key=len)
    return tokenizer.eos_token or ""


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids at which an answer ends: the template's end of turn and the tokenizer's EOS."""
    ids = tokenizer(end_of_turn_text(tokenizer), add_special_tokens=False).input_ids
    found = set(ids[:1]) if len(ids) == 1 else set()
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    return sorted(found)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of tokens that structure a conversation and are no part of an answer's text."""
    ids = set(tokenizer.all_special_ids) | set(stop_ids(tokenizer))
    ids |= {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted(ids)
