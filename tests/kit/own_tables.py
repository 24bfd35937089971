"""Tables as people have them, and answers to them, for the tests."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from tests.kit.small_sets import IMAGE

ROWS = 4
CHOICE = {"question": "Even or odd?", "A": "even", "B": "odd", "answer": ["A", "B", "A", "B"]}
SHORT = {"question": "Which digit?", "answer": ["0", "1", "2", "3"]}
YES_NO = {"question": "Is it even?", "answer": ["Yes", "No", "Yes", "No"]}

Column = str | Sequence[str]


def lines(columns: dict[str, Column], rows: int = ROWS) -> list[list[str]]:
    """Head and rows; a column that is one text stands in every row."""
    cells: dict[str, Column] = {"index": [str(k) for k in range(rows)], "image": IMAGE, **columns}
    body = [
        [text if isinstance(text, str) else text[k] for text in cells.values()]
        for k in range(rows)
    ]  # fmt: skip
    return [list(cells), *body]


def write(file: Path, columns: dict[str, Column], rows: int = ROWS, tab: str = "\t") -> Path:
    """A table without a quote but those that stand in its cells."""
    text = "".join(tab.join(cells) + "\n" for cells in lines(columns, rows))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, newline="")
    return file


def png(size: tuple[int, int] = (32, 32)) -> str:
    """A plain image, as base64."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", size, "teal").save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
