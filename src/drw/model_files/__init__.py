"""Checks of model files: digest, format headers, chat template, signature and ML-BOM."""
