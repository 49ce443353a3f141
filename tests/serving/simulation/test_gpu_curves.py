"""The data file of the modelled GPU: complete, with sources, and scaled in the right direction."""

from __future__ import annotations

import pytest

from serving.simulation.gpu_curves import H100, QWEN3_8B, load_curve, load_parameters

CARDS = tuple(load_parameters()["cards"])
MODELS = tuple(load_parameters()["models"])


def test_every_section_names_the_source_of_its_numbers() -> None:
    parameters = load_parameters()
    sections = [*parameters["fits"]]
    for group in ("cards", "models", "servers"):
        sections += parameters[group].values()
    assert all(section["source"] for section in sections)


def test_the_cache_that_was_measured_follows_from_the_memory_within_five_percent() -> None:
    host, card = load_parameters()["servers"]["vllm"], load_parameters()["cards"][H100]
    for model in ("qwen3-0.6b", "qwen3-4b", "qwen3-8b"):
        curve = load_curve(model)
        room = (card["memory"] * host["memory_share"] - host["reserve"]) * 2**30 - curve.weights
        assert room / curve.kv_bytes == pytest.approx(curve.kv_capacity, rel=0.05)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_has_a_curve_on_every_card_whose_memory_it_fits(model: str) -> None:
    measured = load_curve(model)
    for card in CARDS:
        if model == "qwen3-32b" and load_parameters()["cards"][card]["memory"] < 80:
            with pytest.raises(ValueError, match="does not fit"):
                load_curve(model, card)
            continue
        curve = load_curve(model, card)
        assert curve.kv_capacity >= 16_384, card
        if card != H100:
            assert curve.decode_seconds(100, 8, 8000) > measured.decode_seconds(100, 8, 8000)
            assert curve.prefill_seconds(0, 1000) > measured.prefill_seconds(0, 1000)


def test_cards_scale_by_bandwidth_and_compute() -> None:
    slow = load_curve("qwen3-8b", "RTX 3090")
    assert slow.bandwidth / QWEN3_8B.bandwidth == pytest.approx(0.94 / 3.35)
    assert slow.prefill_rate / QWEN3_8B.prefill_rate == pytest.approx(71 / 989)


def test_a_larger_model_takes_longer_in_proportion_to_its_parameters() -> None:
    large = load_curve("qwen3-32b")
    assert QWEN3_8B.prefill_rate / large.prefill_rate == pytest.approx(32.76 / 8.191)
    ratio = large.decode_seconds(100, 1, 0) / QWEN3_8B.decode_seconds(100, 1, 0)
    assert ratio == pytest.approx(32.76 / 8.191, rel=0.1)


def test_an_unknown_name_is_refused() -> None:
    for arguments in (("gpt-9",), ("qwen3-8b", "H9000"), ("qwen3-8b", H100, "tgi")):
        with pytest.raises(KeyError):
            load_curve(*arguments)
