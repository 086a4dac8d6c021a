// The C interface over the C++ one: exceptions and results become status codes and a text.
#include "tersor/c_api.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <iterator>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "support/checked_size.hpp"
#include "support/element_types.hpp"
#include "tersor/container.hpp"
#include "tersor/conv.hpp"
#include "tersor/isa.hpp"
#include "tersor/lossless.hpp"
#include "tersor/pack_layer.hpp"
#include "tersor/recurrent.hpp"
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

/// The file has no such tensor.
class NotFound : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// Runs `body`, which throws what goes wrong.
template <class Body>
int guarded(const Body& body) noexcept {
    try {
        body();
        return TERSOR_OK;
    } catch (const tersor::FormatError& error) {
        const bool io = error.result().status == Status::io_error;
        return fail(io ? TERSOR_IO_ERROR : TERSOR_BAD_DATA, error.what());
    } catch (const NotFound& error) {
        return fail(TERSOR_NOT_FOUND, error.what());
    } catch (const std::invalid_argument& error) {
        return fail(TERSOR_BAD_ARGUMENT, error.what());
    } catch (const std::system_error& error) {
        return fail(TERSOR_IO_ERROR, error.what());
    } catch (const std::bad_alloc&) {
        return fail(TERSOR_NO_MEMORY, "out of memory");
    } catch (const std::length_error&) {
        return fail(TERSOR_NO_MEMORY, "more than memory can hold");
    } catch (const std::exception& error) {
        return fail(TERSOR_INTERNAL_ERROR, error.what());
    } catch (...) {
        return fail(TERSOR_INTERNAL_ERROR, "unknown failure");
    }
}

tersor::conv::Geometry geometry_of(const tersor_geometry& g) noexcept {
    const auto pair = [](const std::uint32_t (&values)[2]) {
        return tersor::conv::Pair{values[0], values[1]};
    };
    return {g.in_channels,  g.groups,        pair(g.input),   pair(g.kernel),
            pair(g.stride), pair(g.padding), pair(g.dilation)};
}

void require(bool good, const char* what) {
    if (!good) throw std::invalid_argument(what);
}

/// Describes the tensor that `find()` returns, if there is room for all fields. All is zero first.
template <class Find>
int describe(tersor_tensor* tensor, std::size_t struct_size, const Find& find) noexcept {
    const bool fits = tensor != nullptr && struct_size >= sizeof *tensor;
    if (fits) std::memset(static_cast<void*>(tensor), 0, struct_size);
    return guarded([&] {
        require(tensor != nullptr, "the tensor is NULL");
        require(fits, "struct_size is less than sizeof(tersor_tensor)");
        const tersor::TensorView& view = find();
        *tensor = {view.name.c_str(),
                   view.dtype.c_str(),
                   view.shape.data(),
                   view.shape.size(),
                   view.bytes.data(),
                   view.bytes.size(),
                   view.lossless     ? 2
                   : view.compressed ? 1
                                     : 0};
    });
}

const tersor::TensorView& find(const tersor_file* file, const char* name) {
    require(file != nullptr, "the file is NULL");
    require(name != nullptr, "the name is NULL");
    const tersor::TensorView* view = file->file.find(name);
    if (view == nullptr) throw NotFound(std::string("the file has no tensor '") + name + "'");
    return *view;
}

/// The same; one that is stored without loss also by its name in the model.
const tersor::TensorView& find_dense(const tersor_file* file, const char* name) {
    require(file != nullptr, "the file is NULL");
    require(name != nullptr, "the name is NULL");
    const std::string blob = name + std::string(tersor::blob_suffix);
    const tersor::TensorView* view = file->file.find(blob);
    if (view == nullptr || !view->lossless) view = &find(file, name);
    require(!view->compressed || view->lossless, "the tensor is a compressed layer");
    return *view;
}

tersor::lossless::BlobInfo dense_info(const tersor::TensorView& view) {
    tersor::lossless::BlobInfo info;
    if (!view.lossless) {
        info.dtype = view.dtype;
        info.shape = view.shape;
        info.bytes = view.bytes.size();
        return info;
    }
    Result result = tersor::lossless::inspect(view.bytes, info);
    if (!result.ok()) result.count += view.offset;
    tersor::throw_if_error(result, view.name);
    return info;
}

tersor::PackedMatrix load(const tersor::TensorView& view, std::optional<std::size_t> max_bytes,
                          int threads) {
    require(view.compressed && !view.lossless, "the tensor is no compressed layer");
    tersor::PackedMatrix packed;
    Result result = tersor::pack_layer(view.bytes, packed, max_bytes, threads);
    if (!result.ok()) result.count += view.offset;
    tersor::throw_if_error(result, view.name);
    return packed;
}

}  // namespace

uint32_t tersor_abi_version(void) { return TERSOR_ABI_VERSION; }

const char* tersor_library_version(void) { return TERSOR_VERSION; }

const char* tersor_last_error(void) { return last_error().c_str(); }

int tersor_isa_in_use(const char** name) {
    if (name != nullptr) *name = nullptr;
    return guarded([&] {
        require(name != nullptr, "tersor_isa_in_use: the name is NULL");
        *name = tersor::name(tersor::isa_in_use()).data();
    });
}

int tersor_use_isa(const char* name) {
    return guarded([&] {
        require(name != nullptr, "tersor_use_isa: the name is NULL");
        const auto isa = tersor::isa_from_name(name);
        if (!isa.has_value()) {
            throw std::invalid_argument(std::string("unknown instruction set '") + name + "'");
        }
        tersor::use_isa(*isa);
    });
}

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

int tersor_get_tensor(const tersor_file* file, size_t index, tersor_tensor* tensor,
                      size_t struct_size) {
    return describe(tensor, struct_size, [&]() -> const tersor::TensorView& {
        require(file != nullptr, "the file is NULL");
        const std::vector<tersor::TensorView>& tensors = file->file.tensors();
        if (index < tensors.size()) return tensors[index];
        throw NotFound("the file has " + std::to_string(tensors.size()) + " tensors, and none " +
                       std::to_string(index));
    });
}

int tersor_find_tensor(const tersor_file* file, const char* name, tersor_tensor* tensor,
                       size_t struct_size) {
    return describe(tensor, struct_size,
                    [&]() -> const tersor::TensorView& { return find(file, name); });
}

int tersor_describe_dense(const tersor_file* file, const char* name, tersor_dense* dense,
                          size_t struct_size) {
    const bool fits = dense != nullptr && struct_size >= sizeof *dense;
    if (fits) std::memset(static_cast<void*>(dense), 0, struct_size);
    return guarded([&] {
        require(fits, "dense is NULL, or struct_size less than sizeof(tersor_dense)");
        const tersor::lossless::BlobInfo info = dense_info(find_dense(file, name));
        require(info.shape.size() <= std::size(dense->shape), "more than 8 dimensions");
        const std::uint8_t type = tersor::support::element_code(info.dtype);
        dense->dtype = tersor::support::element_types[type - 1U].name.data();
        std::copy(info.shape.begin(), info.shape.end(), dense->shape);
        dense->dimensions = info.shape.size();
        dense->size = static_cast<std::size_t>(info.bytes);
    });
}

int tersor_read_tensor(const tersor_file* file, const char* name, size_t first, void* bytes,
                       size_t size, int threads) {
    return guarded([&] {
        const tersor::TensorView& view = find_dense(file, name);
        const tersor::lossless::BlobInfo info = dense_info(view);
        const std::uint64_t element = tersor::support::element_bytes(info.dtype);
        require(element > 0, "the tensor has an unknown type");
        require(first <= info.bytes && size <= info.bytes - first && first % element == 0 &&
                    size % element == 0,
                "the tensor has no such bytes");
        require(bytes != nullptr || size == 0, "tersor_read_tensor: bytes is NULL");
        if (size == 0) return;
        const std::span to(static_cast<std::uint8_t*>(bytes), size);
        if (!view.lossless) {
            std::memcpy(to.data(), view.bytes.data() + first, size);
            return;
        }
        Result result = tersor::lossless::decode_range(view.bytes, first, to, {.threads = threads});
        if (!result.ok()) result.count += view.offset;
        tersor::throw_if_error(result, view.name);
    });
}

int tersor_load_layer(const tersor_file* file, const char* name, size_t max_bytes, int threads,
                      tersor_matrix** matrix) {
    if (matrix != nullptr) *matrix = nullptr;
    return guarded([&] {
        require(matrix != nullptr, "tersor_load_layer: the matrix is NULL");
        auto loaded = std::make_unique<tersor_matrix>();
        const auto limit = max_bytes != 0 ? std::optional(max_bytes) : std::nullopt;
        loaded->packed = load(find(file, name), limit, threads);
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

size_t tersor_nbytes(const tersor_matrix* matrix) {
    return matrix != nullptr ? matrix->packed.nbytes() : 0;
}

int tersor_multiply(const tersor_matrix* matrix, const float* x, size_t batch, const float* bias,
                    float* y, int precision, int threads) {
    return guarded([&] {
        require(matrix != nullptr, "tersor_multiply: the matrix is NULL");
        require(precision >= TERSOR_HIGHEST && precision <= TERSOR_LOW,
                "tersor_multiply: no such precision");
        const std::size_t rows = matrix->packed.rows();
        const auto in = tersor::support::checked_product(batch, matrix->packed.cols());
        const auto out = tersor::support::checked_product(batch, rows);
        require(in.has_value() && out.has_value(),
                "tersor_multiply: the batch is larger than memory");
        require((x != nullptr || *in == 0) && (y != nullptr || *out == 0),
                "tersor_multiply: x or y is NULL");
        tersor::spmm::multiply(matrix->packed, {x, *in}, batch, {bias, bias != nullptr ? rows : 0},
                               {y, *out}, static_cast<tersor::Precision>(precision), threads);
    });
}

int tersor_output_size(const tersor_geometry* geometry, uint32_t size[2]) {
    return guarded([&] {
        require(size != nullptr, "tersor_output_size: size is NULL");
        size[0] = size[1] = 0;
        require(geometry != nullptr, "tersor_output_size: the geometry is NULL");
        const tersor::conv::Pair found = tersor::conv::output_size(geometry_of(*geometry));
        size[0] = found.h;
        size[1] = found.w;
    });
}

int tersor_convolve(const tersor_matrix* filters, const tersor_geometry* geometry, const float* x,
                    size_t batch, const float* bias, float* y, int precision, int threads) {
    return guarded([&] {
        require(filters != nullptr, "tersor_convolve: the filters are NULL");
        require(geometry != nullptr, "tersor_convolve: the geometry is NULL");
        require(precision >= TERSOR_HIGHEST && precision <= TERSOR_LOW,
                "tersor_convolve: no such precision");
        const tersor::conv::Geometry g = geometry_of(*geometry);
        const tersor::conv::Pair size = tersor::conv::output_size(g);
        const std::size_t rows = filters->packed.rows();
        const auto in =
            tersor::support::checked_product(batch, g.in_channels, g.input.h, g.input.w);
        const auto out = tersor::support::checked_product(batch, rows, size.h, size.w);
        require(in.has_value() && out.has_value(),
                "tersor_convolve: the batch is larger than memory");
        require((x != nullptr || *in == 0) && (y != nullptr || *out == 0),
                "tersor_convolve: x or y is NULL");
        tersor::conv::convolve(filters->packed, g, {x, *in}, batch,
                               {bias, bias != nullptr ? rows : 0}, {y, *out},
                               static_cast<tersor::Precision>(precision), threads);
    });
}

int tersor_run_recurrent(int cell, const tersor_matrix* input, const tersor_matrix* hidden,
                         const tersor_matrix* projection, const float* input_bias,
                         const float* hidden_bias, const float* x, size_t steps, size_t batch,
                         int reversed, float* h, float* c, float* y, int precision, int threads) {
    return guarded([&] {
        using tersor::support::checked_product;
        require(input != nullptr && hidden != nullptr, "tersor_run_recurrent: a matrix is NULL");
        require(cell >= TERSOR_RNN_TANH && cell <= TERSOR_GRU,
                "tersor_run_recurrent: no such cell");
        require(precision >= TERSOR_HIGHEST && precision <= TERSOR_LOW,
                "tersor_run_recurrent: no such precision");
        const auto kind = static_cast<tersor::recurrent::Cell>(cell);
        const std::size_t gates = input->packed.rows();
        const std::size_t width = gates / tersor::recurrent::gate_count(kind);
        const std::size_t outputs = hidden->packed.cols();
        const auto in = checked_product(steps, batch, input->packed.cols());
        const auto out = checked_product(steps, batch, outputs);
        const auto states = checked_product(batch, outputs);
        const auto cells =
            checked_product(batch, kind == tersor::recurrent::Cell::lstm ? width : 0);
        require(in.has_value() && out.has_value() && states.has_value() && cells.has_value() &&
                    std::in_range<std::int64_t>(batch),
                "tersor_run_recurrent: the sequences are larger than memory");
        require((x != nullptr || *in == 0) && (y != nullptr || *out == 0) &&
                    (h != nullptr || *states == 0) && (c != nullptr || *cells == 0),
                "tersor_run_recurrent: x, y, h or c is NULL");
        if (batch == 0) return;
        const std::vector<std::int64_t> sizes(steps, static_cast<std::int64_t>(batch));
        const auto bias_of = [gates](const float* bias) {
            return std::span<const float>(bias, bias != nullptr ? gates : 0);
        };
        const tersor::recurrent::Weights weights{
            input->packed, hidden->packed, projection != nullptr ? &projection->packed : nullptr,
            bias_of(input_bias), bias_of(hidden_bias)};
        // Without steps there is no first batch, and the states stay.
        if (steps == 0) return;
        tersor::recurrent::run(kind, weights, {sizes, reversed != 0}, {x, *in}, {h, *states},
                               {c, *cells}, {y, *out}, outputs,
                               static_cast<tersor::Precision>(precision), threads);
    });
}
