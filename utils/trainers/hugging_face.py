"""A fold in Hugging Face's Trainer."""

import transformers
from transformers import Trainer, TrainerCallback, TrainingArguments

from utils.data.tokens import Batch
from utils.machine import runtime
from utils.runs.artifacts import fold_folder
from utils.runs.observer import Observer
from utils.trainers.shared import Fold, step_loss
from utils.training.loop import predict


class FoldTrainer(Trainer):
    """Trainer with our loss, batches, optimizer and rates; ``options``: of TrainingArguments."""

    def __init__(self, fold: Fold, observer: Observer, **options):
        training, self.fold, self.observer = fold.training, fold, observer
        metric = training.task.metric
        settings = {
            "output_dir": str(fold_folder(fold.config) / "hugging_face"),
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
        training.model._is_accelerate_prepared = False  # or the Trainer's Accelerator would not take it
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
        self.loss = step_loss(self.fold.training, model, Batch(**inputs))
        return self.loss

    def evaluate(self, *_, metric_key_prefix="eval", **__):
        training = self.fold.training
        self.predictions = predict(training, training.wrapped, training.held_out)
        scores = training.task.scores(training.targets, self.predictions)
        metrics = {f"{metric_key_prefix}_{name}": score for name, score in scores.items()}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class Watch(TrainerCallback):
    """Tells an observer what happens, and the Trainer when an evaluation is due."""

    def __init__(self, trainer: FoldTrainer):
        self.trainer, self.fold, self.observer = trainer, trainer.fold, trainer.observer

    def on_train_begin(self, arguments, state, control, **_):
        self.observer.begin(self.fold.training, self.fold.table, f"transformers {transformers.__version__}")

    def on_step_end(self, arguments, state, control, **_):
        self.observer.stepped(self.trainer.loss)
        control.should_evaluate = self.fold.training.evaluation_due()

    def on_evaluate(self, arguments, state, control, **_):
        if self.trainer.is_in_train:
            control.should_training_stop |= self.observer.evaluated(self.trainer.predictions)
            if control.should_training_stop:
                self.observer.end()  # now: the Trainer may load its best weights after this
