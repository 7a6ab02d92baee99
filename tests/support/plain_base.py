"""What a base is when nothing is on it: its modules, its weights, their flags."""

from peft.tuners.tuners_utils import BaseTunerLayer


def describe(model):
    assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())
    assert not hasattr(model, "peft_config") and not model.is_gradient_checkpointing
    return (
        [(name, type(module)) for name, module in model.named_modules()],
        [(name, p.data_ptr(), p.requires_grad, p.grad) for name, p in model.named_parameters()],
    )
