"""Whether an adapter was trained to add up with others: its manifest tells, or that of the sum that holds it."""

from asu_lora.adapters.manifest import Manifest

ADDS_UP = "adds_up"  # in the manifest of a sum: all of it was trained to
NEUTRAL = {
    "keep_off": 0.0,
    "retain_dose": 1.0,
}  # settings that make adapters add up, and the values at which they don't


def adds_up(manifest: Manifest | None) -> bool:
    """Whether a manifest says that its adapter was trained to add up with others, or is a sum of such."""
    if manifest is None:
        return False
    if manifest.method.contents():
        return manifest.method.details.get(ADDS_UP) is True
    recorded = {**manifest.training, **manifest.method.details}
    values = {name: recorded.get(name, neutral) for name, neutral in NEUTRAL.items()}
    return any(isinstance(value, int | float) and value != NEUTRAL[name] for name, value in values.items())
