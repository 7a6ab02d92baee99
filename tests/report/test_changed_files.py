"""The page holds adapters against their certificates, byte by byte."""

from asu_lora.report.contents import gather
from asu_lora.report.page import attention, render_report
from tests.support.certificates import certified


def test_a_certificate_of_weights_that_were_changed_since_is_not_valid(tmp_path):
    store = certified(tmp_path).store
    assert "<b>1</b> of them certified now" in render_report(gather(store), None, str)
    weights = store.root / "kept" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    contents = gather(store)
    assert [known.certificate.state for known in contents.adapters if known.name == "kept"] == ["of other files"]
    assert ("Certificate:", "kept: of other files") in [told[:2] for told in attention(contents, None)]
    assert "<b>0</b> of them certified now" in render_report(contents, None, str)
