"""Adapters to stand on, and a base that every test here leaves plain."""

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from asu_lora.adapters.store import AdapterStore
from asu_lora.forgetting.forget import forget
from asu_lora.models.loading import load_base
from tests.support.fixed_logits import logits
from tests.support.ground import request
from tests.support.tiny_run import tiny_settings


@pytest.fixture(scope="session")
def store(taught_base, tmp_path_factory):
    """a and b beneath c, for all tests of this folder. b has dropout, other modules and another scaling."""
    root, base = tmp_path_factory.mktemp("store"), load_base(str(taught_base), "fp32", "cpu")
    forget(request(0, 2, "a"), base, tiny_settings(lr=1e-2), store=root)
    forget(
        request(2, 4, "b"),
        base,
        tiny_settings(lr=1e-2, rank=2, alpha=5.0, dropout=0.4, target_modules="q_proj,down_proj"),
        store=root,
    )
    forget(request(4, 6, "c"), base, tiny_settings(lr=1e-2, eval_rows=2), store=root, on_top_of=["a", "b:0.5"])
    return AdapterStore(root)


@pytest.fixture(autouse=True)
def plain(base):
    """Every test leaves a plain base with the same weights."""
    before = [(name, p.data_ptr(), p.requires_grad) for name, p in base.model.named_parameters()]
    logits_before = logits(base.model)
    yield
    assert not any(isinstance(module, BaseTunerLayer) for module in base.model.modules())
    assert not hasattr(base.model, "peft_config") and not base.model.training
    assert [(name, p.data_ptr(), p.requires_grad) for name, p in base.model.named_parameters()] == before
    assert torch.equal(logits(base.model), logits_before)
