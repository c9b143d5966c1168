"""The stages of a run in order: train, generate, evaluate, record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bench.runs.record_builder import write_run_record

if TYPE_CHECKING:
    from bench.evaluation.evaluator import EvaluationContext
    from bench.storage.stage_results import GenerationResult
    from bench.training.run_context import RunContext

Stage = Literal["all", "train", "evaluate"]
"""Stages of a job: all of them, training alone, or what follows it."""


def run_stages(context: RunContext, stage: Stage) -> None:
    """Run the stages of a job in order; each skips what the run folder holds already.

    Raises StopRequested in every process once one was asked to stop; what was done is saved.
    """
    from bench.evaluation.evaluator import EvaluationContext
    from bench.evaluation.generation import generate
    from bench.training import trainer

    run, config, world = context.run, context.config, context.world
    if stage != "evaluate" and not config.model.weights:
        trainer.train(context)
    if stage == "train":
        return
    if not world.of_first(lambda: run.has_snapshots(config.budget.evaluation_points)):
        raise ValueError(f"{run.path} has no snapshots to sample from; its training is not finished")
    evaluation_context = EvaluationContext.prepare(context)
    generation = generate(evaluation_context)
    world.alone(lambda: evaluate_and_record(evaluation_context, generation), context.raise_if_stopped)


def evaluate_and_record(context: EvaluationContext, generation: GenerationResult) -> None:
    """Evaluate the sampled images and write the record, unless there is one; rank 0 alone does this."""
    from bench.evaluation.run_metrics import evaluate
    from bench.storage.stage_results import read_training_result

    evaluation = evaluate(context)
    if not context.run.record_path.is_file():
        context.check_lease()
        write_run_record(context, read_training_result(context.run), generation, evaluation)
