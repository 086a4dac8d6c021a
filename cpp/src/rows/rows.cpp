#include "tersor/rows.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "rows/kernels.hpp"
#include "rows/layout.hpp"
#include "support/checked_size.hpp"
#include "support/prefetch.hpp"
#include "support/scratch.hpp"
#include "tersor/parallel.hpp"

namespace tersor {

PackedRows::PackedRows() noexcept = default;
PackedRows::PackedRows(std::unique_ptr<const Layout> layout) noexcept
    : layout_(std::move(layout)) {}
PackedRows::PackedRows(PackedRows&&) noexcept = default;
PackedRows& PackedRows::operator=(PackedRows&&) noexcept = default;
PackedRows::~PackedRows() = default;

const PackedRows::Layout& PackedRows::layout() const noexcept {
    static const Layout none;
    return layout_ == nullptr ? none : *layout_;
}

std::uint32_t PackedRows::rows() const noexcept { return layout().rows; }
std::uint32_t PackedRows::cols() const noexcept { return layout().cols; }
int PackedRows::bits() const noexcept { return layout().codebook.bits; }
std::size_t PackedRows::codebook_size() const noexcept { return layout().codebook_size; }
Isa PackedRows::isa() const noexcept { return layout().isa; }

std::size_t PackedRows::nbytes() const noexcept {
    const Layout& layout = this->layout();
    std::size_t bytes = sizeof(Layout);
    if (layout.codes != nullptr) bytes += layout.codes->bytes.nbytes();
    if (layout.factors != nullptr) bytes += layout.factors->nbytes();
    return bytes;
}

namespace rows {
namespace {

bool is_codebook(std::span<const float> codebook) {
    return !codebook.empty() && codebook.size() <= 256 && codebook[0] == 0.0F;
}

bool is_finite(float value) { return std::isfinite(value); }

Codebook codebook_of(std::span<const float> values) {
    Codebook codebook;
    codebook.bits = std::max(1, static_cast<int>(std::bit_width(values.size() - 1)));
    for (std::size_t i = 0; i < values.size(); ++i) {
        codebook.values[i] = values[i];
        const auto word = std::bit_cast<std::uint32_t>(values[i]);
        for (int p = 0; p < 4; ++p) {
            codebook.planes[p][i] = static_cast<std::uint8_t>(word >> (8 * p));
        }
    }
    for (std::size_t i = 0; i < Codebook::lanes; ++i) {
        const auto bits = static_cast<std::size_t>(codebook.bits);
        codebook.spread[i] = static_cast<std::uint8_t>(i / group * bits + i % group);
        codebook.shifts[i] = static_cast<std::uint8_t>(i % group * bits);
    }
    return codebook;
}

/// Writes codes of a byte each as codes of `bits` bits.
void pack_row(const std::uint8_t* codes, std::size_t size, int bits, std::uint8_t* out) {
    for (std::size_t i = 0; i < size; i += group) {
        std::uint64_t word = 0;
        for (std::size_t j = 0; j < std::min(group, size - i); ++j) {
            word |= std::uint64_t{codes[i + j]} << (j * static_cast<std::size_t>(bits));
        }
        for (int b = 0; b < bits; ++b) *out++ = static_cast<std::uint8_t>(word >> (8 * b));
    }
}

std::shared_ptr<const Codes> pack_codes(std::span<const std::uint8_t> codes, std::size_t rows,
                                        std::size_t cols, int bits, int threads) {
    Codes packed;
    packed.stride = (cols + group - 1) / group * static_cast<std::size_t>(bits);
    const auto size = support::checked_product(rows, packed.stride);
    if (!size.has_value()) support::throw_bad_alloc();
    packed.bytes = support::AlignedBuffer<std::uint8_t>(*size, support::Fill::none);
    std::uint8_t* const bytes = packed.bytes.data();
    // What is read behind the last row is never used, and still not to be anything.
    std::memset(bytes + *size, 0, packed.bytes.nbytes() - *size);
    parallel_for(rows, std::size_t{1} + (1U << 16) / (cols + 1), threads,
                 [&](std::size_t begin, std::size_t end) {
                     for (std::size_t r = begin; r < end; ++r) {
                         pack_row(codes.data() + r * cols, cols, bits, bytes + r * packed.stride);
                     }
                 });
    return std::make_shared<const Codes>(std::move(packed));
}

/// Rounds to the nearest, ties to even; a NaN cannot come from finite values and factors.
BFloat16 to_bfloat16(float value) noexcept {
    const auto word = std::bit_cast<std::uint32_t>(value);
    return {static_cast<std::uint16_t>((word + 0x7FFFU + ((word >> 16) & 1U)) >> 16)};
}

}  // namespace

Result pack(const RelativeCsr& csr, std::span<const float> codebook, PackedRows& packed,
            std::span<const float> factors, int threads) {
    if (!is_codebook(codebook)) {
        throw std::invalid_argument("a codebook has 1 to 256 values, of which the first is 0");
    }
    if (!factors.empty() && factors.size() != csr.rows) {
        throw std::invalid_argument("there must be a factor for each row, or none");
    }
    for (const std::span<const float> values : {codebook, factors}) {
        const auto found = std::find_if_not(values.begin(), values.end(), is_finite);
        if (found != values.end()) {
            return {Status::not_finite, static_cast<std::size_t>(found - values.begin())};
        }
    }
    const Result size = csr::dense_size(csr);
    if (!size.ok()) return size;
    std::vector<std::uint8_t> codes(size.count);
    const Result decoded = csr::decode(csr, codes);
    if (!decoded.ok()) return decoded;
    const auto past = [&](std::uint8_t code) { return code >= codebook.size(); };
    const auto first = std::find_if(csr.codes.begin(), csr.codes.end(), past);
    if (first != csr.codes.end()) {
        return {Status::code_past_codebook, static_cast<std::size_t>(first - csr.codes.begin())};
    }
    auto layout = std::make_unique<PackedRows::Layout>();
    layout->isa = isa_in_use();
    layout->rows = csr.rows;
    layout->cols = csr.cols;
    layout->codebook_size = codebook.size();
    layout->codebook = codebook_of(codebook);
    layout->codes = pack_codes(codes, csr.rows, csr.cols, layout->codebook.bits, threads);
    if (!factors.empty()) {
        support::AlignedBuffer<float> kept(factors.size());
        std::copy(factors.begin(), factors.end(), kept.data());
        layout->factors = std::make_shared<const support::AlignedBuffer<float>>(std::move(kept));
    }
    packed = PackedRows(std::move(layout));
    return decoded;
}

std::optional<std::size_t> look_up(const PackedRows& packed, std::span<const std::int64_t> indices,
                                   FloatSpan out, int threads) {
    const PackedRows::Layout& layout = packed.layout();
    const std::size_t cols = layout.cols;
    const auto size = support::checked_product(indices.size(), cols);
    if (!size.has_value() || out.size != *size) {
        throw std::invalid_argument("the output has " + std::to_string(out.size) +
                                    " elements, and not a row for each index");
    }
    const auto wrong = [&](std::int64_t i) { return i < 0 || i >= std::int64_t{layout.rows}; };
    const auto first = std::find_if(indices.begin(), indices.end(), wrong);
    if (first != indices.end()) return static_cast<std::size_t>(first - indices.begin());
    if (*size == 0) return std::nullopt;
    const DecodeRow decode = kernels(layout.isa).decode_row;
    const std::size_t stride = layout.codes->stride;
    const auto codes_of = [&](std::size_t i) {
        return layout.codes->bytes.data() + static_cast<std::size_t>(indices[i]) * stride;
    };
    const bool narrow = out.type == FloatType::bfloat16;
    parallel_for(indices.size(), std::size_t{1} + (1U << 15) / (cols + 1), threads,
                 [&](std::size_t begin, std::size_t end) {
                     const support::Scratch<float> wide(narrow ? cols : 0);
                     for (std::size_t i = begin; i < end; ++i) {
                         if (i + 1 < end) {  // rows stand anywhere in memory
                             support::prefetch(codes_of(i + 1), stride);
                         }
                         const float factor = layout.factors == nullptr
                                                  ? 1.0F
                                                  : (*layout.factors).data()[indices[i]];
                         if (!narrow) {
                             decode(codes_of(i), layout.codebook, factor, cols,
                                    static_cast<float*>(out.data) + i * cols);
                             continue;
                         }
                         decode(codes_of(i), layout.codebook, factor, cols, wide.data());
                         std::transform(wide.data(), wide.data() + cols,
                                        static_cast<BFloat16*>(out.data) + i * cols, to_bfloat16);
                     }
                 });
    return std::nullopt;
}

}  // namespace rows

PackedRows PackedRows::with_codebook(std::span<const float> codebook) const {
    const Layout& source = layout();
    if (!rows::is_codebook(codebook) || codebook.size() != source.codebook_size ||
        !std::all_of(codebook.begin(), codebook.end(), rows::is_finite)) {
        throw std::invalid_argument("the new codebook does not have " +
                                    std::to_string(source.codebook_size) +
                                    " finite values, of which the first is 0");
    }
    auto packed = std::make_unique<Layout>(source);
    packed->codebook = rows::codebook_of(codebook);
    return PackedRows(std::move(packed));
}

}  // namespace tersor
