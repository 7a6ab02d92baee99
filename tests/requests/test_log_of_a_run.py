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
