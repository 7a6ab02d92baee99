"""What several tests of adapters share."""

import pytest

from tests.support.lora_folders import save_lora


@pytest.fixture(scope="module")
def three(tiny_base, tmp_path_factory):
    """Adapters that share some modules, with different ranks and ways of scaling."""
    folder = tmp_path_factory.mktemp("loras")
    return [
        save_lora(tiny_base, folder / "a", seed=1),
        save_lora(tiny_base, folder / "b", seed=2, r=9, use_rslora=True, target_modules=["q_proj", "down_proj"]),
        save_lora(
            tiny_base,
            folder / "c",
            seed=3,
            target_modules=["q_proj", "gate_proj"],
            rank_pattern={"layers.1.self_attn.q_proj": 2},
            alpha_pattern={"gate_proj": 3},
        ),
    ]
