"""
Teacher, student and estimator of a distillation: one frozen base with two LoRA adapters, or three full networks.

An adapter costs a few per cent of the base, so the three networks fit where the base alone can be trained on. The base
may be any `torch.nn.Module`: nothing here knows what it computes.

    networks = AdapterNetworks(base, UNET_LAYERS, rank=16, step_counts=(1, 2, 4))
    real = networks.teacher(x, t, encoder_hidden_states=text)  # the arguments of base
    fake = networks.estimator(x, t, encoder_hidden_states=text, num_steps=counts)
    optimizer = torch.optim.AdamW(networks.parameters("student").values())
    plain_copy_of_base.load_state_dict(networks.merged_state_dict())
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dtm_hf.backbone.low_rank import LORA_A, LORA_B, MAX_STEPS, NUM_STEPS_EMBED, add_low_rank

ROLES = ("student", "estimator")

# Regular expressions over the names of linear layers. The DiT of F5-TTS: everything inside a block, and the layers
# between the blocks and the mel.
F5_LAYERS = r".*\.(to_q|to_k|to_v|to_out\.0|ff\.0\.0|ff\.2|attn_norm\.linear)|dit\.(input_embed\.proj|proj_out)"
UNET_LAYERS = r".*\.(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)"
FLUX_LAYERS = (
    r".*transformer_blocks\.\d+\.(attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
    r"|ff\.net\.0\.proj|ff\.net\.2|ff_context\.net\.0\.proj|ff_context\.net\.2|proj_mlp|proj_out)"
)

# Where F5-TTS, the UNets of diffusers, and its Flux and SD3 transformers embed t.
_TIME_MODULES = ("dit.time_embed", "time_embedding", "time_text_embed.timestep_embedder")


class AdapterNetworks:
    """
    The three networks of a distillation as callables: [`~AdapterNetworks.teacher`], [`~AdapterNetworks.student`] and
    [`~AdapterNetworks.estimator`]. Each takes the arguments of `base`; the latter two also `num_steps`, a whole number
    or `(B,)` of them, which moves the embedding of t by a learned vector that starts at zero. With one entry in
    `step_counts` there is nothing to tell apart, no such vector, and the result is a plain LoRA.

    The base stays in evaluation mode: dropout would make the student's states differ from those it is compared by.
    Adapters are float32 whatever the base is: half-precision parameters would lose small updates.

    A block that activation checkpointing runs again in the backward pass must run again as what it was. So a gradient
    that reaches an output of a network first makes that network the active one; a caller has nothing to do.

    Args:
        base (`torch.nn.Module`): frozen here, and changed in place if it gets adapters. Take its fingerprint before.
        target_modules (`str` or `list` of `str`): layers that are adapted, in peft's way: a regular expression over
            whole names, or ends of names. `F5_LAYERS`, `UNET_LAYERS` and `FLUX_LAYERS` are here.
        rank (`int`, defaults to 16): of the adapters.
        alpha (`float`, *optional*): the change is alpha / rank times the product of its factors; `rank` by default.
        step_counts (sequence of `int`, defaults to (4,)): numbers of steps the student serves, 1-4.
        full_parameters (`bool`, defaults to `False`): copies of the base in place of adapters.
        time_module (`str`, *optional*): name of the module that embeds t, with an output `(B, D)`; found by itself in
            F5-TTS and in UNet, Flux and SD3 of diffusers.

    Raises:
        ValueError: for impossible numbers, layers that match nothing, a base that has adapters already, or no
            `time_module` where one is needed.
    """

    def __init__(
        self,
        base: nn.Module,
        target_modules: str | Sequence[str] = F5_LAYERS,
        rank: int = 16,
        alpha: float | None = None,
        *,
        step_counts: Sequence[int] = (MAX_STEPS,),
        full_parameters: bool = False,
        time_module: str | None = None,
    ):
        counts = tuple(sorted(set(step_counts)))
        if not counts or not 1 <= counts[0] <= counts[-1] <= MAX_STEPS:
            raise ValueError(f"`step_counts` must be numbers of steps from 1 to {MAX_STEPS}, but got {step_counts}.")
        alpha = float(rank) if alpha is None else float(alpha)
        if rank < 1 or not alpha > 0:
            raise ValueError(f"`rank` and `alpha` must be greater than 0, but got {rank} and {alpha}.")
        if any(LORA_A in name for name, _ in base.named_modules()):
            raise ValueError(f"`base` must be without adapters, but this {type(base).__name__} has some.")
        self.base, self.rank, self.alpha, self.step_counts = base, rank, alpha, counts
        self.full_parameters = full_parameters
        base.requires_grad_(False).eval()
        time_module = self._find_time_module(time_module)
        self._embeds = self._build_embeds(time_module)
        self._active = "teacher"
        self._num_steps: torch.Tensor | int | None = None
        if full_parameters:
            self._networks = {role: copy.deepcopy(base).requires_grad_(True) for role in ROLES}
        else:
            self._networks = {role: base for role in ROLES}
            self._inject(target_modules)
        self._networks["teacher"] = base
        if self._embeds:
            for network in self.modules:
                network.get_submodule(time_module).register_forward_hook(self._tell_num_steps)
        self._groups = {role: dict(self._named_parameters(role)) for role in ROLES}
        #: Holds what is trained and nothing else, under readable names: what a checkpoint is made of.
        self.trained = nn.ModuleDict({role: _Parameters(group) for role, group in self._groups.items()})

    # The networks

    def teacher(self, *args, **kwargs) -> Any:
        """The base as it was. Never has a gradient."""
        with torch.no_grad():
            return self._call("teacher", args, kwargs, None)

    def student(self, *args, num_steps: torch.Tensor | int | None = None, **kwargs) -> Any:
        """The student; `num_steps` says how many steps it is to take in all."""
        return self._call("student", args, kwargs, num_steps)

    def estimator(self, *args, num_steps: torch.Tensor | int | None = None, **kwargs) -> Any:
        """The score of the student's states; `num_steps` says whose."""
        return self._call("estimator", args, kwargs, num_steps)

    def _call(self, role: str, args: tuple, kwargs: dict, num_steps: torch.Tensor | int | None) -> Any:
        self.activate(role)
        self._num_steps = num_steps
        try:
            output = self._networks[role](*args, **kwargs)
        finally:
            self._num_steps = None
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(lambda _gradient: self.activate(role))
        return output

    def activate(self, role: str) -> None:
        """Make `base` compute as `"teacher"`, `"student"` or `"estimator"`; each call and each backward pass does."""
        if role == self._active:
            return
        self._active = role
        if self.full_parameters:
            return
        for layer in self._layers:
            layer.enable_adapters(role != "teacher")
            if role != "teacher":
                layer.set_adapter(role)
            # peft lets the active adapter alone be trained; here the other one waits for its turn.
            layer.set_requires_grad(ROLES, True)

    # What is trained

    def parameters(self, role: str) -> dict[str, nn.Parameter]:
        """Parameters of `"student"` or `"estimator"` by name: those of the base, with `lora_A` or `lora_B` in it."""
        return self._groups[role]

    @property
    def modules(self) -> list[nn.Module]:
        """The networks in memory, each once: the base, or with `full_parameters` three."""
        return list({id(network): network for network in self._networks.values()}.values())

    def to(self, device: torch.device | str) -> "AdapterNetworks":
        """Move all of it."""
        for network in self.modules:
            network.to(device)
        for embed in self._embeds.values():
            embed.to(device)
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass, where the base can."""
        for network in self.modules:
            network.enable_gradient_checkpointing()

    def state(self, role: str = "student") -> dict[str, torch.Tensor]:
        """Copies of the parameters of a role: what is saved of it."""
        return {name: parameter.detach().clone() for name, parameter in self._groups[role].items()}

    def load_state(self, state: Mapping[str, torch.Tensor], role: str = "student") -> None:
        """
        Take over what [`~AdapterNetworks.state`] gave.

        Raises:
            ValueError: if a name or a shape differs.
        """
        group = self._groups[role]
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        expected = {name: tuple(parameter.shape) for name, parameter in group.items()}
        wrong = sorted(name for name in shapes | expected if shapes.get(name) != expected.get(name))
        if wrong:
            raise ValueError(
                f"The {role} must have {wrong[0]!r} of shape {expected.get(wrong[0])}, but got {shapes.get(wrong[0])} "
                f"({len(wrong)} parameters differ). Were rank, layers and step counts the same?"
            )
        with torch.no_grad():
            for name, tensor in state.items():
                group[name].copy_(tensor)

    def merged_state_dict(self, role: str = "student") -> dict[str, torch.Tensor]:
        """
        Weights of a plain network of the class of `base` that computes what `role` does, by the names that `base` had;
        without the embedding of `num_steps`, which is no part of that class: it is in [`~AdapterNetworks.state`].
        """
        weights = {
            name.replace(".base_layer.", "."): tensor.detach().clone()
            for name, tensor in self._networks[role].state_dict().items()
            if LORA_A not in name and LORA_B not in name
        }
        if not self.full_parameters and role != "teacher":
            add_low_rank(weights, self._groups[role], self.alpha / self.rank)
        return weights

    # Construction

    def _inject(self, target_modules: str | Sequence[str]) -> None:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        if not isinstance(target_modules, str):
            target_modules = list(target_modules)
        for role in ROLES:
            config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=target_modules)
            with warnings.catch_warnings():
                # Says that there is an adapter already: two are wanted.
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                inject_adapter_in_model(config, self.base, adapter_name=role)
        self._layers = [module for module in self.base.modules() if isinstance(module, BaseTunerLayer)]
        for name, parameter in self.base.named_parameters():
            if LORA_A in name or LORA_B in name:
                parameter.data = parameter.data.float()
        self._active = ROLES[0]
        self.activate("teacher")

    def _find_time_module(self, name: str | None) -> str | None:
        if len(self.step_counts) == 1:
            return None
        names = {known for known, _ in self.base.named_modules()}
        found = next((known for known in _TIME_MODULES if known in names), None) if name is None else name
        if found not in names:
            raise ValueError(
                "`time_module` must name the module that embeds t, so that the student can be told its number of "
                f"steps, but got {name!r} for a {type(self.base).__name__}. One number of steps needs none."
            )
        return found

    def _build_embeds(self, time_module: str | None) -> dict[str, nn.Embedding]:
        if time_module is None:
            return {}
        linears = [m for m in self.base.get_submodule(time_module).modules() if isinstance(m, nn.Linear)]
        weight = linears[-1].weight
        return {role: _zero_embedding(weight.shape[0], weight.device) for role in ROLES}

    def _tell_num_steps(self, _module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor | None:
        if self._num_steps is None or self._active == "teacher":
            return None
        counts = torch.as_tensor(self._num_steps, device=output.device).expand(len(output))
        return output + self._embeds[self._active](counts - 1).to(output.dtype)

    def _named_parameters(self, role: str) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self._networks[role].named_parameters():
            if self.full_parameters:
                yield name, parameter
            elif f".{LORA_A}.{role}." in name or f".{LORA_B}.{role}." in name:
                yield name.replace(f".{role}.", "."), parameter
        if self._embeds:
            yield f"{NUM_STEPS_EMBED}.weight", self._embeds[role].weight


class _Parameters(nn.Module):
    """Parameters that live in other modules, by their names there."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        super().__init__()
        for name, parameter in parameters.items():
            # A dot would say that there is a module.
            self.register_parameter(name.replace(".", "/"), parameter)


def _zero_embedding(size: int, device: torch.device) -> nn.Embedding:
    embed = nn.Embedding(MAX_STEPS, size, device=device, dtype=torch.float32)
    nn.init.zeros_(embed.weight)
    return embed


def _tensors(output: Any) -> list[torch.Tensor]:
    """The tensors of an output of a network: itself, or those of a tuple or a dictionary."""
    if isinstance(output, torch.Tensor):
        return [output]
    parts: Callable = output.values if isinstance(output, Mapping) else output.__iter__
    return [part for part in parts() if isinstance(part, torch.Tensor)]
