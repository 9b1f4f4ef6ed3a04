"""What a run will do, need and cost, told before it starts: ``python -m dollkit.plan``."""
