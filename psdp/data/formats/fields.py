"""Which fields of a record are its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psdp.config import DataConfig
from psdp.errors import DataError


@dataclass(frozen=True)
class Fields:
    """The fields that a document is made of.

    Attributes:
        text: what is learnt, or all there is.
        prompt: that goes before it; None: nothing does.
        between: the text that ends a prompt.
        end: the text that ends a document; None: no text does.
    """

    text: str
    prompt: str | None = None
    between: str = ""
    end: str | None = None

    @classmethod
    def of(cls, data: DataConfig) -> Fields:
        """Return those that settings name."""
        between, end = data.prompt_separator or "", data.document_separator
        return cls(data.text_field, data.prompt_field, between, end)

    @property
    def flags(self) -> Mapping[str, str]:
        """The name of each field, with the flag that says it."""
        return {self.text: "--text-field"} | (
            {} if self.prompt is None else {self.prompt: "--prompt-field"}
        )

    def document(self, values: Sequence[bytes], where: str) -> bytes:
        """Return the values of all fields, in UTF-8 and in the order of ``flags``, as one document.

        Args:
            where: the record is, for an error.

        Raises:
            DataError: with a prompt, that or the document would end before it does.
        """
        if self.prompt is None:
            return values[0]
        text, prompt = values
        between = self.between.encode("utf-8")
        document = prompt + between + text
        if document.index(between) < len(prompt):
            raise DataError(
                f"{where}: '{self.prompt}' holds what is to end it, --prompt-separator "
                f"{self.between!r}; give one that is in no prompt"
            )
        if self.end and self.end.encode("utf-8") in document:
            raise DataError(
                f"{where} holds what is to end it, --document-separator {self.end!r}; give one "
                "that is in no record"
            )
        return document
