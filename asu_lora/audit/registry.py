"""The attacks by name, in the order in which they are made: the cheap and telling ones first.

Where time is short, the order decides what is left out. It follows what each brought back and how long that took
(docs/results/audit.md): rounding and the answer's beginning come early, long training and what needs the base late.
"""

from asu_lora.audit.attacks.base_reads import BaseReads
from asu_lora.audit.attacks.differencing import Differencing
from asu_lora.audit.attacks.direct import Direct
from asu_lora.audit.attacks.in_context import InContext
from asu_lora.audit.attacks.insisting import Insist
from asu_lora.audit.attacks.logit_lens import LogitLens
from asu_lora.audit.attacks.membership import Membership
from asu_lora.audit.attacks.paraphrases import Paraphrases
from asu_lora.audit.attacks.patching import Patching
from asu_lora.audit.attacks.precision import Precision
from asu_lora.audit.attacks.prefix import Prefix
from asu_lora.audit.attacks.relearn import Relearn
from asu_lora.audit.attacks.retrained import Retrained
from asu_lora.audit.attacks.sampling import Sampling
from asu_lora.audit.attacks.trace import Trace
from asu_lora.audit.attacks.translations import Translations
from asu_lora.audit.attacks.tune_file import TuneFile
from asu_lora.audit.attacks.tune_general import TuneGeneral
from asu_lora.audit.attacks.tune_neighbours import TuneNeighbours
from asu_lora.audit.attacks.worst_of_asking import WorstOfAsking
from asu_lora.audit.row_attack import Attack
from asu_lora.errors import SettingError

_ALL: tuple[type[Attack], ...] = (
    Direct,
    Prefix,
    Precision,
    LogitLens,
    Insist,
    Paraphrases,
    Translations,
    InContext,
    WorstOfAsking,
    Sampling,
    Membership,
    Trace,
    Retrained,
    Relearn,
    TuneFile,
    TuneNeighbours,
    BaseReads,
    Patching,
    TuneGeneral,
    Differencing,
)
ATTACKS: dict[str, type[Attack]] = {attack.name: attack for attack in _ALL}
KINDS = tuple(dict.fromkeys(attack.kind for attack in _ALL))
# left out of the depth unless they are named
LEFT_OUT = {
    "quick": {"in_context", "tune_neighbours", "tune_general", "differencing", "patching", "base_reads"},
    "standard": {"tune_general"},
}


def chosen(names: tuple[str, ...] | None, depth: str) -> list[Attack]:
    """The attacks to make, in the registry's order.

    Args:
        names: of attacks or of kinds; None for those of the depth.

    Raises:
        SettingError: there is no such attack.
    """
    if names is None:
        wanted = set(ATTACKS) - LEFT_OUT.get(depth, set())
    else:
        names = tuple(name.lower().replace("-", "_") for name in names)
        unknown = [name for name in names if name not in ATTACKS and name not in KINDS]
        if unknown or not names:
            raise SettingError(
                f"There is no attack '{unknown[0] if unknown else ''}': choose of {', '.join(ATTACKS)}, or of the "
                f"kinds {', '.join(KINDS)}."
            )
        wanted = {name for name, attack in ATTACKS.items() if name in names or attack.kind in names}
    return [attack() for name, attack in ATTACKS.items() if name in wanted]
