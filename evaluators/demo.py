"""A small real pool and its benchmarks: what a soup needs, made from nothing in under a minute.

The models are LLaVA models of about a million parameters that answer questions about
handwritten digits (scikit-learn's 1797 scans).  A base learns all the questions a little; the
members are that base fine-tuned, each on its own mix of the questions.  The benchmarks ask the
same questions, in VLMEvalKit's wording, about digits that no model was trained on.
"""

from __future__ import annotations

import base64
import copy
import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

Report = Callable[[str, int, int], None]

SIDE = 32  # pixels along an edge of an image; the scans are 8, so a scan's pixel is 4 of these
PATCH = 8  # pixels along an edge of a vision patch: 16 patches to an image
ROWS = 300  # rows of a benchmark
BATCH = 48
INIT = 0.1  # spread of the initial weights: the usual 0.02 learns slowly in layers this narrow
LETTERS = "ABC"  # of options
CHOICE_TAIL = "Please select the correct answer from the options above. \n"
WORD_TAIL = "\nAnswer the question using a single word or phrase."
SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<user>", "<assistant>"]
TEMPLATE = (
    "<s>{% for message in messages %}{{ '<' + message.role + '>' }}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% if message.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SETTINGS = """\
# Which benchmarks choose the soup, and which one only reports on it afterwards.
# The answers are a letter, a word or a digit: a few tokens are plenty.
bench = ["benchmarks/parity.tsv", "benchmarks/compare.tsv", "benchmarks/digit.tsv"]
holdout = ["benchmarks/range.tsv"]
max-new-tokens = 4
"""


class Task(NamedTuple):
    """One kind of question about a digit.

    `question` may hold "{}", which stands for each of `fills` in turn; `answer` takes the digit
    and the fill.  With `options` the question is multiple choice and the answer is a letter.
    """

    name: str
    question: str
    answer: Callable[[int, int], str]
    options: tuple[str, ...] = ()
    fills: tuple[int, ...] = (0,)
    word: bool = False

    def prompt(self, fill: int) -> str:
        """The text VLMEvalKit puts after the image for this kind of benchmark."""
        question = self.question.format(fill)
        if self.options:
            lines = "".join(f"{LETTERS[i]}. {text}\n" for i, text in enumerate(self.options))
            return f"Question: {question}\nOptions:\n{lines}{CHOICE_TAIL}"
        return question + (WORD_TAIL if self.word else "")


class Recipe(NamedTuple):
    """A fine-tune: how often each task is drawn, and how it is trained.

    `mix` weighs the tasks in the order of TASKS; `shard` is the largest weight file to write.
    """

    name: str
    mix: tuple[int, int, int, int]
    rate: float = 1e-3
    steps: int = 50
    shard: str = "5GB"


class Question(NamedTuple):
    """Token ids of a prompt, image places included, and of its answer (one) for digits 0..9."""

    prompt: list[int]
    answers: list[int]


class Data(NamedTuple):
    """What is trained on: `pixels` (n, 3, SIDE, SIDE), `labels` 0..9 (n,), questions by task."""

    pixels: torch.Tensor
    labels: torch.Tensor
    questions: list[list[Question]]


# The last one is the hold-out: its benchmark, over digits of its own, takes no part in choosing.
TASKS = (
    Task(
        "parity", "Is the digit in the image even or odd?", lambda d, _: "AB"[d % 2],
        ("even", "odd"),
    ),
    Task(
        "compare", "Is the digit in the image greater than {}?",
        lambda d, k: "Yes" if d > k else "No", fills=(2, 3, 4, 5, 6),
    ),
    Task("digit", "Which digit is in the image?", lambda d, _: str(d), word=True),
    Task(
        "range", "In which range is the digit in the image?", lambda d, _: "AAABBBCCCC"[d],
        ("zero to two", "three to five", "six to nine"),
    ),
)  # fmt: skip

BASE = Recipe("base", (1, 1, 1, 1), steps=100)
POOL = (
    Recipe("parity", (5, 1, 1, 2)),
    Recipe("compare", (1, 5, 1, 2), shard="1MB"),
    Recipe("digit", (1, 1, 5, 2)),
    Recipe("parity-compare", (3, 3, 1, 2)),
    Recipe("compare-digit", (1, 3, 3, 2), shard="500KB"),
    Recipe("digit-only", (0, 0, 1, 0)),
)


def build(directory: Path, report: Report = lambda what, done, total: None) -> None:
    """Write base, members, benchmarks and soup.toml into `directory`.

    The same machine gets the same weights every time; the caller's random state and thread
    count are left as they were.  `report` hears (what, done, total), counted in models.
    """
    from sklearn.datasets import load_digits

    report("preparing the images", 0, 1 + len(POOL))
    digits = load_digits()
    pictures = [picture(scan) for scan in digits.images]
    labels = digits.target.tolist()
    with settled(seed=0):
        order = torch.randperm(len(pictures)).tolist()
        chosen, held, train = order[:ROWS], order[ROWS : 2 * ROWS], order[2 * ROWS :]
        (directory / "benchmarks").mkdir()
        for task in TASKS:
            rows = [(pictures[i], labels[i]) for i in (held if task is TASKS[-1] else chosen)]
            write_benchmark(directory / "benchmarks" / f"{task.name}.tsv", task, rows)
        (directory / "soup.toml").write_text(SETTINGS, encoding="utf-8")
        processor = make_processor()
        pixels = processor.image_processor([pictures[i] for i in train], return_tensors="pt")
        questions = [make_questions(processor, task, pictures[0]) for task in TASKS]
        data = Data(pixels["pixel_values"], torch.tensor(labels)[train], questions)
        write_models(directory, processor, data, report)


def write_models(directory: Path, processor: Any, data: Data, report: Report) -> None:
    """Train and write the base, then each member from the base as it was written."""
    model = make_model(processor)
    start = model.state_dict()
    for number, recipe in enumerate((BASE, *POOL)):
        report(f"training {recipe.name}", number, 1 + len(POOL))
        model.load_state_dict(start)
        finetune(model, recipe, data, seed=1 + number)
        place = directory / "base" if recipe is BASE else directory / "ckpts" / recipe.name
        written = save(model, processor, place, recipe.shard)
        start = written if recipe is BASE else start
    report("done", 1 + len(POOL), 1 + len(POOL))


@contextmanager
def settled(seed: int) -> Iterator[None]:
    """Fix torch's seed, threads and gradients, hide progress bars; put it all back at the end."""
    bars: Any = import_module("transformers.utils.logging")
    shown, threads = bars.is_progress_bar_enabled(), torch.get_num_threads()
    # Sums depend on the number of threads, and small ones wait for each other on a busy machine.
    torch.set_num_threads(1)
    bars.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
        if shown:
            bars.enable_progress_bar()


def picture(scan: Any) -> Any:
    """An 8x8 scan with values 0..16 as a SIDE x SIDE RGB image."""
    from PIL import Image

    small = Image.fromarray((scan * 255 / 16).round().astype("uint8"))
    return small.resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("RGB")


def write_benchmark(path: Path, task: Task, rows: list[tuple[Any, int]]) -> None:
    """Write one benchmark in VLMEvalKit's TSV format, its rows given as (image, digit)."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["index", "image", "question", *LETTERS[: len(task.options)], "answer"])
        for index, (image, digit) in enumerate(rows):
            fill = task.fills[index % len(task.fills)]
            answer = task.answer(digit, fill)
            # VLMEvalKit's default metric for words counts the other people who gave an answer, up
            # to three: a single answer would never score, four equal ones score 0 or 1.
            given = str([answer] * 4) if task.word else answer
            question = [png(image), task.question.format(fill), *task.options]
            table.writerow([index, *question, given])


def png(image: Any) -> str:
    """An image as base64 of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def make_processor() -> Any:
    """Image processor, tokenizer and chat template in one, as AutoProcessor loads them."""
    transformers: Any = import_module("transformers")
    size = {"height": SIDE, "width": SIDE}
    images = transformers.CLIPImageProcessor(
        size=size, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    # The class token is counted among the image's, and then "default" leaves it out.
    tokens = {"num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    return transformers.LlavaProcessor(
        images, make_tokenizer(), patch_size=PATCH, chat_template=TEMPLATE, **tokens
    )


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer: it has a token for any text, and few for the prompts here.

    Merges stay inside a line and never take in a numeral, so each line of a known prompt
    comes to be one or a few tokens, and training is quick.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    transformers: Any = import_module("transformers")
    tokenizer = Tokenizer(models.BPE())
    lines = pre_tokenizers.Split("\n", "merged_with_previous")
    numerals = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([lines, numerals, in_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    prompts = [task.prompt(fill) for task in TASKS for fill in task.fills]
    tokenizer.train_from_iterator([*prompts, "Yes", "No"], trainer)
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        extra_special_tokens={"image_token": "<image>"},
        additional_special_tokens=["<user>", "<assistant>"],
        model_input_names=["input_ids", "attention_mask"],
        padding_side="left",  # generation continues a row at its right end
        **named,
    )


def make_model(processor: Any) -> Any:
    """A LLaVA model with random weights."""
    transformers: Any = import_module("transformers")
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ends = {name: getattr(processor.tokenizer, name) for name in names}
    shape = {"initializer_range": INIT, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = transformers.CLIPVisionConfig(
        hidden_size=96, intermediate_size=192, image_size=SIDE, patch_size=PATCH, **shape
    )
    text = transformers.LlamaConfig(
        vocab_size=len(processor.tokenizer), hidden_size=160, intermediate_size=320, **shape, **ends
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=processor.image_token_id,
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-1,
        initializer_range=INIT,
        **ends,
    )
    model = transformers.LlavaForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(do_sample=False, **ends)
    return model


def make_questions(processor: Any, task: Task, image: Any) -> list[Question]:
    """A task as token ids, a question per fill, made as inference makes them."""
    tokenizer = processor.tokenizer
    questions = []
    for fill in task.fills:
        parts = [{"type": "image", "image": image}, {"type": "text", "text": task.prompt(fill)}]
        asked = processor.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=True, add_generation_prompt=True
        )
        answers = [task.answer(digit, fill) for digit in range(10)]
        questions.append(Question(asked[0], tokenizer.convert_tokens_to_ids(answers)))
    return questions


def finetune(model: Any, recipe: Recipe, data: Data, seed: int) -> None:
    """Train a model in place: AdamW with a short warm-up, then a cosine down to nothing."""
    torch.default_generator.manual_seed(seed)
    model.train()
    steps, rate = recipe.steps, recipe.rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    for _ in range(steps):
        loss = batch_loss(model, recipe, data)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def batch_loss(model: Any, recipe: Recipe, data: Data) -> Any:
    """Cross-entropy of the answers in one random batch, each answer with its end token."""
    rows = torch.randint(len(data.labels), (BATCH,))
    chats = ask(recipe, data, data.labels[rows].tolist(), model.config.eos_token_id)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(chat) for chat in chats], batch_first=True)
    # Padding is on the right here, out of sight of a causal model: no attention mask is needed.
    hidden = model.model(input_ids=ids, pixel_values=data.pixels[rows]).last_hidden_state
    ends = torch.tensor([[len(chat) - 2, len(chat) - 1] for chat in chats])
    logits = model.lm_head(hidden[torch.arange(BATCH)[:, None], ends - 1])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.gather(1, ends).flatten())


def ask(recipe: Recipe, data: Data, digits: list[int], end: int) -> list[list[int]]:
    """Token ids of a question and its answer for each digit, its task drawn by the recipe."""
    tasks = torch.multinomial(torch.tensor(recipe.mix).float(), len(digits), replacement=True)
    chats = []
    for task, digit in zip(tasks.tolist(), digits, strict=True):
        questions = data.questions[task]
        question = questions[int(torch.randint(len(questions), ()))]
        chats.append([*question.prompt, question.answers[digit], end])
    return chats


def save(model: Any, processor: Any, directory: Path, shard: str) -> Any:
    """Write a complete model directory in bfloat16, and return the rounded weights."""
    # A copy: there and back would also round the rotary frequencies, which are not saved.
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    rounded.save_pretrained(directory, max_shard_size=shard)
    processor.save_pretrained(directory)
    return rounded.state_dict()
