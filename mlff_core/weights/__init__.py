"""The shipped models: NAME.safetensors and NAME.json."""
