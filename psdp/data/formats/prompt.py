"""The prompt of a record, and what ends it."""

from __future__ import annotations

from dataclasses import dataclass

from psdp.errors import DataError


@dataclass(frozen=True)
class Prompt:
    """The field of a record that is its prompt, and the text between that and what is learnt."""

    field: str
    separator: str

    def joined(self, prompt: bytes, text: bytes, where: str) -> bytes:
        """Return both, in UTF-8, as one document.

        Args:
            where: the record is, for an error.

        Raises:
            DataError: the prompt would end before.
        """
        end = self.separator.encode("utf-8")
        if (prompt + end).index(end) < len(prompt):
            raise DataError(
                f"{where}: '{self.field}' holds what is to end it, --prompt-separator "
                f"{self.separator!r}; give one that is in no prompt"
            )
        return prompt + end + text
