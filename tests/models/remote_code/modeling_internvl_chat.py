"""The model: patches of an image become tokens, which stand among those of the question."""

import torch
from torch import nn
from transformers import Phi3ForCausalLM, PreTrainedModel

from .configuration_internvl_chat import InternVLChatConfig

IMAGE_START, IMAGE_PLACE, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"


class Embeddings(nn.Module):
    """Patches and a class token, each with its position."""

    def __init__(self, size, width, patch):
        """Of square images with ``size`` pixels along an edge."""
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(1, 1, width))
        self.position_embedding = nn.Parameter(
            0.1 * torch.randn(1, (size // patch) ** 2 + 1, width)
        )
        self.patch_embedding = nn.Conv2d(3, width, patch, patch)

    def forward(self, pixels):
        """[B, 3, size, size] to [B, 1 + patches, width]."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), -1, -1)
        return torch.cat([first, patches], 1) + self.position_embedding


class Attention(nn.Module):
    """Each token looks at all."""

    def __init__(self, width, heads):
        """``heads`` divides ``width``."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens):
        """[B, N, width] to the same."""
        shape = (*tokens.shape[:2], 3, self.heads, -1)
        q, k, v = self.qkv(tokens).view(shape).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers."""

    def __init__(self, width):
        """Twice as wide inside."""
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, tokens):
        """[B, N, width] to the same."""
        return self.fc2(nn.functional.gelu(self.fc1(tokens)))


class Layer(nn.Module):
    """Attention and an MLP, each scaled by a vector of its own."""

    def __init__(self, width, heads):
        """See ``Attention``."""
        super().__init__()
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ls1, self.ls2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, tokens):
        """[B, N, width] to the same."""
        tokens = tokens + self.ls1 * self.attn(self.norm1(tokens))
        return tokens + self.ls2 * self.mlp(self.norm2(tokens))


class Encoder(nn.Module):
    """Layer after layer."""

    def __init__(self, layers, width, heads):
        """See ``Attention``."""
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))

    def forward(self, tokens):
        """[B, N, width] to the same."""
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


class VisionModel(nn.Module):
    """An image's patches, in the light of each other."""

    def __init__(self, image_size, patch_size, hidden_size, num_hidden_layers, num_attention_heads):
        """The keys of ``vision_config``."""
        super().__init__()
        self.embeddings = Embeddings(image_size, hidden_size, patch_size)
        self.encoder = Encoder(num_hidden_layers, hidden_size, num_attention_heads)

    def forward(self, pixels):
        """[B, 3, size, size] to [B, patches, width]; the class token has served."""
        return self.encoder(self.embeddings(pixels))[:, 1:]


class InternVLChatModel(PreTrainedModel):
    """What ``AutoModel`` finds in a checkpoint of this kind."""

    config_class = InternVLChatConfig
    main_input_name = "pixel_values"
    _no_split_modules = ("Layer", "Phi3DecoderLayer")

    def __init__(self, config):
        """With random weights."""
        super().__init__(config)
        vision = config.vision_config
        self.side = vision["image_size"] // vision["patch_size"]
        self.factor = round(1 / config.downsample_ratio)
        joined = vision["hidden_size"] * self.factor**2
        width = config.llm_config.hidden_size
        self.vision_model = VisionModel(**vision)
        self.language_model = Phi3ForCausalLM(config.llm_config)
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(joined), nn.Linear(joined, width), nn.GELU(), nn.Linear(width, width)
        )
        self.num_image_token = (self.side // self.factor) ** 2
        self.img_context_token_id = None
        self.post_init()

    def _init_weights(self, module):
        """Layers keep torch's own beginning."""

    def extract_feature(self, pixel_values):
        """[B, 3, size, size] to [B, tokens of an image, width of the language model]."""
        patches = self.vision_model(pixel_values)
        squares = patches.view(
            len(patches), self.side // self.factor, self.factor, self.side // self.factor,
            self.factor, -1,
        )  # fmt: skip
        return self.mlp1(squares.transpose(2, 3).flatten(3).flatten(1, 2))

    def embed(self, input_ids, pixel_values, place):
        """Embeddings of token ids [B, L], with images where the id is ``place``."""
        embeddings = self.language_model.get_input_embeddings()(input_ids)
        if pixel_values is None:
            return embeddings
        images = self.extract_feature(pixel_values).flatten(0, 1).to(embeddings.dtype)
        where = (input_ids == place)[..., None].expand_as(embeddings)
        return embeddings.masked_scatter(where, images)

    @torch.no_grad()
    def generate(self, pixel_values=None, input_ids=None, attention_mask=None, **settings):
        """New token ids alone."""
        embeddings = self.embed(input_ids, pixel_values, self.img_context_token_id)
        return self.language_model.generate(
            inputs_embeds=embeddings, attention_mask=attention_mask, **settings
        )

    def chat(
        self, tokenizer, pixel_values, question, generation_config, history=None,
        return_history=False, num_patches_list=None, verbose=False,
    ):  # fmt: skip
        """The answer to one question about the tiles [n, 3, size, size] of its images, or none."""
        self.img_context_token_id = tokenizer.convert_tokens_to_ids(IMAGE_PLACE)
        if num_patches_list is None:
            num_patches_list = [] if pixel_values is None else [len(pixel_values)]
        if history is None and pixel_values is not None and "<image>" not in question:
            question = "<image>\n" + question
        turns = [*(history or []), (question, None)]
        prompt = "".join(
            f"<|user|>{asked}<|end|><|assistant|>" + ("" if said is None else f"{said}<|end|>")
            for asked, said in turns
        )
        for tiles in num_patches_list:
            places = IMAGE_PLACE * (self.num_image_token * tiles)
            prompt = prompt.replace("<image>", f"{IMAGE_START}{places}{IMAGE_END}", 1)
        inputs = tokenizer(prompt, return_tensors="pt").to(self.device)
        settings = {**generation_config, "eos_token_id": tokenizer.eos_token_id}
        tokens = self.generate(
            pixel_values, inputs["input_ids"], inputs["attention_mask"], **settings
        )
        answer = tokenizer.batch_decode(tokens, skip_special_tokens=True)[0].strip()
        if verbose:
            print(f"{question} → {answer}")
        return (answer, [*(history or []), (question, answer)]) if return_history else answer
