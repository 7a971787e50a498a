"""Late logs: every row once, with its step, whatever ends the training."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from mcn_lightning.callbacks import late_logs
from mcn_lightning.distributed import HostCopy


class Line(LightningModule):
    """Logs the number of its step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        self.log("number", torch.tensor(float(self.trainer.global_step)))
        return self.weight

    def validation_step(self, batch, batch_idx):
        self.log("val", torch.tensor(-1.0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Fails(Callback):
    """Ends the training with an error."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 9:
            raise RuntimeError("the end")


class Rows(CSVLogger):
    """Keeps the rows."""

    def __init__(self, folder):
        super().__init__(folder)
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows += [(step, name, value) for name, value in metrics.items() if name in ("number", "val")]


def test_rows_come_once_in_order_over_a_second_fit_and_an_error(tmp_path, monkeypatch):
    def all_of_a_device(values):
        return list(values), HostCopy(torch.stack(list(values.values()))) if values else None

    monkeypatch.setattr(late_logs, "copied_numbers", all_of_a_device)
    data, logger = DataLoader(TensorDataset(torch.ones(3))), Rows(tmp_path)
    trainer = Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=logger, max_epochs=2, log_every_n_steps=1,
        num_sanity_val_steps=0, enable_progress_bar=False, callbacks=[late_logs.LateLogs(), Fails()],
    )  # fmt: skip
    module = Line()
    trainer.fit(module, data, data)
    numbers = [(step, "number", float(step)) for step in range(8)]
    expected = [*numbers[:3], (2, "val", -1.0), *numbers[3:6], (5, "val", -1.0)]
    assert logger.rows == expected
    trainer.fit_loop.max_epochs = 4
    with pytest.raises(RuntimeError, match="the end"):
        trainer.fit(module, data, data)
    # the step that the error ends is not logged, late or not
    assert logger.rows == [*expected, *numbers[6:]]
    assert "log_metrics" not in vars(trainer._logger_connector)
