"""The web page of `dtm-hf app`."""
