"""Every term of the project, in a sentence: the source of docs/glossary.md and of the report's glossary.

`python -m benchmarks.tables` writes the page.
"""

from __future__ import annotations

TERMS: dict[str, dict[str, str]] = {
    "What is compared": {
        "method": "a way of learning tasks one after the other; each is one file in `cl/methods/`",
        "run": "one method with one seed, on the whole sequence of tasks",
        "comparison": "several methods and seeds on one benchmark, as `python -m flows.compare` runs them",
        "benchmark": "a data set divided into tasks that are learned in a fixed order",
        "task": "one part of a benchmark: a set of classes with training, validation and test images",
        "experience": "what is learned in one go: a task, or for joint training all tasks at once",
        "first task": "the task that is learned when nothing can be forgotten yet; most methods train it alike",
        "study": "a params file under `studies/`, for instance one for each table of the survey",
        "survey": "De Lange et al., A continual learning survey, TPAMI 2021",
        "upper bound": "joint training, which sees all tasks at once and has nothing to forget; it is not ranked",
        "lower bound": "finetuning, which does nothing against forgetting; it is not ranked",
        "switch": "a knob that chooses between a paper's way and the way of the survey's code",
    },
    "Scenarios": {
        "task-incremental": "each task brings classes and a head of its own; at test the task of an image is given",
        "domain-incremental": "each task brings other images of the same classes; one head serves all tasks",
        "class-incremental": "each task brings new classes, and maybe old ones again; at test the model chooses among "
        "all classes so far",
        "repetition": "classes that come again: a task has images of a class that an earlier task had too",
        "stream": "online learning: every sample is seen once, and nothing says where a task begins or ends",
        "task-aware": "tested with the task of an image given: the choice is among the classes of that task",
        "task-agnostic": "tested without the task of an image: the choice is among the classes of all tasks so far",
        "backbone": "the layers of the network that all tasks share",
        "pretrained backbone": "a network that was trained elsewhere, without its head; frozen, it makes features",
        "features": "the vector that a pretrained backbone makes of a picture; learned from in the picture's place",
        "head": "the linear layer after the backbone; it scores the classes of a task, where classes come again those "
        "that the task brings first",
        "column": "a class's place among the outputs of all heads side by side",
    },
    "Hyperparameters": {
        "knob": "a hyperparameter that a method declares",
        "trial": "one training with given hyperparameters",
        "plasticity search": "the protocol's first phase: plain finetuning at each learning rate, to see how well the "
        "new task can be learned at all",
        "stability decay": "the protocol's second phase: the method starts at its most stable knobs, which decay until "
        "the new task is learned well enough",
        "attempt": "a trial of the stability decay",
        "decay": "one step of a knob from stability towards plasticity, for instance halving the strength of a penalty",
        "threshold": "the validation accuracy on a new task that an attempt has to reach: (1 − p) A*, with A* that of "
        "plain finetuning and p the share of it that a method may give up",
        "diverged": "said of a training whose weights, loss or penalty left all bounds; its accuracy counts as 0",
        "Pareto front": "the trials that no other trial beats in both stability and plasticity",
        "params": "the settings of a comparison: those of `params.yaml` or another file, overridden by the `--set` "
        "options",
    },
    "Measures": {
        "accuracy matrix": "the test accuracy on each task after learning each task",
        "average accuracy": "the mean accuracy over all tasks at the end",
        "average forgetting": "the accuracy lost on each earlier task since it was learned, averaged over these T − 1 "
        "tasks; the survey's published tables divide by T, the number of all tasks",
        "learning accuracy": "the mean accuracy on each task right after learning it; the average accuracy is lower by "
        "(T − 1)/T times the average forgetting",
        "backward transfer": "the mean change of accuracy on the earlier tasks since each was learned: minus the "
        "average forgetting",
        "forward transfer": "how much the earlier tasks help with a task before it is learned",
        "average incremental accuracy": "the average accuracy on the tasks so far, as its mean over the ends of all "
        "tasks",
        "intransigence": "how far the accuracy on a task, right after learning it, is below that of joint training, on "
        "average",
        "size efficiency": "how little the network and the state grow with the tasks; 100 % is no growth",
        "stability": "how well old tasks are kept",
        "plasticity": "how well a new task is learned",
        "95 % interval": "Student's t-interval of the mean over n seeds, from their sample standard deviation s and "
        "t with n − 1 degrees of freedom",
        "difference to the best": "the average accuracy of a method minus that of the best one with the same seed, as "
        "its mean over the seeds that both have; where its 95 % interval contains 0, these seeds do not tell the two "
        "apart",
        "rank": "one more than the number of methods that a paired test over the shared seeds finds better; methods "
        "that are not told apart share one",
        "chance": "the average accuracy of always the same answer; with equally many images of each of k classes 1/k",
        "near chance": "said of a method that has learned next to nothing, so that it wins nothing",
        "processor time": "the time that a run keeps processors busy, selection included; the one measure of time of "
        "leaderboard, report and pages",
        "confusion": "for each class, how many of its images got each answer",
        "temperature": "the number by which a model's scores are divided before the softmax, so that probabilities "
        "agree with accuracy",
        "expected calibration error": "how far apart probability and accuracy are, on average over the answers",
        "nearness": "how near a picture is to what a model has learned; a picture is known if its nearness is not "
        "lower than that of almost all validation images",
        "tolerance": "how far our result may be from a published one, stated beside it in docs/verification.md",
        "verdict": "whether our result is within the tolerance of a published one; red where it fails the tests",
        "measurement": "a command under `benchmarks/` that measures this project itself",
    },
    "What is kept": {
        "state": "what a method has learned besides the network: importances, masks, old models, stored samples",
        "state carried on": "the bytes of the state that a method keeps from the last task for the next one",
        "stored sample": "a raw training image that a method keeps; iCaRL's are called exemplars",
        "memory": "the stored samples of a method; a budget limits their number or their bytes",
        "importance": "how much a weight matters to the old tasks, in methods with a quadratic penalty",
        "consolidation": "what a method does at the end of a task: it measures importances, prunes, or stores samples",
        "checkpoint": "the network and the state after a task, as files with hashes",
        "work folder": "where a run keeps what it has learned so far, below `out/.work`; a killed run continues from "
        "it",
        "status": "how much of a run is done, what would run, and why: `python -m cl.status`",
    },
    "Tools": {
        "stage": "a step of the pipeline: prepare, features, train or report",
        "night": "a nightly comparison, learned anew and compared with the last good one, in which no run failed and "
        "nothing got worse",
        "champion": "the best model, as a registered model in MLflow under the alias `champion`; none that is near "
        "chance",
        "challenge": "a test of the champion and another model on the same new labelled pictures",
        "drift": "how far the nearness of new pictures lies from that of the validation images",
        "deployment": "a flow that a Prefect server can start, from a form or a schedule",
        "flow run": "Prefect's record of one execution of a flow, for instance of a comparison",
        "task run": "Prefect's record of one execution of a Prefect task, for instance of one run",
        "MLflow run": "MLflow's record of a run; nested below it is one for each of its tasks",
        "Optuna study": "the trials of one task and phase, as Optuna keeps them in the run's journal",
        "journal": "the file of a run with all its Optuna studies: `studies.log`",
    },
}
"""By section and term. The terms of the report's glossary are among them."""

ALL = {term: sentence for section in TERMS.values() for term, sentence in section.items()}


def shown(term: str) -> str:
    """The sentence of a term, as the report shows it: with a capital and a full stop."""
    sentence = ALL[term].replace("`", "")
    return f"{sentence[0].upper()}{sentence[1:]}."


def page() -> str:
    """docs/glossary.md."""
    lines = [
        "# Glossary",
        "",
        "Every term of this project, each with one meaning. [Measures](metrics.md) has the formulas.",
    ]
    for section, terms in TERMS.items():
        lines += ["", f"## {section}", "", "| term | meaning |", "| :--- | :--- |"]
        lines += [f"| {term} | {sentence} |" for term, sentence in terms.items()]
    return "\n".join([*lines, ""])
