"""Threads that share a pipeline: each call is what it is alone, to the bit."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

SAID = "some words."
CALLS = [
    ("what else is there to say", {"guidance_scale": 3.0, "num_head_steps": 0}),
    ("yes, that is what was said", {"guidance_scale": 1.0, "num_head_steps": 2}),
    ("a much longer text than both of the others are", {"guidance_scale": 2.0, "num_head_steps": 4}),
    ("no", {"guidance_scale": 3.0, "num_head_steps": 2, "guidance_end": 0.3}),
]


def wait_for_all(barrier: threading.Barrier):
    """A callback that makes the calls take their steps in turn: none is through a step before all are."""

    def callback(pipe, step, timestep, tensors):
        barrier.wait(timeout=120)
        return tensors

    return callback


def test_four_calls_at_once_say_what_they_say_alone(tiny_pipeline, reference_audio):
    def speak(call, barrier):
        text, kwargs = call
        generator = torch.Generator().manual_seed(len(text))
        callback = wait_for_all(barrier)
        return tiny_pipeline(
            text,
            reference_audio,
            SAID,
            generator=generator,
            callback_on_step_end=callback,
            output_type="mel",
            **kwargs,
        ).audios[0]

    with ThreadPoolExecutor(1) as pool:
        alone = list(pool.map(speak, CALLS, [threading.Barrier(1)] * 4))
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(speak, CALLS, [threading.Barrier(4)] * 4))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_a_call_is_seen_and_stopped_by_its_own_thread_alone(tiny_pipeline, reference_audio):
    other_is_done, seen = threading.Event(), []

    def look(pipe, step, timestep, tensors):
        assert other_is_done.wait(timeout=120)
        seen.append((pipe.guidance_scale, pipe.interrupt, pipe.num_timesteps))
        return tensors

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = True
        return tensors

    def speak(**kwargs):
        tiny_pipeline("yes", reference_audio, SAID, output_type="mel", **kwargs)

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(speak, guidance_scale=2.0, callback_on_step_end=look)
        speak(guidance_scale=1.0, num_inference_steps=3, callback_on_step_end=stop)
        other_is_done.set()
        call.result()
    assert seen == [(2.0, False, 4)] * 4
    assert (tiny_pipeline.guidance_scale, tiny_pipeline.interrupt, tiny_pipeline.num_timesteps) == (1.0, True, 3)


def test_students_are_told_their_own_number_of_steps(make_backbone):
    student = make_backbone(step_counts=[1, 2, 4])
    sample = torch.randn(1, 8, 100, generator=torch.Generator().manual_seed(0))

    def velocity(num_steps):
        return student(sample, 0.5, sample, torch.tensor([[1, 2]]), num_steps=num_steps).velocity

    alone = [velocity(count) for count in (1, 4)]
    barrier = threading.Barrier(2)

    def meet(*_):
        barrier.wait(timeout=120)

    # Both threads are in the embedding of t at once, each with what tells it its number of steps in place.
    student.dit.time_embed.register_forward_pre_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(velocity, (1, 4)))
    assert not torch.equal(*alone)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_a_pipeline_that_has_spoken_can_be_copied(tiny_pipeline, reference_audio):
    tiny_pipeline("yes", reference_audio, SAID, num_inference_steps=1, output_type="mel")
    assert tiny_pipeline.num_timesteps == 1
    assert copy.copy(tiny_pipeline._last_call).state is None
