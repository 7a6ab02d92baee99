"""In which types the products of a quantised base ran while an adapter, or those inside it, were trained."""

from asu_lora.adapters.manifest import Manifest

FOUR_BIT = ("nf4", "fp4")
COMPUTE_TYPE = "bnb_4bit_compute_dtype"  # among the settings of the base's quantisation
COMPUTE_TYPES = "compute_dtypes"  # among the details of a sum, where its sources disagree


def compute_types(manifest: Manifest) -> set[str]:
    """Their names, such as ``bfloat16``; none for a base in full precision, several for some sums.

    Older manifests name the type beside their other settings only.
    """
    if manifest.base.precision not in FOUR_BIT:
        return set()
    if several := manifest.method.details.get(COMPUTE_TYPES):
        return set(several)
    name = (manifest.base.quantization or {}).get(COMPUTE_TYPE) or manifest.training.get("compute_dtype")
    return {str(name).removeprefix("torch.")} if name else set()
