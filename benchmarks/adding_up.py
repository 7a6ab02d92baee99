"""Requests forgotten one by one, each on the plain base, and what their adapters do together.

    python benchmarks/adding_up.py BASE TOFU STORE
    python benchmarks/adding_up.py BASE TOFU STORE --requests ten --ask 0 --ways base sums without
    python benchmarks/adding_up.py BASE TOFU STORE --requests ten --ask 0 --ways sums ties dare --plain --tag defaults
    python benchmarks/adding_up.py BASE TOFU STORE --ask 0 --ways sums reversed combined merged durable
    python benchmarks/adding_up.py BASE ROWS STORE --requests files --tag other-base
    python benchmarks/adding_up.py BASE TOFU STORE --picture

The requests are trained with the settings of ``forget --adds-up``, with --plain with the defaults. BASE is the
checkpoint that ../shared/tofu_smollm2/build_base.py writes, TOFU the folder of TOFU's JSON files. The requests are
tasks 1 to 3 (40 questions each), or with ``ten`` the same rows, twelve by twelve. The first 120 rows of
retain_perturbed.json are kept, its rows 120 to 159 left out. With ``files`` TOFU is a folder of your own: kept.jsonl,
left.jsonl and a file a request, which BASE knows. Adapters that lie in STORE are not trained again, and
lines that lie in docs/results/data/adding_up.json, where each is written, are not measured again. --picture draws the
sums of ten from there, as docs/images/adding_up.png.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from asu_lora import ForgetConfig, ForgetRequest, forget, load
from asu_lora.adapters.combine import combine
from asu_lora.adapters.fitted_weights import fitted_weights
from asu_lora.adapters.store import AdapterStore
from asu_lora.adding_up import ADDS_UP
from asu_lora.bases.source import resolve_base
from asu_lora.cli.progress import Bars
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example, examples_from_rows
from asu_lora.data.reading import read_rows
from asu_lora.data.sampling import sample
from asu_lora.evaluation.set_scores import example_probabilities, score_set
from asu_lora.merging.deployments import deployments
from asu_lora.merging.durable.durable_rounding import DurableSettings
from asu_lora.merging.merge import merge
from asu_lora.models.decoder import base_model
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.models.output_head import FrozenHead
from common.results import read_data, write_data
from common.tofu_request import MEMORISED_RETAIN, MEMORISED_TASKS

KEPT = 120
WAYS = ("base", "alone", "sums", "without", "reversed", "combined", "ties", "dare", "merged", "durable", "fitted")
COMBINING = {"ties": "ties_svd", "dare": "dare_linear_svd"}  # PEFT's names
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "adding_up.png"


def requests_of(tofu: Path, which: str) -> tuple[dict[str, ForgetRequest], dict[str, list[Example]]]:
    """The requests by name, and the sets that are measured beside theirs."""
    if which == "files":
        return requests_of_files(tofu)
    rows = [row for row in read_rows(tofu / "forget01.json") if row["task_id"] in MEMORISED_TASKS]
    rows = [{"question": row["question"], "answer": row["answer"], "task": row["task_id"]} for row in rows]
    retain = [
        {"question": row["question"], "answer": row["answer"]}
        for row in read_rows(tofu / "retain_perturbed.json")[:MEMORISED_RETAIN]
    ]
    if which == "three":
        mine = {task: [row for row in rows if row["task"] == task] for task in MEMORISED_TASKS}
    else:
        mine = {str(i): rows[12 * i : 12 * i + 12] for i in range(10)}
    sets = {
        "kept": examples_from_rows(retain[:KEPT], "kept"),
        "left out": examples_from_rows(retain[KEPT:], "left out"),
    }
    return {name: ForgetRequest.from_rows(mine[name], retain[:KEPT]) for name in mine}, sets


def requests_of_files(folder: Path) -> tuple[dict[str, ForgetRequest], dict[str, list[Example]]]:
    """The same of a folder: kept.jsonl, left.jsonl, and a file a request."""
    rows = {file.stem: read_rows(file) for file in sorted(folder.glob("*.jsonl"))}
    sets = {name: examples_from_rows(rows.pop(of), name) for name, of in (("kept", "kept"), ("left out", "left"))}
    kept = read_rows(folder / "kept.jsonl")
    return {name: ForgetRequest.from_rows(mine, kept) for name, mine in rows.items()}, sets


def changed(config: ForgetConfig, settings: list[str]) -> ForgetConfig:
    """The defaults with ``name=value`` settings."""
    values = dict(setting.split("=", 1) for setting in settings)
    return replace(config, **{name: type(getattr(config, name))(float(value)) for name, value in values.items()})


class Together:
    """The base, the adapters in the store, and the ways to put them together; each way is a context with a model."""

    def __init__(self, base: LoadedBase, folder: Path, store: AdapterStore, names: Mapping[str, str], work: Path):
        self.base, self.store, self.names, self.work = base, store, names, work
        self.source = resolve_base(str(folder))
        self.folders = [store.resolve(name) for name in names.values()]

    @contextmanager
    def on(self, adapters: list[tuple[str | Path, float]]) -> Iterator[torch.nn.Module]:
        stack = load(self.base, adapters, self.store)
        try:
            yield stack.model
        finally:
            stack.unload()

    def stack(self, *names: str, weight: float = 1.0) -> AbstractContextManager[torch.nn.Module]:
        return self.on([(self.names[name], weight) for name in names])

    def weights(self, names: Sequence[str]) -> list[float]:
        """Those of ``adapters combine --fit``."""
        return fitted_weights([self.store.resolve(self.names[name]) for name in names])

    def fitted(self, *names: str) -> AbstractContextManager[torch.nn.Module]:
        return self.on([(self.names[name], weight) for name, weight in zip(names, self.weights(names), strict=True)])

    @contextmanager
    def combined(self, rank: int | None) -> Iterator[torch.nn.Module]:
        """As ``adapters combine`` does, with fitted weights."""
        out = self.work / f"combined-{rank}"
        combine(self.folders, self.weights(list(self.names)), out, rank, keep_length=True)
        with self.on([(out, 1.0)]) as model:
            yield model

    @contextmanager
    def thinned(self, how: str) -> Iterator[torch.nn.Module]:
        """PEFT's combining, TIES or DARE, of the updates themselves, each thinned to half; as much rank as a sum."""
        with self.stack(*self.names) as model:
            parts = list(model.peft_config)
            rank = sum(model.peft_config[part].r for part in parts)
            torch.manual_seed(0)
            model.add_weighted_adapter(parts, [1.0] * len(parts), how, COMBINING[how], svd_rank=rank, density=0.5)
            model.set_adapter(how)
            yield model

    @contextmanager
    def merged(self, precision: str, durable: DurableSettings | None = None) -> Iterator[torch.nn.Module]:
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            out = Path(folder) / "merged"
            weights = self.weights(list(self.names))
            merge(self.source, list(zip(self.folders, weights, strict=True)), out, precision, durable=durable)
            ways = deployments(resolve_base(str(out)), precision, torch.device("cpu"))
            yield next(way for way in ways if way.written).open()

    def lines(self, ways: list[str], weights: list[float], counts: list[int], durable: DurableSettings) -> dict:
        """What is measured, by its name: functions that give a context.

        Args:
            counts: of adapters in a sum; sums of all lengths where it is empty.
        """
        every = list(self.names)
        found = {"base": lambda: self.stack()}
        for weight in weights:
            at = f", each at {weight:g}" if weight != 1 else ""
            groups = {f"{one} alone": [one] for one in every if "alone" in ways}
            if "sums" in ways:
                groups |= {f"sum of {count}": every[:count] for count in counts or range(2, len(every) + 1)}
            for key, some in groups.items():
                found[key + at] = lambda some=some, weight=weight: self.stack(*some, weight=weight)
        if "fitted" in ways:
            for count in counts or range(2, len(every) + 1):
                found[f"sum of {count}, fitted"] = lambda some=every[:count]: self.fitted(*some)
        if "without" in ways:
            for one in every:
                others = [other for other in every if other != one]
                found[f"all without {one}, fitted"] = lambda others=others: self.fitted(*others)
        if "reversed" in ways:
            found["all, in the other order"] = lambda: self.stack(*reversed(every))
        if "combined" in ways:
            found["fitted, combined, exact"] = lambda: self.combined(None)
            found["fitted, combined, rank 16"] = lambda: self.combined(16)
        for how in ("ties", "dare"):
            if how in ways:
                found[f"PEFT's {COMBINING[how]}"] = lambda how=how: self.thinned(how)
        if "merged" in ways:
            found["fitted, merged, bf16"] = lambda: self.merged("bf16")
        if "durable" in ways:
            found["fitted, merged, nf4, --durable"] = lambda: self.merged("nf4", durable)
        return found


def measured(model: torch.nn.Module, tokenizer, sets: Mapping[str, list[Example]], ask: int) -> dict:
    """Answer probability of each set; of the first ``ask`` questions ROUGE-L recall and gibberish too."""
    head, encoder, found = FrozenHead(base_model(model)), Encoder(tokenizer), {}
    for name, examples in sets.items():
        items = encoder.encode_all(examples)
        states = hidden_states(model, items, tokenizer.pad_token_id)
        values = example_probabilities(items, answer_logprobs(head, items, states))
        found[name] = {"probability": round(sum(values) / len(values), 4)}
        if ask:
            scores = score_set(model, head, tokenizer, encoder, sample(examples, ask)).summary("x")
            found[name] |= {"rouge": scores["x_rouge"], "gibberish": scores["x_gibberish_rate"]}
    return found


def picture(found: dict, out: Path) -> None:
    """Kept and left-out rows, and the first request's, over the number of adapters in a sum: both settings."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), sharex=True)
    for name, end, label in (
        ("adds-up-law", ", fitted", "--adds-up, fitted by own inputs"),
        ("adds-up-law", ", fitted by updates", "--adds-up, fitted by updates"),
        ("adds-up", "", "--adds-up, at full weight"),
        ("defaults", "", "defaults"),
    ):
        lines = {0: found["adds-up, ten: base"]}
        for key, line in found.items():
            tag, _, what = key.partition(", ten: ")
            count = what.removeprefix("sum of ").removesuffix(end)
            if tag == name and what.startswith("sum of ") and what.endswith(end) and count.isdigit():
                lines[int(count)] = line
        if len(lines) == 1:  # its ten were not measured
            continue
        for axis, of in zip(axes, ("kept", "left out", "0"), strict=True):
            shown = sorted(lines)
            axis.plot(shown, [lines[k][of]["probability"] for k in shown], marker="o", label=label)
    titles = ("kept rows", "left-out rows", "the first request's rows")
    for axis, title, wanted in zip(axes, titles, (0.9, 0.8, None), strict=True):
        axis.set(title=title, xlabel="adapters in the sum", ylim=(0, 1))
        if wanted:
            base = found["adds-up, ten: base"]["kept" if wanted == 0.9 else "left out"]["probability"]
            axis.axhline(wanted * base, color="grey", linestyle=":", label=f"{wanted:.0%} of the base")
        axis.legend(fontsize=8)
    axes[0].set_ylabel("answer probability")
    figure.tight_layout()
    figure.savefig(out, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--requests", default="three", choices=["three", "ten", "files"])
    parser.add_argument("--plain", action="store_true", help="the defaults, not the settings of --adds-up")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="further settings of forget")
    parser.add_argument("--tag", default="adds-up", help="of the adapters' names and of the lines")
    parser.add_argument("--only", nargs="*", help="of the requests, by name")
    parser.add_argument("--questions", type=int, default=24, help="measured of each set")
    parser.add_argument("--ask", type=int, default=12, help="of these, asked for an answer")
    parser.add_argument("--ways", nargs="*", default=["alone", "sums"], choices=WAYS)
    parser.add_argument("--counts", nargs="*", type=int, default=[], help="of adapters in sums, all by default")
    parser.add_argument("--picture", action="store_true", help="draw what was measured, and no more")
    parser.add_argument("--weights", nargs="*", type=float, default=[1.0], help="of every adapter, alone and in sums")
    a = parser.parse_args()
    quiet_libraries()
    found = read_data("adding_up", {})
    if a.picture:
        return picture(found, PICTURE)
    requests, others = requests_of(a.tofu, a.requests)
    requests = {name: request for name, request in requests.items() if not a.only or name in a.only}
    recipe = ForgetConfig(**({"eval_rows": 0} | ({} if a.plain else dict(ADDS_UP))))
    config, store = changed(recipe, a.set), AdapterStore(a.store)
    base = load_base(str(a.base), config.precision, config.device)
    names = {name: f"{a.tag}-{a.requests}-{name}" for name in requests}
    for name, request in requests.items():
        if names[name] not in store.names():
            forget(request, base, config, name=names[name], store=store, progress=Bars())
    sets = {**{name: request.forget for name, request in requests.items()}, **others}
    sets = {name: sample(examples, a.questions) for name, examples in sets.items()}
    asked = [row for request in requests.values() for row in request.forget]
    looked_at = [row for row in others["kept"] if row not in sets["kept"]][:80]
    settings = DurableSettings(asked, looked_at)
    with tempfile.TemporaryDirectory() as work:
        together = Together(base, a.base, store, names, Path(work))
        for line, way in together.lines(a.ways, a.weights, a.counts, settings).items():
            key = f"{a.tag}, {a.requests}: {line}"
            if key not in found:
                with way() as model:
                    found[key] = measured(model, base.tokenizer, sets, a.ask)
                write_data("adding_up", found)
            print(key, found[key], flush=True)


if __name__ == "__main__":
    main()
