"""What find_layers and the scores make of diffusers' networks, each built small with random weights."""
