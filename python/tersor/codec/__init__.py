"""The codec of one weight: relative CSR, Huffman streams, self-describing blobs (numpy only)."""
