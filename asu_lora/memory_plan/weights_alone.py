"""The plan of a base whose forward passes can't be simulated: what its weights take, and that the rest is unknown."""

from asu_lora.config import ForgetConfig
from asu_lora.memory_plan.byte_counts import quantised_of
from asu_lora.memory_plan.meta_simulation import NotSimulated
from asu_lora.memory_plan.plan import MemoryPlan, fixed_parts, plan_memory
from asu_lora.memory_plan.planned_run import PlannedRun


def plan_what_can_be(run: PlannedRun, config: ForgetConfig) -> tuple[MemoryPlan, str | None]:
    """The plan of a run; where only weights can be counted, that, and a sentence that says so."""
    try:
        return plan_memory(run, config), None
    except NotSimulated as error:
        loading, fixed = fixed_parts(run, quantised_of(run, config))
        note = f"{error} The figures are those of the weights; activations come on top."
        return MemoryPlan({"loading": loading, "training": fixed}), note
