"""
Entry point of `dtm-hf`: the commands and their options.

Importing this module is cheap, so that help and refusals come at once: torch, and what stands on it, is imported by
the functions that need it.
"""

from pathlib import Path
from typing import Annotated

import typer

from .console import ReportingGroup
from .options import (
    Durations,
    HeadSteps,
    LocalFilesOnly,
    Model,
    Output,
    PathArgument,
    PathOption,
    PlaceArgument,
    PlaceOption,
    PortFormat,
    PortWeights,
    Precision,
    Revision,
    Runtime,
    Seed,
    Steps,
    StudentAdapters,
    Voice,
)
from .services import app_page, serve

app = typer.Typer(
    name="dtm-hf",
    cls=ReportingGroup,
    help="Text to speech in few steps: a flow head on a frozen F5-TTS backbone.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from dtm_hf import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def options(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the traceback of an error, and the libraries' warnings.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    # Read by ReportingGroup. No docstring: it would replace the help of the application.
    pass


@app.command()
def demo(
    output: Output = Path("out/demo.wav"),
    model: Model = None,
    voice: Voice = None,
    steps: Steps = None,
    head_steps: HeadSteps = None,
    seed: Seed = 0,
) -> None:
    """Speak one sentence in a packaged voice; write a WAV and a picture of its mel spectrogram."""
    from .models import EMBEDDED
    from .requests import DEMO_TEXT, SpeakRequest
    from .speaking import speak

    # Of the embedded weights, the student sounds best; whoever chooses model or steps hears the head.
    plain = model is None and steps is None and head_steps is None and (EMBEDDED / "student").is_dir()

    speak(
        SpeakRequest(
            texts=(DEMO_TEXT,),
            output=output,
            model=model,
            student=str(EMBEDDED / "student") if plain else None,
            voice=voice,
            steps=steps,
            head_steps=head_steps,
            seed=seed,
            picture=True,
        )
    )
    typer.echo(f"It says: {DEMO_TEXT}")


@app.command("speak")
def speak_text(
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="What to say; several are written to a file each. - is standard input.", metavar="TEXT"),
    ] = None,
    text_file: Annotated[
        Path | None, PathOption(help="What to say, from a file in UTF-8, in the place of TEXT.", show_default=False)
    ] = None,
    split_lines: Annotated[bool, typer.Option("--split-lines", help="Each line is a text by itself.")] = False,
    reference_audio: Annotated[
        Path | None,
        PathOption(
            help="Recording of the voice, up to 12 s; for a SpeechT5 also an .npy embedding.",
            show_default="one packaged with the pipeline",
        ),
    ] = None,
    reference_text: Annotated[str | None, typer.Option(help="What is said in the recording.")] = None,
    voice: Voice = None,
    model: Model = None,
    student: StudentAdapters = None,
    steps: Steps = None,
    head_steps: HeadSteps = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Guidance scale: F5-TTS's cfg_strength + 1. Up to 1 only one branch runs.",
            show_default="what is baked into the head, else 3",
        ),
    ] = None,
    guidance_end: Annotated[
        float, typer.Option(min=0, max=1, help="Time from 0 to 1 from which on steps go without guidance.")
    ] = 1.0,
    seed: Seed = 0,
    speed: Annotated[float, typer.Option(help="Above 1 is faster than the recording; at most 10.")] = 1.0,
    duration: Annotated[
        float | None, typer.Option(help="Seconds of the speech of each text.", show_default="by the recording's pace")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="Of a model that draws codes; 0 takes the likeliest.", show_default="0.8"),
    ] = None,
    dtype: Annotated[Precision, typer.Option(help="Type of the weights.")] = Precision.float32,
    device: Annotated[str | None, typer.Option(help="As torch names it.", show_default="cuda if there is one")] = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
    picture: Annotated[bool, typer.Option("--picture", help="Draw its mel spectrogram as a PNG beside it.")] = False,
    play: Annotated[bool, typer.Option("--play", help="Play it, with the player that there is.")] = False,
    runtime: Annotated[
        Runtime,
        typer.Option(help="What it speaks with; onnx and openvino take a port that `export` wrote, and no PyTorch."),
    ] = Runtime.torch,
    output: Output = Path("speech.wav"),
) -> None:
    """Speak TEXT in the voice of a recording, or in one that the model knows."""
    from .requests import SpeakRequest, read_texts

    if runtime is not Runtime.torch:
        from .port_speaking import speak_port as speak
    else:
        from .speaking import speak

    speak(
        SpeakRequest(
            texts=read_texts(texts, text_file, split_lines),
            output=output,
            model=model,
            student=student,
            voice=voice,
            reference_audio=reference_audio,
            reference_text=reference_text,
            steps=steps,
            head_steps=head_steps,
            guidance=guidance,
            guidance_end=guidance_end,
            seed=seed,
            speed=speed,
            duration=duration,
            temperature=temperature,
            dtype=dtype.value,
            device=device,
            revision=revision,
            local_files_only=local_files_only,
            picture=picture,
            play=play,
            runtime=runtime.value,
        )
    )


@app.command()
def export(
    model: Annotated[
        str,
        PlaceArgument(metavar="MODEL", help="Folder or Hub name of a pipeline; dtm-f5-voice is the embedded."),
    ],
    output: Annotated[Path, PathArgument(metavar="OUT", help="Folder to write; must not exist or be empty.")],
    export_format: Annotated[PortFormat, typer.Option("--format", help="Of the graphs.")] = PortFormat.onnx,
    weights: Annotated[PortWeights, typer.Option(help="Of the graphs; fp16 is computed in fp32.")] = PortWeights.fp32,
    student: StudentAdapters = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
) -> None:
    """Write a port of a pipeline: its networks as graphs of a fast runtime, which speaks without PyTorch."""
    from .exporting import export as run

    run(
        model,
        output,
        export_format=export_format.value,
        weights=weights.value,
        student=student,
        revision=revision,
        local_files_only=local_files_only,
    )


@app.command()
def parity(
    model: Annotated[
        str, PlaceArgument(metavar="MODEL", help="Folder or Hub name of a pipeline; dtm-f5-voice is the embedded.")
    ],
    port: Annotated[str, PlaceArgument(metavar="PORT", help="Folder or Hub name of a port of it.")],
    report: Annotated[Path | None, PathOption("--json", help="File for the whole report.")] = None,
    recognizer: Annotated[str | None, typer.Option(help="Who counts wrong words: whisper:base, ...")] = None,
    similarity: Annotated[bool, typer.Option("--similarity", help="Compare the voices too.")] = False,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
) -> None:
    """Check that a port is its source: graph by graph, over the steps, and as speech. Ends with 1 if it is not."""
    from .parity import parity as run

    run(model, port, report, recognizer, similarity, revision, local_files_only)


@app.command()
def info(
    model: Annotated[
        str | None,
        PlaceArgument(
            help="Folder of a pipeline or name of a Hub repository.", show_default="the embedded dtm-f5-voice"
        ),
    ] = None,
    graphs: Annotated[
        bool, typer.Option("--graphs", help="Also what it is exported as, and every weight, as Markdown.")
    ] = False,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
) -> None:
    """Show the parts of a pipeline, their sizes, licences and origin, and how it samples."""
    from .info import show_info
    from .models import choose_model

    show_info(choose_model(model), revision, local_files_only, graphs)


@app.command("convert-f5")
def convert(
    checkpoint: Annotated[
        str, PlaceArgument(metavar="CHECKPOINT", help="Official .safetensors or .pt file, or hf://org/repo/path.")
    ],
    vocab: Annotated[str, PlaceArgument(metavar="VOCAB", help="Its vocab.txt, or hf://org/repo/path.")],
    output: Annotated[Path, PathArgument(metavar="OUT", help="Folder to write; must not exist or be empty.")],
    variant: Annotated[
        str | None,
        typer.Option(help="v1_base, v1_small, base or small.", show_default="told by path and size, else v1"),
    ] = None,
    vocoder: Annotated[
        str | None,
        PlaceOption(
            help="Folder or Hub repository with the files of a Vocos.", show_default="Griffin-Lim, no weights"
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Hub revision of the checkpoint; recorded.")] = None,
    license: Annotated[str, typer.Option(help="Licence of the weights; recorded.")] = "cc-by-nc-4.0",
    ema: Annotated[
        bool, typer.Option("--ema/--no-ema", help="Take the averaged weights where a file holds others too.")
    ] = True,
) -> None:
    """Turn an official F5-TTS checkpoint into a pipeline folder."""
    from .convert import convert_f5

    convert_f5(
        checkpoint,
        vocab,
        output,
        variant=variant,
        vocoder=vocoder,
        revision=revision,
        license=license,
        use_ema=ema,
    )


@app.command()
def benchmark(
    items: Annotated[
        str,
        PlaceOption(
            "--set",
            help="Folder of a corpus; a .csv, .tsv or .jsonl list of reference_audio, reference_text, text and, if "
            "there is one, recording; typed, a hundred lines that people type, or a .txt list of text|kind, in the "
            "packaged voices; or seed-tts-en:FOLDER, seed-tts-zh:FOLDER, librispeech-pc:FOLDER.",
        ),
    ],
    output: Annotated[Path, PathOption("--output", "-o", help="Folder of the results; goes on where it stopped.")],
    model: Model = None,
    student: StudentAdapters = None,
    arms: Annotated[
        str,
        typer.Option(
            help="Ways to sample, with commas between: euler-N, uniform-N, epss-N, midpoint-N, dtm-TxS, oracle-TxS, "
            "renoise-N:C, noise-N:STD, student-N; @SCALE behind one sets its guidance."
        ),
    ] = "euler-32,epss-7,euler-8,euler-4,euler-4@1,dtm-8x2,dtm-4x2",
    seeds: Annotated[str, typer.Option(help="Seeds of the noise, with commas between.")] = "0",
    metrics: Annotated[
        str, typer.Option(help="Judges, with commas between.")
    ] = "wer,cer,mel,similarity,mos,pitch,difference",
    voice: Annotated[
        str | None,
        typer.Option(
            help="Packaged recording for a list of texts alone.", metavar="NAME", show_default="all, in turns"
        ),
    ] = None,
    reference_audio: Annotated[
        Path | None, PathOption(help="Recording of the voice for a list of texts alone.", show_default=False)
    ] = None,
    reference_text: Annotated[str | None, typer.Option(help="What is said in it.", show_default=False)] = None,
    recognizer: Annotated[
        str | None,
        typer.Option(
            help="Who listens: pocketsphinx, whisper:MODEL (a size such as base, or a folder) or paraformer-zh.",
            show_default="what fits the set",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Sentences at most.")] = 100,
    split: Annotated[str, typer.Option(help="Of a corpus: validation to tune, test to report.")] = "validation",
    reference: Annotated[
        str | None, typer.Option(help="Arm to compare with.", show_default="euler-32, else the first")
    ] = None,
    durations: Annotated[
        Durations,
        typer.Option(
            help="Of the speech: by the model's duration predictor if it has one, by F5-TTS's count of bytes, or the "
            "recordings'."
        ),
    ] = Durations.predicted,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences sampled at once.")] = 4,
    speaker_checkpoint: Annotated[
        Path | None,
        PathOption(help="wavlm_large_finetune.pth: judges similarity on the public lists.", show_default=False),
    ] = None,
    repeats: Annotated[int, typer.Option(min=0, help="Counted runs of each arm to time it; 0 times nothing.")] = 5,
    dtype: Annotated[Precision, typer.Option(help="Type of the weights.")] = Precision.float32,
    device: Annotated[str | None, typer.Option(help="As torch names it.", show_default="cuda if there is one")] = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
) -> None:
    """Judge ways to sample side by side: quality with intervals, cost, pictures."""
    from .benchmarking import BenchmarkRequest
    from .benchmarking import benchmark as run

    run(
        BenchmarkRequest(
            model=model,
            student=student,
            items=items,
            split=split,
            voice=voice,
            reference_audio=reference_audio,
            reference_text=reference_text,
            recognizer=recognizer,
            limit=limit,
            arms=arms,
            seeds=seeds,
            metrics=metrics,
            reference=reference,
            durations=durations.value,
            batch_size=batch_size,
            repeats=repeats,
            dtype=dtype.value,
            device=device,
            revision=revision,
            local_files_only=local_files_only,
            speaker_checkpoint=speaker_checkpoint,
            output=output,
        )
    )


app.command()(serve)
app.command("app")(app_page)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
