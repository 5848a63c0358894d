"""The hub at work: capture, deliver, snapshots, supervision."""
