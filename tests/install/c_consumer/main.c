/* Reads a layer through the C interface, multiplies it, and prints y, an element a line. */
#include <stdio.h>
#include <stdlib.h>

#include "tersor/c_api.h"

static int fail(void) {
    fprintf(stderr, "consumer: %s\n", tersor_last_error());
    return 1;
}

int main(int argc, char** argv) {
    if (argc != 3 || tersor_abi_version() != TERSOR_ABI_VERSION) return 2;
    tersor_file* file;
    tersor_matrix* matrix;
    if (tersor_open(argv[1], &file) != TERSOR_OK) return fail();
    if (tersor_load_layer(file, argv[2], 0, 1, &matrix) != TERSOR_OK) return fail();
    tersor_close(file);
    size_t rows = tersor_rows(matrix);
    size_t cols = tersor_cols(matrix);
    float* x = malloc(cols * sizeof *x);
    float* y = malloc(rows * sizeof *y);
    for (size_t k = 0; k < cols; ++k) x[k] = (float)((int)(k % 7) - 3) * 0.5F;
    if (tersor_multiply(matrix, x, 1, NULL, y, TERSOR_HIGH, 1) != TERSOR_OK) return fail();
    for (size_t r = 0; r < rows; ++r) printf("%.9g\n", (double)y[r]);
    tersor_free_matrix(matrix);
    free(x);
    free(y);
    return 0;
}
