"""The report: all results as one HTML page and as Markdown."""
