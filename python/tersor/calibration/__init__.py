"""What a few unlabelled inputs of a model tell, and quantization that makes use of it."""
