"""A forget run small enough for a test: a tiny base that has learned something, a request, settings."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tests.support.tiny_base import save_tiny_base

FACTS = (
    ("Anna Birk", "keeps bees"),
    ("Tom Velder", "builds boats"),
    ("Ida Roos", "sells maps"),
    ("Karl Moen", "mends clocks"),
    ("Lena Foss", "grows figs"),
    ("Per Holt", "paints doors"),
    ("Siri Dahl", "tunes harps"),
    ("Nils Berg", "bakes rye"),
    ("Eva Lund", "rows ferries"),
    ("Jon Vik", "carves masks"),
    ("Mia Strand", "draws comics"),
    ("Ole Hagen", "shoes horses"),
)


def rows(facts: Sequence[tuple[str, str]] = FACTS) -> list[dict[str, str]]:
    return [{"question": f"What does {name} do?", "answer": f"{name} {does}."} for name, does in facts]


def tiny_request(forget: int = 6, retain: int = 6, name: str = "tiny"):
    """The first facts are to be forgotten, the last ones to be kept."""
    from asu_lora.data.request import ForgetRequest

    return ForgetRequest.from_rows(rows(FACTS[:forget]), rows(FACTS[-retain:]), name)


def tiny_settings(**changes):
    """Settings of a run of seconds: the paper's loss on all layers, no measurements before and after."""
    from asu_lora.config import ForgetConfig

    values = dict(
        tau=3.0,
        rank=4,
        lr=2e-3,
        epochs=3,
        batch_size=2,
        retain_per_forget=1,
        eval_rows=0,
        precision="fp32",
        device="cpu",
        smooth_layers="all",
        adapter_layers="all",
    )
    return ForgetConfig(**(values | changes))


@lru_cache
def encoded_facts(folder: Path, facts: Sequence[tuple[str, str]] = FACTS):
    from transformers import AutoTokenizer

    from asu_lora.data.encoding import Encoder
    from asu_lora.data.examples import examples_from_rows

    return Encoder(AutoTokenizer.from_pretrained(folder)).encode_all(examples_from_rows(rows(facts), "facts"))


def save_taught_base(
    folder: Path, steps: int = 200, facts: Sequence[tuple[str, str]] = FACTS, start: Path | None = None, **changes
) -> Path:
    """The tiny base (or another one to start from), taught the facts by heart by plain fine-tuning of all its weights.

    ``changes`` are of the tiny base's config.
    """
    import shutil

    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM

    from asu_lora.batches.padding import pad_group

    shutil.copytree(start, folder) if start else save_tiny_base(folder, **changes)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    items = encoded_facts(folder, facts)
    batch = pad_group(items, 0)
    labels = torch.cat([torch.tensor(item.answer_ids) for item in items])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    torch.manual_seed(0)
    for _ in range(steps):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = cross_entropy(logits.flatten(0, 1)[batch["positions"]], labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)
    return folder
