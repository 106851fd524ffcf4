"""What `density` and `load` share: a whole host in processes of its own, the agent that it hosts, and many light callers."""
