"""`ois annotate`: annotates many images from a file of clicks."""
