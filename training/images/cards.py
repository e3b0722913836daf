"""The README of a distilled student, from what `student.json` says."""


def card(facts: dict, scheduler: str, merged: bool = False) -> str:
    """
    Args:
        facts (`dict`): of `student.json`.
        scheduler (`str`): class of the saved scheduler.
        merged (`bool`, defaults to `False`): the folder is a whole pipeline and not a LoRA.
    """
    counts, base = facts["step_counts"], facts.get("base_model")
    sections = [
        _header(base, merged),
        f"# A student of {base or 'a text-to-image pipeline'} in {_listed(counts)} steps",
        "Distilled by trajectory distribution matching ([arXiv 2503.06674](https://arxiv.org/abs/2503.06674)) with "
        f"dtm-hf: {facts.get('steps_trained', 0):,} optimizer steps at {facts['resolution']} x {facts['resolution']} "
        "pixels. The teacher's guidance is built in: no pass without prompt is taken.",
        _example(facts, scheduler, merged),
    ]
    if len(counts) > 1:
        sections.append(f"`steps-K` holds the student for K = {_listed(counts)}; they differ in one bias alone.")
    if facts.get("results"):
        rows = "\n".join(f"| {name.replace('_', ' ')} | {value:.4g} |" for name, value in facts["results"].items())
        sections.append(f"| measured on the validation split | |\n|---|---|\n{rows}")
    return "\n\n".join(sections) + "\n"


def _header(base: str | None, merged: bool) -> str:
    lines = ["library_name: diffusers", "tags:", "- text-to-image", "- distillation", "- tdm"]
    lines += [] if merged else ["- lora"]
    lines += [] if base is None else [f"base_model: {base}"]
    return "\n".join(["---", *lines, "---"])


def _example(facts: dict, scheduler: str, merged: bool) -> str:
    counts, kind = facts["step_counts"], facts["pipeline_class"]
    folder, steps = facts.get("repo_id", "FOLDER"), counts[-1]
    below = "" if len(counts) == 1 else f"steps-{steps}"
    if merged:
        place = f"{folder}/{below}".rstrip("/")
        lines = ["import torch", f"from diffusers import {kind}", ""]
        lines += [f'pipe = {kind}.from_pretrained("{place}", torch_dtype=torch.bfloat16)']
    else:
        base = facts.get("base_model") or "BASE_MODEL"
        subfolder = f', subfolder="{below}"' if below else ""
        lines = ["import torch", f"from diffusers import {scheduler}, {kind}", ""]
        lines += [f'pipe = {kind}.from_pretrained("{base}", torch_dtype=torch.bfloat16)']
        lines += [f'pipe.load_lora_weights("{folder}"{subfolder})']
        inside = f"{below}/scheduler".lstrip("/")
        lines += [f'pipe.scheduler = {scheduler}.from_pretrained("{folder}", subfolder="{inside}")']
    size = {"height": facts["resolution"], "width": facts["resolution"]}
    call = {"num_inference_steps": steps} | facts["call_arguments"][str(steps)] | size
    given = ", ".join(f"{name}={value!r}" for name, value in call.items())
    lines += ['pipe.to("cuda")', f'image = pipe("a red square", {given}).images[0]']
    return "\n".join(["```python", *lines, "```"])


def _listed(counts: list[int]) -> str:
    *others, last = counts
    return f"{', '.join(map(str, others))} or {last}" if others else str(last)
