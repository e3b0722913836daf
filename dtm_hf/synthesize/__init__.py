"""A data set of texts, spoken: `accelerate launch -m dtm_hf.synthesize`."""
