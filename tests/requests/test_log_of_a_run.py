"""What a run says where stderr is no terminal: in a log of systemd or cron, piped into a file."""

from asu_lora.cli.requests.run_report import Stages, Telling
from asu_lora.requests.intake import masked
from asu_lora.requests.runner.audit_step import audit_adapter
from asu_lora.requests.runner.run import Engine, run
from tests.support.request_queue import finds


def test_a_run_off_a_terminal_tells_whom_it_works_on_and_each_stage(queue, capsys):
    queue.add("a", "b")
    run(queue.shop(audit_adapter), listener=Telling(2))
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert not said.out, "the library never prints"
    begun = [
        lines.index("Working on a ..."),
        lines.index("Working on b ..."),
        lines.index("Auditing a again, under all adapters ..."),
    ]
    assert begun == sorted(begun)
    for first, last in ((begun[0], begun[1]), (begun[1], begun[2])):
        between = lines[first:last]
        assert any(line.startswith("Training ...") for line in between), between
        assert any("direct: candidate" in line for line in between), between
    assert any("direct: candidate" in line for line in lines[begun[2] :]), "a second audit is told too"


def test_requests_that_are_trained_together_share_the_lines_of_their_stages(queue, capsys):
    queue.add("a", "b", "c")
    run(queue.shop(finds(), re_audit=False), Engine(at_once=3), Telling(3))
    lines = capsys.readouterr().err.splitlines()
    assert "Working on a, b, c ..." in lines and lines.count("Answers of all, before ...") == 1, lines


def test_the_stages_of_requests_that_are_trained_together_add_up(capsys):
    stages = Stages()
    for total in (3, 4):
        stages.stage("Training", total)
    assert stages.total == 7
    stages.note("of 'Anna Birk' nothing is left, as 'asu-lora audit' finds")
    assert masked("see 'asu-lora ask anna'") == "see '...'"
    stages.advance()
    stages.stage("Training", 5)  # of the next
    assert (stages.total, stages.done) == (5, 0)
    assert (
        capsys.readouterr().err
        == "Training ... (3)\nOf '...' nothing is left, as 'asu-lora audit' finds\nTraining ... (5)\n"
    )


def test_which_of_the_adapters_is_broken_is_said_by_its_name(queue, capsys):
    """In the report of a run, in the ledger, and in the notes of a log."""
    queue.add("a", "b", "c")
    queue.run(finds(), re_audit=False)
    weights = queue.store.root / "b" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\xff\xff\xff\x7f")  # NaN
    report = run(queue.shop(audit_adapter))
    said = report.follow_up.not_re_audited["a"]
    assert said.startswith("The adapter 'b' holds NaN"), said
    assert queue.ledger.history("a", ["audit-failed"])[-1].payload["sentence"] == said
    telling = Telling(1, queue.shop().names)
    telling.progress().note("'b' and 'c' are all but the same update, and so is 'Anna Birk'")
    assert capsys.readouterr().err.endswith("'b' and 'c' are all but the same update, and so is '...'\n")


def test_a_name_inside_a_quoted_text_goes_with_the_text():
    for text in ("it names 'Anna said 'b' no to Bob'.", "it names 'Anna' and 'b' and 'Bob'.", "it names 'Anna 'b"):
        assert masked(text, {"b"}) in ("it names '...'.", "it names '...'")
    assert masked("of 'Anna' and 'c'", {"b", "c"}) == "of '...' and 'c'"
    assert masked("run 'asu-lora audit c' anew.", {"c"}) == "run 'asu-lora audit c' anew."
    assert masked("run 'asu-lora forget c d' anew.", {"c", "d"}) == "run '...' anew."
