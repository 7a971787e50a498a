"""What happens around the steps: re-clustering, evaluation, files."""

from mcn_lightning.callbacks.centroids import CentroidUpdate
from mcn_lightning.callbacks.evaluation import RetrievalEvaluation
from mcn_lightning.callbacks.files import EmbeddingWriter, SaveConfig

__all__ = ["CentroidUpdate", "EmbeddingWriter", "RetrievalEvaluation", "SaveConfig"]
