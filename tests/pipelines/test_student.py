"""A student in the pipeline: its steps, its grid, no guidance, and both forms on disk."""

import json

import pytest
import torch
from hub_server import hub_of_this_process
from tiny import randomise

from dtm_hf import DTMPipeline, DTMScheduler
from dtm_hf.app.arms import Arms
from dtm_hf.app.desk import Voice
from dtm_hf.backbone.student import Student, StudentConfig
from dtm_hf.commands.page import open_models
from dtm_hf.commands.serving import ServiceModel
from dtm_hf.serving.pipeline_speaker import PipelineSpeaker
from dtm_hf.training.objectives.adapters import F5_LAYERS, AdapterNetworks
from dtm_hf.training.objectives.prediction import prediction_for
from dtm_hf.training.objectives.tdm import TDM

TEXT, SAID = "what else is there to say", "some words."
COUNTS = (1, 2, 4)


@pytest.fixture
def networks(make_backbone):
    torch.manual_seed(0)
    networks = AdapterNetworks(make_backbone(), F5_LAYERS, 4, step_counts=COUNTS)
    randomise(networks.trained["student"], 0)
    return networks


@pytest.fixture
def student(networks, backbone):
    sampler = {"num_inference_steps": 4, "time_grid": "sway", "sway_coefficient": -1.0}
    names = {"backbone_name": "tiny", "backbone_fingerprint": backbone.fingerprint, "license": "mit"}
    config = StudentConfig(networks.rank, networks.alpha, list(COUNTS), sampler, **names)
    return Student(config, networks.state())


@pytest.fixture
def pipeline(tiny_pipeline, student):
    return tiny_pipeline.load_student(student)


def speak(pipeline, reference_audio, **kwargs):
    kwargs = {"generator": torch.Generator().manual_seed(0), "output_type": "mel"} | kwargs
    return pipeline(TEXT, reference_audio, SAID, **kwargs).audios[0]


@pytest.mark.parametrize("count", COUNTS)
def test_the_pipeline_samples_as_the_student_was_trained_to(pipeline, networks, reference_audio, count):
    """The same states as the walk of the training, from the same noise: grid, number of steps and branch agree."""
    noticed = {}

    def notice(_pipeline, step, _t, tensors):
        noticed[step] = tensors["latents"]
        return tensors

    forward, first = pipeline.backbone.forward, {}

    def keep(sample, timestep, cond, *args, **kwargs):
        first.setdefault("noise", sample)
        first.setdefault("cond", cond)
        first.setdefault("text_embeds", kwargs["text_embeds"])
        return forward(sample, timestep, cond, *args, **kwargs)

    pipeline.backbone.forward = keep
    speak(pipeline, reference_audio, num_inference_steps=count, callback_on_step_end=notice)
    tdm = TDM(prediction_for(DTMScheduler(4, 0)), COUNTS)

    def network(x, t, **kwargs):
        return networks.student(x, t, **kwargs).velocity

    conditions = {name: first[name] for name in ("cond", "text_embeds")}
    with torch.no_grad():
        rollout = tdm.rollout(network, first["noise"], count, conditions)
    assert len(noticed) == count
    for step, latents in noticed.items():
        torch.testing.assert_close(latents, rollout.states[step + 1], rtol=1e-3, atol=1e-3)


def test_by_default_it_takes_the_most_steps_on_one_branch(pipeline, reference_audio):
    rows = []
    forward = pipeline.backbone.forward

    def counting(sample, *args, **kwargs):
        output = forward(sample, *args, **kwargs)
        rows.append((len(output.velocity), kwargs["num_steps"]))
        return output

    pipeline.backbone.forward = counting
    default = speak(pipeline, reference_audio)
    assert rows == [(1, 4)] * 4
    assert torch.equal(default, speak(pipeline, reference_audio, num_inference_steps=4, guidance_scale=1.0))
    assert (default - speak(pipeline, reference_audio, num_inference_steps=2)).abs().max() > 0.01


def test_what_a_student_was_not_distilled_for_is_refused(pipeline, reference_audio, head):
    with pytest.raises(ValueError, match=r"`num_inference_steps` must be one of \[1, 2, 4\].*but got 3"):
        speak(pipeline, reference_audio, num_inference_steps=3)
    with pytest.raises(ValueError, match="`guidance_scale` must be left out for a student.*but got 2"):
        speak(pipeline, reference_audio, guidance_scale=2.0)
    with pytest.raises(ValueError, match="`head` must be none with a student"):
        DTMPipeline(**dict(pipeline.components) | {"head": head})
    sample = torch.zeros(1, 4, 100)
    with pytest.raises(ValueError, match=r"`num_steps` must be one of \[1, 2, 4\].*but got 3"):
        pipeline.backbone(sample, 0.0, sample, torch.tensor([[1]]), num_steps=3)
    with pytest.raises(ValueError, match="`num_steps` must be one of.*but got none"):
        pipeline.backbone(sample, 0.0, sample, torch.tensor([[1]]))


def test_a_student_of_one_number_of_steps_is_told_nothing(make_backbone):
    plain, student = make_backbone(), make_backbone(step_counts=[4])
    assert student.num_steps_embed is None
    student.load_state_dict(plain.state_dict())
    sample = torch.randn(1, 8, 100, generator=torch.Generator().manual_seed(0))
    inputs = (sample, 0.5, sample, torch.tensor([[1, 2]]))
    assert torch.equal(student(*inputs, num_steps=4).velocity, plain(*inputs).velocity)


# On disk


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_both_forms_load_as_what_was_saved(tiny_pipeline, student, reference_audio, tmp_path, dtype):
    tiny_pipeline.save_pretrained(tmp_path / "base")
    student.save_pretrained(tmp_path / "adapters")
    base = DTMPipeline.from_pretrained(tmp_path / "base", dtype=dtype)
    base.load_student(tmp_path / "adapters").save_pretrained(tmp_path / "merged")
    assert base.backbone.dtype == dtype
    base.set_progress_bar_config(disable=True)
    merged = DTMPipeline.from_pretrained(tmp_path / "merged", dtype=dtype)
    merged.set_progress_bar_config(disable=True)
    assert merged.head is None and merged.backbone.config.name == "tiny-student"
    ours, theirs = merged.backbone.state_dict(), base.backbone.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    # Where a weight lies in memory decides which kernels run.
    tolerance = {torch.float32: 1e-3, torch.bfloat16: 0.5}[dtype]
    assert (speak(merged, reference_audio) - speak(base, reference_audio)).abs().max() < tolerance
    small = sum(path.stat().st_size for path in (tmp_path / "adapters").iterdir())
    assert small < (tmp_path / "merged/backbone/diffusion_pytorch_model.safetensors").stat().st_size


def test_the_card_says_how_a_student_speaks(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "A few-step student" in card and "in 1 or 2 or 4 passes" in card
    assert "| Steps | 1, 2, 4: no others, and no guidance pass |" in card
    assert "Head calls" not in card and "Adapters" not in card


def test_adapters_of_another_backbone_are_refused(tiny_pipeline, student, make_backbone):
    other = DTMPipeline(**dict(tiny_pipeline.components) | {"backbone": make_backbone(seed=3), "head": None})
    with pytest.raises(ValueError, match="distilled from backbone 'tiny'.*fingerprint.*but `backbone` is 'tiny'"):
        other.load_student(student)
    assert other.load_student(student, force=True).backbone.config.step_counts == list(COUNTS)
    wide = DTMPipeline(**dict(tiny_pipeline.components) | {"backbone": make_backbone(dim=128, heads=2), "head": None})
    with pytest.raises(ValueError, match=r"must have shape \(.*\) for this student, but got \("):
        wide.load_student(student, force=True)


def test_adapters_without_a_base_say_how_to_load_them(student, tiny_pipeline, tmp_path):
    student.save_pretrained(tmp_path / "adapters")
    with pytest.raises(ValueError, match="a student's adapters alone.*no `base_model`.*load_student"):
        DTMPipeline.from_pretrained(tmp_path / "adapters")
    with pytest.raises(ValueError, match="must hold a student's adapters"):
        tiny_pipeline.load_student(tmp_path)
    # A base in a folder that is there is as good as one on the Hub.
    tiny_pipeline.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "adapters/config.json").read_text()) | {"base_model": str(tmp_path / "base")}
    (tmp_path / "adapters/config.json").write_text(json.dumps(config))
    loaded = DTMPipeline.from_pretrained(tmp_path / "adapters")
    assert loaded.head is None and loaded.scheduler.config.num_inference_steps == 4


def test_passes_are_counted_of_what_is_served_alone(pipeline):
    speaker = PipelineSpeaker(pipeline)
    assert [speaker.passes(num_inference_steps=count) for count in COUNTS] == list(COUNTS)
    with pytest.raises(
        ValueError, match=r"`num_inference_steps` must be one of \[1, 2, 4\] for this student, but got 3"
    ):
        speaker.passes(num_inference_steps=3)


def test_arms_leave_the_pipelines_of_others_alone(tiny_pipeline, student):
    distilled = DTMPipeline(**tiny_pipeline.components | {"head": None}).load_student(student)
    arms = Arms(tiny_pipeline, distilled)
    for own, shared in ((arms.pipeline, tiny_pipeline), (arms.student, distilled)):
        assert own is not shared and own.backbone is shared.backbone


def test_a_pipeline_that_is_a_student_is_offered_what_it_can_run(pipeline, reference_audio):
    arms = Arms(pipeline)
    assert arms.names == ["student-4", "student-2", "student-1"]
    (spoken,) = arms.run(["student-1"], TEXT, Voice(str(reference_audio), SAID), 0)
    assert spoken.passes == 1 and len(spoken.audio)


@pytest.mark.parametrize("place", ["beside", "beside on the Hub", "named"])
def test_the_page_finds_a_student_and_compares_it(place, tiny_pipeline, student, tmp_path):
    folder = tmp_path / "model"
    tiny_pipeline.save_pretrained(folder)
    student.save_pretrained(tmp_path / "adapters" if place == "named" else folder / "student")
    named = str(tmp_path / "adapters") if place == "named" else None
    with hub_of_this_process(tmp_path / "hub"):
        model = str(folder)
        if place == "beside on the Hub":
            from huggingface_hub import HfApi

            HfApi().create_repo("org/tiny")
            HfApi().upload_folder(repo_id="org/tiny", folder_path=folder)
            model = "org/tiny"
        service = ServiceModel(model=model, student=named, device="cpu")
        speakers, _, arms = open_models(service, service.chosen)
    title = service.title
    assert list(speakers) == ([f"{title}, student", title] if named else [title, f"{title}, student"])
    served = [speakers[name].pipeline.backbone.config.step_counts for name in (title, f"{title}, student")]
    assert served == [None, list(COUNTS)]
    assert {"euler-32", "dtm-4x1", "student-4"} <= set(arms.names)


def test_the_page_of_a_model_without_a_student_has_none(tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path / "model")
    service = ServiceModel(model=str(tmp_path / "model"), device="cpu")
    speakers, _, arms = open_models(service, service.chosen)
    assert list(speakers) == ["model"] and arms.student is None
