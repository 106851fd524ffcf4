"""What tests of Duologue and of agents built on it need: virtual time, audio assertions, scripted peers."""
