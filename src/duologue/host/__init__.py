"""Many agents behind one authenticated listener, in processes of their own. See docs/host.md."""
