"""The memory a forget run will take, and settings with which it fits; docs/memory.md has the arithmetic."""

from asu_lora.hardware.memory import free_memory
from asu_lora.memory_plan.fit import fit
from asu_lora.memory_plan.plan import MemoryPlan, plan_memory
from asu_lora.memory_plan.planned_run import PlannedRun, meta_model

__all__ = ["MemoryPlan", "PlannedRun", "fit", "free_memory", "meta_model", "plan_memory"]
