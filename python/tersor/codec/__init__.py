"""One weight and its bytes: pruned and quantized, as relative CSR, Huffman-coded (numpy alone)."""
