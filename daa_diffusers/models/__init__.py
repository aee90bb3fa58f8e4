"""Networks: restorers and the noise predictor, without photo IO or training code."""
