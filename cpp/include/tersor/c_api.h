/* The C interface: open a file, list it, load a layer, multiply. For C and for every language that
 * can call C. No C++ exception crosses it.
 *
 * A function that can fail returns one of tersor_status; tersor_last_error() then says more, in
 * words, about the last failure in the calling thread. Handles are freed by the caller; freeing
 * NULL does nothing. A matrix may be multiplied with from any number of threads at once; an open
 * file may be read from any number of threads. A matrix outlives the file that it came from. */
#ifndef TERSOR_C_API_H
#define TERSOR_C_API_H

#include <stddef.h> /* NOLINT(modernize-deprecated-headers): this header is C */
#include <stdint.h> /* NOLINT(modernize-deprecated-headers) */

#define TERSOR_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* Grows with every change that breaks a caller; compare with tersor_abi_version(). */
#define TERSOR_ABI_VERSION 2

enum tersor_status {
    TERSOR_OK = 0,
    TERSOR_BAD_ARGUMENT = 1, /* a mistake of the caller */
    TERSOR_BAD_DATA = 2,     /* the file is malformed, damaged or of a later version */
    TERSOR_IO_ERROR = 3,     /* the operating system refused */
    TERSOR_NO_MEMORY = 4,
    TERSOR_INTERNAL_ERROR = 5,
    TERSOR_NOT_FOUND = 6 /* the file has no such tensor */
};

/* The error classes of docs/kernels, from the tightest bound to the loosest. */
enum tersor_precision { TERSOR_HIGHEST = 0, TERSOR_HIGH = 1, TERSOR_MEDIUM = 2, TERSOR_LOW = 3 };

typedef struct tersor_file tersor_file;
typedef struct tersor_matrix tersor_matrix;

/* One tensor of an open file; everything that it points to lives as long as the file. Later
 * versions may add fields at the end: who asks for a tensor says how large theirs is. */
typedef struct tersor_tensor {
    const char* name;      /* UTF-8; a compressed tensor's ends in "_blob" */
    const char* dtype;     /* as safetensors names it: "F32", "U8", ... */
    const uint64_t* shape; /* [dimensions], as stored */
    size_t dimensions;
    const uint8_t* bytes; /* [size], little-endian, row-major */
    size_t size;
    int compressed; /* 1: load it with tersor_load_layer; 2: read it with tersor_read_tensor */
} tersor_tensor;

TERSOR_API uint32_t tersor_abi_version(void);

/* The library's version, e.g. "0.1.0". */
TERSOR_API const char* tersor_library_version(void);

/* What went wrong last in this thread: valid until the next failure in it; "" before the first. */
TERSOR_API const char* tersor_last_error(void);

/* The level of instructions in use, e.g. "avx2": the best of this machine unless the environment
 * variable TERSOR_ISA or tersor_use_isa named another. TERSOR_BAD_ARGUMENT where TERSOR_ISA names
 * none of this machine's, as from every function that then needs it. *name, which lives for ever,
 * is NULL after a failure. */
TERSOR_API int tersor_isa_in_use(const char** name);
/* Selects a level for every later call of the process; a matrix keeps the one that it has. */
TERSOR_API int tersor_use_isa(const char* name);

/* Opens a file, checks its structure and every hash. *file is NULL after a failure. */
TERSOR_API int tersor_open(const char* path, tersor_file** file);
TERSOR_API void tersor_close(tersor_file* file);

TERSOR_API size_t tersor_tensor_count(const tersor_file* file);
/* index < tersor_tensor_count(file), or TERSOR_NOT_FOUND. struct_size is sizeof *tensor; all of it
 * is zero after a failure. */
TERSOR_API int tersor_get_tensor(const tersor_file* file, size_t index, tersor_tensor* tensor,
                                 size_t struct_size);
/* By its whole name; else as tersor_get_tensor. */
TERSOR_API int tersor_find_tensor(const tersor_file* file, const char* name, tersor_tensor* tensor,
                                  size_t struct_size);

/* What tersor_read_tensor writes of a tensor that is no layer's. */
typedef struct tersor_dense {
    const char* dtype; /* as safetensors names it; lives for ever */
    uint64_t shape[8]; /* [dimensions] */
    size_t dimensions;
    size_t size; /* in bytes */
} tersor_dense;

/* Of a tensor of at most 8 dimensions that is stored as it is or without loss; the latter also by
 * its name without "_blob". struct_size is sizeof *dense; all of it is zero after a failure. */
TERSOR_API int tersor_describe_dense(const tersor_file* file, const char* name, tersor_dense* dense,
                                     size_t struct_size);
/* Its elements, little-endian and row-major: `size` bytes from byte `first` on, both multiples of
 * its element. With at most `threads` threads. */
TERSOR_API int tersor_read_tensor(const tersor_file* file, const char* name, size_t first,
                                  void* bytes, size_t size, int threads);

/* Decodes a compressed tensor and lays it out for this processor, with at most `threads` threads: a
 * matrix of its first dimension by the product of the others. max_bytes bounds what decoding and
 * laying out may hold together: a tensor that may take more is refused before it is laid out, as
 * TERSOR_BAD_DATA. 0 stands for a bound that follows from the tensor's size in the file, 1 GB and
 * 256 bytes for each of its bytes, and SIZE_MAX for none. *matrix is NULL after a failure. */
TERSOR_API int tersor_load_layer(const tersor_file* file, const char* name, size_t max_bytes,
                                 int threads, tersor_matrix** matrix);
TERSOR_API void tersor_free_matrix(tersor_matrix* matrix);

TERSOR_API size_t tersor_rows(const tersor_matrix* matrix);
TERSOR_API size_t tersor_cols(const tersor_matrix* matrix);
TERSOR_API size_t tersor_nonzeros(const tersor_matrix* matrix);
/* All memory that it holds now, in bytes. Products may add a layout that they need. */
TERSOR_API size_t tersor_nbytes(const tersor_matrix* matrix);

/* y = x W^T + bias for x [batch, cols] and y [batch, rows], both row-major and apart from each
 * other; bias is NULL or has [rows] elements; precision is one of tersor_precision. */
TERSOR_API int tersor_multiply(const tersor_matrix* matrix, const float* x, size_t batch,
                               const float* bias, float* y, int precision, int threads);

/* A convolution as torch.nn.Conv2d has it, with zeros as padding; height and width each. The
 * matrix of the filters has in_channels / groups * kernel[0] * kernel[1] columns. */
typedef struct tersor_geometry {
    uint32_t in_channels;
    uint32_t groups;
    uint32_t input[2];
    uint32_t kernel[2];
    uint32_t stride[2];
    uint32_t padding[2];
    uint32_t dilation[2];
} tersor_geometry;

/* Height and width of the output; zeros after a failure. */
TERSOR_API int tersor_output_size(const tersor_geometry* geometry, uint32_t size[2]);
/* y = conv(x, W) + bias for x [batch, in_channels, height, width] and y [batch, rows, height',
 * width'], apart from each other; bias and precision as for tersor_multiply. What a geometry needs
 * is made by the first call and kept with the matrix. */
TERSOR_API int tersor_convolve(const tersor_matrix* filters, const tersor_geometry* geometry,
                               const float* x, size_t batch, const float* bias, float* y,
                               int precision, int threads);

/* The cells of recurrent layers; gates are the rows of the weights, in the order of torch's. */
enum tersor_cell { TERSOR_RNN_TANH = 0, TERSOR_RNN_RELU = 1, TERSOR_LSTM = 2, TERSOR_GRU = 3 };

/* One layer of a recurrent network in one direction: over `batch` sequences of `steps` inputs, from
 * the last to the first where `reversed` is not 0. With G gates of H elements and states of O
 * elements, which are H unless they are projected: `input` is [G * H, inputs], `hidden` [G * H, O],
 * `projection` NULL or, of an LSTM, [O, H]; each bias is NULL or has [G * H] elements. x is [steps,
 * batch, inputs] and y [steps, batch, O]; h [batch, O] and, of an LSTM, c [batch, H] hold the
 * states before and are overwritten with those after. Nothing overlaps. */
TERSOR_API int tersor_run_recurrent(int cell, const tersor_matrix* input,
                                    const tersor_matrix* hidden, const tersor_matrix* projection,
                                    const float* input_bias, const float* hidden_bias,
                                    const float* x, size_t steps, size_t batch, int reversed,
                                    float* h, float* c, float* y, int precision, int threads);

#ifdef __cplusplus
}
#endif

#endif
