"""The "I don't know" answers, built in or the user's own."""

from importlib import resources
from pathlib import Path

from asu_lora.data.examples import refuse_surrogates
from asu_lora.data.reading import read_rows
from asu_lora.errors import DataError


def refusals(file: str | Path | None = None) -> list[str]:
    """Read refusals: one a line in a ``.txt`` file, or the ``answer`` column of any file that rows can be read from.

    Raises:
        DataError: the file is missing, empty or has no such column.
    """
    if file is None:
        with resources.as_file(resources.files("asu_lora.data") / "idontknow.jsonl") as path:
            return [row["answer"] for row in read_rows(path)]
    path = Path(file)
    if path.suffix == ".txt":
        if not path.is_file():
            raise DataError(f'There is no file {file} with "I don\'t know" answers.')
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
        found = [line.strip() for line in text.split("\n") if line.strip()]
    else:
        rows = enumerate(read_rows(file), start=1)
        told = [(number, row["answer"]) for number, row in rows if isinstance(row.get("answer"), str)]
        for number, answer in told:
            refuse_surrogates(answer, "answer", number, str(file))
        found = [answer.strip() for _, answer in told if answer.strip()]
    if not found:
        raise DataError(f"{file} holds no \"I don't know\" answers: one a line in a .txt file, or a column 'answer'.")
    return found
