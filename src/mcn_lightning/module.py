"""The LightningModule: it wires network, losses and clustering together and holds no mathematics of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mcn_lightning.batch import ClipBatch
from mcn_lightning.checks import (
    check_sizes,
    check_targets,
    check_terms,
    check_trainable,
    leave_epoch_open,
    without_absent,
)
from mcn_lightning.clustering import (
    MEAN,
    ClusteringConfig,
    KMeansReport,
    Step,
    Target,
    clustering_class,
    make_clustering,
)
from mcn_lightning.config import as_config
from mcn_lightning.distributed import Presence, reach, world
from mcn_lightning.exchange import exchange, features_of, masks_of, present_embeddings
from mcn_lightning.losses import (
    ClusterLoss,
    FiniteWatch,
    LossConfig,
    check_state,
    make_contrastive,
    reconstruction_loss,
)
from mcn_lightning.models import MCN, MCNOutput, NetworkConfig
from mcn_lightning.models.options import OF_DATA, not_chosen
from mcn_lightning.models.size import check_memory
from mcn_lightning.models.weights import read_weights
from mcn_lightning.optimizer import OptimizerConfig, make_optimizer


class MCNModule(LightningModule):
    """Train MCN: contrastive loss over the pairs of modalities, cluster contrast, reconstruction.

    On several processes, losses and clusters are those of the clips of all of them together. The module brings the
    callbacks of a run with it (k-means, evaluation on held-out clips, speed, saving), as far as the trainer has none of
    their class. In Python, every option may also be a plain dict.

    Args:
        network: shape of the network; where there are weights to start from, their shape takes its place. Modalities
            and sizes of the inputs that are left out are those of the data module.
        loss: losses and their weights.
        clustering: queue and k-means.
        optimizer: optimiser and learning rate.
        weights: file of weights to start from: a state dict in the naming of the authors' releases (MCN,
            AVLnet-Text-Tri, AVLnet, AVLnet-Text-Fused), a checkpoint of this project, or a state dict of its module or
            network (.safetensors too); none for random weights.

    Raises:
        WeightsError: if the file does not hold the weights of a network, or of one for other inputs.
        InputError: if a checkpoint has weights of another size, or the options of the losses exclude one another.
    """

    def __init__(
        self,
        network: NetworkConfig = NetworkConfig(),  # noqa: B008 (frozen)
        loss: LossConfig = LossConfig(),  # noqa: B008 (frozen)
        clustering: ClusteringConfig = ClusteringConfig(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.weights_file = weights
        start = None if weights is None else read_weights(weights)
        self._free = not_chosen(network) if start is None else ()
        self.network_config = as_config(NetworkConfig, network, "--model.network")
        if start is not None:
            self.network_config = start.follow(self.network_config)
        self.loss_config = as_config(LossConfig, loss, "--model.loss")
        self.clustering_config = as_config(ClusteringConfig, clustering, "--model.clustering")
        self.optimizer_config = as_config(OptimizerConfig, optimizer, "--model.optimizer")
        self._build()
        self.cluster_reports: dict[str, KMeansReport] = {}
        self.step_clips = 0  # clips of the last step on all processes
        self.step_loss: Tensor | None = None  # its loss; none where no video of it could be read
        self._recluster: Literal["no", "warm", "fresh"] = "no"
        self._watch = FiniteWatch()
        self._idle = self._lacking = False
        if start is not None:
            start.load(self.network)
            if getattr(rank_zero_only, "rank", 0) == 0:
                print(f"--model.weights {start.describe(self.network_config)}", flush=True)

    def _build(self) -> None:
        """Build the parts that the options describe, and keep the options for checkpoints.

        Raises:
            InputError: if the options of the losses exclude one another.
        """
        network, config = self.network_config, self.clustering_config
        given = {"network": network, "loss": self.loss_config, "clustering": config, "optimizer": self.optimizer_config}
        # loggers have the options by the command's own names, from the command
        self.save_hyperparameters({name: dataclasses.asdict(each) for name, each in given.items()}, logger=False)
        kind, names = clustering_class(config), network.embeddings
        check_memory(network, 0 if kind is None else kind.queue_bytes(config, network.embedding_dim, names))
        self.network = MCN(network)
        self.contrastive = make_contrastive(self.loss_config.contrastive)
        self.cluster_loss = ClusterLoss(self.loss_config.cluster)
        self.clustering = make_clustering(config, network.embedding_dim, names)
        check_terms(network, self.loss_config, config, self.clustering)

    def configure_callbacks(self) -> list[Callback]:
        """Bring what every run needs and the trainer does not have; take the sizes of the inputs from the data.

        Lightning calls this first of all when it has module and data. Callbacks that the user gave stay.

        Raises:
            InputError: if the network was built for inputs of another size.
        """
        from mcn_lightning.defaults import default_callbacks

        self._follow_data()
        return default_callbacks(self.trainer, self)

    def _follow_data(self) -> None:
        """Build the network again where nobody has chosen the sizes of its inputs, and those of the data are others."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "input_sizes"):
            return
        config = self.network_config.follow_data(data.input_sizes(), self._free)
        self._free = ()
        if config != self.network_config:
            self.network_config = config
            self._build()
            sizes = ", ".join(f"{name} {getattr(config, name)}" for name in OF_DATA)
            rank_zero_info(f"the network follows the data: {sizes}")

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights, after which no size is free any more."""
        self._free = ()
        return super().load_state_dict(*args, **kwargs)

    def setup(self, stage: str) -> None:
        """Take the frozen word vectors from the data.

        Raises:
            InputError: if a network of one embedding should be trained, or with pairs of embeddings that it lacks.
        """
        if stage == "fit":
            check_trainable(self.network_config, self.loss_config)
        data = getattr(self.trainer, "datamodule", None)
        if self.network.text is not None and data is not None and (embedder := data.text_embedder()) is not None:
            self.network.text.set_embedder(embedder.to(self.device))
        # what all processes have alike (queue, centroids, word vectors) stays out of every step's broadcast
        alike = ("clustering.", "network.text.embedder.")
        names = [name for name, _ in self.named_buffers() if name.startswith(alike)]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    def forward(self, batch: ClipBatch) -> MCNOutput:
        """Embed a batch of B clips, as it comes from a loader or made ready."""
        batch = batch.ready()
        return self.network(batch.video, batch.audio, batch.audio_frames, batch.words, batch.present)

    def request_clustering(self, fresh: bool = False) -> None:
        """Run k-means in the next training step, on the queue and that step's clips.

        Args:
            fresh: start from random rows instead of the present centroids.
        """
        self._recluster = "fresh" if fresh else "warm"

    def clustered_features(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return what is clustered of a batch: embeddings ``(B, D)`` by modality, and their mean; without gradient.

        Of an embedding that some clips lack, the rows of the others.
        """
        with torch.no_grad():
            output = self(batch)
            features = {name: feature.float() for name, feature in features_of(output).items()}
            masks = masks_of(output)
        return (
            features if masks is None else {name: rows[masks[name].to(rows.device)] for name, rows in features.items()}
        )

    def fit_centroids(self, features: Mapping[str, Sequence[Tensor]], fresh: bool) -> dict[str, KMeansReport]:
        """Run k-means on rows that lie on all processes, and take its centroids.

        Args:
            features: this process's rows of each feature, in any number of tensors ``(n, D)``.
            fresh: start anew instead of from the present centroids.

        Returns:
            A report for each feature that was clustered.
        """
        return {} if self.clustering is None else self.clustering.fit(features, fresh)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor | None:
        """Return the loss of one batch; nothing when no video of it could be read on any process."""
        counts, present = exchange(batch, self.network_config, self.device)
        self._lacking = present is not None
        self.step_clips, self.step_loss = sum(counts), None
        if self.step_clips == 0:
            return self._no_step()
        output = self(batch) if len(batch) else self.network.nothing(self.device)  # others wait for this process
        terms = self._loss_terms(output, batch, counts, present)
        self.watch_terms(terms, batch.ids)
        if not terms:  # cluster contrast alone, while k-means still waits for K clips
            return self._no_step()
        loss = torch.stack(list(terms.values())).sum()
        self.step_loss = loss.detach()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss * world()  # a process has its part of the gradient, and data-parallel training averages the parts

    def clip_counts(self, batch: ClipBatch) -> list[int]:
        """Return the clips of every process in this step.

        Raises:
            InputError: on all processes, if those with clips have not all the same modalities.
        """
        return exchange(batch, self.network_config, self.device)[0]

    def watch_terms(self, terms: Mapping[str, Tensor], ids: Sequence[str], now: bool = False) -> None:
        """Have the terms of this step looked at, and those of the step before if they were not yet.

        Args:
            terms: scalars by name.
            ids: this process's clips.
            now: look at these too, which waits for the device.

        Raises:
            NotFiniteError: if one is not finite, on all processes at once.
        """
        self._watch.note(self.trainer.global_step, terms, ids)
        if now:
            self._watch.check()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Take the gradients; on several processes every weight has one, if only zeros, as all wait for it."""
        super().backward(reach(loss, self.parameters()), *args, **kwargs)

    def _no_step(self) -> Tensor | None:
        """Return the loss of a step that changes nothing; all processes come here together or none.

        Lightning takes no ``None`` from several processes.
        """
        if world() == 1:
            return None
        self._idle = True
        return torch.zeros((), device=self.device, requires_grad=True)

    def on_after_backward(self) -> None:
        """Forget the zeros of a step that changes nothing: momentum and decay would move the weights.

        Weights that a step does not use, as no clip has their modality, have the gradient 0, as on several processes.
        """
        if self._lacking and world() == 1:
            for parameter in self.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # it insists on gradients
        if self._idle and scaler is None and self.trainer.accumulate_grad_batches == 1:
            for parameter in self.parameters():
                parameter.grad = None
        self._idle = False

    def on_validation_start(self) -> None:
        """Look at the last step before its weights are evaluated."""
        self._watch.check()

    def on_train_end(self) -> None:
        """Look at the last step."""
        self._watch.check()

    def _loss_terms(
        self, output: MCNOutput, batch: ClipBatch, counts: Sequence[int], present: Presence | None
    ) -> dict[str, Tensor]:
        config, terms = self.loss_config, {}
        targets = self._cluster_targets(output, batch, counts, present)
        clusters = self.assignments(output) if config.contrastive.exclude_same_cluster else None
        pairs = {} if self.contrastive is None else self.contrastive(output.embeddings(), counts, clusters, present)
        rebuilt = reconstruction_loss(output.reconstructions, output.targets, config.detach_targets, counts, present)
        if pairs:
            terms["contrastive"] = config.contrastive_weight * torch.stack(list(pairs.values())).sum()
        if rebuilt:
            terms["reconstruction"] = config.reconstruction_weight * torch.stack(list(rebuilt.values())).sum()
        if targets and config.cluster_weight > 0:
            terms["cluster"] = config.cluster_weight * self.cluster_loss(features_of(output), targets, counts)
        for name, value in {**pairs, **{f"rebuild_{name}": value for name, value in rebuilt.items()}}.items():
            self.log(f"train/{name}", value, batch_size=len(batch))
        for name, value in terms.items():
            self.log(f"train/{name}", value, prog_bar=True, batch_size=len(batch))
        if self.contrastive is not None and self.contrastive.learns_temperature:
            self.log("train/temperature", self.contrastive.temperature, batch_size=len(batch))
        return terms

    def _cluster_targets(
        self, output: MCNOutput, batch: ClipBatch, counts: Sequence[int], present: Presence | None
    ) -> dict[str, Target]:
        """Re-cluster if it is due, find what should be predicted, and only then push the batch to the queue."""
        if self.clustering is None:
            return {}
        features = {name: feature.detach().float() for name, feature in features_of(output).items()}
        step = Step(counts, present, batch.clips_per_video)
        if self._recluster != "no":
            self.watch_terms({"clustered features": features[MEAN].abs().sum()}, batch.ids, now=True)
            self.cluster_reports = self.clustering.cluster(features, step, self._recluster == "fresh")
            if self.cluster_reports:  # a modality that was not there has its turn with the next run
                self._recluster = "no"
        targets = self.clustering.targets(features, step)
        check_targets(targets, features, self.clustering_config.class_path)
        self.clustering.push(features, step)
        return targets

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> MCNOutput:  # type: ignore[override]
        """Embed held-out or test clips for the evaluation callbacks."""
        return self(batch)

    test_step = validation_step  # type: ignore[assignment]

    def predict_step(self, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return the ``ids``, the embeddings ``(B, D)`` by name, and ``cluster`` ``(B,)`` where there are centroids.

        Where clips may lack a modality, also ``has_<name>`` ``(B,)`` bool for each embedding: rows of clips without it
        are zeros, and the cluster of a clip without what is clustered is -1.
        """
        if len(batch) == 0:  # no video of it could be read
            return {"ids": ()}
        output = self(batch)
        embeddings, clusters = output.embeddings(), self.assignments(output)
        found = {"ids": batch.ids, **embeddings, **({} if clusters is None else {"cluster": clusters})}
        if batch.present is not None:
            table = present_embeddings(batch, tuple(embeddings)).to(self.device)
            found |= {f"has_{name}": column for name, column in zip(embeddings, table.T, strict=True)}
        return found

    def assignments(self, output: MCNOutput) -> Tensor | None:
        """Return the cluster of each clip ``(B,)`` int64, or ``None`` while there are no centroids."""
        if self.clustering is None:
            return None
        features = {name: feature.detach().float() for name, feature in features_of(output).items()}
        return self.clustering.assignments(features, masks_of(output))

    def clusters_of(self, modalities: Sequence[str]) -> tuple[Tensor, Tensor] | None:
        """Return the k-means centroids ``(K, D)`` near which such embeddings lie, and the rows of each ``(K,)`` int64.

        Those of the modality where each is clustered alone, else those of the mean; ``None`` where there are none, as
        of the sum of several.

        Args:
            modalities: names of the embeddings that are summed.
        """
        if self.clustering is None or len(modalities) > 1:
            return None
        return self.clustering.clusters(modalities[0])

    def configure_optimizers(self) -> Any:
        """Build the optimiser and its schedule, stepped per batch.

        Raises:
            InputError: if the learning rate should decay after each epoch and epochs have no end.
        """
        total = float(self.trainer.estimated_stepping_batches)  # loads the data, after which the next is known
        batches = self.trainer.num_training_batches  # infinite for data that have no length
        epoch = -(-batches // self.trainer.accumulate_grad_batches)
        optimizer, schedule = make_optimizer(self.optimizer_config, list(self.parameters()), total, epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write no checkpoint that a loss or weight which is not finite has spoilt; add what waits for the next step.

        An epoch that max_steps or max_time cut is left open: Lightning counts it as done and would begin the next.

        Raises:
            NotFiniteError: if there is one.
        """
        self._watch.check()
        check_state(self.trainer.global_step, checkpoint["state_dict"])
        checkpoint["recluster"] = self._recluster
        leave_epoch_open(checkpoint["loops"]["fit_loop"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another size, in one line that names the first weight that differs.

        Where nothing is trained, modalities that the checkpoint has and this network has not are left out.
        """
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            checkpoint["state_dict"] = without_absent(checkpoint["state_dict"], self.network_config)
        check_sizes(self.state_dict(), checkpoint["state_dict"])
        self._recluster = checkpoint.get("recluster", "no")
