"""What the user did not set is chosen here from the data, and every choice comes with its reason."""

from tintype.planning.chooser import Plan
from tintype.planning.images import plan_data
from tintype.planning.ranks import plan_ranks
from tintype.planning.training import plan_training

__all__ = ["Plan", "plan_data", "plan_ranks", "plan_training"]
