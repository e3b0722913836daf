"""
Tiny pipelines of the real classes with random weights, text encoders and tokenizers included, and pictures with texts.

They are saved once and loaded by the tests as a user's would be. Imports are inside the functions: they take seconds.
"""

import io
import json

import pytest
from tiny import randomise

CHARACTERS = "abcdefghijklmnopqrstuvwxyz.,'-"
COLOURS = ("red", "green", "blue", "white", "grey", "pink", "teal", "brown")


def clip_tokenizer():
    from transformers import CLIPTokenizer

    tokens = [*CHARACTERS, *(f"{character}</w>" for character in CHARACTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=16)


def t5_tokenizer():
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=special + [(character, -3.0) for character in CHARACTERS], extra_ids=0)


def clip_encoder(projection: bool = False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    vocabulary = 2 * len(CHARACTERS) + 2
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def t5_encoder(width: int = 16):
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=4 + len(CHARACTERS), **sizes)).eval()


def tiny_vae(channels: int, **config):
    """An eighth of a picture's height and width in SDXL and Flux; a half here."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        **config,
    )


def tiny_unet(**config):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        norm_num_groups=4,
        **config,
    )


def tiny_sd():
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=tiny_vae(4, scaling_factor=0.2),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        unet=tiny_unet(cross_attention_dim=16),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_sdxl():
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    unet = tiny_unet(
        cross_attention_dim=32,
        transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    return StableDiffusionXLPipeline(
        vae=tiny_vae(4, scaling_factor=0.13),
        text_encoder=clip_encoder(),
        text_encoder_2=clip_encoder(projection=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        # The scheduler of SDXL's own repository.
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1
        ),
        add_watermarker=False,
    )


def tiny_flux(guidance_embeds: bool = True):
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    return FluxPipeline(
        vae=tiny_vae(4, scaling_factor=0.36, shift_factor=0.12),
        text_encoder=clip_encoder(),
        text_encoder_2=t5_encoder(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(2, 2, 4),
            guidance_embeds=guidance_embeds,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


def tiny_sd3():
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        vae=tiny_vae(4, scaling_factor=1.5, shift_factor=0.06),
        text_encoder=clip_encoder(projection=True),
        text_encoder_2=clip_encoder(projection=True),
        text_encoder_3=t5_encoder(32),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer(),
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            out_channels=4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


BUILDERS = {"sd": tiny_sd, "sdxl": tiny_sdxl, "flux": tiny_flux, "sd3": tiny_sd3}


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory):
    """Folders of saved pipelines by the name of their family."""
    import torch

    made = {}

    def make(name: str):
        if name not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                pipeline = BUILDERS[name]()
            # As built, the networks' last layers are zero, or so small that nothing would show.
            randomise(pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer, 0)
            made[name] = tmp_path_factory.mktemp("pipelines") / name
            pipeline.save_pretrained(made[name])
        return made[name]

    return make


def png(number: int, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> bytes:
    """A picture of one colour with a brighter part, encoded."""
    from PIL import Image

    image = Image.new(mode, size, (40 + 20 * (number % 8), 30 * (number % 5), 200 - 20 * (number % 7))[: len(mode)])
    image.paste((250, 250, 250)[: len(mode)], (number % size[0] // 2, 0, size[0] // 2, size[1] // 2))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def row(number: int) -> dict:
    return {"image": {"bytes": png(number), "path": None}, "text": f"a {COLOURS[number % 8]} square, number {number}"}


def write_parquet(path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="session")
def image_corpus(tmp_path_factory):
    """
    Parquet shards of two splits; two rows of the training split are bad: the one without a text, and, where images
    are read, the one without an image.
    """
    folder = tmp_path_factory.mktemp("images")
    rows = [row(i) for i in range(20)]
    rows[3]["text"], rows[7]["image"] = "", {"bytes": b"no image", "path": None}
    write_parquet(folder / "train-00000.parquet", rows[:10])
    write_parquet(folder / "train-00001.parquet", rows[10:])
    write_parquet(folder / "validation-00000.parquet", [row(i) for i in range(20, 28)])
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """The same as an `imagefolder`: files and a table."""
    folder = tmp_path_factory.mktemp("imagefolder")
    (folder / "train").mkdir()
    lines = []
    for i in range(6):
        (folder / "train" / f"{i}.png").write_bytes(png(i))
        lines.append(json.dumps({"file_name": f"{i}.png", "text": row(i)["text"]}) + "\n")
    (folder / "train" / "metadata.jsonl").write_text("".join(lines))
    return folder
