"""A graph in other formats: files (safetensors, npz), networkx, Neuronpedia's graph JSON."""
