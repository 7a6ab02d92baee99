"""What to type once an adapter is made: commands that work as they stand."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asu_lora.adapters.adapter_spec import typed_adapter, weighted

if TYPE_CHECKING:
    from asu_lora.forgetting.result import ForgetResult


def next_commands(result: "ForgetResult", base: str, store: Path, on_top_of: Sequence[str] = ()) -> str:
    """Ask it, test it, show it, merge it; the last only where the base takes it.

    Args:
        on_top_of: the adapters beneath as they were typed: a folder is found by its path alone.
    """
    names, below = [typed_adapter(each)[0] for each in on_top_of], result.record.on_top_of
    if len(names) != len(below):
        names = [each.name for each in below]
    typed = [shlex.quote(weighted(name, each.weight)) for name, each in zip(names, below, strict=True)]
    stack, beneath = ("".join(f"{before}{each}" for each in typed) for before in (" --adapter ", " "))
    asked = "" if str(store) == "adapters" else f" --store {shlex.quote(str(store))}"
    base = shlex.quote(base)
    merge = (  # adapters of a base in int8 are served beside it
        ""
        if result.record.base.precision == "int8"
        else f"\nMerge it: asu-lora merge --base {base}{stack} --adapter {result.name}{asked} --out merged"
    )
    return (
        f"\nAsk it:   asu-lora ask --base {base}{stack} --adapter {result.name}{asked}"
        f"\nTest it:  asu-lora audit --base {base}{beneath} {result.name}{asked} --forget FILE --quick"
        f"\nShow it:  asu-lora adapters show {result.name}{asked}{merge}"
    )
