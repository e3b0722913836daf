"""
Speed and memory against f5_tts, as ratios within one run.

    python benchmarks/speed.py --model embedded|full [--seconds 3] [--repeats 3]

`embedded` is the embedded default, `full` the architecture of F5-TTS v1 Base, both with random weights and with the
heads of their recipes in training/configs: one that says what guidance adds (`head TxS`), one that draws.
Every arm runs in turn, `--repeats` times after a warm-up; medians and their ratios are printed. Memory is the peak of
a fresh process while it runs an arm.
"""

import argparse
import statistics
import subprocess
import sys
import time
import warnings

import model_sizes

ARMS = (
    "f5_tts CFM.sample 32",
    "baseline 32",
    "baseline 4",
    "head 8x1",
    "head 4x1",
    "head 2x1",
    "drawing head 8x2",
    "drawing head 4x2",
)
TEXT = "The train leaves at half past nine."


def make_arms(model: str, seconds: float, divide_steps: int = 1) -> dict:
    """Name -> a call that samples one mel. Memory does not depend on the steps: `divide_steps` spares most of them."""
    import torch

    from dtm_hf import DTMPipeline, DTMScheduler, F5FeatureExtractor, F5Tokenizer, GriffinLimVocoder
    from dtm_hf.backbone.f5_checkpoint import default_vocab
    from dtm_hf.f5_import import import_f5

    torch.manual_seed(0)
    tokenizer = F5Tokenizer(default_vocab())
    # Its output layers start at zero, and multiplying zeros is as slow as anything else: no need to fill them.
    backbone = model_sizes.random_backbone(model, tokenizer.vocab_size)
    guiding, drawing = (model_sizes.random_head(model, backbone, kind).eval() for kind in model_sizes.HEADS)
    extractor = F5FeatureExtractor()
    recording = 0.05 * torch.randn(int(3.0 * 24000), generator=torch.Generator().manual_seed(0))
    prompt_text = "This is what is said there. "

    def pipeline(head, steps, calls):
        steps = max(steps // divide_steps, 1)
        pipe = DTMPipeline(
            backbone=backbone,
            tokenizer=tokenizer,
            feature_extractor=extractor,
            vocoder=GriffinLimVocoder(),
            scheduler=DTMScheduler(num_inference_steps=steps, num_head_steps=calls),
            head=head,
        )
        pipe.set_progress_bar_config(disable=True)
        return lambda: pipe(
            TEXT,
            (recording.numpy(), 24000),
            prompt_text,
            duration_s=seconds,
            generator=torch.Generator().manual_seed(0),
            output_type="mel",
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cfm = import_f5("f5_tts.model.cfm").CFM(transformer=backbone.dit, num_channels=100)

    def f5():
        mel = extractor.log_mel(recording[None])
        return cfm.sample(
            cond=mel,
            text=tokenizer([prompt_text + TEXT]),
            duration=len(recording) // 256 + int(seconds * 24000 / 256),
            steps=max(32 // divide_steps, 1),
            cfg_strength=2.0,
            sway_sampling_coef=-1.0,
            seed=0,
            use_epss=False,
        )

    calls = (
        f5,
        pipeline(None, 32, 0),
        pipeline(None, 4, 0),
        pipeline(guiding, 8, 1),
        pipeline(guiding, 4, 1),
        pipeline(guiding, 2, 1),
        pipeline(drawing, 8, 2),
        pipeline(drawing, 4, 2),
    )
    return dict(zip(ARMS, calls, strict=True))


def peak_memory(model: str, arm: str, seconds: float) -> float:
    """Peak resident MiB of a fresh process while it runs one arm: its model, but not the building of it (Linux)."""
    code = (
        "import pathlib, re, sys; sys.path.insert(0, sys.argv[1]); import speed\n"
        "call = speed.make_arms(sys.argv[2], float(sys.argv[4]), 4)[sys.argv[3]]\n"
        # Building a model needs more than running it: 5 resets the peak that the kernel remembers.
        "pathlib.Path('/proc/self/clear_refs').write_text('5')\n"
        "call()\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])"
    )
    folder = __file__.rsplit("/", 1)[0]
    result = subprocess.run(
        [sys.executable, "-c", code, folder, model, arm, str(seconds)], capture_output=True, text=True, check=True
    )
    return int(result.stdout.splitlines()[-1]) / 1024


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model_sizes.add_options(parser)
    parser.add_argument("--seconds", type=float, default=3.0, help="of the generated sentence")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1, help="rounds that are not counted")
    parser.add_argument("--divide-steps", type=int, default=1, help="take this many times fewer steps in every arm")
    parser.add_argument("--arms", type=int, default=len(ARMS), help="how many of the arms to run, from the first")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory, in fresh processes")
    options = parser.parse_args(argv)
    arms = make_arms(options.model, options.seconds, options.divide_steps)
    arms = dict(list(arms.items())[: options.arms])
    times = {name: [] for name in arms}
    for round_number in range(options.warmup + options.repeats):
        for name, call in arms.items():
            began = time.perf_counter()
            call()
            if round_number >= options.warmup:
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = medians[ARMS[0]]
    print(f"{options.model}, {options.seconds} s generated after a 3 s prompt, {options.repeats} repeats")
    for name, median in medians.items():
        print(f"{name:28s} {median:8.3f} s  {median / reference:6.3f} x f5_tts")
    if options.memory:
        peaks = {name: peak_memory(options.model, name, options.seconds) for name in arms}
        for name, peak in peaks.items():
            print(f"{name:28s} {peak:8.0f} MiB peak  {peak / peaks[ARMS[0]]:6.3f} x f5_tts")


if __name__ == "__main__":
    main()
