"""The commands, one file a verb: parse, call the pipeline, print, map errors to exit codes."""
