// The C interface over the C++ one: exceptions and results become status codes and a text.
#include "tersor/c_api.h"

#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "tersor/container.hpp"
#include "tersor/pack_layer.hpp"
#include "tersor/version.hpp"

struct tersor_file {
    tersor::File file;
};

struct tersor_matrix {
    tersor::PackedMatrix packed;
};

namespace {

using tersor::Result;
using tersor::Status;

std::string& last_error() {
    thread_local std::string text;
    return text;
}

int fail(int status, const char* text) noexcept {
    try {
        last_error() = text;
    } catch (...) {
        last_error().clear();
    }
    return status;
}

/// Runs `body`, which throws what goes wrong.
template <class Body>
int guarded(const Body& body) noexcept {
    try {
        body();
        return TERSOR_OK;
    } catch (const tersor::FormatError& error) {
        const bool io = error.result().status == Status::io_error;
        return fail(io ? TERSOR_IO_ERROR : TERSOR_BAD_DATA, error.what());
    } catch (const std::invalid_argument& error) {
        return fail(TERSOR_BAD_ARGUMENT, error.what());
    } catch (const std::system_error& error) {
        return fail(TERSOR_IO_ERROR, error.what());
    } catch (const std::bad_alloc&) {
        return fail(TERSOR_NO_MEMORY, "out of memory");
    } catch (const std::exception& error) {
        return fail(TERSOR_INTERNAL_ERROR, error.what());
    } catch (...) {
        return fail(TERSOR_INTERNAL_ERROR, "unknown failure");
    }
}

void require(bool good, const char* what) {
    if (!good) throw std::invalid_argument(what);
}

void describe(const tersor::TensorView& view, tersor_tensor& tensor) noexcept {
    tensor = {view.name.c_str(), view.dtype.c_str(), view.shape.data(),      view.shape.size(),
              view.bytes.data(), view.bytes.size(),  view.compressed ? 1 : 0};
}

const tersor::TensorView& find(const tersor_file& file, const char* name) {
    const tersor::TensorView* view = file.file.find(name);
    if (view == nullptr) {
        throw std::invalid_argument(std::string("the file has no tensor '") + name + "'");
    }
    return *view;
}

tersor::PackedMatrix load(const tersor::TensorView& view, std::size_t max_bytes) {
    require(view.compressed, "the tensor is not compressed");
    tersor::PackedMatrix packed;
    Result result = tersor::pack_layer(view.bytes, packed, max_bytes);
    if (!result.ok()) result.count += view.offset;
    tersor::throw_if_error(result, view.name);
    return packed;
}

}  // namespace

uint32_t tersor_abi_version(void) { return TERSOR_ABI_VERSION; }

const char* tersor_library_version(void) { return TERSOR_VERSION; }

const char* tersor_last_error(void) { return last_error().c_str(); }

int tersor_open(const char* path, tersor_file** file) {
    if (file != nullptr) *file = nullptr;
    return guarded([&] {
        require(path != nullptr && file != nullptr, "tersor_open: an argument is NULL");
        auto opened = std::make_unique<tersor_file>();
        tersor::throw_if_error(tersor::File::open(path, opened->file), path);
        tersor::throw_if_error(opened->file.verify(), path);
        *file = opened.release();
    });
}

void tersor_close(tersor_file* file) { delete file; }

size_t tersor_tensor_count(const tersor_file* file) {
    return file != nullptr ? file->file.tensors().size() : 0;
}

int tersor_get_tensor(const tersor_file* file, size_t index, tersor_tensor* tensor) {
    return guarded([&] {
        require(file != nullptr && tensor != nullptr, "tersor_get_tensor: an argument is NULL");
        require(index < file->file.tensors().size(), "tersor_get_tensor: no such index");
        describe(file->file.tensors()[index], *tensor);
    });
}

int tersor_find_tensor(const tersor_file* file, const char* name, tersor_tensor* tensor) {
    return guarded([&] {
        require(file != nullptr && name != nullptr && tensor != nullptr,
                "tersor_find_tensor: an argument is NULL");
        describe(find(*file, name), *tensor);
    });
}

int tersor_load_layer(const tersor_file* file, const char* name, size_t max_bytes,
                      tersor_matrix** matrix) {
    if (matrix != nullptr) *matrix = nullptr;
    return guarded([&] {
        require(file != nullptr && name != nullptr && matrix != nullptr,
                "tersor_load_layer: an argument is NULL");
        auto loaded = std::make_unique<tersor_matrix>();
        loaded->packed = load(find(*file, name), max_bytes != 0 ? max_bytes : SIZE_MAX);
        *matrix = loaded.release();
    });
}

void tersor_free_matrix(tersor_matrix* matrix) { delete matrix; }

size_t tersor_rows(const tersor_matrix* matrix) {
    return matrix != nullptr ? matrix->packed.rows() : 0;
}

size_t tersor_cols(const tersor_matrix* matrix) {
    return matrix != nullptr ? matrix->packed.cols() : 0;
}

size_t tersor_nonzeros(const tersor_matrix* matrix) {
    return matrix != nullptr ? matrix->packed.nonzeros() : 0;
}

int tersor_multiply(const tersor_matrix* matrix, const float* x, size_t batch, const float* bias,
                    float* y, enum tersor_precision precision, int threads) {
    return guarded([&] {
        require(matrix != nullptr, "tersor_multiply: the matrix is NULL");
        require(precision >= TERSOR_HIGHEST && precision <= TERSOR_LOW,
                "tersor_multiply: no such precision");
        const std::size_t rows = matrix->packed.rows();
        const std::size_t cols = matrix->packed.cols();
        const std::size_t widest = rows > cols ? rows : cols;
        require(widest == 0 || batch <= PTRDIFF_MAX / sizeof(float) / widest,
                "tersor_multiply: the batch is larger than memory");
        require((x != nullptr || batch * cols == 0) && (y != nullptr || batch * rows == 0),
                "tersor_multiply: x or y is NULL");
        tersor::spmm::multiply(matrix->packed, {x, batch * cols}, batch,
                               {bias, bias != nullptr ? rows : 0}, {y, batch * rows},
                               static_cast<tersor::Precision>(precision), threads);
    });
}
