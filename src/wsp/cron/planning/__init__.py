"""What becomes of every tick, before and after its run: decisions, claims, queues, what follows an end."""
