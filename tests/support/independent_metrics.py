"""Small implementations of the metrics, written from the papers, on plain transformers: what ours must equal."""

import math
import zlib

import torch


def rows_of(tokenizer, question, answer):
    """(ids of prompt and answer, length of the prompt, whether an end of turn follows): as the chat template writes."""
    turns = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    before = tokenizer(prompt, add_special_tokens=False).input_ids
    return tokenizer(prompt + answer + "<|im_end|>", add_special_tokens=False).input_ids, len(before)


@torch.no_grad()
def token_logprobs(model, ids, start):
    """Full log-probabilities (T, V) at the tokens from ``start`` on, and the tokens."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return logits.log_softmax(-1)[start - 1 : -1], torch.tensor(ids[start:])


def nll(model, ids, start):
    table, tokens = token_logprobs(model, ids, start)
    return -table[torch.arange(len(tokens)), tokens].mean().item()


def memorization(model, ids, start):
    """(exact memorization, extraction strength) of the tokens from ``start`` on."""
    table, tokens = token_logprobs(model, ids, start)
    right = (table.argmax(-1) == tokens).tolist()
    given = next(k for k in range(len(right) + 1) if all(right[k:]))
    return sum(right) / len(right), 1 - given / len(right)


def least_likely(scores, share=0.4):
    count = max(1, int(share * len(scores)))
    return sum(sorted(scores)[:count]) / count


def min_k(model, ids, start):
    table, tokens = token_logprobs(model, ids, start)
    return least_likely([table[i, t].item() for i, t in enumerate(tokens)])


def min_k_plus_plus(model, ids, start):
    table, tokens = token_logprobs(model, ids, start)
    scores = []
    for row, token in zip(table, tokens, strict=True):
        p = row.exp()
        mean = (p * row).sum().item()
        deviation = math.sqrt(max((p * (row - mean) ** 2).sum().item(), 1e-6))
        scores.append((row[token].item() - mean) / deviation)
    return least_likely(scores)


def zlib_loss(loss, text):
    return loss / len(zlib.compress(text.encode("utf-8")))


def auc(members, others):
    return sum((m > o) + (m == o) / 2 for m in members for o in others) / (len(members) * len(others))


def tpr(members, others, fpr=0.01):
    """The best share of members over every threshold that is itself a score, or above all."""
    best = 0.0
    for threshold in [*members, *others, math.inf]:
        if sum(o >= threshold for o in others) <= fpr * len(others) + 1e-9:
            best = max(best, sum(m >= threshold for m in members) / len(members))
    return best
