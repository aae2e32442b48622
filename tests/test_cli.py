"""The command: fast help, one clear line for a wrong argument, and files that are what they say."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lrp_lens import __version__
from lrp_lens.cli import app
from lrp_lens.cli.inputs import WITH_CASES, read_prompt
from lrp_lens.demo import REAL_MODELS, demo_cases, real_cases
from lrp_lens.errors import InputError
from lrp_lens.files import require_writable
from tests.word_model import save_word_model

HELP_SECONDS = 1.0
ATTEMPTS = 4
PROMPT = "then mary and john went to the store . john gave a ball to"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_word_model(tmp_path_factory.mktemp("words")))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")

    def call(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, ["explain", *arguments], input=stdin, prog_name="lrp-lens")

    return call


def assert_one_line(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("lrp-lens: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def test_help_is_fast_and_loads_no_model_library() -> None:
    program = (
        "import sys\nfrom lrp_lens.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'pandas', 'plotly'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    seconds = []
    for _ in range(ATTEMPTS):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
        )
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert "explain" in done.stdout
        if seconds[-1] < HELP_SECONDS:
            return
    pytest.fail(f"--help took {min(seconds):.2f} s")


def test_module_version_and_bare_call() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lrp_lens", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"lrp-lens {__version__}\n")
    bare = CliRunner().invoke(app, [])
    assert bare.exit_code == 0 and "explain" in bare.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "--nonsense"),
        (["--top-k", "0"], "--top-k"),
        (["--top-k", "many"], "--top-k"),
        (["--prompt"], "--prompt"),
        (["--prompt", ""], "prompt is empty"),
        (["--prompt", " \n"], "of which this tokenizer makes none"),
        (
            ["--prompt", "a", "--prompt-file", "b"],
            "only one of --prompt, --prompt-file, --messages, --ids and -",
        ),
        (["-", "--prompt", "a"], "only one of"),
        (["some words"], "Pass it as --prompt"),
        (["--prompt-file", "missing.txt"], "missing.txt"),
        (["--prompt-file", "."], "'.'"),
        (["--model", "x"], "--model needs a prompt"),
        (["--model", "smollm2", "--target", "a"], "--target needs a prompt"),
        (["--model", "smollm2", "--case", "99"], "--case is one of 0 to"),
        (["--case", "-1"], "--case is one of 0 to"),
        (["--case", "1", "--prompt", "a"], "pass it without a prompt"),
        (["--target", "mary"], "--target needs a prompt"),
        (["--chat"], "--chat needs a prompt"),
        (["--no-bos"], "--no-bos needs a prompt"),
        (["--ids", "1,two"], "--ids are token ids such as 1,22,3; received '1,two'"),
        (["--ids", "-1"], "--ids are token ids"),
        (["--ids", ""], "--ids are token ids"),
        (["--ids", "1", "--prompt", "a"], "only one of"),
        (["--ids", "1", "--chat"], "--ids are taken as they are"),
        (["--ids", "1", "--no-bos"], "--ids are taken as they are"),
        (["--prompt", "a", "--chat", "--no-bos"], "brings its own BOS"),
        (["--ids", "1,999999"], "the vocabulary; received 999999"),
        (["--prompt", "a", "--chat"], "chat template, and this model has none"),
        (["--seeds", "0"], "--seeds"),
        (["--dtype", "int8"], "--dtype is one of float32, bfloat16, float16, float64; received 'int8'"),
        (["--device", "tpu9"], "tpu9"),
        (["--out", "same.html", "--json", "./same.html"], "--out and --json are two files"),
        (["--rules", "magic"], "ATTN_LRP"),
        (["--out", "no/such/place.html"], "no directory 'no/such'"),
        (["--out", "."], "is a directory"),
        (["--json", "no/such.json"], "no directory 'no'"),
        (["--model", "./no-such-model", "--prompt", "a"], "no-such-model"),
    ],
)
def test_wrong_arguments(run, arguments: list[str], words: str) -> None:
    assert_one_line(run(*arguments), words)
    assert not Path("lrp-lens-report.html").exists()


def test_unknown_command() -> None:
    assert_one_line(CliRunner().invoke(app, ["explian"]), "explian")


def test_a_hub_name_without_network(run) -> None:
    assert_one_line(run("--model", "gpt2", "--prompt", "a"), "The hub gave no model 'gpt2'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "zebra"], "'zebra'"),
        (["--target", "mary john", "--contrast", "mary"], "one begins the other"),
        (["--contrast", ""], "''"),
        (["--target", "mary", "--contrast", "mary"], "'mary'"),
    ],
)
def test_wrong_tokens(run, model_dir: str, arguments: list[str], words: str) -> None:
    assert_one_line(run("--model", model_dir, "--prompt", PROMPT, *arguments), words)


def test_a_prompt_beyond_the_context(run, model_dir: str) -> None:
    assert_one_line(run("--model", model_dir, "--prompt", "mary " * 100), "64 tokens")


def test_a_local_model_from_standard_input(run, model_dir: str) -> None:
    result = run("-", "--model", model_dir, "--target", "mary", "--contrast", "john", stdin=PROMPT + "\n")
    assert result.exit_code == 0, result.output
    assert "Why 'john' and not 'mary'?" in result.stdout and PROMPT in result.stdout
    assert Path("lrp-lens-report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("rules", ["attn-lrp", "CP_LRP", "relp", "relp-frozen-pattern", "gim", "gradient"])
def test_every_rule_set_has_a_name_on_the_command_line(run, model_dir: str, rules: str) -> None:
    result = run("--model", model_dir, "--prompt", PROMPT, "--rules", rules, "--json", "x.json")
    assert result.exit_code == 0, result.output
    data = json.loads(Path("x.json").read_text())
    assert data["rules"].lower().replace("_", "-") == rules.lower().replace("_", "-")
    assert data["prompt"] == PROMPT


def test_the_demo(run) -> None:
    result = run("--out", "report.html", "--json", "numbers.json")
    assert result.exit_code == 0, result.output
    data = json.loads(Path("numbers.json").read_text())
    assert data["target"]["rank"] == 1 and data["metric_value"] > 1 and data["correct"] is False
    assert abs(data["remainder"]) < 1e-3
    shown = " ".join(result.stdout.split())
    for words in (
        data["prompt"],
        f"target (wrong) {data['target']['text']!r}",
        f"contrast (right) {data['contrast']['text']!r}",
        "Top heads",
        "Top MLPs",
        "Ledger",
        data["masking"]["summary"],
        "Report:",
    ):
        assert words in shown, words
    assert str(Path("report.html").resolve()) in result.stdout.replace("\n", "")


def test_any_case_of_the_demo(run) -> None:
    result = run("--case", "3", "--json", "x.json")
    assert result.exit_code == 0, result.output
    data, case = json.loads(Path("x.json").read_text()), demo_cases()[3]
    assert (data["prompt"], data["target"]["text"], data["contrast"]["text"]) == (
        case.prompt, case.target, case.contrast,
    )  # fmt: skip


def test_a_language_models_own_mistake(run, smollm2: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrp_lens.cli.loading.load_model", lambda name, **_: {"smollm2": smollm2}[name])
    cases = real_cases("smollm2")
    asked = next(number for number, case in enumerate(cases) if case.completion)
    for arguments, case in ([], cases[0]), (["--case", str(asked)], cases[asked]):
        result = run("--model", "smollm2", "--json", "x.json", *arguments)
        assert result.exit_code == 0, result.output
        data = json.loads(Path("x.json").read_text())
        assert data["target"]["text"] == case.target and data["contrast"]["text"] == case.contrast
        assert data["metric_value"] == pytest.approx(case.logit_gap, abs=3e-3)
        assert "target (wrong)" in result.stdout


def test_the_command_knows_who_has_cases() -> None:
    assert WITH_CASES == REAL_MODELS


def test_ids_bos_and_seeds(run, model_dir: str) -> None:
    def data(*arguments: str) -> dict:
        result = run("--model", model_dir, "--json", "x.json", "--device", "cpu", *arguments)
        assert result.exit_code == 0, result.output
        assert "wrong" not in result.stdout and "right" not in result.stdout
        return json.loads(Path("x.json").read_text())

    text = data("--prompt", PROMPT, "--seeds", "7")
    assert len(text["masking"]["steps"][1]["random"]) == 7 and text["correct"] is None
    bare = data("--prompt", PROMPT, "--no-bos", "--dtype", "float64")
    assert bare["tokens"] == text["tokens"][1:]
    again = data("--ids", "5, 6 7", "--dtype", "bfloat16")
    assert len(again["tokens"]) == 3


def test_a_chat_message_goes_through_the_template(run, model_dir: str, tmp_path: Path) -> None:
    chat = tmp_path / "chat"
    shutil.copytree(model_dir, chat)
    config = json.loads((chat / "tokenizer_config.json").read_text())
    config["chat_template"] = (
        "{% for m in messages %}mary {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}john{% endif %}"
    )
    (chat / "tokenizer_config.json").write_text(json.dumps(config))
    result = run("--model", str(chat), "--prompt", "gave a ball", "--chat", "--json", "x.json")
    assert result.exit_code == 0, result.output
    tokens = json.loads(Path("x.json").read_text())["tokens"]
    assert [token.strip() for token in tokens if token.strip()][-5:] == ["mary", "gave", "a", "ball", "john"]


def test_only_our_own_files_are_replaced(run, model_dir: str) -> None:
    call = ("--model", model_dir, "--prompt", PROMPT, "--out", "a.html", "--json", "b.json")
    Path("a.html").touch()  # empty: nothing is lost
    for _ in range(2):  # the second run replaces the first one's files
        assert run(*call).exit_code == 0
    for name in ("a.html", "b.json"):
        kept = Path(name).read_text(encoding="utf-8")
        Path(name).write_text("my thesis", encoding="utf-8")
        assert_one_line(run(*call), name, "--force")
        assert Path(name).read_text(encoding="utf-8") == "my thesis"
        assert run(*call, "--force").exit_code == 0
        assert Path(name).read_text(encoding="utf-8")[:40] == kept[:40]


def test_interruption_writes_nothing(run, model_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lrp_lens.cli.explain.explain", interrupted)
    result = run("--model", model_dir, "--prompt", PROMPT, "--json", "x.json")
    assert result.exit_code == 130 and not list(Path().glob("*.html")) and not Path("x.json").exists()


def test_prompt_sources(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes(b"one\r\ntwo\n\n")
    assert read_prompt(None, None, str(path)) == "one\ntwo\n"
    assert read_prompt(None, "text ", None) == "text "
    assert read_prompt(None, None, None) is None
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_prompt(None, None, str(path))


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    require_writable(str(tmp_path / "new.html"))
    assert not (tmp_path / "new.html").exists()
    if os.geteuid():
        (tmp_path / "old.html").touch(mode=0o400)
        with pytest.raises(InputError, match="permission denied"):
            require_writable(str(tmp_path / "old.html"))
