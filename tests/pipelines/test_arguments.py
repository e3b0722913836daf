"""Every argument of a call, with what it cannot be: refused by its name, and before a network runs."""

import re

import numpy as np
import pytest
import torch

SAID = "some words."
NAN, INF = float("nan"), float("inf")

WRONG = {
    "text": [None, 3, [], [None], ["yes", 3], "", "  ", ["yes", ""], "...", b"yes", "ab\ud800", ("yes",), {"a": 1}],
    "reference_text": [None, 3, [], "", " ", ["a", "b"], [None], b"a", "...", "c\udfff"],
    "reference_audio": [None, 3, [], "", "absent.wav", (1, 2), {}, {"bytes": b"x"}, np.zeros(9), (np.zeros(9), NAN)],
    "num_inference_steps": ["4", 0, -1, 2.0, True, NAN, [4], 10**9, torch.tensor(4)],
    "num_head_steps": ["2", -1, 2.0, True, 3, 10**9, [2]],
    "guidance_scale": ["3", NAN, INF, -INF, -1.0, 1e9, True, [3.0], 1j],
    "guidance_end": ["1", None, NAN, INF, -0.1, 1.1, [1.0], True],
    "speed": ["1", None, NAN, INF, 0, -1.0, 100, 1e-9, True, [1.0], 10**400],
    "duration_s": ["1", NAN, INF, 0, -1.0, 0.01, 1e12, True, [], [1.0, 2.0], ["1"], [NAN], {"a": 1}],
    "generator": [42, "0", [], [42], ["a"], np.random.default_rng(0), [torch.Generator(), torch.Generator()]],
    "latents": [3, "x", np.zeros((1, 2, 3)), torch.zeros(1, 2, 3), torch.zeros(())],
    "output_type": ["wav", None, 3, [], ["np"]],
    "callback_on_step_end": [3, "x", [print]],
    "callback_on_step_end_tensor_inputs": [None, 3, "latents", ["x"], [None]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
    # Without addresses: the tests have the same names in every process.
    ids=lambda value: re.sub("0x[0-9a-fA-F]+", "0x", repr(value))[:40],
)
def test_a_wrong_argument_is_refused_by_its_name(name, value, tiny_pipeline, reference_audio, monkeypatch):
    def run(*args, **kwargs):
        raise AssertionError("the backbone ran")

    monkeypatch.setattr(tiny_pipeline.backbone, "forward", run)
    arguments = {"text": "yes", "reference_audio": reference_audio, "reference_text": SAID} | {name: value}
    with pytest.raises((TypeError, ValueError, FileNotFoundError)) as caught:
        tiny_pipeline(**arguments)
    message = str(caught.value)
    assert message.startswith((f"`{name}`", "`reference_audio` and `reference_text`")), message
    assert len(message) < 500 and "\n" not in message


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 1, "guidance_scale": np.float32(2), "speed": np.float64(1.5)},
        {"num_inference_steps": 1, "guidance_scale": 0, "duration_s": 1},
        {"num_inference_steps": 1, "duration_s": [None], "generator": [torch.Generator()], "guidance_end": 1},
    ],
)
def test_numbers_of_any_kind_are_numbers(arguments, tiny_pipeline, reference_audio):
    assert len(tiny_pipeline("yes", reference_audio, SAID, **arguments).audios[0]) > 0


def test_a_text_has_to_fit_into_its_duration(tiny_pipeline, reference_audio):
    with pytest.raises(ValueError, match="`duration_s` must leave room for a text of 999 characters, at least 9.99 s"):
        tiny_pipeline("word " * 200, reference_audio, SAID, duration_s=1.0)
