"""From a file to windows: source -> table -> panel -> split -> windows."""
