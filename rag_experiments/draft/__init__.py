"""Questions for documents that have none: drafted, judged by a person, and trained on."""
