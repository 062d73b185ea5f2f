"""The shells around the decisions: receive, decide, act. One loop for each role of a rank."""
