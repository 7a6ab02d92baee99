"""A hundred requests on a tiny base that was taught invented facts: what limits how many adapters add up.

    python benchmarks/adding_up_many.py FOLDER --requests 100

Teaches a tiny Llama 60 facts to keep, 40 that are left out of every request, and three a request; forgets each request
alone with the settings of ``forget --adds-up`` (``--plain``: without); then measures sums of the first k, at full
weight and at fitted weights, and how large they are. FOLDER gets the base and the adapters: what lies there is not made
again. Writes docs/results/data/adding_up_many.json, a line a sum: what stands there is not measured again.
"""

import argparse
import math
import shutil
from pathlib import Path

import torch

from asu_lora import ForgetConfig, ForgetRequest, forget, load
from asu_lora.adapters.fitted_weights import fitted_weights
from asu_lora.adapters.inner_products import inner_products
from asu_lora.adapters.lora_folder import read_lora
from asu_lora.adapters.store import AdapterStore
from asu_lora.adding_up import ADDS_UP
from asu_lora.batches.padding import pad_group
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example, examples_from_rows
from asu_lora.evaluation.set_scores import example_probabilities
from asu_lora.models.decoder import base_model
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.models.loading import LoadedBase, load_base
from common.results import read_data, write_data
from common.tiny_base import save_tiny_base

FIRST = "Anna Tom Ida Karl Lena Per Siri Nils Eva Jon Mia Ole Rut Sven Tove Ulf Vera Wim Ylva Zeno".split()
LAST = "Birk Velder Roos Moen Foss Holt Dahl Berg Lund Vik Strand Hagen Krog Lie Mo Nes Opdal Ruud Sand Tveit".split()
VERBS = "keeps builds sells mends grows paints tunes bakes rows carves draws lends finds hides packs reads".split()
THINGS = "bees boats maps clocks figs doors harps rye masks comics horses coins kites lamps nets ovens".split()
KEPT, LEFT_OUT, A_REQUEST, MOST = 60, 40, 3, 100
TINY = {
    "precision": "fp32",
    "device": "cpu",
    "eval_rows": 0,
    "tau": 3.0,
    "smooth_layers": "all",
    "adapter_layers": "all",
}
SIZE = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}


def facts(count: int) -> list[dict[str, str]]:
    """The first ``count`` invented facts: every person once, and what the person does drawn at random."""
    generator = torch.Generator().manual_seed(0)
    people = torch.randperm(len(FIRST) * len(LAST), generator=generator)[:count].tolist()
    deeds = torch.randint(len(VERBS) * len(THINGS), (count,), generator=generator).tolist()
    rows = []
    for person, deed in zip(people, deeds, strict=True):
        name = f"{FIRST[person // len(LAST)]} {LAST[person % len(LAST)]}"
        does = f"{VERBS[deed // len(THINGS)]} {THINGS[deed % len(THINGS)]}"
        rows.append({"question": f"What does {name} do?", "answer": f"{name} {does}."})
    return rows


def teach(
    folder: Path, rows: list[dict[str, str]], epochs: int, size: dict[str, int] = SIZE, rate: float = 2e-3
) -> None:
    """A tiny base that knows the rows by heart, by plain fine-tuning of all its weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    part = folder.with_name(f"{folder.name}.part")  # a base that lies in its place has been taught
    shutil.rmtree(part, ignore_errors=True)
    save_tiny_base(part, **size)
    model = AutoModelForCausalLM.from_pretrained(part, dtype=torch.float32).train()
    tokenizer = AutoTokenizer.from_pretrained(part)
    items = Encoder(tokenizer).encode_all(examples_from_rows(rows, "facts"))
    batches = math.ceil(len(items) / 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * batches, pct_start=0.1)
    torch.manual_seed(0)
    for _ in range(epochs):
        for chosen in torch.randperm(len(items)).split(64):
            batch = pad_group([items[i] for i in chosen], tokenizer.pad_token_id)
            labels = torch.cat([torch.tensor(items[i].answer_ids) for i in chosen])
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1)[batch["positions"]], labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.save_pretrained(part)
    part.rename(folder)


def probability(
    base: LoadedBase,
    adapters: list[str],
    store: AdapterStore,
    examples: list[Example],
    weights: list[float] | None = None,
) -> float:
    """Mean answer probability of the base with these adapters, or of the base alone; weights are 1 unless given."""
    stack = load(base, list(zip(adapters, weights or [1.0] * len(adapters), strict=True)), store)
    items = stack.encoder().encode_all(examples)
    states = hidden_states(base_model(stack.model), items, base.pad_id)
    stack.unload()
    values = example_probabilities(items, answer_logprobs(base.head, items, states))
    return round(sum(values) / len(values), 4)


def size(adapters: list[str], store: AdapterStore) -> dict[str, float]:
    """The norm of the adapters' sum over all modules, and the root of the sum of their squared norms: the norm they
    would have if no two read and wrote the same. Both over that of the first."""
    products = inner_products([read_lora(store.resolve(name)) for name in adapters])
    summed, apart = products.sum() / products[0, 0], products.trace() / products[0, 0]
    return {"norm": round(math.sqrt(summed), 2), "norm if apart": round(math.sqrt(apart), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--requests", type=int, default=MOST, help="at most a hundred")
    parser.add_argument("--epochs", type=int, default=120, help="of teaching")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of forget")
    parser.add_argument("--plain", action="store_true", help="the defaults, not the settings of --adds-up")
    parser.add_argument("--tag", default="adds-up", help="of the adapters' names and of the lines")
    a = parser.parse_args()
    quiet_libraries()
    rows = facts(KEPT + LEFT_OUT + A_REQUEST * MOST)  # the base knows all of them, however many are asked for
    if not (a.folder / "base" / "model.safetensors").exists():
        teach(a.folder / "base", rows, a.epochs)
    base, store = load_base(str(a.folder / "base"), "fp32", "cpu"), AdapterStore(a.folder / "store")
    kept, left_out, asked = rows[:KEPT], rows[KEPT : KEPT + LEFT_OUT], rows[KEPT + LEFT_OUT :]
    mine = [asked[A_REQUEST * i : A_REQUEST * (i + 1)] for i in range(a.requests)]
    values = dict(setting.split("=", 1) for setting in a.set)
    given = {name: type(getattr(ForgetConfig(), name))(float(value)) for name, value in values.items()}
    recipe = {} if a.plain else dict(ADDS_UP)
    config = ForgetConfig(**(TINY | recipe | given))
    names = [f"{a.tag}-{i}" for i in range(a.requests)]
    for name, own in zip(names, mine, strict=True):
        if name not in store.names():
            forget(ForgetRequest.from_rows(own, kept), base, config, name=name, store=store)
    found = read_data("adding_up_many", {})
    for count in sorted({k for k in (0, 1, 2, 5, 10, 20, 50, MOST) if k <= a.requests} | {a.requests}):
        forgotten = examples_from_rows([row for own in mine[:count] for row in own] or asked, "forgotten")
        sets = {"kept": examples_from_rows(kept, "kept"), "left out": examples_from_rows(left_out, "left out")}
        sets["forgotten" if count else "to forget"] = forgotten
        if others := [row for own in mine[count:] for row in own]:
            sets["not yet forgotten"] = examples_from_rows(others, "others")
        ways = {"": [1.0] * count}
        if count > 1 and not a.plain:  # their curves say what a sum of them weighs
            ways[", fitted"] = fitted_weights([store.resolve(name) for name in names[:count]])
        for way, weights in ways.items():
            if f"{a.tag}: {count}{way}" in found:
                continue
            line = {name: probability(base, names[:count], store, each, weights) for name, each in sets.items()}
            line |= size(names[:count], store) if count and not way else {}
            line |= {"mean weight": round(sum(weights) / count, 3)} if way else {}
            found[f"{a.tag}: {count}{way}"] = line
            write_data("adding_up_many", found)
            print(count, way, line, flush=True)


if __name__ == "__main__":
    main()
