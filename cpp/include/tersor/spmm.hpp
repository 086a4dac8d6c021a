// Products of a compressed matrix with dense activations, straight from codes and codebook.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "tersor/csr.hpp"
#include "tersor/epilogue.hpp"
#include "tersor/isa.hpp"
#include "tersor/status.hpp"

namespace tersor {

/// Error classes, named after torch.set_float32_matmul_precision, from the tightest bound to the
/// loosest: docs/kernels has the constants and the kernels that meet them.
enum class Precision : std::uint8_t {
    highest,  // |y - y_ref| <= c * eps * sum |w||x|, the bound of fp32 arithmetic
    high,     // this and the others: |y - y_ref| <= c_p * max|x| * sum |w|
    medium,
    low,  // the class of dynamic int8 quantisation
};

/// What a matrix is laid out for first; it serves both.
enum class LayoutHint : std::uint8_t {
    vector,  // products with one to a few vectors
    batch,   // products with many vectors, and convolutions
};

/// A matrix laid out for the kernels of one instruction set: never saved, rebuilt on load. A second
/// layout, where a product needs one, is made when it is first needed and kept. Any number of
/// threads may multiply with one matrix at once.
class PackedMatrix {
public:
    struct Layout;  // defined in cpp/src/spmm/packed_matrix.hpp

    /// Without rows or columns, as a matrix is that was moved from.
    PackedMatrix() noexcept;
    explicit PackedMatrix(std::unique_ptr<Layout> layout) noexcept;
    PackedMatrix(PackedMatrix&&) noexcept;
    PackedMatrix& operator=(PackedMatrix&&) noexcept;
    ~PackedMatrix();

    [[nodiscard]] std::uint32_t rows() const noexcept;
    [[nodiscard]] std::uint32_t cols() const noexcept;
    [[nodiscard]] std::size_t nonzeros() const noexcept;
    /// All memory held now, in bytes: every layout made so far, tables and padding included.
    [[nodiscard]] std::size_t nbytes() const noexcept;
    [[nodiscard]] Isa isa() const noexcept;
    /// Values of the codebook, the zero of code 0 included; 0 where weights are not shared.
    [[nodiscard]] std::size_t codebook_size() const noexcept;

    /// Factors of the rows and of the columns: with them the matrix is row_factors[r] * Q[r, k] *
    /// column_factors[k], Q being what was packed, and products are row_factors * (Q
    /// (column_factors
    /// * x)). Either is empty, which stands for ones, or has a finite factor for each. To be set
    /// before anything is computed. Throws std::invalid_argument where a size or a factor is wrong.
    void set_factors(std::span<const float> row_factors, std::span<const float> column_factors);
    [[nodiscard]] std::span<const float> row_factors() const noexcept;
    [[nodiscard]] std::span<const float> column_factors() const noexcept;

    /// The same matrix with its factors multiplied into values of their own, which are not shared:
    /// itself where it has none; else made when first asked for, kept, and counted.
    [[nodiscard]] const PackedMatrix& with_factors_inside() const;

    /// The matrix [cols, rows] for gradients: made when first asked for, kept, and counted.
    [[nodiscard]] const PackedMatrix& transposed() const&;
    const PackedMatrix& transposed() const&& = delete;

    /// The same codes with other values, for training these. What depends on codes alone is shared
    /// with this matrix and not copied. Throws std::invalid_argument where the codebook is not of
    /// this one's size, does not begin with 0 or holds what is not finite.
    [[nodiscard]] PackedMatrix with_codebook(std::span<const float> codebook) const;

    /// Writes the dense matrix, row-major, into `out` [rows * cols]; throws std::invalid_argument
    /// when it has another size.
    void unpack(std::span<float> out) const;

    [[nodiscard]] const Layout& layout() const noexcept;

private:
    std::unique_ptr<Layout> layout_;  // none of an empty matrix
};

namespace spmm {

/// What a matrix will be used for most.
struct Use {
    std::size_t batch = 1;
    Precision precision = Precision::high;
};

/// The layout hint that serves a use best on the instruction set in use: docs/kernels has the
/// rule, which goes by batch, class, density and the size of the codebook, and how it was measured.
[[nodiscard]] LayoutHint layout_hint_for(const RelativeCsr& csr, std::size_t codebook_size,
                                         Use use);

/// The only door from untrusted codes to a kernel: validates everything, drops fillers, and lays
/// the matrix out for the instruction set in use. `codebook[code]` is the value of a code;
/// `codebook[0]` must be 0. Errors: those of csr::validate, code_past_codebook, not_finite.
[[nodiscard]] Result pack(const RelativeCsr& csr, std::span<const float> codebook,
                          PackedMatrix& packed, LayoutHint layout_hint = LayoutHint::vector,
                          int threads = 1);

/// The same for a matrix that is pruned but not shared: `values` holds one value for each non-zero
/// code in the order of the entries (the codes are then only 0 or 1).
[[nodiscard]] Result pack_values(const RelativeCsr& csr, std::span<const float> values,
                                 PackedMatrix& packed);

/// y = activation(x W^T + bias + residual) for x [batch, cols] and y [batch, rows], both row-major
/// and of either type; x and the residual do not overlap y. The activation is applied piece by
/// piece, while the products are in cache. As in a dense layer, an activation of x that is NaN or
/// infinite makes every output of its vector NaN whose weight for it was pruned. Factors of columns
/// are multiplied with x, and factors of rows with the products, each rounded to fp32: the bounds
/// of the classes are for that x and for the matrix without its factors. Where no kernel meets the
/// class for this matrix and its instruction set, a more precise one runs. Throws
/// std::invalid_argument when a view has the wrong size.
void multiply(const PackedMatrix& packed, FloatView x, std::size_t batch, const Epilogue& epilogue,
              FloatSpan y, Precision precision = Precision::high, int threads = 1);

/// The same in fp32 with no more than a bias, which is empty or has `rows` elements.
void multiply(const PackedMatrix& packed, std::span<const float> x, std::size_t batch,
              std::span<const float> bias, std::span<float> y,
              Precision precision = Precision::high, int threads = 1);

/// Makes what products with `batch` vectors in this class are computed from, on `threads` threads,
/// so that the first of them does not wait for it. Products with other numbers of vectors, or of
/// vectors that are not finite, may still make another layout when they come.
void prepare(const PackedMatrix& packed, std::size_t batch, Precision precision = Precision::high,
             int threads = 1);

/// A way to compute products, one of those that `multiply` chooses among.
struct KernelInfo {
    std::string_view name;
    Isa isa;
    LayoutHint layout_hint;  // what it is for
};

/// All of them, on the levels that this machine has.
[[nodiscard]] std::vector<KernelInfo> kernel_list();

/// y = x W^T in fp32 by the kernel of this name and the matrix's own level, whatever its error is
/// and whether it is the best: for measuring. The layout that it needs is made by the first call.
/// Throws std::invalid_argument where there is no such kernel for the matrix, a vector does not fit
/// it (a fixed-point kernel: what is not finite), or a span has the wrong size.
void multiply_by(std::string_view kernel, const PackedMatrix& packed, std::span<const float> x,
                 std::size_t batch, std::span<float> y, int threads = 1);

/// The gradient of the codebook: sums[c] = sum over the weights of code c, in the rows
/// [row_begin, row_begin + rows), of gradient[n, row - row_begin] * x[n, column], and over n.
/// x is [batch, cols], `gradient` [batch, rows], `sums` [codebook_size]; that of code 0 is 0.
/// Chains of additions in fp32 are kept short; NaN and infinity count where weights are kept alone.
/// Throws std::invalid_argument when weights are not shared or a span has the wrong size.
void sum_by_code(const PackedMatrix& packed, std::span<const float> x,
                 std::span<const float> gradient, std::size_t batch, std::size_t row_begin,
                 std::size_t rows, std::span<float> sums, int threads = 1);

}  // namespace spmm
}  // namespace tersor
