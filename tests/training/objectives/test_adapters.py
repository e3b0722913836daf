"""One base, three networks: which is which, who gets a gradient, and what is saved."""

import pytest
import torch
from tiny import randomise

from dtm_hf.training.objectives.adapters import F5_LAYERS, FLUX_LAYERS, ROLES, UNET_LAYERS, AdapterNetworks
from dtm_hf.training.objectives.prediction import VelocityPrediction
from dtm_hf.training.objectives.tdm import TDM

COUNTS = (1, 2, 4)


@pytest.fixture
def inputs():
    """Two rows of noise with a prompt in the first half, each to be walked in its own number of steps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 24, 100, generator=generator)
    cond = torch.randn(2, 24, 100, generator=generator)
    cond[:, 12:] = 0
    return {"sample": x, "timestep": torch.tensor([0.0, 0.5]), "cond": cond, "text_ids": torch.tensor([[3, 4, 5]] * 2)}


def build(backbone, random_weights=True, **options):
    # peft draws the first factor of an adapter.
    torch.manual_seed(0)
    networks = AdapterNetworks(backbone, F5_LAYERS, 4, step_counts=COUNTS, **options)
    if random_weights:
        for seed, role in enumerate(ROLES):
            randomise(networks.trained[role], seed)
    return networks


def velocity(network, inputs, **more):
    return network(**inputs, **more).velocity


def changed(networks):
    """Roles whose parameters have a gradient other than zero; and the number of parameters without any."""
    found = set()
    for role in ROLES:
        gradients = [parameter.grad for parameter in networks.parameters(role).values()]
        if any(gradient is not None and gradient.any() for gradient in gradients):
            found.add(role)
    return found


both_modes = pytest.mark.parametrize("full_parameters", [False, True], ids=["adapters", "full"])


# Which is which


@both_modes
def test_all_three_begin_as_the_base(make_backbone, inputs, full_parameters):
    base = velocity(make_backbone(), inputs)
    networks = build(make_backbone(), random_weights=False, full_parameters=full_parameters)
    for network in (networks.teacher, networks.student, networks.estimator):
        assert torch.equal(velocity(network, inputs), base)
    assert torch.equal(velocity(networks.student, inputs, num_steps=4), base)


@both_modes
def test_each_computes_with_its_own_weights_whatever_was_called_before(make_backbone, inputs, full_parameters):
    base = velocity(make_backbone(), inputs)
    networks = build(make_backbone(), full_parameters=full_parameters)
    student, estimator = velocity(networks.student, inputs), velocity(networks.estimator, inputs)
    assert torch.equal(velocity(networks.teacher, inputs), base)
    for one, other in ((student, base), (estimator, base), (student, estimator)):
        assert (one - other).abs().max() > 0.01
    assert torch.equal(velocity(networks.student, inputs), student)
    assert torch.equal(velocity(networks.estimator, inputs), estimator)


def test_each_row_is_told_its_number_of_steps_and_the_teacher_none(make_backbone, inputs):
    networks = build(make_backbone())
    counts = torch.tensor([1, 4])
    together = velocity(networks.student, inputs, num_steps=counts)
    for row, count in enumerate(counts.tolist()):
        alone = velocity(networks.student, inputs, num_steps=count)
        torch.testing.assert_close(together[row], alone[row])
        assert (alone - velocity(networks.student, inputs)).abs().max() > 1e-3
    assert torch.equal(velocity(networks.teacher, inputs), velocity(make_backbone(), inputs))


def test_one_number_of_steps_needs_no_vector(make_backbone):
    networks = AdapterNetworks(make_backbone(), F5_LAYERS, 4, step_counts=(4,))
    assert not [name for name in networks.parameters("student") if "lora" not in name]


def test_adapters_stay_in_float32_on_a_bfloat16_base(make_backbone, inputs):
    networks = build(make_backbone().to(torch.bfloat16))
    assert networks.base.dtype == torch.bfloat16
    for role in ROLES:
        assert {parameter.dtype for parameter in networks.parameters(role).values()} == {torch.float32}
    assert velocity(networks.student, inputs, num_steps=2).dtype == torch.bfloat16


# Gradients


@both_modes
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_each_loss_has_a_gradient_to_its_own_group_alone(make_backbone, inputs, full_parameters, checkpointing):
    networks = build(make_backbone(), full_parameters=full_parameters)
    if checkpointing:
        networks.enable_gradient_checkpointing()
    tdm, conditions = TDM(VelocityPrediction(), COUNTS), {"cond": inputs["cond"], "text_ids": inputs["text_ids"]}

    def callable_of(network):
        return lambda x, t, **more: network(x, t, **more).velocity

    student, estimator = callable_of(networks.student), callable_of(networks.estimator)
    rollout = tdm.rollout(student, inputs["sample"], conditions=conditions, generator=torch.Generator().manual_seed(1))
    assert not rollout.states.requires_grad
    tdm.student_loss(student, estimator, callable_of(networks.teacher), rollout, conditions).loss.backward()
    assert changed(networks) == {"student"}
    networks.trained.zero_grad()
    tdm.estimator_loss(estimator, rollout, conditions).loss.backward()
    assert changed(networks) == {"estimator"}
    frozen = [p for n, p in networks.base.named_parameters() if "lora_" not in n]
    assert frozen and all(p.grad is None and not p.requires_grad for p in frozen)


def test_a_recomputed_block_has_the_gradient_of_a_kept_one(make_backbone, inputs):
    """Blocks that are run again in the backward pass must not run as whatever network was called last."""
    gradients = []
    for checkpointing in (False, True):
        networks = build(make_backbone())
        if checkpointing:
            networks.enable_gradient_checkpointing()
        loss = velocity(networks.student, inputs, num_steps=2).square().mean()
        velocity(networks.teacher, inputs)
        with torch.no_grad():
            velocity(networks.estimator, inputs)
        loss.backward()
        assert changed(networks) == {"student"}
        gradients.append({name: p.grad for name, p in networks.parameters("student").items()})
    kept, recomputed = gradients
    for name, gradient in kept.items():
        torch.testing.assert_close(recomputed[name], gradient)


def test_the_hook_is_what_keeps_that_gradient(make_backbone, inputs):
    """Without it a block that is recomputed as the teacher has no gradient, or another number of kept tensors."""
    networks = build(make_backbone())
    networks.enable_gradient_checkpointing()
    loss = velocity(networks.student, inputs).square().mean()
    velocity(networks.teacher, inputs)
    networks.activate = lambda role: None
    try:
        loss.backward()
    except torch.utils.checkpoint.CheckpointError:
        return
    blocks = {n: p.grad for n, p in networks.parameters("student").items() if "blocks" in n and "lora_B" in n}
    assert blocks and any(gradient is None for gradient in blocks.values())


@both_modes
def test_switching_leaves_both_groups_trainable(make_backbone, inputs, full_parameters):
    networks = build(make_backbone(), full_parameters=full_parameters)
    for network in (networks.student, networks.teacher, networks.estimator, networks.teacher, networks.student):
        network(**inputs)
        for role in ROLES:
            assert all(parameter.requires_grad for parameter in networks.parameters(role).values())


def test_the_groups_share_no_parameter_and_are_all_that_is_checkpointed(make_backbone):
    networks = build(make_backbone())
    student, estimator = (networks.parameters(role) for role in ROLES)
    assert student.keys() == estimator.keys() and "num_steps_embed.weight" in student
    assert not {id(p) for p in student.values()} & {id(p) for p in estimator.values()}
    trained = [p for p in networks.base.parameters() if p.requires_grad]
    named = {id(p) for group in (student, estimator) for n, p in group.items() if not n.startswith("num_steps")}
    assert {id(p) for p in trained} == named
    assert len(networks.trained.state_dict()) == 2 * len(student)


# What is saved


@both_modes
def test_merged_weights_compute_what_the_student_does(make_backbone, inputs, full_parameters):
    backbone = make_backbone()
    networks = build(backbone, full_parameters=full_parameters)
    plain = make_backbone(seed=5, step_counts=list(COUNTS))
    weights = networks.merged_state_dict() | {
        "num_steps_embed.weight": networks.state()["num_steps_embed.weight"].detach()
    }
    plain.load_state_dict(weights)
    for count in COUNTS:
        expected = velocity(networks.student, inputs, num_steps=count)
        torch.testing.assert_close(velocity(plain, inputs, num_steps=count), expected, rtol=1e-4, atol=1e-4)
    teacher = make_backbone(seed=6)
    teacher.load_state_dict(networks.merged_state_dict("teacher"))
    assert teacher.fingerprint == make_backbone().fingerprint


@both_modes
def test_a_state_goes_into_another_set_of_networks(make_backbone, inputs, full_parameters):
    one, two = (build(make_backbone(), random_weights, full_parameters=full_parameters) for random_weights in (1, 0))
    two.load_state(one.state())
    assert torch.equal(velocity(one.student, inputs, num_steps=2), velocity(two.student, inputs, num_steps=2))
    assert torch.equal(velocity(two.estimator, inputs), velocity(two.teacher, inputs))


def test_a_state_of_another_rank_is_refused(make_backbone):
    state = AdapterNetworks(make_backbone(), F5_LAYERS, 2, step_counts=COUNTS).state()
    with pytest.raises(ValueError, match=r"must have 'dit.*lora_A.weight' of shape \(4, .*but got \(2, "):
        build(make_backbone()).load_state(state)


# Other architectures


def unet():
    from diffusers import UNet2DConditionModel

    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 2}
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    blocks |= {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "layers_per_block": 1}
    text = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs = {"sample": x, "timestep": torch.tensor([999, 499]), "encoder_hidden_states": text}
    return UNet2DConditionModel(sample_size=8, **sizes, **blocks), UNET_LAYERS, inputs


def flux():
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 8),
    )
    x, text = (torch.randn(*s, generator=torch.Generator().manual_seed(0)) for s in ((2, 6, 4), (2, 3, 8)))
    inputs = {"hidden_states": x, "encoder_hidden_states": text, "pooled_projections": text[:, 0]}
    inputs |= {"timestep": torch.tensor([1.0, 0.5]), "img_ids": torch.zeros(6, 3), "txt_ids": torch.zeros(3, 3)}
    return model, FLUX_LAYERS, inputs


@pytest.mark.parametrize("make", [unet, flux])
@both_modes
def test_the_networks_of_diffusers(make, full_parameters):
    model, layers, inputs = make()
    randomise(model, 0)
    networks = AdapterNetworks(model, layers, 4, step_counts=COUNTS, full_parameters=full_parameters)
    networks.enable_gradient_checkpointing()
    before = networks.teacher(**inputs).sample
    assert torch.equal(networks.student(**inputs, num_steps=4).sample, before)
    for seed, role in enumerate(ROLES):
        randomise(networks.trained[role], seed)
    loss = networks.student(**inputs, num_steps=torch.tensor([1, 4])).sample.square().mean()
    assert torch.equal(networks.teacher(**inputs).sample, before)
    loss.backward()
    assert changed(networks) == {"student"}
    assert networks.parameters("student")["num_steps_embed.weight"].grad[[0, 3]].any(dim=1).all()
    plain = type(model).from_config(model.config)
    plain.load_state_dict(networks.merged_state_dict())
    expected = networks.student(**inputs).sample
    torch.testing.assert_close(plain(**inputs).sample, expected, rtol=1e-3, atol=1e-4)


# Refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_counts": (1, 5)}, r"`step_counts` must be numbers of steps from 1 to 4, but got \(1, 5\)"),
        ({"step_counts": ()}, "`step_counts` must be"),
        ({"rank": 0}, "`rank` and `alpha` must be greater than 0, but got 0"),
        ({"alpha": -1.0}, "`rank` and `alpha`"),
        ({"target_modules": "nothing.here"}, "Target modules nothing.here not found"),
        ({"time_module": "dit.clock", "step_counts": COUNTS}, "`time_module` must name.*but got 'dit.clock'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_networks_are_refused(make_backbone, options, message):
    with pytest.raises(ValueError, match=message):
        AdapterNetworks(make_backbone(), **options)


def test_a_base_with_adapters_is_refused(make_backbone):
    backbone = make_backbone()
    build(backbone)
    with pytest.raises(ValueError, match="`base` must be without adapters"):
        build(backbone)
