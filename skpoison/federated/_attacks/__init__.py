"""What Byzantine clients send, and the data that they train on."""
