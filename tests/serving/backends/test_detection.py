"""What answers at a URL, found out from recorded replies and from whatever else may come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.backends.detection import Detection, DetectionFailed, FoundModel, FoundServer, Probe, Reply

PAGES = Path(__file__).parents[1] / "pages"

Site = dict[str, bytes]
"""The bodies of a server by path; a second body of ``/api/show`` under the name of its model."""


def page(name: str) -> bytes:
    return (PAGES / name).read_bytes()


VLLM = {"/v1/models": page("vllm_models.json"), "/version": b'{"version":"0.32.0"}', "/metrics": page("vllm.prom")}
SGLANG = {
    "/v1/models": page("sglang_models.json"),
    "/get_server_info": page("sglang_server_info.json"),
    "/metrics": page("sglang_rendered.prom"),
}
LLAMACPP = {
    "/v1/models": page("llamacpp_models.json"),
    "/props": page("llamacpp_props.json"),
    "/metrics": page("llamacpp.prom"),
}
OLLAMA = {
    "/v1/models": page("ollama_models.json"),
    "/api/version": b'{"version":"0.40.12"}',
    "/api/tags": page("ollama_tags.json"),
    "qwen3:8b": page("ollama_show.json"),
    "nomic-embed-text:latest": page("ollama_show_embedding.json"),
}
LM_STUDIO = {"/v1/models": page("lmstudio_models.json"), "/api/v0/models": page("lmstudio_models.json")}
LITELLM = {
    "/v1/models": page("litellm_models.json"),
    "/health/liveliness": b'"I\'m alive!"',
    "/model/info": page("litellm_info.json"),
}
SITES = {
    "vllm": VLLM,
    "sglang": SGLANG,
    "llamacpp": LLAMACPP,
    "ollama": OLLAMA,
    "lmstudio": LM_STUDIO,
    "litellm": LITELLM,
}


def detect(site: Site, status: int = 404) -> FoundServer:
    """What is found at a server that answers ``status`` to every other path."""
    detection = Detection()
    for _ in range(5):
        probes = detection.ask()
        for probe in probes:
            key = probe.path if probe.body is None else str(json.loads(probe.body)["model"])
            detection.feed(probe, Reply(200, site[key]) if key in site else Reply(status, b"{}"))
        if not probes:
            return detection.finish()
    raise AssertionError("it never knows enough")


def test_vllm() -> None:
    found = detect(VLLM)
    model = FoundModel("smollm2-135m", "/tmp/record/smollm2", kv_format="auto", context_length=2048)
    assert found == FoundServer("vllm", "0.32.0", (model,), "vllm")


def test_sglang() -> None:
    found = detect(SGLANG)
    assert (found.kind, found.version, found.load, found.slots) == ("sglang", "0.5.23", "sglang", 64)
    (model,) = found.models
    assert (model.repository, model.label) == ("Qwen/Qwen3-8B-FP8", "fp8-kvfp8_e5m2")
    assert model.revision.startswith("220b46e3") and model.context_length == 40960


def test_llamacpp() -> None:
    found = detect(LLAMACPP)
    assert (found.kind, found.load, found.slots) == ("llamacpp", "llamacpp", 4)
    (model,) = found.models
    assert (model.repository, model.quantization) == ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1")
    assert model.context_length == 2048 and model.features == {"logprobs"}


def test_ollama() -> None:
    found = detect(OLLAMA)
    assert (found.kind, found.version, found.load) == ("ollama", "0.40.12", "none")
    chat, embedding = found.models
    assert (chat.quantization, chat.context_length, chat.features) == ("Q4_K_M", 40960, {"tools"})
    assert chat.revision.startswith("500a1f06") and chat.is_generator and not embedding.is_generator
    shown = {**json.loads(OLLAMA["qwen3:8b"]), "parameters": "temperature 0.6\nnum_ctx                8192"}
    assert detect({**OLLAMA, "qwen3:8b": json.dumps(shown).encode()}).models[0].context_length == 8192


def test_lm_studio() -> None:
    found = detect(LM_STUDIO)
    vision, chat, embedding = found.models
    assert (found.kind, found.load) == ("lmstudio", "none")
    assert chat == FoundModel(
        "meta-llama-3.1-8b-instruct",
        "lmstudio-community/meta-llama-3.1-8b-instruct",
        quantization="Q4_K_M",
        context_length=8192,
        features=frozenset({"tools"}),
    )
    assert vision.features == {"vision"} and not vision.is_loaded and not embedding.is_generator


def test_litellm() -> None:
    found = detect(LITELLM)
    far, near = found.models
    assert (found.kind, far.repository, far.context_length) == ("litellm", "azure/gpt-4o", 128_000)
    assert far.features == {"tools", "vision"} and near.features == frozenset() and near.is_generator


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("Qwen/Qwen3-8B-AWQ", "awq"),
        ("Qwen/Qwen3-8B-FP8", "fp8"),
        ("model-q4_k_m.gguf", "q4_k_m"),
        ("Model.Q8_0", "q8_0"),
        ("RedHatAI/Qwen3-8B-quantized.w4a16", "w4a16"),
        ("mlx-community/Qwen3-8B-4bit", "4bit"),
        ("Qwen/Qwen3-8B", ""),
        ("gpt-4o", ""),
    ],
)
def test_a_quantization_may_stand_in_the_name(name: str, quantization: str) -> None:
    site = {"/v1/models": json.dumps({"data": [{"id": name}]}).encode()}
    found = detect(site)
    assert found.kind == "openai" and found.models[0].quantization == quantization


@pytest.mark.parametrize(
    ("site", "status", "reason"),
    [
        ({}, 0, "nothing answers there"),
        ({}, 401, "wants an API key"),
        ({}, 404, "lists no models"),
        ({"/v1/models": b"<html>"}, 404, "lists no models"),
        ({"/v1/models": b'{"data": []}'}, 404, "lists no models"),
    ],
)
def test_what_is_no_server(site: Site, status: int, reason: str) -> None:
    with pytest.raises(DetectionFailed, match=reason):
        detect(site, status)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(SITES)), st.data())
def test_no_reply_breaks_it(kind: str, data: st.DataObject) -> None:
    site = dict(SITES[kind])
    path = data.draw(st.sampled_from(sorted(site)))
    content = json.loads(site[path]) if path not in ("/metrics", "/health/liveliness") else None
    if isinstance(content, dict):
        key = data.draw(st.sampled_from(sorted(content)))
        content[key] = data.draw(JSON)
        site[path] = json.dumps(content).encode()
    else:
        site[path] = data.draw(st.binary(max_size=60))
    try:
        found = detect(site)
    except DetectionFailed:
        return
    assert found.models and all(model.name and len(model.quantization) <= 200 for model in found.models)


def test_probes_are_sent_once() -> None:
    detection = Detection()
    first = detection.ask()
    assert Probe("/v1/models") in first and len(set(first)) == len(first)
    for probe in first:
        detection.feed(probe, Reply(0))
    assert detection.ask() == []
