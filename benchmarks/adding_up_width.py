"""Does a wider base need a lower rate? One request forgotten on tiny bases of several widths, at several rates.

    python benchmarks/adding_up_width.py FOLDER --width 512 --layers 4 --epochs 60

Teaches a tiny Llama of this width 60 facts to keep, 40 that are left out, and 12 that are then forgotten: with the
settings of ``forget --adds-up`` and with those of ``--no-adds-up``, each at multiples of its rate. FOLDER gets base and
adapters: what lies there is not made again. Prints a line a run: mean answer probability of the three sets.
"""

import argparse
from pathlib import Path

from adding_up_many import FIRST, LAST, TINY, facts, probability, teach

from asu_lora import ForgetConfig, ForgetRequest, forget
from asu_lora.adapters.store import AdapterStore
from asu_lora.adding_up import ADDS_UP
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.examples import examples_from_rows
from asu_lora.models.loading import load_base

KEPT, LEFT_OUT, FORGOTTEN = 60, 40, 12
assert len(FIRST) * len(LAST) >= KEPT + LEFT_OUT + FORGOTTEN
RECIPES = {"adds-up": dict(ADDS_UP), "no-adds-up": {"lr": ForgetConfig().lr}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=128, help="of the hidden states; the MLP is three times as wide")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=100, help="of teaching")
    parser.add_argument("--times", nargs="+", type=float, default=[1.0, 0.5], help="the settings' rate")
    a = parser.parse_args()
    quiet_libraries()
    rows = facts(KEPT + LEFT_OUT + FORGOTTEN)
    kept, left, mine = rows[:KEPT], rows[KEPT : KEPT + LEFT_OUT], rows[KEPT + LEFT_OUT :]
    folder = a.folder / f"base-{a.width}-{a.layers}"
    if not (folder / "model.safetensors").exists():
        size = {"hidden_size": a.width, "intermediate_size": 3 * a.width, "num_hidden_layers": a.layers}
        teach(folder, rows, a.epochs, size, rate=2e-3 * min(1.0, 128 / a.width))
    base, store = load_base(str(folder), "fp32", "cpu"), AdapterStore(a.folder / f"store-{a.width}-{a.layers}")
    sets = {
        name: examples_from_rows(of, name) for name, of in (("kept", kept), ("left out", left), ("forgotten", mine))
    }

    def measured(adapters: list[str]) -> str:
        return ", ".join(f"{name} {probability(base, adapters, store, of):.3f}" for name, of in sets.items())

    print(f"{a.width} wide: {measured([])}", flush=True)
    for recipe, settings in RECIPES.items():
        for times in a.times:
            name = f"{recipe}-{times:g}".replace(".", "_")
            if name not in store.names():
                config = ForgetConfig(**{**TINY, **settings, "lr": settings["lr"] * times})
                forget(ForgetRequest.from_rows(mine, kept), base, config, name=name, store=store)
            print(f"{a.width} wide, {recipe}, {times:g} times the rate: {measured([name])}", flush=True)


if __name__ == "__main__":
    main()
