"""Networks: restorers and the noise predictor. No file or photo IO, no training code."""
