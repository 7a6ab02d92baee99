"""One row that was scored."""

from typing import Any

# 'set' and 'row' (its number there), 'question' and 'truth', 'answer' where one was asked for, and every metric by its
# name; None where a metric can't be had. Values are texts and numbers, as they stand in the JSON lines of --records.
Record = dict[str, Any]
