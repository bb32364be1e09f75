"""What client and server agree on: pixels, clicks, images, masks, errors, transports."""
