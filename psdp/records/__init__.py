"""What is written down and shown of a run: metrics, summary, events, profiles, the console."""
