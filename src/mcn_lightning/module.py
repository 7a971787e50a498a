"""The LightningModule: it wires network, losses and clustering together and holds no mathematics of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mcn_lightning.batch import MODALITIES, ClipBatch
from mcn_lightning.clustering import (
    MEAN,
    CentroidClustering,
    ClusteringConfig,
    KMeansReport,
    Target,
    make_clustering,
)
from mcn_lightning.config import Options, as_config
from mcn_lightning.distributed import Presence, numbers_of_all, reach, world
from mcn_lightning.errors import InputError
from mcn_lightning.losses import (
    ClusterLoss,
    ContrastiveLoss,
    FiniteWatch,
    LossConfig,
    check_state,
    reconstruction_loss,
)
from mcn_lightning.models import MCN, MCNOutput, NetworkConfig
from mcn_lightning.models.mcn import AUDIO_TEXT, OF_DATA
from mcn_lightning.models.size import check_memory
from mcn_lightning.models.weights import absent_weights, read_weights
from mcn_lightning.ranges import NonNegativeFloat, NonNegativeInt, PositiveShare


@dataclass(frozen=True)
class OptimizerConfig(Options, option="--model.optimizer"):
    """How the weights are optimised; the defaults are the released recipe.

    Args:
        kind: adam, or adamw with decoupled weight decay.
        lr: highest learning rate, after the warm-up.
        weight_decay: weight decay of the weight matrices; biases, batch norm and temperature have none.
        warmup_steps: steps of linear warm-up.
        schedule: after the warm-up, cosine to 0 over the rest of the run, constant, or exponential: times ``decay``
            after each epoch.
        decay: factor of an epoch in the exponential schedule (AVLnet-Text-Tri on YouCook2: 0.9).
    """

    kind: Literal["adam", "adamw"] = "adam"
    lr: NonNegativeFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = 5000
    schedule: Literal["cosine", "constant", "exponential"] = "cosine"
    decay: PositiveShare = 0.9


def learning_rate_factor(
    step: int, warmup_steps: int, total_steps: float, schedule: str, decay: float = 1.0, epoch_steps: float = math.inf
) -> float:
    """Return the share of the highest learning rate at a step.

    Args:
        step: optimiser steps done.
        warmup_steps: steps of the linear warm-up.
        total_steps: steps of the whole run.
        schedule: cosine (MCN; Chen et al., ICCV 2021), constant, or exponential (AVLnet; Rouditchenko et al., 2021).
        decay: factor of an epoch in the exponential schedule.
        epoch_steps: optimiser steps of an epoch.
    """
    if step < warmup_steps:
        return step / warmup_steps
    if schedule == "exponential":
        return decay ** (step // epoch_steps)
    if schedule == "constant" or not math.isfinite(total_steps):
        return 1.0
    progress = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def _masks(output: MCNOutput) -> dict[str, Tensor] | None:
    """Return which clips have what may be clustered, ``(B,)`` bool by name; ``None`` where all have all."""
    some = output.has_any()
    return None if output.present is None or some is None else {**output.present, MEAN: some}


def _present_embeddings(batch: ClipBatch, names: Sequence[str]) -> Tensor:
    """Return which clips have which embeddings, ``(B, names)`` bool, on the CPU."""
    if batch.present is None:
        return torch.ones(len(batch), len(names), dtype=torch.bool)
    columns = dict(zip(MODALITIES, batch.present.T, strict=True)) | {AUDIO_TEXT: batch.present[:, 1:].all(dim=1)}
    return torch.stack([columns[name] for name in names], dim=1)


def _features(output: MCNOutput) -> dict[str, Tensor]:
    """Return what may be clustered: the embeddings, and their mean."""
    return {**output.embeddings(), MEAN: output.mean()}


def _not_chosen(network: NetworkConfig | Mapping[str, Any]) -> tuple[str, ...]:
    """Return the sizes of inputs that somebody has left out, or as they are by default."""
    if isinstance(network, Mapping):
        return tuple(name for name in OF_DATA if name not in network)
    defaults = NetworkConfig()
    return tuple(name for name in OF_DATA if getattr(network, name, None) == getattr(defaults, name))


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
        optimizer: OptimizerConfig = OptimizerConfig(),
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.weights_file = weights
        start = None if weights is None else read_weights(weights)
        self._free = _not_chosen(network) if start is None else ()
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
        configs: dict[str, Any] = {
            "network": self.network_config,
            "loss": self.loss_config,
            "clustering": self.clustering_config,
            "optimizer": self.optimizer_config,
        }
        # loggers have the options by the command's own names, from the command
        self.save_hyperparameters({name: dataclasses.asdict(config) for name, config in configs.items()}, logger=False)
        network, clustering = self.network_config, self.clustering_config
        check_memory(network, clustering.queue_bytes(network.embedding_dim, len(network.embeddings)))
        self.network = MCN(self.network_config)
        self.contrastive = ContrastiveLoss(self.loss_config.contrastive)
        self.cluster_loss = ClusterLoss(self.loss_config.cluster)
        dim, names = self.network_config.embedding_dim, self.network_config.embeddings
        self.clustering = make_clustering(self.clustering_config, dim, names)
        if self.clustering_config.kind.startswith("sinkhorn") and self.loss_config.cluster_weight == 0:
            raise InputError(
                "--model.loss.cluster_weight: expected more than 0 for the prototypes of --model.clustering.kind "
                f"{self.clustering_config.kind}, which learn by it alone, found 0; set the kind to none for no clusters"
            )
        if self.loss_config.contrastive.exclude_same_cluster and self.clustering is None:
            raise InputError(
                "--model.loss.contrastive.exclude_same_cluster: expected clusters, found --model.clustering.kind none; "
                "set it to false or choose a kind"
            )
        contrastive = self.loss_config.contrastive
        pairs = contrastive.pairs or contrastive.weighted_pairs(self.network_config.embeddings)  # the first: see setup
        draws = self.clustering is not None and self.loss_config.cluster_weight > 0
        alone = len(self.network_config.embeddings) < 2  # nothing to train, see setup
        if not (alone or pairs or self.network_config.reconstruction or draws):
            raise InputError(
                "--model.loss.contrastive: expected at least one loss, found contrastive (its kind, or every pair that "
                "data.modalities leaves), clustering and reconstruction all off"
            )

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
        try:
            config = self.network_config.follow_data(data.input_sizes(), self._free)
        except ValueError as error:
            raise InputError(str(error)) from None
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
        if stage == "fit" and len(self.network_config.embeddings) < 2:
            raise InputError(
                f"--data.modalities: expected two or three of {', '.join(MODALITIES)} to train with, found "
                f"{list(self.network_config.modalities)}; one alone can be evaluated and embedded"
            )
        if stage == "fit":
            try:
                self.loss_config.contrastive.check_pairs(self.network_config.embeddings)
            except ValueError as error:
                raise InputError(str(error)) from None
        data = getattr(self.trainer, "datamodule", None)
        if self.network.text is not None and data is not None and (embedder := data.text_embedder()) is not None:
            self.network.text.set_embedder(embedder.to(self.device))
        self._leave_out_of_broadcasts()

    def _leave_out_of_broadcasts(self) -> None:
        """Keep what all processes have alike (queue, centroids, word vectors) out of every step's broadcast."""
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
            features = {name: feature.float() for name, feature in _features(output).items()}
            masks = _masks(output)
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
        if not isinstance(self.clustering, CentroidClustering):
            return {}
        try:
            return self.clustering.fit(features, fresh)
        except ValueError as error:
            raise InputError(str(error)) from None

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor | None:
        """Return the loss of one batch; nothing when no video of it could be read on any process."""
        counts, present = self._exchange(batch)
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
        return self._exchange(batch)[0]

    def _exchange(self, batch: ClipBatch) -> tuple[list[int], Presence | None]:
        """Return the clips of every process in this step, and which of them lack an embedding; ``None`` for none.

        Raises:
            InputError: on all processes, if those with clips have not all the same modalities.
        """
        sound = batch.audio if batch.frames is None else batch.frames
        given = {"video": batch.video, "audio": sound, "text": batch.words}
        wanted = [name for name in MODALITIES if name in self.network_config.modalities]
        table = _present_embeddings(batch, self.network_config.embeddings)
        own = [len(batch), *(given[name] is not None for name in wanted), *Presence.histogram(table)]
        found = numbers_of_all(own, self.device)
        counts = self._checked_counts([row[: 1 + len(wanted)] for row in found], wanted)
        histograms = [row[1 + len(wanted) :] for row in found]
        present = Presence(self.network_config.embeddings, table, histograms, self.device)
        return counts, None if present.complete else present

    @staticmethod
    def _checked_counts(found: Sequence[Sequence[int]], wanted: Sequence[str]) -> list[int]:
        """Return the clips of every process, which must have the same modalities."""
        kinds = {tuple(name for name, has in zip(wanted, row[1:], strict=True) if has) for row in found if row[0]}
        if any(row[0] == 0 for row in found) and kinds:  # a process without clips takes part with all modalities
            kinds.add(tuple(wanted))
        if len(kinds) > 1:
            raise InputError(
                "the batch of a step: expected the same modalities on every process, found "
                f"{' / '.join(', '.join(kind) or 'none' for kind in sorted(kinds))}; give each what the others have"
            )
        return [row[0] for row in found]

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
        pairs = self.contrastive(output.embeddings(), counts, clusters, present)
        rebuilt = reconstruction_loss(output.reconstructions, output.targets, config.detach_targets, counts, present)
        if pairs:
            terms["contrastive"] = config.contrastive_weight * torch.stack(list(pairs.values())).sum()
        if rebuilt:
            terms["reconstruction"] = config.reconstruction_weight * torch.stack(list(rebuilt.values())).sum()
        if targets and config.cluster_weight > 0:
            terms["cluster"] = config.cluster_weight * self.cluster_loss(_features(output), targets, counts)
        for name, value in {**pairs, **{f"rebuild_{name}": value for name, value in rebuilt.items()}}.items():
            self.log(f"train/{name}", value, batch_size=len(batch))
        for name, value in terms.items():
            self.log(f"train/{name}", value, prog_bar=True, batch_size=len(batch))
        if self.contrastive.learns_temperature:
            self.log("train/temperature", self.contrastive.temperature, batch_size=len(batch))
        return terms

    def _cluster_targets(
        self, output: MCNOutput, batch: ClipBatch, counts: Sequence[int], present: Presence | None
    ) -> dict[str, Target]:
        """Re-cluster if it is due, find what should be predicted, and only then push the batch to the queue."""
        if self.clustering is None:
            return {}
        features = {name: feature.detach().float() for name, feature in _features(output).items()}
        if self._recluster != "no":
            self.watch_terms({"clustered features": features[MEAN].abs().sum()}, batch.ids, now=True)
            try:
                self.cluster_reports = self.clustering.cluster(features, self._recluster == "fresh", counts, present)
            except ValueError as error:
                raise InputError(str(error)) from None
            if self.cluster_reports:  # a modality that was not there has its turn with the next run
                self._recluster = "no"
        targets = self.clustering.targets(features, counts, present)
        self.clustering.push(features, batch.clips_per_video, counts, present)
        return targets

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> MCNOutput:  # type: ignore[override]
        """Embed held-out clips for the evaluation callbacks."""
        return self(batch)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> MCNOutput:  # type: ignore[override]
        """Embed test clips for the evaluation callbacks."""
        return self(batch)

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
            table = _present_embeddings(batch, tuple(embeddings)).to(self.device)
            found |= {f"has_{name}": column for name, column in zip(embeddings, table.T, strict=True)}
        return found

    def assignments(self, output: MCNOutput) -> Tensor | None:
        """Return the cluster of each clip ``(B,)`` int64, or ``None`` while there are no centroids."""
        if self.clustering is None:
            return None
        features = {name: feature.detach().float() for name, feature in _features(output).items()}
        return self.clustering.assignments(features, _masks(output))

    def clusters_of(self, modalities: Sequence[str]) -> tuple[Tensor, Tensor] | None:
        """Return the k-means centroids ``(K, D)`` near which such embeddings lie, and the rows of each ``(K,)`` int64.

        Those of the modality where each is clustered alone, else those of the mean; ``None`` where there are none, as
        of the sum of several.

        Args:
            modalities: names of the embeddings that are summed.
        """
        if not isinstance(self.clustering, CentroidClustering) or len(modalities) > 1:
            return None
        return self.clustering.clusters(modalities[0])

    def configure_optimizers(self) -> Any:
        """Build the optimiser and its schedule, stepped per batch.

        Raises:
            InputError: if the learning rate should decay after each epoch and epochs have no end.
        """
        config = self.optimizer_config
        kind = torch.optim.Adam if config.kind == "adam" else torch.optim.AdamW
        matrices = [parameter for parameter in self.parameters() if parameter.dim() > 1]
        others = [parameter for parameter in self.parameters() if parameter.dim() <= 1]
        # decay would pull biases, the scales of batch norm and the temperature towards values that mean nothing
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = kind([group for group in groups if group["params"]], lr=config.lr)
        total = float(self.trainer.estimated_stepping_batches)
        batches = self.trainer.num_training_batches  # infinite for data that have no length
        if config.schedule == "exponential" and not math.isfinite(batches):
            raise InputError(
                "--model.optimizer.schedule exponential: expected data of known length, found an endless epoch; "
                "use constant, or --trainer.limit_train_batches"
            )
        epoch = -(-batches // self.trainer.accumulate_grad_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: learning_rate_factor(step, config.warmup_steps, total, config.schedule, config.decay, epoch),
        )
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
        loop = checkpoint["loops"]["fit_loop"]
        batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]["current"]
        if batches["current"]["processed"] and not batches["is_last_batch"]:
            epochs["processed"] = min(epochs["processed"], epochs["ready"] - 1)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another size, in one line that names the first weight that differs.

        Where nothing is trained, modalities that the checkpoint has and this network has not are left out.
        """
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            checkpoint["state_dict"] = self._without_absent(checkpoint["state_dict"])
        own, saved = self.state_dict(), checkpoint["state_dict"]
        for name in sorted({*own, *saved}):
            expected = tuple(own[name].shape) if name in own else "no such weight"
            found = tuple(saved[name].shape) if name in saved else "no such weight"
            if expected != found:
                raise InputError(
                    f"--ckpt_path: {name}: expected {expected}, found {found} in the checkpoint; "
                    "use the options saved beside it (config.yaml, or what convert wrote)"
                )
        self._recluster = checkpoint.get("recluster", "no")

    def _without_absent(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of a checkpoint without those of modalities that this network has not."""
        config = self.network_config
        absent = [f"network.{start}" for start in absent_weights(config)]
        absent += [f"clustering.of.{name}." for name in (*MODALITIES, AUDIO_TEXT) if name not in config.embeddings]
        return {name: value for name, value in state.items() if not name.startswith(tuple(absent))}
