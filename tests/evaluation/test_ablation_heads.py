"""The variants of the trained ablations: what each head, feature and target must be before it is worth training."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from speech_corpora import row, write_parquet

# At the end: the scripts have names that others may have too.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from ablation_heads import (  # noqa: E402
    DiTBlocksHead,
    OracleTargetObjective,
    concatenate_layers,
    stream_as_features,
)
from ablation_variants import VARIANTS, Variant  # noqa: E402
from grid_search import GridScheduler, coordinate_search, sway_grid  # noqa: E402

TRAINED = [variant for variant in VARIANTS.values() if variant.weights_of is None]
RECIPE = "--baked_guidance_scale 2.0 --baked_guidance_range 1.0 3.0 --baked_guidance_end 0.5 --head_batch_multiplier 2"
SIZES = "--head_hidden_size 32 --head_num_layers 2 --head_architecture conv --num_inference_steps 4"


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_backbone, tokenizer, feature_extractor, vocoder):
    """A saved pipeline whose backbone has as many blocks as the variants ask for."""
    from dtm_hf import DTMPipeline, DTMScheduler

    pipeline = DTMPipeline(
        backbone=make_backbone(depth=4),
        tokenizer=tokenizer,
        feature_extractor=feature_extractor,
        vocoder=vocoder,
        scheduler=DTMScheduler(num_inference_steps=4, num_head_steps=2),
    )
    folder = tmp_path_factory.mktemp("model")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(model):
    from dtm_hf.training.parsing import parse_config

    return parse_config(["--base_model", str(model), "--dataset", "none", *RECIPE.split(), *SIZES.split()])


def test_a_variant_changes_its_fields_and_nothing_else(recipe):
    whole = dataclasses.asdict(recipe)
    for variant in VARIANTS.values():
        changed = dataclasses.asdict(variant.configured(recipe))
        differing = {
            name for section in whole for name in whole[section] if changed[section][name] != whole[section][name]
        }
        assert differing <= set(variant.fields), variant.name
    with pytest.raises(ValueError, match="head_widths"):
        Variant("x", "", {"head_widths": 3}).configured(recipe)


@pytest.mark.parametrize("variant", TRAINED, ids=lambda variant: variant.name)
def test_every_variant_can_be_trained(variant, recipe, mel_batch):
    torch.manual_seed(0)
    components = variant.components(variant.configured(recipe))
    shapes = []
    components.head.register_forward_hook(lambda module, inputs, output: shapes.append(output.displacement.shape))
    output = components.objective.loss(components.trained, mel_batch, torch.Generator().manual_seed(0))
    output.loss.backward()

    draws = components.objective.arguments.head_batch_multiplier
    assert shapes == [(draws * len(mel_batch.mel), *mel_batch.mel.shape[1:])]
    assert torch.isfinite(output.loss) and output.loss > 0
    # The rest starts behind a projection that is zero.
    gradient = components.head.output_proj.weight.grad
    assert torch.isfinite(gradient).all() and gradient.any()
    assert all(parameter.grad is None for parameter in components.backbone.parameters())


@pytest.mark.parametrize("name", ["reference", "dit-1", "dit-2", "layers", "mlp", "unbaked"])
def test_an_untrained_residual_variant_is_plain_euler(name, recipe, reference_audio):
    variant = VARIANTS[name]
    components = variant.components(variant.configured(recipe))
    pipe = dataclasses.replace(components, head=None).pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.head = components.head.eval()

    def speak(head_steps, **guidance):
        texts, seeds = ["hello there", "a longer text than that"], (0, 1)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        output = pipe(
            texts,
            str(reference_audio),
            "what is said",
            num_inference_steps=4,
            num_head_steps=head_steps,
            generator=generators,
            output_type="mel",
            **guidance,
        )
        return output.audios

    # Baked guidance is in the targets: until then the head's branch is all there is.
    guidance = {"guidance_scale": 2.0, "guidance_end": 0.25} if name == "unbaked" else {}
    baseline = speak(0, **(guidance or {"guidance_scale": 1.0}))
    for head_steps in (2, 4):
        for mel, expected in zip(speak(head_steps, **guidance), baseline, strict=True):
            torch.testing.assert_close(mel, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("num_blocks", [1, 2, 4])
def test_copied_blocks_first_say_what_the_backbone_says(num_blocks, make_backbone, make_head, mel_batch):
    backbone = make_backbone(depth=4)
    config = make_head(guidance_scale=2.0, guidance_scale_range=[1.0, 3.0]).config
    head = DiTBlocksHead(config, backbone, num_blocks).eval()
    t, mask = torch.tensor([0.3, 0.7]), mel_batch.attention_mask
    x = torch.randn(mel_batch.mel.shape, generator=torch.Generator().manual_seed(1))
    call = (x, t, torch.zeros_like(x), mel_batch.text_ids, mask)
    plain = backbone(*call)
    stream_as_features(backbone, 4 - num_blocks)
    tapped = backbone(*call)
    assert torch.equal(tapped.velocity, plain.velocity)
    assert not torch.allclose(tapped.features, plain.features)

    ends = []
    head.norm_out.register_forward_hook(lambda module, inputs, output: ends.append(output))
    arguments = {"timestep": t, "velocity": plain.velocity, "attention_mask": mask}
    output = head(tapped.features, torch.randn_like(x), torch.tensor([0.1, 0.8]), **arguments)
    torch.testing.assert_close(ends[0][mask], plain.features[mask], atol=1e-4, rtol=1e-4)
    assert torch.equal(output.displacement, plain.velocity)


def test_a_schedule_prepared_says_what_the_times_say(make_backbone, make_head, mel_batch):
    backbone = make_backbone(depth=2)
    config = make_head(guidance_scale=2.0, guidance_scale_range=[1.0, 3.0]).config
    head = DiTBlocksHead(config, backbone, 1).eval()
    with torch.no_grad():
        for index, parameter in enumerate(head.parameters()):
            generator = torch.Generator().manual_seed(index)
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    h = torch.randn(2, 20, 64, generator=torch.Generator().manual_seed(0))
    y, v = torch.randn(2, 2, 20, 100, generator=torch.Generator().manual_seed(1))
    times, inner = torch.tensor([0.0, 0.4]), torch.tensor([0.0, 0.5, 0.75])
    schedule = head.prepare_schedule(times, inner, 1.5)
    assert schedule.shape == (2, 3, 1, 64)
    asked = {"timestep": times[1], "velocity": v}
    expected = head(h, y, inner[2], guidance_scale=1.5, **asked).velocity
    prepared = head(None, y, inner[2], prepared_states=head.prepare(h), modulation=schedule[1, 2], **asked).velocity
    torch.testing.assert_close(prepared, expected, atol=1e-3, rtol=1e-3)
    other = head(h, y, inner[2], guidance_scale=2.5, **asked).velocity
    assert not torch.allclose(other, expected, atol=1e-2, rtol=1e-2)


def test_features_of_layers_are_the_streams_after_them(make_backbone, mel_batch):
    backbone = make_backbone(depth=4)
    x, seen = torch.randn(mel_batch.mel.shape, generator=torch.Generator().manual_seed(1)), []
    handle = backbone.dit.transformer_blocks[1].register_forward_hook(lambda *call: seen.append(call[-1]))
    call = (x, 0.4, torch.zeros_like(x), mel_batch.text_ids, mel_batch.attention_mask, "both")
    plain = backbone(*call)
    handle.remove()
    assert concatenate_layers(backbone, (2, 4)) == 3 * 64
    for _ in range(2):
        found = backbone(*call)
        assert found.features.shape == (2 * len(x), x.shape[1], 3 * 64)
        assert torch.equal(found.velocity, plain.velocity)
        assert torch.equal(found.features[..., 128:], plain.features)
        torch.testing.assert_close(found.features[..., :64], torch.nn.functional.layer_norm(seen[0], (64,), eps=1e-6))
    with pytest.raises(ValueError, match="layers"):
        concatenate_layers(backbone, (4, 5))
    with pytest.raises(ValueError, match="layers"):
        concatenate_layers(backbone, (2, 1))


def test_the_oracle_target_is_the_velocity_where_the_inner_flow_begins(recipe, backbone, mel_batch):
    from dtm_hf.training.objectives.conditioning import draw_conditions

    arguments = dataclasses.replace(recipe.objective, cond_drop_prob=0.0, audio_drop_prob=0.0)
    objective = OracleTargetObjective(arguments, backbone, torch.tensor([0.0, 0.5]))
    conditions = draw_conditions(mel_batch, arguments, torch.Generator().manual_seed(0))
    conditions.drop_text[1] = True
    t = torch.tensor([0.2, 0.6])
    x_t, *y_0 = torch.randn(3, *mel_batch.mel.shape, generator=torch.Generator().manual_seed(1))
    y_0, mask = torch.cat(y_0), mel_batch.attention_mask
    v = backbone(x_t, t, conditions.cond, mel_batch.text_ids, mask, drop_text=conditions.drop_text).velocity.repeat(
        2, 1, 1
    )
    at_start = objective.posterior_mean(x_t, y_0, t, torch.zeros(4), conditions, mel_batch)
    torch.testing.assert_close(at_start, v, atol=1e-4, rtol=1e-4)
    # Later, Y_s says more than X_t alone.
    later = objective.posterior_mean(x_t, y_0, t, torch.full((4,), 0.5), conditions, mel_batch)
    assert not torch.allclose(later, v, atol=1e-1)


def test_a_grid_is_run_as_given():
    from dtm_hf import DTMScheduler

    even = sway_grid((0.25, 0.5, 0.75))
    scheduler, package = GridScheduler(even, num_head_steps=2), DTMScheduler(num_inference_steps=4)
    torch.testing.assert_close(scheduler.timesteps, package.timesteps, atol=1e-5, rtol=0)
    x = torch.zeros(1, 2, 3)
    scheduler = GridScheduler((0.0, 0.1, 1.0), num_head_steps=0)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.full_like(x, float(t) + 1), t, x).prev_sample
    torch.testing.assert_close(x, torch.full_like(x, 0.1 + 0.9 * 1.1))
    with pytest.raises(ValueError, match="grid"):
        GridScheduler((0.0, 0.5, 0.4, 1.0))
    with pytest.raises(ValueError, match="num_inference_steps"):
        scheduler.set_timesteps(3)


def test_the_search_moves_each_coordinate_to_where_the_score_is_less():
    asked = []

    def score(positions):
        asked.append(positions)
        return (positions[0] - 0.3) ** 2 + (positions[1] - 0.4) ** 2

    best, lowest = coordinate_search(score, (0.2, 0.5), moves=(0.1, 0.05))
    assert best == pytest.approx((0.3, 0.4)) and lowest == pytest.approx(0)
    assert all(0 < a < b < 1 for a, b in asked)
    # A neighbour in the way is not stepped over.
    assert coordinate_search(lambda positions: -positions[0], (0.4, 0.45), moves=(0.1,))[0][0] < 0.45


@pytest.mark.slow
def test_the_script_trains_judges_and_goes_on_where_it_was(model, tmp_path, monkeypatch):
    import trained_ablations
    from accelerate.state import AcceleratorState

    corpus = tmp_path / "corpus"
    write_parquet(corpus, [row(i, 0.5 + 0.05 * i) for i in range(6)])
    write_parquet(corpus, [row(i, 1.2 + 0.05 * i) for i in range(4)], split="validation")
    (corpus / "corpus.json").write_text('{"vocabulary": ["clip"]}')
    config = tmp_path / "recipe.yaml"
    config.write_text(
        "model: {head_hidden_size: 32, head_num_layers: 2, head_architecture: conv}\n"
        "data: {frames_per_batch: 200, num_workers: 0}\n"
        "objective: {baked_guidance_scale: 2.0, baked_guidance_range: [1.0, 3.0], num_inference_steps: 4}\n"
        "optimization: {max_steps: 20, warmup_steps: 4}\n"
    )
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    out = tmp_path / "out"
    argv = ["--model", str(model), "--dataset", str(corpus), "--config", str(config), "-o", str(out)]
    argv += "--seconds 0.2 --limit 2 --search_limit 1 --metrics mel --steps 2".split()
    trained_ablations.main([*argv, "--variants", "dit-1,unbaked,searched-grid"])
    heads = {path.name: path.stat().st_mtime_ns for path in (out / "heads").iterdir()}
    assert set(heads) == {
        f"{name}.{kind}" for name in ("reference", "dit-1", "unbaked") for kind in ("json", "safetensors")
    }
    table = (out / "results.md").read_text()
    assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == [
        "reference",
        "dit-1",
        "unbaked",
        "searched-grid",
    ]
    figures = (out / "figures/records.jsonl").read_text()

    trained_ablations.main([*argv, "--variants", "mlp"])
    assert {name: (out / "heads" / name).stat().st_mtime_ns for name in heads} == heads
    added = (out / "figures/records.jsonl").read_text().removeprefix(figures)
    assert added and all('"mlp-2x2"' in line for line in added.splitlines())
    AcceleratorState._reset_state(reset_partial_state=True)
