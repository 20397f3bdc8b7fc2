"""The report of a cross-validation: the paper's tables and figures, from the record to the page."""
