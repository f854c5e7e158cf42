"""What several families of models are built of: networks, encoders, autoencoders, and the reading of their files."""
