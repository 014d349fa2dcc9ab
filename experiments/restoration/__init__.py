"""How well a run that was trained to restore pictures does it: tasks, what else could answer, and the figures."""

from experiments.restoration.evaluation import evaluate as evaluate
from experiments.restoration.evaluation import table as table
