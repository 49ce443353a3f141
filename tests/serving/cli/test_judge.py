"""``wwwserve judge`` from end to end, against servers that judge by a script, and what it says of wrong uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from serving.cli.app import build_wwwserve_app
from serving.cli.errors import describe_error
from serving.openai.errors import internal_error
from serving.quality.judging.cases import load_cases
from serving.quality.judging.prompt import JudgePrompt, break_chat_tokens, load_default_prompt
from serving.quality.judging.trials import make_trials
from tests.support.servers.judge_server import MODEL, JudgeServer, judge_in_thread

CASES = load_cases()
SOUND = {break_chat_tokens(text) for case in CASES.questions for text in (case.answer, case.other)}
PADDED = {break_chat_tokens(case.padded) for case in CASES.questions}


async def run_nothing(*_: object) -> None:
    """Stands for running a node."""


def judge_well(texts: dict[str, str]) -> str:
    """The script of a perfect judge."""
    if "ANSWER" in texts:
        return "U" if texts["ANSWER"] in SOUND else "X"
    good = [texts[f"ANSWER {place}"] in SOUND | PADDED for place in "AB"]
    return {(True, True): "C", (True, False): "Y", (False, True): "X", (False, False): "Z"}[good[0], good[1]]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(build_wwwserve_app(run_nothing), ["judge", *arguments])


def ask_json(*arguments: str) -> dict[str, Any]:
    result = invoke("test", "--json", *arguments)
    assert result.exit_code == 0, result.exception
    content: dict[str, Any] = json.loads(result.output)
    return content


@pytest.mark.parametrize("has_schemas", [True, False], ids=["json", "letter"])
def test_a_perfect_judge_is_recommended_in_either_form(has_schemas: bool) -> None:
    with judge_in_thread(JudgeServer(judge_well, has_schemas=has_schemas)) as server:
        content = ask_json("--url", server.url, "--quick")
    assert content["recommendation"] == "strong" and content["reasons"] == []
    assert content["form"] == ("json" if has_schemas else "letter") and content["model"] == MODEL
    assert content["trials"] == len(make_trials(CASES, 7, 4)) and content["refuses_long"] is True
    assert content["prompt"] == JudgePrompt.parse(load_default_prompt()).digest.hex()
    assert content["consistency"]["share"] == 1 and content["fooled"]["share"] == 0
    assert content["padded_wins"]["share"] == 0.5 and content["fooled_by"]["plea"]["cases"] >= 1


def test_a_judge_that_always_names_the_first_answer_is_advised_against() -> None:
    with judge_in_thread(JudgeServer(lambda texts: "A" if "ANSWER A" in texts else "U")) as server:
        result = invoke("test", "--url", server.url, "--quick", "--model", MODEL)
    assert result.exit_code == 0, result.exception
    lines = [line.strip() for line in result.output.splitlines()]
    assert lines[-2] == "recommendation: do not judge with this." and "wide intervals" in lines[-1]
    assert any(line.startswith("same ballot in both orders") and " 0 % " in line for line in lines)
    assert any(line.startswith("fooled by an injection") and " 50 % " in line for line in lines)


def test_a_server_that_shortens_prompts_is_advised_against() -> None:
    with judge_in_thread(JudgeServer(judge_well, cuts_long=True)) as server:
        content = ask_json("--url", server.url, "--quick")
    assert content["recommendation"] == "do not judge" and "shortens long prompts" in content["reasons"][0]


def test_a_node_measures_the_backend_and_the_prompt_of_its_configuration(tmp_path: Path) -> None:
    own = load_default_prompt().replace(b"impartial", b"strict and impartial")
    (tmp_path / "own.txt").write_bytes(own)
    with judge_in_thread(JudgeServer(judge_well)) as server:
        (tmp_path / "config.yaml").write_text(
            f"models:\n  - {{kind: openai, base_url: '{server.url}/v1', names: [{MODEL}], load: none}}\n"
            "judge: {prompt_file: own.txt, form: letter}\n"
        )
        content = ask_json("-d", str(tmp_path), "--quick", "--parallel", "2", "--seed", "3")
        assert content["prompt"] == JudgePrompt.parse(own).digest.hex() and content["seed"] == 3
        assert content["form"] == "letter" and "response_format" not in server.bodies[-1]
        assert "strict and impartial" in server.bodies[-1]["messages"][0]["content"]
        assert ask_json("-d", str(tmp_path), "--quick", "--form", "json")["recommendation"] == "strong"


def test_the_prompt_in_force_is_printed_to_the_byte(tmp_path: Path) -> None:
    assert invoke("prompt", "-d", str(tmp_path)).stdout_bytes == load_default_prompt()
    own = (
        b"--- pair ---\r\n{{question}}{{answer_a}}{{answer_b}}{{reply}}\n--- solo ---\n{{question}}{{answer}}{{reply}}"
    )
    (tmp_path / "own.txt").write_bytes(own)
    (tmp_path / "config.yaml").write_text("judge: {prompt_file: own.txt}\n")
    assert invoke("prompt", "-d", str(tmp_path)).stdout_bytes == own


URL = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test", "-d", "DIR"], "config.yaml: cannot be read"),
        (["test", "-d", "DIR", "--url", URL], "give it without -d"),
        (["test", "--url", "nonsense"], "--url: not the base URL of an HTTP server"),
        (["test", "--url", URL, "--form", "xml"], "--form: must be 'auto', 'json' or 'letter'"),
        (["test", "--url", URL, "--model", ""], "--model: must not be empty"),
        (["test", "--url", URL, "--prompt-file", "DIR/none"], "DIR/none: cannot be read: No such file"),
        (["test", "--url", URL, "--prompt-file", "DIR/empty"], "DIR/empty: has no section '--- pair ---'"),
        (["test", "--url", URL, "--api-key-env", "WWWSERVE_NO_KEY"], "WWWSERVE_NO_KEY is not set"),
        (["test", "--api-key-env", "WWWSERVE_NO_KEY"], "--api-key-env goes with --url"),
        (["test", "-d", "DIR/gateway"], "names no backend"),
        (["prompt", "-d", "DIR/bad"], "DIR/bad/p.txt: line 1: stands before the first section"),
    ],
)
def test_a_wrong_use_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, text in (("gateway", "models: []"), ("bad", "judge: {prompt_file: p.txt}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    (tmp_path / "bad" / "p.txt").write_text("Judge!")
    result = invoke(*(argument.replace("DIR", str(tmp_path)) for argument in arguments))
    assert result.exception is not None and describe_error(result.exception) is not None
    assert message.replace("DIR", str(tmp_path)) in str(result.exception) and "\n" not in str(result.exception)


def find_error(result: Result) -> str:
    """The message of a user's error that nurseries have wrapped."""
    error: BaseException | None = result.exception
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert error is not None and describe_error(error) is not None
    return str(error)


def test_a_server_without_the_model_is_one_line() -> None:
    with judge_in_thread(JudgeServer()) as server:
        result = invoke("test", "--url", server.url, "--model", "other")
        assert find_error(result) == f"no backend serves other: {server.url} serves {MODEL}"


def test_a_server_that_refuses_everything_is_one_line() -> None:
    with judge_in_thread(JudgeServer(reply=internal_error("no memory left"))) as server:
        assert "status 500" in find_error(invoke("test", "--url", server.url))
