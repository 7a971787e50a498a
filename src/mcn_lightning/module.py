"""The LightningModule: it connects network, losses and clustering, and holds no mathematics of its own."""

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
from mcn_lightning.clustering import (
    MEAN,
    ClusteringConfig,
    KMeansReport,
    Step,
    Target,
    clustering_class,
    make_clustering,
)
from mcn_lightning.compiling import check_compiler, make_compiler
from mcn_lightning.distributed import Presence, connect_parameters, group_size, in_group, world_size
from mcn_lightning.losses import ClusterLoss, FiniteWatch, LossConfig, check_state, make_contrastive
from mcn_lightning.models import MCN, MCNOutput, NetworkConfig
from mcn_lightning.models.options import SET_BY_DATA, unset_sizes
from mcn_lightning.models.size import check_memory
from mcn_lightning.models.weights import read_weights
from mcn_lightning.options.config import as_config
from mcn_lightning.training.checks import (
    check_sizes,
    check_targets,
    check_terms,
    check_trainable,
    drop_absent_weights,
    mark_epoch_unfinished,
)
from mcn_lightning.training.exchange import exchange, features_of, masks_of, predictions
from mcn_lightning.training.groups import DistributedConfig, clips_of_group, mean_of_groups
from mcn_lightning.training.optimizer import OptimizerConfig, fill_gradients, make_optimizer
from mcn_lightning.training.queues import divide_queues, restore_queues, save_queues
from mcn_lightning.training.terms import terms_of_step, with_all_names


class MCNModule(LightningModule):
    """MCN with its losses: contrastive loss over pairs of modalities, clustering loss, reconstruction.

    With several processes, losses and clusters are over the clips of all processes. The module adds the callbacks of a
    run: k-means, evaluation on held-out clips, throughput, saving. A callback of the user replaces the one of the same
    class. In Python, every option can also be a plain dict.

    Args:
        network: shape of the network. Weights to start from replace it by their shape. Modalities and input sizes that
            are left out follow the data module.
        loss: losses and their weights.
        clustering: queue and k-means.
        optimizer: optimiser and learning rate.
        weights: file of weights to start from; none for random weights. It is a state dict of the authors' releases
            (MCN, AVLnet-Text-Tri, AVLnet, AVLnet-Text-Fused), or a checkpoint of this project. A state dict of the
            module or of its network is accepted too (.safetensors as well).
        distributed: how several devices share the losses.
        compile: compile network and losses with ``torch.compile``: true, or a mode of it (default, reduce-overhead,
            max-autotune, max-autotune-no-cudagraphs).

    Raises:
        WeightsError: if the file holds no weights of a network, or weights for other inputs.
        InputError: if a checkpoint has weights of another size, or options of the losses contradict each other.
    """

    def __init__(
        self,
        network: NetworkConfig = NetworkConfig(),  # noqa: B008 (frozen)
        loss: LossConfig = LossConfig(),  # noqa: B008 (frozen)
        clustering: ClusteringConfig = ClusteringConfig(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        weights: str | None = None,
        distributed: DistributedConfig = DistributedConfig(),  # noqa: B008 (frozen)
        compile: bool | str = False,
    ) -> None:
        super().__init__()
        self.weights_file = weights
        start = None if weights is None else read_weights(weights)
        self._unset_sizes = unset_sizes(network) if start is None else ()
        self.network_config = as_config(NetworkConfig, network, "--model.network")
        if start is not None:
            self.network_config = start.follow(self.network_config)
        self.loss_config = as_config(LossConfig, loss, "--model.loss")
        self.clustering_config = as_config(ClusteringConfig, clustering, "--model.clustering")
        self.optimizer_config = as_config(OptimizerConfig, optimizer, "--model.optimizer")
        self.distributed_config = as_config(DistributedConfig, distributed, "--model.distributed")
        self.compiler = make_compiler(compile)
        self._build()
        self.cluster_reports: dict[str, KMeansReport] = {}
        self.step_clips = 0  # clips of the last step on all processes
        self.step_terms: dict[str, Tensor] = {}  # loss and terms of the last step; empty if no video could be read
        self._recluster: Literal["no", "warm", "fresh"] = "no"
        self._watch = FiniteWatch()
        self._no_gradient_step = self._some_absent = False
        if start is not None:
            start.load(self.network)
            if getattr(rank_zero_only, "rank", 0) == 0:
                print(f"--model.weights {start.describe(self.network_config)}", flush=True)

    def _build(self) -> None:
        """Build network, losses and clustering from the options, and keep the options for checkpoints.

        Raises:
            InputError: if options of the losses contradict each other.
        """
        network, config = self.network_config, self.clustering_config
        given = {"network": network, "loss": self.loss_config, "clustering": config, "optimizer": self.optimizer_config}
        given |= {"distributed": self.distributed_config}
        # logger=False: the command logs all options under the names of the command line
        self.save_hyperparameters({name: dataclasses.asdict(options) for name, options in given.items()}, logger=False)
        kind, names = clustering_class(config), network.embeddings
        check_memory(network, 0 if kind is None else kind.queue_bytes(config, network.embedding_dim, names))
        self.network = MCN(network, self.compiler)
        self.contrastive = make_contrastive(self.loss_config.contrastive)
        self.cluster_loss = ClusterLoss(self.loss_config.cluster)
        self.clustering = make_clustering(config, network.embedding_dim, names)
        check_terms(network, self.loss_config, config, self.clustering)

    def configure_callbacks(self) -> list[Callback]:
        """Return the default callbacks that the trainer lacks, after taking the input sizes from the data.

        Of all hooks Lightning calls this first, once it has module and data. So a network of other sizes can still be
        built.

        Raises:
            InputError: if the network was built for inputs of another size.
        """
        from mcn_lightning.defaults import default_callbacks

        self._follow_data()
        return default_callbacks(self.trainer, self)

    def _follow_data(self) -> None:
        """Rebuild the network if the data have other input sizes and the user did not set them."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "input_sizes"):
            return
        config = self.network_config.follow_data(data.input_sizes(), self._unset_sizes)
        self._unset_sizes = ()
        if config != self.network_config:
            self.network_config = config
            self._build()
            sizes = ", ".join(f"{name} {getattr(config, name)}" for name in SET_BY_DATA)
            rank_zero_info(f"the network follows the data: {sizes}")

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> object:
        """Load weights, which fix the sizes of the network."""
        self._unset_sizes = ()
        return super().load_state_dict(state_dict, strict, assign)

    def setup(self, stage: str) -> None:
        """Take the frozen word vectors from the data.

        Raises:
            InputError: if a network to train has a single embedding, or lacks an embedding of a requested pair; if the
                size of groups does not divide the number of devices, or a compiler is missing.
        """
        if stage == "fit":
            check_trainable(self.network_config, self.loss_config)
            self.distributed_config.form_groups()
        if self.compiler is not None:
            check_compiler(self.trainer.strategy.root_device)
        data = getattr(self.trainer, "datamodule", None)
        if self.network.text is not None and data is not None and (embedder := data.text_embedder()) is not None:
            self.network.text.set_embedder(embedder.to(self.device))
        # queue, centroids and word vectors are equal on all processes: DDP need not broadcast them in every step
        prefixes = ("clustering.", "network.text.embedder.")
        names = [name for name, _ in self.named_buffers() if name.startswith(prefixes)]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    def forward(self, batch: ClipBatch) -> MCNOutput:
        """Embed a batch of B clips, from a loader or after ``ready``."""
        batch = batch.ready()
        return self.network(batch.video, batch.audio, batch.audio_frames, batch.words, batch.present)

    def request_clustering(self, fresh: bool = False) -> None:
        """Run k-means in the next training step, on the queue and that step's clips.

        Args:
            fresh: start from random rows instead of the current centroids.
        """
        self._recluster = "fresh" if fresh else "warm"

    def clustered_features(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return the features of a batch that can be clustered: embeddings ``(B, D)`` by modality, and their mean.

        Without gradient. A feature has only the rows of clips that have it.
        """
        with torch.no_grad():
            output = self(batch)
            features = {name: feature.float() for name, feature in features_of(output).items()}
            masks = masks_of(output)
        if masks is None:
            return features
        return {name: rows[masks[name].to(rows.device)] for name, rows in features.items()}

    def fit_centroids(self, features: Mapping[str, Sequence[Tensor]], fresh: bool) -> dict[str, KMeansReport]:
        """Run k-means on the rows of all processes, and keep its centroids.

        Args:
            features: this process's rows of each feature, in any number of tensors ``(n, D)``.
            fresh: start from random rows instead of the current centroids.

        Returns:
            A report for each feature that was clustered.
        """
        return {} if self.clustering is None else self.clustering.fit(features, fresh)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor | None:
        """Return the loss of one batch; ``None`` if no process could read a video of it."""
        counts, present = exchange(batch, self.network_config, self.device)
        self._some_absent = present is not None
        self.step_clips, self.step_terms = sum(counts), {}
        if self.step_clips == 0:
            return self._no_step()
        output = self(batch) if len(batch) else self.network.empty_output(self.device)  # others wait for this process
        terms = self._loss_terms(output, batch, counts, present)
        self._watch.watch(self.trainer.global_step, terms, batch.ids)
        if not terms:  # with the clustering loss alone, until k-means has K clips
            return self._no_step()
        loss = torch.stack(list(terms.values())).sum()
        shown = mean_of_groups({"loss": loss.detach(), **{name: value.detach() for name, value in terms.items()}})
        self.step_terms = {f"train/{name}": value for name, value in shown.items()}
        bar = getattr(self.trainer, "progress_bar_callback", None)  # Lightning reads what it shows, and waits for it
        self.log_dict(self.step_terms, prog_bar=not getattr(bar, "reads_terms", bar is None), batch_size=len(batch))
        return loss * group_size()  # each process has its part of the gradient; data-parallel training averages them

    def backward(self, loss: Tensor, *args: object, **kwargs: object) -> None:
        """Compute the gradients. Data-parallel training needs every parameter in the graph, even if it is not used."""
        super().backward(connect_parameters(loss, self.parameters()), *args, **kwargs)

    def _no_step(self) -> Tensor | None:
        """Return the loss of a step without loss terms. Either all processes call it or none.

        With several processes Lightning does not accept ``None``.
        """
        if world_size() == 1:
            return None
        self._no_gradient_step = True
        return torch.zeros((), device=self.device, requires_grad=True)

    def on_after_backward(self) -> None:
        """Set the gradients of special steps.

        A step without loss terms gets no gradients at all: with zeros, momentum and decay would change the weights.
        In other steps the weights of a modality that no clip has get zeros, as they do on several processes.
        """
        if self._some_absent and world_size() == 1:
            fill_gradients(self.parameters())
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # it raises without gradients
        if self._no_gradient_step and scaler is None and self.trainer.accumulate_grad_batches == 1:
            self.zero_grad(set_to_none=True)
        self._no_gradient_step = False

    def on_validation_start(self) -> None:
        """Check the last step before its weights are evaluated."""
        self._watch.check()

    def on_train_start(self) -> None:
        """Leave each device a share of the queue, after a checkpoint with the whole queue was loaded."""
        divide_queues(self)

    def on_train_end(self) -> None:
        """Check the last step, and restore the whole queue."""
        self._watch.check()
        restore_queues(self)

    def _loss_terms(
        self, output: MCNOutput, batch: ClipBatch, counts: Sequence[int], present: Presence | None
    ) -> dict[str, Tensor]:
        config = self.loss_config
        targets = self._cluster_targets(output, batch, counts, present)
        clusters = self.assignments(output) if config.contrastive.exclude_same_cluster else None
        with in_group():
            clips = (output, targets, clusters, *clips_of_group(counts, present))
            terms, parts = terms_of_step(self.compiler, (config, self.contrastive, self.cluster_loss), clips)
        terms, parts = with_all_names(terms, parts, config, self.network_config, self.clustering, self.device)
        self.log_dict({f"train/{name}": value for name, value in mean_of_groups(parts).items()}, batch_size=len(batch))
        if self.contrastive is not None and self.contrastive.learns_temperature:
            self.log("train/temperature", self.contrastive.temperature, batch_size=len(batch))
        return terms

    def _cluster_targets(
        self, output: MCNOutput, batch: ClipBatch, counts: Sequence[int], present: Presence | None
    ) -> dict[str, Target]:
        """Run k-means if it is due, find the targets, and then push the batch to the queue.

        The push comes last: k-means clusters queue and batch together, and must not see the batch twice.
        """
        if self.clustering is None:
            return {}
        features = {name: feature.detach().float() for name, feature in features_of(output).items()}
        whole = Step(counts, present, batch.clips_per_video)
        if self._recluster != "no":
            clustered = {"clustered features": features[MEAN].abs().sum()}
            self._watch.watch(self.trainer.global_step, clustered, batch.ids, now=True)
            self.cluster_reports = self.clustering.cluster(features, whole, self._recluster == "fresh")
            if self.cluster_reports:  # a modality without clips in this step is clustered in the next run
                self._recluster = "no"
        with in_group():
            step = Step(*clips_of_group(counts, present), batch.clips_per_video)
            targets = self.clustering.targets(features, step) if sum(step.counts or ()) else {}
        check_targets(targets, features, self.clustering_config.class_path)
        self.clustering.push(features, whole)
        return targets

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> MCNOutput:  # type: ignore[override]
        """Embed held-out or test clips for the evaluation callbacks."""
        return self(batch)

    test_step = validation_step  # type: ignore[assignment]

    def predict_step(self, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, object]:
        """Return the ``ids``, the embeddings ``(B, D)`` by name, and ``cluster`` ``(B,)`` if there are centroids.

        If clips may lack a modality, it adds ``has_<name>`` ``(B,)`` bool for each embedding. Rows of clips without an
        embedding are zeros. The cluster of a clip without the clustered feature is -1.
        """
        if len(batch) == 0:  # none of its videos could be read
            return {"ids": ()}
        output = self(batch)
        return predictions(batch, output, self.assignments(output))

    def assignments(self, output: MCNOutput) -> Tensor | None:
        """Return the cluster of each clip ``(B,)`` int64, or ``None`` while there are no centroids."""
        if self.clustering is None:
            return None
        features = {name: feature.detach().float() for name, feature in features_of(output).items()}
        return self.clustering.assignments(features, masks_of(output))

    def clusters_of(self, modalities: Sequence[str]) -> tuple[Tensor, Tensor] | None:
        """Return the k-means centroids ``(K, D)`` of a modality, and the rows of each ``(K,)`` int64.

        If modalities are clustered alone, they are its own centroids, else those of the mean. ``None`` if there are
        none, and for several modalities, whose sum is not clustered.

        Args:
            modalities: names of the embeddings that are summed.
        """
        if self.clustering is None or len(modalities) > 1:
            return None
        return self.clustering.clusters(modalities[0])

    def configure_optimizers(self) -> Any:
        """Build the optimiser and its schedule, which is stepped after each batch.

        Raises:
            InputError: if the schedule is exponential and epochs have no end.
        """
        total = float(self.trainer.estimated_stepping_batches)  # this loads the data; num_training_batches needs them
        batches = self.trainer.num_training_batches  # infinite for data that have no length
        epoch = -(-batches // self.trainer.accumulate_grad_batches)
        optimizer, schedule = make_optimizer(self.optimizer_config, list(self.parameters()), total, epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to save weights that are not finite, and add a request for k-means that the next step will serve.

        An epoch that max_steps or max_time cut short is marked as unfinished. Lightning would count it as done.

        Raises:
            NotFiniteError: if a loss of the last step or a weight is not finite.
        """
        self._watch.check()
        check_state(self.trainer.global_step, checkpoint["state_dict"])
        save_queues(self, checkpoint)
        checkpoint["recluster"] = self._recluster
        mark_epoch_unfinished(checkpoint["loops"]["fit_loop"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another size, in one line that names the first weight that differs.

        For evaluation, weights of modalities that this network lacks are left out.
        """
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            checkpoint["state_dict"] = drop_absent_weights(checkpoint["state_dict"], self.network_config)
        check_sizes(self.state_dict(), checkpoint["state_dict"])
        self._recluster = checkpoint.get("recluster", "no")
