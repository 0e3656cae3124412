"""Fusion-in-Decoder (Izacard and Grave 2021): encoded one by one, read together."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import model_validator

from rag_experiments.model.rag import Rag

if TYPE_CHECKING:
    from rag_experiments.model.rag_model import RagModel


class Fusion(Rag):
    """The decoder attends to the encoder's states of all passages at once."""

    marginalizes: ClassVar[bool] = False

    @model_validator(mode="after")
    def _check(self) -> Fusion:
        if self.generator.kind != "encoder_decoder":
            raise ValueError(
                f"generator.kind: {self.generator.kind!r} does not fit model=fusion, which needs "
                "'encoder_decoder'; try model/generator=flan_t5_small or model=concat"
            )
        return self

    def _network(self) -> type[RagModel]:
        from rag_experiments.model.marginalization import FusionModel

        return FusionModel
