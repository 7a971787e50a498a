"""The command ``export``: a trained model as a folder for others, and on the hub."""
