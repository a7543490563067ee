"""A fold in Hugging Face's Trainer: a subclass and a callback round what our loop uses.

    FoldTrainer(fold, Observers(fold)).train()
"""

import transformers
from transformers import Trainer, TrainerCallback, TrainingArguments

from utils.data.tokens import Batch
from utils.machine import runtime
from utils.trainers.observers import Observers
from utils.trainers.shared import Fold, step_loss
from utils.training.loop import predict


class FoldTrainer(Trainer):
    """Trainer with our loss, batches, optimizer and rates; ``options``: of TrainingArguments."""

    def __init__(self, fold: Fold, observers: Observers, **options):
        training, self.fold, self.observers = fold.training, fold, observers
        metric = training.task.metric
        settings = {
            "output_dir": str(fold.folder / "hugging_face"),
            "max_steps": training.total_steps,
            "max_grad_norm": fold.config.max_grad_norm,
            "seed": fold.config.seed,
            "bf16": training.choice.name == "bf16",
            "fp16": training.choice.name == "fp16",
            "use_cpu": runtime.device().type == "cpu",
            "metric_for_best_model": metric.name,
            "greater_is_better": metric.higher_is_better,
            "save_strategy": "best",
            "save_total_limit": 1,
            "report_to": [],
        }
        super().__init__(
            training.model,
            TrainingArguments(**settings | options),
            processing_class=training.tokenizer,
            optimizers=(training.rates.optimizer, training.rates),
            callbacks=[Watch(self)],
        )

    def get_train_dataloader(self):
        return self.fold.train_loader()

    def training_step(self, model, inputs, *arguments):
        return super().training_step(model, inputs._asdict(), *arguments)  # it takes no other tuples apart

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, self.of_batch = step_loss(self.fold.training, model, Batch(**inputs))
        return loss

    def evaluate(self, *_, metric_key_prefix="eval", **__):
        training = self.fold.training
        self.predictions = predict(training, training.wrapped, training.held_out)
        scores = training.task.scores(training.targets, self.predictions)
        metrics = {f"{metric_key_prefix}_{name}": score for name, score in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class Watch(TrainerCallback):
    """Tells observers what happens, and the Trainer when an evaluation is due."""

    def __init__(self, trainer: FoldTrainer):
        self.trainer, self.observers = trainer, trainer.observers

    def on_train_begin(self, arguments, state, control, **_):
        self.observers.begin(f"transformers {transformers.__version__}")

    def on_step_end(self, arguments, state, control, **_):
        self.observers.stepped(self.trainer.of_batch)
        control.should_evaluate = self.trainer.fold.training.evaluation_due()

    def on_evaluate(self, arguments, state, control, **_):
        if self.trainer.is_in_train:
            control.should_training_stop |= self.observers.evaluated(self.trainer.predictions)
            if control.should_training_stop:
                self.observers.end()  # now: the Trainer may load its best weights after this
