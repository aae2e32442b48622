"""Tiny logs of benchmarks, field by field as the programs write them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lrp_lens.failures.logs import CaseLog

LM_EVAL_CHOICE = "samples_capitals_2026-11-27T10-00-00.000001.jsonl"
LM_EVAL_GENERATION = "samples_gsm8k_2026-11-27T10-00-00.000001.jsonl"


USER = [{"role": "user", "content": "Say hi."}]


def fates(log: CaseLog) -> list[tuple[int, str]]:
    return [(row.line, row.fate) for row in log.rows]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any] | str | bytes]) -> Path:
    """One row a line; texts and bytes as they are."""
    data = [
        row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
        for row in rows
    ]
    path.write_bytes(b"".join(line + b"\n" for line in data))
    return path


def write_json(path: Path, value: Any) -> Path:
    """One document."""
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def lm_eval_choice(
    doc_id: int, prompt: str, options: list[str], scores: list[float], right: int
) -> dict[str, Any]:
    """A line of a multiple choice, as `save_results_samples` of lm-eval 0.4.13 writes it."""
    answers = [[str(score), "False"] for score in scores]
    return {
        "doc_id": doc_id,
        "doc": {"question": prompt, "choices": options},
        "target": str(right),
        "arguments": {
            f"gen_args_{i}": {"arg_0": prompt, "arg_1": f" {one}"} for i, one in enumerate(options)
        },
        "resps": [[one] for one in answers],
        "filtered_resps": answers,
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "doc_hash": f"d{doc_id}",
        "prompt_hash": f"p{doc_id}",
        "target_hash": f"t{doc_id}",
        "acc": float(scores.index(max(scores)) == right),
        "acc_norm": 0.0,
    }


def lm_eval_generation(
    doc_id: int, prompt: str, said: str, target: Any, filter: str, score: float, doc: Any = None
) -> dict[str, Any]:
    """A line of a generation under one filter."""
    return {
        "doc_id": doc_id,
        "doc": doc or {"question": prompt, "answer": str(target)},
        "target": str(target),
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["\n\n"], "do_sample": False}}},
        "resps": [[said]],
        "filtered_resps": [said.split()[-1]],
        "filter": filter,
        "metrics": ["exact_match"],
        "doc_hash": f"d{doc_id}",
        "prompt_hash": f"p{doc_id}",
        "target_hash": f"t{doc_id}",
        "exact_match": score,
    }


def inspect_sample(name: Any, messages: list[dict[str, Any]], said: Any, **changes: Any) -> dict[str, Any]:
    """A sample of an Inspect log, as inspect_ai 0.3.285 writes it."""
    answer = {
        "id": "m9",
        "content": said,
        "source": "generate",
        "role": "assistant",
        "model": "mockllm/model",
    }
    return {
        "id": name,
        "epoch": 1,
        "input": messages[-1]["content"],
        "target": "hi",
        "messages": [*({"id": f"m{i}", "source": "input", **one} for i, one in enumerate(messages)), answer],
        "output": {
            "model": "mockllm/model",
            "choices": [{"message": answer, "stop_reason": "stop"}],
            "completion": said if isinstance(said, str) else "",
        },
        "scores": {"includes": {"value": "I", "answer": said, "explanation": said, "history": []}},
        "metadata": {"level": 1},
        "store": {},
        "events": [{"event": "sample_init", "sample": {"input": "attachment://unused"}}],
        "model_usage": {},
        "total_time": 0.5,
        "uuid": f"u{name}",
        "attachments": {},
    } | changes


def inspect_log(samples: list[Any]) -> dict[str, Any]:
    """An Inspect log."""
    spec = {"task": "say", "task_id": "t1", "model": "mockllm/model", "dataset": {"samples": len(samples)}}
    head = {"version": 2, "status": "success", "eval": spec, "plan": {"steps": []}}
    return head | {
        "results": {"scores": []},
        "stats": {},
        "error": None,
        "samples": samples,
        "reductions": [],
    }


def helm_state(name: str, prompt: str, said: str, answers: dict[str, bool], **changes: Any) -> dict[str, Any]:
    """A request state of HELM 0.5; of several answers, letters are asked for."""
    state: dict[str, Any] = {
        "instance": {
            "input": {"text": prompt.splitlines()[-1]},
            "references": [
                {"output": {"text": one}, "tags": ["correct"] if right else []} for one, right in answers.items()
            ],
            "split": "test",
            "id": name,
        },
        "request_mode": None,
        "train_trial_index": 0,
        "request": {
            "model_deployment": "local/model", "model": "local/model", "prompt": prompt, "temperature": 0.0,
            "num_completions": 1, "top_k_per_token": 1, "max_tokens": 5, "stop_sequences": ["\n"],
        },
        "result": {
            "success": True, "cached": False, "request_time": 0.1,
            "completions": [{"text": said, "logprob": -0.3, "tokens": [{"text": said, "logprob": -0.3}]}],
        },
        "num_train_instances": 0,
        "prompt_truncated": False,
    }  # fmt: skip
    if len(answers) > 1:
        state["output_mapping"] = {chr(65 + i): one for i, one in enumerate(answers)}
    return state | changes


def helm_log(states: list[Any]) -> dict[str, Any]:
    """A scenario_state.json."""
    adapter = {"method": "multiple_choice_joint", "model": "local/model", "instructions": "Answer."}
    return {"adapter_spec": adapter, "request_states": states, "annotator_specs": None}
