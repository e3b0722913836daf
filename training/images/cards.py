"""The README of a distilled student, from what `student.json` says."""


def card(facts: dict, scheduler: str, merged: bool = False) -> str:
    """
    Args:
        facts (`dict`): of `student.json`.
        scheduler (`str`): class of the saved scheduler.
        merged (`bool`, defaults to `False`): the folder is a whole pipeline and not a LoRA.
    """
    counts = facts["step_counts"]
    base, steps = facts.get("base_model") or "BASE_MODEL", counts[-1]
    folder = "FOLDER" if merged or len(counts) == 1 else f"FOLDER/steps-{steps}"
    header = "---\nlibrary_name: diffusers\ntags:\n- text-to-image\n- distillation\n- tdm\n"
    header += "" if merged else "- lora\n"
    lines = [
        f"{header}base_model: {base}\n---\n",
        f"# A student of {base} in {_listed(counts)} steps\n",
        "Distilled by trajectory distribution matching ([arXiv 2503.06674](https://arxiv.org/abs/2503.06674)) with "
        f"dtm-hf, at {facts['resolution']} x {facts['resolution']} pixels"
        + (f", {facts['steps_trained']:,} steps" if "steps_trained" in facts else "")
        + ". The teacher's guidance is built in: it takes no guidance pass.\n",
        "```python",
        "import torch",
        f"from diffusers import {facts['pipeline_class']}, {scheduler}",
        "",
        f'folder = "{folder}"',
    ]
    source = "folder" if merged else f'"{base}"'
    lines.append(f"pipe = {facts['pipeline_class']}.from_pretrained({source}, torch_dtype=torch.bfloat16)")
    if not merged:
        lines.append("pipe.load_lora_weights(folder)")
        lines.append(f'pipe.scheduler = {scheduler}.from_pretrained(folder, subfolder="scheduler")')
    call = {"num_inference_steps": steps} | facts["call_arguments"][str(steps)]
    given = ", ".join(f"{name}={value!r}" for name, value in call.items())
    size = f"height={facts['resolution']}, width={facts['resolution']}"
    lines += [f'image = pipe("a red square", {given}, {size}).images[0]', "```\n"]
    if len(counts) > 1:
        lines.append(
            f"`steps-K` holds the student for K = {_listed(counts)} steps; the layers are the same, and one bias "
            "tells the number of steps.\n"
        )
    return "\n".join(lines)


def _listed(counts: list[int]) -> str:
    return " or ".join([", ".join(map(str, counts[:-1])), str(counts[-1])][len(counts) == 1 :])
