"""Inference without a trainer: load a model, embed sentences, sounds and videos, rank clips."""

from mcn_lightning.inference.embeddings import Embeddings, Ranked, rank, read_embeddings
from mcn_lightning.inference.inputs import Inputs
from mcn_lightning.inference.loading import embed_sentences, load
from mcn_lightning.inference.model import Model

__all__ = ["Embeddings", "Inputs", "Model", "Ranked", "embed_sentences", "load", "rank", "read_embeddings"]
